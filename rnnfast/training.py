"""Chapter 8's training and prediction: same names, arguments and numbers as the book's functions.

Works with any net of the book's shape: ours, a foreign `forward_fn`, or an nn.Module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rnnfast import functional, scratch
from rnnfast.meters import Animator, Timer

Updater = torch.optim.Optimizer | Callable[..., Any]


def sgd(params: Iterable[Tensor], lr: float, batch_size: int) -> None:
    """param -= lr * grad / batch_size, then the gradients become zero.

    Source: the book's `sgd` (chapter 3). Raises TypeError for a parameter without a gradient.
    """
    with torch.no_grad():
        for index, param in enumerate(params):
            if param.grad is None:
                raise TypeError(f"sgd: parameter {index} has no gradient; call backward() first")
            param -= lr * param.grad / batch_size
            param.grad.zero_()


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
    functional.clip_grads_(_gradients(net), float(theta), d2l=True)


def predict_ch8(
    prefix: Any, num_preds: int, net: Any, vocab: Any = None, device: Any = None
) -> Any:
    """Continue a prefix by the most probable token, `num_preds` times.

    `predict_ch8(prefix, num_preds, net, vocab, device)` is the first notebook's: prefix is a text
    (or a list of tokens), the result a string; a token that vocab does not know becomes `<unk>`.
    `predict_ch8(prefix, num_preds, net, device)` is the second notebook's: prefix holds digits,
    the result is a list of int.

    Raises IndexError for an empty prefix. torch's random generator is left alone.
    """
    if device is None and (vocab is None or isinstance(vocab, (torch.device, str, int))):
        vocab, device = None, vocab
    if vocab is None:
        return _continue([int(token) for token in prefix], num_preds, net, device)
    return generate(prefix, num_preds, net, vocab, device)


def generate(
    prefix: Sequence[str],
    num_preds: int,
    net: Any,
    vocab: Any,
    device: Any,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> str:
    """The prefix and `num_preds` more tokens as one string.

    temperature 0 takes the most probable token each time, as `predict_ch8` does; above 0 each token
    is drawn from softmax(logits / temperature) with `generator` (torch's own by default).

    Raises IndexError for an empty prefix, ValueError for a negative or infinite temperature.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}, must be finite and at least 0")
    ids = _continue(
        [vocab[token] for token in prefix], num_preds, net, device, temperature, generator
    )
    return "".join([vocab.idx_to_token[i] for i in ids])


