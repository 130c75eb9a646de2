"""From a text to token ids and minibatches: the data API of d2l 0.17.6, chapter 8, and `Corpus`.

Letters: T is `num_steps`, B is `batch_size`. The iterators draw from Python's global `random`, in
the same order as d2l's, so that the same seed gives the same minibatches.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import random
from array import array
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from rnnfast.book import texts
from rnnfast.book.arguments import (
    ITERABLE,
    LIST,
    TENSOR,
    TEXT,
    TEXTS,
    Kind,
    integer,
    named,
    optional,
)

Batches = Iterator[tuple[Tensor, Tensor]]


def read_time_machine() -> list[str]:
    """The 3,221 lines of the book, letters and single spaces only, in lower case.

    Errors: those of `texts.download`.
    """
    return texts.letters(Path(texts.download("time_machine")).read_text("utf-8"))


@named(lines=TEXTS, token=TEXT)
def tokenize(lines: Sequence[str], token: str = "word") -> list[list[str]]:
    """Each line as the list of its words (`token="word"`) or of its characters ("char").

    Errors: ValueError for another `token` (d2l prints a line and returns None).
    """
    if token == "word":
        return [line.split() for line in lines]
    if token == "char":
        return [list(line) for line in lines]
    raise ValueError(f"token is {token!r}, which must be 'word' or 'char'")


@named(tokens=LIST)
def count_corpus(tokens: Sequence[Any]) -> collections.Counter[Any]:
    """How often each token occurs in a list of tokens or in a list of lists of tokens."""
    if len(tokens) > 0 and not isinstance(tokens[0], list):
        return collections.Counter(tokens)
    return collections.Counter(token for line in tokens for token in line)


_INDICES = Kind(
    "an id, or a list of them",
    lambda value: isinstance(value, (list, tuple)) or integer().type_fits(value),
)


class Vocab:
    """Tokens and their ids: '<unk>' is 0, then `reserved_tokens`, then by falling frequency.

    `tokens` is a list of tokens or a list of lists of them; those rarer than `min_freq` are left
    out. Equally frequent ones keep the order of their first occurrence.
    Source: `d2l.Vocab` of d2l 0.17.6, where a token that is reserved twice has two ids.
    """

    unk = 0  #: the id of every token that is not in the vocabulary

    @named(tokens=optional(LIST), min_freq=integer(), reserved_tokens=optional(ITERABLE))
    def __init__(
        self,
        tokens: Sequence[Any] | None = None,
        min_freq: int = 0,
        reserved_tokens: list[Any] | None = None,
    ) -> None:
        #: (token, frequency) of all tokens, the rare ones too, most frequent first
        self.token_freqs: list[tuple[Any, int]] = count_corpus(
            [] if tokens is None else tokens
        ).most_common()
        frequent = [token for token, frequency in self.token_freqs if frequency >= min_freq]
        known = dict.fromkeys(["<unk>", *(reserved_tokens or []), *frequent])
        self.idx_to_token: list[Any] = list(known)
        self.token_to_idx: dict[Any, int] = {t: i for i, t in enumerate(self.idx_to_token)}

    def __len__(self) -> int:
        return len(self.idx_to_token)

    def __getitem__(self, tokens: Any) -> Any:
        """The id of a token, or the list of ids of a list or tuple (also a nested one)."""
        if isinstance(tokens, (list, tuple)):
            return [self[token] for token in tokens]
        return self.token_to_idx.get(tokens, self.unk)

    @named(indices=_INDICES)
    def to_tokens(self, indices: Any) -> Any:
        """The token of an id, or the list of tokens of a list or tuple of ids."""
        if isinstance(indices, (list, tuple)):
            return [self.idx_to_token[index] for index in indices]
        return self.idx_to_token[indices]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text as character ids. Perplexities compare only where `sha1` is the same."""

    name: str  #: what `load_corpus` was given
    sha1: str  #: of the bytes of the whole text, before any cut
    ids: list[int]
    vocab: Vocab  #: of the whole text, before any cut
    note: str = ""  #: what a reader of the results must know, such as why another text stands in


