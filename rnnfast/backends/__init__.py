"""Each backend is one object with the methods of `Backend`, so that it is a row in a table.

What a call consists of is one typed value, defined here once. `reference` is the specification, and
`rnnfast.dispatch` chooses the backend that serves a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WIDE = (torch.float32, torch.float64)


class Recurrence(NamedTuple):
    """One call of the recurrence: h_t = cell(u_t + h_{t-1} @ W_hh + b_h) for t = 1..T.

    u_t is x[ids_t] where ids are given, and x_t otherwise.
    """

    cell: str  # a name in rnnfast.cells
    x: Tensor  # [V, H] table when ids are given, else [T, B, H]
    ids: Tensor | None  # [T, B] int64
    W_hh: Tensor  # [H, H]
    b_h: Tensor | None  # [H]
    h0: Tensor  # [B, H], or [1, B, H] as torch.nn.RNN has it: then h_last is so, too
    transposed: bool = False  # the product is h @ W_hh.T, as torch.nn.RNN keeps its weights
    # Time runs backwards: step t follows step t + 1, and h_last is hs[0].
    reverse: bool = False
    # [T] int64 on the CPU, falling, as PackedSequence has it: x is then [N, H], ids [N] and hs
    # [N, H], step t having the rows from sum(batch_sizes[:t]) on. h_last[n] is row n's own last.
    batch_sizes: Tensor | None = None
    resets: Tensor | None = None  # [T, B] bool: before step t the state of a row becomes zero
    resets_to_h0: bool = False  # it becomes the row of h0 instead
    leak: Tensor | None = None  # [H]: a of a leaky cell
    # u_t gets normal noise of this standard deviation, which follows from the seed. The backward
    # pass does not need it.
    noise: float = 0.0
    seed: int = 0

    # Both directions of a layer in one call have W_hh [2, H, H], b_h [2, H], h0 and h_last
    # [2, B, H], leak [2, H], x and hs [T, B, 2 H] (the forward one first), and no ids.

    @property
    def is_plain(self) -> bool:
        """Whether no option is set but `transposed`.

        Each is asked by `is`, since torch takes 20 us to say that a tensor does not == None.
        """
        others = self.batch_sizes is None and self.resets is None and self.leak is None
        return others and not self.reverse and self.noise == 0


class Needs(NamedTuple):
    """Which gradients a backward pass makes besides that of x."""

    W_hh: bool = True
    b_h: bool = True
    h0: bool = True
    leak: bool = True


class Gradients(NamedTuple):
    """What `rnn_backward` makes; an empty tensor for what is not needed."""

    x: Tensor  # [T, B, H], or its sums by id [V, H]
    W_hh: Tensor  # [H, H]
    b_h: Tensor  # [H]
    h0: Tensor  # [B, H]
    leak: Tensor | None = None  # [H], where the cell is leaky; None where it is not needed


class Adjoint(NamedTuple):
    """One call of the recurrence's backward pass."""

    call: Recurrence  # its x and b_h are not read
    V: int  # how many rows the table has; unused without ids
    hs: Tensor  # [T, B, H]
    saved: Tensor | None  # the third result of rnn_forward
    grad_hs: Tensor | None  # [T, B, H]
    grad_h_last: Tensor | None  # [B, H]
    needs: Needs
    # The gradient of `saved`, which only a second derivative has: the reference serves it.
    grad_saved: Tensor | None = None


class Params(NamedTuple):
    """The parameters of a character model, in the order of the book."""

    W_xh: Tensor  # [V, H]
    W_hh: Tensor  # [H, H]
    b_h: Tensor  # [H]
    W_hq: Tensor  # [H, V]
    b_q: Tensor  # [V]


class CrossEntropy(NamedTuple):
    """One call of the loss of a character model: the mean over all steps and rows."""

    cell: str
    ids: Tensor  # [T, B]
    targets: Tensor  # [T, B]
    params: Params
    h0: Tensor  # [B, H]
    need_grads: bool = True  # whether the gradients of the params are wanted
    need_h0: bool = False
    # Where given, the gradients of the params are added to these, and these are the results.
    grads: Sequence[Tensor] | None = None


class TrainSteps(NamedTuple):
    """One call of the training of a character model, by a step for each minibatch."""

    cell: str
    ids: Sequence[Tensor]  # [B, T] each, as data loaders give them; T may differ
    targets: Sequence[Tensor]  # of the same shapes
    params: Sequence[Tensor]  # as in Params
    grads: Sequence[Tensor]  # of the same shapes; they are overwritten
    h: Tensor  # [B, H]: the state before and after
    lr: float
    max_norm: float
    # Whether `grads` ends with the last minibatch's gradients; otherwise it may hold anything.
    keep_grads: bool = True
    steps_first: bool = False  # whether ids and targets are [T, B] instead

    def minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """ids and targets of each, [T, B]."""
        for X, Y in zip(self.ids, self.targets, strict=True):
            yield (X, Y) if self.steps_first else (X.T, Y.T)


class Decoding(NamedTuple):
    """One call of generation by a character model."""

    cell: str
    first: Tensor  # [B]
    params: Params
    h0: Tensor  # [B, H]
    steps: int
    temperature: float
    uniforms: Tensor | None  # [steps, B] in [0, 1); None: the largest logit wins


