"""Where files are kept, and writing one so that a reader sees the old or the new, never a part."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path


def user_cache() -> Path:
    """The folder of the user's cache that is ours."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # unset, or not to be heeded by the XDG specification
        cache = Path.home() / ".cache"
    return cache / "rnnfast"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: `with replacing(path) as partial: partial.write_bytes(x)`.

    When the block ends well, what stands there takes the place of `path` in one step; when it
    raises, it is removed and `path` stays what it was. Processes and threads may write the same
    path at once: the last one to end wins.

    Raises OSError where the file cannot be written, of the same kind and number as the system's.
    The system's own message names no file where a disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())  # the data are safe before the name is
        partial.replace(path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror or error}); what stood there before is "
            "unchanged",
        ) from error
    finally:
        partial.unlink(missing_ok=True)  # after a success nothing stands there any more
