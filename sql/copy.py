"""Binary COPY, both ways: bytes in from the row codecs, bytes out to them. No per-row Python here."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import asyncpg

from marketd.market.errors import AnswerTooLarge, InvalidArgument
from marketd.sql.literals import bind

type_buffer = bytes | bytearray | memoryview
SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEADER = SIGNATURE + struct.pack("!II", 0, 0)  # flags, length of the extension
TRAILER = struct.pack("!h", -1)
# One message of the protocol: large enough to cost nothing, small enough for the flow control to work with.
_MESSAGE_BYTES = 256 * 1024


class _Room:
    """How many bytes all reads of one answer may still bring."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = self.left = max_bytes

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise AnswerTooLarge(
                f"limit: the answer is larger than the {self._max_bytes} bytes that are read for one; ask for a "
                "shorter stretch, or in pages: with a limit, each ending at the oldest time of the one before",
                field="limit",
            )


_room: ContextVar[_Room | None] = ContextVar("room", default=None)


@contextmanager
def answer_room(max_bytes: int) -> Iterator[None]:
    """All that `copy_out` reads within counts together; AnswerTooLarge beyond `max_bytes`, before it is in memory.

    Of the context, and not an argument: an answer is made by many readers, of which none knows the others.
    """
    token = _room.set(_Room(max_bytes))
    try:
        yield
    finally:
        _room.reset(token)


def take_room(size: int) -> None:
    """Bytes that one answer gets otherwise than by `copy_out`; AnswerTooLarge when it has no room for them."""
    if (room := _room.get()) is not None:
        room.take(size)


def room_mark() -> Callable[[], None]:
    """Before reads that may turn out to be of no use: calling it gives back the room that they took."""
    room = _room.get()
    left = 0 if room is None else room.left

    def give_back() -> None:
        if room is not None:
            room.left = left

    return give_back


async def copy_in(
    conn: asyncpg.Connection[Any],
    table: str,
    columns: Sequence[str],
    data: type_buffer | Iterable[type_buffer],
    *,
    timeout_seconds: float | None = None,
) -> int:
    """Store rows in PostgreSQL's binary format; how many there were.

    `data`: one buffer or several, together either rows alone or a whole COPY stream with its header and
    trailer (a row cannot begin like the header: it would have 20,551 columns). `table` is found by the
    connection's search_path, so a temporary one works too.
    """
    parts = [data] if isinstance(data, (bytes, bytearray, memoryview)) else list(data)
    views = [view for part in parts if (view := memoryview(part).cast("B")).nbytes]
    if not (views and views[0][: len(SIGNATURE)] == SIGNATURE):
        views = [memoryview(HEADER), *views, memoryview(TRAILER)]
    status: str = await conn.copy_to_table(
        # any buffer will do; the stubs say bytes
        table,
        source=cast(Any, _messages(views)),
        columns=list(columns),
        format="binary",
        timeout=timeout_seconds,
    )
    return int(status.rsplit(" ", 1)[1])


async def copy_out(
    conn: asyncpg.Connection[Any],
    query: str,
    *args: object,
    max_bytes: int | None = None,
    timeout_seconds: float | None = None,
) -> bytes:
    """The rows of a query with `$1`, `$2`, … as one binary COPY stream, with its header and trailer.

    AnswerTooLarge as soon as it grows beyond `max_bytes`; the connection can be used on.
    """
    if max_bytes is not None and max_bytes < len(HEADER) + len(TRAILER):
        raise InvalidArgument(f"max_bytes = {max_bytes} has no room for an empty answer")
    bounds = [bound for bound in (_room.get(), None if max_bytes is None else _Room(max_bytes)) if bound is not None]
    parts: list[bytes] = []
    refused: list[AnswerTooLarge] = []

    async def collect(part: bytes) -> None:
        try:
            for bound in bounds:
                bound.take(len(part))
        except AnswerTooLarge as error:
            refused.append(error)
            # asyncpg's session hangs for good when its sink raises at the last part; that one ends with the trailer
            if not part.endswith(TRAILER):
                raise
        else:
            parts.append(part)

    await conn.copy_from_query(bind(query, *args), output=collect, format="binary", timeout=timeout_seconds)
    if refused:
        raise refused[0]
    return b"".join(parts)


async def _messages(views: list[memoryview]) -> AsyncIterator[memoryview]:
    for view in views:
        for at in range(0, view.nbytes, _MESSAGE_BYTES):
            yield view[at : at + _MESSAGE_BYTES]
