"""The options of the recurrence on the CPU, each for itself and with others."""

from typing import Any

import pytest
import torch

from rnnfast.backends import Adjoint, Needs, Recurrence, library
from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from rnnfast.cells import CELLS
from support import instruction_sets, recurrences
from support.recurrences import Case, make, run

assert library.load_error() == ""


def check(case: Case) -> None:
    recurrences.check(native, case)


# Rows split, columns split, one row that one or several workers share, rows that no tile fills.
SHAPES = [(35, 33, 64), (6, 5, 150), (12, 1, 300), (7, 1, 33), (1, 1, 1)]
LENGTHS = {
    "all different": [9, 8, 7, 6, 5, 4, 3, 2, 1],
    "one is long": [40, 2, 2, 1, 1, 1],
    "equal": [6] * 7,
    "many": sorted([1 + 7 * i % 20 for i in range(37)], reverse=True),
    "one": [5],
}
TABLES = pytest.mark.parametrize("V", [None, 5, 1000], ids=["dense", "table", "large table"])
# Two threads meet every barrier; other numbers are for --full.
_FULL = {"marks": pytest.mark.full}
THREADS = pytest.mark.parametrize(
    "threads", [pytest.param(1, **_FULL), 2, pytest.param(3, **_FULL), pytest.param(4, **_FULL)]
)
LENGTHS_OF_ALL = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


@THREADS
@TABLES
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_transposed(reverse: bool, shape: tuple[int, ...], V: int | None, threads: int) -> None:
    torch.set_num_threads(threads)
    check(make(*shape, V, transposed=True, reverse=reverse))


@DTYPES
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_cells_backwards_in_time(shape: tuple[int, ...], cell: str, dtype: torch.dtype) -> None:
    check(make(*shape, dtype=dtype, cell=cell, reverse=True))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_optional(shape: tuple[int, ...], both: bool) -> None:
    recurrences.check_gradients_are_optional(native, make(*shape, cell="leaky_relu", both=both))


@DTYPES
@pytest.mark.parametrize("cell", ["tanh", "leaky_tanh"])
def test_many_steps(cell: str, dtype: torch.dtype) -> None:
    check(make(300, 3, 33, 5, dtype=dtype, cell=cell, transposed=True, reverse=True))


@THREADS
@TABLES
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@LENGTHS_OF_ALL
def test_lengths(lengths: list[int], reverse: bool, V: int | None, threads: int) -> None:
    torch.set_num_threads(threads)
    H = 150 if threads == 2 else 33
    check(make(max(lengths), len(lengths), H, V, lengths=lengths, reverse=reverse))


def test_a_sequence_is_as_if_it_were_alone() -> None:
    lengths = LENGTHS["all different"]
    call = make(9, 9, 40, lengths=lengths).call
    hs, h_last, _ = native.rnn_forward(call, True)
    first = torch.cat((torch.zeros(1, dtype=torch.long), call.batch_sizes.cumsum(0)))
    for n, length in enumerate(lengths):
        rows = first[:length] + n
        alone = call._replace(x=call.x[rows, None], h0=call.h0[n : n + 1], batch_sizes=None)
        want, last, _ = native.rnn_forward(alone, True)
        torch.testing.assert_close(hs[rows, None], want)
        assert torch.equal(h_last[n], hs[rows[-1]])
        torch.testing.assert_close(h_last[n : n + 1], last)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("cell", ["relu", "leaky_relu"])
@pytest.mark.parametrize("B", [3, 9])
def test_no_weight_meets_the_last_state_of_a_sequence(B: int, cell: str, transposed: bool) -> None:
    """It may be infinite, which a gradient of 0 would make NaN."""
    lengths = LENGTHS["all different"][:B]
    case = make(9, B, 150, lengths=lengths, cell=cell, transposed=transposed)
    first = torch.cat((torch.zeros(1, dtype=torch.long), case.call.batch_sizes.cumsum(0)))
    case.call.x[first[torch.tensor(lengths) - 1] + torch.arange(B)] = float("inf")
    got, want = run(native, case), run(reference, case)
    assert (got["h_last"] == float("inf")).all()
    torch.testing.assert_close(got["W_hh"], want["W_hh"], rtol=1e-4, atol=1e-4)


