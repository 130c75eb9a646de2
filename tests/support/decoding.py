"""Models to generate with, and what is right for the ids that come out."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import untyped
from support.compare import assert_close_to_f64

NAN, INF = float("nan"), float("inf")


@dataclass
class Model:
    W_xh: Tensor  # [V, H]
    W_hh: Tensor  # [H, H]
    b_h: Tensor  # [H]
    W_hq: Tensor  # [H, V]
    b_q: Tensor  # [V]
    first: Tensor  # [B]
    h0: Tensor  # [B, H]
    relu: bool = False

    def decode(self, steps, temperature=1.0, uniforms=None, backend=native):
        weights = (self.W_xh, self.W_hh, self.b_h, self.W_hq, self.b_q)
        return untyped.decode(
            backend, self.first, *weights, self.h0, steps, temperature, uniforms, self.relu
        )

    def states_along(self, ids):
        """hs [steps, B, H] and h_last when these are the ids chosen; by the reference."""
        inputs = torch.cat((self.first.unsqueeze(0), ids[:-1]))
        return untyped.rnn_forward(
            reference, self.W_xh, inputs, self.W_hh, self.b_h, self.h0, self.relu
        )

    def exact_last_state(self, ids):
        """h_last [B, H] of the same path, in numpy's long double."""
        W_xh, W_hh, b_h, h = (
            part.double().numpy().astype(np.longdouble)
            for part in (self.W_xh, self.W_hh, self.b_h, self.h0)
        )
        for row in torch.cat((self.first.unsqueeze(0), ids[:-1])).numpy():
            z = W_xh[row] + h @ W_hh + b_h
            h = np.maximum(z, 0) if self.relu else np.tanh(z)
        return torch.from_numpy(h.astype(np.float64))

    def logits_along(self, ids):
        return self.states_along(ids)[0] @ self.W_hq + self.b_q

    def to(self, dtype):
        changed = {
            name: value.to(dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return replace(self, **changed)


def check_infinite_states(B, H, backend, dtype=torch.float32):
    """No NaN comes from padding, where infinity meets weights that are 0."""
    model = make(B, H, 5, dtype, relu=True)
    for part in (model.W_hh, model.b_h, model.W_hq, model.h0):
        part.abs_()
    model.W_xh[:, H // 2] = INF
    model.W_hq[:, 0].neg_()
    ids, h_last = model.decode(3, backend=backend)
    assert (ids == 1).all()  # all but the first are infinity
    assert (h_last == INF).all()


def make(B, H, V, dtype=torch.float32, relu=False):
    """Spectral radius near 1, and logits of some size: a path that does not settle."""
    W_hh = torch.randn(H, H) / H**0.5 * (0.7 if relu else 1.0)
    model = Model(
        W_xh=torch.randn(V, H),
        W_hh=W_hh,
        b_h=torch.randn(H) * 0.1,
        W_hq=torch.randn(H, V) * 3 / H**0.5,
        b_q=torch.randn(V) * 0.1,
        first=torch.randint(V, (B,)),
        h0=torch.randn(B, H),
        relu=relu,
    )
    return model.to(dtype)


def check_last_state(model, ids, h_last):
    same = model.states_along(ids)[1]
    assert_close_to_f64("h_last", h_last, same, model.exact_last_state(ids))


def check_greedy(model, ids, h_last):
    """Each id has the largest logit, but for rounding, along the path that was taken."""
    logits = model.to(torch.float64).logits_along(ids)
    missed = logits.amax(2) - logits.gather(2, ids.unsqueeze(2)).squeeze(2)
    error = (model.logits_along(ids).double() - logits).abs().max()
    assert missed.max() <= 2 * error + 8 * torch.finfo(h_last.dtype).eps * logits.abs().max()
    check_last_state(model, ids, h_last)


def check_sampled(model, u, temperature, ids, h_last):
    """Each id is where the cumulative probability passes u, but for rounding."""
    logits = model.to(torch.float64).logits_along(ids)
    cumulative = torch.softmax(logits / temperature, 2).cumsum(2)
    above = cumulative.gather(2, ids.unsqueeze(2)).squeeze(2)
    below = torch.where(
        ids > 0, cumulative.gather(2, (ids - 1).clamp(min=0).unsqueeze(2))[..., 0], 0
    )
    slack = 1e3 * torch.finfo(h_last.dtype).eps
    assert (below - slack <= u).all()
    assert (u < above + slack).all()
    check_last_state(model, ids, h_last)


def constant_logits(logits, dtype=torch.float32):
    """A model whose logits do not depend on its state."""
    model = make(1, 5, len(logits), dtype)
    model.W_hq.zero_()
    model.b_q = torch.tensor(logits, dtype=dtype)
    return model


ARGMAX_LOGITS = [
    [0.0, 5.0, 5.0, 1.0],
    [2.0] * 40,
    [1.0, NAN, 7.0, NAN],
    [0.0, NAN, NAN],
    [-1.0] * 30 + [NAN],
    [-INF] * 5,
    [-INF, -INF, -3.0],
    [0.0, INF, INF],
    [0.0, INF, NAN],
    [-0.0, 0.0],
]
SAMPLING_EDGES = [
    ([0.0, 0.0, 0.0, 0.0], 0.0),
    ([0.0, 0.0, 0.0, 0.0], 0.24),
    ([0.0, 0.0, 0.0, 0.0], 0.76),
    ([-INF, 0.0, -INF], 0.0),
    ([-INF, 0.0, 0.0, -INF, -INF], 1 - 2**-24),
    ([-200.0, 0.0, -200.0], 1 - 2**-24),
    ([1e30, 0.0], 0.999),
    ([0.0, NAN, 0.0], 0.5),
    ([0.0, INF], 0.5),
    ([0.0] * 1000, 1 - 2**-24),
    ([0.0] * 64, 1 / 64),  # what the first has is not more than this
    ([-300.0, -301.0, -299.0], 0.5),
    ([0.0, 0.3, 0.6], 1 - 2**-24),  # all together are less than 1 by rounding
]  # (logits, u)
