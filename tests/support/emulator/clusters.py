"""Variants of large_batch.cu and cluster.cu, launched in the emulator on torch's memory."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from support.emulator import build
from support.emulator.params import params


def _options(**values: int) -> str:
    return " ".join(f"-DRF_{name}={int(value)}" for name, value in values.items())


@dataclass(frozen=True)
class LargeBatch:
    """The macros of large_batch.cu, without direction and activation."""

    hp: int
    rows: int  # of the batch per cluster, at most
    product: int = 2

    unit = "large_batch"
    threads = 512

    @property
    def cluster(self) -> int:
        return self.hp // 64

    def options(self, backward: bool, relu: bool) -> str:
        return _options(
            **{"HP": self.hp, "CLUSTER": self.cluster, "ROWS": self.rows, "PRODUCT": self.product},
            **{"BACKWARD": backward, "CELL": relu},
        )

    def shared_bytes(self, backward: bool = False) -> int:
        """-1: there is no such variant."""
        macros = (ctypes.c_int * 4)(self.hp, self.cluster, self.rows, self.product)
        bytes_: int = build.shapes().shape_large_batch_bytes(macros)
        return bytes_

    def __str__(self) -> str:
        return f"H{self.hp}-rows{self.rows}-{('tf32', 'pairs')[self.product - 1]}"


@dataclass(frozen=True)
class Cluster:
    """The macros of cluster.cu, without direction and activation."""

    hp: int
    cluster: int
    rows: int
    smem_chunks: int = 0

    unit = "cluster"
    product = 0

    @property
    def threads(self) -> int:
        return self.hp // self.cluster * 4

    def options(self, backward: bool, relu: bool) -> str:
        return _options(
            **{"HP": self.hp, "CLUSTER": self.cluster, "ROWS": self.rows},
            **{"SMEM_CHUNKS": self.smem_chunks, "BACKWARD": backward, "CELL": relu},
        )

    def shared_bytes(self, backward: bool = False) -> int:
        """-1: there is no such variant."""
        macros = (ctypes.c_int * 5)(self.hp, self.cluster, self.rows, self.smem_chunks, backward)
        bytes_: int = build.shapes().shape_cluster_bytes(macros)
        return bytes_

    def __str__(self) -> str:
        return f"H{self.hp}-cluster{self.cluster}-rows{self.rows}-smem{self.smem_chunks}"


Variant = LargeBatch | Cluster


@functools.cache
def unit(variant: Variant, backward: bool, relu: bool, patch: tuple[str, ...]) -> build.Unit:
    """The compiled variant; `patch` is (file, text, other text): a bug to be planted."""
    kernel = "rnn_backward" if backward else "rnn_forward"
    return build.Unit(variant.unit, variant.options(backward, relu), kernel, patch=patch)


def unwritten(*shape: int) -> Tensor:
    """NaN: what a kernel does not write shows."""
    return torch.full(shape, torch.nan)


@dataclass
class Launch:
    """A variant and how it is to run."""

    variant: Variant
    rows: int = 3  # of the batch per cluster
    resident: int = 1
    first: int = 0  # the clusters before this one are not run
    new: Callable[..., Tensor] = unwritten  # memory for results
    seed: int = 0
    wait_limit: int = 20_000_000_000
    patch: tuple[str, ...] = ()
    error: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int32))

    def _run(self, backward: bool, relu: bool, **values: object) -> None:
        name = "Backward" if backward else "Forward"
        made = params(
            f"Rnn{name}Params",
            rows=self.rows,
            wait_limit=self.wait_limit,
            error=self.error,
            **{key: value for key, value in values.items() if value is not None},
        )
        unit(self.variant, backward, relu, self.patch).launch(
            f"rnn_{name.lower()}",
            made,
            grid=-(-made.B // self.rows) * self.variant.cluster,
            cluster=self.variant.cluster,
            block=self.variant.threads,
            shared_bytes=self.variant.shared_bytes(backward),
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
        relu: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """hs [T, B, H] and h_last [B, H]."""
        T, B = (x if ids is None else ids).shape[:2]
        H = x.shape[-1]
        hs, h_last = self.new(T, B, H), self.new(B, H)
        strides = (0, 0) if ids is None else ids.stride()
        self._run(
            False,
            relu,
            **{"T": T, "B": B, "H": H, "V": len(x), "ids": ids},
            **{"ids_stride_t": strides[0], "ids_stride_b": strides[1]},
            **{"x": x, "W_hh": W_hh, "b_h": b_h, "h0": h0, "hs": hs, "h_last": h_last},
        )
        return hs, h_last

    def backward(
        self,
        grad_hs: Tensor | None,  # [T, B, H]
        grad_h_last: Tensor | None,  # [B, H]
        hs: Tensor,  # [T, B, H]
        W_hh: Tensor,  # [H, H]
        relu: bool = False,
        need_h0: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """dz [T, B, H] and grad_h0 [B, H]."""
        T, B, H = hs.shape
        dz = self.new(T, B, H)
        grad_h0 = self.new(B, H) if need_h0 else None
        self._run(
            True,
            relu,
            **{"T": T, "B": B, "H": H, "grad_hs": grad_hs, "grad_h_last": grad_h_last},
            **{"hs": hs, "W_hh": W_hh, "dz": dz, "grad_h0": grad_h0},
        )
        return dz, grad_h0

    def with_seed(self, seed: int) -> Launch:
        return replace(self, seed=seed, error=torch.zeros(1, dtype=torch.int32))
