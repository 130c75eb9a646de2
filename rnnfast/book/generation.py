"""Continuing a text with a trained network: the book's greedy prediction, and sampling."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch

from rnnfast import functional
from rnnfast.backends.reference import probabilities
from rnnfast.book import models
from rnnfast.book.arguments import DEVICE, LIST, NET, Kind, integer, named

_PREFIX = Kind(
    "a text or a list of tokens, and not empty",
    LIST.type_fits,
    lambda prefix: len(prefix) > 0,
    IndexError,
)
_VOCAB_OR_DEVICE = Kind(
    "a Vocab, or the device where there is none",
    lambda value: hasattr(value, "idx_to_token") or DEVICE.type_fits(value),
)


@named(prefix=_PREFIX, num_preds=integer(), net=NET, vocab=_VOCAB_OR_DEVICE, device=DEVICE)
def predict_ch8(
    prefix: Any, num_preds: int, net: Any, vocab: Any = None, device: Any = None
) -> Any:
    """Continue a prefix by the most probable token, `num_preds` times.

    `predict_ch8(prefix, num_preds, net, vocab, device)` is the first notebook's: prefix is a text
    (or a list of tokens), the result a string; a token that vocab does not know becomes `<unk>`.
    `predict_ch8(prefix, num_preds, net, device)` is the second notebook's: prefix holds digits,
    the result is a list of int.

    A num_preds below 0 counts as 0. torch's random generator is left alone.
    Raises IndexError for an empty prefix, TypeError for a num_preds that is no integer.
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
    return "".join(operator.itemgetter(*ids)(vocab.idx_to_token))


@torch.no_grad()
def _continue(
    prefix: list[int],
    num_preds: int,
    net: Any,
    device: Any,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Return the prefix's ids and num_preds more."""
    num_preds = max(0, operator.index(num_preds))  # below 0 it counts as 0, as in the book
    state = net.begin_state(batch_size=1, device=device)
    last = prefix[-1]  # an empty prefix is an IndexError, as in the book
    if type(net) is models.RNNModelScratch and net.forward_fn is models.rnn:
        return prefix + _decode_ours(prefix, num_preds, net, state, temperature, generator)
    for token in prefix[:-1]:
        _, state = net(torch.tensor([[token]], device=device), state)
    token_id, chosen = torch.tensor([[last]], device=device), []
    for _ in range(num_preds):
        logits, state = net(token_id, state)
        if temperature == 0:
            token_id = logits.argmax(dim=1).reshape(1, 1)
        else:
            p = probabilities(logits, temperature)
            token_id = torch.multinomial(p, 1, generator=generator)
        chosen.append(token_id)
    return prefix + [int(each) for each in chosen]


def _decode_ours(
    prefix: list[int],
    num_preds: int,
    net: models.RNNModelScratch,
    state: models.State,
    temperature: float,
    generator: torch.Generator | None,
) -> list[int]:
    """Return the new ids. One call reads the prefix without its last token, one does the rest."""
    device, params = net.params[0].device, net.params
    if len(prefix) > 1:
        _, state = net(torch.tensor([prefix[:-1]], device=device), state)
    last, h = torch.tensor(prefix[-1:], device=device), models.only(state)
    if temperature == 0:
        new, _ = functional.greedy_decode(last, h, params, num_preds)
    else:
        new, _ = functional.sample_decode(
            last, h, params, num_preds, temperature=temperature, generator=generator
        )
    chosen: list[int] = new.flatten().tolist()
    return chosen
