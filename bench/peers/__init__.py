"""The peers, one file per family.

A family's module has `make(variant, problem, threads) -> Peer` and `versions() -> dict`.
It is imported in the worker alone, so it may import what is not installed everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bench.cases import Floats


class Peer(Protocol):
    """One implementation, holding its own parameters.

    It may lack an operation; `params` and `reset` belong to `train`.
    """

    def train(self, steps: int) -> float:
        """Train on the first `steps` minibatches from a zero state, carrying the state along.

        Each step: mean cross-entropy, backward, clip to norm CLIP, SGD with LEARNING_RATE.
        Returns the mean loss.
        """

    def params(self) -> Sequence[Floats]:
        """The parameters as they are now, in the order of PARAMETERS."""

    def reset(self) -> None:
        """Put the parameters back to the problem's own."""

    def forward(self) -> float:
        """Mean loss of the first minibatch at the problem's own parameters, without gradients."""

    def generate(self) -> list[int] | str:
        """GENERATED greedy characters after the id FIRST, at the problem's own parameters.

        As ids, or as the text that CharVocab makes of them, where the peer's own call gives that.
        """
