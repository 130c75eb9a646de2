"""Builds rnnfast/_C.so with ninja and without torch; the rest of the package is in pyproject.toml.

The operators speak LibTorch's stable C ABI, which csrc/torch/abi.h declares, so the build needs no
torch and one library serves every torch from 2.11 on. Where it cannot be built, the package
installs without it and runs on its torch reference; RNNFAST_REQUIRE=native makes that an error.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "native"  # persists, so that ninja compiles only what changed

# Contraction (a * b + c as one FMA) doubles the arithmetic rate and is more exact. -ffast-math is
# not used: it would break NaN and infinity.
CXXFLAGS = (
    "-std=c++20 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math "
    "-fPIC -fvisibility=hidden -Wall -Wextra"
)

AVX512 = "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma -mprefer-vector-width=512"

# Lowest instruction set first. Objects are linked in this order and the linker keeps the first copy
# of an inline function, so that a copy serves its own instruction set and higher ones alone.
INSTRUCTION_SETS = {
    "x86_64": {
        "baseline": "",
        "avx2": "-mavx2 -mfma",
        "avx512": AVX512,
        "avx512_bf16": f"{AVX512} -mavx512bf16",  # products of bfloat16, in *_bf16.cpp alone
    },
    "aarch64": {"baseline": ""},  # NEON
}

# Every other source in csrc/cpu is compiled once per instruction set.
SHARED_SOURCES = ("isa.cpp", "parallel.cpp", "workspace.cpp")


class NoNativeLibraryError(Exception):
    """Why the native library was not built, in words for the user."""


def instruction_sets() -> dict[str, str]:
    machine = platform.machine()
    # The soname-only libraries of write_ninja_file are an ELF technique.
    if sys.platform != "linux" or machine not in INSTRUCTION_SETS:
        raise NoNativeLibraryError(f"there is none for {platform.system()} on {machine} yet")
    return INSTRUCTION_SETS[machine]


def object_files() -> list[tuple[str, Path, str]]:
    """(object, source, flags), in link order."""
    shared = [
        *sorted((CSRC / "ops").glob("*.cpp")),
        *sorted((CSRC / "cuda" / "host").glob("*.cpp")),
        *(CSRC / "cpu" / name for name in SHARED_SOURCES),
    ]
    kernels = sorted(set((CSRC / "cpu").glob("*.cpp")) - set(shared))
    objects = [(f"{source.stem}.o", source, f"{CXXFLAGS} -I{CSRC}") for source in shared]
    if device_sources():
        embedded = BUILD / "device_sources.cpp"
        objects.append((f"{embedded.stem}.o", embedded, f"{CXXFLAGS} -I{CSRC}"))
    for isa, isa_flags in instruction_sets().items():
        flags = f"{CXXFLAGS} -I{CSRC} {isa_flags} -DRNNFAST_ISA={isa}"
        own = [source for source in kernels if isa != "avx512_bf16" or source.match("*_bf16.cpp")]
        objects += [(f"{source.stem}.{isa}.o", source, flags) for source in own]
    return objects


def device_sources() -> list[Path]:
    """What kernels for CUDA are compiled from, at their first use: *.cu and all that they include.

    An include is looked up beside the *.cu, then from csrc/ on. The sources become part of the
    library, so that the launcher's view of a kernel's parameters and the kernel's cannot differ.
    """
    folder = CSRC / "cuda" / "device"
    found, waiting = set[Path](), sorted(folder.glob("*.cu"))
    while waiting:
        path = waiting.pop()
        found.add(path)
        included = re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        places = [(folder if (folder / name).exists() else CSRC) / name for name in included]
        waiting += [place for place in places if place not in found]
    return sorted(found)


def included_name(path: Path) -> str:
    """How the device sources include this one."""
    folder = CSRC / "cuda" / "device"
    return path.name if path.parent == folder else path.relative_to(CSRC).as_posix()


def write_device_sources(target: Path) -> None:
    """C++ that defines csrc/cuda/host/sources.h; untouched where it would not change."""
    sources = device_sources()
    rows = [
        f'    {{"{included_name(path)}", R"rnnfast({path.read_text(encoding="utf-8")})rnnfast"}},\n'
        for path in sources
    ]
    text = (
        '#include "cuda/host/sources.h"\n\nnamespace rnnfast::cuda {\n\n'
        f"const Source kSources[] = {{\n{''.join(rows)}}};\n"
        f"const size_t kNumSources = {len(rows)};\n\n}}  // namespace rnnfast::cuda\n"
    )
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


def find_compiler() -> list[str]:
    """The words of $CXX, or the first usual name of a C++ compiler that is there."""
    if chosen := shlex.split(os.environ.get("CXX", "")):
        candidates = [chosen]
    else:
        candidates = [["c++"], ["g++"], ["clang++"]]
    for command in candidates:
        if shutil.which(command[0]):
            return command
    names = ", ".join(command[0] for command in candidates)
    raise NoNativeLibraryError(f"no C++ compiler is there (looked for {names}; CXX names another)")


def write_ninja_file(objects: list[tuple[str, Path, str]], compiler: list[str]) -> None:
    try:
        from ninja import Writer
    except ImportError:
        raise NoNativeLibraryError("the Python package ninja is not installed") from None
    # Libraries with a name and no content. What is linked against them asks, when it is loaded, for
    # the libtorch of that name, which `import torch` has loaded before.
    stubs = ["libtorch.so", "libtorch_cpu.so"]
    with (BUILD / "build.ninja").open("w") as file:
        ninja = Writer(file)
        ninja.variable("cxx", shlex.join(compiler))
        ninja.rule(
            "compile", "$cxx $flags -MMD -MF $out.d -c $in -o $out", depfile="$out.d", deps="gcc"
        )
        ninja.rule("stub", "$cxx -shared -nostdlib -x c++ /dev/null -Wl,-soname,$out -o $out")
        ninja.rule("link", f"$cxx -shared -s $in -Wl,--no-as-needed {' '.join(stubs)} -o $out")
        for name, source, flags in objects:
            ninja.build(name, "compile", str(source), variables={"flags": flags})
        for stub in stubs:
            ninja.build(stub, "stub")
        ninja.build("_C.so", "link", [name for name, _, _ in objects], implicit=stubs)


def build_library(jobs: int | None) -> Path:
    """Builds the library, or what changed of it, and returns where it is."""
    objects, compiler = object_files(), find_compiler()
    limit = ["-j", str(jobs)] if jobs else []
    ninja = [sys.executable, "-m", "ninja", "-C", str(BUILD), *limit]
    BUILD.mkdir(parents=True, exist_ok=True)
    with only_build_here():
        write_ninja_file(objects, compiler)
        if device_sources():
            write_device_sources(BUILD / "device_sources.cpp")
        if subprocess.run(ninja, check=False).returncode:
            raise NoNativeLibraryError("its compilation failed (the compiler's messages are above)")
    return BUILD / "_C.so"


@contextlib.contextmanager
def only_build_here() -> Iterator[None]:
    """Waits for another build in the same directory: two ninjas there spoil each other's log."""
    import fcntl  # not on Windows, which never comes here

    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install_library(library: Path, target: Path) -> None:
    """Puts it there whole or not at all; a process that has the old one loaded keeps that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    shutil.copy2(library, partial)
    partial.replace(target)


def is_required() -> bool:
    value = os.environ.get("RNNFAST_REQUIRE", "")
    if value not in ("", "native"):
        raise SystemExit(f"RNNFAST_REQUIRE is {value!r}; it must be 'native' or not set")
    return value == "native"


class BuildNative(build_ext):
    """build_ext that leaves at its target either the library of the present sources or nothing."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"  # no Python ABI in the name: it uses none

    def run(self) -> None:
        target = Path(ROOT if self.inplace else self.build_lib, "rnnfast", "_C.so")
        required = is_required()
        try:
            install_library(build_library(self.parallel), target)
        except NoNativeLibraryError as reason:
            target.unlink(missing_ok=True)
            if required:
                raise SystemExit(f"rnnfast: the native library was not built: {reason}") from None
            print(f"rnnfast: installing without the native library, on plain torch: {reason}")
        except BaseException:
            target.unlink(missing_ok=True)
            raise


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and any Python 3: the library holds no symbol of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def relative_sources(pattern: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in CSRC.rglob(pattern))


setup(
    ext_modules=[
        Extension(
            "rnnfast._C",
            relative_sources("*.cpp"),
            depends=[*relative_sources("*.h"), *relative_sources("*.cu*")],
        )
    ],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
