"""Every kernel of every backend against float64, by the tests' own rule, and twice for its bits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from bench.gpu.stage import Stage
from bench.protocol import ROOT
from rnnfast import dispatch
from rnnfast.backends import reference

sys.path.append(str(ROOT / "tests"))
from support.compare import assert_close_to_f64

# T, B, V, H: odd sizes, every tier, more rows than clusters, one step, one row, one character
SHAPES = (
    *((1, 1, 2, 1), (2, 3, 28, 32), (5, 1, 28, 33), (35, 32, 28, 64), (7, 33, 5, 100)),
    *((35, 32, 28, 128), (9, 5, 28, 129), (35, 8, 28, 250), (35, 32, 28, 256), (4, 257, 28, 256)),
    *((3, 7, 1000, 384), (35, 1, 28, 512), (35, 32, 28, 512), (6, 129, 28, 500), (4, 256, 28, 512)),
    *((5, 19, 28, 700), (35, 8, 28, 1000), (35, 32, 28, 1024), (3, 200, 28, 1024)),
    *((4, 9, 28, 1100), (3, 5, 28, 1536), (5, 3, 28, 2048), (200, 32, 28, 512), (1000, 2, 28, 64)),
)
FEW = ((4, 5, 7, 33), (3, 9, 28, 128), (4, 3, 28, 300))  # for a sanitizer, or a rehearsal
_DECODED = 40

Tensors = tuple[Tensor, ...]


@dataclass
class Inputs:
    """float64 or float32 inputs of all functions for one shape; the ids are the same."""

    T: int
    ids: Tensor
    targets: Tensor
    params: list[Tensor]
    x: Tensor
    h0: Tensor
    hs: Tensor
    grad_hs: Tensor
    grad_h_last: Tensor

    def to(self, dtype: torch.dtype, device: torch.device) -> Inputs:
        floats = (self.x, self.h0, self.hs, self.grad_hs, self.grad_h_last)
        params = [p.to(device, dtype, copy=True) for p in self.params]
        ids, targets = self.ids.to(device), self.targets.to(device)
        return Inputs(self.T, ids, targets, params, *(t.to(device, dtype) for t in floats))


Function = Callable[[ModuleType, Inputs], Tensors]


def run(stage: Stage) -> None:
    shapes = FEW if stage.dry or stage.name == "sanitized" else SHAPES
    items = [(name, shape) for name in stage.backends() for shape in shapes]
    for backend, shape in stage.items(items):
        check(stage, backend, shape)


def check(stage: Stage, backend: str, shape: tuple[int, int, int, int]) -> None:
    """One row per function: ok, or what is wrong with it."""
    # under a sanitizer torch's own kernels would be examined as well: the truth is the CPU's
    where = torch.device("cpu") if stage.name == "sanitized" else stage.device
    inputs = make(*shape, where)
    with dispatch.use_backend(backend):
        module = dispatch.backend_for(torch.empty(0, device=stage.device))
    for name, function in functions():
        why = difference(name, function, module, inputs, stage.device)
        row = dict(zip("TBVH", shape, strict=True))
        stage.emit(kind="correct", backend=backend, function=name, **row, ok=not why, why=why)


def functions() -> Iterator[tuple[str, Function]]:
    for relu in (False, True):
        act = "relu" if relu else "tanh"
        for ids in (True, False):
            source = "ids" if ids else "dense"
            yield f"rnn_forward {act} {source}", forward(relu, ids)
            yield f"rnn_backward {act} {source}", backward(relu, ids)
        yield f"rnn_cross_entropy {act}", _cross_entropy(relu)
    yield "rnn_cross_entropy without gradients", _loss
    for lr, clip in ((0.5, 0.05), (0.5, float("inf"))):
        yield f"train_step_ clip {clip}", _train_step(lr, clip)
    for d2l in (True, False):
        yield f"clip_grads_ {'d2l' if d2l else 'torch'}", _clip(d2l)
    yield "decode greedy", _decode(False)
    yield "decode sampled", _decode(True)


def make(T: int, B: int, V: int, H: int, device: torch.device) -> Inputs:
    """W_hh has a spectral radius near 1, so that errors live long."""
    g = torch.Generator().manual_seed(T * 7 + B * 5 + V * 3 + H)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g, dtype=torch.float64)

    params = [normal(V, H) * 0.5, normal(H, H) * H**-0.5, normal(H) * 0.5]
    params += [normal(H, V) * 2 * H**-0.5, normal(V) * 0.5]
    floats = [*params, normal(T, B, H), normal(B, H) * 0.5]
    floats += [torch.tanh(normal(T, B, H)), normal(T, B, H), normal(B, H)]
    # rounded once: float32 and float64 are then given the same numbers
    floats = [t.float().double().to(device) for t in floats]
    ids, targets = (torch.randint(V, (T, B), generator=g).to(device) for _ in range(2))
    return Inputs(T, ids, targets, floats[:5], *floats[5:])


def difference(
    name: str, function: Function, module: ModuleType, inputs: Inputs, device: torch.device
) -> str:
    """What is wrong with a function of the module on the device; "" if nothing."""
    where = inputs.h0.device
    try:
        got = function(module, inputs.to(torch.float32, device))
        again = function(module, inputs.to(torch.float32, device))
        same = function(reference, inputs.to(torch.float32, where))
        truth = function(reference, inputs)
        for i, (mine, loop, true) in enumerate(zip(got, same, truth, strict=True)):
            assert_close_to_f64(f"{name}, output {i}", mine.to(where), loop, true)
        if not all(torch.equal(a, b) for a, b in zip(got, again, strict=True)):
            return "another call gives other bits"
    except (RuntimeError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"[:400]
    return ""


def forward(relu: bool, ids: bool) -> Function:
    def call(module: ModuleType, i: Inputs) -> Tensors:
        W_xh, W_hh, b_h, *_ = i.params
        x, token = (W_xh, i.ids) if ids else (i.x, None)
        with torch.no_grad():
            out: Tensors = module.rnn_forward(x, token, W_hh, b_h, i.h0, relu)
        return out

    return call


def backward(relu: bool, ids: bool) -> Function:
    def call(module: ModuleType, i: Inputs) -> Tensors:
        V = len(i.params[0])
        hs = torch.relu(i.hs) if relu else i.hs
        inputs = (i.grad_hs, i.grad_h_last, hs, i.ids if ids else None, V, i.params[1], i.h0)
        with torch.no_grad():
            out: Tensors = module.rnn_backward(*inputs, relu, True, True, True)
        return out

    return call


def _cross_entropy(relu: bool) -> Function:
    def call(module: ModuleType, i: Inputs) -> Tensors:
        with torch.no_grad():
            out: Tensors = module.rnn_cross_entropy(
                i.ids, i.targets, *i.params, i.h0, relu, True, True
            )
        return out

    return call


def _loss(module: ModuleType, i: Inputs) -> Tensors:
    with torch.no_grad():
        out = module.rnn_cross_entropy(i.ids, i.targets, *i.params, i.h0, False, False, False)
    return out[0], out[1]


def _train_step(lr: float, clip: float) -> Function:
    def call(module: ModuleType, i: Inputs) -> Tensors:
        params, h = [p.clone() for p in i.params], i.h0.clone()
        grads = [torch.full_like(p, float("nan")) for p in params]
        with torch.no_grad():
            loss = module.train_step_(i.ids, i.targets, params, grads, h, lr, clip, False)
        return loss, h, *params, *grads

    return call


def _clip(d2l: bool) -> Function:
    def call(module: ModuleType, i: Inputs) -> Tensors:
        grads = [p.clone() for p in i.params]
        norm = module.clip_grads_(grads, 0.7, d2l)
        return norm, *grads

    return call


def _decode(sampled: bool) -> Function:
    """The ids themselves may differ where two logits are near; so the states are compared up to
    there only: by feeding the same first steps, as many as float64 is sure of.
    """

    def call(module: ModuleType, i: Inputs) -> Tensors:
        steps = _sure_steps(i.to(torch.float64, torch.device("cpu")), sampled)
        uniforms = _uniforms(i, steps) if sampled else None
        out: Tensors = module.decode(i.ids[0], *i.params, i.h0, steps, 1.0, uniforms, False)
        return out[0].double(), out[1]  # as numbers: a wrong id is a large error

    return call


def _uniforms(i: Inputs, steps: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    drawn = torch.rand(_DECODED, i.ids.shape[1], generator=g, dtype=torch.float32)
    return drawn[:steps].to(i.h0.device, i.h0.dtype)


def _sure_steps(i: Inputs, sampled: bool) -> int:
    """How many steps no rounding of float32 can change in any row."""
    W_xh, W_hh, b_h, W_hq, b_q = i.params
    token, h = i.ids[0], i.h0
    uniforms = _uniforms(i, _DECODED)
    for step in range(_DECODED):
        h = torch.tanh(W_xh[token] + h @ W_hh + b_h)
        logits = h @ W_hq + b_q
        if sampled:
            sums = torch.softmax(logits, 1).cumsum(1)
            near = (sums[:, :-1] - uniforms[step][:, None]).abs().min() if len(b_q) > 1 else 1.0
            token = (sums < uniforms[step][:, None]).sum(1).clamp(max=len(b_q) - 1)
        else:
            best = logits.topk(2, 1).values
            near, token = (best[:, 0] - best[:, 1]).min(), logits.argmax(1)
        if near < 1e-3:
            return max(step, 1)
    return _DECODED
