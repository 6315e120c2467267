"""Watches the jobs that TimescaleDB runs for us, and runs one again that failed.

A background work of the storage actor. A job that fails again in our hands fails this work: so it is logged, counted,
told by `/health`, and tried again with growing pauses, until a run succeeds.
"""

from __future__ import annotations

import asyncio
import logging

import asyncpg

from marketd.daemon import metrics
from marketd.daemon.settings import Config
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.errors import JobsFail
from marketd.sql.jobs import FailingJob, failing_jobs, run_job
from marketd.sql.profiles import Profile
from marketd.sql.troubles import said_by

_log = logging.getLogger(__name__)
_HEALED = metrics.counter("database_jobs_healed_total", "Jobs of TimescaleDB that failed, and succeeded when run again")
_FAILING = metrics.gauge("database_jobs_failing", "Jobs of TimescaleDB that fail, whoever runs them")

LOOK_SECONDS = 60.0


class JobWatch:
    name = "jobs"

    def __init__(self, database: DatabaseConnectionManager) -> None:
        self._database = database
        self._healed: dict[int, int] = {}  # job -> its failures up to then: its own next run is still to come

    def change(self, config: Config) -> None:
        """Nothing of it is configured."""

    async def run(self) -> None:
        """Look after look; returns at once where there is no TimescaleDB."""
        if await self._database.profile() is not Profile.TIMESCALE:
            return
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Run again what failed; JobsFail names those that fail again."""
        failed: list[str] = []
        async with self._database.acquire() as connection:
            for job in await failing_jobs(connection):
                if self._healed.get(job.id) != job.failures:
                    failed += await self._run_again(connection, job)
        _FAILING.set(len(failed))
        if failed:
            raise JobsFail("; ".join(failed))

    async def _run_again(self, connection: asyncpg.Connection, job: FailingJob) -> list[str]:
        """A sentence, when it fails again."""
        try:
            await run_job(connection, job)
        except asyncpg.PostgresError as error:
            if connection.is_closed():
                raise
            return [f"{job} fails: {error.sqlstate} {said_by(error)}"]
        self._healed[job.id] = job.failures
        _HEALED.inc()
        _log.warning(
            "%s had failed, and succeeded when run again; it had said: %s %s",
            job,
            job.sqlstate,
            job.error,
            extra={"action": "job_healed", "job": job.id},
        )
        return []
