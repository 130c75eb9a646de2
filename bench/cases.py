"""The named shapes that benchmarks and tests share, with data and parameters from a fixed seed."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]

LEARNING_RATE = 1.0
CLIP = 1.0
FIRST = 2  # the id that generation starts from
GENERATED = 1000  # how many follow it
OPS = ("train", "forward", "generate")
PARAMETERS = ("W_xh", "W_hh", "b_h", "W_hq", "b_q")


@dataclass(frozen=True)
class Problem:
    """What every peer is given: parameters, and the minibatches of one epoch.

    params: float32 W_xh [V,H], W_hh [H,H], b_h [H], W_hq [H,V], b_q [V].
    batches: pairs (X, Y) of int64 [B,T]. They are strided windows of one array, as the sequential
    loader of chapter 8 makes them, and Y is X one character later.
    """

    params: tuple[Floats, ...]
    batches: tuple[tuple[Ints, Ints], ...]


@dataclass(frozen=True)
class Case:
    """One shape. `epoch` is the number of minibatches: 8 in the notebook's 10,000 characters.

    ops: what is measured. Generation runs one sequence, so only `hidden` matters to it.
    """

    name: str
    hidden: int
    batch: int = 32
    steps: int = 35
    vocab: int = 28
    epoch: int = 8
    ops: tuple[str, ...] = OPS

    @property
    def tokens(self) -> int:
        """Characters in one minibatch."""
        return self.batch * self.steps

    def units(self, op: str) -> int:
        """Characters handled by one call of `op`."""
        return {"train": self.tokens * self.epoch, "forward": self.tokens, "generate": GENERATED}[
            op
        ]

    def weights(self) -> int:
        """Multiply-adds per character: the recurrence and the readout. The input is a gather."""
        return self.hidden * (self.hidden + self.vocab)

    def flops(self, op: str) -> int:
        """Floating-point operations of one call of `op` that no implementation can avoid.

        Training multiplies by each weight matrix three times: forward, for the gradient of the
        state, and for the gradient of the weights.
        """
        return 2 * self.weights() * self.units(op) * (3 if op == "train" else 1)

    def problem(self, seed: int = 0) -> Problem:
        """The data of this case. The scales give a gradient norm above 1, so that clipping acts."""
        random = np.random.RandomState(seed)  # a stream that numpy promises never to change
        V, H = self.vocab, self.hidden

        def uniform(bound: float, *shape: int) -> Floats:
            return random.uniform(-bound, bound, size=shape).astype(np.float32)

        params = (
            uniform(1, V, H),
            uniform(H**-0.5, H, H),
            uniform(0.1, H),
            uniform(8 * H**-0.5, H, V),
            uniform(0.1, V),
        )
        corpus = random.randint(0, V, size=(self.batch, self.epoch * self.steps + 1)).astype(
            np.int64
        )
        starts = range(0, self.epoch * self.steps, self.steps)
        windows = (
            (corpus[:, t : t + self.steps], corpus[:, t + 1 : t + 1 + self.steps]) for t in starts
        )
        return Problem(params, tuple(windows))


class CharVocab:
    """28 single characters in the role of the book's vocabulary: token <-> index."""

    def __init__(self, size: int = 28) -> None:
        self.idx_to_token = list(("?" + " " + string.ascii_lowercase + string.digits)[:size])
        self.token_to_idx = {token: index for index, token in enumerate(self.idx_to_token)}

    def __len__(self) -> int:
        return len(self.idx_to_token)

    def __getitem__(self, token: str) -> int:
        return self.token_to_idx.get(token, 0)


CASES = {
    case.name: case
    for case in (
        Case("H64", 64),
        Case("H256", 256),
        Case("H512", 512),
        Case("H1024", 1024),
        Case("N1_H512", 512, batch=1, ops=OPS[:2]),
        Case("N256_H256", 256, batch=256, epoch=4, ops=OPS[:2]),
        Case("T512_H256", 256, steps=512, epoch=2, ops=OPS[:2]),
    )
}
