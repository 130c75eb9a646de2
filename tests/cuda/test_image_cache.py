"""Images of CUDA kernels: NVIDIA's run-time compiler and the cache on disk. Needs no GPU."""

import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rnnfast.backends.cuda import image_cache, nvrtc
from rnnfast.backends.cuda.nvrtc import CompilerError, Resources

SOURCES = {
    "scale.cu": (
        '#include "scale.h"\n'
        'extern "C" __global__ void scale(const __grid_constant__ ScaleParams p) {\n'
        "  p.x[threadIdx.x] *= FACTOR;\n}\n"
    ),
    "scale.h": "struct ScaleParams { float* x; };\n",
    "other.cu": "",
}
FACTOR = "-DFACTOR=3"

needs_compiler = pytest.mark.skipif(
    bool(nvrtc.load_error()), reason=f"no CUDA compiler: {nvrtc.load_error()}"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path))
    image_cache._warn_not_kept.cache_clear()


def image(arch="80", options=FACTOR, sources=SOURCES):
    return image_cache.image("scale", options, arch, sources)


def entries():
    return sorted(image_cache.directory().iterdir())


@needs_compiler
def test_an_image_is_compiled_once_and_kept(monkeypatch):
    made = image()
    assert made.image.startswith(b"\x7fELF")
    assert set(made.resources) == {"scale"}
    assert made.resources["scale"].registers > 0
    assert made.resources["scale"].spill_bytes == made.resources["scale"].shared_bytes == 0
    monkeypatch.setattr(nvrtc, "compile_image", None)
    assert image() == made
    assert len(entries()) == 1


@needs_compiler
def test_one_line_announces_a_compilation(capsys):
    image()
    assert capsys.readouterr().err == "rnnfast: compiling scale.cu for sm_80, once: -DFACTOR=3\n"
    image()
    with image_cache.quietly():
        image("90a")
    assert capsys.readouterr().err == ""
    image("86")
    assert "for sm_86" in capsys.readouterr().err


@needs_compiler
def test_an_image_depends_on_all_that_it_is_made_from(monkeypatch):
    image()
    kept = 1
    changed = [
        {"arch": "90a"},
        {"options": "-DFACTOR=4"},
        {"sources": SOURCES | {"scale.cu": SOURCES["scale.cu"] + "// changed"}},
        {"sources": SOURCES | {"scale.h": SOURCES["scale.h"] + "// changed"}},
    ]
    for change in changed:
        image(**change)
        kept += 1
        assert len(entries()) == kept, change
    image(sources=SOURCES | {"other.cu": "// another unit"})
    assert len(entries()) == kept
    monkeypatch.setattr(nvrtc, "version", lambda: "99.0")
    image()
    assert len(entries()) == kept + 1
    monkeypatch.setattr(nvrtc, "FLAGS", (*nvrtc.FLAGS, "--ftz=true"))
    image()
    assert len(entries()) == kept + 2


@needs_compiler
@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "foreign"])
def test_a_damaged_entry_is_compiled_anew(damage):
    made = image()
    (entry,) = entries()
    data = entry.read_bytes()
    flipped = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
    entry.write_bytes(
        {"empty": b"", "half": data[: len(data) // 2], "flipped": flipped, "foreign": b"x" * 999}[
            damage
        ]
    )
    assert image_cache._read(entry) is None
    assert image() == made
    assert entry.read_bytes() == data


@needs_compiler
def test_a_cache_that_cannot_be_written_is_one_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="cannot keep compiled kernels .*RNNFAST_CACHE") as given:
        first, second = image(), image()
    assert len(given) == 1
    assert first == second


@needs_compiler
def test_a_disk_that_fills_leaves_no_part_of_an_entry(monkeypatch):
    write = Path.write_bytes

    def fill(path, data):
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.warns(UserWarning, match=r"kernels in \S+ \([^\[]+No space left on device"):
        made = image()
    assert entries() == []
    monkeypatch.undo()
    assert nvrtc.compile_image("scale", FACTOR, "80", SOURCES) == made


