"""torch.compile traces `rnnfast.nn.RNN`, which it would refuse as it refuses every torch.nn.RNN.

Dynamo turns away what is a torch.nn.RNN by class, unless torch._dynamo.config.allow_rnn is set. To
set that flag for a whole program would change how torch's own layers are compiled (unrolled step by
step), and a class that is no torch.nn.RNN would fail the isinstance tests of other libraries. So
the flag is set only while Dynamo looks at a module of ours.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

_BUILDER = "torch._dynamo.variables.builder"


def let_trace(cls: type[torch.nn.Module]) -> None:
    """Make Dynamo trace instances of a class, now or when a program imports Dynamo (1.7 s)."""
    if _BUILDER in sys.modules:
        _lift_refusal(sys.modules[_BUILDER], cls)
    else:
        sys.meta_path.insert(0, _AfterImport(cls))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Sees to the builder's import, once."""

    def __init__(self, cls: type[torch.nn.Module]) -> None:
        self.cls = cls

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _BUILDER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_lift(module: ModuleType) -> None:
            run(module)
            _lift_refusal(module, self.cls)

        spec.loader.exec_module = run_and_lift  # type: ignore[method-assign] # of this import alone
        return spec


def _lift_refusal(builder: ModuleType, cls: type[torch.nn.Module]) -> None:
    wrap = builder.VariableBuilder.wrap_module

    @functools.wraps(wrap)
    def wrap_module(self: Any, value: torch.nn.Module) -> Any:
        if not isinstance(value, cls):
            return wrap(self, value)
        with builder.config.patch(allow_rnn=True):
            return wrap(self, value)

    builder.VariableBuilder.wrap_module = wrap_module
