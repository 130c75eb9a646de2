"""The native clip norm against float64, torch's own clipping, and the book's rule."""

import pytest
import torch
from torch import Tensor

from rnnfast.backends import library
from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import clipping

assert library.load_error() == ""

SHAPES = [(), (1,), (3,), (31, 33), (4096,), (4097,), (130, 129), (2, 3, 5), (0,), (7, 0)]


def clones(grads: list[Tensor]) -> list[Tensor]:
    return [g.clone() for g in grads]


@pytest.mark.parametrize("d2l", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e4])
def test_agrees_with_float64(threads, dtype, d2l, max_norm):
    grads = [torch.randn(shape, dtype=dtype) for shape in SHAPES]
    clipping.check(native.clip_grads_, grads, max_norm, d2l)


def test_is_the_same_for_any_number_of_threads():
    grads = [torch.randn(300, 301), torch.randn(70000), torch.randn(5)]
    results = []
    for count in (1, 2, 3, 8):
        torch.set_num_threads(count)
        scaled = clones(grads)
        results.append([native.clip_grads_(scaled, 1.0, True), *scaled])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_agrees_with_torch():
    parameters = [torch.nn.Parameter(torch.zeros(s)) for s in ((40, 50), (50,), (3, 1, 7))]
    for p in parameters:
        p.grad = torch.randn_like(p)
    grads = [p.grad.clone() for p in parameters]
    want = torch.nn.utils.clip_grad_norm_(parameters, 0.3)
    torch.testing.assert_close(native.clip_grads_(grads, 0.3, False), want)
    for g, p in zip(grads, parameters, strict=True):
        torch.testing.assert_close(g, p.grad)


def test_below_the_limit_nothing_changes_a_bit():
    grads = [torch.randn(20, 30), torch.randn(30)]
    before = clones(grads)
    native.clip_grads_(grads, 1e3, True)
    for g, b in zip(grads, before, strict=True):
        assert torch.equal(g, b)


@pytest.mark.parametrize("d2l", [True, False])
def test_squares_beyond_float32(d2l):
    grads = [torch.full((50, 40), 3e30), torch.full((5,), -2e25)]
    wide = [g.double() for g in grads]
    norm = native.clip_grads_(grads, 1.0, d2l)
    truth = reference.clip_grads_(wide, 1.0, d2l)
    torch.testing.assert_close(norm.double(), truth)
    for g, w in zip(grads, wide, strict=True):
        torch.testing.assert_close(g.double(), w)


def test_squares_below_float32():
    grads = [torch.full((1000,), 1e-30)]
    norm = native.clip_grads_(grads, 1e-31, True)
    torch.testing.assert_close(norm, torch.tensor(1e-30 * 1000**0.5), rtol=1e-6, atol=0)
    clipped = torch.full((1000,), 1e-31 / 1000**0.5)
    torch.testing.assert_close(grads[0], clipped, rtol=1e-6, atol=0)


def test_nan_norm_changes_nothing_by_the_books_rule():
    grads = [torch.tensor([1.0, float("nan")]), torch.tensor([5.0])]
    before = clones(grads)
    assert native.clip_grads_(grads, 1.0, True).isnan()
    torch.testing.assert_close(grads, before, rtol=0, atol=0, equal_nan=True)


def test_nan_norm_spreads_by_torchs_rule():
    grads = [torch.tensor([1.0, float("nan")]), torch.tensor([5.0])]
    assert native.clip_grads_(grads, 1.0, False).isnan()
    assert all(g.isnan().all() for g in grads)


@pytest.mark.parametrize("d2l", [True, False])
def test_infinite_norm(d2l):
    grads = [torch.tensor([2.0, float("inf"), -3.0]), torch.tensor([5.0])]
    assert native.clip_grads_(grads, 1.0, d2l).isinf()
    nan = float("nan")
    want = [torch.tensor([0.0, nan, 0.0]), torch.tensor([0.0])]
    torch.testing.assert_close(grads, want, rtol=0, atol=0, equal_nan=True)


def test_dtypes_may_be_mixed():
    grads = [torch.randn(40, dtype=torch.float64), torch.randn(9, 5), torch.randn(3).double()]
    for order in (grads, grads[1:]):
        mine, same = clones(order), clones(order)
        norm = native.clip_grads_(mine, 0.1, True)
        assert norm.dtype == order[0].dtype
        torch.testing.assert_close(norm, reference.clip_grads_(same, 0.1, True))
        torch.testing.assert_close(mine, same)


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base.T,
        lambda base: base[:, ::3],
        lambda base: base[5:60, 7:41],
        lambda base: base.view(5, 13, 6, 11).permute(3, 1, 0, 2)[2:, ::2],
        lambda base: base[:, 4],
        lambda base: base[3:4].T,
    ],
)
def test_any_strides_and_nothing_between_is_touched(threads, view):
    base = torch.randn(65, 66)
    others, same_base = [torch.randn(20000)], base.clone()
    same_others = clones(others)
    norm = native.clip_grads_([view(base), *others], 0.25, True)
    want = reference.clip_grads_([view(same_base), *same_others], 0.25, True)
    torch.testing.assert_close(norm, want)
    torch.testing.assert_close(base, same_base)
    torch.testing.assert_close(others, same_others)


def test_a_gradient_listed_twice_counts_and_scales_twice(threads):
    grad = torch.randn(300, 300)
    for listed in (lambda g: [g, g, g.T], lambda g: [g] * threads):
        for _ in range(20):  # two workers in the same place at once lose a factor only now and then
            mine, same = grad.clone(), grad.clone()
            norm = native.clip_grads_(listed(mine), 5.0, True)
            torch.testing.assert_close(norm, reference.clip_grads_(listed(same), 5.0, True))
            torch.testing.assert_close(mine, same)


def test_many_small_ones(threads):
    grads = [torch.randn(1 + i % 7) for i in range(500)]
    same = clones(grads)
    torch.testing.assert_close(
        native.clip_grads_(grads, 1.0, False), reference.clip_grads_(same, 1.0, False)
    )
    torch.testing.assert_close(grads, same)


def test_nothing_to_clip():
    assert native.clip_grads_([torch.empty(0)], 1.0, True) == 0


@pytest.mark.parametrize(
    ("grad", "message"),
    [
        (torch.ones(3, dtype=torch.int64), r"grads\[1\] is int64 \[3\]; it must be float32 or"),
        (torch.ones(2, dtype=torch.float16), r"grads\[1\] is float16 \[2\]"),
        (torch.ones(1).expand(4), r"grads\[1\] is expanded"),
    ],
)
def test_refused_before_anything_changes(grad, message):
    first = torch.full((2,), 10.0)
    with pytest.raises(RuntimeError, match=message):
        native.clip_grads_([first, grad], 1.0, True)
    assert torch.equal(first, torch.full((2,), 10.0))


def test_autograd_sees_the_change():
    grad = torch.ones(3, requires_grad=True) * 4
    loss = (grad * grad).sum()
    with torch.no_grad():
        native.clip_grads_([grad], 1.0, True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
