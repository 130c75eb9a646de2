"""The CUDA recurrence, emulated on the CPU: very many steps, and offsets of more than 32 bits."""

import math
import mmap
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from support.emulator import build
from support.emulator.checks import check, run
from support.emulator.recurrence import Launch, cluster, name_of, single_block
from support.problems import Problem, make

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(bool(build.why_not()), reason=build.why_not()),
]


CLUSTER, BLOCK = cluster(128, 2, 2), single_block(32, 2)


# A step of a cluster takes the emulator twenty times as long.
@pytest.mark.parametrize(
    ("variant", "T"), [(CLUSTER, 5_000), (BLOCK, 100_000)], ids=["cluster", "block"]
)
def test_very_many_steps(variant, T):
    check(Launch(variant), make(T, 1, 31, V=28), seeds=1)


def sparse(*shape: int) -> Tensor:
    """Zeros. Memory is taken for what is touched alone."""
    no_reserve, count = 0x4000, math.prod(shape)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    try:
        memory = mmap.mmap(-1, 4 * max(count, 1), flags=flags)  # scratch may have no bytes
    except OSError as error:
        pytest.skip(f"no {count >> 28} GiB of addresses: {error}")
    return torch.frombuffer(memory, dtype=torch.float32)[:count].view(shape)


def test_ids_and_rows_of_a_table_that_are_further_apart_than_32_bits():
    """A table of 2^31 floats, ids 2^31 apart."""
    V, H, T, B = (1 << 26) + 1, 32, 2, 3
    table = sparse(V, H)
    ids = sparse(3 << 32).view(torch.int64).as_strided((T, B), (1 << 31, 1))
    p = make(T, B, H, V=2)
    table[0], table[V - 1] = p.x[0], p.x[1]
    ids.copy_(p.ids * (V - 1))
    hs, _ = Launch(CLUSTER).forward(table, ids, p.W_hh, p.b_h, p.h0)
    assert torch.equal(hs, run(Launch(CLUSTER), p)["hs"])


def last_of_very_many(launch: Launch, p: Problem) -> dict[str, Tensor]:
    """Results for the one sequence of p as the last of 2^27 + 1, of which its cluster alone is run.

    A step has 2^32 floats and one row more: offsets cut to 32 bits stay inside, at other rows.
    """
    B, T = (1 << 27) + 1, len(p.hs)

    def as_last(value: Tensor) -> Tensor:
        wide = sparse(*value.shape[:-2], B, value.shape[-1])
        wide[..., B - 1, :] = value[..., 0, :]
        return wide

    names = ("x", "h0", "hs", "grad_hs", "grad_h_last")
    launch = replace(launch, first=(B - 1) // launch.rows, new=sparse)
    got = run(launch, replace(p, **{name: as_last(getattr(p, name)) for name in names}))
    assert got["hs"].shape == (T, B, p.h0.shape[1])
    return {name: value[..., B - 1 :, :] for name, value in got.items()}


@pytest.mark.parametrize("variant", [CLUSTER, BLOCK], ids=name_of)
def test_sequences_further_apart_than_32_bits(variant):
    check_last_of_very_many(Launch(variant))


def check_last_of_very_many(launch: Launch) -> None:
    p = make(2, 1, 32)
    want = run(launch, p)
    for name, value in last_of_very_many(launch, p).items():
        assert torch.equal(value, want[name]), name


# Where 64 bits are needed, and the same with 32.
CUT = {
    "a row of inputs and results": ("static_cast<long long>(row) * p.row", "row * p.row"),
    "a row of the first and last states": ("static_cast<long long>(row) * p.H", "row * p.H"),
    "a step of inputs and results": ("s * p.step", "s * static_cast<int>(p.step)"),
}


@pytest.mark.parametrize("place", CUT)
def test_finds_an_offset_of_32_bits(place):
    with pytest.raises(AssertionError):
        check_last_of_very_many(Launch(CLUSTER, patch=("sequence.cuh", *CUT[place])))
