"""The recurrence, its losses and generation as functions.

Each call is checked once, by the backend that `dispatch` names or else here. `autograd` holds the
Functions that make it differentiable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from rnnfast import autograd, dispatch
from rnnfast.backends import (
    Backend,
    CrossEntropy,
    Decoding,
    Params,
    Recurrence,
    TrainSteps,
    arguments,
)
from rnnfast.backends.reference import LEAST_TEMPERATURE
from rnnfast.backends.reference_recurrence import gather
from rnnfast.cells.leaky import leak_of_units

_Result = TypeVar("_Result")
_Run = Callable[[Backend, Recurrence], tuple[Tensor, Tensor]]


def rnn(
    inputs: Tensor,  # [T, B] ids or [T, B, V]
    h0: Tensor,  # [B, H]
    W_xh: Tensor,  # [V, H]
    W_hh: Tensor,  # [H, H]
    b_h: Tensor | None = None,  # [H]
    *,
    nonlinearity: str = "tanh",
    resets: Tensor | None = None,  # [T, B]
    resets_to_h0: bool = False,
    leak: Tensor | float | None = None,  # [H]
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """All hidden states of a plain recurrent network.

    h_t = act(x_t @ W_xh + h_{t-1} @ W_hh + b_h) for t = 1..T, act being tanh or relu.

    Args:
        inputs: token ids [T, B] (int64), where x_t @ W_xh is the gather W_xh[ids_t]; or dense
            inputs [T, B, V] of the weights' dtype, one-hot or any other.
        h0: the first hidden state [B, H]; [1, H] is broadcast over the batch.
        W_xh, W_hh, b_h: [V, H], [H, H], and [H] or anything that broadcasts to [B, H], or None.
        nonlinearity: "tanh" or "relu".
        resets: bool [T, B]; where it is true, h_{t-1} is zero in the step, or h0 with resets_to_h0.
        leak: a of a leaky cell, h_t = (1 - a) h_{t-1} + a act(...): a number or a tensor [H].
        noise: the standard deviation of normal noise in act(...), from `generator` or torch's own:
            the same bits for the same seed, on one backend.

    Returns:
        hs [T, B, H] and h_last [B, H] (its own storage, not a view of hs).

    The results are differentiable in all floating point tensors, and twice differentiable, then by
    the reference. An id selects its row alone: a NaN in a row that no id names spreads nowhere, as
    it would from one-hot vectors times W_xh.

    Raises:
        TypeError: an argument that is no tensor.
        ValueError: T is 0, or an unknown nonlinearity.
        RuntimeError: a dtype, shape or device that does not fit, or an id outside [0, V).

    Source: the notebook's `rnn`; torch.nn.RNN with one layer, its weights transposed.
    """
    run: _Run = autograd.recur
    if noise != 0:
        arguments.check_number("noise", noise)
        arguments.check_generator(generator)
        run = partial(autograd.recur_with_noise, noise, generator)
    elif resets is None and leak is None:
        return _run_layer(run, inputs, h0, W_xh, W_hh, b_h, nonlinearity)
    options: dict[str, Any] = {}
    if resets is not None:
        options = {"resets": resets, "resets_to_h0": resets_to_h0}
    if leak is not None:
        options["leak"] = leak
    return _run_layer(run, inputs, h0, W_xh, W_hh, b_h, nonlinearity, options)


def rnn_logits(
    inputs: Tensor,  # [T, B] ids or [T, B, V]
    h0: Tensor,  # [B, H]
    params: Sequence[Tensor],  # W_xh [V, H], W_hh [H, H], b_h, W_hq [H, V], b_q [V]
    *,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """`rnn` under its `readout`: logits [T * B, V] of all steps, and h_last [B, H].

    logits_t = h_t @ W_hq + b_q, h_t as in `rnn`. Where the backend can, one call does both, forward
    and backward, and reads the states while they are in cache.

    Args:
        inputs, h0, nonlinearity: as in `rnn`.
        params: W_xh [V, H], W_hh [H, H], b_h as in `rnn`, W_hq [H, V], b_q [V].

    Differentiable as `rnn` is. Raises what `rnn` raises, RuntimeError for a readout that does not
    fit, and ValueError for another number of parameters. Source: the notebook's `rnn`.
    """

    def run(backend: Backend, r: Recurrence) -> tuple[Tensor, Tensor]:
        return _recur_and_read_out(backend, r, W_hq, b_q)

    try:
        W_xh, W_hh, b_h, W_hq, b_q = params
        return _run_layer(run, inputs, h0, W_xh, W_hh, b_h, nonlinearity)
    except Exception:
        arguments.check_model(params)
        raise


def readout(hs: Tensor, W_hq: Tensor, b_q: Tensor) -> Tensor:
    """logits = hs @ W_hq + b_q over all steps at once: [T, B, H] to [T * B, V].

    Raises TypeError for what is no tensor, RuntimeError for shapes and dtypes that do not fit.
    """
    try:
        h = hs.flatten(0, 1)
        if torch.is_autocast_enabled(h.device.type):
            return h @ W_hq + b_q  # the product is rounded, the sum is not, as in eager
        return torch.addmm(b_q, h, W_hq)
    except Exception:
        arguments.check_readout(hs, W_hq, b_q)
        raise


def rnn_cross_entropy(
    ids: Tensor,  # [T, B]
    targets: Tensor,  # [T, B]
    h0: Tensor,  # [B, H]
    params: Sequence[Tensor],  # W_xh [V, H], W_hh [H, H], b_h, W_hq [H, V], b_q [V]
    *,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of a character model over a minibatch, as one differentiable call.

    loss = mean over T * B of -log softmax(h_t @ W_hq + b_q)[target_t], h_t as in `rnn`.
    The logits are never written. Where gradients are wanted, they are computed with the loss.

    Args:
        ids, targets: int64 [T, B], in [0, V).
        h0: the first hidden state [B, H].
        params: W_xh [V, H], W_hh [H, H], b_h [H], W_hq [H, V], b_q [V].
        nonlinearity: "tanh" or "relu".

    Returns the loss (0-dim) and h_last [B, H], cut off the graph as truncated backpropagation
    wants it. The loss is differentiable in h0 and all params, and twice differentiable, then by the
    reference.

    Raises what `rnn_logits` raises, and RuntimeError for targets that do not fit.
    """

    def run(backend: Backend, params: Params) -> tuple[Tensor, Tensor]:
        state = _for_batch(h0, ids.shape[1])
        needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (state, *params))
        if needs_grad and not backend.is_differentiable:
            inputs = (ids, targets, *params, state, nonlinearity, backend)
            out: tuple[Tensor, Tensor] = autograd.RNNCrossEntropy.apply(*inputs)  # type: ignore[no-untyped-call]
            return out
        call = CrossEntropy(nonlinearity, ids, targets, params, state, need_grads=False)
        loss, h_last, *_ = backend.rnn_cross_entropy(call)
        return loss, h_last.detach() if h_last.requires_grad else h_last

    def check() -> None:
        arguments.check_loss(ids, targets, h0, params, nonlinearity)

    return _run_checked(run, params, check)


