"""`convert` and `revert`: every torch.nn.RNN inside a model becomes ours, or torch's again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch.nn.utils import parametrize

from rnnfast.backends.arguments import described
from rnnfast.nn.rnn import RNN

_Module = TypeVar("_Module", bound=torch.nn.Module)


def convert(module: _Module) -> _Module:
    """Let every torch.nn.RNN inside a module run on the fused recurrence, in place.

    The layers stay the objects that they are: parameters, buffers, hooks, the optimizer's
    references and the keys of the state_dict do not change, only the class does. Subclasses of
    torch.nn.RNN are left alone, since their forward is their own. Returns the module.
    """
    _exchange(module, torch.nn.RNN, RNN)
    return module


def revert(module: _Module) -> _Module:
    """Undo `convert`, in place; returns the module.

    Raises ValueError for a layer with options that torch.nn.RNN does not have.
    """
    for layer in _of_class(module, RNN):
        if layer.is_leaky or layer.learns_h0 or layer.noise:
            raise ValueError(f"torch.nn.RNN has no leak, learnt h0 or noise, as {layer} has")
    _exchange(module, RNN, torch.nn.RNN)
    return module


def _exchange(module: torch.nn.Module, old: type, new: type) -> None:
    for layer in _of_class(module, old):
        own = type(layer)
        if own is old:
            layer.__class__ = new
        else:  # a class from torch.nn.utils.parametrize, which copies of the module share
            layer.__class__ = type(own.__name__, (new,), dict(vars(own)))


def _of_class(module: torch.nn.Module, cls: type) -> Iterator[RNN]:
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is {described(module)}, must be a module of torch.nn")
    for layer in module.modules():
        own = type(layer)
        if own is cls or (parametrize.is_parametrized(layer) and own.__bases__ == (cls,)):
            yield layer  # type: ignore[misc] # or a torch.nn.RNN, for whom this is typed too
