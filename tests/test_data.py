"""Texts, vocabulary and loaders against figures of d2l 0.17.6, and every way to go wrong."""

import hashlib
import http.server
import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from rnnfast import corpora, data

CONTENT = b"the time machine by h g wells\n" * 50
SHA1 = hashlib.sha1(CONTENT).hexdigest()


@pytest.fixture(scope="session")
def _book_at_hand() -> None:
    try:
        corpora.download("time_machine")
    except OSError as error:
        pytest.skip(f"the book is not at hand: {error}")


needs_book = pytest.mark.usefixtures("_book_at_hand")


@pytest.fixture
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an empty cache, no RNNFAST_DATA and no ../data."""
    work = tmp_path / "home" / "work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.delenv("RNNFAST_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return work


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        status, announced, content = self.server.files.get(self.path, (404, 0, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch):
    """A server on this machine with files good and bad, each a row of DATA_HUB."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.requests = []
    server.files = {
        "/good.txt": (200, len(CONTENT), CONTENT),
        "/page.txt": (200, 6, b"sorry\n"),
        "/cut.txt": (200, len(CONTENT), CONTENT[:-7]),
    }
    for name in ("good", "page", "cut", "missing"):
        url = f"http://127.0.0.1:{server.server_port}/{name}.txt"
        monkeypatch.setitem(corpora.DATA_HUB, name, (url, SHA1))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield server
    server.shutdown()
    server.server_close()


# ---- where files come from


def test_a_good_file_is_fetched_once_into_the_users_cache(lonely, web, tmp_path):
    path = corpora.download("good")
    assert path == str(tmp_path / "cache" / "rnnfast" / "good.txt")
    assert Path(path).read_bytes() == CONTENT
    assert corpora.download("good") == path
    assert web.requests == ["/good.txt"]


def test_a_given_directory_is_made_and_filled(lonely, web):
    assert Path(corpora.download("good", "new/dir")).parent == Path("new/dir")
    assert list(Path("new/dir").iterdir()) == [Path("new/dir/good.txt")]


def test_the_order_of_the_places(lonely, web, tmp_path, monkeypatch):
    given, named, beside = tmp_path / "given", tmp_path / "named", lonely.parent / "data"
    cache = tmp_path / "cache" / "rnnfast"
    for place in (cache, beside, named, given):
        place.mkdir(parents=True)
        if place == named:
            monkeypatch.setenv("RNNFAST_DATA", str(named))
        (place / "good.txt").write_bytes(CONTENT)
        found = corpora.download("good", given if place == given else None)
        assert Path(found).resolve().parent == place
    assert web.requests == []


def test_without_xdg_the_cache_is_in_the_home_directory(lonely, web, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(lonely))
    assert Path(corpora.download("good")).parent == lonely / ".cache" / "rnnfast"


@pytest.mark.parametrize("name", ["page", "cut", "missing"])
def test_what_does_not_arrive_whole_leaves_nothing(lonely, web, name, tmp_path):
    with pytest.raises(ConnectionError, match=rf"{name}\.txt .*put the file at .*RNNFAST_DATA"):
        corpora.download(name)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_no_server_at_all(lonely, web):
    web.shutdown()
    web.server_close()
    with pytest.raises(ConnectionError, match="could not be fetched"):
        corpora.download("good")


def test_a_damaged_file_is_named_and_kept(lonely, web, tmp_path):
    damaged = tmp_path / "cache" / "rnnfast" / "good.txt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"sorry\n")
    with pytest.raises(ValueError, match=rf"{damaged} is damaged .*{SHA1}"):
        corpora.download("good")
    assert damaged.read_bytes() == b"sorry\n"
    assert web.requests == []


def test_a_directory_that_cannot_be_written(lonely, web):
    Path("file").write_text("in the way")
    with pytest.raises(OSError, match=r"file/sub/good\.txt could not be written"):
        corpora.download("good", "file/sub")
    assert Path("file").read_text() == "in the way"


def test_rnnfast_data_must_be_a_directory(lonely, web, monkeypatch):
    monkeypatch.setenv("RNNFAST_DATA", "nowhere")
    with pytest.raises(ValueError, match="RNNFAST_DATA is 'nowhere', which must be"):
        corpora.download("good")


def test_an_unknown_name(lonely):
    with pytest.raises(ValueError, match=r"name is 'best'.*time_machine"):
        corpora.download("best")


