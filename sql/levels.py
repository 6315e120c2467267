"""Longer bars that TimescaleDB makes of our own bars of a second: continuous aggregates, one a level, each of the one
before (`timescale` profile).

They are right at every moment, by three rules:

- A late bar of a second is *noted* in the transaction that stores it (`note_late`); a stretch with a note is not read
  here but computed (daemon/query_levels.py), until it was summed up again (`refresh`) and the note removed.
- No refresh comes closer to now than a bar and `REFRESH_LAG`: what is younger than that is summed up by the read
  itself, and needs no note.
- What retention has dropped is *kept* (`keep_levels`): a refresh would make it anew out of nothing, and so none does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from marketd.sql.statements import statements

_LEVELS = statements("levels")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
# Twice the age at which late bars are noted: a writer's transaction may take the difference, and still be seen.
REFRESH_LAG = timedelta(minutes=10)
STEP = timedelta(days=30)  # of one refresh: what it holds in memory, and loses when it is stopped
SECONDS_TABLE = "candles_1s"


class Level(NamedTuple):
    """A continuous aggregate: bars of `seconds`."""

    view: str
    seconds: int

    @property
    def width(self) -> timedelta:
        return timedelta(seconds=self.seconds)

    @property
    def end_offset(self) -> timedelta:
        """How far from now a refresh stays: a bar that is still forming would be frozen as it is."""
        return self.width + REFRESH_LAG


# Each is made of the one before.
LEVELS = tuple(
    Level(f"own_candles_{name}", seconds)
    for name, seconds in (("1m", 60), ("5m", 300), ("15m", 900), ("1h", 3600), ("4h", 14_400), ("1d", 86_400))
)


class Window(NamedTuple):
    """start <= time < end."""

    start: datetime
    end: datetime


class Due(NamedTuple):
    """What is to be summed up again: whole days, in order, without what is kept; the notes that say so."""

    windows: list[Window]
    notes: list[int]
    at: datetime  # the database's clock


def level_for(timeframe: int) -> Level | None:
    """The longest level whose bars make up bars of `timeframe` seconds."""
    dividing = [level for level in LEVELS if timeframe % level.seconds == 0]
    return dividing[-1] if dividing else None


async def has_levels(conn: asyncpg.Connection[Any]) -> bool:
    """Whether this database has them: it is of the profile `timescale`."""
    return bool(await conn.fetchval(_LEVELS["has_levels"]))


async def note_late(conn: asyncpg.Connection[Any], first: datetime, last: datetime) -> None:
    """Bars of a second from `first` to `last` (inclusive) were stored, in this transaction: noted if that is late"""
    await conn.execute(_LEVELS["note_late"], first, last + timedelta(seconds=1))


async def read_due(conn: asyncpg.Connection[Any]) -> Due | None:
    """What the notes ask for; None when there is none."""
    notes = await conn.fetch(_LEVELS["due"])
    if not notes:
        return None
    late = joined(whole_days(Window(row["ts_start"], row["ts_end"]) for row in notes))
    windows = without(late, await kept_windows(conn))
    return Due(windows, [row["id"] for row in notes], notes[0]["at"])


async def refresh(conn: asyncpg.Connection[Any], window: Window, now: datetime) -> None:
    """Sum up a window again, level by level. Not in a transaction; what changed nothing costs next to nothing."""
    for level in LEVELS:
        start = floor_to(window.start, level.width)
        end = min(ceil_to(window.end, level.width), floor_to(now - level.end_offset, level.width))
        while start < end:
            until = min(start + STEP, end)
            await conn.execute(_LEVELS["refresh"].format(level=level.view), start, until)
            start = until


async def done(conn: asyncpg.Connection[Any], notes: Sequence[int]) -> None:
    """These notes are dealt with."""
    await conn.execute(_LEVELS["done"], notes)


async def refresh_all_of(conn: asyncpg.Connection[Any], window: Window) -> None:
    """Sum up a window again, but for what is kept in it."""
    now = await conn.fetchval("SELECT now()")
    for part in without([window], await kept_windows(conn)):
        await refresh(conn, part, now)


async def is_due(conn: asyncpg.Connection[Any], window: Window) -> bool:
    """Whether longer bars still lack something of this window."""
    return bool(await conn.fetchval(_LEVELS["is_due"], *window))


async def keep_levels(conn: asyncpg.Connection[Any], window: Window) -> None:
    """The bars of a second of this window are dropped, in this transaction: longer bars stay as they are."""
    await conn.execute(_LEVELS["keep"], *window)


async def kept_windows(conn: asyncpg.Connection[Any]) -> list[Window]:
    return [Window(*row) for row in await conn.fetch(_LEVELS["kept"])]


def floor_to(moment: datetime, width: timedelta) -> datetime:
    return moment - (moment - _EPOCH) % width


def whole_days(windows: Iterable[Window]) -> list[Window]:
    """Widened to whole days, which all levels divide; sorted."""
    return sorted(Window(floor_to(start, DAY), ceil_to(end, DAY)) for start, end in windows)


def ceil_to(moment: datetime, width: timedelta) -> datetime:
    return moment + (_EPOCH - moment) % width


def joined(windows: Sequence[Window]) -> list[Window]:
    """Sorted windows without overlaps."""
    found: list[Window] = []
    for window in windows:
        if found and window.start <= found[-1].end:
            found[-1] = Window(found[-1].start, max(found[-1].end, window.end))
        else:
            found.append(window)
    return found


def without(windows: Sequence[Window], kept: Sequence[Window]) -> list[Window]:
    """The windows less what is kept."""
    found = list(windows)
    for hole in kept:
        found = [
            part
            for start, end in found
            for part in (Window(start, min(end, hole.start)), Window(max(start, hole.end), end))
            if part.start < part.end
        ]
    return found
