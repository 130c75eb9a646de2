"""Chapter 8's training: same names, arguments and numbers as the book's functions.

Works with any net of the book's shape: ours, a foreign `forward_fn`, or an nn.Module.
"""

from __future__ import annotations

import itertools
import math
import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rnnfast import optim
from rnnfast.backends.arguments import described
from rnnfast.book.arguments import (
    DEVICE,
    FUNCTION,
    ITERABLE,
    NET,
    NUMBER,
    TENSOR,
    Kind,
    integer,
    named,
    optional,
)
from rnnfast.book.console import show
from rnnfast.book.generation import predict_ch8
from rnnfast.book.meters import Animator, Timer
from rnnfast.training import choose, levels

_UPDATER = Kind(
    "an optimizer of torch, or a function called as updater(batch_size=1)",
    lambda updater: callable(updater) or isinstance(updater, torch.optim.Optimizer),
)
_WITH_PARAMETERS = Kind(
    "a module of torch.nn, or an object with .params",
    lambda net: isinstance(net, nn.Module) or hasattr(net, "params"),
)


@named(net=_WITH_PARAMETERS, theta=NUMBER)
def grad_clipping(net: Any, theta: float) -> None:
    """Scale the gradients of a net so that their common 2-norm is at most theta.

    norm = sqrt(sum g^2) over all parameters; g *= theta / norm where norm > theta. A NaN norm
    scales nothing; nothing waits for the device. In place.

    Args:
        net: an nn.Module (parameters that require gradients count) or an object with `.params`.
        theta: the largest norm allowed.

    Raises TypeError for a parameter without a gradient, as the book's function does.
    Source: the book's `grad_clipping`; squares that overflow float32 do not spoil this one.
    """
    optim.clip_grads_(optim.gradients(net), float(theta), d2l=True)


@named(
    net=NET,
    train_iter=ITERABLE,
    loss=FUNCTION,
    updater=_UPDATER,
    device=DEVICE,
    clip=optional(NUMBER),
)
def train_epoch_ch8(
    net: Any,
    train_iter: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    updater: levels.Updater,
    device: Any,
    use_random_iter: bool,
    *,
    clip: float | None = 1.0,
) -> tuple[float, float]:
    """Train a net for one epoch.

    Args:
        net: RNNModelScratch, RNNModel, or anything called as `net(X [B, T], state)` with a
            `begin_state`.
        train_iter: batches (X, Y), both [B, T]; Y is X shifted by one step.
        loss: of logits [T * B, V] and targets [T * B]; its mean is minimised.
        updater: a torch optimizer, or a function called as `updater(batch_size=1)`.
        device: where the batches go.
        use_random_iter: start every batch from a fresh state instead of the last one's.
        clip: the largest gradient norm (the book's 1), or None.

    Returns:
        (perplexity exp(mean loss), tokens per second).

    The fastest level of `rnnfast.training` that these allow does the work; the result is the same
    for all. The losses stay on the device until the epoch ends, so that no batch waits for the one
    before. Lists, tuples and our own loader are read one batch ahead; an error there may leave
    gradients of None.
    Raises ValueError for a train_iter without a batch.
    Source: the book's function of that name.
    """
    timer, state, losses = Timer(), None, _LossSum()
    step, _ = choose.level_for(net, loss, updater, clip)
    if isinstance(device, str):
        device = torch.device(device)  # once: each .to() would read the name again
    records_gradients = torch.is_grad_enabled()
    try:
        group_size = (lambda X: 1) if use_random_iter else step.group_size
        for batches, is_last in _groups(train_iter, group_size):
            step.gradients_are_seen = is_last
            if state is None or use_random_iter:
                state = net.begin_state(batch_size=batches[0][0].shape[0], device=device)
            else:
                levels.detach(state)
            mean_losses, state = step.train(batches, state, device)
            losses.add(mean_losses, [Y.numel() for _, Y in batches])
    finally:
        torch.set_grad_enabled(records_gradients)  # Ctrl-C as torch.no_grad begins leaves them off
        step.finish()
    total, tokens = losses.total()
    total += step.unreturned_loss()
    if not tokens:
        raise ValueError("train_iter gives no batch: the text is shorter than one batch needs")
    return math.exp(total / tokens), tokens / timer.stop()


