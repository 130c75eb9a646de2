"""The Triton backend in Triton's interpreter: the clip norm; run by test_triton.py."""

import pytest
import torch

from rnnfast.backends.reference import reference
from rnnfast.backends.triton import triton
from support import clipping

NAN, INF = float("nan"), float("inf")
SHAPES = [(), (1,), (3,), (31, 33), (4097,), (130, 129), (2, 3, 5), (0,), (7, 0)]


@pytest.mark.parametrize("d2l", [True, False])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e4])
def test_clip(d2l, max_norm):
    grads = [torch.randn(shape) for shape in SHAPES]
    clipping.check(triton.clip_grads_, grads, max_norm, d2l)


def test_clip_of_more_chunks_than_programs(monkeypatch):
    from rnnfast.backends.triton import clip_norm

    grads = [torch.randn(30_000), torch.randn(5), torch.randn(9000)]
    want = [g.clone() for g in grads]
    triton.clip_grads_(want, 1.0, True)
    monkeypatch.setattr(clip_norm, "PROGRAMS", 3)
    triton.clip_grads_(grads, 1.0, True)
    torch.testing.assert_close(grads, want)


def test_below_the_limit_nothing_changes_a_bit():
    grads = [torch.randn(20, 30), torch.randn(30)]
    before = [g.clone() for g in grads]
    triton.clip_grads_(grads, 1e3, True)
    assert all(torch.equal(g, b) for g, b in zip(grads, before, strict=True))


@pytest.mark.parametrize("d2l", [True, False])
def test_squares_beyond_and_below_float32(d2l):
    for size, limit in ((3e30, 1.0), (1e-30, 1e-31)):
        grads = [torch.full((50, 40), size), torch.full((5,), -size / 1e5)]
        wide = [g.double() for g in grads]
        norm = triton.clip_grads_(grads, limit, d2l)
        true_norm = reference.clip_grads_(wide, limit, d2l)
        torch.testing.assert_close(norm.double(), true_norm, rtol=1e-6, atol=0)
        for g, w in zip(grads, wide, strict=True):  # the least float32 is 1.4e-45
            torch.testing.assert_close(g.double(), w, rtol=1e-6, atol=1.5e-45)


@pytest.mark.parametrize("d2l", [True, False])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_norms_that_are_not_finite(d2l, bad):
    grads = [torch.tensor([2.0, bad, -3.0]), torch.tensor([5.0])]
    want = [g.clone() for g in grads]
    norm = triton.clip_grads_(grads, 1.0, d2l)
    torch.testing.assert_close(norm, reference.clip_grads_(want, 1.0, d2l), equal_nan=True)
    torch.testing.assert_close(grads, want, equal_nan=True)


def test_clip_of_mixed_dtypes_strides_and_twice_the_same():
    base, half, listed = torch.randn(20, 30), torch.randn(40).half(), torch.randn(9)
    same = [t.clone() for t in (base, half, listed)]
    for backend, (a, b, c) in ((triton, (base, half, listed)), (reference, same)):
        backend.clip_grads_([a.T, a[:, ::3], b, c, c], 0.5, True)
    for got, want in zip((base, half, listed), same, strict=True):
        torch.testing.assert_close(got, want)


def test_clip_of_strided_gradients_touches_nothing_between():
    base, other = torch.randn(20, 30), torch.randn(9)
    same = [base.clone(), other.clone()]
    for backend, (a, b) in ((triton, (base, other)), (reference, same)):
        backend.clip_grads_([a[:, ::3], b], 0.5, True)
    torch.testing.assert_close([base, other], same)


def test_many_gradients_and_their_table():
    from rnnfast.backends.triton import addresses

    grads = [torch.randn(1 + i % 7) for i in range(40)]
    tables = set(addresses._kept)
    same = [g.clone() for g in grads]
    for _ in range(3):
        torch.testing.assert_close(
            triton.clip_grads_(grads, 1.0, False), reference.clip_grads_(same, 1.0, False)
        )
    torch.testing.assert_close(grads, same)
    assert len(set(addresses._kept) - tables) == 1, "the table is made once"


def test_tables_are_kept_while_they_are_used(monkeypatch):
    from rnnfast.backends.triton import addresses

    monkeypatch.setattr(addresses, "_kept", type(addresses._kept)())
    monkeypatch.setattr(addresses, "KEPT", 2)
    base = torch.ones(9)
    first, second, third = (addresses.addresses([base[:size]]) for size in (4, 5, 6))
    tables = [addresses.addresses([base[:size]]) for size in (5, 6, 5)]
    assert [table.rows[2, 0] for table in (first, second, third)] == [4, 5, 6]
    assert all(map(lambda a, b: a is b, tables, (second, third, second)))
    addresses.addresses([base[:4]])
    assert addresses.addresses([base[:5]]) is second  # used later than the third
    assert addresses.addresses([base[:6]]) is not third


def test_a_table_that_a_graph_reads_is_never_given_back(monkeypatch):
    """One that is made inside a capture is filled only once the graph runs: for no other call."""
    from rnnfast.backends.triton import addresses

    class OnGpu:
        device = torch.device("cuda", 0)

        def __init__(self, address):
            self.data_ptr, self.numel = lambda: address, lambda: 3

    monkeypatch.setattr(addresses, "_make", lambda *_: object())
    monkeypatch.setattr(addresses, "_kept", type(addresses._kept)())
    monkeypatch.setattr(addresses, "_captured", [])
    capturing = False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    before, later = [OnGpu(16)], [OnGpu(32)]
    known = addresses.addresses(before)
    assert addresses._captured == []
    capturing = True
    assert addresses.addresses(before) is addresses.addresses(before) is known
    made = addresses.addresses(later)
    assert addresses._captured == [known, made]
    capturing = False
    assert addresses.addresses(later) is not made


def test_what_shares_memory_and_what_has_gaps():
    from rnnfast.backends.triton.clip_norm import are_disjoint, is_dense

    base = torch.zeros(4, 6)
    assert are_disjoint([base[2:], base[:2], base[:0]])
    assert not are_disjoint([base[:2, :1], base[1:]])
    assert not are_disjoint([base[:, 3:], base[2, :2]])
    assert is_dense(base.T)
    assert is_dense(base[:1, :3])
    assert not is_dense(base[:2, :3])


def test_autograd_sees_what_a_clip_changes():
    grads = [torch.randn(5), torch.randn(3, 4)]
    before = [g._version for g in grads]
    triton.clip_grads_(grads, 0.1, True)
    assert all(g._version > b for g, b in zip(grads, before, strict=True))


def test_one_element_is_not_expanded_whatever_its_stride():
    grad = torch.full((3,), 2.0)
    triton.clip_grads_([grad.as_strided((1, 3), (0, 1))], 1.0, True)
    torch.testing.assert_close(grad, torch.full((3,), 3**-0.5))


def test_nothing_to_clip():
    assert triton.clip_grads_([torch.empty(0)], 1.0, True) == 0
