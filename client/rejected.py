"""Rows that are no records: as what goes into the daemon's quarantine. Pure.

The caller is told of each by index and rule; the quarantine keeps them with what was sent, like those that the daemon
refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from marketd.client.encode_fields import Flaws, plain
from marketd.ipc.protocol import Rejection

MAX_KEPT = 10_000  # rows of one call; whoever sends more bad ones than that learns no more from them
MAX_PAYLOAD_BYTES = 4_096  # of a row
MAX_BOOK_BYTES, MAX_BOOKS = 32_768, 1_000  # a book has many levels
_LEVELS = ("bids", "asks")
MAX_DETAIL_CHARS = 1_000
_BATCH_BYTES = 100_000  # below a frame of the smallest journal
_ITEM_BYTES = 1_000  # beside payload and detail


def rejected_rows(kind: str, columns: Mapping[str, Any], constants: Mapping[str, Any], flaws: Flaws) -> list[Rejection]:
    """The flawed rows as they came, in their order: JSON of the caller's own columns, numbers as text."""
    values = {name: plain(column) for name, column in columns.items()}
    kept = sorted(flaws)[: MAX_BOOKS if kind == "book" else MAX_KEPT]
    return [_rejection(kind, values, constants, index, *flaws[index]) for index in kept]


def _rejection(
    kind: str, values: Mapping[str, Any], constants: Mapping[str, Any], index: int, rule: str, detail: str
) -> Rejection:
    row: dict[str, Any] = {name: _text(value) for name, value in constants.items()}
    for name, column in values.items():
        row[name] = _levels(column[index]) if kind == "book" and name in _LEVELS else _text(column[index])
    payload = msgspec.json.encode({"index": index, **row})
    most = MAX_BOOK_BYTES if kind == "book" else MAX_PAYLOAD_BYTES
    return Rejection(kind, rule, detail[:MAX_DETAIL_CHARS], payload[:most])


def _levels(value: Any) -> Any:
    """Levels of a book as lists of texts, so that they can be offered again; what is none as text."""
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str | bytes):
        return _text(value)
    rows = value.tolist() if isinstance(value, np.ndarray) else value
    pairs = isinstance(rows, Sequence) and all(isinstance(row, list | tuple | np.ndarray) for row in rows)
    return [[_text(item) for item in row] for row in rows] if pairs else _text(value)


def _text(value: Any) -> str | None:
    """A caller's value may be anything at all, also what cannot be encoded or what does not want to be shown."""
    try:
        text = value if isinstance(value, str) else None if value is None else str(value)
        return None if text is None else text[:MAX_PAYLOAD_BYTES].encode(errors="replace").decode()
    except Exception as error:  # the border to other people's classes
        return f"{type(value).__name__} ({type(error).__name__})"


def batches(rejected: Sequence[Rejection]) -> Iterator[tuple[Rejection, ...]]:
    """In pieces that each go into one frame of the journal."""
    batch: list[Rejection] = []
    size = 0
    for each in rejected:
        needed = _ITEM_BYTES + len(each.payload) + 4 * len(each.detail)
        if batch and size + needed > _BATCH_BYTES:
            yield tuple(batch)
            batch, size = [], 0
        batch.append(each)
        size += needed
    if batch:
        yield tuple(batch)