@named(net=NET, train_iter=ITERABLE, lr=NUMBER, num_epochs=integer(1), device=DEVICE)
def train_ch8(
    net: Any,
    train_iter: Iterable[tuple[Tensor, Tensor]],
    vocab: Any,
    lr: float,
    num_epochs: int,
    device: Any,
    use_random_iter: bool = False,
) -> None:
    """Train a character model by SGD with mean cross-entropy and gradients clipped to norm 1.

    Every 10 epochs prints 50 characters that follow "time traveller" and adds the perplexity to a
    plot; at the end prints the perplexity, the tokens per second, and two continuations.

    Raises ValueError for a num_epochs below 1, and what `train_epoch_ch8` raises.
    Source: d2l 0.17.6's function of that name, with its printed lines.
    """
    integer(1).check("num_epochs", num_epochs)
    loss = nn.CrossEntropyLoss()
    animator = Animator(
        xlabel="epoch", ylabel="perplexity", legend=["train"], xlim=[10, num_epochs]
    )
    updater: levels.Updater
    if isinstance(net, nn.Module):
        updater = torch.optim.SGD(net.parameters(), lr)
    else:
        updater = optim.SGD(net.params, lr)

    def predict(prefix: str) -> Any:
        return predict_ch8(prefix, 50, net, vocab, device)

    for epoch in range(num_epochs):
        ppl, speed = train_epoch_ch8(net, train_iter, loss, updater, device, use_random_iter)
        if (epoch + 1) % 10 == 0:
            show(predict("time traveller"))
            animator.add(epoch + 1, [ppl])
    show(f"perplexity {ppl:.1f}, {speed:.1f} tokens/sec on {device!s}")
    show(predict("time traveller"))
    show(predict("traveller"))


class _LossSum:
    """Sums loss * tokens in float64 on the host, but reads the device once per thousand batches.

    The numbers are those of the book's Accumulator, which reads every one as it comes.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._weights: list[int] = []
        self._sum, self._tokens = 0.0, 0

    def add(self, mean_losses: Sequence[Tensor], tokens: Sequence[int]) -> None:
        """Add the mean losses of minibatches with so many tokens each.

        There may be no losses: the level then sums them by itself.
        """
        if not mean_losses:
            self._tokens += sum(tokens)
            return
        self._losses += mean_losses
        self._weights += tokens
        if len(self._weights) >= 1000:
            self._read()

    def total(self) -> tuple[float, int]:
        self._read()
        return self._sum, self._tokens

    def _read(self) -> None:
        if not self._losses:
            return
        # The weights are applied in Python, rounded as torch would round: after an epoch torch's
        # code has left the caches, where a call takes ten times as long as in a loop.
        kind = "d" if self._losses[0].dtype == torch.float64 else "f"
        losses = self._losses[0] if len(self._losses) == 1 else torch.hstack(self._losses)
        values = losses.reshape(-1).tolist()
        for each in array(kind, map(operator.mul, values, self._weights)):
            self._sum += each
        self._tokens += sum(self._weights)
        self._losses.clear()
        self._weights.clear()


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    """A minibatch as X and Y; TypeError or ValueError, as unpacking has them, for any other."""
    try:
        X, Y = batch
    except (TypeError, ValueError) as error:
        count = f" of {len(batch)}" if hasattr(batch, "__len__") else ""
        message = f"train_iter gives {described(batch)}{count}, must give pairs (X, Y) of tensors"
        raise type(error)(message) from error
    TENSOR.check("X of a minibatch of train_iter", X)
    TENSOR.check("Y of a minibatch of train_iter", Y)
    return X, Y


def _groups(
    batches: Iterable[Any], group_size: Callable[[Tensor], int]
) -> Iterator[tuple[list[Any], bool]]:
    """Yield minibatches to be trained together, and whether they include the last one, whose
    gradients the caller will find. group_size(X) is the number of batches like its first.

    An iterable of an unknown kind gives one at a time, and each counts as the last: it may write
    into the same tensors again, so that looking ahead would change the current minibatch.
    """
    rest = map(_pair, batches)
    if not getattr(batches, "can_look_ahead", isinstance(batches, (list, tuple))):
        for batch in rest:
            yield [batch], True
        return
    group, size = list(itertools.islice(rest, 1)), 0
    while group:
        size = size or group_size(group[0][0])
        group += itertools.islice(rest, size - len(group))
        following = list(itertools.islice(rest, 1))
        yield group, not following
        group = following
