"""What TimescaleDB does by itself follows the configuration: made, changed, and left alone where it fits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from marketd.daemon.config import convert
from marketd.daemon.policy_keeper import PolicyKeeper, wishes_of
from marketd.market.errors import ConfigError
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.levels import LEVELS, Window, keep_levels
from marketd.sql.policies import Wishes, apply_policies, plan_policies
from marketd.sql.profiles import Profile
from marketd.sql.series import ensure_series_table
from marketd.sql.widths import WIDTH_OF_OTHERS, WIDTHS

DAY = timedelta(days=1)
DEFAULT = Wishes(3 * DAY, {}, {}, None)
_REFRESH = "policy_refresh_continuous_aggregate"
TIMESCALE = pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)


async def jobs(conn: type_connection, what: str) -> dict[str, dict[str, object]]:
    rows = await conn.fetch(
        "SELECT hypertable_name, initial_start, (config ->> 'compress_after')::interval AS after,"
        " (config ->> 'start_offset')::interval AS start, (config ->> 'end_offset')::interval AS \"end\""
        " FROM timescaledb_information.jobs WHERE hypertable_schema = 'marketd' AND proc_name = $1",
        what,
    )
    return {row["hypertable_name"]: dict(row) for row in rows}


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_a_plain_postgresql_has_no_policies(conn: type_connection) -> None:
    assert await plan_policies(conn, DEFAULT) == await apply_policies(conn, DEFAULT) == []


async def test_the_widths_are_those_that_the_schema_files_gave(conn: type_connection) -> None:
    rows = await conn.fetch("SELECT table_name, width FROM partitioned_tables")
    assert {row["table_name"]: row["width"] for row in rows} == WIDTHS


@TIMESCALE
async def test_every_large_table_is_compressed_and_every_level_refreshed_at_minutes_that_are_apart(
    conn: type_connection,
) -> None:
    await ensure_series_table(conn, "funding", {"rate": "f8"})
    assert len(await plan_policies(conn, DEFAULT)) == len(WIDTHS) + 1 + 2 * len(LEVELS) + 1  # recompression
    await apply_policies(conn, DEFAULT)
    compressions, refreshes = await jobs(conn, "policy_compression"), await jobs(conn, _REFRESH)
    assert set(compressions) == {*WIDTHS, "series_funding", *(level.view for level in LEVELS)}
    assert {job["after"] for job in compressions.values()} == {3 * DAY}
    for level in LEVELS:
        assert refreshes[level.view]["start"] is None
        assert refreshes[level.view]["end"] == level.end_offset > level.width
    starts = [job["initial_start"] for job in (*compressions.values(), *refreshes.values())]
    assert len({start.minute for start in starts if isinstance(start, datetime)}) == len(starts)
    assert await plan_policies(conn, DEFAULT) == []


@TIMESCALE
async def test_jobs_compress_again_as_a_whole(database: str) -> None:
    """By segments they would hide rows from answers that have begun: tests/integration/test_questions_meanwhile.py."""
    as_writer = database.replace("//marketd@", "//marketd_writer@")
    async with DatabaseConnectionManager(as_writer, actor="storage") as manager, manager.acquire() as conn:
        await apply_policies(conn, DEFAULT)
        told = "SELECT DISTINCT owner FROM timescaledb_information.jobs WHERE hypertable_schema = 'marketd'"
        assert [row["owner"] for row in await conn.fetch(told)] == ["marketd_writer"]
        assert await plan_policies(conn, DEFAULT) == []
    a_job = await asyncpg.connect(as_writer)  # which has his settings, too
    try:
        assert await a_job.fetchval("SHOW timescaledb.enable_segmentwise_recompression") == "off"
    finally:
        await a_job.close()


@TIMESCALE
async def test_a_changed_configuration_changes_what_differs_and_nothing_else(conn: type_connection) -> None:
    await apply_policies(conn, DEFAULT)
    changed = Wishes(3 * DAY, {"trades": DAY, "candles": timedelta()}, {"trades": 2 * DAY}, 30 * DAY)
    planned = await plan_policies(conn, changed)
    assert [(each.what, each.before, each.after) for each in planned][:3] == [
        ("new chunks of trades", "1d", "2d"),
        ("compression of candles", "after 3d", "never"),
        ("compression of trades", "after 3d", "after 1d"),
    ]
    # longer bars that TimescaleDB makes go with those that are stored
    assert {each.what: each.after for each in planned}["compression of own_candles_1h"] == "never"
    assert len(planned) == 3 + 2 * len(LEVELS)
    assert await apply_policies(conn, changed) == planned
    assert await apply_policies(conn, changed) == []
    compressions, refreshes = await jobs(conn, "policy_compression"), await jobs(conn, _REFRESH)
    assert compressions["trades"]["after"] == DAY
    assert "candles" not in compressions
    assert {job["start"] for job in refreshes.values()} == {29 * DAY}  # inside of what is kept
    width = "SELECT width FROM partitioned_tables WHERE table_name = 'trades'"
    assert await conn.fetchval(width) == 2 * DAY
    await apply_policies(conn, DEFAULT)
    assert await conn.fetchval(width) == DAY
    assert await plan_policies(conn, DEFAULT) == []


@TIMESCALE
async def test_two_hosts_at_once_make_every_policy_once(connections: DatabaseConnectionManager) -> None:
    async def apply() -> int:
        async with connections.acquire() as conn:
            return len(await apply_policies(conn, DEFAULT))

    counts = await asyncio.gather(apply(), apply(), apply())
    assert sorted(counts)[:2] == [0, 0]
    async with connections.acquire() as conn:
        assert len(await jobs(conn, "policy_compression")) == len(WIDTHS) + len(LEVELS)


@TIMESCALE
async def test_refreshes_stay_behind_what_was_dropped_also_when_seconds_are_kept_for_ever_again(
    conn: type_connection,
) -> None:
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    await keep_levels(conn, Window(now - 40 * DAY, now - 20 * DAY))
    await apply_policies(conn, DEFAULT)
    assert {job["start"] for job in (await jobs(conn, _REFRESH)).values()} == {19 * DAY}
    assert await plan_policies(conn, DEFAULT) == []
    await apply_policies(conn, DEFAULT._replace(keep_seconds=10 * DAY))
    assert await plan_policies(conn, DEFAULT) == []  # nine days are within nineteen
    await apply_policies(conn, DEFAULT._replace(keep_seconds=300 * DAY))
    assert {job["start"] for job in (await jobs(conn, _REFRESH)).values()} <= {9 * DAY, 19 * DAY}


@TIMESCALE
async def test_the_keeper_applies_what_the_configuration_says(connections: DatabaseConnectionManager) -> None:
    keeper = PolicyKeeper(connections, convert({}))
    await keeper.run()
    keeper.change(convert({"storage": {"compress": {"trades": "12h"}}, "retention": {"candles_1s": "40d"}}))
    await keeper.run()
    async with connections.acquire() as conn:
        assert (await jobs(conn, "policy_compression"))["trades"]["after"] == timedelta(hours=12)
        assert (await jobs(conn, _REFRESH))["own_candles_1d"]["start"] == 39 * DAY


def test_wishes_are_what_the_configuration_says() -> None:
    config = convert({"storage": {"compress_after": "7d", "chunks": {"trades": "2d"}}})
    assert wishes_of(config) == Wishes(7 * DAY, {}, {"trades": 2 * DAY}, None)
    assert WIDTH_OF_OTHERS == 7 * DAY


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ({"compress": {"trade": "1d"}}, r"storage\.compress\.trade: no such table; .*trades"),
        ({"compress_after": "5min"}, r"storage\.compress_after: 5min is too short; .*1h or more"),
        ({"compress": {"trades": "5min"}}, r"storage\.compress\.trades: 5min is too short"),
        ({"chunks": {"trades": "36h"}}, r"storage\.chunks\.trades: .* no number of whole days"),
        ({"chunks": {"trades": "0s"}}, r"storage\.chunks\.trades: .* no number of whole days"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_by_name(storage: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        convert({"storage": storage})


def test_seconds_are_kept_for_as_long_as_bars_of_a_day_need_them() -> None:
    with pytest.raises(ConfigError, match=r"retention\.candles_1s: 4d is too short; .*5d or more"):
        convert({"retention": {"candles_1s": "4d"}})
