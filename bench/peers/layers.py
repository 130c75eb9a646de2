"""torch.nn.RNN and rnnfast.nn.RNN as whole stacks: layers, directions, packed sequences."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from bench.cases import Sequences

VERSIONS = {"torch": torch.__version__}


def make(variant: str, task: Sequences, threads: int, device: str) -> Layers:
    """variant: "torch", "compile" or "ours"."""
    torch.set_num_threads(threads)
    rnn = _stack(task)
    if variant == "ours":
        import rnnfast

        warnings.simplefilter("error", rnnfast.FallbackWarning)
        rnnfast.convert(rnn)
    layers = Layers(rnn, task, device)
    if variant == "compile":
        layers.call = torch.compile(rnn)
    return layers


def in_float64(task: Sequences) -> Layers:
    """torch's layers, as the truth."""
    return Layers(_stack(task).double(), task, "cpu")


class Layers:
    """names: of what `gradients` returns; `forward` returns the first two."""

    def __init__(self, rnn: nn.RNN, task: Sequences, device: str) -> None:
        rnn.to(device)
        self.call: Any = rnn
        self.names = ["output", "h_n", "grad x", "grad h_0"]
        self.names += [f"grad {name}" for name, _ in rnn.named_parameters()]
        dtype = next(rnn.parameters()).dtype

        def tensor(array: Any) -> Tensor:
            return torch.from_numpy(array).to(device, dtype)

        x, lengths = tensor(task.x), torch.from_numpy(task.lengths)
        grad_output = tensor(task.grad_output)
        self._sizes = None
        if task.case.packed:
            packed = pack_padded_sequence(x, lengths)
            x, self._sizes = packed.data, packed.batch_sizes
            grad_output = pack_padded_sequence(grad_output, lengths).data
        self._x, self._h0 = x.requires_grad_(), tensor(task.h0).requires_grad_()
        self._leaves = [self._x, self._h0, *rnn.parameters()]
        self._grads = [grad_output, tensor(task.grad_h_n)]

    @torch.no_grad()
    def forward(self) -> tuple[Tensor, Tensor]:
        return self._run()

    def gradients(self) -> tuple[Tensor, ...]:
        results = self._run()
        grads = torch.autograd.grad(results, self._leaves, self._grads)
        return *(result.detach() for result in results), *grads

    def _run(self) -> tuple[Tensor, Tensor]:
        """Of packed sequences the rows without padding."""
        if self._sizes is None:
            output, h_n = self.call(self._x, self._h0)
            return output, h_n
        output, h_n = self.call(PackedSequence(self._x, self._sizes), self._h0)
        return output.data, h_n


def _stack(task: Sequences) -> nn.RNN:
    case, both = task.case, task.case.directions == 2
    torch.manual_seed(0)
    return nn.RNN(case.inputs, case.hidden, case.layers, bidirectional=both)