@THREADS
@pytest.mark.parametrize("cell", ["relu", "leaky_relu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_directions(shape: tuple[int, ...], cell: str, threads: int) -> None:
    torch.set_num_threads(threads)
    check(make(*shape, both=True, cell=cell, transposed=threads % 2 == 0))


@DTYPES
@THREADS
@LENGTHS_OF_ALL
def test_both_directions_of_lengths(lengths: list[int], threads: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    check(make(max(lengths), len(lengths), 70, both=True, lengths=lengths, dtype=dtype))


@THREADS
@pytest.mark.parametrize("to_h0", [False, True], ids=["to zero", "to h0"])
@pytest.mark.parametrize("cell", ["tanh", "leaky_tanh"])
@pytest.mark.parametrize("shape", SHAPES)
def test_resets(shape: tuple[int, ...], cell: str, to_h0: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    options = {"transposed": threads == 3, "reverse": threads == 2}
    check(make(*shape, 5, cell=cell, resets=True, resets_to_h0=to_h0, **options))


@pytest.mark.parametrize("cell", ["tanh", "leaky_tanh"])
@pytest.mark.parametrize("to_h0", [False, True], ids=["to zero", "to h0"])
@pytest.mark.parametrize("both", [False, True], ids=["one direction", "both"])
@LENGTHS_OF_ALL
def test_resets_of_lengths(lengths: list[int], both: bool, to_h0: bool, cell: str) -> None:
    shape = max(lengths), len(lengths), 33
    options = {"resets": True, "resets_to_h0": to_h0, "reverse": not both}
    check(make(*shape, lengths=lengths, both=both, cell=cell, **options))


def test_a_reset_everywhere_is_no_recurrence() -> None:
    case = make(5, 3, 20)
    call = case.call._replace(resets=torch.ones(5, 3, dtype=torch.bool))
    hs, _, _ = native.rnn_forward(call, True)
    torch.testing.assert_close(hs, torch.tanh(call.x + call.b_h))
    made = run(native, Case(call, case.grad_hs, case.grad_h_last))
    assert not made["h0"].any()
    assert not made["W_hh"].any()


def test_a_leak_of_one_is_the_plain_cell() -> None:
    case = make(9, 5, 33)
    leaky = case.call._replace(cell="leaky_tanh", leak=torch.ones(33))
    got = run(native, Case(leaky, *case[1:]))
    for name, value in run(native, case).items():
        torch.testing.assert_close(got[name], value)


@pytest.mark.parametrize("V", [None, 5])
def test_strided_arguments(V: int | None) -> None:
    def strided(value: Any) -> Any:
        is_tensor = isinstance(value, torch.Tensor)
        return torch.stack((value, value), -1)[..., 0] if is_tensor else value

    lengths = LENGTHS["all different"]
    case = make(9, 9, 33, V, cell="leaky_tanh", lengths=lengths, resets=True)
    r = Recurrence(*map(strided, case.call))
    hs, h_last, saved = native.rnn_forward(r, True)
    rest = (strided(hs), strided(saved), strided(case.grad_hs), strided(case.grad_h_last))
    made = native.rnn_backward(Adjoint(r, V or 0, *rest, Needs()))
    for name, value in run(native, case).items():
        assert torch.equal({"hs": hs, "h_last": h_last, **made._asdict()}[name], value), name


@pytest.mark.parametrize("missing", ["grad_hs", "grad_h_last"])
@pytest.mark.parametrize("lengths", [None, LENGTHS["many"]], ids=["equal", "many"])
def test_missing_gradients(missing: str, lengths: list[int] | None) -> None:
    B = 5 if lengths is None else len(lengths)
    check(make(20, B, 33, both=True, lengths=lengths)._replace(**{missing: None}))


def test_the_same_bits_on_every_run() -> None:
    for case in (
        make(20, 1, 300, transposed=True),
        make(20, 37, 64, cell="leaky_relu", lengths=LENGTHS["many"], resets=True),
    ):
        first = run(native, case)
        for _ in range(5):
            for name, value in run(native, case).items():
                assert torch.equal(value, first[name]), name


@pytest.mark.parametrize(("wrong", "message"), recurrences.WRONG_OPTIONS)
def test_refuses_options_that_do_not_fit(wrong: dict[str, Any], message: str) -> None:
    recurrences.check_refuses(native, wrong, message)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("saved", None, "saved is None; it must be what the forward call has saved"),
        ("saved", torch.zeros(2, 3, 7), r"saved is float32 \[2, 3, 7\]"),
        ("grad_hs", torch.zeros(2, 3, 7), r"grad_hs is float32 \[2, 3, 7\]"),
        ("grad_h_last", torch.zeros(2, 8), r"grad_h_last is float32 \[2, 8\]"),
        ("leak", torch.ones(7), r"leak is float32 \[7\]; it must be float32 \[H\] = \[8\]"),
    ],
)
def test_the_backward_pass_refuses_what_does_not_fit(
    name: str, wrong: torch.Tensor | None, message: str
) -> None:
    call, hs = make(2, 3, 8, cell="leaky_tanh").call, torch.zeros(2, 3, 8)
    a = Adjoint(call, 0, hs, hs, hs, call.h0, Needs())
    native.rnn_backward(a)
    if name == "leak":
        a = a._replace(call=call._replace(leak=wrong))
    else:
        a = a._replace(**{name: wrong})
    with pytest.raises(RuntimeError, match=message):
        native.rnn_backward(a)


def test_the_backward_pass_refuses_ids_of_another_length() -> None:
    call, hs = make(2, 3, 8, 5, lengths=[2, 2, 1]).call, torch.zeros(5, 8)
    a = Adjoint(call, 5, hs, None, hs, torch.zeros(3, 8), Needs())
    native.rnn_backward(a)
    with pytest.raises(RuntimeError, match=r"ids is int64 \[4\]; it must be int64 \[N\] = \[5\]"):
        native.rnn_backward(a._replace(call=call._replace(ids=call.ids[:4])))


def test_refuses_ids_in_both_directions() -> None:
    call = make(2, 3, 8, both=True).call
    with pytest.raises(RuntimeError, match=r"W_hh is float32 \[2, 8, 8\]; it must be \[H, H\]"):
        native.rnn_forward(call._replace(ids=torch.zeros(2, 3, dtype=torch.long)), True)


def test_operators_are_sound() -> None:
    call = make(3, 4, 8, cell="leaky_tanh", resets=True, noise=0.5, seed=3).call
    args = (*call[1:6], 2, *call[6:], True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    with torch.no_grad():
        torch.library.opcheck(torch.ops.rnnfast.rnn.default, args, test_utils=checks)
        plain = (*args[:5], 0, *call._replace(leak=None)[6:], True)  # saves nothing
        torch.library.opcheck(torch.ops.rnnfast.rnn.default, plain, test_utils=checks)
        hs, _, saved = torch.ops.rnnfast.rnn.default(*args)
        needs = (True, True, True)
        back = (hs, None, hs, None, 0, call.W_hh, call.h0, 2, *needs, *call[6:12], saved, True)
        torch.library.opcheck(torch.ops.rnnfast.rnn_backward.default, back, test_utils=checks)


def test_cells_have_the_same_codes_everywhere() -> None:
    header = library.LIBRARY.parents[1] / "csrc" / "cells" / "cells.h"
    camel = {name: "k" + name.title().replace("_", "") for name in CELLS}
    codes = ", ".join(f"{camel[name]} = {cell.code}" for name, cell in CELLS.items())
    assert f"{{ {codes} }}" in header.read_text()


@pytest.mark.full
@pytest.mark.parametrize("instruction_set", instruction_sets.others())
def test_on_every_instruction_set(instruction_set: str) -> None:
    which = "(test_cells and not same) or (test_lengths and many) or resets_of"
    instruction_sets.run_again([__file__], which, instruction_set)
