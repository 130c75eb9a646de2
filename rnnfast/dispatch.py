"""Which backend runs, and why not the others.

A backend's `why_not` lists what keeps it from serving a call. The first backend that is made for
the call's device and lists nothing runs; if there is none, the reference runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import platform
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from rnnfast.backends import Backend, Call, Layer, library
from rnnfast.backends.compiled import native
from rnnfast.backends.cuda import cuda
from rnnfast.backends.reference import reference
from rnnfast.backends.triton import triton


class FallbackWarning(UserWarning):
    """This machine or this call could not be served by the fast path. Given once per reason."""


class BackendError(RuntimeError):
    """A backend that was asked for by name does not exist or cannot run the call."""


@dataclass(frozen=True)
class Explanation:
    """The answer of `explain`: the backend that runs, and what keeps each other one from it."""

    backend: str
    forced_by: str
    call: Call
    reasons: dict[str, list[str]]
    training: str = ""  # how the last epoch was trained and why not faster; "" before the first
    variants: tuple[str, ...] = ()  # of the backend's kernels, and why they were chosen
    layers: tuple[str, ...] = ()  # what runs each recurrent layer of a module

    def __str__(self) -> str:
        how = f"forced by {self.forced_by}" if self.forced_by else "chosen automatically"
        lines = [f"{self.call.dtype} on {self.call.device}: backend {self.backend}, {how}"]
        for name, reasons in self.reasons.items():
            if name == self.backend:
                lines += [f"  {name:9} runs", *(f"  {'':9} {each}" for each in self.variants)]
            else:
                why = "; ".join(reasons) or "could run, but is not the one chosen"
                lines.append(f"  {name:9} {why}")
        lines += self.layers
        if self.training:
            lines.append(f"the last epoch trained by {self.training}")
        return "\n".join(lines)


# The order is that of preference.
_BACKENDS: dict[str, Backend] = {each.name: each for each in (cuda, triton, native, reference)}

_forced: ContextVar[str] = ContextVar("rnnfast_backend", default="")
_from_environment = os.environ.get("RNNFAST_BACKEND", "")
_warned: set[str] = set()


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run everything inside the block on one backend: `with use_backend("reference"): ...`.

    Where that backend cannot serve a call, the call raises `BackendError` with all the reasons
    instead of falling back. "auto" gives the choice back. Overrides the variable RNNFAST_BACKEND.
    A function compiled by torch.compile keeps the backend it was compiled with.
    """
    if name not in ("auto", *_BACKENDS):
        raise BackendError(_unknown(name, "use_backend"))
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def backend_for(tensor: Tensor, features: tuple[str, ...] = ()) -> Backend:
    """The backend that serves calls on tensors like this one; warns of a fallback once.

    features: the optional fields of `Recurrence` that the call has.
    """
    return _BACKENDS[_current_choice(tensor.device, tensor.dtype, features)]


def _current_choice(device: torch.device, dtype: torch.dtype, features: tuple[str, ...]) -> str:
    return choose(_forced.get(), device, dtype, active_transform(), features)


def kernels_for(
    tensor: Tensor, features: tuple[str, ...], has_options: bool = False
) -> Backend | None:
    """The backend for a call that torch's own layer can serve, too: None where that is better.

    It is where the reference would be the choice, unless a torch.func transform is the reason (for
    torch's layer has none under vmap), under autocast, for complex numbers, and while torch.jit
    traces. With has_options, torch's layer cannot: None is where the reference is the choice.
    """
    return _BACKENDS.get(_current_kernels(tensor.device, tensor.dtype, features, has_options))


def why_no_kernels(tensor: Tensor, features: tuple[str, ...], has_options: bool) -> str:
    """Why `kernels_for` gives None, or the reference."""
    if torch._C._is_any_autocast_enabled() and not has_options:
        return "autocast is on"
    device = tensor.device.type
    explanation = _explain(_forced.get(), Call(device, tensor.dtype, active_transform(), features))
    if explanation.forced_by:
        return f"{explanation.forced_by} asks for {explanation.backend}"
    reasons = {name: explanation.reasons[name] for name in _made_for(device)}
    return _join(reasons) or f"there are no kernels for {device}"


def _current_kernels(
    device: torch.device, dtype: torch.dtype, features: tuple[str, ...], has_options: bool
) -> str:
    if not has_options and (
        torch._C._is_any_autocast_enabled()
        or torch._C._get_tracing_state() is not None
        or dtype.is_complex
    ):
        return ""
    if active_transform():
        return _current_choice(device, dtype, features)
    return _find_kernels(_forced.get(), device, dtype, features)


@functools.cache
def _find_kernels(
    forced: str,
    device: torch.device,
    dtype: torch.dtype,
    features: tuple[str, ...],
) -> str:
    explanation = _explain(forced, Call(device.type, dtype, "", features))
    is_better = explanation.forced_by or explanation.backend != "reference"
    return explanation.backend if is_better else ""


