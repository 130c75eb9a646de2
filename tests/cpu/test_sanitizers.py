"""The kernels without torch under sanitizers for memory, undefined behaviour and threads."""

import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import ninja
import pytest

from rnnfast.backends import library

assert library.load_error() == ""
pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "sanitize"  # persists, so that ninja compiles only what changed
DRIVER = ROOT / "tests" / "support" / "sanitize" / "driver.cpp"

# Left out of "undefined": checks of every address for null, alignment and overflow, which triple
# the compiler's time and find nothing that "address" would not. Checks of addresses as calls and
# not inline: a third of the compiler's time.
SANITIZERS = {
    "address": "-fsanitize=address,undefined -fno-sanitize-recover=all "
    "-fno-sanitize=null,alignment,pointer-overflow "
    "--param asan-instrumentation-with-call-threshold=0 --param asan-stack=0",
    "thread": "-fsanitize=thread",
}
# Without optimisation the compiler takes a quarter of the time, and memory is touched all the same.
KERNEL_FLAGS = "-O0 -g1 -DRNNFAST_POISON"
# The driver's plain loops need no watching.
DRIVER_FLAGS = "-O2 -g1"


def instruction_sets():
    """The fastest of this machine and the baseline: the widest vectors and the narrowest."""
    built, runs = library.build_info().split("instruction sets: ")[1].split("; runs ")
    return list(dict.fromkeys((runs, built.split()[-1])))


def driver(sanitizer):
    return f"driver-{sanitizer}"


@pytest.fixture(scope="module")
def drivers():
    """Compiles the driver and, with the flags of setup.py, the kernels for each sanitizer."""
    with mock.patch("setuptools.setup"):
        setup = runpy.run_path(str(ROOT / "setup.py"))
    kernels = [item for item in setup["object_files"]() if item[1].parent.name == "cpu"]
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "build.ninja").open("w") as file:
        writer = ninja.Writer(file)
        writer.variable("cxx", ninja.escape(shlex.join(setup["find_compiler"]())))
        include = f"-I{os.path.relpath(ROOT / 'csrc', BUILD)}"
        writer.rule(
            "compile", f"$cxx $flags {include} -MMD -MF $out.d -c $in -o $out", depfile="$out.d"
        )
        writer.rule("link", "$cxx $flags -pthread $in -o $out")

        def compile_to(name, source, flags):
            return writer.build(
                name, "compile", os.path.relpath(source, BUILD), variables={"flags": flags}
            )

        compile_to("driver.o", DRIVER, f"{setup['CXXFLAGS']} {DRIVER_FLAGS}")
        for sanitizer, flags in SANITIZERS.items():
            objects = ["driver.o"]
            for name, source, kernel_flags in kernels:
                all_flags = f"{kernel_flags} {KERNEL_FLAGS} {flags}"
                objects += compile_to(f"{sanitizer}/{name}", source, all_flags)
            writer.build(driver(sanitizer), "link", objects, variables={"flags": flags})
    done = run([sys.executable, "-m", "ninja", "-C", str(BUILD)])
    assert done.returncode == 0, done.stdout


def run(command, **variables):
    return subprocess.run(
        command,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_finds_nothing(drivers, sanitizer, instruction_set):
    done = run([BUILD / driver(sanitizer)], RNNFAST_CPU_ISA=instruction_set)
    assert done.returncode == 0, done.stdout[-8000:]
    assert done.stdout.startswith(f"{instruction_set}: "), done.stdout