def rnn_cross_entropy_grads(
    ids: Tensor,  # [T, B]
    targets: Tensor,  # [T, B]
    h0: Tensor,  # [B, H]
    params: Sequence[Tensor],  # W_xh [V, H], W_hh [H, H], b_h, W_hq [H, V], b_q [V]
    *,
    grads: Sequence[Tensor] | None = None,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, ...]:
    """`rnn_cross_entropy` and its gradients by the five parameters, without autograd.

    Returns loss (0-dim), h_last [B, H], and the gradients, in the order and shapes of `params`: new
    ones, or `grads`, contiguous tensors that they are added to. To be called under torch.no_grad(),
    or with tensors that require no gradient.

    Raises what `rnn_cross_entropy` raises, and RuntimeError where gradients are recorded: those
    returned could not be differentiated. `grads` have not changed then.
    """

    def run(backend: Backend, params: Params) -> tuple[Tensor, ...]:
        arguments.check_not_recorded("rnn_cross_entropy_grads", (*params, h0), "h0")
        state = _for_batch(h0, ids.shape[1])
        call = CrossEntropy(nonlinearity, ids, targets, params, state, grads=grads)
        return backend.rnn_cross_entropy(call)[:7]

    def check() -> None:
        arguments.check_loss(ids, targets, h0, params, nonlinearity)
        if grads is not None:
            arguments.check_grads(grads, params)

    return _run_checked(run, params, check)


