"""What arguments must be: an error says which one it is, what it was, and what it must be.

These checks run before a call where the backend does not check by itself, and after one that has
failed: then they find the argument that is to blame. The types of error are those of the book's
loop, where it has one for the case.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnnfast.backends import Params

_FIVE = "five tensors: W_xh [V, H], W_hh [H, H], b_h [H], W_hq [H, V], b_q [V]"


class StateError(RuntimeError, ValueError):
    """The state is a bare tensor, for which the book's loop raises either of the two errors.

    It unpacks the tensor, which is a ValueError unless the batch has one row, and then multiplies
    that row by a matrix, which is a RuntimeError.
    """


def described(value: object) -> str:
    """A value as a message shows it: "a list", "2.5", "a float32 tensor of shape (3, 4)"."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        words = dtype if value.layout == torch.strided else f"sparse {dtype}"
        device = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{_article(words)} {words} tensor of shape {tuple(value.shape)}{device}"
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return f"{value!r:.60}"
    words = type(value).__name__
    return f"{_article(words)} {words}"


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def check_layer(
    inputs: Tensor,  # [T, B] ids or [T, B, V]
    h0: Tensor,  # [B, H]
    W_xh: Tensor,  # [V, H]
    W_hh: Tensor,  # [H, H]
    b_h: Tensor | None,  # [H], or what broadcasts to [B, H]
    nonlinearity: str,
    name: str = "inputs",
    state: str = "the state h0",
    options: Mapping[str, Any] | None = None,
) -> None:
    """The arguments of a recurrence fit; `name` and `state` are what the first two are called.

    options: the optional fields of `Recurrence` that the call has.
    """
    check_nonlinearity(nonlinearity)
    for each, tensor in ((name, inputs), (state, h0), ("W_xh", W_xh), ("W_hh", W_hh)):
        _check_tensor(each, tensor)
    _check_shape("W_xh", W_xh, (None, None), "[V, H]")
    H = W_xh.shape[1]
    _check_shape("W_hh", W_hh, (H, H), "[H, H], H as W_xh has it")
    _check_inputs(name, inputs, W_xh)
    if inputs.shape[0] == 0:
        raise ValueError(f"{name} have no time step (T = 0): there is no output to give")
    _check_state(state, h0, name, inputs, H)
    others = {"W_hh": W_hh, state: h0}
    if b_h is not None:
        _check_tensor("b_h", b_h)
        check_broadcasts("b_h", b_h, (inputs.shape[1], H))
        others["b_h"] = b_h
    _check_alike("W_xh", W_xh, others)
    _check_device(name, inputs, "W_xh", W_xh)
    if options is not None:
        _check_options(inputs, W_hh, **options)


def _check_options(
    inputs: Tensor,  # [T, B] ids or [T, B, V]
    W_hh: Tensor,  # [H, H]
    resets: Tensor | None = None,  # [T, B]
    resets_to_h0: bool = False,
    leak: Tensor | float | None = None,  # [H]
) -> None:
    """What turns the plain recurrence into another one fits."""
    if resets is not None:
        check_resets(resets, inputs.shape[:2], "inputs", inputs)
    if isinstance(leak, Tensor):
        _check_tensor("leak", leak)
        if leak.shape not in ((), W_hh.shape[:1]):
            expected = f"a number or ({W_hh.shape[0]},)"
            raise RuntimeError(f"leak has shape {tuple(leak.shape)}, must be {expected}")
        _check_device("leak", leak, "W_hh", W_hh)
    elif leak is not None:
        check_number("leak", leak)


def check_resets(resets: Tensor, steps: tuple[int, ...], name: str, inputs: Tensor) -> None:
    """The mask has the shape `steps`: a place for each row of each step, in the caller's order."""
    _check_tensor("resets", resets)
    if resets.shape != steps or resets.dtype != torch.bool:
        expected = f"a bool tensor of shape {tuple(steps)}"
        raise RuntimeError(f"resets is {described(resets)}, must be {expected}")
    _check_device("resets", resets, name, inputs)


def check_loss(
    ids: Tensor,  # [T, B]
    targets: Tensor,  # [T, B]
    h0: Tensor,  # [B, H]
    params: Sequence[Tensor],
    nonlinearity: str,
    state: str = "the state h0",
) -> None:
    """The arguments of a character model's loss fit together."""
    model = check_params(params)
    _check_tensor("ids", ids)
    check_ids("ids", ids)
    check_layer(ids, h0, *model[:3], nonlinearity, "ids", state)
    _check_tensor("targets", targets)
    if targets.shape != ids.shape or targets.dtype != torch.int64:
        raise RuntimeError(
            f"targets are {described(targets)}, must be an int64 tensor of the shape of ids, "
            f"{tuple(ids.shape)}"
        )
    _check_device("targets", targets, "W_xh", model.W_xh)


