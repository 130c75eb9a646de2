"""Variants of csrc/cuda/device/large_batch.cu, launched in the emulator on torch's memory."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from support.emulator import build
from support.emulator.params import params


@dataclass(frozen=True)
class Variant:
    """The macros of large_batch.cu, without the direction."""

    hp: int
    rows: int  # of the batch per cluster, at most
    product: int = 2

    @property
    def cluster(self) -> int:
        return self.hp // 64

    def options(self, backward: bool, relu: bool) -> str:
        values = {"HP": self.hp, "CLUSTER": self.cluster, "ROWS": self.rows}
        values |= {"PRODUCT": self.product, "BACKWARD": int(backward), "CELL": int(relu)}
        return " ".join(f"-DRF_{name}={value}" for name, value in values.items())

    def shared_bytes(self) -> int:
        """-1: there is no such variant."""
        macros = (ctypes.c_int * 4)(self.hp, self.cluster, self.rows, self.product)
        bytes_: int = build.shapes().shape_large_batch_bytes(macros)
        return bytes_

    def __str__(self) -> str:
        return f"H{self.hp}-rows{self.rows}-{('tf32', 'pairs')[self.product - 1]}"


@functools.cache
def unit(variant: Variant, backward: bool, relu: bool, patch: tuple[str, ...]) -> build.Unit:
    """The compiled variant; `patch` is (file, text, other text): a bug to be planted."""
    kernel = "rnn_backward" if backward else "rnn_forward"
    return build.Unit("large_batch", variant.options(backward, relu), kernel, patch=patch)


def unwritten(*shape: int) -> Tensor:
    """NaN: what a kernel does not write shows."""
    return torch.full(shape, torch.nan)


@dataclass
class Launch:
    """A variant and how it is to run."""

    variant: Variant
    rows: int = 3  # of the batch per cluster
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
            block=512,
            shared_bytes=self.variant.shared_bytes(),
            seed=self.seed,
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
        hs, h_last = unwritten(T, B, H), unwritten(B, H)
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
        dz = unwritten(T, B, H)
        grad_h0 = unwritten(B, H) if need_h0 else None
        self._run(
            True,
            relu,
            **{"T": T, "B": B, "H": H, "grad_hs": grad_hs, "grad_h_last": grad_h_last},
            **{"hs": hs, "W_hh": W_hh, "dz": dz, "grad_h0": grad_h0},
        )
        return dz, grad_h0

    def with_seed(self, seed: int) -> Launch:
        return replace(self, seed=seed, error=torch.zeros(1, dtype=torch.int32))
