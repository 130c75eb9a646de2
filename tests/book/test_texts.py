"""Texts: fetched, found, damaged, missing, generated."""

import hashlib
import http.server
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rnnfast.book import data, texts
from support.texts import skip_without_book

CONTENT = b"the time machine by h g wells\n" * 50
SHA1 = hashlib.sha1(CONTENT).hexdigest()


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
        monkeypatch.setitem(texts.DATA_HUB, name, (url, SHA1))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield server
    server.shutdown()
    server.server_close()


# ---- where files come from


def test_a_good_file_is_fetched_once_into_the_users_cache(lonely, web, tmp_path):
    path = texts.download("good")
    assert path == str(tmp_path / "cache" / "rnnfast" / "good.txt")
    assert Path(path).read_bytes() == CONTENT
    assert texts.download("good") == path
    assert web.requests == ["/good.txt"]


def test_a_given_directory_is_made_and_filled(lonely, web):
    assert Path(texts.download("good", "new/dir")).parent == Path("new/dir")
    assert list(Path("new/dir").iterdir()) == [Path("new/dir/good.txt")]


def test_the_order_of_the_places(lonely, web, tmp_path, monkeypatch):
    given, named, beside = tmp_path / "given", tmp_path / "named", lonely.parent / "data"
    cache = tmp_path / "cache" / "rnnfast"
    for place in (cache, beside, named, given):
        place.mkdir(parents=True)
        if place == named:
            monkeypatch.setenv("RNNFAST_DATA", str(named))
        (place / "good.txt").write_bytes(CONTENT)
        found = texts.download("good", given if place == given else None)
        assert Path(found).resolve().parent == place
    assert web.requests == []


def test_without_xdg_the_cache_is_in_the_home_directory(lonely, web, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(lonely))
    assert Path(texts.download("good")).parent == lonely / ".cache" / "rnnfast"


@pytest.mark.parametrize("name", ["page", "cut", "missing"])
def test_what_does_not_arrive_whole_leaves_nothing(lonely, web, name, tmp_path):
    with pytest.raises(ConnectionError, match=rf"{name}\.txt .*put the file at .*RNNFAST_DATA"):
        texts.download(name)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_no_server_at_all(lonely, web):
    web.shutdown()
    web.server_close()
    with pytest.raises(ConnectionError, match="could not be fetched"):
        texts.download("good")


def test_a_damaged_file_is_named_and_kept(lonely, web, tmp_path):
    damaged = tmp_path / "cache" / "rnnfast" / "good.txt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"sorry\n")
    with pytest.raises(ValueError, match=rf"{damaged} has the SHA-1 .*{SHA1}.*move it away"):
        texts.download("good")
    assert damaged.read_bytes() == b"sorry\n"
    assert web.requests == []


def test_a_row_with_another_files_sha1_is_named(lonely, web, monkeypatch):
    """d2l fetches such a file each time and never says so: programs with such rows exist."""
    url, _ = texts.DATA_HUB["good"]
    Path("good.txt").write_bytes(CONTENT)
    monkeypatch.setitem(texts.DATA_HUB, "good", (url, "0" * 40))
    wrong = rf"{SHA1}, but DATA_HUB\['good'\] says 0{{40}}"
    with pytest.raises(ValueError, match=rf"{wrong}.*write its SHA-1 into that row"):
        texts.download("good", ".")
    with pytest.raises(ConnectionError, match=rf"{wrong}.*if that row is wrong, correct it"):
        texts.download("good")


def test_a_directory_that_cannot_be_written(lonely, web):
    Path("file").write_text("in the way")
    with pytest.raises(OSError, match=r"file/sub/good\.txt could not be written"):
        texts.download("good", "file/sub")
    assert Path("file").read_text() == "in the way"


def test_rnnfast_data_must_be_a_directory(lonely, web, monkeypatch):
    monkeypatch.setenv("RNNFAST_DATA", "nowhere")
    with pytest.raises(ValueError, match="RNNFAST_DATA is 'nowhere', which must be"):
        texts.download("good")


def test_an_unknown_name(lonely):
    with pytest.raises(ValueError, match=r"name is 'best'.*time_machine"):
        texts.download("best")


def test_many_at_once_meet_no_half_file(lonely, web):
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda _: texts.download("good"), range(32)))
    assert {Path(path).read_bytes() for path in paths} == {CONTENT}
    assert len(set(paths)) == 1
    assert [str(path) for path in Path(paths[0]).parent.iterdir()] == paths[:1]


# ---- corpora


def test_the_corpus_of_the_book():
    skip_without_book()
    corpus = data.load_corpus("time_machine", 1000)
    assert (corpus.name, corpus.note, len(corpus.ids)) == ("time_machine", "", 1000)
    assert corpus.sha1 == texts.DATA_HUB["time_machine"][1]
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
    monkeypatch.setitem(texts.DATA_HUB, "time_machine", texts.DATA_HUB["missing"])
    corpus = data.default_corpus(100)
    assert corpus.name == "docs"
    assert len(corpus.ids) == 100
    assert "book could not be had: http" in corpus.note
    assert "HTTP Error 404" in corpus.note


def test_nothing_stands_in_for_a_damaged_book(lonely):
    Path("../data").mkdir()
    Path("../data/timemachine.txt").write_text("sorry")
    with pytest.raises(ValueError, match=r"\.\./data/timemachine\.txt has the SHA-1"):
        data.default_corpus()
