"""Compiles CUDA sources for the CPU and launches them: see cuda_cpu.h."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.emulator.fences import fenced

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
DEVICE_CODE = ROOT / "csrc" / "cuda" / "device"
OUT = ROOT / "build" / "emulator"  # persists: a variant is compiled when it or a header changed

MACHINE = [HERE / name for name in ("emulator.cpp", "machine.cpp", "tensor_cores.cpp")]

# Written for registers and unrolled; the default level compiles three times as long, and the
# emulated machine spends its time in switches. fmaf is one instruction where the CPU has it.
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-fno-strict-aliasing", "-w"]

# A GPU refuses a misaligned access, and this CPU does not: it is made an illegal instruction.
TRAPS = ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]


def why_not() -> str:
    """Why device code cannot be emulated here; empty where it can."""
    if platform.machine() != "x86_64":
        return f"the emulator's fibers are written for x86-64, and this is {platform.machine()}"
    if compiler() is None:
        return "no C++ compiler was found to build the emulated kernels"
    return ""


def compiler() -> str | None:
    """The C++ compiler: what CXX names, else the first that is installed."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    return next(filter(None, map(shutil.which, names)), None)


@functools.cache
def _fma_flags() -> tuple[str, ...]:
    cpuinfo = Path("/proc/cpuinfo")
    return ("-mfma",) if cpuinfo.exists() and " fma " in cpuinfo.read_text() else ()


def _compile(name: str, sources: list[Path], flags: list[str], patch: tuple[str, ...] = ()) -> Path:
    """A shared object in OUT, named after its unit and a hash of all that it is made from."""
    path = compiler()
    assert path is not None
    command = [path, *FLAGS, *_fma_flags(), *flags]
    digest = hashlib.sha256("\0".join([*command, *patch]).encode())
    unit = DEVICE_CODE / f"{name}.cu"
    folders = [HERE, DEVICE_CODE, ROOT / "csrc" / "cells"]
    headers = [file for folder in folders for file in (*folder.glob("*.cuh"), *folder.glob("*.h"))]
    for file in [*sources, *([unit] if unit.exists() else []), *sorted(headers)]:
        digest.update(file.read_bytes())
    target = OUT / f"{name}-{digest.hexdigest()[:16]}"
    if target.exists():
        return target
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OUT) as work:
        new = Path(work) / target.name
        device = _patched(Path(work), patch) if patch else DEVICE_CODE
        include = [f"-I{each}" for each in (HERE, device, ROOT / "csrc")]
        done = subprocess.run(
            [*command, *include, *map(str, sources), "-o", str(new)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {' '.join(flags)}\n{done.stderr[-4000:]}"
        new.rename(target)  # atomic: several processes may compile the same
    return target


def _patched(work: Path, patch: tuple[str, ...]) -> Path:
    """A copy of the device code with one text replaced by another."""
    copy = work / "cuda"
    shutil.copytree(DEVICE_CODE, copy)
    name, text, other = patch
    source = (copy / name).read_text()
    if source.count(text) != 1:  # no AssertionError, which would count as a bug that is found
        raise ValueError(f"{name} does not have {text!r} exactly once")
    (copy / name).write_text(source.replace(text, other))
    return copy


@functools.cache
def emulator() -> ctypes.CDLL:
    """The machine, whose functions the units find by their names."""
    path = _compile("emulator", MACHINE, ["-O2", "-shared"])
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.emulator_message.restype = ctypes.c_char_p
    library.emulator_stores.restype = ctypes.c_ulonglong
    library.emulator_most_stores_under_way.restype = ctypes.c_ulonglong
    library.emulator_unannounced.restype = ctypes.c_ulonglong
    return library


def races(unit: str, program: str, options: str, patch: tuple[str, ...] = ()) -> str:
    """What ThreadSanitizer reports of a unit in sanitized_PROGRAM.cpp, "" for nothing."""
    # The machine is not instrumented: it says itself what orders what.
    machine = [
        _compile(f"{file.stem}.o", [file], ["-O2", "-c", "-DEMULATOR_TSAN"]) for file in MACHINE
    ]
    flags = ["-fsanitize=thread", "-g1", *options.split(), "-pthread"]
    flags.append(f'-DEMULATED_UNIT="{unit}.cu"')
    sources = [HERE / f"sanitized_{program}.cpp", *machine]
    command = [str(_compile(unit, sources, flags, patch))]
    if setarch := shutil.which("setarch"):  # the sanitizer's memory map is older than some kernels
        command = [setarch, "-R", *command]
    environment = dict(os.environ, TSAN_OPTIONS="halt_on_error=1")
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer cannot lay out its memory on this system")
    return "" if done.returncode == 0 else done.stdout + done.stderr


class Geometry(ctypes.Structure):
    """EmulatorGeometry of emulator.h."""

    _fields_ = [
        (name, ctypes.c_uint)
        for name in ("grid", "cluster", "block", "shared_bytes", "seed", "resident", "first")
    ]


class EmulationError(RuntimeError):
    """A kernel misused the machine, or hangs."""


def shared_object(
    unit: str, options: str, kernels: tuple[str, ...], patch: tuple[str, ...] = ()
) -> Path:
    """One unit of device code, csrc/cuda/`unit`.cu, with its -D options.

    Each of `kernels` is exported as `void emulated_NAME(const void* params)`. A `patch` (file,
    text, other text) plants a bug: the text must stand in that file exactly once.
    """
    exports = " ".join(f"EXPORT_KERNEL({name})" for name in kernels)
    flags = ["-shared", f'-DEMULATED_UNIT="{unit}.cu"', f"-DEMULATED_KERNELS={exports}"]
    flags += [*TRAPS, *options.split()]
    return _compile(unit, [HERE / "unit.cpp"], flags, patch)


class Unit:
    """A unit of device code, ready to launch."""

    def __init__(self, unit: str, options: str, *kernels: str, patch: tuple[str, ...] = ()) -> None:
        emulator()
        self.library = ctypes.CDLL(str(shared_object(unit, options, kernels, patch)))

    def launch(self, kernel: str, params: ctypes.Structure, **geometry: int) -> None:
        """Run a kernel to its end; geometry as in `Geometry`. Raises EmulationError."""
        function = ctypes.cast(getattr(self.library, f"emulated_{kernel}"), ctypes.c_void_p)
        with fenced(params, at_begin=geometry["seed"] % 2 == 1):
            failed = emulator().emulator_launch(
                function, ctypes.byref(params), ctypes.byref(Geometry(**geometry))
            )
        if failed:
            raise EmulationError(emulator().emulator_message().decode())
