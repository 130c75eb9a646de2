"""The kernels for a 64-bit ARM CPU: compiled by a cross compiler, run in qemu.

The same driver as the sanitizers', which holds every kernel against plain loops in float64. On an
ARM machine the rest of the test suite does it better.
"""

import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = ["aarch64-linux-gnu-g++"]  # Debian: g++-aarch64-linux-gnu, qemu-user


pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not (shutil.which(COMPILER[0]) and shutil.which("qemu-aarch64")),
        reason="no cross compiler or no qemu: Debian's g++-aarch64-linux-gnu and qemu-user",
    ),
]


@pytest.fixture
def setup_py() -> Iterator[dict]:
    """setup.py's own lists and flags, as on an ARM machine."""
    with mock.patch("setuptools.setup"), mock.patch("platform.machine", return_value="aarch64"):
        yield runpy.run_path(str(ROOT / "setup.py"))


def _compile(setup_py: dict, sources: list, folder: Path) -> list[Path]:
    objects = []
    for name, source, flags in sources:
        objects.append(folder / name)
        command = [
            *COMPILER,
            *flags.split(),
            f"-I{ROOT / 'csrc'}",
            "-c",
            str(source),
            "-o",
            str(objects[-1]),
        ]
        subprocess.run(command, check=True)
    return objects


def test_every_kernel(setup_py: dict, tmp_path: Path) -> None:
    kernels = [item for item in setup_py["object_files"]() if item[1].parent.name == "cpu"]
    driver = ROOT / "tests" / "support" / "sanitize" / "driver.cpp"
    objects = _compile(setup_py, [*kernels, ("driver.o", driver, setup_py["CXXFLAGS"])], tmp_path)
    program = tmp_path / "driver"
    subprocess.run(
        [*COMPILER, "-static", "-pthread", *map(str, objects), "-o", program], check=True
    )
    done = subprocess.run(["qemu-aarch64", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.startswith("baseline: "), done.stdout


def test_operators_compile(setup_py: dict, tmp_path: Path) -> None:
    folders = [ROOT / "csrc" / name for name in ("ops", "torch")]
    operators = [item for item in setup_py["object_files"]() if item[1].parent in folders]
    assert _compile(setup_py, operators, tmp_path)
