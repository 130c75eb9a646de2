"""Vocabulary and loaders against figures of d2l 0.17.6, and every way to go wrong."""

import hashlib
import itertools
import random

import pytest
import torch

from rnnfast.book import data
from support.texts import skip_without_book


@pytest.fixture
def needs_book() -> None:
    skip_without_book()


# ---- the book


@pytest.mark.usefixtures("needs_book")
def test_the_book_is_the_books():
    lines = data.read_time_machine()
    assert len(lines) == 3221
    assert lines[0] == "the time machine by h g wells"
    assert lines[10] == "twinkled and his usually pale face was flushed and animated the"
    corpus, vocab = data.load_corpus_time_machine()
    assert len(corpus) == 170580
    assert hashlib.sha1(bytes(corpus)).hexdigest() == "9c34f8a2670c07a0e62dbc243756b524ebe8742c"
    assert len(vocab) == 28
    assert vocab.idx_to_token[:4] == ["<unk>", " ", "e", "t"]


@pytest.mark.usefixtures("needs_book")
@pytest.mark.parametrize(("max_tokens", "length"), [(-1, 170580), (0, 170580), (10, 10)])
def test_max_tokens_cuts_the_corpus_and_not_the_vocabulary(max_tokens, length):
    corpus, vocab = data.load_corpus_time_machine(max_tokens)
    assert (len(corpus), len(vocab)) == (length, 28)


@pytest.mark.usefixtures("needs_book")
@pytest.mark.parametrize(
    ("use_random_iter", "sha1"),
    [
        (False, "2df59a2f30530047493326805b44f7eb015921ed"),
        (True, "967effc8b725c92c526697f5d6cbd8f52b7f35eb"),
    ],
)
def test_two_epochs_are_the_same_minibatches_as_in_d2l(use_random_iter, sha1):
    """The hashes were taken from d2l 0.17.6 with the same seed."""
    random.seed(1)
    loader, vocab = data.load_data_time_machine(32, 35, use_random_iter)
    assert len(vocab) == 28
    digest = hashlib.sha1()
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == 8
        for X, Y in batches:
            assert X.shape == Y.shape == (32, 35)
            assert X.dtype == Y.dtype == torch.int64
            digest.update(bytes(X.reshape(-1).tolist() + Y.reshape(-1).tolist()))
    assert digest.hexdigest() == sha1


@pytest.mark.usefixtures("needs_book")
def test_the_loader_is_d2ls():
    loader = data.SeqDataLoader(2, 5, False, 100)
    assert isinstance(loader.corpus, list)
    assert len(loader.corpus) == 100
    assert (loader.batch_size, loader.num_steps, len(loader.vocab)) == (2, 5, 28)
    with pytest.raises(TypeError):
        len(loader)
    with pytest.raises(TypeError):
        data.SeqDataLoader(2, 5)


@pytest.mark.usefixtures("needs_book")
def test_a_book_shorter_than_a_minibatch_yields_nothing():
    for use_random_iter in (False, True):
        assert list(data.load_data_time_machine(32, 35, use_random_iter, max_tokens=20)[0]) == []


# ---- tokens and vocabulary


def test_tokenize():
    assert data.tokenize(["the time", "", "a"]) == [["the", "time"], [], ["a"]]
    assert data.tokenize(["the", ""], "char") == [["t", "h", "e"], []]
    with pytest.raises(ValueError, match="token is 'line', which must be 'word' or 'char'"):
        data.tokenize(["a"], "line")


def test_count_corpus_takes_flat_and_nested_lists():
    assert data.count_corpus(["a", "b", "a"]) == {"a": 2, "b": 1}
    assert data.count_corpus([["a", "b"], [], ["a"]]) == {"a": 2, "b": 1}
    assert data.count_corpus([]) == {}


def test_vocab_orders_by_frequency_then_first_occurrence():
    vocab = data.Vocab(["c", "b", "a", "b", "d"])
    assert vocab.idx_to_token == ["<unk>", "b", "c", "a", "d"]
    assert vocab.token_freqs == [("b", 2), ("c", 1), ("a", 1), ("d", 1)]
    assert vocab.token_to_idx == {"<unk>": 0, "b": 1, "c": 2, "a": 3, "d": 4}
    assert len(vocab) == 5
    assert vocab.unk == 0


def test_vocab_looks_up_one_and_many():
    vocab = data.Vocab([["a", "a"], ["b"]])
    assert vocab["a"] == 1
    assert vocab["z"] == 0
    assert vocab[["a", ("z", "b")]] == [1, [0, 2]]
    assert vocab.to_tokens(2) == "b"
    assert vocab.to_tokens([1, 0]) == ["a", "<unk>"]


