"""The recurrence with its readout in one call, against the plain loop in extended precision."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import instruction_sets, untyped
from support.compare import assert_close_to_f64
from support.problems import NAMES, Problem, make, truth_of

RESULTS = ("logits", "h_last", "hs", *NAMES[2:], "grad_W_hq", "grad_b_q")


def readout_of(p: Problem, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """W_hq, b_q and a gradient of the logits for this problem."""
    T, B = p.grad_hs.shape[:2]
    H = p.W_hh.shape[0]
    g = torch.Generator().manual_seed(classes)
    made = (torch.randn(s, generator=g) for s in ((H, classes), (classes,), (T * B, classes)))
    W_hq, b_q, grad_logits = (each.to(p.W_hh.dtype) for each in made)
    return W_hq / H**0.5, b_q, grad_logits


def run(backend: object, p: Problem, classes: int) -> dict[str, Tensor]:
    W_hq, b_q, grad_logits = readout_of(p, classes)
    forward = untyped.rnn_logits(backend, p.x, p.ids, p.W_hh, p.b_h, W_hq, b_q, p.h0, p.relu)  # type: ignore[attr-defined]
    V = 0 if p.ids is None else p.x.shape[0]
    grads = untyped.rnn_logits_backward(
        backend,  # type: ignore[attr-defined]
        *(grad_logits, p.grad_h_last, p.grad_hs, forward[2]),
        *(p.ids, V, p.W_hh, W_hq, p.h0, p.relu, True, True, True),
    )
    return dict(zip(RESULTS, (*forward, *grads), strict=True))


def check(p: Problem, classes: int) -> None:
    W_hq, b_q, grad_logits = (each.double() for each in readout_of(p, classes))
    through = (grad_logits @ W_hq.T).view_as(p.grad_hs)
    grad_hs = through if p.grad_hs is None else through + p.grad_hs.double()
    truth = truth_of(replace(p, grad_hs=grad_hs))
    h = truth["hs"].flatten(0, 1)
    truth |= {
        "logits": h @ W_hq + b_q,
        "grad_W_hq": h.T @ grad_logits,
        "grad_b_q": grad_logits.sum(0),
    }
    got, same = run(native, p, classes), run(reference, p, classes)
    for name in RESULTS:
        assert_close_to_f64(name, got[name], same[name], truth[name])


@pytest.fixture(params=[torch.float32, torch.float64], ids=["f32", "f64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("V", [None, 28])
@pytest.mark.parametrize(
    ("H", "classes"), [(1, 1), (1, 5), *((H, V) for H in (17, 64, 130) for V in (1, 5, 28, 100))]
)
def test_hidden_sizes_and_classes(H: int, V: int | None, classes: int, dtype: torch.dtype) -> None:
    check(make(9, 5, H, V, dtype=dtype), classes)


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize("B", [1, 2, 5, 33])
@pytest.mark.parametrize("T", [1, 2, 35])
def test_batches_and_steps(T: int, B: int, relu: bool, dtype: torch.dtype) -> None:
    check(make(T, B, 70, 28, relu=relu, dtype=dtype), 28)


@pytest.mark.parametrize("threads", [1, 3, 5])
@pytest.mark.parametrize(("B", "H"), [(33, 64), (5, 150), (1, 300), (33, 96)])
@pytest.mark.parametrize("V", [None, 28, 1000])
def test_thread_counts(threads: int, B: int, H: int, V: int | None, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    check(make(6, B, H, V, dtype=dtype), 28)


def test_many_steps(dtype: torch.dtype) -> None:
    check(make(300, 3, 33, 5, dtype=dtype), 5)


@pytest.mark.parametrize("missing", ["b_h", "grad_h_last"])
def test_missing_arguments(missing: str) -> None:
    check(replace(make(5, 4, 33, 28), **{missing: None}), 28)


def test_the_states_may_have_no_gradient_of_their_own() -> None:
    p = make(5, 9, 33, 28)
    zeros = replace(p, grad_hs=torch.zeros_like(p.grad_hs))
    W_hq, _, grad_logits = readout_of(p, 28)
    want = run(native, zeros, 28)
    got = untyped.rnn_logits_backward(
        native,
        *(grad_logits, p.grad_h_last, None, want["hs"]),
        *(p.ids, 28, p.W_hh, W_hq, p.h0, p.relu, True, True, True),
    )
    for name, value in zip(RESULTS[3:], got, strict=True):
        assert torch.equal(value, want[name]), name


@pytest.mark.parametrize("V", [None, 5])
def test_empty_batch(V: int | None) -> None:
    results = run(native, make(4, 0, 7, V), 6)
    assert results["logits"].shape == (0, 6)
    for name in ("grad_W_hh", "grad_b_h", "grad_W_hq", "grad_b_q"):
        assert not results[name].any(), name


def test_no_classes() -> None:
    results = run(native, make(4, 3, 7, 5), 0)
    assert results["logits"].shape == (12, 0)
    assert results["grad_W_hq"].shape == (7, 0)
    assert results["grad_W_hh"].isfinite().all()


def test_strided_arguments() -> None:
    def strided(t: Tensor) -> Tensor:
        return torch.stack((t, t), -1)[..., 0]

    p = make(7, 6, 33, 28)
    W_hq, b_q, grad_logits = readout_of(p, 28)
    want = run(native, p, 28)
    logits, _, hs = untyped.rnn_logits(
        native, p.x, p.ids, p.W_hh, p.b_h, strided(W_hq), strided(b_q), p.h0, p.relu
    )
    grads = untyped.rnn_logits_backward(
        native,
        *(strided(grad_logits), p.grad_h_last, p.grad_hs, strided(hs)),
        *(p.ids, 28, p.W_hh, strided(W_hq), p.h0, p.relu, True, True, True),
    )
    assert torch.equal(logits, want["logits"])
    for name, value in zip(RESULTS[3:], grads, strict=True):
        assert torch.equal(value, want[name]), name


@pytest.mark.parametrize(("B", "H"), [(33, 64), (1, 300), (3, 200)])
def test_same_bits_on_every_run(B: int, H: int) -> None:
    p = make(20, B, H, 28)
    first = run(native, p, 28)
    for _ in range(5):
        for name, value in run(native, p, 28).items():
            assert torch.equal(value, first[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_hq": torch.zeros(34, 28)}, r"W_hq is .*\[H, V\]"),
        ({"W_hq": torch.zeros(33)}, r"W_hq is .*\[H, V\]"),
        ({"b_q": torch.zeros(27)}, r"b_q is .*\[V\]"),
        ({"b_q": torch.zeros(28).double()}, r"b_q is .*float64"),
    ],
)
def test_a_readout_that_does_not_fit(change: dict[str, Tensor], message: str) -> None:
    p = make(5, 4, 33, 28)
    W_hq, b_q, _ = readout_of(p, 28)
    readout = {"W_hq": W_hq, "b_q": b_q, **change}
    with pytest.raises(RuntimeError, match=message):
        untyped.rnn_logits(
            native, p.x, p.ids, p.W_hh, p.b_h, readout["W_hq"], readout["b_q"], p.h0, p.relu
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad_logits": torch.zeros(11, 5)}, r"grad_logits is float32 \[11, 5\]"),
        ({"ids": torch.zeros(3, 3, dtype=torch.long)}, r"ids is int64 \[3, 3\]"),
        ({"ids": torch.zeros(3, 4, dtype=torch.int32)}, "ids is int32"),
        ({"V": -1}, "V is -1; it must be at least 0"),
        ({"W_hq": torch.zeros(7, 5)}, r"W_hq is float32 \[7, 5\]"),
    ],
)
def test_the_backward_pass_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    hs, ids = torch.zeros(3, 4, 8), torch.zeros(3, 4, dtype=torch.long)
    first = {"grad_logits": torch.zeros(12, 5), "grad_h_last": None, "grad_hs": None, "hs": hs}
    rest = {"W_hh": torch.zeros(8, 8), "W_hq": torch.zeros(8, 5), "h0": torch.zeros(4, 8)}
    args = {**first, "ids": ids, "V": 6, **rest}
    torch.ops.rnnfast.rnn_logits_backward(*args.values(), 0, True, True, True)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.rnnfast.rnn_logits_backward(*(args | change).values(), 0, True, True, True)


@pytest.mark.parametrize("h0", [torch.zeros(4, 8), torch.zeros(1, 4, 8)], ids=["2", "3"])
def test_fake_results_have_the_shapes_of_the_call(h0: Tensor) -> None:
    x, W_hh, W_hq = torch.randn(3, 4, 8), torch.randn(8, 8), torch.randn(8, 5)
    args = (x, None, W_hh, torch.randn(8), W_hq, torch.randn(5), h0, 0)
    torch.library.opcheck(torch.ops.rnnfast.rnn_logits.default, args, test_utils="test_faketensor")


def test_both_directions_have_no_readout() -> None:
    """Each would write the logits, and sum the gradients, of its own states."""
    x, h0 = torch.randn(3, 4, 16), torch.randn(2, 4, 8)
    W_hh, b_h = torch.randn(2, 8, 8), torch.randn(2, 8)
    W_hq, b_q = torch.randn(8, 5), torch.randn(5)
    ops, message = torch.ops.rnnfast, r"W_hh is float32 \[2, 8, 8\]; it must have 2 dimensions"
    hs, _ = ops.rnn.plain(x, None, W_hh, b_h, h0, 0)
    with pytest.raises(RuntimeError, match=message):
        ops.rnn_logits(x, None, W_hh, b_h, W_hq, b_q, h0, 0)
    given = (torch.randn(12, 5), None, None, hs, None, 0, W_hh, W_hq, h0, 0)
    with pytest.raises(RuntimeError, match=message):
        ops.rnn_logits_backward(*given, True, True, True)


@pytest.mark.full
@pytest.mark.parametrize("isa", instruction_sets.other_kernels())
def test_instruction_sets(isa: str) -> None:
    """This file's sizes and thread counts again, in a process of its own."""
    which = "batches or empty or sizes or thread_counts"
    instruction_sets.run_again([__file__], which, isa)
