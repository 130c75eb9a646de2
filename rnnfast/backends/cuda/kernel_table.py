"""The table of the kernels' variants, what each of them needs, and all kernels that may run.

A row of kernel_table.json is a unit of csrc/cuda/device/ with its macros (RF_...), where it can
run, and what a step of it takes. `cycles` were measured on a device of the compute capability that
they stand under, or are predictions for an H100: those of a "prototype" of the kernel, which was
measured there, or follow from its "other sizes". For `rows` of a cluster of C blocks these are

    325 + 15 C + 2.5 f + (rows - 1) (290 + 1.12 f),  f = HP^2 / C / 128,

with f FFMAs of a row for each lane of a multiprocessor; 13 sizes of the prototype are within 9 % of
it. A backward step is taken to be 10 % longer, on the tensor cores 5 %.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rnnfast.backends.cuda import bridge

# Of the variants in the table, in the order of the members of the unit's shape.
MACROS = {
    "cluster": ("HP", "CLUSTER", "ROWS", "SMEM_CHUNKS"),
    "large_batch": ("HP", "CLUSTER", "ROWS", "PRODUCT", "BUFFERS", "MULTICASTS"),
    "single_block": ("HP", "LANES", "ROWS", "SMEM_SLOTS"),
    "decode": ("HP", "CLUSTER", "WARPS", "ROWS", "SMEM_CHUNKS"),
}
PRODUCTS = ("FFMA", "TF32", "2xFP16")  # RF_PRODUCT
OPERATIONS = ("rnn_forward", "rnn_backward")
TANH = 0  # its code in csrc/cells/cells.h
CELLS = (TANH, 1)  # that every kernel has
LEAKY_CELLS = (2, 3)
_UNITS_WITH_OPTIONS = ("cluster", "single_block")

_REALS = ("-DRF_REAL=float", "-DRF_REAL=double")
# The units without variants, and all options that csrc/ launches them with.
UNITS = {
    "streamed": tuple(
        f"{real} -DRF_CELL={cell}" for real in _REALS for cell in (*CELLS, *LEAKY_CELLS)
    ),
    "states_before": _REALS,
    "write_values": ("",),
    "row_sums": _REALS,
    "sum_parts": _REALS,
    "weight_product": ("",),
    "gradients": _REALS,
    "readout": tuple(f"{real} -DRF_COLUMNS={columns}" for real in _REALS for columns in (1, 2, 4)),
    "next_id": _REALS,
    "clip_norm": ("",),
    "cross_entropy": tuple(f"{real} -DRF_ROW_WARPS={warps}" for real in _REALS for warps in (1, 8)),
}


@dataclass(frozen=True)
class Cycles:
    """What a step takes: max(n * issue, issue + latency), with n blocks on a multiprocessor."""

    source: str  # which measurement this is
    issue: float
    latency: float


@dataclass(frozen=True)
class Needs:
    """What the launch of a variant takes for each block."""

    threads: int
    shared_bytes: int
    scratch_bytes: int  # of global memory


@dataclass(frozen=True)
class Variant:
    """A row of the table."""

    unit: str
    macros: tuple[int, ...]
    least_capability: int = 80
    most_capability: int = 999
    # {"90": {"rnn_forward": [issue, latency], ...}}, the most trustworthy first
    cycles: dict[str, dict[str, list[float]]] = field(default_factory=dict, hash=False)
    # Above it the kernels that know lengths, resets and leaky cells (RF_OPTIONS) spill registers.
    most_capability_with_options: int = 999

    def __getitem__(self, macro: str) -> int:
        return self.macros[MACROS[self.unit].index(macro)]

    @property
    def hp(self) -> int:
        """H padded; 0: any H."""
        return self["HP"]

    @property
    def cluster(self) -> int:
        """How many blocks have a copy of W_hh together."""
        return self["CLUSTER"] if "CLUSTER" in MACROS[self.unit] else 1

    @property
    def product(self) -> str:
        return PRODUCTS[self["PRODUCT"]] if "PRODUCT" in MACROS[self.unit] else "FFMA"

    def with_rows(self, rows: int) -> Variant:
        index = MACROS[self.unit].index("ROWS")
        return replace(self, macros=(*self.macros[:index], rows, *self.macros[index + 1 :]))

    def runs_on(self, capability: int, has_options: bool = False) -> bool:
        """`has_options`: and whether its kernels know lengths, resets and leaky cells there."""
        knows_them = (
            self.unit in _UNITS_WITH_OPTIONS and capability <= self.most_capability_with_options
        )
        runs = self.least_capability <= capability <= self.most_capability
        return runs and (knows_them or not has_options)

    def options(self, **others: int) -> str:
        """For the compiler: the variant's macros, then those of the call."""
        macros = dict(zip(MACROS[self.unit], self.macros, strict=True)) | others
        return " ".join(f"-DRF_{name}={int(value)}" for name, value in macros.items())

    def recurrence_options(self, operation: str, cell: int, has_options: bool) -> list[str]:
        """The kernels for an operation: for dense inputs, then for ids, where these differ."""
        macros = {"BACKWARD": operation == "rnn_backward", "CELL": cell}
        if has_options or cell in LEAKY_CELLS:
            macros["OPTIONS"] = 1
        if self.unit != "single_block":
            return [self.options(**macros)]
        gathers = (0,) if operation == "rnn_backward" else (0, 1)
        return [self.options(**macros, GATHERS=each) for each in gathers]

    def needs(self, *others: int, H: int = 0, V: int = 0) -> Needs | None:
        """`others`: of the call, as shapes.cpp lists them. None: there is no such shape."""
        return _needs(self.unit, (*self.macros, *map(int, others)), H, V)

    def cycles_of(self, operation: str, capability: int) -> Cycles | None:
        """None: the variant is not for this operation."""
        here = str(capability)
        for origin in (here, *self.cycles):
            if found := self.cycles.get(origin, {}).get(operation):
                return Cycles("measured" if origin == here else _elsewhere(origin), *found)
        return None


