"""The whole train step as one CUDA graph: one launch where there were a dozen, and no waiting.

A graph replays the same kernels on the same addresses with the same numbers. So everything that
changes from batch to batch lies in buffers that stay: ids and targets, the state, the gradients,
the sum of the losses. Everything that is baked in is part of a graph's key: shape, learning rate,
clipping, precision and products, backend and the parameters' addresses.

The first batch of a key takes the ungraphed step: a key that never returns costs nothing more. The
second runs the step on its buffers and on the stream that will be captured, which gives libraries
their workspaces there. The third is captured, and from then on batches are replayed. No step is
done twice or left out by that: capturing executes nothing.
"""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rnnfast import dispatch, functional
from rnnfast.training import choose, levels
from rnnfast.training.cuda_graph import CaptureError, Device, Graph

MAX_KEYS = 8  # graphs per net; each holds the temporaries of its step
SWITCH = "RNNFAST_GRAPH"  # "0": train without graphs

Key = tuple[Any, ...]


@dataclass
class Kept:
    """What a net's graphs share, and keep from epoch to epoch."""

    device: Device
    grads: list[Tensor]
    total: Tensor  # the sum of loss * tokens over the epoch's graphed batches, float64
    zero: Tensor
    graphs: OrderedDict[Key, Graph | None] = field(default_factory=OrderedDict)  # None: seen once
    failure: str = ""  # why capturing failed

    def fits(self, params: list[Tensor]) -> bool:
        return all(
            (g.shape, g.dtype, g.device) == (p.shape, p.dtype, p.device)
            for g, p in zip(self.grads, params, strict=True)
        )

    def seen(self, key: Key) -> bool:
        """Whether there was a batch of this key before; forgets the key unused for longest."""
        if key in self.graphs:
            self.graphs.move_to_end(key)
            return True
        self.graphs[key] = None
        if len(self.graphs) > MAX_KEYS:
            if self.graphs[next(iter(self.graphs))] is not None:
                self._wait()
            self.graphs.popitem(last=False)
        return False

    def give_up(self, reason: str) -> None:
        """Use no graphs any more, as long as the net lives."""
        self.failure = reason
        self._wait()
        self.graphs.clear()

    def _wait(self) -> None:
        """Wait for the device: a graph must not be freed while it runs."""
        self.device.mark().synchronize()


_kept: WeakKeyDictionary[Any, Kept] = WeakKeyDictionary()  # by net, as long as it lives


def exist_for(tensor: Tensor) -> bool:
    """Whether the tensor's device has graphs."""
    return tensor.is_cuda


