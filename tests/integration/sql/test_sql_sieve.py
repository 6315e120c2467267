"""Records that PostgreSQL refuses: found, kept with the reason, and nobody else's loss."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from journaled import KNOWN, Journaled, count, drained, draining, stored
from lane import FUNDING, KINDS, bars, observed, trades
from marketd.daemon.kernel import COVERAGE_KIND, TRADE_KIND
from marketd.market.records import CANDLE, TRADE, CandleFlag
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.quarantine import Filter, show_quarantine
from marketd.sql.series import ensure_series_table
from marketd.sql.sieve import RULE
from support import eventually_async

CANDLES = KINDS.by_name("candle")
RAISES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.trade_id IN (7, 8, 20) THEN RAISE EXCEPTION 'no such trade'; END IF; RETURN NEW; END $$;
CREATE TRIGGER refuses BEFORE INSERT ON trades FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@pytest.fixture
async def journaled(tmp_path: Path, conn: type_connection) -> AsyncIterator[Journaled]:
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    journaled = Journaled(tmp_path / "journal")
    yield journaled
    journaled.close()


async def quarantined(conn: type_connection) -> list[dict[str, Any]]:
    return await show_quarantine(conn, Filter(rule=RULE), 100)


async def trade_ids(conn: type_connection) -> list[int]:
    return (await stored(conn, "trades", TRADE_KIND))["trade_id"].tolist()


@pytest.mark.parametrize("batch_bytes", [1, 1 << 20], ids=["frame by frame", "all frames at once"])
async def test_records_that_a_trigger_refuses_are_in_quarantine_and_all_others_in_their_tables(
    connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled, batch_bytes: int
) -> None:
    await conn.execute(RAISES)
    for first in range(0, 30, 3):
        end = journaled.take(first)
    writer = await drained(journaled, connections, end, batch_bytes=batch_bytes)
    assert await trade_ids(conn) == [n for n in range(30) if n not in (7, 8, 20)]
    assert (await count(conn, "coverage"), len(await stored(conn, "candles", CANDLES))) == (10, 5)
    rows = await quarantined(conn)
    assert [np.frombuffer(row["payload"], dtype=TRADE)["trade_id"][0] for row in rows] == [7, 8, 20]
    assert {row["kind"] for row in rows} == {"trade"}
    assert rows[0]["detail"] == "SQLSTATE P0001: no such trade"
    assert {row["instrument"] for row in rows} == {""}  # the instrument was never described in this journal
    assert (writer.statistics().refused, writer.offset) == (3, end)
    # where the journal was read again from its beginning nothing changes
    assert (await drained(journaled, connections, end)).statistics().refused == 0
    assert len(await quarantined(conn)) == 3


async def test_a_constraint_that_speaks_only_at_the_commit_is_made_to_name_its_record(
    connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled
) -> None:
    await conn.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.reason = 'no' THEN RAISE EXCEPTION 'no such event'; END IF; RETURN NEW; END $$;
        CREATE CONSTRAINT TRIGGER refuses AFTER INSERT ON coverage DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    journaled.take(0)
    event = observed(5)
    event["reason"] = b"no"
    end = journaled.accept((TRADE_KIND, trades([(5000, 5, 1, 1)])), (COVERAGE_KIND, event), known=KNOWN + 5000)
    await drained(journaled, connections, end)
    assert await trade_ids(conn) == [0, 1, 2, 5]
    assert [row["kind"] for row in await quarantined(conn)] == ["coverage"]
    assert await count(conn, "coverage") == 1


async def test_a_refused_version_of_a_bar_leaves_the_one_that_is_there(
    connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled
) -> None:
    await conn.execute("ALTER TABLE candles ADD CONSTRAINT cheap CHECK (open < 1000)")
    journaled.accept((CANDLES, bars([1, 2], 100)), known=KNOWN)
    end = journaled.accept((CANDLES, np.concatenate([bars([1, 2], 200), bars([1], 5000)])), known=KNOWN + 1000)
    await drained(journaled, connections, end)
    assert (await stored(conn, "candles", CANDLES))["open"].tolist() == [200, 200]
    (row,) = await quarantined(conn)
    assert row["detail"].startswith("SQLSTATE 23514: new row for relation")
    record = np.frombuffer(row["payload"], dtype=CANDLE)
    assert (record["open"][0], bool(record["flags"][0] & CandleFlag.REVISED)) == (5000, True)
    kept = await conn.fetch("SELECT open FROM candle_versions ORDER BY ts, seq")
    assert [r["open"] for r in kept] == [100, 100]


async def test_a_quarantine_that_refuses_is_waited_for_and_named(
    connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled
) -> None:
    await conn.execute(RAISES)
    await conn.execute("ALTER TABLE quarantine ADD CONSTRAINT full_up CHECK (kind <> 'trade')")
    end = journaled.take(6)
    async with draining(journaled, connections, end) as (writer, drain):
        await eventually_async(lambda: "full_up" in writer.statistics().trouble)
        assert writer.statistics().trouble.startswith("quarantine_refuses: ")
        await conn.execute("ALTER TABLE quarantine DROP CONSTRAINT full_up")
        await drain
    assert writer.statistics().trouble == ""
    assert await trade_ids(conn) == [6]


async def test_a_right_that_was_taken_is_no_fault_of_the_records(
    database: str, connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled
) -> None:
    role = f"writer_{conn.get_server_pid()}"
    await conn.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE, CREATE ON SCHEMA marketd TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA marketd TO {role};"
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA marketd TO {role};"
    )
    await drained(journaled, connections, journaled.take(0))  # only an owner makes partitions
    end = journaled.take(3)
    async with DatabaseConnectionManager(database.replace("marketd@", f"{role}@"), actor="writer") as limited:
        await conn.execute(f"REVOKE INSERT ON coverage FROM {role}")
        async with draining(journaled, limited, end) as (writer, drain):
            await eventually_async(lambda: writer.statistics().trouble.startswith("right_missing: "))
            await conn.execute(f"GRANT INSERT ON coverage TO {role}")
            await drain
    assert await trade_ids(conn) == list(range(6))
    assert await quarantined(conn) == []
