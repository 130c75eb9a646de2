"""On a real GPU: every public function of both backends against float64, and twice for its bits.

The truth and torch's own loop are computed by the reference on the CPU.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import rnnfast
from rnnfast import dispatch, functional
from rnnfast.backends import Backend
from rnnfast.backends.cuda import cuda
from support import recurrences
from support.compare import assert_close_to_f64

pytestmark = pytest.mark.gpu
BACKENDS = ("cuda", "triton")
CPU = torch.device("cpu")

# T, B, V, H: odd sizes, every kernel, more rows than clusters, one step, one row, one character
SHAPES = (
    *((1, 1, 2, 1), (2, 3, 28, 32), (5, 1, 28, 33), (35, 32, 28, 64), (7, 33, 5, 100)),
    *((35, 32, 28, 128), (9, 5, 28, 129), (35, 8, 28, 250), (35, 32, 28, 256), (4, 257, 28, 256)),
    *((3, 7, 1000, 384), (35, 1, 28, 512), (35, 32, 28, 512), (6, 129, 28, 500), (4, 256, 28, 512)),
    *((5, 19, 28, 700), (35, 8, 28, 1000), (35, 32, 28, 1024), (3, 200, 28, 1024)),
    *((4, 9, 28, 1100), (3, 5, 28, 1536), (5, 3, 28, 2048), (200, 32, 28, 512), (1000, 2, 28, 64)),
    *((1, 129, 28, 501), (2, 129, 28, 999), (40, 96, 28, 1000)),  # h of the last two is kept once
)
_DECODED = 40
_NEAR_TIE = 1e-3


@dataclass(frozen=True)
class Inputs:
    """Inputs of all functions for one shape, rounded to float32 whatever their dtype."""

    ids: Tensor  # [T, B]
    targets: Tensor  # [T, B]
    params: tuple[Tensor, ...]
    x: Tensor  # [T, B, V]
    h0: Tensor  # [B, H]
    grad_hs: Tensor  # [T, B, H]
    grad_h_last: Tensor  # [B, H]

    def to(self, device: torch.device, dtype: torch.dtype) -> "Inputs":
        """Leaves of their own."""
        names = ("x", "h0", "grad_hs", "grad_h_last")
        moved = {name: getattr(self, name).to(device, dtype, copy=True) for name in names}
        params = tuple(p.to(device, dtype, copy=True) for p in self.params)
        ids = {"ids": self.ids.to(device), "targets": self.targets.to(device)}
        return replace(self, params=params, **moved, **ids)


def make(T: int, B: int, V: int, H: int) -> Inputs:
    """W_hh has a spectral radius near 1, so that errors live long."""
    g = torch.Generator().manual_seed(T * 7 + B * 5 + V * 3 + H)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(size, generator=g) * scale).double()

    params = (normal(V, H, scale=0.5), normal(H, H, scale=H**-0.5), normal(H, scale=0.5))
    params += (normal(H, V, scale=2 * H**-0.5), normal(V, scale=0.5))
    ids, targets = (torch.randint(V, (T, B), generator=g) for _ in range(2))
    floats = (normal(T, B, V, scale=V**-0.5), normal(B, H, scale=0.5), normal(T, B, H))
    return Inputs(ids, targets, params, *floats, normal(B, H))


Function = Callable[[Inputs], tuple[Tensor, ...]]


def layer(nonlinearity: str, ids: bool) -> Function:
    """hs, h_last and the gradients of everything."""

    def call(i: Inputs) -> tuple[Tensor, ...]:
        leaves = [*([] if ids else [i.x]), i.h0, *i.params[:3]]
        for leaf in leaves:
            leaf.requires_grad_()
        inputs = i.ids if ids else i.x
        results = functional.rnn(inputs, i.h0, *i.params[:3], nonlinearity=nonlinearity)
        grads = torch.autograd.grad(results, leaves, (i.grad_hs, i.grad_h_last))
        return *results, *grads

    return call


def cross_entropy(nonlinearity: str) -> Function:
    def call(i: Inputs) -> tuple[Tensor, ...]:
        leaves = [i.h0, *i.params]
        for leaf in leaves:
            leaf.requires_grad_()
        arguments = (i.ids, i.targets, i.h0, i.params)
        loss, h = functional.rnn_cross_entropy(*arguments, nonlinearity=nonlinearity)
        return loss, h, *torch.autograd.grad(loss, leaves)

    return call


def loss_alone(i: Inputs) -> tuple[Tensor, ...]:
    return functional.rnn_cross_entropy(i.ids, i.targets, i.h0, i.params)


def train_step(max_norm: float) -> Function:
    def call(i: Inputs) -> tuple[Tensor, ...]:
        grads = [torch.full_like(p, float("nan")) for p in i.params]
        loss = functional.train_step_(i.ids, i.targets, i.params, grads, i.h0, 0.5, max_norm)
        return loss, i.h0, *i.params, *grads

    return call


def clipped_as_torch(i: Inputs) -> tuple[Tensor, ...]:
    for p in i.params:
        p.grad = p.clone()
    return rnnfast.clip_grad_norm_(i.params, 0.7), *(p.grad for p in i.params)


def clipped_as_the_book(i: Inputs) -> tuple[Tensor, ...]:
    for p in i.params:
        p.grad = p.clone()
    rnnfast.grad_clipping(SimpleNamespace(params=i.params), 0.7)
    return tuple(p.grad for p in i.params)


def decode(sampled: bool) -> Function:
    """As many ids as float64 is sure of, as numbers: a wrong id is a large error."""

    def call(i: Inputs) -> tuple[Tensor, ...]:
        steps = sure_steps(i.to(CPU, torch.float64), sampled)
        arguments = (i.ids[0], i.h0, i.params, steps)
        if sampled:
            generator = torch.Generator().manual_seed(1)
            ids, h = functional.sample_decode(*arguments, generator=generator)
        else:
            ids, h = functional.greedy_decode(*arguments)
        return ids.to(h.dtype), h

    return call


def sure_steps(i: Inputs, sampled: bool) -> int:
    """How many steps no rounding of float32 can change in any row."""
    W_xh, W_hh, b_h, W_hq, b_q = i.params
    token, h = i.ids[0], i.h0
    for step in range(_DECODED):
        h = torch.tanh(W_xh[token] + h @ W_hh + b_h)
        logits = h @ W_hq + b_q
        if sampled:
            # the numbers drawn for so many steps are the first of those for more
            generator = torch.Generator().manual_seed(1)
            drawn = torch.rand((step + 1, len(token)), generator=generator)[-1].double()
            sums = torch.softmax(logits, 1).cumsum(1)
            near = (sums[:, :-1] - drawn[:, None]).abs().min()
            token = (sums < drawn[:, None]).sum(1).clamp(max=len(b_q) - 1)
        else:
            best = logits.topk(2, 1).values
            near, token = (best[:, 0] - best[:, 1]).min(), logits.argmax(1)
        if near < _NEAR_TIE:
            return max(step, 1)
    return _DECODED


FUNCTIONS: dict[str, Function] = {
    "tanh of ids": layer("tanh", ids=True),
    "tanh of vectors": layer("tanh", ids=False),
    "relu of ids": layer("relu", ids=True),
    "relu of vectors": layer("relu", ids=False),
    "cross-entropy, tanh": cross_entropy("tanh"),
    "cross-entropy, relu": cross_entropy("relu"),
    "loss alone": loss_alone,
    "train step, clipped": train_step(0.05),
    "train step, not clipped": train_step(float("inf")),
    "clip norm, torch's": clipped_as_torch,
    "clip norm, the book's": clipped_as_the_book,
    "greedy ids": decode(sampled=False),
    "sampled ids": decode(sampled=True),
}


def check(name: str, shape: tuple[int, ...], backend: str, device: str) -> None:
    function, inputs = FUNCTIONS[name], make(*shape)

    def run(on: str, where: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        with dispatch.use_backend(on):
            return function(inputs.to(where, dtype))

    got, again = (run(backend, torch.device(device), torch.float32) for _ in range(2))
    loop = run("reference", CPU, torch.float32)
    truth = run("reference", CPU, torch.float64)
    for n, (mine, same, true) in enumerate(zip(got, loop, truth, strict=True)):
        assert_close_to_f64(f"{name}, result {n}", mine.cpu(), same, true)
    for n, (first, second) in enumerate(zip(got, again, strict=True)):
        assert torch.equal(first, second), f"{name}, result {n}: another call gives other bits"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_function_against_float64(backend, name, shape):
    check(name, shape, backend, "cuda")


OPTIONS: list[dict[str, Any]] = [
    {"reverse": True},
    {"both": True},
    {"resets": True, "reverse": True},
    {"resets": True, "resets_to_h0": True, "V": 5},
    {"lengths": [9, 9, 4, 2, 1]},
    {"lengths": [9, 9, 4, 2, 1], "reverse": True, "V": 200},
    {"lengths": [9, 9, 4, 2, 1], "both": True, "cell": "leaky_relu", "resets": True},
    {"cell": "leaky_tanh"},
]


def check_options(options: dict[str, Any], H: int, backend: Backend, device: str) -> None:
    assert backend.load_error() == ""
    recurrences.check(backend, recurrences.make(9, 5, H, transposed=True, **options), device)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("H", [64, 384, 512, 1024, 1500])  # every kernel, and step by step
def test_options(H, options):
    check_options(options, H, cuda, "cuda")


@pytest.mark.parametrize("lengths", [None, [9, 9, 4, 2, 1]])
def test_both_directions_in_a_graph(lengths):
    """The stream of a capture has seen no call: the one beside it is made inside the capture."""
    assert cuda.load_error() == ""
    call = recurrences.make(9, 5, 64, both=True, lengths=lengths).on("cuda").call
    want = cuda.rnn_forward(call, True)[:2]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = cuda.rnn_forward(call, True)[:2]
    for _ in range(2):
        for value in got:
            value.fill_(torch.nan)
        graph.replay()
        assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("both", [False, True], ids=["one direction", "both"])
def test_a_thread_that_has_called_nothing_of_cuda(both):
    """Its memory is left over from the second call: torch calls nothing of CUDA for it either."""
    assert cuda.load_error() == ""
    call = recurrences.make(9, 5, 64, both=both).on("cuda").call
    want, _ = (cuda.rnn_forward(call, True)[:2] for _ in range(2))
    del _
    with ThreadPoolExecutor(1) as threads:
        got = threads.submit(cuda.rnn_forward, call, True).result()[:2]
    assert all(map(torch.equal, got, want))
