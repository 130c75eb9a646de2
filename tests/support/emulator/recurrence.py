"""Variants of the recurrence's kernels, launched in the emulator on torch's memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rnnfast.backends.cuda.kernel_table import LEAKY_CELLS, Needs, Variant
from support.emulator import build
from support.emulator.params import params

NONE, BAD_ID, BAD_TARGET, TIMEOUT = range(4)  # the error word


def cluster(hp: int, cluster: int, rows: int, smem_chunks: int = 0) -> Variant:
    return Variant("cluster", (hp, cluster, rows, smem_chunks))


def large_batch(
    hp: int, rows: int, product: int = 2, buffers: int = 2, multicasts: int = 0
) -> Variant:
    return Variant("large_batch", (hp, hp // 64, rows, product, buffers, multicasts))


def single_block(hp: int, lanes: int, rows: int = 1, smem_slots: int = 0) -> Variant:
    return Variant("single_block", (hp, lanes, rows, smem_slots))


def name_of(variant: Variant) -> str:
    """For the names of tests."""
    return "-".join([variant.unit, *map(str, variant.macros)])


@functools.cache
def unit(
    variant: Variant,
    backward: bool,
    cell: int,
    gathers: bool,
    has_options: bool,
    patch: tuple[str, ...],
):
    """The compiled variant; `patch` is (file, text, other text): a bug to be planted."""
    kernel = "rnn_backward" if backward else "rnn_forward"
    options = variant.recurrence_options(kernel, cell, has_options)
    return build.Unit(variant.unit, options[-1 if gathers else 0], kernel, patch=patch)


def needs_of(variant: Variant, backward: bool, cell: int = 0) -> Needs:
    needs = variant.needs(backward, cell in LEAKY_CELLS)
    assert needs is not None, variant
    return needs


def unwritten(*shape: int) -> Tensor:
    """NaN: what a kernel does not write shows."""
    return torch.full(shape, torch.nan)


@dataclass
class Launch:
    """A variant and how it is to run."""

    variant: Variant
    rows: int = 0  # of the batch per cluster; 0: as many as the variant has
    seed: int = 0
    resident: int = 1
    first: int = 0  # the clusters before this one are not run
    reverse: bool = False  # step t follows step t + 1
    half: int | None = None  # of rows of 2 H floats, as a layer of both directions has them
    new: Callable[..., Tensor] = unwritten  # memory for results
    wait_limit: int = 20_000_000_000
    patch: tuple[str, ...] = ()
    error: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int32))

    def __post_init__(self) -> None:
        self.rows = self.rows or self.variant["ROWS"]

    def order(self, T: int, backward: bool) -> tuple[int, int]:
        """The time of the step that is taken first, and from one to the next."""
        return (T - 1, -1) if self.reverse != backward else (0, 1)

    def unwritten(self, *shape: int) -> Tensor:  # [..., H]
        """Rows of results, of which the other half is to stay as it is."""
        return self._half_of(self.new(*shape[:-1], self.row(shape[-1])))

    def _half_of(self, rows: Tensor) -> Tensor:
        return rows if self.half is None else rows.chunk(2, -1)[self.half]

    def given(self, rows: Tensor) -> Tensor:  # [..., H]
        """The same, beside NaN where a row has another half."""
        if self.half is None:
            return rows
        self._half_of(wide := unwritten(*rows.shape[:-1], 2 * rows.shape[-1])).copy_(rows)
        return self._half_of(wide)

    def row(self, H: int) -> int:
        """Floats from one row to the next."""
        return H if self.half is None else 2 * H

    def _strides(self, rows: Tensor, way: int) -> dict[str, int]:
        T, B, H = rows.shape
        return {"T": T, "B": B, "H": H, "row": self.row(H), "step": way * B * self.row(H)}

    def run(self, cell: int, backward: bool, B: int, **values: object) -> None:
        """The kernel with these parameters; with `options` among them, the one that knows them."""
        needs = needs_of(self.variant, backward, cell)
        grid = -(-B // self.rows) * self.variant.cluster
        scratch = self.new(grid * needs.scratch_bytes // 4)
        kernel = "Backward" if backward else "Forward"
        given = {key: value for key, value in values.items() if value is not None}
        has_options = "options" in given
        unit(self.variant, backward, cell, "ids" in given, has_options, self.patch).launch(
            f"rnn_{kernel.lower()}",
            params(
                f"Rnn{kernel}Params",
                **{"B": B, "rows": self.rows, "wait_limit": self.wait_limit, "error": self.error},
                **given,
                scratch=scratch,
            ),
            grid=grid,
            cluster=self.variant.cluster,
            block=needs.threads,
            shared_bytes=needs.shared_bytes,
            seed=self.seed,
            resident=self.resident,
            first=self.first,
        )
        if self.error.item() == NONE and build.emulator().emulator_unannounced():
            raise build.EmulationError("a block was sent bytes that it has not announced")

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
        hs, h_last = self.unwritten(T, B, H), self.new(B, H)
        t, way = self.order(T, backward=False)
        table: dict[str, object] = {"x": self.given(x)[t]}
        if ids is not None:
            along, across = ids.stride()
            table = {"x": x, "ids": ids[t], "ids_stride_t": way * along, "ids_stride_b": across}
        self.run(
            int(relu),
            False,
            **{**self._strides(hs, way), "V": len(x), **table},
            **{"W_hh": W_hh, "b_h": b_h, "h0": h0, "hs": hs[t], "h_last": h_last},
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
        dz = self.unwritten(T, B, H)
        grad_h0 = self.new(B, H) if need_h0 else None
        t, way = self.order(T, backward=True)
        first = None if grad_hs is None else self.given(grad_hs)[t]
        self.run(
            int(relu),
            True,
            **{**self._strides(dz, way), "grad_hs": first, "hs": self.given(hs)[t]},
            **{"grad_h_last": grad_h_last, "W_hh": W_hh, "dz": dz[t], "grad_h0": grad_h0},
        )
        return dz, grad_h0

    def with_seed(self, seed: int) -> Launch:
        return replace(self, seed=seed, error=torch.zeros(1, dtype=torch.int32))
