"""Finding rows of a result, and who is who in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
OURS = ("cuda", "triton", "native")  # the last one stands in at a rehearsal


def is_ours(peer: str) -> bool:
    return re.split("[+ _]", peer)[0] in OURS


def median(row: Row) -> float:
    value: float = row["us"]["median"]
    return value


def best(rows: Iterable[Row], keep: Callable[[str], bool]) -> Row | None:
    """The row with the lowest median among the peers that `keep` wants."""
    return min((row for row in rows if keep(row["peer"])), key=median, default=None)


def of_kind(rows: list[Row], kind: str, **wanted: Any) -> list[Row]:
    return [
        row
        for row in rows
        if row.get("kind") == kind and all(row.get(key) == value for key, value in wanted.items())
    ]
