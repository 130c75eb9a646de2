"""A training run: the network, its optimizer and its batches, epoch by epoch, with checkpoints."""

from __future__ import annotations

import contextlib
import math
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rnnfast.book.data import Corpus, SeqDataLoader, corpus_loader
from rnnfast.book.training import train_epoch_ch8
from rnnfast.program import checkpoint, network
from rnnfast.program.checkpoint import Checkpoint
from rnnfast.program.settings import Settings

SAVE_SECONDS = 5.0  # a power failure costs this much work, or one epoch if that takes longer


class Run:
    """A run from its seed, or from a checkpoint on; it sets the global random generators.

    net: the model. perplexities: of all finished epochs. speeds: tokens per second of those that
    this process trained. stored_epoch: the one whose checkpoint is in its file, None before the
    first. Raises ValueError where the text is too short for one minibatch.
    """

    def __init__(
        self,
        settings: Settings,
        corpus: Corpus,
        device: torch.device,
        previous: Checkpoint | None = None,
    ) -> None:
        self.settings, self.corpus, self.device = settings, corpus, device
        self._loader = corpus_loader(
            corpus, settings.batch_size, settings.num_steps, settings.random_iter
        )
        V = len(corpus.vocab)
        if previous is None:
            random.seed(settings.seed)
            torch.manual_seed(settings.seed)
            self.net, self.perplexities = network.build(settings, V, device), list[float]()
        else:
            self.net = network.build(settings, V, device, previous.params)
            self.perplexities = list(previous.perplexities)
            random.setstate(previous.python_state)
            torch.set_rng_state(previous.torch_state)
        self.stored_epoch = None if previous is None else previous.epoch
        self.speeds: list[float] = []
        self._updater = torch.optim.SGD(network.parameters(self.net), settings.lr)

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.perplexities)

    def train(self, path: Path) -> None:
        """Train the epochs that are left, and leave a checkpoint of the last finished one.

        Whatever ends the training, that checkpoint is written: raises KeyboardInterrupt after
        SIGINT or SIGTERM, RuntimeError where the perplexity or a parameter is not finite any more.
        """
        snapshot, saved_at = self._snapshot(), time.monotonic()
        with _signals_noted() as signals, self._progress_bar() as bar:
            try:
                while self.epoch < self.settings.epochs:
                    self._train_epoch(self._batches(bar, signals))
                    snapshot = self._snapshot()
                    bar.set_postfix_str(
                        f"perplexity {self.perplexities[-1]:.2f}, {self.speeds[-1]:,.0f} tokens/s",
                        refresh=False,
                    )
                    bar.update(self.epoch - bar.n)
                    if time.monotonic() - saved_at > SAVE_SECONDS:
                        self._save(path, snapshot)
                        saved_at = time.monotonic()
            finally:
                self._save(path, snapshot)

    def _save(self, path: Path, snapshot: Checkpoint) -> None:
        checkpoint.save(path, snapshot)
        self.stored_epoch = snapshot.epoch

    def _train_epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        settings = self.settings
        try:
            perplexity, speed = train_epoch_ch8(
                self.net,
                batches,
                nn.CrossEntropyLoss(),
                self._updater,
                self.device,
                settings.random_iter,
                clip=settings.clip or None,
            )
        except OverflowError:  # exp of a mean loss above 709
            perplexity, speed = math.inf, 0.0
        params = network.parameters(self.net)
        if not math.isfinite(perplexity) or not all(p.isfinite().all() for p in params):
            raise RuntimeError(
                f"training diverged in epoch {self.epoch + 1} (perplexity {perplexity}): the "
                f"checkpoint holds epoch {self.epoch}; train again with a smaller --lr than "
                f"{settings.lr}" + ("" if settings.clip else " or with --clip 1")
            )
        self.perplexities.append(perplexity)
        self.speeds.append(speed)

    def _snapshot(self) -> Checkpoint:
        return Checkpoint(
            settings=self.settings,
            corpus=self.corpus.name,
            sha1=self.corpus.sha1,
            vocab=tuple(self.corpus.vocab.idx_to_token),
            params=tuple(p.detach().to("cpu", copy=True) for p in network.parameters(self.net)),
            perplexities=tuple(self.perplexities),
            python_state=random.getstate(),
            torch_state=torch.get_rng_state(),
        )

    def _batches(self, bar: tqdm, signals: list[int]) -> _Watched:
        per_batch = self.settings.batch_size * self.settings.num_steps
        share = 1 / max(1, (len(self.corpus.ids) - 1) // per_batch)
        return _Watched(self._loader, bar, share, signals)

    def _progress_bar(self) -> tqdm:
        """A bar that counts epochs, in fractions where they are long."""
        return tqdm(
            total=self.settings.epochs,
            initial=self.epoch,
            miniters=0,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,  # few lines in a log file
            bar_format="{percentage:3.0f}%|{bar}| epoch {n:.1f}/{total} "
            "[{elapsed}<{remaining}{postfix}]",
        )


@dataclass
class _Watched:
    """The minibatches of an epoch. Each advances the bar by its share, and a signal ends them."""

    loader: SeqDataLoader
    bar: tqdm
    share: float
    signals: list[int]

    can_look_ahead = True  # as in the loader

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            if self.signals:
                raise KeyboardInterrupt
            yield batch
            self.bar.update(self.share)


@contextlib.contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are added to, instead of cutting through a batch or a file."""
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
