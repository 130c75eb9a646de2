"""The Triton backend in Triton's interpreter: the recurrence; run by test_triton.py.

float32, and float16 where products are rounded: the interpreter's bfloat16 is wrong.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rnnfast.backends.reference import reference
from rnnfast.backends.triton import triton
from support import problems, untyped
from support.problems import Problem, make, run

assert triton.load_error() == ""


def check(p: Problem) -> None:
    """As near to the truth as the reference, and the same bits again."""
    problems.check(triton, p)
    got = run(triton, p)
    for name, again in run(triton, p).items():
        assert torch.equal(again, got[name]), f"{name}: other bits on the second run"


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize(
    ("T", "B", "H", "V"),
    [(1, 1, 1, 1), (5, 3, 16, None), (7, 2, 33, 5), (1, 5, 128, 40), (3, 2, 100, None)],
)
def test_recurrence_in_one_program(T, B, H, V, relu):
    check(make(T, B, H, V, relu=relu))


@pytest.mark.parametrize("V", [None, 5])
def test_recurrence_on_tensor_cores(monkeypatch, V):
    from rnnfast.backends.triton import recurrence

    check(make(4, 19, 33, V, dtype=torch.float16))
    monkeypatch.setattr(recurrence, "TF32_FROM_ROWS", 17)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    for rows in (16, 17):
        p = make(3, rows, 20, V)
        how = recurrence.tiling(p.h0, False)
        assert (how.rows, how.precision) == ((1, "tf32") if rows < 17 else (16, "tf32"))
        check(p)  # the interpreter rounds nothing to TF32


def test_a_gpu_with_little_shared_memory_holds_smaller_matrices(monkeypatch):
    from rnnfast.backends.triton import recurrence

    state, cpu = torch.zeros(1, 256).half(), torch.device("cpu")
    for KiB, most in ((227, 256), (99, 128)):
        monkeypatch.setattr(recurrence, "shared_memory", lambda device, KiB=KiB: KiB)
        assert (recurrence.tiling(state, False) is None) == (most < 256)
        assert f"H to {most}:" in recurrence.explain(cpu, torch.float16, None)[0]
    assert "H to 128:" in recurrence.explain(cpu, torch.float32, None)[0]


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize("V", [None, 7])
def test_recurrence_by_steps(V, relu):
    check(make(4, 3, 150, V, relu=relu))


def test_a_long_sequence():
    check(make(100, 1, 24, 9))


@pytest.mark.parametrize(("positions", "gathered"), [(16, 1024), (256, 64)])
def test_more_ids_and_units_than_a_program_takes_at_a_time(positions, gathered, monkeypatch):
    from rnnfast.backends.triton import embedding

    monkeypatch.setattr(embedding, "POSITIONS", positions)
    monkeypatch.setattr(embedding, "GATHERED", gathered)
    check(make(7, 3, 150, 5))


def test_an_id_out_of_range_is_in_no_row_of_the_tables_gradient():
    p = make(4, 3, 24, 5)
    assert p.ids is not None
    ids = p.ids.clone()
    ids[2, 1], ids[0, 0] = -1, 5
    incoming, weights = (p.grad_hs, p.grad_h_last, p.hs, ids, 5), (p.W_hh, p.h0, False)
    grad_x, _, grad_b_h, _ = untyped.rnn_backward(triton, *incoming, *weights, False, True, False)
    dense = untyped.rnn_backward(triton, *incoming[:3], None, 0, *weights, False, True, False)
    torch.testing.assert_close(grad_b_h, dense[2])
    want = torch.zeros(5, 24)
    known = (ids >= 0) & (ids < 5)
    torch.testing.assert_close(grad_x, want.index_add(0, ids[known], dense[0][known]))


@pytest.mark.parametrize("H", [24, 150])
@pytest.mark.parametrize("missing", ["b_h", "grad_hs", "grad_h_last"])
def test_missing_arguments(missing, H):
    for V in (None, 5):
        check(replace(make(3, 2, H, V), **{missing: None}))


@pytest.mark.parametrize("V", [None, 5])
def test_only_what_is_needed(V):
    problems.check_needs(triton, make(3, 2, 24, V))


def strided(t: Tensor) -> Tensor:
    return torch.stack((t, t), -1)[..., 0]


def transposed(t: Tensor) -> Tensor:
    """Without gaps, so that a tensor made like it has these strides as well."""
    return t.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("change", [strided, transposed])
@pytest.mark.parametrize("H", [24, 150])
@pytest.mark.parametrize("V", [None, 5])
def test_strided_and_expanded_arguments(H, V, change):
    p = make(3, 2, H, V)
    p = replace(p, grad_hs=torch.ones(()).expand(3, 2, H))
    q = replace(p, **{k: change(v) for k, v in vars(p).items() if isinstance(v, Tensor)})
    want = run(triton, p)
    states = untyped.rnn_forward(triton, q.x, q.ids, q.W_hh, q.b_h, q.h0, False)
    incoming = (q.grad_hs, q.grad_h_last, change(want["hs"]), q.ids, V or 0)
    grads = untyped.rnn_backward(triton, *incoming, q.W_hh, q.h0, False, True, True, True)
    for got, (name, value) in zip((*states, *grads), want.items(), strict=True):
        assert torch.equal(got, value), name


@pytest.mark.parametrize("H", [24, 150])
def test_empty_batch(H):
    for V in (None, 5):
        got = run(triton, make(3, 0, H, V))
        assert got["hs"].shape == (3, 0, H)
        for name in ("grad_x", "grad_W_hh", "grad_b_h"):
            assert not got[name].any(), name


@pytest.mark.parametrize(("H", "relu"), [(24, False), (24, True), (150, False)])
def test_an_id_out_of_range_makes_its_row_nan(H, relu):
    p = make(4, 3, H, 5)
    assert p.ids is not None
    good, _ = untyped.rnn_forward(triton, p.x, p.ids, p.W_hh, p.b_h, p.h0, relu)
    for bad in (-1, 5, 2**62, -(2**62)):
        ids = p.ids.clone()
        ids[2, 1] = bad
        hs, _ = untyped.rnn_forward(triton, p.x, ids, p.W_hh, p.b_h, p.h0, relu)
        assert hs[2:, 1].isnan().all()
        hs[2:, 1] = good[2:, 1]
        assert torch.equal(hs, good)


@pytest.mark.parametrize("H", [24, 33])
def test_infinity_stays_in_its_row(H):
    """H is padded: infinity times a weight of 0 must not spread from there."""
    p = make(4, 3, H, relu=True)
    assert p.grad_hs is not None
    p.W_hh.abs_()
    p.x[1, 0, 5] = p.grad_hs[2, 1, 3] = torch.inf
    got, want = run(triton, p), run(reference, p)
    for name in ("hs", "grad_x"):
        assert want[name].isinf().any(), name
        assert torch.equal(got[name].isnan(), want[name].isnan()), name
        assert torch.equal(got[name].isinf(), want[name].isinf()), name


@pytest.mark.parametrize("H", [24, 150])
def test_a_unit_at_rest_passes_no_infinite_gradient(H):
    """0 times infinity would be NaN, where torch's relu gives 0. By steps, too, with 150 units."""
    p = make(4, 3, H, relu=True)
    p = replace(p, x=p.x - 99, h0=0 * p.h0, grad_hs=torch.full_like(p.grad_hs, torch.inf))
    for name in ("grad_x", "grad_W_hh", "grad_h0"):
        assert not run(triton, p)[name].any(), name


