"""What a reader asks of the week, and how: through the client's API, and as bare SQL on a connection of one's own.

Bare SQL is one statement with the same answer, of somebody who knows the tables: fetched as rows by the driver, and as
a binary COPY whose bytes are not looked at. Where the rows are packed, the blocks are fetched and unpacked.
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
from marketd.market.records import BY_NAME, Kind
from marketd.market.rows import TableCodec, codec
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
        format="packed",
    )
    answer, reply = yield from ask(Call("query", request), Answer)
    found = yield from decode_answer(catalogue, answer, reply.payloads)
    return sum(
        len(finish_bars(found[f"candle.{timeframe_name(seconds)}"], "best", None))
        for seconds in asked.question.timeframes
    )


class BareSql:
    """The same rows in the same order by hand: one statement, and the blocks that hold the rest of them, unpacked."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    async def fetch(self, asked: Asked) -> int:
        """As rows of the driver."""
        query, args = _statement(asked)
        return len(await self._connection.fetch(query, *args)) + await self._packed(asked)

    async def copy(self, asked: Asked) -> int:
        """As the bytes of a binary COPY, which nobody looks at."""
        query, args = _statement(asked)
        data = await copy_out(self._connection, query, *args)
        return _codec(asked.question).count(data) + await self._packed(asked)

    async def _packed(self, asked: Asked) -> int:
        """What of it is packed: each block fetched and unpacked."""
        question = asked.question
        timeframe = 1 if question.table == "book_buckets" else 0
        span = to_datetime(asked.start_ns), to_datetime(asked.end_ns)
        blocks = await self._connection.fetch(_BLOCKS, question.table, asked.instrument.id, timeframe, *span)
        count = 0
        for block in blocks:
            records = Block(block["data"]).records()
            times = records[_kind(question).time]
            wanted = (times >= asked.start_ns) & (times < asked.end_ns)
            if asked.known_ns is not None:
                wanted &= records["ts_known"] <= asked.known_ns
            count += int(wanted.sum())
        return count


def _kind(question: Question) -> Kind:
    return BY_NAME[_STREAMS.get(question.table, "candle")]


def _codec(question: Question) -> TableCodec:
    return codec(question.table, _kind(question))


def _statement(asked: Asked) -> tuple[str, list[Any]]:
    """What somebody would write who knows that a moment may have several versions, of which the newest counts.

    Several timeframes are one statement, and so one round trip, as the API's are.
    """
    question, time = asked.question, _kind(asked.question).time
    columns = ", ".join(_codec(question).columns)
    args: list[Any] = [asked.instrument.id, to_datetime(asked.start_ns), to_datetime(asked.end_ns)]
    where = f"instrument_id = $1 AND {time} >= $2 AND {time} < $3"
    if asked.known_ns is not None:
        args.append(to_datetime(asked.known_ns))
        where += " AND ts_known <= $4"
    if question.table == "book_buckets":
        where += " AND timeframe = 1"
    if question.table in _STREAMS:
        newest = f"SELECT DISTINCT ON ({time}) * FROM {question.table} WHERE {where} ORDER BY {time} DESC, seq DESC"
        return f"SELECT {columns} FROM ({newest}) newest ORDER BY {time} DESC", args
    of_timeframes = f" AND timeframe IN ({', '.join(map(str, question.timeframes))})"
    of_table = "" if question.table == "candles_1s" else of_timeframes
    bars = f"SELECT {columns} FROM {question.table} WHERE {where}{of_table}"
    if asked.known_ns is None:
        return f"{bars} ORDER BY ts DESC", args
    versions = f"{bars} UNION ALL SELECT {columns} FROM candle_versions WHERE {where}{of_timeframes}"
    key = "ts, source" if question.table == "candles_1s" else "timeframe, ts, source"
    newest = f"SELECT DISTINCT ON ({key}) * FROM ({versions}) versions ORDER BY {key}, seq DESC"
    return f"SELECT {columns} FROM ({newest}) newest ORDER BY ts DESC", args
