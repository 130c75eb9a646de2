"""Writes recurrence_variants.json: the shapes of the recurrence's kernel worth having.

    python bench/variants.py [--write]

For devices of each kind, sizes and products it takes the shape that is fastest by the model of
choose_recurrence.py and compiles without spills for every architecture that it can run on, by NVRTC
and, where it is on the PATH, by nvcc; it keeps one already taken where that is nearly as fast. What
no call prefers in the end is dropped. Needs no GPU; takes some minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from rnnfast.backends import native
from rnnfast.backends.cuda import bridge, choose_recurrence, image_cache, nvrtc
from rnnfast.backends.cuda.bridge import Limits, Question
from rnnfast.backends.cuda.choose_recurrence import Choice
from rnnfast.backends.cuda.kernel_table import PRODUCTS, Facts, Variant, facts_of
from rnnfast.backends.cuda.precision import EXACTNESS

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from cuda_resources import compile_by_nvcc

TABLE = Path(choose_recurrence.__file__).parent / "recurrence_variants.json"
DEVICES = {
    "A100": Limits(80, 108, 163 * 1024),
    "RTX 4090": Limits(89, 128, 99 * 1024),
    "H200": Limits(90, 132, 227 * 1024),
    "B200": Limits(100, 148, 227 * 1024),
    "RTX 5090": Limits(120, 170, 99 * 1024),
}
HP = (32, 64, *range(128, 1025, 128))
BATCHES = (1, 8, 32, 128, 256)
NEARLY = 1.05  # times the best: not worth another row
OPERATIONS = ("rnn_forward", "rnn_backward")


def shapes(hp: int, product: int) -> Iterator[Variant]:
    """All that csrc/cuda/recurrence_shape.h allows and whose weights may fit in registers."""
    weight = 1 if PRODUCTS[product] == "16-bit" else 0
    rows = (1, 2, 4, 8) if product == 0 else (8, 16)
    chunks = range(9) if product == 0 else range(17)  # those of tensor cores are smaller
    for cluster, warps, r, smem in itertools.product(
        (1, 2, 4, 8, 16), range(2, 17, 2), rows, chunks
    ):
        streams = chunks if cluster == 1 and product == 0 else (0,)
        for stream in streams:
            variant = Variant(
                hp, cluster, warps, r, 90 if cluster > 1 else 80, smem, stream, product, weight
            )
            facts = facts_of(variant, "rnn_forward")
            if facts and registers(variant, facts) <= min(255, 65536 // facts.threads):
                yield variant


def registers(variant: Variant, facts: Facts) -> int:
    """About what a thread needs: its weights, its sums, and the rest."""
    if variant.product == 0:
        loaded = 16 if variant.stream_chunks else 0  # four columns are on their way at once
        return (
            facts.register_chunks * 4 * facts.chunk_columns
            + loaded
            + facts.chunk_columns * variant.rows
            + 50
        )
    per_chunk = 4 if PRODUCTS[variant.product] == "16-bit" else 8  # 3xTF32 can do with as many
    return facts.register_chunks * per_chunk + variant.rows + 60


def spills(variant: Variant) -> bool:
    for compile_by, operation in itertools.product(compilers(), OPERATIONS):
        options = variant.options(operation, relu=False)
        for arch in architectures(variant, operation):
            try:
                made = compile_by("recurrence", options, arch)
            except nvrtc.CompilerError as error:
                print(f"{options} for sm_{arch}: {error}", file=sys.stderr)
                return True
            if any(each.spill_bytes for each in made.resources.values()):
                return True
    return False


def architectures(variant: Variant, operation: str) -> list[str]:
    """Of the devices that have what it needs."""
    facts = facts_of(variant, operation)
    able = [
        limits.compute_capability
        for limits in DEVICES.values()
        if facts
        and variant.least_capability <= limits.compute_capability
        and facts.fixed_bytes + facts.group_bytes <= limits.shared_bytes
    ]
    return [nvrtc.architecture(capability) for capability in able]


def compilers() -> Iterator[Callable[[str, str, str], nvrtc.Compiled]]:
    """The faster one first: what spills there need not be compiled again."""
    yield lambda unit, options, arch: image_cache.image(unit, options, arch, bridge.sources())
    if shutil.which("nvcc"):
        yield compile_by_nvcc


def calls() -> list[tuple[Question, Limits, str]]:
    """(call, device, least exact product) for which the table should have a row."""
    every = itertools.product(HP, BATCHES, OPERATIONS, DEVICES.values(), EXACTNESS)
    return [
        (Question(operation, B, hp, 0, 32, False, True, 0), device, product)
        for hp, B, operation, device, product in every
    ]


def select() -> list[Variant]:
    taken: list[Variant] = []
    known: dict[Variant, bool] = {}
    for question, limits, product in tqdm(calls(), disable=None):
        # every product has to beat those that are more exact
        best = fastest(taken, question, limits, product)
        best_so_far = best.microseconds if best else choose_recurrence.by_steps(question, limits)
        choices = choose_recurrence.fitting(
            shapes(question.H, PRODUCTS.index(product)), question, limits
        )
        for choice in sorted(choices, key=lambda choice: choice.microseconds):
            if choice.microseconds * NEARLY >= best_so_far:
                break
            if choice.variant not in known:
                known[choice.variant] = spills(choice.variant)
            if not known[choice.variant]:
                taken.append(choice.variant)
                break
    preferred = {best.variant for call in calls() if (best := fastest(taken, *call))}
    return sorted(preferred, key=lambda v: (v.product, v.hp, v.least_capability, v.macros()))


def fastest(
    taken: list[Variant], question: Question, limits: Limits, product: str
) -> Choice | None:
    """Of those taken, none less exact than `product`; None: step by step is faster."""
    rows = [v for v in taken if v.hp == question.H and v.is_allowed(product)]
    choices = choose_recurrence.fitting(rows, question, limits)
    best = min(choices, key=lambda choice: choice.microseconds, default=None)
    return (
        best if best and best.microseconds < choose_recurrence.by_steps(question, limits) else None
    )


def as_json(table: list[Variant]) -> str:
    rows = []
    for variant in table:
        values = dataclasses.asdict(variant)
        plain = ("smem_chunks", "stream_chunks", "product", "weight", "cycles")
        rows.append(json.dumps({k: v for k, v in values.items() if v or k not in plain}))
    return "[\n" + ",\n".join(rows) + "\n]\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    options = parser.parse_args()
    if error := native.load_error():
        raise SystemExit(error)
    with image_cache.quietly():
        text = as_json(select())
    if options.write:
        TABLE.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