def train_step_(
    ids: Tensor,  # [T, B]
    targets: Tensor,  # [T, B]
    params: Sequence[Tensor],  # W_xh [V, H], W_hh [H, H], b_h, W_hq [H, V], b_q [V]
    grads: Sequence[Tensor],
    h: Tensor,  # [B, H]
    lr: float,
    max_norm: float,
    *,
    nonlinearity: str = "tanh",
    keep_grads: bool = True,
) -> Tensor:
    """One step of training in one call and in place: loss, gradients, d2l's clip, SGD.

    The gradients of `rnn_cross_entropy` overwrite `grads`; they are multiplied by max_norm / norm
    where their common norm is larger (math.inf: never); param -= lr * grad; h becomes the last
    hidden state. Returns the loss before the step (0-dim). To be called under torch.no_grad(), or
    with tensors that require no gradient.
    With keep_grads=False, `grads` is memory to work in, and undefined afterwards.

    Raises what `rnn_cross_entropy` raises, and RuntimeError where gradients are recorded: autograd
    would know nothing of the step. Nothing has changed then.
    """

    def run(backend: Backend, params: Params) -> Tensor:
        arguments.check_not_recorded("train_step_", (*params, h), "h")
        rest = (params, grads, h, lr, max_norm, keep_grads)
        steps = TrainSteps(nonlinearity, [ids], [targets], *rest, steps_first=True)
        return backend.train_steps_(steps)[0]

    def check() -> None:
        arguments.check_loss(ids, targets, h, params, nonlinearity, "the state h")
        arguments.check_written("the state h", h, ids.shape[1])
        arguments.check_grads(grads, params)
        arguments.check_number("lr", lr)
        arguments.check_number("max_norm", max_norm)

    return _run_checked(run, params, check)