def check_targets(Y: Tensor, count: int, V: int, ignored: int = -100) -> None:
    """There is a target in [0, V) for each id of a minibatch; errors are of the loss's types."""
    if Y.numel() != count:
        raise ValueError(
            f"Y of a minibatch has shape {tuple(Y.shape)}, must have {count} targets, as many as X "
            "has ids"
        )
    outside = Y[(ignored != Y) & ((Y < 0) | (Y >= V))]
    if outside.numel():
        raise IndexError(
            f"Y of a minibatch has the target {outside[0].item()}, must be in [0, {V}), or "
            f"{ignored} to be ignored"
        )


def check_decoding(
    first: Tensor,  # [B]
    h0: Tensor,  # [B, H]
    params: Sequence[Tensor],
    steps: int,
    nonlinearity: str,
) -> Params:
    """The arguments of generation fit together; returns the parameters."""
    _check_count("steps", steps)
    model = check_params(params)
    _check_tensor("first", first)
    _check_shape("first", first, (None,), "[B]")
    check_ids("first", first)
    check_layer(first.unsqueeze(0), h0, *model[:3], nonlinearity, "first")
    return model


def check_sampling(temperature: float, generator: torch.Generator | None) -> None:
    """The arguments of sampling are of use."""
    check_number("temperature", temperature)
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}, must be positive and finite")
    check_generator(generator)


def check_generator(generator: torch.Generator | None) -> None:
    """Random numbers can be drawn from it."""
    if not isinstance(generator, (torch.Generator, type(None))):
        raise TypeError(f"generator is {described(generator)}, must be a torch.Generator or None")


def check_model(params: Sequence[Tensor]) -> Params:
    """There are five tensors, and a readout that fits; the readout may have any width."""
    try:
        found = tuple(params)
    except TypeError:
        raise TypeError(f"params is {described(params)}, must be {_FIVE}") from None
    if len(found) != 5:
        raise ValueError(f"params has {len(found)} elements, must be {_FIVE}")
    model = Params(*found)
    for name, tensor in model._asdict().items():
        if tensor is not None or name != "b_h":
            _check_tensor(name, tensor)
    _check_shape("W_xh", model.W_xh, (None, None), "[V, H]")
    _check_shape("W_hq", model.W_hq, (model.W_xh.shape[1], None), "[H, V], H as W_xh has it")
    _check_alike("W_xh", model.W_xh, {"W_hq": model.W_hq, "b_q": model.b_q})
    return model


def check_params(params: Sequence[Tensor]) -> Params:
    """The five tensors of a character model fit together."""
    model = check_model(params)
    _check_tensor("b_h", model.b_h)
    V, H = model.W_xh.shape
    for name, tensor, shape, words in (
        ("W_hh", model.W_hh, (H, H), "[H, H]"),
        ("b_h", model.b_h, (H,), "[H]"),
        ("W_hq", model.W_hq, (H, V), "[H, V]"),
        ("b_q", model.b_q, (V,), "[V]"),
    ):
        _check_shape(name, tensor, shape, f"{words}, as W_xh [V, H] says")
    _check_alike("W_xh", model.W_xh, model._asdict())
    return model


def check_readout(
    hs: Tensor,  # [T, B, H]
    W_hq: Tensor,  # [H, V]
    b_q: Tensor,  # [V], or what broadcasts to [T * B, V]
) -> None:
    """The arguments of a readout fit together."""
    for name, tensor in (("hs", hs), ("W_hq", W_hq), ("b_q", b_q)):
        _check_tensor(name, tensor)
    _check_shape("W_hq", W_hq, (None, None), "[H, V]")
    H, V = W_hq.shape
    _check_shape("hs", hs, (None, None, H), "[T, B, H], H as W_hq has it")
    check_broadcasts("b_q", b_q, (hs.shape[0] * hs.shape[1], V))
    _check_alike("W_hq", W_hq, {"hs": hs, "b_q": b_q})