def train_epoch_ch8(
    net: Any,
    train_iter: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    updater: Updater,
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

    The losses stay on the device until the epoch ends: no batch waits for the one before.
    Raises ValueError for a train_iter without a batch.
    Source: the book's function of that name.
    """
    timer, state = Timer(), None
    losses = _LossSum()
    for X, Y in train_iter:
        if state is None or use_random_iter:
            state = net.begin_state(batch_size=X.shape[0], device=device)
        else:
            _detach(state)
        y = Y.T.reshape(-1)
        X, y = X.to(device), y.to(device)
        y_hat, state = net(X, state)
        mean_loss = loss(y_hat, y.long()).mean()
        _update(net, mean_loss, updater, clip)
        losses.add(mean_loss, y.numel())
    total, tokens = losses.total()
    if not tokens:
        raise ValueError("train_iter gives no batch: the text is shorter than one batch needs")
    return math.exp(total / tokens), tokens / timer.stop()


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

    Source: d2l 0.17.6's function of that name, with its printed lines.
    """
    loss = nn.CrossEntropyLoss()
    animator = Animator(
        xlabel="epoch", ylabel="perplexity", legend=["train"], xlim=[10, num_epochs]
    )
    updater: Updater
    if isinstance(net, nn.Module):
        updater = torch.optim.SGD(net.parameters(), lr)
    else:

        def updater(batch_size: int) -> None:
            sgd(net.params, lr, batch_size)

    def predict(prefix: str) -> Any:
        return predict_ch8(prefix, 50, net, vocab, device)

    for epoch in range(num_epochs):
        ppl, speed = train_epoch_ch8(net, train_iter, loss, updater, device, use_random_iter)
        if (epoch + 1) % 10 == 0:
            print(predict("time traveller"))
            animator.add(epoch + 1, [ppl])
    print(f"perplexity {ppl:.1f}, {speed:.1f} tokens/sec on {device!s}")
    print(predict("time traveller"))
    print(predict("traveller"))


class _LossSum:
    """Sums loss * tokens in float64 on the host, but reads the device once per thousand batches.

    The numbers are those of the book's Accumulator, which reads every one as it comes.
    """

    def __init__(self) -> None:
        self._pending: list[Tensor] = []
        self._sum, self._tokens = 0.0, 0

    def add(self, mean_loss: Tensor, tokens: int) -> None:
        self._pending.append(mean_loss.detach() * tokens)
        self._tokens += tokens
        if len(self._pending) == 1000:
            self._read()

    def total(self) -> tuple[float, int]:
        self._read()
        return self._sum, self._tokens

    def _read(self) -> None:
        if self._pending:
            for value in torch.stack(self._pending).tolist():
                self._sum += value
            self._pending.clear()


def _gradients(net: Any) -> list[Tensor]:
    if isinstance(net, nn.Module):
        params = [p for p in net.parameters() if p.requires_grad]
    else:
        params = net.params
    grads = []
    for index, param in enumerate(params):
        if param.grad is None:
            raise TypeError(
                f"grad_clipping: parameter {index} of shape {tuple(param.shape)} has no gradient "
                "(None); the loss does not depend on it, or backward() was not called"
            )
        grads.append(param.grad)
    return grads


def _detach(state: Any) -> None:
    """Cut the state off the last batch's graph, in place."""
    for s in (state,) if isinstance(state, Tensor) else state:
        s.detach_()


def _update(net: Any, mean_loss: Tensor, updater: Updater, clip: float | None) -> None:
    if isinstance(updater, torch.optim.Optimizer):
        updater.zero_grad()
        mean_loss.backward()
        if clip is not None:
            grad_clipping(net, clip)
        updater.step()
    else:
        mean_loss.backward()
        if clip is not None:
            grad_clipping(net, clip)
        updater(batch_size=1)  # 1, because the loss is a mean already


@torch.no_grad()
def _continue(
    prefix: list[int],
    num_preds: int,
    net: Any,
    device: Any,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[int]:
    """The prefix's ids and num_preds more."""
    state = net.begin_state(batch_size=1, device=device)
    first = prefix[0]  # an empty prefix is an IndexError, as in the book
    pick = _picker(temperature, generator)
    if type(net) is scratch.RNNModelScratch and net.forward_fn is scratch.rnn:
        return prefix + _decode_ours(prefix, num_preds, net, state, temperature, generator)
    for token in prefix[1:]:
        _, state = net(torch.tensor([[first]], device=device), state)
        first = token
    token_id, chosen = torch.tensor([[first]], device=device), []
    for _ in range(num_preds):
        logits, state = net(token_id, state)
        token_id = pick(logits).reshape(1, 1)
        chosen.append(token_id)
    return prefix + [int(each) for each in chosen]


def _decode_ours(
    prefix: list[int],
    num_preds: int,
    net: scratch.RNNModelScratch,
    state: scratch.State,
    temperature: float,
    generator: torch.Generator | None,
) -> list[int]:
    """The new ids alone: two calls, one for the prefix but its last token and one for the rest."""
    ids = torch.tensor([prefix], device=net.params[0].device)
    if len(prefix) > 1:
        _, state = net(ids[:, :-1], state)
    params: Any = tuple(net.params)
    if temperature == 0:
        new, _ = functional.greedy_decode(ids[0, -1:], state[0], params, num_preds)
    else:
        new, _ = functional.sample_decode(
            ids[0, -1:], state[0], params, num_preds, temperature=temperature, generator=generator
        )
    chosen: list[int] = new[:, 0].tolist()
    return chosen


def _picker(temperature: float, generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """From logits [1, V] to an id: the most probable one, or one drawn at a temperature."""
    if temperature == 0:
        return lambda logits: logits.argmax(dim=1)
    return lambda logits: torch.multinomial(
        torch.softmax(logits / temperature, 1), 1, generator=generator
    )
