"""The recurrence with weights given transposed, backwards in time, in both directions, ragged."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rnnfast.backends import library
from support.compare import assert_close_to_f64
from support.options import Call, loop, make, run


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    assert library.load_error() == ""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["f32", "f64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


def check(call: Call) -> None:
    """Every result is as near to float64 as plain torch's.

    In float64 plain torch is the truth itself: 64 units in the last place are allowed there.
    """
    got, same, truth = run(call), loop(call), loop(call.to(torch.float64))
    for name, value in truth.items():
        if call.x.dtype == torch.float64:
            torch.testing.assert_close(got[name], value, rtol=0, atol=64 * 2.3e-16 * size_of(value))
        else:
            assert_close_to_f64(name, got[name], same[name], value)


def size_of(value: Tensor) -> float:
    return max(1.0, value.abs().max().item())


# Rows split, columns split, one row that one or several workers share, rows that no tile fills.
SHAPES = [(9, 5, 17), (35, 33, 64), (6, 5, 150), (12, 1, 300), (7, 1, 33), (1, 1, 1), (3, 2, 200)]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("V", [None, 5, 1000], ids=["dense", "table", "large"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [(True, False), (False, True), (True, True)])
def test_transposed_and_reverse(
    options: tuple[bool, bool], shape: tuple[int, ...], V: int | None, threads: int
) -> None:
    torch.set_num_threads(threads)
    transposed, reverse = options
    check(make(*shape, V, transposed=transposed, reverse=reverse))


@pytest.mark.parametrize("cell", ["tanh", "relu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_cell_and_dtype(shape: tuple[int, ...], cell: str, dtype: torch.dtype) -> None:
    check(make(*shape, dtype=dtype, cell=cell, transposed=True, reverse=True))


def test_many_steps(dtype: torch.dtype) -> None:
    check(make(300, 3, 33, 5, dtype=dtype, transposed=True, reverse=True))


LENGTHS = {
    "one step more": [4, 3, 3, 3, 3],
    "all different": [9, 8, 7, 6, 5, 4, 3, 2, 1],
    "one is long": [40, 2, 2, 1, 1, 1],
    "two": [5, 2],
    "equal": [6] * 7,
    "many": sorted([1 + 7 * i % 20 for i in range(37)], reverse=True),
    "one": [5],
}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("V", [None, 5, 1000], ids=["dense", "table", "large"])
@pytest.mark.parametrize("H", [3, 33, 150])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_lengths(lengths: list[int], reverse: bool, H: int, V: int | None, threads: int) -> None:
    torch.set_num_threads(threads)
    T, B = max(lengths), len(lengths)
    check(make(T, B, H, V, lengths=lengths, reverse=reverse, transposed=H == 33))


def test_a_sequence_is_as_if_it_were_alone() -> None:
    lengths = LENGTHS["all different"]
    batch = make(9, 9, 40, lengths=lengths)
    hs = run(batch)["hs"]
    first = torch.cat((torch.zeros(1, dtype=torch.long), batch.batch_sizes.cumsum(0)))
    for n, length in enumerate(lengths):
        rows = first[:length] + n
        alone = replace(
            batch, x=batch.x[rows].unsqueeze(1), h0=batch.h0[n : n + 1], batch_sizes=None
        )
        torch.testing.assert_close(
            hs[rows].unsqueeze(1), torch.ops.rnnfast.rnn(*arguments(alone))[0]
        )


def arguments(call: Call) -> tuple[object, ...]:
    return call.x, call.ids, call.W_hh, call.b_h, call.h0, 0


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_directions(shape: tuple[int, ...], transposed: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    check(make(*shape, both=True, transposed=transposed))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_both_directions_of_lengths(lengths: list[int], threads: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    check(make(max(lengths), len(lengths), 70, both=True, lengths=lengths, dtype=dtype))


@pytest.mark.parametrize("missing", ["grad_hs", "grad_h_last"])
@pytest.mark.parametrize("lengths", [None, LENGTHS["many"]])
def test_missing_gradients(missing: str, lengths: list[int] | None) -> None:
    B = 5 if lengths is None else len(lengths)
    check(replace(make(20, B, 33, both=True, lengths=lengths), **{missing: None}))


def test_the_same_bits_on_every_run() -> None:
    for call in (make(20, 1, 300, transposed=True), make(20, 37, 64, lengths=LENGTHS["many"])):
        first = run(call)
        for _ in range(5):
            for name, value in run(call).items():
                assert torch.equal(value, first[name]), name


@pytest.mark.parametrize(
    ("batch_sizes", "message"),
    [
        ([3, 4], r"batch_sizes\[1\] is 4; it must be at least 1 and at most 3"),
        ([3, 0], r"batch_sizes\[1\] is 0; it must be at least 1"),
        ([3, 1], r"x is float32 \[5, 8\]; it must be float32 \[N, H\] = \[4, 8\]"),
        ([], r"T, the number of steps, is 0"),
    ],
)
def test_refuses_other_batch_sizes(batch_sizes: list[int], message: str) -> None:
    call = make(2, 3, 8, lengths=[2, 2, 1])
    with pytest.raises(RuntimeError, match=message):
        run(replace(call, batch_sizes=torch.tensor(batch_sizes, dtype=torch.long)))


def test_refuses_ids_in_both_directions() -> None:
    call = make(2, 3, 8, both=True)
    with pytest.raises(RuntimeError, match=r"W_hh is float32 \[2, 8, 8\]; it must be \[H, H\]"):
        run(replace(call, ids=torch.zeros(2, 3, dtype=torch.long)))
