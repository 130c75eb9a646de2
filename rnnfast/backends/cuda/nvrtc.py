"""NVIDIA's run-time compiler, which every CUDA build of torch brings along.

It needs neither a GPU nor a toolkit: the package `nvidia-cuda-nvrtc` alone is enough. Loaded at
first use.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

FLAGS = ("--std=c++20", "-default-device", "--ptxas-options=-v")


class CompilerError(RuntimeError):
    """The compiler is missing or refuses a source. The message has its own words."""


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of a multiprocessor."""

    registers: int  # per thread
    spill_bytes: int  # registers written to and read from memory, per thread
    shared_bytes: int  # of the kernel's own; a launch adds its dynamic part


@dataclass(frozen=True)
class Compiled:
    """An image for the driver, and what each of its kernels takes."""

    image: bytes
    resources: dict[str, Resources]


_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def parse_report(text: str) -> dict[str, Resources]:
    """Kernel names and resources from what ptxas prints with -v, under NVRTC or nvcc."""
    found = {}
    for match in _KERNEL.finditer(text):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found[match["name"]] = Resources(
            registers=int(match["registers"]),
            spill_bytes=int(match["stores"]) + int(match["loads"]),
            shared_bytes=int(shared[1]) if shared else 0,
        )
    return found


def compile_image(unit: str, options: str, arch: str, sources: Mapping[str, str]) -> Compiled:
    """Compile sources[unit + ".cu"], which may include the other sources, for "80", "90a", ...

    Raises CompilerError where the compiler is missing, too old for `arch`, or refuses the source.
    """
    library = _library()
    headers = {name: text for name, text in sources.items() if not name.endswith(".cu")}
    flags = [*FLAGS, f"--gpu-architecture=sm_{arch}", *options.split()]
    program = ctypes.c_void_p()
    _check(
        library.nvrtcCreateProgram(
            ctypes.byref(program),
            sources[f"{unit}.cu"].encode(),
            f"{unit}.cu".encode(),
            len(headers),
            _strings(headers.values()),
            _strings(headers),
        ),
        "create a program",
    )
    try:
        failed = library.nvrtcCompileProgram(program, len(flags), _strings(flags))
        log = _output(program, "ProgramLog").decode(errors="replace").rstrip("\0")
        if failed:
            raise CompilerError(
                f"NVRTC {version()} does not compile {unit}.cu for sm_{arch} "
                f"({options}): {_error_text(failed)}\n{log}"
            )
        return Compiled(_output(program, "CUBIN"), parse_report(log))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def version() -> str:
    """The compiler's version, "13.0"; raises CompilerError where there is none."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "say its version")
    return f"{major.value}.{minor.value}"


def architecture(compute_capability: int) -> str:
    """What to compile for a device: its own architecture, or the next lower one of its family.

    An image for 8.6 runs on 8.9, one for 10.0 on 10.3; one for 9.0 does not run on 10.0. 9.0 alone
    has "a", the instructions that no later device has.
    """
    if compute_capability < 80:
        raise CompilerError(
            f"the device has compute capability {compute_capability / 10}; 8.0 is the least"
        )
    count = ctypes.c_int()
    _check(_library().nvrtcGetNumSupportedArchs(ctypes.byref(count)), "list its architectures")
    known = (ctypes.c_int * count.value)()
    _check(_library().nvrtcGetSupportedArchs(known), "list its architectures")
    family = [
        arch
        for arch in known
        if arch <= compute_capability and arch // 10 == compute_capability // 10
    ]
    if not family:
        raise CompilerError(
            f"NVRTC {version()} knows no architecture for compute capability "
            f"{compute_capability / 10}; a newer torch brings a newer one"
        )
    best = max(family)
    return "90a" if best == 90 else str(best)


def load_error() -> str:
    """Why the compiler cannot be used, or an empty string."""
    try:
        _library()
    except CompilerError as error:
        return str(error)
    return ""


@functools.cache
def _library() -> ctypes.CDLL:
    reasons = []
    for path in _candidates():
        try:
            # NVRTC opens its builtins by name, which finds them where they are already loaded
            beside = path.parent.glob("libnvrtc-builtins.so.*") if path.is_absolute() else ()
            for builtins in sorted(beside):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            library = ctypes.CDLL(str(path))
        except OSError as error:
            reasons.append(str(error))
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    found = "; ".join(reasons) or "no libnvrtc.so was found"
    raise CompilerError(
        f"NVIDIA's run-time compiler is missing ({found}): a CUDA build of torch brings it, and so "
        "does `pip install nvidia-cuda-nvrtc`"
    )


def _candidates() -> Iterator[Path]:
    """Where the library may be: as RNNFAST_NVRTC says, or torch's own version before others."""
    if chosen := os.environ.get("RNNFAST_NVRTC"):
        yield Path(chosen)
        return
    cuda = (torch.version.cuda or "").split(".")[0]
    spec = find_spec("nvidia")  # one folder for every package of NVIDIA's
    folders = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    found = {path for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*")}
    yield from sorted(found, key=lambda path: (path.suffix != f".{cuda}", path.suffix, path))
    yield from sorted((Path(torch.__file__).parent / "lib").glob("libnvrtc*.so.*"))
    for number in (cuda, "13", "12"):
        if number:
            yield Path(f"libnvrtc.so.{number}")  # the loader's own places


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"give {what}")
    data = ctypes.create_string_buffer(size.value)
    _check(getattr(_library(), f"nvrtcGet{what}")(program, data), f"give its {what}")
    return data.raw


def _strings(texts: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)


def _check(result: int, what: str) -> None:
    if result:
        raise CompilerError(f"NVRTC could not {what}: {_error_text(result)}")


def _error_text(result: int) -> str:
    text: bytes = _library().nvrtcGetErrorString(result)
    return text.decode()