# torch.compile runs the choice once, while tracing, and keeps the result. The mark is the one that
# torch.compiler.assume_constant_result sets; that decorator imports all of dynamo, 1.7 s.
_current_choice._dynamo_marked_constant = True  # type: ignore[attr-defined]
_current_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def choose(
    forced: str,
    device: torch.device,
    dtype: torch.dtype,
    transform: str,
    features: tuple[str, ...],
) -> str:
    """The name of the backend for a call. Cached: a call costs one look-up after the first.

    The key is the device itself, since torch takes 0.6 us to name its type.
    """
    call = Call(device.type, dtype, transform, features)
    explanation = _explain(forced, call)
    fast = _made_for(call.device)
    if not explanation.forced_by and explanation.backend not in fast:
        for name in fast:
            for reason in explanation.reasons[name]:
                warn_fallback(f"{name} cannot serve {dtype} on {call.device}: {reason}")
    return explanation.backend


def _made_for(device: str) -> list[str]:
    """The backends that a user of a device expects to be fast."""
    return [name for name, backend in _BACKENDS.items() if backend.device == device]


def explain(
    example: Any = None, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Explanation:
    """Which backend serves a call, and why each other one does not; how the last epoch trained.

    example: a tensor, or a net with `.params` or `.parameters()`, whose device and dtype count;
    without one, `device` and `dtype` do. Of a module, its recurrent layers are explained, too; a
    matrix [H, H] is taken as W_hh of `rnnfast.functional.rnn`, whose kernels are named.
    Raises BackendError where a forced backend cannot run.
    """
    tensor = _first_tensor(example)
    if tensor is not None:
        device, dtype = tensor.device, tensor.dtype
    call = Call(torch.device(device).type, dtype, active_transform())
    explanation = _explain(_forced.get(), call)
    backend = _BACKENDS[explanation.backend]
    from rnnfast.nn.explain import explain_layers  # both stand above this module
    from rnnfast.training.choose import last_choice

    is_module = isinstance(example, torch.nn.Module)
    return dataclasses.replace(
        explanation,
        layers=tuple(explain_layers(example) if is_module else ()),
        variants=tuple(_variants(backend, example, torch.device(device), dtype)),
        training=last_choice(),
    )


def info() -> str:
    """What this installation can do: versions, the native build, and the backend per device."""
    import rnnfast

    loaded = library.load_error() or library.build_info()
    lines = [
        f"rnnfast {rnnfast.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads",
        f"native build: {loaded}",
    ]
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in (torch.float32, torch.bfloat16):
            try:
                lines.append(str(explain(device=device, dtype=dtype)))
            except BackendError as error:
                lines.append(str(error))
    return "\n".join(lines)


def _explain(forced: str, call: Call) -> Explanation:
    name, forced_by = forced, "use_backend" if forced else ""
    if not forced and _from_environment:
        name, forced_by = _from_environment, "RNNFAST_BACKEND"
    reasons = {each: backend.why_not(call) for each, backend in _BACKENDS.items()}
    if name in ("", "auto"):
        candidates = (*_made_for(call.device), "reference")
        name, forced_by = next((each for each in candidates if not reasons[each]), ""), ""
        if not name:
            raise BackendError(f"no backend can run this call: {_join(reasons)}")
    elif name not in _BACKENDS:
        raise BackendError(_unknown(name, forced_by))
    elif reasons[name]:
        raise BackendError(
            f"backend {name!r} (forced by {forced_by}) cannot run this call: "
            + "; ".join(reasons[name])
        )
    return Explanation(name, forced_by, call, reasons)


def active_transform() -> str:
    """The torch.func transform or forward-mode AD level around this call, or an empty string.

    The kernels are opaque to both; the reference's plain torch operations are not.
    """
    if peek_interpreter_stack() is not None:
        return "a torch.func transform (grad, vmap, jvp, ...)"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    return ""


def _first_tensor(example: Any) -> Tensor | None:
    if isinstance(example, Tensor) or example is None:
        return example
    params = getattr(example, "params", None)
    if params is None and hasattr(example, "parameters"):
        params = list(example.parameters())
    if not params:
        raise TypeError(
            f"explain() takes a tensor or a net with parameters, got {type(example).__name__}"
        )
    return _first_tensor(params[0])


def _variants(
    backend: Backend, example: Any, device: torch.device, dtype: torch.dtype
) -> list[str]:
    """Those of a net like ours, of one matrix W_hh, or some usual ones."""
    if isinstance(example, Tensor) and example.dim() == 2 and len({*example.shape}) == 1:
        return backend.layer_variants(device, dtype, Layer(len(example)))
    sizes = _sizes(example)
    if sizes is None and isinstance(example, torch.nn.Module):
        return []  # its layers are explained one by one
    return backend.variants(device, dtype, sizes)


def _sizes(example: Any) -> tuple[int, int] | None:
    """H and V of a net like ours, or None."""
    params = getattr(example, "params", None)
    if not isinstance(params, (list, tuple)) or len(params) != 5:
        return None
    H, V = params[3].shape
    return H, V


def warn_fallback(reason: str) -> None:
    """Say once that a call took the reference path."""
    if reason not in _warned:
        _warned.add(reason)
        message = f"rnnfast runs on its slow reference path: {reason}"
        warnings.warn(message, FallbackWarning, stacklevel=2)


def _unknown(name: str, source: str) -> str:
    return f"{source}: unknown backend {name!r}; it must be one of auto, {', '.join(_BACKENDS)}"


def _join(reasons: dict[str, list[str]]) -> str:
    return " | ".join(f"{name}: {'; '.join(why)}" for name, why in reasons.items())
