"""The shapes that benchmarks and tests share, with data and parameters from a fixed seed."""

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

# Products of H by H that one character takes in a cell, by the cell's name in rnnfast.cells.
PRODUCTS = {"tanh": 1, "relu": 1}
# How many times an operation multiplies by each weight matrix: forward, for the gradient of the
# state, and for the gradient of the weights.
_PASSES = {"train": 3, "gradients": 3, "clip": 0}


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
class Shape:
    """What the shapes of all suites have. `units` and `weights` are a subclass's own."""

    name: str
    hidden: int
    batch: int = 32
    steps: int = 35

    def flops(self, op: str) -> int:
        """Floating-point operations of one call of `op` that no implementation can avoid."""
        return 2 * self.weights(op) * self.units(op) * _PASSES.get(op, 1)

    def units(self, op: str) -> int:
        """What one call of `op` handles, in characters or in vectors of the input."""
        raise NotImplementedError

    def weights(self, op: str = "forward") -> int:
        """Multiply-adds for each of them."""
        raise NotImplementedError


@dataclass(frozen=True)
class Case(Shape):
    """One shape of the book's model: ids, one recurrent layer, a readout.

    cell: a name of rnnfast.cells. epoch: minibatches; the notebook's 10,000 characters make 8.
    ops: what is measured. Generation runs one sequence, so only `hidden` matters to it.
    proven: how many generated ids are compared.
    """

    vocab: int = 28
    epoch: int = 8
    cell: str = "tanh"
    ops: tuple[str, ...] = OPS
    proven: int = GENERATED

    def units(self, op: str) -> int:
        """Characters handled by one call of `op`; the clip norm is counted as one."""
        tokens = self.batch * self.steps
        return {"train": tokens * self.epoch, "generate": GENERATED, "clip": 1}.get(op, tokens)

    def weights(self, op: str = "forward") -> int:
        """Multiply-adds per character: the recurrence and the readout. The input is a gather."""
        readout = 0 if op in ("states", "gradients") else self.vocab
        return self.hidden * (PRODUCTS[self.cell] * self.hidden + readout)

    def task(self, seed: int = 0) -> Task:
        """The data of this case. The scales give a gradient norm above 1, so that clipping acts."""
        random = np.random.RandomState(seed)  # a stream that numpy promises never to change
        V, H = self.vocab, self.hidden
        params = (
            _uniform(random, 1, V, H),
            _uniform(random, H**-0.5, H, H),
            _uniform(random, 0.1, H),
            _uniform(random, 8 * H**-0.5, H, V),
            _uniform(random, 0.1, V),
        )
        corpus = random.randint(0, V, size=(self.batch, self.epoch * self.steps + 1)).astype(
            np.int64
        )
        starts = range(0, self.epoch * self.steps, self.steps)
        windows = (
            (corpus[:, t : t + self.steps], corpus[:, t + 1 : t + 1 + self.steps]) for t in starts
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
class Stack(Shape):
    """One shape of torch.nn.RNN, whose own initialisation from seed 0 gives the parameters.

    packed: the lengths of the sequences are uniform in 1..T, the longest first; one alone has their
    mean.
    """

    inputs: int = 64
    layers: int = 1
    directions: int = 1
    packed: bool = False
    cell: str = "tanh"
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
        return PRODUCTS[self.cell] * (first + (self.layers - 1) * other)

    def task(self, seed: int = 0) -> Sequences:
        random = np.random.RandomState(seed)
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
        Case("one_step", 4, batch=1, steps=1, vocab=4, ops=("states",)),
    )
}
