"""Images of CUDA kernels: compiled at the first use of a variant, then kept on disk.

A variant is a source of csrc/cuda/, the options that specialise it, and an architecture. Its image
lies in the folder that RNNFAST_CACHE names, or else in the user's cache folder, under a name made
from everything that it depends on: a changed source or compiler never meets an old image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from rnnfast.backends.cuda import nvrtc
from rnnfast.backends.cuda.nvrtc import Compiled, Resources
from rnnfast.backends.files import replacing, user_cache

_MAGIC = b"rnnfast image 1\n"


def image(unit: str, options: str, arch: str, sources: Mapping[str, str]) -> Compiled:
    """The image of sources[unit + ".cu"] under `options` ("-DRF_HP=64 ...") for "80", "90a", ...

    From the cache where it is there and whole; else compiled, which takes about a second and is
    announced in one line on stderr, and kept. A cache that cannot be written gives one warning.
    Raises nvrtc.CompilerError where it cannot be compiled.
    """
    path = _path(unit, options, arch, sources)
    if (known := _read(path)) is not None:
        return known
    _announce(f"rnnfast: compiling {unit}.cu for sm_{arch}, once: {options}")
    made = nvrtc.compile_image(unit, options, arch, sources)
    _keep(path, made)
    return made


def directory() -> Path:
    """Where images are kept."""
    return Path(os.environ.get("RNNFAST_CACHE") or user_cache()) / "images"


def _path(unit: str, options: str, arch: str, sources: Mapping[str, str]) -> Path:
    # headers of every unit count for each: no list of includes can go stale
    texts = {
        name: text
        for name, text in sources.items()
        if name == f"{unit}.cu" or not name.endswith(".cu")
    }
    depends_on = [nvrtc.version(), *nvrtc.FLAGS, options, arch, json.dumps(texts, sort_keys=True)]
    key = hashlib.sha256("\0".join(depends_on).encode()).hexdigest()
    return directory() / f"{unit}-sm_{arch}-{key[:32]}.image"


def _read(path: Path) -> Compiled | None:
    """What stands in a file of the cache; None where nothing does or it is not whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None  # missing, or not to be read: compiled anew either way
    head = len(_MAGIC) + 32
    body = data[head:]
    if data[:head] != _MAGIC + hashlib.sha256(body).digest():
        return None
    line, _, cubin = body.partition(b"\n")
    resources = {name: Resources(**values) for name, values in json.loads(line).items()}
    return Compiled(cubin, resources)


def _keep(path: Path, made: Compiled) -> None:
    resources = {name: dataclasses.asdict(each) for name, each in made.resources.items()}
    body = json.dumps(resources, sort_keys=True).encode() + b"\n" + made.image
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(_MAGIC + hashlib.sha256(body).digest() + body)
    except OSError as error:
        _warn_not_kept(str(path.parent), error.strerror or str(error))


@functools.cache
def _warn_not_kept(folder: str, reason: str) -> None:
    warnings.warn(
        f"rnnfast cannot keep compiled kernels in {folder} ({reason}): every process compiles them "
        "anew. RNNFAST_CACHE names another folder.",
        stacklevel=2,
    )


_quiet = 0


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No announcements inside: the caller shows its own progress."""
    global _quiet
    _quiet += 1
    try:
        yield
    finally:
        _quiet -= 1


def _announce(line: str) -> None:
    if not _quiet:
        print(line, file=sys.stderr, flush=True)
