"""Variants of the recurrence's kernels, launched in the emulator on torch's memory."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rnnfast.backends.cuda import kernel_table
from support.emulator import build

FFMA, TF32 = range(2)  # RF_PRODUCT

NONE, BAD_ID, BAD_TARGET, TIMEOUT = range(4)  # the error word


@dataclass(frozen=True)
class Variant:
    """The macros of recurrence.cu, without direction and activation."""

    hp: int
    cluster: int
    warps: int
    rows: int  # per group
    smem_chunks: int = 0
    product: int = FFMA
    unit = "recurrence"

    def options(self, backward: bool, relu: bool, gathers: bool = False) -> str:
        values = {
            "BACKWARD": int(backward),
            "HP": self.hp,
            "CLUSTER": self.cluster,
            "WARPS": self.warps,
            "ROWS": self.rows,
            "CELL": int(relu),
            "PRODUCT": self.product,
            "SMEM_CHUNKS": self.smem_chunks,
        }
        return " ".join(f"-DRF_{name}={value}" for name, value in values.items())

    def _members(self, backward: bool) -> ctypes.Array[ctypes.c_int]:
        members = (self.hp, self.cluster, self.warps, self.rows, self.smem_chunks, self.product)
        return (ctypes.c_int * 7)(*members, int(backward))

    def is_valid(self) -> bool:
        return bool(build.shapes().shape_is_valid(self._members(False)))

    def shared_bytes(self, backward: bool, groups: int) -> int:
        bytes_: int = build.shapes().shape_shared_bytes(self._members(backward), groups)
        return bytes_

    def __str__(self) -> str:
        name = f"H{self.hp}-cluster{self.cluster}-warps{self.warps}-rows{self.rows}"
        if self.smem_chunks:
            name += f"-smem{self.smem_chunks}"
        return name + ("", "-tf32")[self.product]


@dataclass(frozen=True)
class SingleBlock:
    """The macros of single_block.cu, without direction, inputs and activation."""

    hp: int
    lanes: int
    rows: int = 1
    smem_slots: int = 0
    unit, cluster, product = "single_block", 1, FFMA

    @property
    def warps(self) -> int:
        return self.hp // 32

    @property
    def _row(self) -> kernel_table.Variant:
        return kernel_table.Variant(self.unit, (self.hp, self.lanes, self.rows, self.smem_slots))

    def options(self, backward: bool, relu: bool, gathers: bool = False) -> str:
        return self._row.options(BACKWARD=backward, CELL=relu, GATHERS=gathers)

    def is_valid(self) -> bool:
        return self._row.needs(False) is not None

    def shared_bytes(self, backward: bool, groups: int) -> int:
        needs = self._row.needs(backward)
        assert needs is not None, self
        return needs.fixed_bytes

    def __str__(self) -> str:
        return f"H{self.hp}-lanes{self.lanes}-rows{self.rows}-smem{self.smem_slots}"


def _fields(spec: str) -> list[tuple[str, type]]:
    """ "q T B; p ids" -> 64-bit integers T and B, and a pointer."""
    types = {"q": ctypes.c_longlong, "p": ctypes.c_void_p}
    groups = (group.split() for group in spec.split(";"))
    return [(name, types[kind]) for kind, *names in groups for name in names]


class ForwardParams(ctypes.Structure):
    """RnnForwardParams of params.h."""

    _fields_ = _fields(
        "q T B H V; p ids; q ids_stride_t ids_stride_b; p x W_hh b_h h0 hs h_last;"
        "q rows wait_limit; p error"
    )


class BackwardParams(ctypes.Structure):
    """RnnBackwardParams of params.h."""

    _fields_ = _fields(
        "q T B H; p grad_hs grad_h_last hs W_hh dz grad_h0; q rows wait_limit; p error"
    )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def unit(
    variant: Variant | SingleBlock,
    backward: bool,
    relu: bool,
    gathers: bool = False,
    patch: tuple[str, ...] = (),
) -> build.Unit:
    """The compiled variant; `patch` is (file, text, other text): a bug to be planted."""
    kernel = "rnn_backward" if backward else "rnn_forward"
    options = variant.options(backward, relu, gathers)
    return build.Unit(variant.unit, options, kernel, patch=patch)


def unwritten(*shape: int) -> Tensor:
    """NaN: what a kernel does not write shows."""
    return torch.full(shape, torch.nan)


@dataclass
class Launch:
    """A variant and how it is to run."""

    variant: Variant | SingleBlock
    rows: int = 4  # of the batch per cluster; a single block has as many as its variant says
    seed: int = 0
    resident: int = 1
    first: int = 0  # the clusters before this one are not run
    new: Callable[..., Tensor] = unwritten  # memory for results
    wait_limit: int = 20_000_000_000
    patch: tuple[str, ...] = ()
    error: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int32))

    def _run(self, params: ctypes.Structure, relu: bool) -> None:
        backward = isinstance(params, BackwardParams)
        v = self.variant
        rows = v.rows if isinstance(v, SingleBlock) else self.rows
        gathers = not backward and params.ids is not None
        params.rows, params.wait_limit = rows, self.wait_limit
        params.error = self.error.data_ptr()
        unit(v, backward, relu, gathers and isinstance(v, SingleBlock), self.patch).launch(
            "rnn_backward" if backward else "rnn_forward",
            params,
            grid=-(-params.B // rows) * v.cluster,
            cluster=v.cluster,
            block=32 * v.warps,
            shared_bytes=v.shared_bytes(backward, -(-rows // v.rows)),
            seed=self.seed,
            resident=self.resident,
            first=self.first,
        )

    def forward(
        self,
        x: Tensor,  # [V, H] with ids, else [T, B, H]
        ids: Tensor | None,  # [T, B]
        W_hh: Tensor,  # [H, H]
        b_h: Tensor | None,  # [H]
        h0: Tensor,  # [B, H]
        relu: bool,
    ) -> tuple[Tensor, Tensor]:
        """hs [T, B, H] and h_last [B, H]."""
        T, B = (x if ids is None else ids).shape[:2]
        H = x.shape[-1]
        hs, h_last = self.new(T, B, H), self.new(B, H)
        strides = (0, 0) if ids is None else ids.stride()
        self._run(
            ForwardParams(
                T=T, B=B, H=H, V=len(x), ids=_pointer(ids),
                ids_stride_t=strides[0], ids_stride_b=strides[1],
                x=_pointer(x), W_hh=_pointer(W_hh), b_h=_pointer(b_h), h0=_pointer(h0),
                hs=_pointer(hs), h_last=_pointer(h_last),
            ),
            relu,
        )  # fmt: skip
        return hs, h_last

    def backward(
        self,
        grad_hs: Tensor | None,  # [T, B, H]
        grad_h_last: Tensor | None,  # [B, H]
        hs: Tensor,  # [T, B, H]
        W_hh: Tensor,  # [H, H]
        relu: bool,
        need_h0: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """dz [T, B, H] and grad_h0 [B, H]."""
        T, B, H = hs.shape
        dz = self.new(T, B, H)
        grad_h0 = self.new(B, H) if need_h0 else None
        self._run(
            BackwardParams(
                T=T, B=B, H=H, grad_hs=_pointer(grad_hs), grad_h_last=_pointer(grad_h_last),
                hs=_pointer(hs), W_hh=_pointer(W_hh), dz=_pointer(dz), grad_h0=_pointer(grad_h0),
            ),
            relu,
        )  # fmt: skip
        return dz, grad_h0

    def with_seed(self, seed: int) -> Launch:
        return replace(self, seed=seed, error=torch.zeros(1, dtype=torch.int32))
