"""README.md and docs/: every program and command in them runs, and what they say of files is so."""

import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rnnfast.backends.cuda import kernel_table
from rnnfast.program.cli import main
from support.texts import skip_without_book

ROOT = Path(__file__).parents[1]
README, CHINESE = ROOT / "README.md", ROOT / "docs" / "README.zh.md"
PAGES = [README, ROOT / "tests" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Their commands install something: they run in an environment of their own.
INSTALLING = [README, ROOT / "docs" / "installing.md"]
# What the programs for an audience must have learnt, by what they leave.
LEARNT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "book": lambda made: made["generated"] == "one two three four five six seven eight n",
    "neuroscience": lambda made: bool(made["rightward"][0] < 0.1 and made["rightward"][-1] > 0.9),
    "reinforcement_learning": lambda made: made["correct"][-1] > 0.9,
    "time_series": lambda made: bool(
        (made["forecast"][40:-10] - made["measured"][50:]).square().mean() < 0.1  # of 0.5
    ),
}

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)")
_FILE = re.compile(r"[\w./-]+\.(?:py|cpp|h|cuh?|json)\b")
WRITTEN = {"metrics.json"}  # by a run
_VARIABLE = re.compile(r'"(RNNFAST_[A-Z_]+)"')


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page that are in one language."""
    return [code for found, code in _BLOCK.findall(page.read_text("utf-8")) if found == language]


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines()]


def is_slow(command: str) -> bool:
    """The kernels of an architecture are minutes of work for the compiler."""
    return command.startswith("rnnfast build")


def having(language: str) -> list[Path]:
    return [page for page in PAGES if page != CHINESE and blocks(page, language)]


def name(page: object) -> str | None:
    return page.relative_to(ROOT).as_posix() if isinstance(page, Path) else None


@pytest.mark.parametrize("page", having("python"), ids=name)
def test_programs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks are one program; one for an audience draws the page's picture."""
    program = "\n".join(blocks(page, "python"))
    if "time_machine" in program:
        skip_without_book()
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program, page.name, "exec"), made)
    if page.stem in LEARNT:
        assert LEARNT[page.stem](made)
        assert (tmp_path / f"{page.stem}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(pictures/{page.stem}.png)" in page.read_text("utf-8")
        lines = blocks(page, "python")[-1].splitlines()
        assert sum(line != "" for line in lines) <= 25


@pytest.mark.parametrize(
    "page", [page for page in having("sh") if page not in INSTALLING], ids=name
)
def test_commands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's, one after the other in one folder."""
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        if not is_slow(command):
            program, *words = shlex.split(command)
            assert (program, main(words)) == ("rnnfast", 0), command


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of the sources without what was built, and the variables of a new environment.

    The name of its folder has a space and a letter that is not ASCII.
    """
    folder = tmp_path_factory.mktemp("fresh")
    sources = folder / "deep learning für alle"
    built = (".git", ".venv", ".*_cache", "build", "dist", "*.so", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*built))
    # ruff heeds .gitignore in a repository alone
    subprocess.run(["git", "init", "--quiet", sources], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [folder / "venv" / "bin" / "pip", "install", "--quiet"]
    subprocess.run([*pip, "setuptools>=77", "ninja"], check=True)  # what the page takes for granted
    variables = {
        **os.environ,
        "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
        "PYTEST_ADDOPTS": "--collect-only -qq",  # this process runs the tests themselves
        "RNNFAST_REQUIRE": "native",
    }
    variables.pop("PYTHONPATH", None)
    return sources, variables


@pytest.mark.full
@pytest.mark.parametrize("page", INSTALLING, ids=name)
def test_installing(page: Path, fresh: tuple[Path, dict[str, str]]) -> None:
    """The commands as they are written, in a new environment; they need the package index.

    But for the training, which would take a minute and a half: two epochs do.
    """
    folder, variables = fresh

    def run(command: str, **others: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=variables | others,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    for command in commands(page):
        run(re.sub("rnnfast train$", "rnnfast train --epochs 2", command))
    if page == README:
        run("python -m pytest -q -n0 tests/cpu/test_readout.py", PYTEST_ADDOPTS="")


@pytest.mark.full
def test_building_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the kernels, which take the compiler six minutes; .ci/run compiles all of them."""
    every = kernel_table.kernels
    monkeypatch.setattr(kernel_table, "kernels", lambda capability: every(capability)[::40])
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path))
    (command,) = (line for page in having("sh") for line in commands(page) if is_slow(line))
    assert main(shlex.split(command)[1:]) == 0


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    links = _LINK.findall(_BLOCK.sub("", text))
    missing = [each for each in links if "://" not in each and not (page.parent / each).exists()]
    for file in set(_FILE.findall(_LINK.sub("", text))) - WRITTEN:
        known = [*ROOT.glob(file), *page.parent.glob(file), *ROOT.glob(f"*/**/{file}")]
        missing += [] if known else [file]
    assert missing == []


