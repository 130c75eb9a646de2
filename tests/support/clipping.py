"""The norm clip of any backend, held against the reference in float64."""

from collections.abc import Callable

from torch import Tensor

from rnnfast.backends.reference import reference
from support.compare import assert_close_to_f64


def check(clip: Callable[..., Tensor], grads: list[Tensor], max_norm: float, d2l: bool) -> None:
    """The norm and every gradient, which are clipped in place; clip: as `Backend.clip_grads_`."""
    same, wide = [g.clone() for g in grads], [g.double() for g in grads]
    norm = clip(grads, max_norm, d2l)
    same_norm = reference.clip_grads_(same, max_norm, d2l)
    wide_norm = reference.clip_grads_(wide, max_norm, d2l)
    assert_close_to_f64("norm", norm, same_norm, wide_norm)
    for i, (got, want, truth) in enumerate(zip(grads, same, wide, strict=True)):
        assert_close_to_f64(f"grads[{i}]", got, want, truth)
