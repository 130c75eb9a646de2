"""The table of the recurrence's variants, and every kernel that may be launched."""

from __future__ import annotations

import ctypes
import functools
import json
from dataclasses import dataclass, field
from pathlib import Path

from rnnfast.backends.cuda import bridge, choose_decode, precision

PRODUCTS = ("FFMA", "TF32", "3xTF32", "16-bit")  # RF_PRODUCT
WEIGHTS = ("float32", "bfloat16", "float16")  # RF_WEIGHT

_REALS = ("-DRF_REAL=float", "-DRF_REAL=double")
# The other units and all options that csrc/ launches them with.
UNITS = {
    "streamed": tuple(f"{real} -DRF_RELU={relu}" for real in _REALS for relu in (0, 1)),
    "row_sums": _REALS,
    "next_id": _REALS,
    "clip_norm": ("",),
    "cross_entropy": tuple(f"{real} -DRF_ROW_WARPS={warps}" for real in _REALS for warps in (1, 8)),
}


@dataclass(frozen=True)
class Variant:
    """A row of the table: the macros of csrc/cuda/recurrence.cu and where they can run."""

    hp: int  # H padded
    cluster: int
    warps: int
    rows: int  # of a group
    least_capability: int
    smem_chunks: int = 0
    stream_chunks: int = 0
    product: int = 0
    weight: int = 0
    # {"90": {"rnn_forward": [issue, latency], ...}}, in cycles
    cycles: dict[str, dict[str, list[float]]] = field(default_factory=dict, hash=False)

    def macros(self) -> tuple[int, ...]:
        """In the order of RecurrenceShape."""
        return (
            *(self.hp, self.cluster, self.warps, self.rows),
            *(self.smem_chunks, self.stream_chunks, self.product, self.weight),
        )

    def options(self, operation: str, relu: bool) -> str:
        names = ("HP", "CLUSTER", "WARPS", "ROWS", "SMEM_CHUNKS", "STREAM_CHUNKS")
        values = dict(zip((*names, "PRODUCT", "WEIGHT"), self.macros(), strict=True))
        values |= {"RELU": int(relu), "BACKWARD": int(operation == "rnn_backward")}
        return " ".join(f"-DRF_{name}={value}" for name, value in values.items())

    def is_allowed(self, least_exact: str) -> bool:
        """Whether its products are at least as exact as this one."""
        return PRODUCTS[self.product] in precision.allowed(least_exact)

    def tier(self) -> str:
        return "S" if self.cluster == 1 else "C"

    def weights_place(self, facts: Facts) -> str:
        parts = {
            "registers": facts.register_chunks,
            "shared memory": self.smem_chunks,
            "the L2 cache": self.stream_chunks,
        }
        used = [f"{count}/{facts.chunks} in {place}" for place, count in parts.items() if count]
        return used[0].split(" ", 1)[1] if len(used) == 1 else ", ".join(used)


@dataclass(frozen=True)
class Facts:
    """What recurrence_shape.h says about a variant."""

    threads: int
    chunks: int
    register_chunks: int
    chunk_columns: int
    fixed_bytes: int
    group_bytes: int


@functools.cache
def table() -> tuple[Variant, ...]:
    rows = json.loads((Path(__file__).parent / "recurrence_variants.json").read_text())
    return tuple(Variant(**row) for row in rows)


def padded(H: int) -> int:
    """H as the kernel stores it."""
    return next((hp for hp in (32, 64) if hp >= H), -(-H // 128) * 128)


@functools.cache
def facts_of(variant: Variant, operation: str) -> Facts | None:
    """None: recurrence_shape.h has no such shape."""
    macros = (ctypes.c_int * 8)(*variant.macros())
    facts = (ctypes.c_int * 6)()
    backward = int(operation == "rnn_backward")
    return Facts(*facts) if bridge.shape(macros, backward, facts) else None


@dataclass(frozen=True)
class Kernels:
    """A unit of device code with its options, and what a launch adds in shared memory at least."""

    unit: str
    options: str
    shared_bytes: int = 0


# That a block may have, by the family of devices (8.0 and 8.7 alone have more than 8.6 and 8.9).
_SHARED_BYTES = {8: 163 * 1024, 9: 227 * 1024, 10: 227 * 1024, 12: 99 * 1024}


def kernels(capability: int) -> list[Kernels]:
    """Everything that may be launched on a device of this compute capability."""
    room = _SHARED_BYTES.get(capability // 10, 227 * 1024)
    found = [Kernels(unit, options) for unit, several in UNITS.items() for options in several]
    for variant in table():
        for operation in ("rnn_forward", "rnn_backward"):
            facts = facts_of(variant, operation)
            if facts and variant.least_capability <= capability:
                shared_bytes = facts.fixed_bytes + facts.group_bytes
                if shared_bytes > room:
                    continue
                for relu in (False, True):
                    options = variant.options(operation, relu)
                    found.append(Kernels("recurrence", options, shared_bytes))
    found += [Kernels("decode", options) for options in choose_decode.options(capability)]
    return found
