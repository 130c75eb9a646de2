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
DEVICE = CSRC / "cuda" / "device"
BUILD = ROOT / "build" / "native"  # persists, so that ninja compiles only what changed
# What ninja and its shell read names files from there: whatever the path of the sources holds (a
# space, a quote, a dollar), neither sees it.
INCLUDE = f"-I{os.path.relpath(CSRC, BUILD)}"

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

# Libraries with a name and no content, to link against. What is linked so asks, when it is loaded,
# for the library of that name: for the libtorch that `import torch` has loaded before, and for the
# symbols listed here as the oldest glibc has them, where newer ones have added another version.
STUBS = {
    "libtorch.so": (),
    "libtorch_cpu.so": (),
    "libm.so.6": ("log",),
    "libdl.so.2": ("dlopen", "dlsym", "dlerror"),
}
OLDEST_GLIBC = {"x86_64": "GLIBC_2.2.5", "aarch64": "GLIBC_2.17"}

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
    folders = (CSRC, CSRC / "torch", CSRC / "ops", CSRC / "cuda" / "host")
    shared = [source for folder in folders for source in sorted(folder.glob("*.cpp"))]
    shared += [CSRC / "cpu" / name for name in SHARED_SOURCES]
    kernels = sorted(set((CSRC / "cpu").glob("*.cpp")) - set(shared))
    if device_sources():
        shared.append(BUILD / "device_sources.cpp")
    # -O1: two thirds of the compiler's time for the operators, and a call is no slower
    objects = [(f"{source.stem}.o", source, f"{CXXFLAGS} -O1") for source in shared]
    for isa, isa_flags in instruction_sets().items():
        flags = f"{CXXFLAGS} {isa_flags} -DRNNFAST_ISA={isa}"
        own = [source for source in kernels if is_compiled_for(isa, source)]
        objects += [(f"{source.stem}.{isa}.o", source, flags) for source in own]
    return objects


def is_compiled_for(isa: str, source: Path) -> bool:
    """Products of bfloat16 alone use their instruction; isa.cpp says who rounds without it."""
    if source.name == "recurrence_bf16.cpp":
        return isa == "avx512_bf16"
    if source.name == "decode_bf16.cpp":
        return isa != "baseline"
    return isa != "avx512_bf16"


def device_sources() -> list[Path]:
    """What kernels for CUDA are compiled from, at their first use: *.cu and all that they include.

    An include is looked up beside the *.cu, then from csrc/ on. The sources become part of the
    library, so that the launcher's view of a kernel's parameters and the kernel's cannot differ.
    """
    found, waiting = set[Path](), sorted(DEVICE.glob("*.cu"))
    while waiting:
        path = waiting.pop()
        found.add(path)
        included = re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        places = [(DEVICE if (DEVICE / name).exists() else CSRC) / name for name in included]
        waiting += [place for place in places if place not in found]
    return sorted(found)


def included_name(path: Path) -> str:
    """How the device sources include this one."""
    return path.name if path.parent == DEVICE else path.relative_to(CSRC).as_posix()


def write_device_sources(target: Path) -> None:
    """C++ that defines csrc/cuda/host/sources.h."""
    rows = [
        f'    {{"{included_name(path)}", R"rnnfast({path.read_text(encoding="utf-8")})rnnfast"}},\n'
        for path in device_sources()
    ]
    text = (
        '#include "cuda/host/sources.h"\n\nnamespace rnnfast::cuda {\n\n'
        f"const Source kSources[] = {{\n{''.join(rows)}}};\n"
        f"const size_t kNumSources = {len(rows)};\n\n}}  // namespace rnnfast::cuda\n"
    )
    write_if_new(target, text)


