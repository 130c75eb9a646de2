"""Section 9.5: pairs of English and French sentences as padded minibatches of token ids.

Letters: B is `batch_size`, T is `num_steps`. Source: the functions of these names in d2l 0.17.6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rnnfast.book import plotting, texts
from rnnfast.book.arguments import LIST, TEXT, instance, integer, named, optional
from rnnfast.book.data import Vocab, load_array

_RESERVED = ["<pad>", "<bos>", "<eos>"]
_GLUED_PUNCTUATION = re.compile("(?<=[^ ])(?=[,.!?])")


def read_data_nmt() -> str:
    """Lines of "English<tab>French", as the archive has them. Errors: those of `texts.download`."""
    return Path(texts.download_extract("fra-eng"), "fra.txt").read_text("utf-8")


@named(text=TEXT)
def preprocess_nmt(text: str) -> str:
    """The text in lower case, with plain spaces only, and one before each of `,.!?`."""
    return _GLUED_PUNCTUATION.sub(" ", text.replace("\u202f", " ").replace("\xa0", " ").lower())


@named(text=TEXT, num_examples=optional(integer()))
def tokenize_nmt(
    text: str, num_examples: int | None = None
) -> tuple[list[list[str]], list[list[str]]]:
    """The words of the left and of the right sentences, of lines that have just these two.

    Reads lines 0 to num_examples, this one included, as the book does; all of them for None or 0.
    """
    lines = text.split("\n")[: num_examples + 1 if num_examples else None]
    pairs = [parts for line in lines if len(parts := line.split("\t")) == 2]
    return [left.split(" ") for left, _ in pairs], [right.split(" ") for _, right in pairs]


@named(legend=LIST, xlist=LIST, ylist=LIST)
def show_list_len_pair_hist(
    legend: Sequence[str], xlabel: str, ylabel: str, xlist: Sequence[Any], ylist: Sequence[Any]
) -> None:
    """A histogram of the lengths of two lists' elements."""
    plotting.set_figsize()
    pyplot = plotting.pyplot()
    _, _, bars = pyplot.hist([[len(each) for each in lines] for lines in (xlist, ylist)])
    pyplot.xlabel(xlabel)
    pyplot.ylabel(ylabel)
    for bar in bars[1].patches:
        bar.set_hatch("/")
    pyplot.legend(legend)


@named(line=instance("a list", list), num_steps=integer())
def truncate_pad(line: list[Any], num_steps: int, padding_token: Any) -> list[Any]:
    """The first `num_steps` tokens of a line, filled up with `padding_token`."""
    return line[:num_steps] + [padding_token] * (num_steps - len(line))


@named(lines=LIST, vocab=LIST, num_steps=integer(1))
def build_array_nmt(
    lines: Sequence[list[str]], vocab: Vocab, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Ids [len(lines), T], each line ended by `<eos>`, and how many of them are no `<pad>`."""
    eos, pad = vocab["<eos>"], vocab["<pad>"]
    ids = torch.tensor([truncate_pad([*vocab[line], eos], num_steps, pad) for line in lines])
    return ids, (ids != pad).sum(1)


@named(batch_size=integer(1), num_steps=integer(1), num_examples=optional(integer()))
def load_data_nmt(
    batch_size: int, num_steps: int, num_examples: int = 600
) -> tuple[DataLoader[Any], Vocab, Vocab]:
    """Minibatches (X [B, T], its valid lengths [B], Y [B, T], its valid lengths [B]) in random
    order, and the vocabularies of both languages, without the words that occur only once.
    """
    arrays: list[Tensor] = []
    vocabs: list[Vocab] = []
    for lines in tokenize_nmt(preprocess_nmt(read_data_nmt()), num_examples):
        vocabs.append(Vocab(lines, min_freq=2, reserved_tokens=_RESERVED))
        arrays += build_array_nmt(lines, vocabs[-1], num_steps)
    return load_array(arrays, batch_size), vocabs[0], vocabs[1]
