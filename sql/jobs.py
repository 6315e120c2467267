"""The jobs that TimescaleDB runs for us: which of them fail, and running one by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import asyncpg

from marketd.sql.statements import statements

_POLICIES = statements("policies")


class FailingJob(NamedTuple):
    """A job of which the last run failed. `failures`: of all its runs."""

    id: int
    procedure: str
    target: str
    failures: int
    error: str
    sqlstate: str

    def __str__(self) -> str:
        return f"job {self.id}, {self.procedure} of {self.target}"


async def failing_jobs(conn: asyncpg.Connection[Any]) -> list[FailingJob]:
    """On the profile `timescale`."""
    rows = await conn.fetch(_POLICIES["failing_jobs"])
    return [FailingJob(*row) for row in rows]


async def run_job(conn: asyncpg.Connection[Any], job: FailingJob) -> None:
    """Run it now, in this session; its error comes out. Not in a transaction."""
    await conn.execute(_POLICIES["run_job"], job.id)
