"""JAX: one jitted training step around lax.scan; the variant is the scan's unroll factor."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.cases import CLIP, FIRST, GENERATED, LEARNING_RATE, Floats, Task

VERSIONS = {"jax": jax.__version__}


def make(variant: str, task: Task, threads: int, device: str) -> JaxScan:
    """XLA sizes its thread pool by the processors that the worker may run on: `threads` of them."""
    return JaxScan(task, unroll=int(variant))


def _loss(unroll: int, params: Any, h: Any, X: Any, Y: Any) -> tuple[Any, Any]:
    """Mean cross-entropy and the last state, for X and Y of [T,B]."""
    W_xh, W_hh, b_h, W_hq, b_q = params

    def step(h: Any, u: Any) -> tuple[Any, Any]:
        h = jnp.tanh(u + h @ W_hh)
        return h, h

    h, hs = lax.scan(step, h, W_xh[X] + b_h, unroll=unroll)
    log_p = jax.nn.log_softmax(hs @ W_hq + b_q)
    return -jnp.take_along_axis(log_p, Y[..., None], -1).mean(), h


def _train_step(unroll: int, params: Any, h: Any, X: Any, Y: Any) -> tuple[Any, Any, Any]:
    gradient = jax.value_and_grad(partial(_loss, unroll), has_aux=True)
    (loss, h), grads = gradient(params, h, X, Y)
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in grads))
    scale = LEARNING_RATE * jnp.minimum(1.0, CLIP / norm)
    return [p - scale * g for p, g in zip(params, grads, strict=True)], h, loss


def _generate(params: Any) -> Any:
    W_xh, W_hh, b_h, W_hq, b_q = params

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        id_, h = carry
        h = jnp.tanh(W_xh[id_] + h @ W_hh + b_h)
        id_ = jnp.argmax(h @ W_hq + b_q).astype(jnp.int32)
        return (id_, h), id_

    start = (jnp.int32(FIRST), jnp.zeros(len(W_hh)))
    return lax.scan(step, start, None, length=GENERATED)[1]


class JaxScan:
    """Parameters are donated to the step that replaces them; losses are read once per epoch."""

    _trained: list[Any]

    def __init__(self, task: Task, unroll: int) -> None:
        self._batches = [
            (jnp.asarray(X.T.astype(np.int32)), jnp.asarray(Y.T.astype(np.int32)))
            for X, Y in task.batches
        ]
        self._fixed = [jnp.array(p) for p in task.params]
        self.reset()
        self._zeros = jnp.zeros((self._batches[0][0].shape[1], len(task.params[1])))
        self._step = jax.jit(partial(_train_step, unroll), donate_argnums=0)
        self._loss = jax.jit(partial(_loss, unroll))
        self._generate = jax.jit(_generate)

    def train(self, steps: int) -> float:
        h, losses = self._zeros, []
        for X, Y in self._batches[:steps]:
            self._trained, h, loss = self._step(self._trained, h, X, Y)
            losses.append(loss)
        return float(np.mean([float(loss) for loss in losses]))

    def params(self) -> list[Floats]:
        return [np.asarray(p) for p in self._trained]

    def reset(self) -> None:
        """A copy, because the step that is given the parameters may overwrite them."""
        self._trained = jax.block_until_ready([jnp.array(p) for p in self._fixed])

    def forward(self) -> float:
        X, Y = self._batches[0]
        return float(self._loss(self._fixed, self._zeros, X, Y)[0])

    def generate(self) -> list[int]:
        ids: list[int] = self._generate(self._fixed).tolist()
        return ids
