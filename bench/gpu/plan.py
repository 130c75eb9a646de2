"""Which stages there are, in which order, and how long each may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One stage.

    module: below bench.gpu, with a `run(stage)`.
    limit: seconds for all of it, counted from its first start.
    quiet: seconds without a new row after which it is taken for hanging. It is then started again
    behind the item that it was at, as it is after a crash.
    """

    name: str
    module: str
    limit: float
    quiet: float = 30.0


# The most wanted first: what comes late is what is left out when time is short. The limits add up
# to more than there is, since few stages need theirs.
STAGES = (
    Entry("environment", "environment", 30),
    Entry("images", "images", 60),
    Entry("micro", "micro", 40),
    Entry("correct", "correct", 90),
    Entry("recurrence", "recurrence", 90),
    Entry("training", "training", 70),
    Entry("decoding", "decoding", 30),
    Entry("clipping", "clipping", 25),
    Entry("endurance", "endurance", 40),
    Entry("variants", "variants", 60),
    Entry("compiling", "compiling", 90, quiet=80),
    Entry("sanitizer", "sanitizer", 130, quiet=45),
)
TOTAL = 465.0  # seconds: with the picture, the whole ends within eight minutes
TRAINING = ("training", "endurance")  # that call train_epoch_ch8
MODULES = {entry.name: entry.module for entry in STAGES} | {"sanitized": "correct"}
