"""Rows from one database into another, through us: binary COPY on both sides, and proof that they are alike.

Nothing is held but a few messages. Both sides are in a transaction of the caller's: what does not come out alike is
rolled back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import asyncpg

from marketd.sql.errors import DatabaseError
from marketd.sql.fingerprint import Fingerprint, columns_of, fingerprint, quoted
from marketd.sql.literals import bind

_MESSAGES = 16  # between the two servers: some MB
type_span = tuple[str, datetime, datetime]  # column, begin (inclusive), end (exclusive)


class CopyMismatch(DatabaseError):
    """The rows that arrived are not those that were sent."""


async def replace_rows(
    source: asyncpg.Connection[Any], target: asyncpg.Connection[Any], table: str, span: type_span | None = None
) -> Fingerprint:
    """Make the rows of `table` (of a stretch of time) in `target` those of `source`; their fingerprint in both.

    CopyMismatch when the tables have other columns, or the rows come out different.
    """
    columns = await columns_of(source, table)
    if sorted(columns) != sorted(await columns_of(target, table)):
        raise CopyMismatch(f"{table} has other columns there: bring both schemas to one version (marketd schema apply)")
    where, bounds = _where(span)
    await target.execute(bind(f"DELETE FROM marketd.{table}{where}", *bounds))
    await _stream(
        source, bind(f"SELECT {quoted(columns)} FROM marketd.{table}{where}", *bounds), target, table, columns
    )
    sent, arrived = await asyncio.gather(fingerprint(source, table, span), fingerprint(target, table, span))
    if sent != arrived:
        raise CopyMismatch(
            f"{table}: {sent.rows} rows were sent and {arrived.rows} arrived, or others; nothing was kept"
        )
    return sent


def _where(span: type_span | None) -> tuple[str, tuple[datetime, ...]]:
    return ("", ()) if span is None else (f' WHERE "{span[0]}" >= $1 AND "{span[0]}" < $2', span[1:])


async def _stream(
    source: asyncpg.Connection[Any], query: str, target: asyncpg.Connection[Any], table: str, columns: list[str]
) -> None:
    messages: asyncio.Queue[bytes | None] = asyncio.Queue(_MESSAGES)
    sending = asyncio.create_task(_send(source, query, messages), name=f"send {table}")
    try:
        await target.copy_to_table(
            table, schema_name="marketd", columns=columns, source=_received(messages, sending), format="binary"
        )
        await sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(source: asyncpg.Connection[Any], query: str, messages: asyncio.Queue[bytes | None]) -> None:
    try:
        await source.copy_from_query(query, output=messages.put, format="binary")
    except Exception:  # whatever broke it, the receiver waits for an end
        await messages.put(None)
        raise
    # not when it is cancelled: nobody receives any more, and it would wait for room for ever
    await messages.put(None)


async def _received(messages: asyncio.Queue[bytes | None], sending: asyncio.Task[None]) -> AsyncIterator[bytes]:
    while (message := await messages.get()) is not None:
        yield message
    await sending  # what broke the sender must break the receiver's COPY, too: half a stretch is none