class Call(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    dtype: torch.dtype
    transform: str = ""  # torch.func transform or forward-mode AD around the call, if any
    features: tuple[str, ...] = ()  # which of Backend.features it asks for


class Layer(NamedTuple):
    """What the choice of a layer's kernels depends on, besides device, dtype and batch."""

    H: int
    cell: str = "tanh"
    has_options: bool = False  # whether calls have lengths or resets
    directions: int = 1


class Backend:
    """What every backend does. Methods that end in `_` write in place, under torch.no_grad()."""

    name = ""
    device = ""  # the type of device for which it is a fast path; "" for none
    dtypes: tuple[torch.dtype, ...] = ()
    # Optional fields of Recurrence that it serves, and "both_directions", where W_hh is [2, H, H].
    # For noise it has `seed_of_noise`.
    features: frozenset[str] = frozenset()
    # Whether it checks its arguments by itself. To check them in Python as well takes 1.4 us of the
    # 8 of a small call.
    checks_arguments = False
    # `rnn_logits` and its adjoint serve a W_hq of at most so many elements; 0: it has neither.
    fused_readout = 0
    is_differentiable = False  # whether torch can differentiate it by itself
    trains_in_groups = False  # whether several minibatches in one call take less time

    def why_not(self, call: Call) -> list[str]:
        """What keeps it from serving a call, in words; empty if nothing does."""
        reasons = []
        if call.device != self.device and not (call.device == "cpu" and self.stands_in()):
            reasons.append(f"the tensors are on {call.device}, not on {self.device}")
        if call.dtype not in self.dtypes:
            *first, last = (str(dtype).removeprefix("torch.") for dtype in self.dtypes)
            reasons.append(f"the dtype is {call.dtype}, not {', '.join(first)} or {last}")
        reasons += [f"it has no {each}" for each in call.features if each not in self.features]
        if call.transform:
            reasons.append(f"the call is inside {call.transform}")
        if not reasons and (error := self.load_error()):
            reasons.append(error)
        return reasons

    def stands_in(self) -> bool:
        """Whether its kernels are emulated on CPU tensors: they serve where forced."""
        return False

    def load_error(self) -> str:
        """Why it cannot be used on this machine, or an empty string; loads it."""
        return ""

    def seed_of_noise(self, generator: torch.Generator | None) -> int | None:
        """A seed for a call with `noise`, or None where the call must have it in u_t already."""
        return None

    def variants(
        self, device: torch.device, dtype: torch.dtype, sizes: tuple[int, int] | None
    ) -> list[str]:
        """Which kernels serve a net of these H and V (None: some usual ones), a line each."""
        return []

    def layer_variants(self, device: torch.device, dtype: torch.dtype, layer: Layer) -> list[str]:
        """Which kernels run the two passes of a layer, for some usual batches, a line each."""
        return []

    def check_errors(self, device: torch.device) -> None:
        """Raise the errors that kernels of earlier calls reported."""

    def rnn_forward(self, r: Recurrence, saves: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """hs [T, B, H], h_last [B, H] with its own storage, and what else a backward pass needs.

        saves: a backward pass may follow. Otherwise a backend may round products as torch's
        setting of the float32 precision allows.
        """
        raise NotImplementedError

    def rnn_backward(self, a: Adjoint) -> Gradients:
        """The adjoint of `rnn_forward`."""
        raise NotImplementedError

    def rnn_logits(
        self,
        r: Recurrence,
        W_hq: Tensor,  # [H, V]
        b_q: Tensor,  # [V]
        saves: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """logits = h_t @ W_hq + b_q [T * B, V], h_last [B, H], hs [T, B, H]."""
        raise NotImplementedError

    def rnn_logits_backward(
        self,
        a: Adjoint,
        W_hq: Tensor,  # [H, V]
        grad_logits: Tensor,  # [T * B, V]
    ) -> tuple[Gradients, Tensor, Tensor]:
        """The adjoint of `rnn_logits`: with the gradients of W_hq and b_q."""
        raise NotImplementedError

    def rnn_cross_entropy(self, c: CrossEntropy) -> tuple[Tensor, ...]:
        """The mean loss, h_last [B, H], the gradients of the params and, without `grads`, of h0."""
        raise NotImplementedError

    def train_steps_(self, s: TrainSteps) -> Tensor:
        """Steps of training: loss, gradients, d2l's clip, SGD. The losses before each step [n]."""
        raise NotImplementedError

    def clip_grads_(self, grads: Sequence[Tensor], max_norm: float, d2l: bool) -> Tensor:
        """Scale gradients by their common norm, which is returned."""
        raise NotImplementedError

    def sgd_(self, params: Sequence[Tensor], grads: Sequence[Tensor], rate: float) -> None:
        """param -= rate * grad, then grad = 0, for one parameter after the other."""
        torch._foreach_add_(list(params), list(grads), alpha=-rate)
        torch._foreach_zero_(list(grads))

    def decode(self, d: Decoding) -> tuple[Tensor, Tensor]:
        """Feed each step's output back as the next input: ids [steps, B] and h_last [B, H]."""
        raise NotImplementedError
