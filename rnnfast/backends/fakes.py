"""Output shapes of the operators for torch.compile and torch.export, which run no kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def register() -> None:
    """Register them all, once in a process.

    A call with one tensor on "meta" comes here as well, whatever the device of the others.
    """

    def fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def register(shapes: Callable[..., Any]) -> Callable[..., Any]:
            def checked(*args: Any) -> Any:
                devices = {str(each.device) for each in _tensors(args)}
                if len(devices) > 1:
                    raise RuntimeError(f"{name}: the tensors are on {' and '.join(devices)}")
                return shapes(*args)

            torch.library.register_fake(name)(checked)
            return shapes

        return register

    @fake("rnnfast::rnn.plain")
    @fake("rnnfast::rnn_bf16")
    def layer_shapes(x, ids, W_hh, b_h, h0, cell, *options):  # type: ignore[no-untyped-def]
        hs_shape = x.shape if ids is None else (*ids.shape, h0.shape[-1])
        return x.new_empty(hs_shape), x.new_empty(h0.shape)

    @fake("rnnfast::rnn")
    def _(*args):  # type: ignore[no-untyped-def]
        hs, h_last = layer_shapes(*args)
        saves = _given(args, 14) and _given(args, 11) is not None
        return hs, h_last, hs.new_empty(hs.shape if saves else 0)

    @fake("rnnfast::rnn_logits")
    def _(x, ids, W_hh, b_h, W_hq, b_q, h0, cell):  # type: ignore[no-untyped-def]
        T, B = (x if ids is None else ids).shape[:2]
        H, V = W_hq.shape
        return x.new_empty((T * B, V)), x.new_empty(h0.shape), x.new_empty((T, B, H))

    @fake("rnnfast::rnn_backward.plain")
    def backward_shapes(  # type: ignore[no-untyped-def]
        grad_hs, grad_h_last, hs, ids, V, W_hh, h0, cell, need_W_hh, need_b_h, need_h0, *_options
    ):
        return (
            hs.new_empty(hs.shape if ids is None else (V, hs.shape[-1])),
            hs.new_empty(W_hh.shape if need_W_hh else (0,)),
            hs.new_empty(W_hh.shape[:-1] if need_b_h else (0,)),
            hs.new_empty(h0.shape if need_h0 else (0,)),
        )

    @fake("rnnfast::rnn_backward")
    def _(*args):  # type: ignore[no-untyped-def]
        grads, leak = backward_shapes(*args[:11]), _given(args, 16)
        needs_leak = _given(args, 18) and leak is not None
        return *grads, args[2].new_empty(leak.shape if needs_leak else 0)

    @fake("rnnfast::rnn_logits_backward")
    def _(grad_logits, grad_h_last, grad_hs, hs, ids, V, W_hh, W_hq, *rest):  # type: ignore[no-untyped-def]
        grads = backward_shapes(grad_hs, grad_h_last, hs, ids, V, W_hh, *rest)
        return *grads, hs.new_empty(W_hq.shape), hs.new_empty(W_hq.shape[1:])

    @fake("rnnfast::rnn_cross_entropy")
    def _(  # type: ignore[no-untyped-def]
        ids, targets, W_xh, W_hh, b_h, W_hq, b_q, h0, cell, need_grads, need_h0
    ):
        inputs = (W_xh, W_hh, b_h, W_hq, b_q, h0)
        needed = [need_grads] * 5 + [need_grads and need_h0]
        grads = (t.new_empty(t.shape if n else (0,)) for t, n in zip(inputs, needed, strict=True))
        return h0.new_empty(()), h0.new_empty(h0.shape), *grads

    @fake("rnnfast::rnn_cross_entropy_grads_")
    def _(ids, targets, params, grads, h0, cell):  # type: ignore[no-untyped-def]
        return h0.new_empty(()), h0.new_empty(h0.shape)

    @fake("rnnfast::train_steps_")
    def _(  # type: ignore[no-untyped-def]
        ids, targets, params, grads, h, lr, max_norm, cell, keep_grads, steps_first
    ):
        return h.new_empty((len(ids),))

    @fake("rnnfast::clip_grads_")
    def _(grads, max_norm, d2l):  # type: ignore[no-untyped-def]
        return grads[0].new_empty(()) if grads else torch.empty(())

    @fake("rnnfast::sgd_")
    def _(params, grads, step):  # type: ignore[no-untyped-def]
        return None

    @fake("rnnfast::decode")
    @fake("rnnfast::decode_bf16")
    def _(  # type: ignore[no-untyped-def]
        first, W_xh, W_hh, b_h, W_hq, b_q, h0, steps, temperature, uniforms, cell
    ):
        return first.new_empty((steps, first.shape[0])), h0.new_empty(h0.shape)


def _tensors(args: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among the arguments, those in lists of tensors as well."""
    for each in args:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (list, tuple)):
            yield from _tensors(each)


def _given(args: tuple[Any, ...], i: int) -> Any:
    """Argument i of an operator, None where the call leaves it to its default."""
    return args[i] if len(args) > i else None