def test_every_page_is_linked_from_the_readme() -> None:
    links = {ROOT / link for link in _LINK.findall(README.read_text("utf-8"))}
    assert set((ROOT / "docs").glob("*.md")) <= links


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").split()) <= 800


def test_tests_that_the_readme_names_exist() -> None:
    named = re.findall(r"`(tests/[^`]+)`", README.read_text("utf-8"))
    assert named
    assert [path for each in named for path in each.split() if not (ROOT / path).exists()] == []


def cases_of(suite: str) -> dict[str, Any]:
    result = json.loads((ROOT / "bench" / "results" / f"{suite}.json").read_text("utf-8"))
    cases: dict[str, Any] = result["cases"]
    return cases


def test_figures_of_the_cpu_are_those_of_the_benchmark() -> None:
    cases = cases_of("cpu")
    expected = {}
    for record in [each for each in cases.values() if "train" in each["ops"]]:
        shape, train = record["shape"], record["ops"]["train"]
        ours = train["peers"][train["ours"]]
        expected[f"{shape['hidden']}, {shape['batch']} x {shape['steps']}"] = [
            f"{ours[ratio]['median']:.1f}" for ratio in ("times_yardstick", "times_best_peer")
        ]
    for page in (README, CHINESE):
        text = page.read_text("utf-8")
        rows = re.findall(r"^\| (\d+, \d+ x \d+) \| (.+) \| (.+) \|$", text, re.M)
        assert {shape: figures for shape, *figures in rows} == expected


def test_figures_of_bfloat16_are_those_of_the_benchmark() -> None:
    peers = cases_of("cpu")["H1024"]["ops"]["generate"]["peers"]
    exact, rounded = (peers[name]["seconds"]["median"] for name in ("ours", "ours_bf16"))
    text = " ".join((ROOT / "docs" / "network.md").read_text("utf-8").split())
    assert f"1024 hidden units generation is then {exact / rounded:.1f} times as fast" in text


def test_figures_of_layers_are_those_of_the_benchmark() -> None:
    cases = cases_of("nn")
    ratios: dict[str, dict[str, float]] = {"forward": {}, "gradients": {}}
    for name, record in cases.items():
        for op, of_cases in ratios.items():
            timed = record["ops"][op]
            of_cases[name] = timed["peers"][timed["ours"]]["times_best_peer"]["median"]
    text = (ROOT / "docs" / "network.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    assert rows
    for H, N, *figures in rows:
        assert figures == [f"{of_cases[f'H{H}_N{N}']:.1f}" for of_cases in ratios.values()]
    forward, gradients = (statistics.median(each.values()) for each in ratios.values())
    assert f"of {len(cases)} shapes it is {forward:.1f} times forward and {gradients:.1f}" in text
    overhead = [f"{1 / each['overhead']:.1f}" for each in ratios.values()]
    assert f"{overhead[0]} and {overhead[1]} times as long" in " ".join(text.split())


def test_figures_of_options_are_those_of_the_benchmark() -> None:
    result = json.loads((ROOT / "bench" / "results" / "options.json").read_text("utf-8"))

    def most(name: str, *ops: str) -> str:
        costs = [of_shape[op][name] for of_shape in result["costs"].values() for op in ops]
        return f"{max(each['times_plain']['median'] for each in costs):.1f}"

    text = " ".join((ROOT / "docs" / "network.md").read_text("utf-8").split())
    both = "states", "gradients"
    assert f"`resets` takes at most {most('resets', *both)} times as long" in text
    assert f"a leaky one at most {most('leak', *both)} times" in text
    noise = [most("noise", op) for op in both]
    assert f"with `noise` {noise[0]} times forward and {noise[1]} with gradients" in text


def test_figures_of_the_gpu_are_those_of_the_benchmark() -> None:
    cases = cases_of("gpu")
    text = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    assert len(rows) == 4
    for H, *figures in rows:
        for B, figure in zip((1, 32, 256), figures, strict=True):
            train = cases[f"H{H}_N{B}_T35"]["ops"]["train"]
            ours = train["peers"][train["ours"]]["times_best_peer"]["median"]
            assert figure == f"{ours:.2f}", (H, B)


def test_the_chinese_readme_has_the_same_code_and_pictures() -> None:
    english, chinese = README.read_text("utf-8"), CHINESE.read_text("utf-8")
    for language in ("sh", "python"):
        assert blocks(CHINESE, language) == blocks(README, language)
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", english)
    assert re.findall(r"!\[.*?\]\((?:\.\./)?(.*?)\)", chinese) == pictures
    assert "docs/README.zh.md" in "\n".join(english.splitlines()[:5])


def test_the_table_of_variables_is_complete() -> None:
    sources = [ROOT / "setup.py", *ROOT.glob("rnnfast/**/*.py"), *ROOT.glob("csrc/**/*.cpp")]
    used = {each for path in sources for each in _VARIABLE.findall(path.read_text("utf-8"))}
    table = (ROOT / "docs" / "environment.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(RNNFAST_[A-Z_]+)`", table, re.M)) == used
