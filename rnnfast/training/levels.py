"""How one minibatch is trained, at four levels of speed; all leave the same behind.

graph    the step below, captured on a GPU and replayed by one launch (`graphs`)
step     loss, gradients, clip and SGD are one call of the backend (`train_steps_`), which on the
         CPU trains many minibatches
loss     the loss and its gradients are one call, and the caller's updater follows
general  net, loss, backward, clip and updater run in turn, as in the book

`choose.level_for` finds the fastest level that a net, a loss and an updater allow, and says why not
a faster one. What can be seen after an epoch does not depend on it: parameters, the last gradients,
the optimizer. (`step` makes new gradients in each epoch, as zero_grad does, and keeps those of the
last minibatch alone: after an error before it they are None.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rnnfast import dispatch, functional, optim
from rnnfast.backends import TrainSteps, arguments
from rnnfast.book import models
from rnnfast.optim import SGD, gradients

Updater = torch.optim.Optimizer | Callable[..., Any]
Batch = tuple[Tensor, Tensor]  # X, Y, both [B, T]
Minibatch = tuple[Tensor, Any]  # mean loss, state
Trained = tuple[Sequence[Tensor], Any]  # losses, one by one or together; state


class GeneralLevel:
    """Any net, loss and updater: the book's own sequence."""

    name, summary = "general", "net, loss, backward, clip and updater as the book has them"
    gradients_are_seen = True  # False where the next batch overwrites them

    def __init__(
        self, net: Any, loss: Callable[..., Tensor], updater: Any, clip: float | None
    ) -> None:
        self.net, self.loss, self.updater, self.clip = net, loss, updater, clip

    def to_device(self, X: Tensor, Y: Tensor, device: Any) -> tuple[Tensor, Tensor]:
        """Bring a minibatch to where `__call__` takes it."""
        return X.to(device), Y.to(device)

    def group_size(self, X: Tensor) -> int:
        """How many minibatches like this one to hand to `train` together."""
        return 1

    def train(self, batches: Sequence[Batch], state: Any, device: Any) -> Trained:
        """Train minibatches in turn; returns their losses and the state after the last."""
        losses, seen = [], self.gradients_are_seen
        for i, batch in enumerate(batches):
            self.gradients_are_seen = seen and i == len(batches) - 1
            if i > 0:
                detach(state)
            loss, state = self(*self.to_device(*batch, device), state)
            losses.append(loss)
        return losses, state

    def __call__(self, X: Tensor, Y: Tensor, state: Any) -> Minibatch:
        y_hat, state = self.net(X, state)
        try:
            loss = self.loss(y_hat, _flat(Y).long()).mean()
        except Exception:
            if type(self.loss) is nn.CrossEntropyLoss:
                arguments.check_targets(Y, len(y_hat), y_hat.shape[-1], self.loss.ignore_index)
            raise
        self.update(loss.backward)
        return loss.detach(), state

    def update(self, add_gradients: Callable[[], None]) -> None:
        if isinstance(self.updater, torch.optim.Optimizer):
            self.updater.zero_grad()
        add_gradients()
        if self.clip is not None:
            optim.clip_grads_(gradients(self.net), self.clip, d2l=True)
        if isinstance(self.updater, torch.optim.Optimizer):
            self.updater.step()
        else:
            self.updater(batch_size=1)  # 1, because the loss is a mean already

    def finish(self) -> None:
        """Called once after the last minibatch, also when an error ends the epoch."""

    def unreturned_loss(self) -> float:
        """The sum of loss * tokens over the minibatches whose loss was not returned."""
        return 0.0


class FusedLevel(GeneralLevel):
    """What `LossLevel` and `StepLevel` share: their kernels know no ignored targets (-100).

    On the CPU such a target makes the call raise. A GPU cannot raise at once, so targets for one
    are checked before they leave the host, where nothing has to be waited for.
    """

    ignores = False

    def to_device(self, X: Tensor, Y: Tensor, device: Any) -> tuple[Tensor, Tensor]:
        X, placed = super().to_device(X, Y, device)
        self.ignores = not _tells_at_once(placed) and _has_ignored(Y)
        if placed.shape != X.shape and placed.numel() == X.numel() and X.dim() == 2:
            placed = _flat(placed).reshape(X.shape[1], X.shape[0]).T  # in the order of the loss
        return X, placed

    def check_targets(self, X: Tensor, Y: Tensor) -> None:
        """Raise what the loss would have raised, where the targets made the call fail."""
        V = self.net.vocab_size
        if X.numel() and X.min() >= 0 and X.max() < V:
            arguments.check_targets(Y, X.numel(), V)

    def unreturned_loss(self) -> float:
        """Zero, as every loss is returned; raises what the GPU's kernels reported meanwhile."""
        param = self.net.params[0]
        dispatch.backend_for(param).check_errors(param.device)
        return super().unreturned_loss()


class LossLevel(FusedLevel):
    """For our net and mean cross-entropy, one call makes the loss and all gradients."""

    name, summary = "loss", "loss and gradients in one call"

    def __call__(self, X: Tensor, Y: Tensor, state: Any) -> Minibatch:
        h = models.only(state)
        if h.requires_grad or self.ignores:
            return super().__call__(X, Y, state)
        existing = self._existing_grads()
        try:
            with torch.no_grad():
                loss, h, *grads = functional.rnn_cross_entropy_grads(
                    X.T, Y.T, h, tuple(self.net.params), grads=existing
                )
        except RuntimeError:
            if _has_ignored(Y):
                return super().__call__(X, Y, state)
            self.check_targets(X, Y)
            raise
        self.update(lambda: None if existing else self._accumulate(grads))
        return loss, (h,)

    def _existing_grads(self) -> list[Tensor] | None:
        """The existing gradients, to which the call adds as a backward pass does; None if unfit."""
        if isinstance(self.updater, torch.optim.Optimizer):
            return None
        grads = [p.grad for p in self.net.params]
        plain = [grad for grad in grads if grad is not None and grad.is_contiguous()]
        return plain if len(plain) == len(grads) else None

    def _accumulate(self, grads: list[Tensor]) -> None:
        """Hand new gradients to the parameters in a tenth of the 50 us that autograd takes."""
        for param, grad in zip(self.net.params, grads, strict=True):
            param.grad = grad if param.grad is None else param.grad.add_(grad)


