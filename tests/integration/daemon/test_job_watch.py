"""Jobs of TimescaleDB that fail are seen, run again, and told while they go on failing."""

from __future__ import annotations

import asyncio
import logging

import pytest

from marketd.daemon.background import BackgroundWorks
from marketd.daemon.job_watch import JobWatch
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.errors import JobsFail
from marketd.sql.jobs import failing_jobs
from marketd.sql.profiles import Profile
from support import eventually_async

pytestmark = pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)


async def failed_job(conn: type_connection) -> int:
    """A job of ours that TimescaleDB has run, and that failed; it works as soon as `mended` has a row."""
    await conn.execute(
        """
        CREATE TABLE mended (at int);
        CREATE PROCEDURE fickle(job_id int, config jsonb) LANGUAGE plpgsql AS $$
        BEGIN
            IF NOT EXISTS (SELECT FROM marketd.mended) THEN RAISE EXCEPTION 'not today'; END IF;
        END $$;
        """
    )
    job = int(await conn.fetchval("SELECT add_job('fickle', '1 hour')"))
    # a job has a table only when it is one of TimescaleDB's own
    await conn.execute(
        "UPDATE _timescaledb_catalog.bgw_job SET hypertable_id ="
        " (SELECT id FROM _timescaledb_catalog.hypertable WHERE table_name = 'trades') WHERE id = $1",
        job,
    )
    return job


@pytest.fixture
async def job(conn: type_connection) -> int:
    job = await failed_job(conn)

    async def has_failed() -> bool:
        return [each.id for each in await failing_jobs(conn)] == [job]

    await eventually_async(has_failed, timeout=60.0)
    return job


async def test_a_job_that_goes_on_failing_is_told_by_name_until_it_is_mended(
    connections: DatabaseConnectionManager,
    conn: type_connection,
    job: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    watch = JobWatch(connections)
    with pytest.raises(JobsFail, match=rf"job {job}, fickle of trades fails: P0001 not today"):
        await watch.look()
    works = BackgroundWorks([watch], first_delay_seconds=0.01, max_delay_seconds=0.01)
    task = asyncio.create_task(works.run())
    await eventually_async(lambda: works.statistics()["jobs"].failures > 1)
    assert "not today" in works.statistics()["jobs"].last_error
    await conn.execute("INSERT INTO mended VALUES (1)")
    await eventually_async(lambda: "succeeded when run again; it had said: P0001 not today" in caplog.text)
    failures = works.statistics()["jobs"].failures
    await watch.look()  # healed: its own next run is still to come
    assert works.statistics()["jobs"].failures == failures
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
