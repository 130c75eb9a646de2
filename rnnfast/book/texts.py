"""Where a text comes from: the book of chapter 8, Python's documentation, counting, or a file."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import shutil
from pathlib import Path

from rnnfast.backends.files import replacing, user_cache
from rnnfast.book.arguments import TEXT, named, optional

DATA_URL = "http://d2l-data.s3-accelerate.amazonaws.com/"
#: name -> (address, SHA-1 of the file); d2l's programs add their own rows
DATA_HUB: dict[str, tuple[str, str]] = {
    "time_machine": (DATA_URL + "timemachine.txt", "090b5e7e70c295757f55df93cb0a180b9691891a"),
    "fra-eng": (DATA_URL + "fra-eng.zip", "94646ad1522d915e7b0f9296181140edcf86a4f5"),
}

#: the sources that have a name; any other is the path of a file
NAMED = ("time_machine", "docs", "counting")

_NOT_LETTERS = re.compile("[^A-Za-z]+")
_COUNTING_DIGITS = "0123456789abcde"


@named(name=TEXT)
def download(name: str, cache_dir: str | os.PathLike[str] | None = None) -> str:
    """The path of a file of `DATA_HUB`; fetched where it is not on this machine yet.

    Looked for in `cache_dir`, in the directory that the variable RNNFAST_DATA names, in `../data`
    and in the user's cache directory, in this order; what is found must have the SHA-1 of
    `DATA_HUB`. Fetched into `cache_dir` or else the user's cache directory, checked, and only then
    given its name.

    Errors: ValueError for an unknown name, a RNNFAST_DATA that is no directory, or a file with
    another SHA-1, which is left as it is; ConnectionError where the file cannot be fetched whole;
    OSError where it cannot be written.
    Source: `d2l.download` of d2l 0.17.6, which neither looks elsewhere than in `../data` nor
    checks what it has fetched.
    """
    if name not in DATA_HUB:
        raise ValueError(f"name is {name!r}, which DATA_HUB does not have: {', '.join(DATA_HUB)}")
    url, sha1 = DATA_HUB[name]
    file_name = url.rsplit("/", 1)[-1]
    for directory in _places(cache_dir):
        path = directory / file_name
        if path.exists():
            _check(path, sha1, name)
            return str(path)
    target = Path(cache_dir or user_cache()) / file_name
    _fetch(url, sha1, target, name)
    return str(target)


@named(name=TEXT, folder=optional(TEXT))
def download_extract(name: str, folder: str | None = None) -> str:
    """Fetch a zip or tar archive of `DATA_HUB` and unpack it into the directory it lies in.

    Returns that directory's subdirectory `folder`, or else the archive's path without its ending.

    Errors: those of `download`; ValueError for an archive of another kind; OSError where it cannot
    be unpacked.
    Source: `d2l.download_extract` of d2l 0.17.6.
    """
    archive = Path(download(name))
    if archive.suffix not in (".zip", ".tar", ".gz"):
        raise ValueError(f"name is {name!r}, whose file {archive} is no .zip, .tar or .tar.gz")
    filters = {} if archive.suffix == ".zip" else {"filter": "data"}  # zipfile needs no filter
    shutil.unpack_archive(archive, archive.parent, **filters)  # type: ignore[arg-type]  # a Literal
    return str(archive.parent / folder if folder else archive.with_suffix(""))


def read_bytes(source: str | os.PathLike[str]) -> bytes:
    """The bytes of a text: of one in `NAMED`, or of the file at a path.

    Errors: those of `download` for the book; FileNotFoundError, IsADirectoryError or
    PermissionError for a file.
    """
    if source == "time_machine":
        return Path(download("time_machine")).read_bytes()
    if source == "docs":
        return _python_documentation().encode()
    if source == "counting":
        return _counting_runs().encode()
    path = Path(source)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, but the text must be a file")
    if not path.exists():
        names = ", ".join(NAMED)
        raise FileNotFoundError(
            f"there is no file {path}; a text is a file's path or one of {names}"
        )
    return path.read_bytes()


def letters(text: str) -> list[str]:
    """The lines of a text with every run of other characters than A-Z and a-z made one space,
    stripped, in lower case: how the book is read.

    Source: `d2l.read_time_machine` of d2l 0.17.6.
    """
    lines = io.StringIO(text, newline=None)  # split as a file opened as text is
    return [_NOT_LETTERS.sub(" ", line).strip().lower() for line in lines]


def _places(cache_dir: str | os.PathLike[str] | None) -> list[Path]:
    given = os.environ.get("RNNFAST_DATA")
    if given and not Path(given).is_dir():
        raise ValueError(f"RNNFAST_DATA is {given!r}, which must be an existing directory")
    return [Path(each) for each in (cache_dir, given, Path("..", "data"), user_cache()) if each]


def _check(path: Path, sha1: str, name: str) -> None:
    found = hashlib.sha1(path.read_bytes()).hexdigest()
    if found != sha1:
        raise ValueError(
            f"{path} has the SHA-1 {found}, but DATA_HUB[{name!r}] says {sha1}. If the file is "
            "damaged, move it away and it is fetched again; if it is the one you want, write its "
            "SHA-1 into that row of DATA_HUB"
        )


def _fetch(url: str, sha1: str, target: Path, name: str) -> None:
    import http.client  # with urllib.request 30 ms, which only a download needs to pay
    import urllib.request

    print(f"Downloading {target} from {url} ...")
    by_hand = f"put the file at {target}, or into a directory that RNNFAST_DATA names"
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{url} could not be fetched ({error}); {by_hand}") from error
    found = hashlib.sha1(content).hexdigest()
    if found != sha1:
        raise ConnectionError(
            f"{url} answered with {len(content)} bytes whose SHA-1 is {found}, but "
            f"DATA_HUB[{name!r}] says {sha1}, and nothing of it was kept; {by_hand}; if that row "
            "is wrong, correct it"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise OSError(f"{target} could not be written ({error}); {by_hand}") from error


def _python_documentation() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise FileNotFoundError("this Python lacks pydoc_data.topics, the text 'docs'") from error
    return "\n".join(topics[name] for name in sorted(topics))


def _counting_runs() -> str:
    generator = random.Random(0)  # the global one stays untouched
    starts = [generator.randint(0, 10) for _ in range(200)]
    return "".join(_COUNTING_DIGITS[start : start + 5] for start in starts)