def load_corpus(source: str | os.PathLike[str], max_tokens: int = -1) -> Corpus:
    """The characters of 'time_machine', 'docs', 'counting' or a text file as ids.

    The book and 'docs' (the help texts that Python carries) are reduced to letters and spaces as
    in `read_time_machine`; 'counting' is 200 runs of 5 consecutive values of 0 to 14, one
    character each of 0-9a-e; a file is UTF-8 text and taken as it is. `max_tokens` cuts the ids,
    never the vocabulary, where it is above 0.

    Errors: those of `texts.read_bytes`; ValueError for a text that is empty or no UTF-8.
    """
    content = texts.read_bytes(source)
    try:
        text = content.decode("utf-8-sig")  # the mark that some editors put first is no text
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source} is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
    if source in ("time_machine", "docs"):
        text = "".join(texts.letters(text))
    if not text:
        raise ValueError(f"{source} has no text in it")
    vocab = Vocab(list(text))
    ids = [vocab.token_to_idx[character] for character in text]
    sha1 = hashlib.sha1(content).hexdigest()
    return Corpus(os.fspath(source), sha1, ids[:max_tokens] if max_tokens > 0 else ids, vocab)


def default_corpus(max_tokens: int = -1) -> Corpus:
    """The book; or 'docs', with a `note` that says why, where the book can not be had.

    Errors: ValueError for a damaged book or a wrong RNNFAST_DATA, which only the user can mend.
    """
    try:
        return load_corpus("time_machine", max_tokens)
    except OSError as error:
        note = f"the text is Python's own help ('docs'), since the book could not be had: {error}"
        return dataclasses.replace(load_corpus("docs", max_tokens), note=note)


@named(max_tokens=integer())
def load_corpus_time_machine(max_tokens: int = -1) -> tuple[list[int], Vocab]:
    """The book's 170,580 characters as ids, or the first `max_tokens` of them if that is above 0,
    and the vocabulary of the whole book, 28 tokens.
    """
    corpus = load_corpus("time_machine", max_tokens)
    return corpus.ids, corpus.vocab


def seq_data_iter_random(
    corpus: Sequence[int] | Tensor, batch_size: int, num_steps: int
) -> Batches:
    """Minibatches X, Y [B, T] int64 of subsequences in random order; Y is X one token later.

    Starts at a random offset of 0 to T-1; a corpus too short for one minibatch yields nothing.
    Errors, at the first `next`: ValueError for a size below 1.
    """
    _check_sizes(batch_size, num_steps)
    LIST.check("corpus", corpus)
    tokens = _as_tensor(corpus[random.randint(0, num_steps - 1) :])
    num_subsequences = (len(tokens) - 1) // num_steps
    starts = list(range(0, num_subsequences * num_steps, num_steps))
    random.shuffle(starts)
    for i in range(0, num_subsequences - batch_size + 1, batch_size):
        positions = torch.tensor(starts[i : i + batch_size])[:, None] + torch.arange(num_steps)
        yield tokens[positions], tokens[positions + 1]


def seq_data_iter_sequential(
    corpus: Sequence[int] | Tensor, batch_size: int, num_steps: int
) -> Batches:
    """Minibatches X, Y [B, T] int64, each row the continuation of the same row of the one before;
    Y is X one token later. They are views into one [B, L] tensor each.

    Starts at a random offset of 0 to T, T included; a corpus too short for one minibatch yields
    nothing. Errors, at the first `next`: ValueError for a size below 1.
    """
    _check_sizes(batch_size, num_steps)
    LIST.check("corpus", corpus)
    tokens = _as_tensor(corpus[random.randint(0, num_steps) :])
    row = (len(tokens) - 1) // batch_size
    if row < num_steps:
        return
    # These are two tensors and not two views of one: what is written into X must not reach Y.
    Xs = tokens[: batch_size * row].reshape(batch_size, row)
    Ys = tokens[1 : batch_size * row + 1].clone().reshape(batch_size, row)
    for i in range(0, row - num_steps + 1, num_steps):
        yield Xs[:, i : i + num_steps], Ys[:, i : i + num_steps]