def _elsewhere(origin: str) -> str:
    """Where cycles come from that were not measured on this kind of device."""
    if origin == "prototype":
        return "predicted, from a prototype on an H100"
    if origin == "other sizes":
        return "predicted, from other sizes of a prototype on an H100"
    return f"not measured on this device; on one of {int(origin) / 10}"


@functools.cache
def table() -> tuple[Variant, ...]:
    rows = json.loads((Path(__file__).parent / "kernel_table.json").read_text())
    return tuple(map(from_row, rows))


def from_row(row: dict[str, Any]) -> Variant:
    """A macro that a row leaves out is 0."""
    names = MACROS[row["unit"]]
    others = {name: value for name, value in row.items() if name not in names}
    return Variant(macros=tuple(row.get(name, 0) for name in names), **others)


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
        if variant.runs_on(capability):
            decodes = variant.unit == "decode"
            of_unit = _decodes(variant) if decodes else _recurrences(variant, capability)
            found += [each for each in of_unit if each.shared_bytes <= room]
    return found


def _recurrences(variant: Variant, capability: int) -> Iterator[Kernels]:
    calls = [(cell, False) for cell in CELLS]
    if variant.runs_on(capability, has_options=True):
        calls += [(cell, True) for cell in (*CELLS, *LEAKY_CELLS)]
    for operation in OPERATIONS:
        backward = operation == "rnn_backward"
        if not variant.cycles_of(operation, 0):
            continue
        for cell, has_options in calls:
            if needs := variant.needs(backward, cell in LEAKY_CELLS):
                for options in variant.recurrence_options(operation, cell, has_options):
                    yield Kernels(variant.unit, options, needs.shared_bytes)


def _decodes(variant: Variant) -> Iterator[Kernels]:
    for rows in sorted({1, variant["ROWS"]}):
        for holds_tables, cell in itertools.product((True, False), CELLS):
            options = variant.with_rows(rows).options(HOLDS_TABLES=holds_tables, CELL=cell)
            yield Kernels(variant.unit, options)


@functools.cache
def _needs(unit: str, macros: tuple[int, ...], H: int, V: int) -> Needs | None:
    needs = (ctypes.c_int64 * 3)()
    return Needs(*needs) if bridge.needs(unit, macros, H, V, needs) else None
