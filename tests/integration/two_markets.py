"""Two instruments in a database and in the naive model, written, kept in order and asked as the daemon does it.

`hand` gets records of every kind as they are offered, live ones and imported ones; `folded` gets trades through the
kernel, which makes its bars. The daemon's own processes, journal and shared memory are not here: answers come from the
database alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import time_ns
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import pytest

from lane import BTC, CANDLES, FUNDING, GRACE_NS, KINDS, frame_of, make_kernel
from marketd.client.calls import Reply
from marketd.client.requests import decode_part
from marketd.daemon import packing
from marketd.daemon.journal_rows import commit_of
from marketd.daemon.kernel import COVERAGE_KIND, TRADE_KIND, Lot, coverage_record
from marketd.daemon.level_keeper import LevelKeeper
from marketd.daemon.packing import BlockPacker
from marketd.daemon.policy_keeper import PolicyKeeper
from marketd.daemon.quantities import Nanoseconds
from marketd.daemon.query import QueryService
from marketd.daemon.retention import RetentionKeeper
from marketd.daemon.settings import Config, Retention, Storage, Stream
from marketd.ipc.protocol import Bars, LatestBars, RebuildBars, Rows
from marketd.market.bars import finish_bars
from marketd.market.book_means import KIND_NAME as MEANS
from marketd.market.book_means import means_kind
from marketd.market.ordering import by_time
from marketd.market.records import CANDLE, CandleFlag, Coverage, Kind, Records
from marketd.sql import retention
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.levels import Window, refresh_all_of
from marketd.sql.packed_tables import from_ns, to_ns
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.series import ensure_series_table
from marketd.sql.store import Commit, commit, split_rows
from marketd.sql.widths import WIDTH_OF_OTHERS, WIDTHS
from naive import BARS, MEASURES, VERSIONS, Asked, Naive, NaiveFold, Row, fields_of, rows_of, worst_of

TIMEFRAMES = (1, 60)
DAY_NS = 86_400 * 10**9
# Where pieces of every table end: 7 and 90 days divide it. Long enough ago that all of its neighbours are over, too.
EDGE_NS = ((time_ns() // DAY_NS - 100) // 630) * 630 * DAY_NS
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
HAND = "HAND"
_ids = itertools.count(BTC.id + 1)  # never twice: longer bars that the database has made outlive a TRUNCATE
SERIES = FUNDING.table or ""
TABLES = (*WIDTHS, SERIES)
_STORED = Config(instance="test", timeframes=("1s", "1m"), streams={FUNDING.name: Stream(fields=dict(FUNDING.fields))})
_SECONDS = Config(instance="test", timeframes=("1s",))
_FIRST_IMPORTED = -(2**62)
_FORGETTING = """
TRUNCATE {tables}, coverage, expired, packed_blocks, instruments, journal_commits {of_levels}
"""


def let_pieces_be_old(patch: pytest.MonkeyPatch) -> None:
    """As if all pieces had been made when 1970 began: what was stored lately is neither packed nor dropped."""
    whole = retention.pieces_of_table

    async def found(conn: Any, table: str) -> list[retention.Piece]:
        return [piece._replace(made=LONG_AGO) for piece in await whole(conn, table)]

    for module in (retention, packing):
        patch.setattr(module, "pieces_of_table", found)


class Market:
    """One instrument: where its numbers are, and what the model has of it."""

    def __init__(self, symbol: str) -> None:
        self.instrument = msgspec.structs.replace(BTC, id=next(_ids), symbol=symbol)
        self.model = Naive()
        self.seq = 1
        self.imported = _FIRST_IMPORTED
        self.offered: list[tuple[Kind, Records]] = []  # every batch, as it was stamped


class TwoMarkets:
    def __init__(self, database: DatabaseConnectionManager, profile: Profile, directory: Path) -> None:
        self.database, self.profile = database, profile
        self.hand, self.folded = Market(HAND), Market("FOLDED")
        self.kernel = make_kernel(TIMEFRAMES)
        self.fold = NaiveFold(
            TIMEFRAMES, grace_ns=GRACE_NS, quote_divisor=10 ** (BTC.price_scale + BTC.size_scale - BTC.quote_scale)
        )
        self._bars: dict[tuple[int, int], Any] = {}  # of `fold`, as they were told last
        self.trade_ids: set[int] = set()
        self.partitions = PartitionKeeper(profile)
        self._works: list[Commit] = []
        self._journal, self._offset = uuid4(), 0
        self.known: list[int] = []
        self.lost: list[tuple[int, int]] = []  # stretches of which retention has dropped the trades
        self._storage = Storage(compress_after=Nanoseconds(0))
        self.services = {
            base: QueryService(database, msgspec.structs.replace(config, state_dir=str(directory)), KINDS, directory)
            for base, config in ((60, _STORED), (1, _SECONDS))
        }

    async def begin(self) -> None:
        """Nothing in the database but what the ledger has to say first."""
        levels = ", refresh_due, levels_kept" if self.profile is Profile.TIMESCALE else ""
        async with self.database.acquire() as conn:
            await conn.execute(_FORGETTING.format(tables=", ".join(TABLES), of_levels=levels))
        declared = np.concatenate([market.instrument.to_record() for market in (self.hand, self.folded)])
        await self._commit([], declared)
        begun = EDGE_NS - 2 * DAY_NS
        for stream in (1, 3):
            await self.tell(Coverage.OBSERVED, stream, begun, begun)
        await self._accept((COVERAGE_KIND, coverage_record(Coverage.OBSERVED, begun, begun, stream=1)))
        self.folded.model.tell(self.known[-1], 1, Coverage.OBSERVED, begun, begun)

    def close(self) -> None:
        for service in self.services.values():
            service.close()

    # ---- what comes -------------------------------------------------------------------------------

    def moment(self) -> int:
        """Later than all that was known before."""
        last = self.known[-1] if self.known else 0
        self.known.append(max(last + 1000, time_ns() // 1000 * 1000))
        return self.known[-1]

    async def offer(self, parts: Sequence[tuple[Kind, Records]], imported_at: int | None = None) -> None:
        """A batch of `hand`. One of an import was known at a moment long ago, and is numbered below the live ones."""
        known = self.moment()
        for _, records in parts:
            first = self.hand.seq if imported_at is None else self.hand.imported
            records["seq"] = np.arange(first, first + len(records))
            records["ts_known"] = known if imported_at is None else imported_at
            if imported_at is None:
                self.hand.seq += len(records)
            else:
                self.hand.imported += len(records)
        self.hand.offered += parts
        await self._store(parts)

    async def offer_again(self, number: int) -> None:
        """What came once comes a second time, as it was."""
        if self.hand.offered:
            await self._store([self.hand.offered[number % len(self.hand.offered)]])

    async def correct(self, number: int) -> None:
        """Of what came once other numbers come: new versions, if there are such of its kind."""
        if self.hand.offered:
            kind, records = self.hand.offered[number % len(self.hand.offered)]
            records = records.copy()
            if kind is CANDLES:
                records["close"] += 1
                records["flags"] |= int(CandleFlag.REVISED)
            elif kind is TRADE_KIND:
                records["price"] += 1
            await self.offer([(kind, records)])

    async def retry(self) -> None:
        """A transaction whose answer was lost; it is not at its beginning any more."""
        async with self.database.acquire() as conn:
            assert await commit(conn, self._works[-1], self.partitions) == self._offset

    async def _store(self, parts: Sequence[tuple[Kind, Records]]) -> None:
        rows = [
            each
            for kind, records in parts
            for each in split_rows(kind, np.full(len(records), self.hand.instrument.id, np.int32), records)
        ]
        await self._commit(rows)
        for each in rows:
            self.hand.model.store(each.table, rows_of(each.records))

    async def tell(self, state: Coverage, stream: int, start: int, end: int) -> None:
        """A word of the ledger about `hand`."""
        record = coverage_record(state, start, end, stream=stream)
        record["ts_known"], record["seq"] = self.moment(), self.hand.seq
        self.hand.seq += 1
        await self._commit([], coverage=[(np.array([self.hand.instrument.id], np.int32), record)])
        self.hand.model.tell(self.known[-1], stream, state, start, end)

    async def trade(self, records: Records) -> None:
        """Trades of `folded`, and what the fold makes of them; what it cannot is computed from the stored ones."""
        lot = await self._accept((TRADE_KIND, records))
        known = rebuilt_at = self.known[-1]
        news = [row for kind, found in lot.rows if kind is TRADE_KIND for row in rows_of(found)]
        self.folded.model.store("trades", news)
        self.fold.add(news)
        unknown = list(dict.fromkeys(lot.unknown))
        if unknown:
            answer, frames = await self.services[60].answer(
                RebuildBars(instrument=self.folded.instrument.id, bars=unknown)
            )
            rebuilt = decode_part(CANDLES, answer.parts[0], frames[0])
            rebuilt_at = self.moment()
            await self._follow(self.kernel.adopt(self.folded.instrument, rebuilt.copy(), rebuilt_at))
        for (timeframe, ts), bar in self.fold.closed().items():
            if self._bars.get((timeframe, ts)) != bar:
                self._bars[timeframe, ts] = bar
                self.folded.seq += 1
                at = rebuilt_at if (timeframe, ts) in unknown else known
                row = Row(ts, at, self.folded.seq, {**bar, "ts_known": at, "seq": self.folded.seq})
                self.folded.model.bars[timeframe, ts, bar["source"]].append(row)

    async def _accept(self, *parts: tuple[Kind, Records]) -> Lot:
        lot = self.kernel.accept(self.folded.instrument, list(parts), self.moment(), source="me")
        await self._follow(lot)
        return lot

    async def _follow(self, lot: Lot) -> None:
        frame = frame_of(lot, self._offset)
        await self._write(commit_of([frame], KINDS, self._journal, "live"))

    async def _commit(
        self, rows: Sequence[Any], instruments: Records | None = None, coverage: Sequence[Any] = ()
    ) -> None:
        end, known = self._offset + 8, self.known[-1] if self.known else 0
        await self._write(Commit(self._journal, "live", end, known, rows, instruments, coverage, [], self._offset))

    async def _write(self, work: Commit) -> None:
        async with self.database.acquire() as conn:
            self._offset = await commit(conn, work, self.partitions)
        assert self._offset == work.offset
        self._works.append(work)

    # ---- what is done in the background -----------------------------------------------------------

    async def close_stretches(self, block_rows: int) -> None:
        """Bring all that is there into the form in which closed stretches are kept."""
        if self.profile is Profile.POSTGRES:
            # blocks of a few rows, which a configuration may not ask for
            few: Any = SimpleNamespace(storage=msgspec.structs.replace(self._storage, block_rows=block_rows))
            await BlockPacker(self.database, few).round()
            self.partitions.forget()
            return
        async with self.database.acquire() as conn:
            chunks = await conn.fetch(_CHUNKS, list(TABLES))
            for chunk in chunks:
                await conn.execute(_COMPRESS, chunk["chunk"])

    async def sum_up(self, *, all_of_them: bool = False) -> None:
        """The late bars that are noted; or, as a policy of TimescaleDB does, all of what is not kept."""
        if self.profile is not Profile.TIMESCALE:
            return
        if not all_of_them:
            await LevelKeeper(self.database).round()
            return
        async with self.database.acquire() as conn:
            await refresh_all_of(conn, Window(from_ns(EDGE_NS - 2 * DAY_NS), from_ns(EDGE_NS + 3 * DAY_NS)))

    def tables_with_rows(self) -> list[str]:
        """Of which retention may drop something; `book_venues` go with the books."""
        models = self.hand.model, self.folded.model
        found = {table for model in models for table, rows in model.rows.items() if rows} - {"book_venues"}
        for table, timeframes in BARS.items():
            if any(key[0] in timeframes for model in models for key in model.bars):
                found |= {table, VERSIONS}
        return sorted(found)

    async def apply_schema(self, chunk_days: int) -> None:
        """Once more, by a configuration with other widths of new pieces."""
        async with self.database.acquire() as conn:
            await SchemaRunner(conn).apply()
            await ensure_series_table(conn, FUNDING.name, dict(FUNDING.fields))
        chunks = {table: Nanoseconds(chunk_days * DAY_NS) for table in ("trades", "candles_1s", "imbalances", SERIES)}
        storage = msgspec.structs.replace(self._storage, chunks=chunks if chunk_days else {})
        retention = Retention(candles_1s=Nanoseconds(10 * DAY_NS))
        await PolicyKeeper(self.database, msgspec.structs.replace(_STORED, storage=storage, retention=retention)).run()

    async def age(self, table: str, widths: int) -> None:
        """So much time goes by that what is older than so many pieces after the edge is dropped."""
        await self.sum_up()  # of what is still to be summed up nothing is dropped
        before = EDGE_NS + widths * (WIDTHS.get(table, WIDTH_OF_OTHERS).days * DAY_NS)
        keep = Nanoseconds(time_ns() - before)
        kept = {"series": {FUNDING.name: keep}} if table == SERIES else {table: keep}
        config = msgspec.structs.replace(_STORED, retention=Retention(**{**_FOR_EVER, **kept}))
        tables = (table, "book_venues") if table == "book_snapshots" else (table,)
        gone, told = [(each, await self._pieces_before(each, before)) for each in tables], len(await self._expired())
        async with self.database.acquire() as conn:
            await conn.execute("UPDATE packed_blocks SET stored_at = $1", LONG_AGO)
        await RetentionKeeper(self.database, config).round()
        self.partitions.forget()
        news = (await self._expired())[told:]
        for each, pieces in gone:
            self._forget(each, pieces, [row for row in news if row["of_table"] == each])
        self.lost += gone[0][1] if table == "trades" else []

    def _forget(self, table: str, pieces: list[tuple[int, int]], expired: list[Any]) -> None:
        def is_gone(at: int) -> bool:
            return any(start <= at < end for start, end in pieces)

        said = [(to_ns(row["ts_start"]), to_ns(row["ts_end"])) for row in expired]
        for market in (self.hand, self.folded):
            model = market.model
            if table == "candles_1s" and self.profile is Profile.TIMESCALE:
                for piece in pieces:
                    model.sum_up(*piece)
            if table == VERSIONS:
                model.drop_versions(is_gone)
            dropped = model.drop(table, is_gone)
            if table != SERIES:  # of which nobody says that they are complete
                assert all(any(start <= row.time < end for start, end in said) for row in dropped), table
            for row, (start, end) in zip(expired, said, strict=True):
                model.expire(to_ns(row["ts_known"]), row["stream"], table, start, end)

    async def _expired(self) -> list[Any]:
        async with self.database.acquire() as conn:
            return list(await conn.fetch("SELECT * FROM expired ORDER BY ts_known, of_table, ts_start"))

    async def _pieces_before(self, table: str, before: int) -> list[tuple[int, int]]:
        """What goes: all that ends before this moment."""
        if self.profile is Profile.POSTGRES:
            return [(0, before)]
        async with self.database.acquire() as conn:
            chunks = [(to_ns(row["start"]), to_ns(row["end"])) for row in await conn.fetch(_CHUNKS, [table])]
        return [chunk for chunk in sorted(chunks) if chunk[1] <= before]

    # ---- what is asked ----------------------------------------------------------------------------

    async def check_bars(
        self, timeframes: Sequence[int], base: int, asked: Asked, source: str, form: str, folded: bool = False
    ) -> None:
        """Bars of several timeframes, of which those that are no multiple of `base` alone are stored."""
        market = self.folded if folded else self.hand
        model = market.model
        request = Bars(
            symbol=market.instrument.name,
            timeframes=list(timeframes),
            start=asked.start,
            end=asked.end,
            limit=asked.limit,
            bar_source=source,  # type: ignore[arg-type]
            known_at=asked.known,
            format=form,  # type: ignore[arg-type]
        )
        answer, frames = await self.services[base].answer(request)
        worths = []
        for timeframe, part, data in zip(timeframes, answer.parts, frames, strict=True):
            found = finish_bars(decode_part(CANDLES, part, data), source, asked.limit)
            expected, table = self.bars_expected(model, timeframe, base, source, asked)
            names = (*MEASURES, "ts", "timeframe", "source") if folded else CANDLE.names or ()
            assert_same(_only(names, fields_of(found)), _only(names, expected), (timeframe, base, asked, source, form))
            worths.append(_worth(model, 1, table, asked, [row["ts"] for row in expected], timeframe * 10**9))
        assert_same([told(answer.meta)], [worst_of(worths)], (timeframes, base, asked, source))

    def bars_expected(
        self, model: Naive, timeframe: int, base: int, source: str, asked: Asked
    ) -> tuple[list[Any], str]:
        """The bars, and the table that they come from; "" of one that is never dropped."""
        if timeframe == 1 or (timeframe == 60 and base == 60):
            table = "candles_1s" if timeframe == 1 else "candles"
            return [row.fields for row in model.bars_of(timeframe, source, asked)], table
        seconds = base == 1 or timeframe % 60 != 0
        summed = seconds and base == 1 and model.is_summed(timeframe, source, asked)
        made = model.generated(timeframe, 1 if seconds else 60, source, asked)
        return made, "" if summed else "candles_1s" if seconds else "candles"

    async def check_folded(self, timeframe: int, base: int) -> None:
        """Generated bars are what the fold would have made of all trades, to the last digit."""
        model = self.folded.model
        if not any(told.table for told in model.ledger):
            newest = self.fold.closed([1 if base == 1 or timeframe % 60 else 60])
            until = max((ts + seconds * 10**9 for seconds, ts in newest), default=0)
            whole = self.fold.closed([timeframe])
            expected = [bar for (seconds, ts), bar in whole.items() if ts + seconds * 10**9 <= until]
            found = model.generated(timeframe, 1 if base == 1 or timeframe % 60 else 60, "own", Asked())
            expected = sorted(expected, key=lambda bar: bar["ts"])
            assert_same(_only(MEASURES, found), _only(MEASURES, expected), timeframe)
        await self.check_bars([timeframe], base, Asked(), "own", "records", folded=True)

    async def check_rows(
        self, stream: str, timeframe: int | None, asked: Asked, form: str, folded: bool = False
    ) -> None:
        market = self.folded if folded else self.hand
        model = market.model
        request = Rows(
            symbol=market.instrument.name,
            stream=stream,
            start=asked.start,
            end=asked.end,
            limit=asked.limit,
            newest=asked.newest,
            known_at=asked.known,
            format=form,  # type: ignore[arg-type]
            timeframe=timeframe,
        )
        answer, (data,) = await self.services[60].answer(request)
        (part,) = answer.parts
        kind = means_kind() if part.kind == MEANS else KINDS.by_name(part.kind)
        found = asked.cut(fields_of(by_time(decode_part(kind, part, data), kind.time)))
        expected = self.rows_expected(model, stream, timeframe, asked)
        assert_same(found, expected, (stream, timeframe, asked, form))
        number = _STREAMS.get(stream)
        times = [row[kind.time] for row in expected]
        length = 1 if stream not in ("buckets", "book") or timeframe is None else timeframe * 10**9
        worth = (
            (None, [])
            if number is None
            else _worth(model, number, kind.table or "book_snapshots", asked, times, length)
        )
        assert_same([told(answer.meta)], [worth], (stream, timeframe, asked))

    def rows_expected(self, model: Naive, stream: str, timeframe: int | None, asked: Asked) -> list[Any]:
        kind = KINDS.by_name(stream)
        if stream == "book" and timeframe is not None:
            return model.means_of(timeframe, asked, price_unit=10.0**BTC.price_scale, size_unit=10.0**BTC.size_scale)
        versions = stream in ("imbalance", "buckets")
        rows = model.rows_of(kind.table or "", asked, timeframe=timeframe, versions=versions)
        return [row.fields for row in rows]

    async def check_latest(self, timeframe: int, source: str) -> None:
        request = LatestBars(timeframe=timeframe, bar_source=source)  # type: ignore[arg-type]
        answer, (data,) = await self.services[60].answer(request)
        bars = fields_of(decode_part(CANDLES, answer.parts[0], data))
        found = {instrument.id: bar for instrument, bar in zip(answer.instruments, bars, strict=True)}
        for market in (self.hand, self.folded):
            number = market.instrument.id
            rows = market.model.bars_of(timeframe, source, Asked(limit=1))
            names = MEASURES if market is self.folded else CANDLE.names or ()
            mine = [found[number]] if number in found else []
            assert_same(_only(names, mine), _only(names, [row.fields for row in rows]), (timeframe, source))

    async def follow(self, plan: Any, base: int = 60) -> Any:
        """What a client's plan comes to, when its questions are answered."""
        try:
            call = next(plan)
            while True:
                message, frames = await self.services[base].answer(call.message)
                call = plan.send(Reply(message, frames, 0))
        except StopIteration as end:
            return end.value