def test_last_state_owns_its_storage():
    p = make(3, 2, 8, 5)
    hs, h_last = untyped.rnn_forward(triton, p.x, p.ids, p.W_hh, p.b_h, p.h0, False)
    assert h_last.untyped_storage().data_ptr() != hs.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"W_hh": torch.zeros(8, 7)},
            r"W_hh is float32 \[8, 7\] on cpu; it must be float32 \[8, 8\]",
        ),
        ({"b_h": torch.zeros(8).double()}, r"b_h is float64 \[8\] on cpu; it must be float32"),
        ({"h0": torch.zeros(3, 8).double()}, "h0 is float64 .* must be float32, bfloat16 or"),
        ({"x": torch.zeros(5, 8, device="meta")}, "x is float32 .* on meta; it must .* on cpu"),
        ({"ids": torch.zeros(4, 3).int()}, r"ids is int32 \[4, 3\] .* must be int64"),
        ({"ids": torch.zeros(4, 2).long()}, r"ids is int64 \[4, 2\] .* int64 \[4, 3\]"),
        ({"W_hh": torch.eye(8).to_sparse()}, "W_hh is sparse_coo float32"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    p = replace(make(4, 3, 8, 5), **change)
    with pytest.raises(RuntimeError, match=message):
        untyped.rnn_forward(triton, p.x, p.ids, p.W_hh, p.b_h, p.h0, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad_hs": torch.zeros(4, 3, 7)}, r"grad_hs is .* must be float32 \[4, 3, 8\]"),
        ({"grad_h_last": torch.zeros(3, 8).half()}, r"grad_h_last is float16 .* be float32"),
        ({"ids": torch.zeros(4, 2).long()}, r"ids is int64 \[4, 2\] .* int64 \[4, 3\]"),
        ({"W_hh": torch.zeros(8, 7)}, r"W_hh is .* must be float32 \[8, 8\]"),
    ],
)
def test_the_backward_pass_refuses_as_well(change, message):
    p = replace(make(4, 3, 8, 5), **change)
    incoming, weights = (p.grad_hs, p.grad_h_last, p.hs, p.ids, 5), (p.W_hh, p.h0, False)
    with pytest.raises(RuntimeError, match=message):
        untyped.rnn_backward(triton, *incoming, *weights, True, True, True)
