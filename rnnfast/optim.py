"""What follows a backward pass: clipping gradients by their norm, and SGD."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

import torch
from torch import Tensor

from rnnfast import dispatch
from rnnfast.backends import native, reference


def clip_grads_(grads: list[Tensor], max_norm: float, *, d2l: bool) -> Tensor:
    """Scale gradients in place by their common 2-norm; see `reference.clip_grads_`."""
    if not grads:
        return torch.tensor(0.0)
    norm: Tensor = _backend_for_all(grads).clip_grads_(grads, max_norm, d2l)
    return norm


def sgd_(params: list[Tensor], grads: list[Tensor], step: float) -> None:
    """param -= step * grad, then grad = 0, for one parameter after the other.

    In one pass over all of them where the compiled kernels serve; else by two calls of torch. To be
    called under torch.no_grad().
    """
    if not params:
        return
    plain = all(t.is_contiguous() for t in (*params, *grads))
    if plain and _backend_for_all(params) is native:
        native.sgd_(params, grads, step)
    else:
        torch._foreach_add_(params, grads, alpha=-step)
        torch._foreach_zero_(grads)


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

    Returns the total norm before the scaling. Raises RuntimeError for a norm that is not finite
    when `error_if_nonfinite` is set (nothing has been scaled then).
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if float(norm_type) != 2.0 or foreach is not None or error_if_nonfinite:
        return torch.nn.utils.clip_grad_norm_(
            parameters, max_norm, norm_type, error_if_nonfinite, foreach
        )
    grads = [p.grad for p in parameters if p.grad is not None]
    return clip_grads_(grads, float(max_norm), d2l=False)


def _backend_for_all(grads: list[Tensor]) -> ModuleType:
    """The backend that serves every one of them; the reference where they differ in device."""
    if len({g.device for g in grads}) > 1 or {g.layout for g in grads} != {torch.strided}:
        return reference
    backends = {dispatch.backend_for(g) for g in {g.dtype: g for g in grads}.values()}
    return backends.pop() if len(backends) == 1 else reference
