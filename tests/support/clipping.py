"""The norm clip of any backend, held against long double."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rnnfast.backends.reference import reference
from support.compare import assert_close_to_f64


def check(clip: Callable[..., Tensor], grads: list[Tensor], max_norm: float, d2l: bool) -> None:
    """The norm and every gradient, which are clipped in place; clip: as `Backend.clip_grads_`."""
    same, (true_norm, *true) = [g.clone() for g in grads], truth_of(grads, max_norm, d2l)
    norm = clip(grads, max_norm, d2l)
    same_norm = reference.clip_grads_(same, max_norm, d2l)
    assert_close_to_f64("norm", norm, same_norm, true_norm)
    for i, (got, want, truth) in enumerate(zip(grads, same, true, strict=True)):
        assert_close_to_f64(f"grads[{i}]", got, want, truth)


@np.errstate(all="ignore")
def truth_of(grads: list[Tensor], max_norm: float, d2l: bool) -> list[Tensor]:
    """The norm, then the clipped gradients: a truth better than float64, which some are of."""
    wide = [g.double().numpy().astype(np.longdouble) for g in grads]
    norm = np.sqrt(sum((g**2).sum() for g in wide))
    if d2l:
        factor = max_norm / norm if norm > max_norm else 1
    else:
        factor = np.minimum(max_norm / (norm + np.longdouble(1e-6)), 1)
    values = [norm, *(g * factor for g in wide)]
    return [torch.from_numpy(np.asarray(value).astype(np.float64)) for value in values]
