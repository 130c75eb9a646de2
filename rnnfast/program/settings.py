"""The settings of a training run: what it depends on besides its text."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The defaults are those of the chapter-8 notebook.

    `clip` 0 leaves the gradients alone, `max_tokens` 0 takes the whole text. Raises ValueError for
    a value that cannot be.
    """

    batch_size: int = 32
    num_steps: int = 35
    num_hiddens: int = 512
    layers: int = 1
    lr: float = 1.0
    clip: float = 1.0
    epochs: int = 500
    max_tokens: int = 10000
    random_iter: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_steps", "num_hiddens", "layers", "epochs"):
            _check_int(name, getattr(self, name), minimum=1)
        for name in ("max_tokens", "seed"):
            _check_int(name, getattr(self, name), minimum=0)
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if not isinstance(value, float) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} is {value!r}, must be a finite float, not below 0")
        if not isinstance(self.random_iter, bool):
            raise ValueError(f"random_iter is {self.random_iter!r}, must be true or false")


def _check_int(name: str, value: object, *, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{name} is {value!r}, must be a whole number from {minimum} on")
