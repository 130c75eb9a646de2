"""sgd in one pass: the book's loop, for any list of parameters."""

import pytest
import torch
from torch import Tensor

from rnnfast import optim, use_backend
from rnnfast.backends import library


def leaves(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    made = [torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes]
    for leaf in made:
        leaf.grad = torch.randn_like(leaf)
    return made


def the_books(params: list[Tensor], lr: float, batch_size: int) -> list[Tensor]:
    """What each parameter becomes."""
    values, grads = {}, {}
    for p in params:
        values.setdefault(id(p), p.detach().double())
        grads.setdefault(id(p), p.grad.double())
        values[id(p)] = values[id(p)] - lr * grads[id(p)] / batch_size
        grads[id(p)] = grads[id(p)] * 0
    return [values[id(p)] for p in params]


def check(params: list[Tensor]) -> None:
    want = the_books(params, 0.3, 2)
    optim.sgd(params, 0.3, 2)
    for p, value in zip(params, want, strict=True):
        eps = torch.finfo(p.dtype).eps
        torch.testing.assert_close(p.detach().double(), value, rtol=2 * eps, atol=2 * eps)
        assert not p.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 17, 4095, 4097, 200_001])
def test_sizes(backend, n, dtype):
    check(leaves((n,), (3, 5), (), (0, 4), dtype=dtype))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_mixed_dtypes(backend, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    check(leaves((300, 301), (7,)) + leaves((100, 100), dtype=torch.float64))
    torch.set_num_threads(before)


def test_a_parameter_listed_twice_moves_once(backend):
    (p,) = leaves((300, 300))
    before, grad = p.detach().clone(), p.grad.clone()
    optim.sgd([p, p], 0.5, 1)
    torch.testing.assert_close(p.detach(), before - 0.5 * grad)


@pytest.mark.parametrize("is_grad", [False, True])
def test_strided_tensors_take_torchs_way(is_grad):
    plain, strided = torch.randn(8, 6), torch.randn(6, 8).T
    p, p_grad = (plain, strided) if is_grad else (strided, plain)
    p.requires_grad_(True).grad = p_grad
    check([p])


def test_versions_are_counted():
    (p,) = leaves((5,))
    versions = p._version, p.grad._version
    optim.sgd([p], 0.5, 1)
    assert p._version > versions[0]
    assert p.grad._version > versions[1]


def test_nan_and_infinity():
    with use_backend("native"):
        (p,) = leaves((3,))
        p.grad[:] = torch.tensor([float("nan"), float("inf"), 1.0])
        optim.sgd([p], 1.0, 1)
    assert p[0].isnan()
    assert p[1] == -float("inf")
    assert not p.grad.any()


@pytest.mark.parametrize(
    ("params", "grads", "message"),
    [
        ([torch.zeros(3)], [], "params has 1 tensors and grads 0"),
        ([torch.zeros(3)], [torch.zeros(4)], r"params\[0\] is .*, grads\[0\] is .*one shape"),
        ([torch.zeros(3)], [torch.zeros(3).double()], "both float32 or float64"),
        ([torch.zeros(3).half()], [torch.zeros(3).half()], "both float32 or float64"),
        ([torch.zeros(3, 4).T], [torch.zeros(4, 3)], "contiguous"),
    ],
)
def test_what_does_not_fit_is_named(params, grads, message):
    assert library.load_error() == ""
    with pytest.raises(RuntimeError, match=message):
        torch.ops.rnnfast.sgd_(params, grads, 1.0)
