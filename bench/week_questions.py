"""What a reader asks of the week, and how: through the client's API, and as bare SQL on a connection of one's own.

Bare SQL is the statement that somebody would write who knows the tables: one binary COPY of the columns of the same
rows, its bytes not looked at. Where the rows are packed, the blocks are fetched and unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg
import numpy as np
from week import DAY, HOUR, Week

from marketd.client.calls import Call, Plan, ask, deadline_after
from marketd.client.catalogue import Catalogue
from marketd.client.connection import Requester
from marketd.client.endpoints import locate
from marketd.client.requests import bars, decode_answer, rows
from marketd.ipc.protocol import Answer, Bars
from marketd.market.bars import finish_bars
from marketd.market.blocks import Block
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME
from marketd.market.rows import codec
from marketd.market.times import NS_PER_SECOND, timeframe_name
from marketd.sql.copy import copy_out
from marketd.sql.store import to_datetime

TIMEOUT_SECONDS = 60.0
_BLOCKS = """
SELECT data FROM packed_blocks
WHERE table_name = $1 AND instrument_id = $2 AND timeframe = $3
  AND ts_start > $4::timestamptz - interval '1 day' AND ts_start < $5 AND ts_end > $4
"""
_STREAMS = {"book_buckets": "buckets", "imbalances": "imbalance"}


class Question(NamedTuple):
    """A stretch of `seconds` of one symbol, of a table; of bars, of these timeframes (s) in one request."""

    name: str
    table: str
    seconds: int
    timeframes: tuple[int, ...] = ()


QUESTIONS = (
    Question("5 minutes of 1s", "candles_1s", 300, (1,)),
    Question("a day of 1s", "candles_1s", DAY, (1,)),
    Question("30 days of 1m", "candles", 30 * DAY, (60,)),
    Question("a day of 1m, 5m and 1h, aligned", "candles", DAY, (60, 300, HOUR)),
    Question("an hour of 1s book buckets", "book_buckets", HOUR),
    Question("imbalances of a day", "imbalances", DAY),
)


class Asked(NamedTuple):
    """One question about one symbol and one stretch; `known_ns`: as it was known then."""

    question: Question
    instrument: Instrument
    start_ns: int
    end_ns: int
    known_ns: int | None


def chosen(
    question: Question, week: Week, instruments: Sequence[Instrument], random: np.random.Generator, known: bool
) -> Asked:
    """Some stretch of some symbol; in a shorter week, all that there is. Known: as it was at the stretch's end."""
    start_ns = week.start_ns(question.table)
    seconds = min(question.seconds, (week.end_ns - start_ns) // NS_PER_SECOND)
    latest = (week.end_ns - start_ns) // NS_PER_SECOND - seconds
    start_ns += int(random.integers(0, latest + 1)) * NS_PER_SECOND
    end_ns = start_ns + seconds * NS_PER_SECOND
    instrument = instruments[int(random.integers(len(instruments)))]
    return Asked(question, instrument, start_ns, end_ns, end_ns if known else None)


class Client:
    """Answers of the API: how many records came, as frames of the client."""

    def __init__(self, runtime_dir: str) -> None:
        self._requester = Requester(locate(runtime_dir))
        self._catalogue = Catalogue()

    def ask(self, asked: Asked) -> int:
        return self._requester.run(self._plan(asked), deadline_after(TIMEOUT_SECONDS))

    def close(self) -> None:
        self._requester.close()

    def _plan(self, asked: Asked) -> Plan[int]:
        name, span = asked.instrument.name, (asked.start_ns, asked.end_ns)
        if not asked.question.timeframes:
            stream = _STREAMS[asked.question.table]
            frame = yield from rows(self._catalogue, stream, name, *span, known_at=asked.known_ns)
            return len(frame)
        if asked.known_ns is not None:
            return (yield from _bars_as_known(self._catalogue, asked))
        frames = yield from bars(self._catalogue, name, asked.question.timeframes, *span)
        return sum(len(frame) for frame in frames.values())


def _bars_as_known(catalogue: Catalogue, asked: Asked) -> Plan[int]:
    request = Bars(
        symbol=asked.instrument.name,
        timeframes=list(asked.question.timeframes),
        start=asked.start_ns,
        end=asked.end_ns,
        known_at=asked.known_ns,
        format="copy",
    )
    answer, reply = yield from ask(Call("query", request), Answer)
    found = yield from decode_answer(catalogue, answer, reply.payloads)
    return sum(
        len(finish_bars(found[f"candle.{timeframe_name(seconds)}"], "best", None))
        for seconds in asked.question.timeframes
    )


class BareSql:
    """The same rows by hand."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    async def ask(self, asked: Asked) -> int:
        question = asked.question
        kind = BY_NAME[_STREAMS.get(question.table, "candle")]
        of_table = codec(question.table, kind)
        query = f"SELECT {', '.join(of_table.columns)} FROM {question.table} WHERE {_where(question, kind.time)}"
        known = () if asked.known_ns is None else (to_datetime(asked.known_ns),)
        if known:
            query += " AND ts_known <= $4"
        start, end = to_datetime(asked.start_ns), to_datetime(asked.end_ns)
        data = await copy_out(self._connection, query, asked.instrument.id, start, end, *known)
        return of_table.count(data) + await self._packed(asked, kind.time)

    async def _packed(self, asked: Asked, time: str) -> int:
        """What of it is packed: each block fetched and unpacked."""
        timeframe = 1 if asked.question.table == "book_buckets" else 0
        start, end = to_datetime(asked.start_ns), to_datetime(asked.end_ns)
        blocks = await self._connection.fetch(_BLOCKS, asked.question.table, asked.instrument.id, timeframe, start, end)
        count = 0
        for block in blocks:
            records = Block(block["data"]).records()
            wanted = (records[time] >= asked.start_ns) & (records[time] < asked.end_ns)
            if asked.known_ns is not None:
                wanted &= records["ts_known"] <= asked.known_ns
            count += int(wanted.sum())
        return count


def _where(question: Question, time: str) -> str:
    """Several timeframes are one statement, and so one round trip, as the API's are."""
    of_timeframe = ""
    if question.table == "candles":
        of_timeframe = f" AND timeframe IN ({', '.join(map(str, question.timeframes))})"
    elif question.table == "book_buckets":
        of_timeframe = " AND timeframe = 1"
    return f"instrument_id = $1 AND {time} >= $2 AND {time} < $3{of_timeframe}"