_FAR_NS = EDGE_NS + 91 * DAY_NS
_STREAMS = {"trade": 1, "activity_bar": 1, "book": 3, "book_delta": 3, "book_venues": 3, "imbalance": 3, "buckets": 3}
_FOR_EVER = {"book_snapshots": Nanoseconds(0), "book_deltas": Nanoseconds(0)}
_CHUNKS = """
SELECT format('%I.%I', chunk_schema, chunk_name) AS chunk, range_start AS start, range_end AS "end"
FROM timescaledb_information.chunks WHERE hypertable_schema = 'marketd' AND hypertable_name = ANY($1)
"""
_COMPRESS = "SELECT public.compress_chunk($1::text::regclass, if_not_compressed => true)"


def _worth(model: Naive, stream: int, table: str, asked: Asked, times: list[int], length: int) -> tuple[Any, list[Any]]:
    """Of the stretch that was asked for; where a bound is open, of that of the answer."""
    start = asked.start if asked.start is not None else min(times, default=None)
    if start is None:
        return None, []
    end = asked.end if asked.end is not None else max(times) + length if times else _FAR_NS
    return model.worth(stream, table, start, min(end, _FAR_NS, asked.known or end), asked.known)


def told(meta: Any) -> tuple[Any, list[Any]]:
    """The gaps of an answer without an end go on until now."""
    return meta.coverage, [(start, min(end, _FAR_NS)) for start, end in meta.gaps]


def assert_same(found: list[Any], expected: list[Any], asked: Any) -> None:
    """With what one has and the other has not: few can compare two long lists by eye."""
    extra = [row for row in found if row not in expected]
    missing = [row for row in expected if row not in found]
    assert found == expected, f"{asked}: {len(found)} for {len(expected)}; too much: {extra}; missing: {missing}"


def _only(names: Iterable[str], rows: Iterable[Any]) -> list[Any]:
    wanted = tuple(names)
    return [tuple(row[name] for name in wanted) for row in rows]
