"""Proof before timing: everyone's first results against float64.

An error may be twice the yardstick's own, plus what float32 loses in sums whose order is free,
one over all tokens and one over the hidden units: about sqrt(tokens) + sqrt(H) units in the last
place, and twice that where terms cancel. A wrong term costs thousands.
torch's clip divides by norm + 1e-6 where the book's divides by the norm; that is allowed, too.
A peer that multiplies in fewer digits has a tolerance of its own, which its figures name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cases import PARAMETERS, AnyCase, Case, Floats, Ints
from bench.harness.truth import BookTruth, truth_of

_EPS = float(np.finfo(np.float32).eps)
_TORCH_CLIP = 1e-6  # relative, at the norm of 1 or more at which clipping acts
_NEAR_TIE = 1e-3  # where two logits are closer than this, float32 may choose either

# What was compared, its error, the error that rounding alone may cause, the largest true value.
Finding = tuple[str, float, float, float]


class DisagreementError(Exception):
    """A peer computes something else."""


class Judge:
    """Holds the truth of one case, and the errors that the yardstick's own allow to the rest."""

    def __init__(self, case: AnyCase) -> None:
        self._case, self._truth = case, truth_of(case)
        tokens = case.batch * case.steps
        self._sum_error = 2 * _EPS * (tokens**0.5 + case.hidden**0.5)
        self._allowed: dict[str, float] = {}
        self._known: dict[str, dict[str, Floats]] = {}

    def errors(
        self, op: str, results: list[Any], tolerance: float = 0.0, yardstick: bool = False
    ) -> dict[str, float]:
        """Of the results that the first call of `op` gave, by name.

        The yardstick must be judged first. An error below `tolerance` times the largest true value
        passes as well. Raises DisagreementError.
        """
        findings = self._generated(results[0]) if op == "generate" else self._findings(op, results)
        for what, error, rounding, largest in findings:
            if yardstick:
                self._allowed[f"{op} {what}"] = 2 * error + rounding
            allowed = max(self._allowed[f"{op} {what}"], tolerance * largest)
            if not error <= allowed:  # so that NaN is refused
                raise DisagreementError(f"{op} {what}: error {error:.2g}, allowed {allowed:.2g}")
        return {what: error for what, error, *_ in findings}

    def _findings(self, op: str, results: list[Floats]) -> list[Finding]:
        if op not in self._known:
            self._known[op] = self._truth.of(op)
        findings = []
        for (name, true), got in zip(self._known[op].items(), results, strict=True):
            got, rounding = got.astype(np.float64), self._sum_error
            largest = float(np.abs(true).max(initial=0))
            absolute = 0.0
            if op in ("train", "clip"):
                rounding += _TORCH_CLIP
            if op == "train" and name != "loss":
                assert isinstance(self._truth, BookTruth)
                before = self._truth.task.params[PARAMETERS.index(name)]
                got = before.astype(np.float64) - got
                # The parameter is rounded once when the step is taken from it.
                absolute = _EPS * float(np.abs(before).max())
            error = float(np.abs(got - true).max(initial=0))
            findings.append((name, error, rounding * largest + absolute, largest))
        return findings

    def _generated(self, ids: Ints) -> list[Finding]:
        """How many characters are wrong, up to the first near tie."""
        assert isinstance(self._case, Case)
        assert isinstance(self._truth, BookTruth)
        true, leads = self._truth.generated
        near = np.flatnonzero(leads < _NEAR_TIE)
        sure = min([*near[:1], self._case.proven])
        wrong = int((ids[:sure] != true[:sure]).sum())
        return [("characters", float(wrong), 0.0, 0.0)]