def write_if_new(path: Path, text: str) -> None:
    """Untouched where it would not change, so that ninja builds nothing anew."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


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
        from ninja import Writer, escape
    except ImportError:
        raise NoNativeLibraryError("the Python package ninja is not installed") from None
    with (BUILD / "build.ninja").open("w", encoding="utf-8") as file:
        ninja = Writer(file)
        ninja.variable("cxx", escape(shlex.join(compiler)))
        compile_one = f"$cxx $flags {INCLUDE} -MMD -MF $out.d -c $in -o $out"
        ninja.rule("compile", compile_one, depfile="$out.d", deps="gcc")
        precompile = f"$cxx $flags {INCLUDE} -MMD -MF $out.d -x c++-header -c $in -o $out"
        ninja.rule("precompile", precompile, depfile="$out.d", deps="gcc")
        map_and_name = "-Wl,--version-script=$out.map -Wl,-soname,$out"
        ninja.rule("stub", f"$cxx -shared -nostdlib -ffreestanding -x c $in {map_and_name} -o $out")
        ninja.rule("link", f"$cxx -shared -s $in -Wl,--no-as-needed {' '.join(STUBS)} -o $out")
        headers = precompiled_headers(objects)
        for flags, header in headers.items():
            write_if_new(BUILD / header, '#include "standard.h"\n')
            ninja.build(f"{header}.gch", "precompile", header, variables={"flags": flags})
        for name, source, flags in reversed(objects):  # what takes longest first
            header, path = headers[flags], os.path.relpath(source, BUILD)
            variables = {"flags": f"{flags} -include {header}"}
            ninja.build(name, "compile", path, implicit=f"{header}.gch", variables=variables)
        for stub in STUBS:
            ninja.build(stub, "stub", f"{stub}.c", implicit=f"{stub}.map")
        ninja.build("_C.so", "link", [name for name, _, _ in objects], implicit=list(STUBS))


def precompiled_headers(objects: list[tuple[str, Path, str]]) -> dict[str, str]:
    """For each set of flags, the name of its copy of csrc/standard.h.

    The compiler reads the standard headers once for all sources of these flags, which was a sixth
    of its work.
    """
    every = dict.fromkeys(flags for _, _, flags in objects)
    return {flags: f"standard{number}.h" for number, flags in enumerate(every)}


def write_stubs() -> None:
    version = OLDEST_GLIBC[platform.machine()]
    for stub, symbols in STUBS.items():
        functions = "".join(f"void {symbol}(void) {{}}\n" for symbol in symbols)
        write_if_new(BUILD / f"{stub}.c", f"#pragma GCC visibility push(default)\n{functions}")
        exported = f"global: {'; '.join(symbols)};" if symbols else ""
        write_if_new(BUILD / f"{stub}.map", f"{version} {{ {exported} local: *; }};\n")


def build_library(jobs: int | None) -> Path:
    """Builds the library, or what changed of it, and returns where it is."""
    objects, compiler = object_files(), find_compiler()
    BUILD.mkdir(parents=True, exist_ok=True)
    with only_build_here():
        write_ninja_file(objects, compiler)
        write_stubs()
        if device_sources():
            write_device_sources(BUILD / "device_sources.cpp")
        # ninja's own choice is two more, which take caches from each other: 3 % more time.
        run_ninja(["-j", str(jobs or len(os.sched_getaffinity(0)))])
    return BUILD / "_C.so"


def run_ninja(options: list[str]) -> None:
    """Shows what ninja and the compiler say; the first complaint among it is the reason to fail."""
    lines = []
    with subprocess.Popen(
        [sys.executable, "-m", "ninja", "-C", str(BUILD), *options],
        env={**os.environ, "LC_ALL": "C"},  # English words to look for
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="backslashreplace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    if process.returncode:
        raise NoNativeLibraryError(f"its compilation failed: {first_complaint(lines)}")


def first_complaint(lines: list[str]) -> str:
    """The first line of the compiler or linker that names an error, else that after a failure."""
    failed = next((i for i, line in enumerate(lines) if line.startswith("FAILED: ")), 0)
    said = lines[failed + 2 :] or lines  # without the command
    words = re.compile(r"error: (?!ld returned)|undefined (reference|symbol)|cannot find")
    line = next(filter(words.search, said), said[0] if said else "ninja said nothing")
    return line.replace(f"{os.path.relpath(ROOT, BUILD)}/", "")


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
    """build_ext that leaves the library of the present sources, or the reason why there is none."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"  # no Python ABI in the name: it uses none

    def run(self) -> None:
        target = Path(ROOT if self.inplace else self.build_lib, "rnnfast", "_C.so")
        reason_file = target.with_name("build_error.txt")  # read by rnnfast/backends/library.py
        required = is_required()
        reason_file.unlink(missing_ok=True)
        try:
            install_library(build_library(self.parallel), target)
        except NoNativeLibraryError as reason:
            target.unlink(missing_ok=True)
            if required:
                raise SystemExit(f"rnnfast: the native library was not built: {reason}") from None
            print(f"rnnfast: installing without the native library, on plain torch: {reason}")
            reason_file.parent.mkdir(parents=True, exist_ok=True)
            reason_file.write_text(f"{reason}\n", encoding="utf-8")
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
