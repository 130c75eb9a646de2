"""Clipping gradients by their norm, and SGD."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rnnfast import dispatch
from rnnfast.backends import Backend, arguments
from rnnfast.backends.reference import reference
from rnnfast.training import sharded


def clip_grads_(grads: list[Tensor], max_norm: float, *, d2l: bool) -> Tensor:
    """Scale gradients in place by their common 2-norm; see `reference.clip_grads_`."""
    if not grads:
        return torch.tensor(0.0)
    return _backend_for_all(grads).clip_grads_(grads, max_norm, d2l)


def sgd_(params: list[Tensor], grads: list[Tensor], rate: float) -> None:
    """param -= rate * grad, then grad = 0, for one parameter after the other.

    To be called under torch.no_grad().
    """
    if params:
        _backend_for_all(params).sgd_(params, grads, rate)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """torch.nn.utils.clip_grad_norm_: same signature, rule and result, in two passes.

    total = sqrt(sum ||g||^2); every g *= min(1, max_norm / (total + 1e-6)). Squares are summed in
    float64 and do not overflow. Norms other than 2, and a `foreach` that is given, go to torch.
    Gradients may be DTensors, as FSDP2 has them, of any placements but partial sums.

    Returns the total norm before the scaling (of DTensors of one mesh a DTensor). Raises
    RuntimeError for a norm that is not finite when `error_if_nonfinite` is set (nothing has been
    scaled then), and for a partial sum;
    TypeError for arguments that are no tensors and no numbers.
    """
    try:
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if float(norm_type) != 2.0 or foreach is not None or error_if_nonfinite:
            return torch.nn.utils.clip_grad_norm_(
                parameters, max_norm, norm_type, error_if_nonfinite, foreach
            )
        grads = [p.grad for p in parameters if p.grad is not None]
        if sharded.is_sharded(grads):
            return sharded.clip_grads_(grads, float(max_norm), clip_grads_)
        return clip_grads_(grads, float(max_norm), d2l=False)
    except Exception:
        arguments.check_tensors("parameters", parameters)
        arguments.check_number("max_norm", max_norm)
        arguments.check_number("norm_type", norm_type)
        raise


def _backend_for_all(grads: list[Tensor]) -> Backend:
    """The backend that serves all of them; the reference where they differ in device or dtype."""
    if len({g.device for g in grads}) > 1 or {g.layout for g in grads} != {torch.strided}:
        return reference
    backends = {dispatch.backend_for(g) for g in {g.dtype: g for g in grads}.values()}
    return backends.pop() if len(backends) == 1 else reference


class SGD:
    """The updater of `train_ch8`: called as `updater(batch_size)`, it does the book's `sgd`."""

    def __init__(self, params: list[Tensor], lr: float) -> None:
        self.params, self.lr = params, lr
        self._zeros: list[tuple[Tensor, int]] = []

    def __call__(self, batch_size: int) -> None:
        sgd(self.params, self.lr, batch_size)

    def note_zeros(self) -> None:
        """Remember that the gradients are zero: until one changes, no device has to be asked."""
        self._zeros = [(p.grad, p.grad._version) for p in self.params if p.grad is not None]

    def finds_zeros(self) -> bool:
        """Whether all gradients are zero or None."""
        known = {id(grad) for grad, version in self._zeros if grad._version == version}
        grads = [p.grad for p in self.params if p.grad is not None]
        return not any(grad.any() for grad in grads if id(grad) not in known)


def sgd(params: Any, lr: float, batch_size: int) -> None:
    """param -= lr * grad / batch_size, then the gradients become zero.

    Source: the book's `sgd` (chapter 3). Raises TypeError for a parameter without a gradient.
    """
    try:
        params = list(dict.fromkeys(params))  # the book's second step finds a gradient of zero
        grads = grads_of(params, "sgd")
        with torch.no_grad():
            sgd_(params, grads, lr / batch_size)
    except Exception:
        arguments.check_tensors("params", params)
        arguments.check_number("lr", lr)
        arguments.check_number("batch_size", batch_size)
        raise


def gradients(net: Any) -> list[Tensor]:
    """The gradients of a net's parameters; TypeError where one is missing."""
    if isinstance(net, nn.Module):
        return grads_of([p for p in net.parameters() if p.requires_grad], "grad_clipping")
    return grads_of(net.params, "grad_clipping")


def grads_of(params: list[Tensor], caller: str) -> list[Tensor]:
    grads = []
    for index, param in enumerate(params):
        if param.grad is None:
            raise TypeError(
                f"{caller}: params[{index}] of shape {tuple(param.shape)} has no gradient "
                "(None); the loss does not depend on it, or backward() was not called"
            )
        grads.append(param.grad)
    return grads