def test_many_at_once_meet_no_half_file(lonely, web):
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda _: corpora.download("good"), range(32)))
    assert {Path(path).read_bytes() for path in paths} == {CONTENT}
    assert len(set(paths)) == 1
    assert [str(path) for path in Path(paths[0]).parent.iterdir()] == paths[:1]


# ---- the book


@needs_book
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


@needs_book
@pytest.mark.parametrize(("max_tokens", "length"), [(-1, 170580), (0, 170580), (10, 10)])
def test_max_tokens_cuts_the_corpus_and_not_the_vocabulary(max_tokens, length):
    corpus, vocab = data.load_corpus_time_machine(max_tokens)
    assert (len(corpus), len(vocab)) == (length, 28)


@needs_book
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


@needs_book
def test_the_loader_is_d2ls():
    loader = data.SeqDataLoader(2, 5, False, 100)
    assert isinstance(loader.corpus, list)
    assert len(loader.corpus) == 100
    assert (loader.batch_size, loader.num_steps, len(loader.vocab)) == (2, 5, 28)
    with pytest.raises(TypeError):
        len(loader)
    with pytest.raises(TypeError):
        data.SeqDataLoader(2, 5)


@needs_book
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


# ---- corpora


@needs_book
def test_the_corpus_of_the_book():
    corpus = data.load_corpus("time_machine", 1000)
    assert (corpus.name, corpus.note, len(corpus.ids)) == ("time_machine", "", 1000)
    assert corpus.sha1 == corpora.DATA_HUB["time_machine"][1]
    assert data.default_corpus(1000).sha1 == corpus.sha1


def test_docs_is_letters_and_spaces():
    corpus = data.load_corpus("docs")
    assert len(corpus.ids) > 100_000
    assert set(corpus.vocab.idx_to_token) == {"<unk>", " ", *"abcdefghijklmnopqrstuvwxyz"}
    assert data.load_corpus("docs", 50).ids == corpus.ids[:50]


def test_counting_is_runs_of_five_and_leaves_the_seed_alone():
    state = random.getstate()
    corpus = data.load_corpus("counting")
    assert random.getstate() == state
    text = "".join(corpus.vocab.to_tokens(corpus.ids))
    assert len(text) == 1000
    runs = {text[i : i + 5] for i in range(0, 1000, 5)}
    assert runs == {"0123456789abcde"[start : start + 5] for start in range(11)}
    assert data.load_corpus("counting").sha1 == corpus.sha1


def test_a_file_is_taken_as_it_is(tmp_path):
    path = tmp_path / "text"
    text = "Über 1 Fluß\r\n\tund 2.\n"
    path.write_bytes(text.encode())
    corpus = data.load_corpus(path)
    assert "".join(corpus.vocab.to_tokens(corpus.ids)) == text
    assert corpus.sha1 == hashlib.sha1(text.encode()).hexdigest()
    assert corpus.name == str(path)
    assert data.load_corpus(corpus.name).ids == corpus.ids


def test_a_path_object_is_a_file_even_where_it_has_a_corpus_name(lonely):
    Path("counting").write_text("abab")
    assert len(data.load_corpus(Path("counting")).vocab) == 3
    assert len(data.load_corpus("counting").vocab) == 16


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "text"
    path.write_text("ab", encoding="utf-8-sig")
    assert len(data.load_corpus(path).ids) == 2


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "there is no file .*text; .*time_machine, docs, counting"),
        ("directory", IsADirectoryError, "text is a directory"),
        (b"", ValueError, "text has no text in it"),
        (b"caf\xe9", ValueError, "text is not UTF-8 text: unexpected end of data at byte 3"),
    ],
)
def test_a_file_that_is_no_text(tmp_path, content, error, message):
    path = tmp_path / "text"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        data.load_corpus(path)


def test_docs_stand_in_for_a_book_that_cannot_be_had(lonely, web, monkeypatch):
    monkeypatch.setitem(corpora.DATA_HUB, "time_machine", corpora.DATA_HUB["missing"])
    corpus = data.default_corpus(100)
    assert corpus.name == "docs"
    assert len(corpus.ids) == 100
    assert "book could not be had: http" in corpus.note
    assert "HTTP Error 404" in corpus.note


def test_nothing_stands_in_for_a_damaged_book(lonely):
    Path("../data").mkdir()
    Path("../data/timemachine.txt").write_text("sorry")
    with pytest.raises(ValueError, match=r"\.\./data/timemachine\.txt is damaged"):
        data.default_corpus()


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
