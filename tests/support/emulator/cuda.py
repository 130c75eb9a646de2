"""CUDA's whole path on the CPU: the operators, the launcher, and kernels under the emulator.

    from support.emulator import cuda
    cuda.start()                                  # in this process, for good
    with rnnfast.use_backend("cuda"): ...         # on CPU tensors

`driver()` has what tests choose: emulated_driver_capturing(1), emulated_driver_seed(3), ...
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess

from rnnfast import dispatch
from rnnfast.backends.cuda import bridge
from support.emulator import build

_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\(.*?\)\s+)?(\w+)\s*\(", re.DOTALL)


@functools.cache
def driver() -> ctypes.CDLL:
    """The driver's twin."""
    build.emulator()  # its functions are found by their names
    path = build._compile("driver", [build.HERE / "driver.cpp"], ["-fPIC", "-shared"])
    library = ctypes.CDLL(str(path))
    library.emulated_driver_launches.restype = ctypes.c_ulonglong
    return library


def start() -> None:
    """Let CUDA's backend serve CPU tensors."""
    os.environ["RNNFAST_CUDA_DRIVER"] = driver()._name
    bridge.make_image = make_image
    dispatch.choose.cache_clear()


def stop() -> None:
    """Leave CPU tensors to the other backends again."""
    os.environ.pop("RNNFAST_CUDA_DRIVER", None)
    dispatch.choose.cache_clear()


def make_image(unit: str, options: str, capability: int) -> bytes:
    """In place of NVRTC's image: a shared object, from the same source and options."""
    return build.shared_object(unit, options, kernels_of(unit, options)).read_bytes()


@functools.cache
def kernels_of(unit: str, options: str) -> tuple[str, ...]:
    """The kernels that a unit has under these options."""
    source = build.DEVICE_CODE / f"{unit}.cu"
    flags = ["-E", "-P", "-std=c++20", "-xc++", f"-I{build.ROOT / 'csrc'}"]
    command = [build.compiler(), *flags, *options.split(), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(_KERNEL.findall(done.stdout))