@needs_compiler
def test_processes_at_once_leave_one_whole_entry(tmp_path):
    program = (
        "import sys; sys.path[:0] = ['tests/cuda', 'tests']; import test_image_cache as t; "
        "t.image(); print('ok')"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "RNNFAST_CACHE": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in running] == ["ok", "ok"]
    (entry,) = entries()
    assert image_cache._read(entry) is not None


@needs_compiler
def test_the_compiler_says_what_is_wrong():
    with pytest.raises(CompilerError, match=r"(?s)scale.cu for sm_80.*FACTOR.*undefined") as raised:
        image(options="")
    assert "\0" not in str(raised.value)
    assert entries() == [] if image_cache.directory().exists() else True


@needs_compiler
def test_the_compiler_gives_back_what_it_took(monkeypatch):
    library, calls = nvrtc._library(), []

    class Recorded:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(library, name)

    monkeypatch.setattr(nvrtc, "_library", Recorded)
    image()
    with pytest.raises(CompilerError):
        image(options="")
    assert calls.count("nvrtcCreateProgram") == calls.count("nvrtcDestroyProgram") == 2


@needs_compiler
def test_architectures_of_devices():
    found = {80: "80", 86: "86", 89: "89", 90: "90a", 100: "100", 103: "103", 120: "120"}
    assert {c: nvrtc.architecture(c) for c in found} == found
    with pytest.raises(CompilerError, match=r"7\.5; 8\.0 is the least"):
        nvrtc.architecture(75)
    with pytest.raises(CompilerError, match="a newer torch brings a newer one"):
        nvrtc.architecture(990)


def test_a_missing_compiler_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("RNNFAST_NVRTC", "/nonexistent/libnvrtc.so")
    nvrtc._library.cache_clear()
    assert "pip install nvidia-cuda-nvrtc" in nvrtc.load_error()
    assert "/nonexistent/libnvrtc.so" in nvrtc.load_error()
    with pytest.raises(CompilerError, match="is missing"):
        image()
    nvrtc._library.cache_clear()


def test_the_version_of_torch_is_tried_before_others(tmp_path, monkeypatch):
    for number in ("12", "13"):
        (tmp_path / f"cu{number}" / "lib").mkdir(parents=True)
        (tmp_path / f"cu{number}" / "lib" / f"libnvrtc.so.{number}").write_text("")
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(nvrtc, "find_spec", lambda name: found)
    for own, other in (("12", "13"), ("13", "12")):
        monkeypatch.setattr(torch.version, "cuda", f"{own}.1")
        names = [path.name for path in nvrtc._candidates()]
        assert names[:2] == [f"libnvrtc.so.{own}", f"libnvrtc.so.{other}"]


@needs_compiler
def test_a_library_that_does_not_load_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "libnvrtc.so.99").write_text("no library")
    known = list(nvrtc._candidates())
    monkeypatch.setattr(nvrtc, "_candidates", lambda: [tmp_path / "libnvrtc.so.99", *known])
    nvrtc._library.cache_clear()
    assert nvrtc.load_error() == ""


REPORT = """
ptxas info    : Compiling entry function 'k2' for 'sm_90a'
ptxas info    : Function properties for k2
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas info    : Compile time = 23.628 ms
ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
    240 bytes stack frame, 240 bytes spill stores, 248 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 240 bytes cumulative stack size, 400 bytes smem
"""


def test_reports_are_read():
    assert nvrtc.parse_report(REPORT) == {"k2": Resources(8, 0, 0), "k": Resources(32, 488, 400)}


def test_resources_survive_the_cache(monkeypatch):
    made = nvrtc.Compiled(b"\x7fELF...\n...", {"k": Resources(32, 488, 400)})
    monkeypatch.setattr(nvrtc, "version", lambda: "13.0")
    monkeypatch.setattr(nvrtc, "compile_image", lambda *_: made)
    image()
    monkeypatch.setattr(nvrtc, "compile_image", None)
    assert image() == made
    assert dataclasses.asdict(image().resources["k"])["spill_bytes"] == 488
