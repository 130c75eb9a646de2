"""The few calls of the CUDA driver's C interface that the microbenchmarks need."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

_SHARED_BYTES, _ANY_CLUSTER_SIZE = 8, 14  # CUfunction_attribute
_CLUSTER_DIMENSION = 4  # CUlaunchAttributeID


@dataclass(frozen=True)
class Geometry:
    """Blocks, blocks per cluster, threads per block, and dynamic shared memory."""

    grid: int
    cluster: int
    block: int
    shared_bytes: int


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_int),
        ("pad", ctypes.c_int),
        ("dimension", ctypes.c_uint * 3),
        ("rest", ctypes.c_uint * 13),
    )


class _Config(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    )


class Driver:
    """Kernels of one image, launched on torch's current stream."""

    def __init__(self, image: bytes) -> None:
        self._known: dict[tuple[str, Geometry], tuple[ctypes.c_void_p, _Config]] = {}
        torch.cuda.init()
        torch.zeros(1, device="cuda")  # makes torch's context the current one
        self._lib = ctypes.CDLL("libcuda.so.1")
        self._module, self._image = ctypes.c_void_p(), image
        self._check("cuModuleLoadData", ctypes.byref(self._module), image)

    def launch(self, kernel: str, geometry: Geometry, *arguments: int) -> None:
        """The first argument is a pointer, the others are ints."""
        pointer, *rest = arguments or (0,)
        values = [ctypes.c_void_p(pointer), *map(ctypes.c_int, rest)]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        function, config = self._prepared(kernel, geometry)
        config.stream = torch.cuda.current_stream().cuda_stream
        self._check("cuLaunchKernelEx", ctypes.byref(config), function, addresses, None)

    def max_active_clusters(self, kernel: str, geometry: Geometry) -> int:
        """0 where the device refuses the geometry."""
        count = ctypes.c_int()
        try:
            function, config = self._prepared(kernel, geometry)
            into = ctypes.byref(count), function, ctypes.byref(config)
            self._check("cuOccupancyMaxActiveClusters", *into)
        except RuntimeError:
            return 0
        return count.value

    def clear(self, variable: str) -> None:
        """Set a global 32-bit variable of the image to zero."""
        address, size = ctypes.c_uint64(), ctypes.c_size_t()
        into = ctypes.byref(address), ctypes.byref(size)
        self._check("cuModuleGetGlobal_v2", *into, self._module, variable.encode())
        self._check("cuMemsetD32_v2", address, ctypes.c_uint(0), ctypes.c_size_t(1))
        torch.cuda.synchronize()

    def _prepared(self, kernel: str, geometry: Geometry) -> tuple[ctypes.c_void_p, _Config]:
        """Kept from launch to launch, which the host should not slow down."""
        if (kernel, geometry) not in self._known:
            both = self._function(kernel, geometry), self._config(geometry)
            self._known[kernel, geometry] = both
        return self._known[kernel, geometry]

    def _function(self, kernel: str, geometry: Geometry) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        name = kernel.encode()
        self._check("cuModuleGetFunction", ctypes.byref(function), self._module, name)
        settings = [(_SHARED_BYTES, geometry.shared_bytes)]
        settings += [(_ANY_CLUSTER_SIZE, 1)] * (geometry.cluster > 8)
        for pair in settings:
            self._check("cuFuncSetAttribute", function, *map(ctypes.c_int, pair))
        return function

    def _config(self, geometry: Geometry) -> _Config:
        dimension = (ctypes.c_uint * 3)(geometry.cluster, 1, 1)
        attribute = _Attribute(_CLUSTER_DIMENSION, 0, dimension)
        return _Config(
            (ctypes.c_uint * 3)(geometry.grid, 1, 1),
            (ctypes.c_uint * 3)(geometry.block, 1, 1),
            geometry.shared_bytes,
            None,
            ctypes.pointer(attribute),  # which keeps it alive
            1,
        )

    def _check(self, call: str, *arguments: object) -> None:
        code = getattr(self._lib, call)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorString(code, ctypes.byref(text))
            words = (text.value or b"unknown error").decode()
            raise RuntimeError(f"{call}: {words} ({code})")