class SeqDataLoader:
    """Minibatches of the book; each `iter()` starts over, at another random offset.

    `corpus` is the list of ids, `vocab` the vocabulary of the whole book. There is no `len()`.
    Errors: ValueError for a size below 1; those of `texts.download`.
    Source: `d2l.SeqDataLoader` of d2l 0.17.6.
    """

    can_look_ahead = True  # a minibatch stays as it is when the next one is taken

    @named(batch_size=integer(1), num_steps=integer(1), max_tokens=integer())
    def __init__(
        self, batch_size: int, num_steps: int, use_random_iter: bool, max_tokens: int
    ) -> None:
        self._open(load_corpus("time_machine", max_tokens), batch_size, num_steps, use_random_iter)

    def _open(self, corpus: Corpus, batch_size: int, num_steps: int, use_random_iter: bool) -> None:
        _check_sizes(batch_size, num_steps)
        self.data_iter_fn = seq_data_iter_random if use_random_iter else seq_data_iter_sequential
        self.corpus, self.vocab = corpus.ids, corpus.vocab
        self.batch_size, self.num_steps = batch_size, num_steps

    def __iter__(self) -> Batches:
        return self.data_iter_fn(self.corpus, self.batch_size, self.num_steps)


def load_data_time_machine(
    batch_size: int, num_steps: int, use_random_iter: bool = False, max_tokens: int = 10000
) -> tuple[SeqDataLoader, Vocab]:
    """The loader of the book's first `max_tokens` characters, and its vocabulary."""
    loader = SeqDataLoader(batch_size, num_steps, use_random_iter, max_tokens)
    return loader, loader.vocab


def corpus_loader(
    corpus: Corpus, batch_size: int, num_steps: int, use_random_iter: bool = False
) -> SeqDataLoader:
    """A `SeqDataLoader` of any corpus.

    Errors: ValueError for a size below 1, or for a text that does not fill one minibatch from
    every random offset.
    """
    loader = SeqDataLoader.__new__(SeqDataLoader)  # its constructor is d2l's and reads the book
    loader._open(corpus, batch_size, num_steps, use_random_iter)
    needed = (batch_size + 1) * num_steps + 1
    if len(corpus.ids) < needed:
        raise ValueError(
            f"the text {corpus.name} has {len(corpus.ids)} tokens, too few for a minibatch of "
            f"batch_size={batch_size} and num_steps={num_steps}, which takes {needed}: "
            "give a longer text or smaller sizes"
        )
    return loader


@named(data_arrays=ITERABLE, batch_size=integer(1))
def load_array(
    data_arrays: Sequence[Tensor], batch_size: int, is_train: bool = True
) -> DataLoader[Any]:
    """Minibatches of the rows of several tensors, in random order where `is_train` is set.

    Errors: TypeError for anything but tensors, ValueError for tensors of different lengths.
    Source: `d2l.load_array` of d2l 0.17.6.
    """
    for index, each in enumerate(data_arrays):
        TENSOR.check(f"data_arrays[{index}]", each)
    lengths = [len(each) for each in data_arrays]
    if len(set(lengths)) != 1:
        raise ValueError(
            f"data_arrays have {lengths} rows, must have the same number, at least one"
        )
    return DataLoader(TensorDataset(*data_arrays), batch_size, shuffle=is_train)


def _check_sizes(batch_size: object, num_steps: object) -> None:
    for name, value in (("batch_size", batch_size), ("num_steps", num_steps)):
        if not isinstance(value, Integral) or int(value) < 1:
            raise ValueError(f"{name} is {value!r}, which must be an integer of at least 1")


def _as_tensor(corpus: Sequence[int] | Tensor) -> Tensor:
    if isinstance(corpus, Tensor) or len(corpus) == 0:
        return torch.as_tensor(corpus).clone()
    # This takes 0.16 ms for 10,000 ids; torch.tensor(list) takes 1.1 ms, as training on them does.
    return torch.frombuffer(array("q", list(corpus)), dtype=torch.int64)
