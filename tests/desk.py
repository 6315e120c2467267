"""A daemon without processes, its database, and the query service between them: for tests that commit by hand."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lane import BTC, CANDLES, FUNDING, KINDS, bars, observed, rates, trades
from marketd.client.requests import decode_part
from marketd.daemon.kernel import COVERAGE_KIND, TRADE_KIND, Lot
from marketd.daemon.query import QueryService
from marketd.daemon.settings import Config
from marketd.daemon.writer import Writer
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.protocol import Bars, Rows
from marketd.market.records import Records
from marketd.market.rows import codec
from marketd.sql.connections import DatabaseConnectionManager
from small_daemon import SmallDaemon

CONFIG = Config(instance="test", timeframes=("1s", "1m"), aliases={"bitcoin": BTC.name}, default_venue="BINANCE")
_numbers = itertools.count(1)


class Desk:
    """A daemon, its database, and the service between them. `commit` is the writer, up to the n-th lot."""

    def __init__(self, daemon: SmallDaemon, database: DatabaseConnectionManager) -> None:
        self.daemon, self.database = daemon, database
        self.config = msgspec.structs.replace(CONFIG, state_dir=str(daemon.state))
        self.service = self.serve()

    def serve(self, replica: Any = None) -> QueryService:
        return QueryService(self.database, self.config, KINDS, self.daemon.runtime, replica)

    def close(self) -> None:
        self.service.close()
        self.daemon.stop()

    async def commit(self, lots: int) -> None:
        async with self.writer() as writer:
            writer.on_durable(self.daemon.lots[lots - 1][1])
            await writer.drain()

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[Writer]:
        async def told(_: int) -> None:
            pass

        assert self.daemon.journal.wait_durable(self.daemon.journal.end, 10)
        with JournalReader(self.daemon.state / "journal") as reader:
            writer = Writer(
                self.database, reader, KINDS, lane="live", batch_bytes=1, batch_age_seconds=0, committed=told
            )
            await writer.start()
            yield writer

    async def ask(self, request: Any) -> tuple[Any, list[Any]]:
        return await self.service.answer(request)

    async def rows(self, stream: str = "trade", **options: Any) -> Records:
        answer, frames = await self.ask(Rows(symbol=BTC.name, stream=stream, **options))
        return decoded(answer.parts[0], frames[0])

    async def bars(self, timeframe: int = 60, **options: Any) -> Records:
        answer, frames = await self.ask(Bars(symbol=BTC.name, timeframes=[timeframe], **options))
        return decoded(answer.parts[0], frames[0])


def decoded(part: Any, data: Any) -> Records:
    kind = KINDS.by_name(part.kind)
    if part.encoding == "copy":
        return codec(part.table, kind).decode(data)[1]
    if part.encoding == "packed":
        return decode_part(kind, part, data)
    records = np.frombuffer(data, dtype=kind.dtype)
    assert len(records) == part.count
    return records


async def fresh_desk(database: DatabaseConnectionManager, state: Path, runtime: Path) -> Desk:
    """With nothing in it, whatever an earlier example left."""
    shutil.rmtree(runtime / "arena", ignore_errors=True)
    (runtime / "front").unlink(missing_ok=True)
    async with database.acquire() as conn:
        for table in (
            "trades",
            "candles",
            "candles_1s",
            "candle_versions",
            "coverage",
            "instruments",
            "series_funding",
        ):
            await conn.execute(f"DELETE FROM {table}")
        await conn.execute("DELETE FROM journal_commits")
    daemon = SmallDaemon(state / f"state{next(_numbers)}", runtime)
    daemon.declare(BTC)
    return Desk(daemon, database)


def take_some(desk: Desk, first: int, *, price: int = 100) -> Lot:
    """Three trades a minute apart, a bar of the venue, an event of the ledger, a value of a series."""
    return desk.daemon.take(
        (COVERAGE_KIND, observed(0 if first == 0 else first * 60_000)),
        (TRADE_KIND, trades([((first + n) * 60_000, first + n + 1, price + n, 5) for n in range(3)])),
        (CANDLES, bars([first % 7])),
        (FUNDING, rates([(first * 1000, 0.5)])),
    )


def same(found: Records, expected: Records) -> bool:
    return found.tobytes() == expected.tobytes()


def by_time(records: Records) -> Records:
    time = (records.dtype.names or ("",))[0]
    return records[np.lexsort((records["seq"], records[time]))]