def check_grads(grads: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    """There is a contiguous tensor for each parameter's gradient."""
    if not isinstance(grads, (tuple, list)):
        raise TypeError(f"grads is {described(grads)}, must be tensors like params")
    if len(grads) != len(params):
        raise ValueError(f"grads has {len(grads)} elements, must have {len(params)} like params")
    for i, (grad, param) in enumerate(zip(grads, params, strict=True)):
        _check_tensor(f"grads[{i}]", grad)
        if grad.shape != param.shape or not grad.is_contiguous():
            raise RuntimeError(
                f"grads[{i}] is {described(grad)}, must be contiguous and of the shape "
                f"{tuple(param.shape)} like params[{i}]"
            )
        _check_alike(f"params[{i}]", param, {f"grads[{i}]": grad})


def check_not_recorded(call: str, inputs: Sequence[Tensor], state: str) -> None:
    """Autograd records nothing: it would know nothing of a call without a backward pass."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
        raise RuntimeError(
            f"params or {state} require gradients, which {call} does not record. Call it under "
            "torch.no_grad(), or with detached tensors"
        )


def check_nonlinearity(name: str) -> None:
    """It is the name of a plain cell."""
    if not isinstance(name, str) or name not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity is {described(name)}, must be 'tanh' or 'relu'")


def check_ids(name: str, ids: Tensor) -> None:
    """Ids are int64; their range is checked where they are read. The first words are torch's."""
    if ids.dtype != torch.int64:
        raise RuntimeError(
            "one_hot is only applicable to index tensor of type LongTensor. "
            f"{name} is {described(ids)}; convert ids with .long()"
        )


def _check_count(name: str, value: int) -> None:
    """It is a whole number, 0 or more."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {described(value)}, must be an integer") from None
    if count < 0:
        raise ValueError(f"{name} is {count}, must be at least 0")


def is_number(value: Any) -> bool:
    """Whether it is a real number, or a tensor with one."""
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return not isinstance(value, str)


def check_number(name: str, value: object) -> None:
    """It is a real number, or a tensor with one."""
    if not is_number(value):
        raise TypeError(f"{name} is {described(value)}, must be a number")


def check_tensors(name: str, tensors: object) -> None:
    """They are tensors, in a list or another iterable that can be read again."""
    if not isinstance(tensors, Iterable) or isinstance(tensors, str):
        raise TypeError(f"{name} is {described(tensors)}, must be a list of tensors")
    for i, each in enumerate(tensors):
        if not isinstance(each, Tensor):
            raise TypeError(f"{name}[{i}] is {described(each)}, must be a tensor")


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {described(value)}, must be a tensor")
    if value.layout != torch.strided or value.is_complex():
        raise RuntimeError(f"{name} is {described(value)}, must be a dense tensor of real numbers")


def _check_shape(name: str, tensor: Tensor, shape: tuple[int | None, ...], words: str) -> None:
    """Every size is the one in `shape`, or any for None."""
    pairs = zip(tensor.shape, shape, strict=False)
    if tensor.dim() != len(shape) or any(want not in (None, got) for got, want in pairs):
        numbers = "" if None in shape else f" = {shape}"
        raise RuntimeError(f"{name} has shape {tuple(tensor.shape)}, must be {words}{numbers}")


def _check_inputs(name: str, inputs: Tensor, W_xh: Tensor) -> None:
    V = W_xh.shape[0]
    if not inputs.is_floating_point():
        if inputs.dim() != 2:
            raise RuntimeError(f"{name} has shape {tuple(inputs.shape)}, must be ids [T, B]")
        check_ids(name, inputs)
    elif inputs.dim() != 3 or inputs.shape[2] != V:
        raise RuntimeError(
            f"dense {name} have shape {tuple(inputs.shape)}, must be [T, B, {V}]: steps, batch, "
            "and as many features as W_xh has rows"
        )
    else:
        _check_alike("W_xh", W_xh, {name: inputs})


def _check_state(state: str, h0: Tensor, name: str, inputs: Tensor, H: int) -> None:
    """[B, H], or [1, H] for any batch. Where the batch differs, either of the two may be wrong."""
    T, B = inputs.shape[:2]
    if h0.dim() != 2 or h0.shape[1] != H:
        raise RuntimeError(
            f"{state} has shape {tuple(h0.shape)}, must be [B, H] = ({B}, {H}), H as W_xh has it"
        )
    if h0.shape[0] in (1, B):
        return
    axes = "[T, B]" if inputs.dim() == 2 else "[T, B, V]"
    hint = f"; are {name} batch first? Then give {name}.transpose(0, 1)" if h0.shape[0] == T else ""
    raise RuntimeError(
        f"{name} have shape {tuple(inputs.shape)}, read as {axes}: a batch of {B}; {state} has "
        f"shape {tuple(h0.shape)}, read as [B, H]: a batch of {h0.shape[0]}{hint}"
    )


def check_written(state: str, h: Tensor, B: int) -> None:
    """A state that a call overwrites has memory for each row."""
    if h.shape[0] != B or not h.is_contiguous():
        raise RuntimeError(
            f"{state} has shape {tuple(h.shape)} and strides {h.stride()}; since it is overwritten "
            f"it must be contiguous and have {B} rows"
        )


def check_broadcasts(name: str, bias: Tensor, sizes: tuple[int, int]) -> None:
    rows, columns = sizes
    fits = all(got in (1, want) for got, want in zip(bias.shape[::-1], sizes[::-1], strict=False))
    if bias.dim() > 2 or not fits:
        raise RuntimeError(
            f"{name} has shape {tuple(bias.shape)}, must be ({columns},) or broadcast to "
            f"({rows}, {columns})"
        )


def _check_alike(name: str, tensor: Tensor, others: dict[str, Tensor]) -> None:
    """All are of one dtype and on one device. Under autocast, dtypes may differ."""
    for other_name, other in others.items():
        if other.dtype != tensor.dtype and not torch.is_autocast_enabled(tensor.device.type):
            raise RuntimeError(
                f"dtypes differ: {name} is {tensor.dtype} and {other_name} is {other.dtype}"
            )
        _check_device(other_name, other, name, tensor)


def _check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise RuntimeError(
            f"devices differ: {name} is on {tensor.device} and {other_name} is on {other.device}"
        )
