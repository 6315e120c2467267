"""Write, merge, pack and drop, ended at each statement: nothing lost, nothing twice, and the next one goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from book_lane import imbalances, stamped
from integration.conftest import Server
from journaled import Journaled, drained
from killing import Doom, Way, end_everywhere, judging, template_of
from lane import BTC, CANDLES, FUNDING, SECOND, START, bars, observed, rates, trades
from marketd.daemon.kernel import COVERAGE_KIND, TRADE_KIND
from marketd.market.records import BY_NAME, CandleFlag, Records
from marketd.sql import retention
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.levels import LEVELS
from marketd.sql.packed_tables import PACKED_TABLES
from marketd.sql.packing import Place, days_of, drop_empty, pack_next
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.read import Span, read_bars, read_rows
from marketd.sql.retention import drop_old_pieces, pieces_of_table
from marketd.sql.series import ensure_series_table
from marketd.sql.store import to_datetime
from packed import KNOWN, Lane, pack_all

IMBALANCE = BY_NAME["imbalance"]
REVISED = int(CandleFlag.REVISED)
# tables with the time at which something was done in them, or a journal's random name
_COUNTED = frozenset({"packed_blocks", "quarantine", "journal_commits", "expired", "schema_changes", "refresh_due"})
type_parts = Sequence[tuple[Any, Records]]


async def tables(conn: Any) -> list[tuple[Any, ...]]:
    """What the tables hold, as they are: rows, and what tells them from others."""
    columns = await conn.fetch(
        "SELECT relname, string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_class"
        " JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped"
        " WHERE relnamespace = 'marketd'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition GROUP BY 1"
    )
    parts = [
        f"SELECT '{table}', count(*), sum({'0' if table in _COUNTED else f'hash_record_extended(ROW({names}), 0)'})"
        f" FROM {table}"
        for table, names in columns
    ]
    return sorted(map(tuple, await conn.fetch(" UNION ALL ".join(parts))))


async def answers(conn: Any) -> list[bytes]:
    """What readers are given, of rows and blocks."""
    found: list[Records] = [(await read_rows(conn, BTC.id, TRADE_KIND, Span())).records()]
    moments = (None, KNOWN, KNOWN + SECOND)
    found += [(await read_bars(conn, BTC.id, 1, Span(), known_at=known_at)).records() for known_at in moments]
    return [records[np.lexsort((records["seq"], records[records.dtype.names[0]]))].tobytes() for records in found]


# ---- write and merge ----------------------------------------------------------------------------------


class Writing:
    """The writer commits the frames of a journal, after what stands there already."""

    def __init__(self, directory: Path, before: type_parts, frames: Sequence[type_parts], then: str = "") -> None:
        self._directory, self._before, self._frames, self._then = directory, before, frames, then
        self._journals: list[Journaled] = []
        self.needs = {"packed": Profile.POSTGRES, "compressed": Profile.TIMESCALE}.get(then)
        self.is_atomic = len(frames) == 1 and then != "refusing"

    async def prepare(self, dsn: str) -> None:
        journaled = Journaled(self._directory / str(len(self._journals)))
        self._journals.append(journaled)
        async with DatabaseConnectionManager(dsn, actor="test") as database, database.acquire() as conn:
            await ensure_series_table(conn, "funding", dict(FUNDING.fields))
            if self._before:
                await drained(journaled, database, journaled.accept(*_copied(self._before), known=KNOWN))
            if self._then == "packed":
                assert await pack_all(conn)
            elif self._then == "compressed":
                for table in ("trades", "candles_1s", "candles", "imbalances", "series_funding"):
                    assert await conn.fetch(f"SELECT compress_chunk(chunk) FROM show_chunks('{table}') chunk")
            elif self._then == "refusing":
                await conn.execute("ALTER TABLE candles ADD CONSTRAINT few CHECK (open <> 13) NOT VALID")
        for number, parts in enumerate(self._frames, 1):
            self._end = journaled.accept(*_copied(parts), known=KNOWN + number * SECOND)

    async def run(self, doom: Doom) -> None:
        async with DatabaseConnectionManager(doom.dsn, actor="writer", health_interval_seconds=3600) as database:
            await drained(self._journals[-1], database, self._end)

    async def picture(self, conn: Any) -> object:
        return await tables(conn), await answers(conn)

    def close(self) -> None:
        for journaled in self._journals:
            journaled.close()


def _copied(parts: type_parts) -> list[tuple[Any, Records]]:
    return [(kind, records.copy()) for kind, records in parts]  # the kernel stamps them


FIRST: type_parts = (
    (TRADE_KIND, trades([(n * 1000, n, 100 + n, 5) for n in range(0, 40, 2)])),
    (CANDLES, bars(range(0, 40, 2), 7, timeframe=1, source=1)),
    (CANDLES, bars(range(5), 7)),
    (FUNDING, rates([(n * 1000, 0.5) for n in range(5)])),
    (IMBALANCE, imbalances([(n, 7) for n in range(5)])),
)
SECOND_FRAME: type_parts = (
    (TRADE_KIND, trades([(n * 1000, n, 100 + n, 5) for n in range(30)])),
    (CANDLES, bars(range(10, 20), 9, timeframe=1, source=1, flags=REVISED)),
    (CANDLES, bars(range(3, 8), 9, flags=REVISED)),
    (FUNDING, rates([(n * 1000, 0.5) for n in range(3, 8)])),
    (IMBALANCE, imbalances([(n, 7) for n in range(3, 8)])),
    (COVERAGE_KIND, observed(1)),
)


@pytest.fixture
def writing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Writing]:
    step = Writing(tmp_path, *request.param)
    yield step
    step.close()


WRITES = {
    "written": ((), [FIRST]),
    "merged into what is packed": (FIRST, [SECOND_FRAME], "packed"),
    "merged into what is compressed": (FIRST, [SECOND_FRAME], "compressed"),
    "merged, with a record that is refused": (FIRST, [SECOND_FRAME, ((CANDLES, bars([3, 4], 13)),)], "refusing"),
}


@pytest.mark.parametrize("writing", WRITES.values(), ids=WRITES.keys(), indirect=True)
async def test_a_writer_ended_at_any_statement_stores_everything_once(server: Server, writing: Writing) -> None:
    if writing.needs not in (None, server.profile):
        pytest.skip("there is nothing of that in this profile")
    deaths = await end_everywhere(writing, server, template=await template_of(server))
    assert min(len(deaths[way]) for way in (Way.CLIENT, Way.SESSION)) > 15


# ---- pack ---------------------------------------------------------------------------------------------


class Packing:
    """The packer empties a day of rows, and of rows beside blocks, and drops the partition."""

    is_atomic = False

    def __init__(self, beside: bool) -> None:
        self._beside = beside

    async def prepare(self, dsn: str) -> None:
        async with judging(dsn) as conn:
            lane = Lane(conn)
            await lane.commit((TRADE_KIND, stamped(trades([(ms, ms, 100, 5) for ms in range(0, 5000, 100)]), 1)))
            await lane.commit((CANDLES, stamped(bars(range(50), timeframe=1, source=1), 100)))
            if self._beside:
                await pack_all(conn)
                late = trades([(ms, 9 * ms, 100, 5) for ms in range(50, 3000, 100)])
                await lane.commit((TRADE_KIND, stamped(late, 200)))
                revised = bars(range(10, 20), 107, timeframe=1, source=1, flags=REVISED)
                await lane.commit((CANDLES, stamped(revised, 300, KNOWN + SECOND)))
            self._answers = await answers(conn)

    async def run(self, doom: Doom) -> None:
        async with doom.connect() as conn:
            for table in ("trades", "candles_1s"):
                for piece in await pieces_of_table(conn, table):
                    for start, end in days_of(piece, piece.end):
                        while await pack_next(conn, Place(PACKED_TABLES[table], BTC.id), start, end):
                            pass
                    await drop_empty(conn, table, piece)

    async def picture(self, conn: Any) -> object:
        assert await answers(conn) == self._answers  # at any time
        pieces = [await pieces_of_table(conn, table) for table in ("trades", "candles_1s")]
        return await tables(conn), [piece.name for each in pieces for piece in each]


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
@pytest.mark.parametrize("beside", [False, True], ids=["rows", "rows and a block"])
async def test_a_packer_ended_at_any_statement_loses_nothing_and_repeats_nothing(server: Server, beside: bool) -> None:
    deaths = await end_everywhere(Packing(beside), server, template=await template_of(server))
    assert min(len(deaths[way]) for way in (Way.CLIENT, Way.SESSION)) > 25


# ---- drop ---------------------------------------------------------------------------------------------


class Dropping:
    """What is too old goes, and what is known of it is told; a day stays."""

    is_atomic = False
    before = to_datetime(START) + timedelta(days=2)

    async def prepare(self, dsn: str) -> None:
        day = 86_400
        async with judging(dsn) as conn:
            lane = Lane(conn, await detect_profile(conn))
            for at in (0, day, 9 * day):
                await lane.commit((TRADE_KIND, stamped(trades([(at * 1000 + n, n, 100, 5) for n in range(5)]), 1)))
                seconds = range(at, at + 30)
                await lane.commit((CANDLES, stamped(bars(seconds, timeframe=1, source=1), 100)))
                revised = bars(seconds[10:20], 107, timeframe=1, source=1, flags=REVISED)
                await lane.commit((CANDLES, stamped(revised, 300, KNOWN + SECOND)))
                if at == 0 and await detect_profile(conn) is Profile.POSTGRES:
                    await pack_all(conn)
                    await conn.execute("UPDATE packed_blocks SET stored_at = '1970-01-01'")

    async def run(self, doom: Doom) -> None:
        async with doom.connect() as conn:
            for table in ("trades", "candles_1s"):
                assert not (await drop_old_pieces(conn, table, self.before)).in_use

    async def picture(self, conn: Any) -> object:
        expired = await conn.fetch("SELECT stream, of_table, ts_start, ts_end FROM expired ORDER BY 1, 2, 3, 4")
        views = [level.view for level in LEVELS] if await detect_profile(conn) is Profile.TIMESCALE else []
        levels = [await conn.fetch(f"SELECT * FROM {view} ORDER BY 1, 2, 3, 4") for view in views]
        return await tables(conn), await answers(conn), expired, levels


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all pieces had been made when 1970 began."""

    async def found(conn: Any, table: str) -> list[retention.Piece]:
        return [piece._replace(made=datetime(1970, 1, 1, tzinfo=UTC)) for piece in await pieces_of_table(conn, table)]

    monkeypatch.setattr(retention, "pieces_of_table", found)


@pytest.mark.usefixtures("long_ago")
async def test_a_drop_ended_at_any_statement_is_finished_and_told_once(server: Server) -> None:
    deaths = await end_everywhere(Dropping(), server, template=await template_of(server))
    assert min(len(deaths[way]) for way in (Way.CLIENT, Way.SESSION)) > 15