def test_vocab_reserves_and_drops_the_rare():
    vocab = data.Vocab(["a", "b", "a", "<pad>"], min_freq=2, reserved_tokens=["<pad>", "<bos>"])
    assert vocab.idx_to_token == ["<unk>", "<pad>", "<bos>", "a"]
    assert len(vocab.token_freqs) == 3
    assert data.Vocab().idx_to_token == ["<unk>"]


def test_vocab_takes_pairs_as_tokens():
    words = ["the", "time", "the", "time"]
    vocab = data.Vocab(list(itertools.pairwise(words)))
    assert vocab.token_freqs[0] == (("the", "time"), 2)


# ---- minibatches


ITERATORS = [data.seq_data_iter_sequential, data.seq_data_iter_random]


@pytest.mark.parametrize("iterator", ITERATORS)
@pytest.mark.parametrize("kind", [list, range, torch.tensor])
def test_y_is_x_one_token_later(iterator, kind):
    corpus = range(37) if kind is range else kind(list(range(37)))  # 3, whatever the offset
    batches = list(iterator(corpus, 2, 5))
    assert len(batches) == 3
    for X, Y in batches:
        assert X.shape == Y.shape == (2, 5)
        assert X.dtype == Y.dtype == torch.int64
        assert torch.equal(X + 1, Y)
        X += 100  # must reach neither Y nor the corpus
        assert torch.equal(X - 99, Y)
    assert list(corpus) == list(range(37))


def test_sequential_rows_continue():
    batches = list(data.seq_data_iter_sequential(list(range(101)), 3, 4))
    for (_, Y), (X, _) in itertools.pairwise(batches):
        assert torch.equal(X[:, 0], Y[:, -1])
        assert not X.is_contiguous()


def test_random_order_covers_every_subsequence_once():
    batches = list(data.seq_data_iter_random(list(range(101)), 4, 5))
    starts = sorted(int(X[i, 0]) for X, _ in batches for i in range(4))
    assert len(starts) == len({start // 5 for start in starts})
    assert len({start % 5 for start in starts}) == 1


@pytest.mark.parametrize(("iterator", "last"), [(ITERATORS[0], 5), (ITERATORS[1], 4)])
def test_the_offset_is_drawn_at_the_first_next(iterator, last, monkeypatch):
    """d2l's calls of `random` in d2l's order: randint, its last value included, then shuffle."""
    calls = []
    monkeypatch.setattr(random, "randint", lambda *ends: calls.append(ends) or ends[1])
    monkeypatch.setattr(random, "shuffle", lambda _: calls.append("shuffle"))
    batches = iterator(list(range(60)), 2, 5)
    assert calls == []
    X, _ = next(batches)
    assert calls == [(0, last)] + ["shuffle"] * (iterator is data.seq_data_iter_random)
    assert X[0, 0] == last


@pytest.mark.parametrize("iterator", ITERATORS)
@pytest.mark.parametrize("length", range(8))
def test_too_short_a_corpus_yields_nothing(iterator, length):
    assert list(iterator(list(range(length)), 4, 2)) == []


@pytest.mark.parametrize("iterator", ITERATORS)
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 5), "batch_size is 0, which must be an integer of at least 1"),
        ((2, -1), "num_steps is -1"),
        ((2, 2.5), r"num_steps is 2\.5"),
    ],
)
def test_sizes_below_one(iterator, sizes, message):
    with pytest.raises(ValueError, match=message):
        next(iterator(list(range(60)), *sizes))


def test_a_corpus_of_other_than_integers():
    with pytest.raises(TypeError):
        next(data.seq_data_iter_sequential([0.5] * 60, 2, 5))


@pytest.mark.parametrize("use_random_iter", [False, True])
def test_a_loader_of_any_corpus(use_random_iter):
    corpus = data.load_corpus("counting", 25)
    loader = data.corpus_loader(corpus, 3, 6, use_random_iter)
    assert loader.corpus == corpus.ids
    assert loader.vocab is corpus.vocab
    for _ in range(50):  # whatever the offset
        assert len(list(loader)) >= 1
    with pytest.raises(ValueError, match=r"counting has 25 tokens, too few .* which takes 29"):
        data.corpus_loader(corpus, 3, 7, use_random_iter)
    with pytest.raises(ValueError, match="batch_size is 0"):
        data.corpus_loader(corpus, 0, 6)
