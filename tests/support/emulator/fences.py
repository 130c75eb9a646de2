"""A kernel's arrays between pages that nobody may touch: what it does beyond them shows."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PAGE = mmap.PAGESIZE
LARGEST = 1 << 28  # bytes; arrays that are larger than memory cannot be moved
POISON = 0xFF  # NaN, no id, a reset


class Fenced:
    """The bytes of a storage, moved so that they end where a page begins that may not be touched.

    Or begin where one ends. They keep their alignment to 16 bytes; what is left between is poison.
    """

    def __init__(self, storage: Any, at_begin: bool) -> None:
        self.home, self.bytes = storage.data_ptr(), storage.nbytes()
        pages = -(-(self.bytes + 15) // PAGE) * PAGE
        self._memory = mmap.mmap(-1, PAGE + pages + PAGE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._begin, self._end = first + PAGE, first + PAGE + pages
        last = self._end - self.bytes
        self.at = self._begin + self.home % 16 if at_begin else last - (last - self.home) % 16
        ctypes.memset(self._begin, POISON, pages)
        ctypes.memmove(self.at, self.home, self.bytes)
        for page in (first, self._end):
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), PAGE, 0) == 0

    def move_home(self) -> bool:
        """Whether the kernel left alone what lies beside them."""
        ctypes.memmove(self.home, self.at, self.bytes)
        behind = self.at + self.bytes
        beside = ctypes.string_at(self._begin, self.at - self._begin)
        beside += ctypes.string_at(behind, self._end - behind)
        return beside.count(POISON) == len(beside)


def _pointers(made: Any) -> Iterator[tuple[Any, str, Any]]:
    """Each structure within the parameters, a field of it and the tensor to which that points."""
    for field, value in made.keeps_alive.items():
        if hasattr(value, "data_ptr"):
            yield made, field, value
        inner = getattr(made, field)
        pairs = zip(inner, value, strict=False) if isinstance(value, list) else [(inner, value)]
        for part, given in pairs:
            if hasattr(given, "keeps_alive"):
                part.keeps_alive = given.keeps_alive
                yield from _pointers(part)


@contextmanager
def fenced(params: Any, at_begin: bool) -> Iterator[None]:
    """The arrays of these parameters lie there until the end, and then where they were."""
    moved: dict[int, Fenced] = {}
    for made, field, tensor in _pointers(params):
        storage = tensor.untyped_storage()
        if not 0 < storage.nbytes() < LARGEST:
            continue
        if storage.data_ptr() not in moved:
            moved[storage.data_ptr()] = Fenced(storage, at_begin)
        array = moved[storage.data_ptr()]
        setattr(made, field, tensor.data_ptr() - array.home + array.at)
    yield
    left_alone = [array.move_home() for array in moved.values()]
    assert all(left_alone), "a kernel wrote beside its arrays"