@torch.no_grad()
def greedy_decode(
    first: Tensor,  # [B]
    h0: Tensor,  # [B, H]
    params: Sequence[Tensor],  # W_xh [V, H], W_hh [H, H], b_h, W_hq [H, V], b_q [V]
    steps: int,
    *,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """Feed the most probable id back, `steps` times: ids [steps, B] (int64) and h_last [B, H].

    h = act(W_xh[id] + h @ W_hh + b_h); id = argmax(h @ W_hq + b_q), the first among equals.
    params are W_xh [V, H], W_hh [H, H], b_h [H], W_hq [H, V], b_q [V].

    Raises TypeError for what is no tensor or no integer, RuntimeError for shapes, dtypes or ids
    that do not fit, ValueError for steps < 0 and for another number of parameters.
    Source: the second loop of the notebook's `predict_ch8`.
    """

    def run(backend: Backend, params: Params) -> tuple[Tensor, Tensor]:
        state = _for_batch(h0, first.shape[0])
        return backend.decode(Decoding(nonlinearity, first, params, state, steps, 1.0, None))

    def check() -> None:
        arguments.check_decoding(first, h0, params, steps, nonlinearity)

    return _run_checked(run, params, check)


@torch.no_grad()
def sample_decode(
    first: Tensor,  # [B]
    h0: Tensor,  # [B, H]
    params: Sequence[Tensor],  # W_xh [V, H], W_hh [H, H], b_h, W_hq [H, V], b_q [V]
    steps: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """As `greedy_decode`, but each id is drawn from softmax(logits / temperature).

    Draws all steps * B uniform numbers from `generator` (torch's own by default) beforehand and
    inverts the cumulative distribution, so that the same seed gives the same ids on any backend
    up to rounding. Raises what `greedy_decode` raises, and ValueError for a temperature that is not
    positive and finite.
    """
    model = arguments.check_decoding(first, h0, params, steps, nonlinearity)
    arguments.check_sampling(temperature, generator)
    device, B = h0.device if generator is None else generator.device, first.shape[0]
    uniforms = torch.rand((steps, B), generator=generator, device=device).to(h0.device)
    state, temperature = _for_batch(h0, B), max(float(temperature), LEAST_TEMPERATURE)
    call = Decoding(nonlinearity, first, model, state, steps, temperature, uniforms)
    return dispatch.backend_for(model.W_xh).decode(call)


def _run_layer(
    run: _Run,
    inputs: Tensor,
    h0: Tensor,
    W_xh: Tensor,
    W_hh: Tensor,
    b_h: Tensor | None,
    nonlinearity: str,
    options: Mapping[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Check the arguments, and call run(backend, call) on the backend that serves them.

    options: the optional fields of `Recurrence` that the call has, which ask for features.
    """
    try:
        x, ids, bias = _project(inputs, W_xh, b_h)
        backend = dispatch.backend_for(x, () if options is None else tuple(options))
        if not backend.checks_arguments:
            arguments.check_layer(inputs, h0, W_xh, W_hh, b_h, nonlinearity, options=options)
        state = _for_batch(h0, inputs.shape[1])
        if options is None:
            return run(backend, Recurrence(nonlinearity, x, ids, W_hh, bias, state))
        cell, fields = nonlinearity, dict(options)
        if "leak" in fields:
            cell, fields["leak"] = f"leaky_{cell}", leak_of_units(fields["leak"], W_hh)
        return run(backend, Recurrence(cell, x, ids, W_hh, bias, state, **fields))
    except Exception:
        arguments.check_layer(inputs, h0, W_xh, W_hh, b_h, nonlinearity, options=options)
        raise


def _run_checked(
    run: Callable[[Backend, Params], _Result], params: Sequence[Tensor], check: Callable[[], None]
) -> _Result:
    """Check the arguments, and call run(backend, params) on the backend that serves them."""
    try:
        model = Params(*params)
        backend = dispatch.backend_for(model.W_xh)
        if not backend.checks_arguments:
            check()
        return run(backend, model)
    except Exception:
        check()
        raise


def _for_batch(h0: Tensor, B: int) -> Tensor:
    """Broadcast a state [1, H] over the batch; raises for others, of which checks say more."""
    rows, H = h0.shape
    return h0 if rows == B else h0.expand(B, H)


def _recur_and_read_out(
    backend: Backend, r: Recurrence, W_hq: Tensor, b_q: Tensor
) -> tuple[Tensor, Tensor]:
    fits = b_q.dim() == 1 and b_q.shape[0] == W_hq.shape[1]  # other shapes broadcast as in eager
    small = W_hq.numel() <= backend.fused_readout
    if fits and small and not torch.is_autocast_enabled(r.x.device.type):
        if autograd.needs_grad(r):
            args = (r, backend, W_hq, b_q, *autograd.tensors_of(r))
            logits, h_last, _ = autograd.RNNLogits.apply(*args)  # type: ignore[no-untyped-call]
            return logits, h_last
        if not (torch.is_grad_enabled() and (W_hq.requires_grad or b_q.requires_grad)):
            logits, h_last, _ = backend.rnn_logits(r, W_hq, b_q, False)
            return logits, h_last
    hs, h_last = autograd.recur(backend, r)
    return readout(hs, W_hq, b_q), h_last


def _project(
    inputs: Tensor, W_xh: Tensor, b_h: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(x, ids, bias) for the operator: a table with ids, or the inputs' projection without."""
    # A slice of the shape would take 0.1 us more.
    ready = b_h is None or (b_h.dim() == 1 and b_h.shape[0] == W_xh.shape[1])
    if inputs.dtype is torch.int64:
        if ready:
            return W_xh, inputs, b_h
        x = gather(W_xh, inputs)
    else:
        if W_xh.dim() != 2:
            raise ValueError("W_xh is no matrix")  # of [T, V, H] each step would get its own
        x = inputs @ W_xh
        x = x if x.dtype is W_xh.dtype else x.to(W_xh.dtype)  # under autocast it is bfloat16
    if ready or b_h is None:
        return x, None, b_h
    arguments.check_broadcasts("b_h", b_h, (x.shape[1], x.shape[2]))
    return x + b_h, None, None  # [1, H], [B, H] or a scalar: broadcasts as in eager
