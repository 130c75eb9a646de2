"""Errors of the book's functions that name the argument which is to blame.

    @named(net=NET, num_epochs=integer(1))
    def train(net, num_epochs): ...

A call costs nothing more by this unless it fails. Only then are its arguments looked at, and if one
is not of its kind, the error says so instead of what went wrong further down.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch

from rnnfast.backends.arguments import described, is_number

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Kind(NamedTuple):
    """What an argument must be."""

    words: str
    type_fits: Callable[[Any], bool]
    value_fits: Callable[[Any], bool] = lambda value: True
    error: type[Exception] = ValueError  # for a value that does not fit

    def check(self, name: str, value: Any) -> None:
        """Raise TypeError, or `error`, where the value is of another kind."""
        is_of_type = self.type_fits(value)
        if not is_of_type or not self.value_fits(value):
            error = self.error if is_of_type else TypeError
            raise error(f"{name} is {described(value)}, must be {self.words}")


def named(**kinds: Kind) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make a function's errors name the first argument that is not of its kind."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            try:
                return function(*args, **kwargs)
            except Exception:
                _blame(signature, args, kwargs, kinds)
                raise

        return call

    return decorate


def _blame(signature: inspect.Signature, args: Any, kwargs: Any, kinds: dict[str, Kind]) -> None:
    """Raise an error for the first argument that is not of its kind."""
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return  # there are too many or too few arguments, and Python has said so
    for name, kind in kinds.items():
        if name in given:
            kind.check(name, given[name])


def integer(least: int | None = None) -> Kind:
    """A whole number, such as an int, an integer of numpy, or a tensor with one."""
    limit = "" if least is None else f" of at least {least}"
    return Kind(f"an integer{limit}", _is_integer, lambda n: least is None or int(n) >= least)


def optional(kind: Kind) -> Kind:
    """That kind, or None."""
    return Kind(
        f"{kind.words} or None",
        lambda value: value is None or kind.type_fits(value),
        lambda value: value is None or kind.value_fits(value),
        kind.error,
    )


def instance(words: str, *types: type) -> Kind:
    """A value of one of these types."""
    return Kind(words, lambda value: isinstance(value, types))


def _is_integer(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _is_device(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, torch.device))


def _names_device(value: Any) -> bool:
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return True


NUMBER = Kind("a number", is_number)
TEXT = instance("a string", str)
TENSOR = instance("a tensor", torch.Tensor)
LIST = Kind("a list", lambda value: hasattr(value, "__len__") and hasattr(value, "__getitem__"))
TEXTS = Kind(
    "a list of strings",
    lambda value: LIST.type_fits(value) and all(isinstance(each, str) for each in value),
)
NUMBERS = Kind(
    "numbers or tensors with one, or None",
    lambda values: all(
        value is None or is_number(value)
        for value in (values if hasattr(values, "__len__") and not is_number(values) else [values])
    ),
)
PAIR = Kind("a pair of numbers", lambda value: LIST.type_fits(value) and len(value) == 2)
ITERABLE = instance("a list or another iterable", Iterable)
FUNCTION = Kind("a function or another callable", callable)
DEVICE = Kind(
    "a device of torch that is here, or its name", _is_device, _names_device, RuntimeError
)
NET = Kind(
    "a model: called as net(X, state), with a begin_state()",
    lambda net: callable(net) and callable(getattr(net, "begin_state", None)),
)
