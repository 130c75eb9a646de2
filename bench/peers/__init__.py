"""The peers, one file per family.

A family's module has `make(variant, task, threads, device) -> Peer` and VERSIONS, of packages.
It is imported in the worker alone, so it may import what is not installed everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Peer(Protocol):
    """One implementation, holding its own parameters, on the device of its suite.

    It may lack any operation; `params` and `reset` belong to `train`. On a GPU no operation but
    `train` and `generate` may wait for the device: many calls in a row are timed.
    """

    def train(self, steps: int) -> float:
        """Train on the first `steps` minibatches from a zero state, carrying the state along.

        Each step: mean cross-entropy, backward, clip to norm CLIP, SGD with LEARNING_RATE.
        Returns the mean loss.
        """

    def params(self) -> Sequence[Any]:
        """The parameters as they are now, in the order of PARAMETERS."""

    def reset(self) -> None:
        """Put the parameters back to the task's own."""

    def forward(self) -> Any:
        """Mean loss of the first minibatch at the task's own parameters, without gradients.

        Of a stack of layers: the output [T,B,directions * H] and the last state.
        """

    def generate(self) -> list[int] | str:
        """GENERATED greedy characters after the id FIRST, at the task's own parameters.

        As ids, or as the text that CharVocab makes of them, where the peer's own call gives that.
        """

    def states(self) -> Any:
        """The hidden states [T,B,H] of the first minibatch, without gradients."""

    def gradients(self) -> tuple[Any, ...]:
        """The hidden states, and the gradients of W_xh, W_hh and b_h for the task's `grad_hs`.

        Of a stack of layers: what `forward` gives, then the gradients of the input, of the first
        state and of every parameter.
        """

    def clip(self) -> tuple[Any, ...]:
        """Gradients that were equal to the task's parameters, after clipping to norm CLIP."""
