"""`rnnfast bench`: how much faster than the textbook's loop this machine trains, in a minute."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from tqdm import tqdm

from rnnfast import dispatch
from rnnfast.book import textbook
from rnnfast.book.console import show
from rnnfast.book.models import RNNModelScratch, get_params, init_rnn_state, rnn
from rnnfast.book.training import train_epoch_ch8

VOCAB, BATCH, STEPS, EPOCH = 28, 32, 35, 8  # the book's own shape and epoch
HIDDENS = (64, 256, 512)
ROUNDS = 5
RATE = 1e-3  # The speed depends on it only where long training makes denormal numbers.


def run(options: argparse.Namespace) -> int:
    """Measure for about the seconds asked for and print the table."""
    show(str(dispatch.explain()))
    show(_measure(options.seconds))
    return 0


def _measure(seconds: float) -> str:
    """Train the same networks by both loops in turns, under a progress bar.

    Returns a table: characters per second of both, and the median ratio of the rounds with their
    lowest and highest.
    """
    budget = seconds / (len(HIDDENS) * ROUNDS * 2)
    lines = ["hiddens   textbook/s    rnnfast/s   times the textbook"]
    with tqdm(total=len(HIDDENS) * ROUNDS, unit="round", leave=False) as bar:
        for hidden in HIDDENS:
            trainers = _textbook_trainer(hidden), _rnnfast_trainer(hidden)
            speeds = []
            for _ in range(ROUNDS):
                bar.set_description(f"{hidden} hiddens")
                speeds.append([_speed(epoch, budget) for epoch in trainers])
                bar.update()
            lines.append(_row(hidden, speeds))
    return "\n".join(lines)


def _row(hidden: int, speeds: Sequence[Sequence[float]]) -> str:
    slow, fast = (statistics.median(column) for column in zip(*speeds, strict=True))
    ratios = sorted(b / a for a, b in speeds)
    return (
        f"{hidden:7d} {slow:12,.0f} {fast:12,.0f}   "
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def _speed(epoch: Callable[[], object], budget: float) -> float:
    """Characters per second in about `budget` seconds: a warm-up epoch, then at least one."""
    first = time.perf_counter()
    epoch()
    start = now = time.perf_counter()
    epochs = 0
    while now - first < budget or not epochs:
        epoch()
        epochs += 1
        now = time.perf_counter()
    return epochs * EPOCH * BATCH * STEPS / (now - start)


def _batches() -> list[textbook.Batch]:
    generator = torch.Generator().manual_seed(0)
    corpus = torch.randint(VOCAB, (BATCH, EPOCH * STEPS + 1), generator=generator)
    starts = range(0, EPOCH * STEPS, STEPS)
    return [(corpus[:, t : t + STEPS], corpus[:, t + 1 : t + 1 + STEPS]) for t in starts]


def _textbook_trainer(hidden: int) -> Callable[[], float]:
    params, batches = get_params(VOCAB, hidden, None), _batches()
    net = textbook.Model(params)
    return lambda: textbook.train_epoch(
        net,
        batches,
        net.begin_state(BATCH),
        lambda: textbook.clip(params, 1),
        lambda: textbook.sgd(params, RATE, 1),
    )


def _rnnfast_trainer(hidden: int) -> Callable[[], tuple[float, float]]:
    net = RNNModelScratch(VOCAB, hidden, None, get_params, init_rnn_state, rnn)
    batches, optimizer = _batches(), torch.optim.SGD(net.params, RATE)
    return lambda: train_epoch_ch8(net, batches, nn.CrossEntropyLoss(), optimizer, "cpu", False)
