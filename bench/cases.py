"""What is measured: shapes, with their data and parameters from a fixed seed."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cached_property

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
class Task:
    """What every peer is given: parameters, and the minibatches of one epoch.

    params: float32 W_xh [V,H], W_hh [H,H], b_h [H], W_hq [H,V], b_q [V].
    batches: pairs (X, Y) of int64 [B,T]. They are strided windows of one array, as the sequential
    loader of chapter 8 makes them, and Y is X one character later.
    """

    params: tuple[Floats, ...]
    batches: tuple[tuple[Ints, Ints], ...]

    @cached_property
    def grad_hs(self) -> Floats:
        """A float32 gradient of the hidden states [T,B,H], for the operation "gradients"."""
        (B, T), H = self.batches[0][0].shape, len(self.params[1])
        random = np.random.RandomState(1)
        rows, steps = random.standard_normal((B, H)), random.standard_normal((T, 1, 1))
        gradient: Floats = (rows * steps / (T * B)).astype(np.float32)
        return gradient


@dataclass(frozen=True)
class Case:
    """One shape of the book's model: ids, one recurrent layer, a readout.

    epoch: minibatches; the notebook's 10,000 characters make 8.
    ops: what is measured. Generation runs one sequence, so only `hidden` matters to it.
    proven: how many generated ids are compared.
    """

    name: str
    hidden: int
    batch: int = 32
    steps: int = 35
    vocab: int = 28
    epoch: int = 8
    ops: tuple[str, ...] = OPS
    proven: int = GENERATED

    def units(self, op: str) -> int:
        """Characters handled by one call of `op`; the clip norm is counted as one."""
        tokens = self.batch * self.steps
        return {"train": tokens * self.epoch, "generate": GENERATED, "clip": 1}.get(op, tokens)

    def weights(self, op: str = "forward") -> int:
        """Multiply-adds per character: the recurrence and the readout. The input is a gather."""
        readout = 0 if op in ("states", "gradients") else self.vocab
        return self.hidden * (self.hidden + readout)

    def task(self) -> Task:
        """The data of this case. The scales give a gradient norm above 1, so that clipping acts."""
        random = np.random.RandomState(0)  # a stream that numpy promises never to change
        V, H = self.vocab, self.hidden
        params = (
            _uniform(random, 1, V, H),
            _uniform(random, H**-0.5, H, H),
            _uniform(random, 0.1, H),
            _uniform(random, 8 * H**-0.5, H, V),
            _uniform(random, 0.1, V),
        )
        T, characters = self.steps, self.epoch * self.steps
        corpus = random.randint(0, V, size=(self.batch, characters + 1)).astype(np.int64)
        windows = (
            (corpus[:, t : t + T], corpus[:, t + 1 : t + 1 + T]) for t in range(0, characters, T)
        )
        return Task(params, tuple(windows))


@dataclass(frozen=True)
class Sequences:
    """What every layer of a `Stack` is given.

    lengths: int64 [B], all T unless the case is packed. x [T,B,I], h0 [layers * directions,B,H],
    and gradients of the output [T,B,directions * H] and of the last state, all float32.
    """

    case: Stack
    lengths: Ints
    x: Floats
    h0: Floats
    grad_output: Floats
    grad_h_n: Floats


@dataclass(frozen=True)
class Stack:
    """One shape of torch.nn.RNN, whose own initialisation from seed 0 gives the parameters.

    packed: the lengths of the sequences are uniform in 1..T, the longest first; one alone has their
    mean.
    """

    name: str
    hidden: int
    batch: int = 32
    steps: int = 35
    inputs: int = 64
    layers: int = 1
    directions: int = 1
    packed: bool = False
    ops: tuple[str, ...] = ("forward", "gradients")

    @cached_property
    def lengths(self) -> Ints:
        if not self.packed:
            return np.full(self.batch, self.steps, np.int64)
        if self.batch == 1:
            return np.array([(self.steps + 1) // 2], np.int64)
        drawn = np.random.RandomState(0).randint(1, self.steps + 1, self.batch)
        return np.sort(drawn)[::-1].astype(np.int64)

    def units(self, op: str) -> int:
        """Vectors of the input: padding is none."""
        return int(self.lengths.sum())

    def weights(self, op: str = "forward") -> int:
        """Multiply-adds per vector, in all layers and directions."""
        first = self.directions * self.hidden * (self.inputs + self.hidden)
        other = self.directions * self.hidden * (self.directions * self.hidden + self.hidden)
        return first + (self.layers - 1) * other

    def task(self) -> Sequences:
        random = np.random.RandomState(0)
        T, B, H = self.steps, self.batch, self.hidden
        states, width = self.layers * self.directions, self.directions * H
        lengths = self.lengths
        inside = (np.arange(T)[:, None] < lengths)[..., None]
        x = _uniform(random, 1, T, B, self.inputs) * inside
        h0 = _uniform(random, 1, states, B, H)
        grad_output = _uniform(random, 1 / (T * B), T, B, width) * inside
        return Sequences(self, lengths, x, h0, grad_output, _uniform(random, 1 / B, states, B, H))


AnyCase = Case | Stack


def _uniform(random: np.random.RandomState, bound: float, *shape: int) -> Floats:
    return random.uniform(-bound, bound, size=shape).astype(np.float32)


class CharVocab:
    """28 single characters in the role of the book's vocabulary: token <-> index."""

    def __init__(self, size: int = 28) -> None:
        self.idx_to_token = list(("? " + string.ascii_lowercase + string.digits)[:size])
        self.token_to_idx = {token: index for index, token in enumerate(self.idx_to_token)}

    def __len__(self) -> int:
        return len(self.idx_to_token)

    def __getitem__(self, token: str) -> int:
        return self.token_to_idx.get(token, 0)