class StepLevel(FusedLevel):
    """With plain SGD too, the whole step is one call, which carries the state in place."""

    name, summary = "step", "loss, gradients, clip and SGD in one call"

    def __init__(
        self, net: Any, loss: Callable[..., Tensor], updater: Any, clip: float | None
    ) -> None:
        super().__init__(net, loss, updater, clip)
        self.max_norm = float("inf") if clip is None else float(clip)
        self.params = tuple(p.detach() for p in net.params)  # the same memory and version counters
        self.grads = [torch.empty_like(p) for p in self.params]
        self.done = False  # whether the last batch was trained by this level,
        self.kept = True  # and whether self.grads then holds its gradients
        self.h: Tensor | None = None  # the state this object may overwrite: its own

    def __call__(self, X: Tensor, Y: Tensor, state: Any) -> Minibatch:
        h = models.only(state)
        if h.requires_grad or self.ignores:
            return self._take_general(X, Y, state)
        h, keeps = self._own_state(h, X.shape[0]), self._must_keep_grads()
        try:
            loss = functional.train_step_(
                X.T, Y.T, self.params, self.grads, h, self.lr, self.max_norm, keep_grads=keeps
            )
        except RuntimeError:
            if _has_ignored(Y):
                return self._take_general(X, Y, state)
            self.check_targets(X, Y)
            raise
        self.done, self.kept = True, self.gradients_are_seen
        return loss, (h,)

    def group_size(self, X: Tensor) -> int:
        """About 0.1 s of work, since Ctrl-C is only noticed between calls."""
        _, W_hh, _, W_hq, _ = self.params
        if not dispatch.backend_for(W_hh).trains_in_groups:
            return 1
        flops: int = 6 * X.numel() * (W_hh.numel() + W_hq.numel())  # of one minibatch
        return min(64, 2**33 // (flops + 1) + 1)

    def train(self, batches: Sequence[Batch], state: Any, device: Any) -> Trained:
        """Train all in one call, which saves 13 us for each, 5 % of a step at H = 64."""
        h = models.only(state)
        if len(batches) == 1 or h.requires_grad:
            return super().train(batches, state, device)
        X, Y = zip(*(self.to_device(*batch, device) for batch in batches), strict=True)
        h, backend = self._own_state(h, X[0].shape[0]), dispatch.backend_for(self.params[0])
        rest = (self.params, self.grads, h, self.lr, self.max_norm, self._must_keep_grads())
        before = self.done, self.kept
        self.done, self.kept = True, False  # which is so if Ctrl-C ends the call
        try:
            losses = backend.train_steps_(TrainSteps("tanh", X, Y, *rest))
        except RuntimeError:  # nothing has changed yet; taken singly, the step to blame raises
            self.done, self.kept = before
            return super().train(batches, state, device)
        self.kept = self.gradients_are_seen
        return [losses], (h,)

    def _own_state(self, h: Tensor, B: int) -> Tensor:
        """A copy of the state that this object may overwrite; one row serves all of a batch."""
        if h is not self.h or len(h) != B:
            rows = h.expand(B, -1) if h.shape[:-1] == (1,) else h
            self.h = rows.clone(memory_format=torch.contiguous_format)
        return self.h

    def _must_keep_grads(self) -> bool:
        return self.gradients_are_seen and not isinstance(self.updater, SGD)

    def _take_general(self, X: Tensor, Y: Tensor, state: Any) -> Minibatch:
        self.done = False  # the last gradients are autograd's again
        return super().__call__(X, Y, state)

    @property
    def lr(self) -> float:
        if isinstance(self.updater, torch.optim.Optimizer):
            return float(self.updater.param_groups[0]["lr"])
        return float(self.updater.lr)

    def finish(self) -> None:
        if not self.done:
            return
        for param, grad in zip(self.net.params, self.grads, strict=True):
            if isinstance(self.updater, SGD):
                param.grad = grad.zero_()
            else:
                param.grad = grad if self.kept else None  # None where an error ends an epoch early
        if isinstance(self.updater, SGD):
            self.updater.note_zeros()


def detach(state: Any) -> None:
    """Cut the state off the last batch's graph, in place."""
    for s in (state,) if isinstance(state, Tensor) else state:
        s.detach_()


def _tells_at_once(tensor: Tensor) -> bool:
    """Whether the call itself raises what its kernels say about a value."""
    return tensor.device.type == "cpu"


def _flat(Y: Tensor) -> Tensor:
    """Targets [B, T] by steps, as the loss takes them: Y.T.reshape(-1) for any number of axes."""
    return Y.permute(*reversed(range(Y.dim()))).reshape(-1)


def _has_ignored(Y: Tensor) -> bool:
    """Whether torch's cross-entropy takes what the operators refuse: other dtypes, and -100.

    This is asked after a refusal only, since to look takes 5 us, 2 % of a small step.
    """
    return Y.numel() == 0 or Y.dtype != torch.int64 or bool(Y.min() < 0)
