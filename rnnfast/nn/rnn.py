"""`RNN`: torch.nn.RNN on the fused recurrence, with what its users miss elsewhere."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch._C import _disabled_torch_function_impl
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from rnnfast import dispatch
from rnnfast.backends import Backend
from rnnfast.backends.arguments import check_generator, check_number, check_resets, described
from rnnfast.nn import dynamo, layer, onnx, stack


class RNN(torch.nn.RNN):
    """torch.nn.RNN, faster: the same arguments, parameters, state_dict, results and errors.

    h_t = act(x_t @ W_ih^T + b_ih + h_{t-1} @ W_hh^T + b_hh), act being tanh or relu, in every layer
    and direction. A layer is one product over all steps and one call of the recurrence, which runs
    both directions at the same time and spends nothing on padding.

    Args: those of torch.nn.RNN, and by keyword
        leak: a of a leaky cell, h_t = (1 - a) h_{t-1} + a act(...), as a number or a tensor [H] of
            numbers in (0, 1], in all layers. learn_leak makes it a parameter.
        learn_h0: the state that a call without hx starts from is a parameter [layers *
            directions, H], zero at first, and not a constant zero.
        noise: the standard deviation of normal noise on the pre-activation of every step, in
            training and in evaluation; assign 0.0 to `noise` to switch it off.

    forward(input, hx=None, resets=None, generator=None) takes and returns what torch.nn.RNN's
    does, and takes
        input: besides floating point features also token ids (int64, without the last axis, packed
            or not), for which weight_ih_l0 has a column each: x_t @ W_ih^T of one-hot x_t.
        resets: bool [T, B] ([B, T] with batch_first, [T] unbatched): where it is true, the state of
            the row is zero before that step, in all layers. In both directions, an episode that
            begins there and the one before it know nothing of each other.
        generator: what the noise is drawn from; torch's own generator by default.

    Where no kernel serves a call (half precision on the CPU, autocast, a device without kernels,
    weights that make gradients of each sample), torch's own implementation runs;
    `rnnfast.explain(module)` says so.
    Raises what torch.nn.RNN raises.
    """

    noise = 0.0
    is_leaky = False
    learns_h0 = False
    leak: Tensor  # [H] or (), where it is leaky
    h0: Tensor  # [layers * directions, H], where it learns it

    def __init__(
        self,
        *args: Any,
        leak: float | Tensor | None = None,
        learn_leak: bool = False,
        learn_h0: bool = False,
        noise: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        like = self.example
        check_number("noise", noise)
        if not noise >= 0:
            raise ValueError(f"noise is {noise}, must be at least 0")
        if noise:
            self.noise = float(noise)
        if leak is not None:
            if not isinstance(leak, Tensor):
                check_number("leak", leak)
                leak = torch.tensor(float(leak), dtype=torch.float64, device="cpu")
            _check_leak(leak, self.hidden_size)
            value = leak.detach().to(like.device, like.dtype, copy=True)
            if learn_leak:
                self.leak = torch.nn.Parameter(value)
            else:
                self.register_buffer("leak", value)
            self.is_leaky = True
        elif learn_leak:
            raise ValueError("learn_leak needs a leak to start from")
        if learn_h0:
            self.h0 = torch.nn.Parameter(like.new_zeros(self._rows(), self.hidden_size))
            self.learns_h0 = True

    def reset_parameters(self) -> None:
        """As torch's, from the same random numbers; h0 becomes zero, a leak stays."""
        leak = self.leak.detach().clone() if self.is_leaky else None
        super().reset_parameters()
        with torch.no_grad():
            if leak is not None:
                self.leak.copy_(leak)
            if self.learns_h0:
                self.h0.zero_()

    def extra_repr(self) -> str:
        words = [super().extra_repr()]
        if self.is_leaky:
            words.append(f"leaky, learn_leak={isinstance(self.leak, torch.nn.Parameter)}")
        if self.learns_h0:
            words.append("learn_h0=True")
        if self.noise:
            words.append(f"noise={self.noise}")
        return ", ".join(words)

    def forward(
        self,
        input: Any,  # [T, B, I], [B, T, I] or [T, I], or a PackedSequence; ids without I
        hx: Tensor | None = None,  # [layers * directions, B, H], or without B
        resets: Tensor | None = None,  # [T, B], [B, T] or [T]
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Tensor]:
        """All outputs of the last layer, in the form of the input, and all layers' last states."""
        if torch.compiler.is_compiling() and onnx.is_exporting():
            return onnx.forward(self, input, hx, resets)
        packed = isinstance(input, PackedSequence)
        x = input[0] if packed else input
        try:
            like = x if x.dtype.is_floating_point else self.example
            features = self.asks(packed, resets is not None)
            overridden = _overrides_functions(self.example)
            backend = None if overridden else dispatch.kernels_for(like, features)
            if backend is None and (resets is not None or self.is_more_than_torchs):
                backend = dispatch.backend_for(like, features)
            if backend is not None:
                run: Any = self._forward_packed if packed else self._forward_padded
                return run(backend, input, hx, resets, generator)  # type: ignore[no-any-return]
        except _REFUSALS:  # no other: checkpoints leave a forward pass by an exception of their own
            _check_types(x, hx, resets)
            check_generator(generator)
            if x.dtype != torch.int64:
                super().forward(input, hx)  # says in torch's words what it refuses
            raise
        return super().forward(*self._for_torch(input, hx))

    def asks(self, packed: bool, resets: bool) -> tuple[str, ...]:
        """What a call asks of a backend: names as in `Recurrence.features`."""
        return _features(packed, self.bidirectional, resets, self.is_leaky)

    @property
    def cell(self) -> str:
        """The cell's name in `rnnfast.cells`."""
        return f"leaky_{self.nonlinearity}" if self.is_leaky else self.nonlinearity

    @property
    def is_more_than_torchs(self) -> bool:
        """Whether torch's own implementation could not serve."""
        return self.is_leaky or self.noise > 0

    @property
    def example(self) -> Tensor:
        """A tensor of the weights' class, dtype and device."""
        stored, name = self._parameters, self._flat_weights_names[0]
        like: Any = stored[name] if name in stored else self._flat_weights[0]
        return like  # type: ignore[no-any-return]

    def _for_torch(self, input: Any, hx: Tensor | None) -> tuple[Any, Tensor | None]:
        """A call in what torch.nn.RNN knows: one-hot vectors for ids, and a state."""
        packed = isinstance(input, PackedSequence)
        x = input[0] if packed else input
        if x.dtype == torch.int64:
            x = functional.one_hot(x, self.input_size).to(self.example.dtype)
            input = PackedSequence(x, *input[1:]) if packed else x
        if hx is None and self.learns_h0:
            if packed:
                hx = self._start(int(input[1][0]))
            elif x.dim() == 3:
                hx = self._start(x.shape[0 if self.batch_first else 1])
            else:
                hx = self.h0
        return input, hx

    def _forward_padded(
        self,
        backend: Backend,
        x: Tensor,
        hx: Tensor | None,
        resets: Tensor | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        axes = 2 if x.dtype == torch.int64 else 3
        is_batched = x.dim() == axes
        if not is_batched and x.dim() != axes - 1:
            raise ValueError(
                f"input is {described(x)}, must be token ids [T, B] or [T], or features"
            )
        if resets is not None:
            check_resets(resets, x.shape if axes == 2 else x.shape[:-1], "input", x)
        if not is_batched:
            x = x.unsqueeze(1)
            hx = None if hx is None else hx.unsqueeze(1)
            resets = None if resets is None else resets.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
            resets = None if resets is None else resets.T
        hs, h_n = self._run(backend, x, hx, x.shape[1], None, resets, generator)
        if not is_batched:
            return hs.squeeze(1), h_n.squeeze(1)
        return hs.transpose(0, 1) if self.batch_first else hs, h_n

    def _forward_packed(
        self,
        backend: Backend,
        input: PackedSequence,
        hx: Tensor | None,
        resets: Tensor | None,
        generator: torch.Generator | None,
    ) -> tuple[PackedSequence, Tensor]:
        data, batch_sizes, order, back = input
        if data.dim() != (1 if data.dtype == torch.int64 else 2):
            raise ValueError(f"input is {described(data)}, must be token ids [N], or features")
        T, B = len(batch_sizes), int(batch_sizes[0])
        hx = None if hx is None else self.permute_hidden(hx, order)
        if resets is not None:
            if not torch.compiler.is_compiling():  # a traced call does not know its B
                check_resets(resets, (B, T) if self.batch_first else (T, B), "input", data)
            resets = self.permute_hidden(resets.T if self.batch_first else resets, order)
        hs, h_n = self._run(backend, data, hx, B, batch_sizes, resets, generator)
        return PackedSequence(hs, batch_sizes, order, back), self.permute_hidden(h_n, back)

    def _run(
        self,
        backend: Backend,
        x: Tensor,  # [T, B, I], packed [N, I]; ids without I
        hx: Tensor | None,  # [layers * directions, B, H]
        B: int,
        batch_sizes: Tensor | None,  # [T]
        resets: Tensor | None,  # [T, B]
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """All layers: hs [T, B, directions * H] (packed [N, ...]), and their last states."""
        if hx is not None:
            self.check_hidden_size(hx, (self._rows(), B, self.hidden_size))
        elif self.learns_h0:
            hx = self._start(B)
        if resets is not None and torch.is_grad_enabled():
            resets = resets.clone()  # the caller may change the mask before the backward pass
        D, H, last = 2 if self.bidirectional else 1, self.hidden_size, []
        # The layers between two dropouts are one node of autograd.
        drops = self.dropout > 0 and self.training
        at_once = 1 if drops else self.num_layers
        if hx is None:
            hx = self.example.new_zeros((self._rows() if drops else D, B, H))
        leak = self.leak.expand((H,) if D == 1 else (D, H)) if self.is_leaky else None
        for first, h0 in enumerate(hx.split(D) if drops else (hx,)):
            x = functional.dropout(x, self.dropout) if first > 0 else x
            calls = [layer.Call(backend, self.cell, D, batch_sizes, resets)] * at_once
            if self.noise:
                calls = [self._with_noise(call, x, generator) for call in calls]
            weights = self._read(D * first, D * (first + at_once))
            x, h_n = stack.run(calls, x, h0, leak, weights)
            last.append(h_n)
        return x, torch.cat(last) if drops else last[0]

    def _read(self, begin: int, end: int) -> list[Any]:
        """The weights of layers and directions; what is a parameter needs no search by torch."""
        stored = self._parameters
        return [
            stored[name] if name in stored else getattr(self, name)
            for names in self._all_weights[begin:end]
            for name in names
        ]

    def _with_noise(
        self, call: layer.Call, x: Tensor, generator: torch.Generator | None
    ) -> layer.Call:
        seed = call.backend.seed_of_noise(generator)
        if seed is not None:
            return call._replace(deviation=self.noise, seed=seed)
        like, rows = self.example, x.shape if x.dtype == torch.int64 else x.shape[:-1]
        shape = (*rows, call.D * self.hidden_size)
        drawn = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return call._replace(noise=self.noise * drawn)

    def _start(self, B: int) -> Tensor:
        """The learnt h0 of a batch [layers * directions, B, H]."""
        return self.h0.unsqueeze(1).expand(-1, B, -1)

    def _rows(self) -> int:
        return self.num_layers * (2 if self.bidirectional else 1)


dynamo.let_trace(RNN)

_OF_TENSOR: Any = Tensor.__torch_function__
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)


@functools.cache
def _features(packed: bool, both: bool, resets: bool, leaky: bool) -> tuple[str, ...]:
    """What a call asks of a backend: fields of `Recurrence`."""
    asked = {"batch_sizes": packed, "both_directions": both, "resets": resets, "leak": leaky}
    return ("transposed", *(name for name, is_asked in asked.items() if is_asked))


def _overrides_functions(W: Tensor) -> bool:
    """Whether a weight's class replaces torch's functions, as that for gradients of each sample."""
    own: Any = type(W).__torch_function__
    return own is not _disabled_torch_function_impl and own.__func__ is not _OF_TENSOR.__func__


def _check_types(x: Any, hx: Any, resets: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"input is {described(x)}, must be a tensor or a PackedSequence")
    for name, each in (("hx", hx), ("resets", resets)):
        if each is not None and not isinstance(each, Tensor):
            raise TypeError(f"{name} is {described(each)}, must be a tensor or None")


def _check_leak(leak: Tensor, H: int) -> None:
    if leak.shape not in ((), (H,)):
        raise ValueError(f"leak has shape {tuple(leak.shape)}, must be a number or ({H},)")
    if not leak.is_meta and not ((leak > 0) & (leak <= 1)).all():
        raise ValueError(f"leak is {leak.tolist()}, must be in (0, 1]")
