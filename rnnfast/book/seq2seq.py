"""Sections 9.6 and 9.7: an encoder and a decoder, trained and used to translate.

Letters: T is `num_steps`, B the batch, E `embed_size`, H `num_hiddens`, V the vocabulary.
Source: the classes and functions of these names in d2l 0.17.6.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rnnfast.book.arguments import (
    DEVICE,
    ITERABLE,
    LIST,
    NUMBER,
    TENSOR,
    TEXT,
    instance,
    integer,
    named,
)
from rnnfast.book.console import show
from rnnfast.book.meters import Accumulator, Animator, Timer
from rnnfast.book.training import grad_clipping
from rnnfast.book.translation import truncate_pad


class Encoder(nn.Module):
    """What a program's own encoder is derived from."""

    def forward(self, X: Tensor, *args: Any) -> Any:
        """The encoder's outputs, as its decoder's `init_state` takes them."""
        raise NotImplementedError(f"{type(self).__name__} is an Encoder and must define forward()")


class Decoder(nn.Module):
    """What a program's own decoder is derived from."""

    def init_state(self, enc_outputs: Any, *args: Any) -> Any:
        """The state before the first step."""
        raise NotImplementedError(
            f"{type(self).__name__} is a Decoder and must define init_state()"
        )

    def forward(self, X: Tensor, state: Any) -> Any:
        """Logits [B, T, V] and the new state."""
        raise NotImplementedError(f"{type(self).__name__} is a Decoder and must define forward()")


_MODULE = instance("a module of torch.nn", nn.Module)


