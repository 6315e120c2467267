"""What TimescaleDB does by itself on the `timescale` profile, brought in line with what the configuration wants.

Chunk intervals, compression of old chunks, and refreshes of the longer bars (sql/levels.py). What there is is compared
with what is wanted, and only what differs is changed, in one transaction under the schema's lock: it may be done again
and again, and from two hosts at once. Chunks that exist keep their width, and columns do not turn back into rows.

A chunk that late rows came to is compressed again as a whole: segment by segment (TimescaleDB's way) an answer that had
begun before would miss rows of it, late ones or all. The jobs run as the schema's owner, so that is a setting of his.

The jobs begin at minutes of the hour that are apart: a refresh and a compression that meet may deadlock (40P01).
Retention is no policy: see daemon/retention.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from marketd.sql.levels import DAY, LEVELS, Level, Window, kept_windows
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.schema_runner import LOCK_KEY
from marketd.sql.statements import statements
from marketd.sql.widths import WIDTH_OF_OTHERS, WIDTHS

_POLICIES = statements("policies")
HOUR = timedelta(hours=1)
_FIRST_LEVEL_MINUTE, _FIRST_TABLE_MINUTE = 2, 20
_MINUTES_APART = 2
_LONGER_BARS = "candles"
_COMPRESSION, _REFRESH = "policy_compression", "policy_refresh_continuous_aggregate"


class Wishes(NamedTuple):
    """What a configuration wants. An age of zero: never."""

    compress_after: timedelta
    compress: Mapping[str, timedelta]  # by table, where another
    chunks: Mapping[str, timedelta]  # by table, where another than `WIDTHS`
    keep_seconds: timedelta | None  # how long bars of a second are kept; None: for ever


class Change(NamedTuple):
    """One thing that differs: which, as it is, as it will be; the statements that do it."""

    what: str
    before: str
    after: str
    steps: list[tuple[Any, ...]]  # name of a statement, its arguments


class _Job(NamedTuple):
    """A policy as it is, or as it is wanted."""

    kind: str
    target: str
    minute: int  # of the hour, in which it begins
    every: timedelta
    compress_after: timedelta | None = None
    start_offset: timedelta | None = None
    end_offset: timedelta | None = None

    def words(self) -> str:
        if self.kind == _COMPRESSION:
            return f"after {_words(self.compress_after)}"
        since = "from the beginning" if self.start_offset is None else f"from {_words(self.start_offset)} ago"
        return f"{since} to {_words(self.end_offset)} ago"

    @property
    def what(self) -> str:
        return ("compression of " if self.kind == _COMPRESSION else "refresh of ") + self.target


async def plan_policies(conn: asyncpg.Connection[Any], wishes: Wishes) -> list[Change]:
    """What `apply_policies` would change; nothing on the profile `postgres`, which has none."""
    if await detect_profile(conn) is not Profile.TIMESCALE:
        return []
    widths = {row["table"]: row["width"] for row in await conn.fetch(_POLICIES["widths"])}
    jobs = [_job_of(row) for row in await conn.fetch(_POLICIES["policies"])]
    present = {(job.kind, job.target): job for job in jobs}
    tables = sorted(widths)
    changes = []
    if await conn.fetchval(_POLICIES["recompresses_by_segments"]):
        changes.append(Change("recompression of chunks", "by segments", "as a whole", [("recompress_as_a_whole",)]))
    changes += [change for table in tables if (change := _width_change(table, widths[table], wishes))]
    wanted = [_compression(table, place, wishes) for place, table in enumerate(tables)]
    wanted += [_compression_of_level(level, place, wishes) for place, level in enumerate(LEVELS)]
    wanted += _refreshes(wishes, await kept_windows(conn), await conn.fetchval("SELECT now()"), present)
    for job in wanted:
        before = present.get((job.kind, job.target))
        after = None if job.compress_after == timedelta() else job
        if before != after:
            changes.append(_job_change(job, before, after))
    return changes


async def apply_policies(conn: asyncpg.Connection[Any], wishes: Wishes) -> list[Change]:
    """Bring what TimescaleDB does in line with `wishes`; what that changed. Waits for another one that does so."""
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
        changes = await plan_policies(conn, wishes)
        for change in changes:
            for name, *arguments in change.steps:
                await conn.execute(_POLICIES[name], *arguments)
    return changes


async def refreshes_reach(conn: asyncpg.Connection[Any], moment: datetime) -> bool:
    """Whether a policy may still sum up again what lies before a moment."""
    return bool(await conn.fetchval(_POLICIES["refreshes_reach"], moment))


def _job_of(row: Any) -> _Job:
    start = row["initial_start"]
    return _Job(
        row["proc_name"],
        row["target"],
        -1 if start is None else start.minute,
        row["schedule_interval"],
        row["compress_after"],
        row["start_offset"],
        row["end_offset"],
    )


def _width_change(table: str, width: timedelta, wishes: Wishes) -> Change | None:
    wanted = wishes.chunks.get(table, WIDTHS.get(table, WIDTH_OF_OTHERS))
    if width == wanted:
        return None
    steps: list[tuple[Any, ...]] = [("set_width", table, wanted), ("record_width", table, wanted)]
    return Change(f"new chunks of {table}", _words(width), _words(wanted), steps)


def _compression(table: str, place: int, wishes: Wishes) -> _Job:
    minute = _FIRST_TABLE_MINUTE + place * _MINUTES_APART % (60 - _FIRST_TABLE_MINUTE)
    after = wishes.compress.get(table, wishes.compress_after)
    return _Job(_COMPRESSION, table, minute, HOUR, compress_after=after)


def _compression_of_level(level: Level, place: int, wishes: Wishes) -> _Job:
    """As stored bars of these timeframes. A refresh that comes to compressed ones unpacks what it changes."""
    minute = _FIRST_TABLE_MINUTE + 1 + place * _MINUTES_APART  # between those of tables
    after = wishes.compress.get(_LONGER_BARS, wishes.compress_after)
    return _Job(_COMPRESSION, level.view, minute, HOUR, compress_after=after)


def _refreshes(wishes: Wishes, kept: list[Window], now: Any, present: Mapping[tuple[str, str], _Job]) -> list[_Job]:
    jobs = []
    for place, level in enumerate(LEVELS):
        before = present.get((_REFRESH, level.view))
        start = _start_offset(wishes.keep_seconds, kept, now, before)
        minute = _FIRST_LEVEL_MINUTE + place * _MINUTES_APART
        jobs.append(_Job(_REFRESH, level.view, minute, HOUR, start_offset=start, end_offset=level.end_offset))
    return jobs


def _start_offset(keep: timedelta | None, kept: list[Window], now: Any, before: _Job | None) -> timedelta | None:
    """How far back a refresh may look: a refresh of what was dropped would erase it."""
    wanted = None if keep is None else keep - DAY  # a day for clocks that differ
    if not kept:
        return wanted
    # kept longer now than it was: what was dropped before stays behind, further with every day
    limit = timedelta(days=(now - max(window.end for window in kept)).days) - DAY
    if wanted is not None and wanted <= limit:
        return wanted
    still = None if before is None else before.start_offset
    return still if still is not None and still <= limit else limit


def _job_change(job: _Job, before: _Job | None, after: _Job | None) -> Change:
    is_compression = job.kind == _COMPRESSION
    steps: list[tuple[Any, ...]] = []
    if before is not None:
        steps.append(("stop_compressing" if is_compression else "stop_refreshing", job.target))
    if after is not None:
        minutes = timedelta(minutes=job.minute)
        if is_compression:
            steps.append(("compress", job.target, job.compress_after, job.every, minutes))
        else:
            steps.append(("refresh", job.target, job.start_offset, job.every, minutes, job.end_offset))
    was, will = ("never" if each is None else each.words() for each in (before, after))
    return Change(job.what, was, will, steps)


def _words(span: timedelta | None) -> str:
    """As it would stand in the configuration: `3d`, `1d 10min`."""
    left = 0 if span is None else round(span.total_seconds())
    parts = []
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        parts += [f"{count}{unit}"] if count else []
    return " ".join(parts) or "0s"
