"""Proof before timing: everyone's first results against float64.

An error may be twice the textbook loop's own, plus what float32 loses in sums whose order is free,
one over all tokens and one over the hidden units: about sqrt(tokens) + sqrt(H) units in the last
place, and twice that where terms cancel. A wrong term costs thousands.
torch's clip divides by norm + 1e-6 where the book's divides by the norm; that is allowed, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from bench import reference
from bench.cases import FIRST, GENERATED, PARAMETERS, Case, CharVocab, Floats
from bench.protocol import Message

_EPS = float(np.finfo(np.float32).eps)
_TORCH_CLIP = 1e-6  # relative, at the norm of 1 or more at which clipping acts
_NEAR_TIE = 1e-3  # where two logits are closer than this, float32 may choose either


Finding = tuple[str, float, float]  # what, its error, and the error that rounding alone may cause


class DisagreementError(Exception):
    """A peer computes something else."""


class Judge:
    """Holds the truth of one case and the yardstick's errors."""

    def __init__(self, case: Case, file: Path) -> None:
        self._problem, self._file = case.problem(), file
        self._sum_error = 2 * _EPS * (case.tokens**0.5 + case.hidden**0.5)
        self._allowed: dict[str, float] = {}

    def admit(
        self, check: Callable[..., Message], op: str, yardstick: bool = False
    ) -> tuple[dict[str, float], float]:
        """Errors of the first call of `op`, and the seconds it took, by a worker's `check`.

        The yardstick's errors, which must be asked for first, set the bounds for the rest.
        Raises DisagreementError, and what `check` raises.
        """
        answer = check(op=op, file=str(self._file))
        findings = getattr(self, f"_{op}")(answer["result"])
        for name, error, rounding in findings:
            if yardstick:
                self._allowed[f"{op} {name}"] = 2 * error + rounding
            allowed = self._allowed[f"{op} {name}"]
            if not error <= allowed:  # so that NaN is refused
                raise DisagreementError(f"{op} {name}: error {error:.2g}, allowed {allowed:.2g}")
        return {name: error for name, error, _ in findings}, answer["seconds"]

    def _train(self, loss: float) -> list[Finding]:
        """The loss of the first step, and what the step took from each parameter."""
        findings = self._forward(loss)
        with np.load(self._file) as file:
            afters = list(file.values())  # in the order in which they were saved
        _, true_steps = self._first_step
        for name, before, after, true in zip(
            PARAMETERS, self._problem.params, afters, true_steps, strict=True
        ):
            error = np.abs(before.astype(np.float64) - after - true).max()
            # The parameter is rounded once when the step is taken from it.
            free = self._sum_error + _TORCH_CLIP
            rounding = _EPS * np.abs(before).max() + free * np.abs(true).max()
            findings.append((name, float(error), float(rounding)))
        return findings

    def _forward(self, loss: float) -> list[Finding]:
        true_loss, _ = self._first_step
        return [("loss", abs(loss - true_loss), self._sum_error * true_loss)]

    def _generate(self, ids: list[int] | str) -> list[Finding]:
        """How many characters are wrong, up to the first near tie."""
        if isinstance(ids, str):
            vocab = CharVocab(len(self._problem.params[0]))
            ids = [vocab[character] for character in ids]
        true_ids, leads = reference.generate(self._problem, FIRST, GENERATED)
        sure = next((i for i, lead in enumerate(leads) if lead < _NEAR_TIE), GENERATED)
        wrong = sum(a != b for a, b in zip(ids[:sure], true_ids[:sure], strict=True))
        return [("characters", float(wrong), 0.0)]

    @cached_property
    def _first_step(self) -> tuple[float, list[Floats]]:
        return reference.first_step(self._problem)