class EncoderDecoder(nn.Module):
    """An encoder whose outputs become the state that the decoder begins with."""

    def __init__(self, encoder: Encoder, decoder: Decoder, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _MODULE.check("encoder", encoder)
        _MODULE.check("decoder", decoder)
        self.encoder, self.decoder = encoder, decoder

    def forward(self, enc_X: Tensor, dec_X: Tensor, *args: Any) -> Any:
        """What the decoder returns for dec_X after the encoder has read enc_X."""
        state = self.decoder.init_state(self.encoder(enc_X, *args), *args)
        return self.decoder(dec_X, state)


class Seq2SeqEncoder(Encoder):
    """An embedding under a torch.nn.GRU."""

    @named(
        vocab_size=integer(1),
        embed_size=integer(1),
        num_hiddens=integer(1),
        num_layers=integer(1),
        dropout=NUMBER,
    )
    def __init__(
        self,
        vocab_size: int,
        embed_size: int,
        num_hiddens: int,
        num_layers: int,
        dropout: float = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.rnn = nn.GRU(embed_size, num_hiddens, num_layers, dropout=dropout)

    def forward(self, X: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        """From ids X [B, T]: the last layer's states [T, B, H], and all layers' last ones."""
        output, state = self.rnn(self.embedding(X).permute(1, 0, 2))
        return output, state


@named(X=TENSOR, valid_len=TENSOR, value=NUMBER)
def sequence_mask(X: Tensor, valid_len: Tensor, value: float = 0) -> Tensor:
    """X [B, T, ...] with `value` written into it from step valid_len[b] on. In place."""
    steps = torch.arange(X.size(1), device=X.device)
    X[steps >= valid_len[:, None]] = value
    return X


class MaskedSoftmaxCELoss(nn.CrossEntropyLoss):
    """The cross-entropy of each sequence: the mean over all T steps, those of padding being 0."""

    @named(pred=TENSOR, label=TENSOR, valid_len=TENSOR)
    def forward(self, pred: Tensor, label: Tensor, valid_len: Tensor) -> Tensor:  # type: ignore[override]  # the book's third argument
        """Logits pred [B, T, V], label [B, T] and valid_len [B] to losses [B]."""
        self.reduction = "none"
        losses = super().forward(pred.permute(0, 2, 1), label)
        return (losses * sequence_mask(torch.ones_like(label), valid_len)).mean(dim=1)


@named(
    net=_MODULE, data_iter=ITERABLE, lr=NUMBER, num_epochs=integer(1), tgt_vocab=LIST, device=DEVICE
)
def train_seq2seq(
    net: EncoderDecoder,
    data_iter: Iterable[Any],
    lr: float,
    num_epochs: int,
    tgt_vocab: Any,
    device: Any,
) -> None:
    """Train by Adam with gradients clipped to norm 1; the decoder is fed the right words.

    data_iter gives minibatches as `load_data_nmt` does. Adds the loss per token to a plot every 10
    epochs and prints it at the end, with the tokens per second of the last epoch.

    Errors: ValueError for a num_epochs below 1 or a data_iter without a minibatch.
    """
    integer(1).check("num_epochs", num_epochs)
    net.apply(_xavier_init).to(device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    loss = MaskedSoftmaxCELoss()
    animator = Animator(xlabel="epoch", ylabel="loss", xlim=[10, num_epochs])
    for epoch in range(num_epochs):
        timer, metric = Timer(), Accumulator(2)
        for batch in data_iter:
            X, X_valid_len, Y, Y_valid_len = (each.to(device) for each in batch)
            first = torch.full_like(Y[:, :1], tgt_vocab["<bos>"])
            optimizer.zero_grad()
            Y_hat, _ = net(X, torch.cat([first, Y[:, :-1]], 1), X_valid_len)
            total = loss(Y_hat, Y, Y_valid_len).sum()
            total.backward()
            grad_clipping(net, 1)
            optimizer.step()
            metric.add(total, Y_valid_len.sum())
        if not metric[1]:
            raise ValueError("data_iter gives no minibatch")
        if (epoch + 1) % 10 == 0:
            animator.add(epoch + 1, (metric[0] / metric[1],))
    speed = metric[1] / timer.stop()
    show(f"loss {metric[0] / metric[1]:.3f}, {speed:.1f} tokens/sec on {device!s}")


@named(
    net=_MODULE,
    src_sentence=TEXT,
    src_vocab=LIST,
    tgt_vocab=LIST,
    num_steps=integer(0),
    device=DEVICE,
)
def predict_seq2seq(
    net: EncoderDecoder,
    src_sentence: str,
    src_vocab: Any,
    tgt_vocab: Any,
    num_steps: int,
    device: Any,
    save_attention_weights: bool = False,
) -> tuple[str, list[Any]]:
    """The most probable translation, word by word, of at most `num_steps` words.

    Returns it, and the decoder's `attention_weights` after each word where these are asked for.
    Leaves the net in evaluation mode.
    """
    net.eval()
    ids = [*src_vocab[src_sentence.lower().split(" ")], src_vocab["<eos>"]]
    valid_len = torch.tensor([len(ids)], device=device)
    enc_X = torch.tensor([truncate_pad(ids, num_steps, src_vocab["<pad>"])], device=device)
    state = net.decoder.init_state(net.encoder(enc_X, valid_len), valid_len)
    dec_X = torch.tensor([[tgt_vocab["<bos>"]]], device=device)
    chosen: list[int] = []
    attention: list[Any] = []
    for _ in range(num_steps):
        Y, state = net.decoder(dec_X, state)
        dec_X = Y.argmax(dim=2)
        if save_attention_weights:
            attention.append(net.decoder.attention_weights)
        if int(dec_X) == tgt_vocab["<eos>"]:
            break
        chosen.append(int(dec_X))
    return " ".join(tgt_vocab.to_tokens(chosen)), attention


@named(pred_seq=TEXT, label_seq=TEXT, k=integer(0))
def bleu(pred_seq: str, label_seq: str, k: int) -> float:
    """BLEU of a translation against the right one, by runs of 1 to k words.

    exp(min(0, 1 - len(label) / len(pred))) * product over n of p_n ** (1 / 2**n), p_n being the
    share of the translation's runs of n words that the label has as well. 0 for a translation of
    fewer than k words (d2l divides by zero where it has k - 1).
    """
    pred, label = pred_seq.split(" "), label_seq.split(" ")
    score = math.exp(min(0, 1 - len(label) / len(pred)))
    for n in range(1, k + 1):
        found = _runs(pred, n)
        matches = sum((found & _runs(label, n)).values())
        score *= (matches / max(1, sum(found.values()))) ** (0.5**n)
    return score


def _runs(words: list[str], n: int) -> collections.Counter[tuple[str, ...]]:
    """How often each run of n words occurs."""
    return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _xavier_init(module: nn.Module) -> None:
    """Xavier's uniform distribution for the weights of linear layers and of GRUs."""
    if type(module) is nn.Linear:
        nn.init.xavier_uniform_(module.weight)
    if type(module) is nn.GRU:
        for name, param in module.named_parameters():
            if "weight" in name:
                nn.init.xavier_uniform_(param)