def why_not(net: Any) -> str:
    """What keeps a net on a device with graphs from being trained by them; "" if nothing."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    if net.params[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return "the stream is already being captured"
    kept = _kept.get(net)
    return kept.failure if kept else ""


class GraphLevel:
    """`StepLevel` as one CUDA graph, where a batch allows it; else that step itself."""

    name, summary = "graph", "the whole step in one launch of a CUDA graph"
    gradients_are_seen = True  # ignored here: a graph always writes the gradients

    def __init__(self, step: levels.StepLevel) -> None:
        self._step, self._net = step, step.net
        params = self._net.params
        self._backend = dispatch.backend_for(params[0])
        kept = _kept.get(self._net)
        if kept is None or not kept.fits(params):
            total = params[0].new_zeros((), dtype=torch.float64)
            grads = [torch.empty_like(p) for p in params]
            kept = Kept(Device(total.device), grads, total, torch.zeros_like(total))
            _kept[self._net] = kept
        self._kept = kept
        self._asked: Any = self  # which is no device: none was asked for yet
        step.grads = kept.grads
        kept.device.copy(kept.total, kept.zero)

    def to_device(self, X: Tensor, Y: Tensor, device: Any) -> tuple[Tensor, Tensor]:
        """A batch for the parameters' device stays where it is: `Graph.load` copies it."""
        if device is not self._asked:
            self._asked, self._place = device, torch.empty(0, device=device).device
        if self._place == self._kept.total.device:
            return X, Y
        return X.to(self._place), Y.to(self._place)  # the step refuses tensors of another device

    def group_size(self, X: Tensor) -> int:
        """One: a launch does not wait for the one before, so more of them gain nothing."""
        return 1

    def train(
        self, batches: Sequence[tuple[Tensor, Tensor]], state: Any, device: Any
    ) -> tuple[list[Tensor], Any]:
        """Train one minibatch."""
        ((X, Y),) = batches
        mean_loss, state = self(*self.to_device(X, Y, device), state)
        return [] if mean_loss is None else [mean_loss], state

    def __call__(self, X: Tensor, Y: Tensor, state: Any) -> tuple[Tensor | None, Any]:
        graph = self._graph(X, Y, state)
        if graph is None or not graph.load(X, Y, self._net.vocab_size):
            return self._step(*self._step.to_device(X, Y, self._kept.total.device), state)
        if state[0] is not graph.h:
            self._kept.device.copy(graph.h, state[0].detach())
        try:
            graph.run()
        except CaptureError as error:
            self._give_up(error)
        torch.autograd.graph.increment_version(self._net.params)  # as in-place operations do
        self._step.done = True
        return None, (graph.h,)

    def finish(self) -> None:
        """Give the parameters copies of the last gradients: the next epoch overwrites these."""
        if self._step.done:
            self._step.grads = [grad.clone() for grad in self._kept.grads]
        self._step.finish()

    def unreturned_loss(self) -> float:
        """The sum of loss * tokens over the batches whose loss was returned as None; waits."""
        return self._kept.device.read(self._kept.total) + self._step.unreturned_loss()

    def _graph(self, X: Tensor, Y: Tensor, state: Any) -> Graph | None:
        """The graph for a batch, or None: the first of its key, or one that no graph can serve."""
        if self._kept.failure or not self._is_plain(X, Y, state):
            return None
        params, step = self._net.params, self._step
        addresses = tuple(p.data_ptr() for p in params)
        products = torch.get_float32_matmul_precision()
        key = (*X.shape, step.lr, step.max_norm, products, self._backend.name, addresses)
        if not self._kept.seen(key):
            return None
        graph = self._kept.graphs[key]
        if graph is None:
            graph = self._kept.graphs[key] = self._new_graph(*X.shape)
        return graph

    def _new_graph(self, B: int, T: int) -> Graph:
        params, kept = tuple(self._net.params), self._kept
        grads, total, lr, max_norm = kept.grads, kept.total, self._step.lr, self._step.max_norm

        @torch.no_grad()
        def step(ids: Tensor, targets: Tensor, h: Tensor) -> None:
            loss = functional.train_step_(ids, targets, params, grads, h, lr, max_norm)
            total.add_(loss, alpha=T * B)

        return Graph(kept.device, params[0].detach(), T, B, params[1].shape[0], step)

    def _is_plain(self, X: Tensor, Y: Tensor, state: Any) -> bool:
        """Whether the batch fits a graph's buffers. The ungraphed step reports any other."""
        if X.dim() != 2 or X.shape != Y.shape or not X.numel():
            return False
        if X.dtype != torch.int64 or Y.dtype != torch.int64 or type(state) is not tuple:
            return False
        h, W_hh = state[0], self._net.params[1]
        return bool(
            len(state) == 1
            and h.shape in ((X.shape[0], W_hh.shape[0]), (1, W_hh.shape[0]))
            and h.dtype == W_hh.dtype
            and h.device == W_hh.device
            and not h.requires_grad
        )

    def _give_up(self, error: CaptureError) -> None:
        """From the next batch on the step is ungraphed."""
        reason = f"the step could not be captured: {error}"
        self._kept.give_up(reason)
        choose.note_choice("step", "one launch per kernel", reason)
        warnings.warn(f"rnnfast trains without a CUDA graph: {reason}", dispatch.FallbackWarning, 3)
