"""The quarantine as operators see it: refused records, found by rule, instrument, kind, source and time.

A record that broke a rule stays there until somebody purges it; nothing in marketd does so by itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from marketd.market.errors import InvalidArgument
from marketd.sql.statements import statements
from marketd.sql.store import to_datetime

_TEXTS = statements("quarantine")
_STATEMENTS = {name: text.format(filter=_TEXTS["filter"]) for name, text in _TEXTS.items() if name != "filter"}
Connection = Any  # asyncpg's Connection or the pool's proxy of one


class Filter(NamedTuple):
    """Which rows; None does not filter. Times in ns: start <= ts_known < end.

    `instrument` is an id in digits, a canonical name, the venue's symbol, or BASE/QUOTE.
    """

    ids: tuple[int, ...] | None = None
    rule: str | None = None
    instrument: str | None = None
    kind: str | None = None
    source: str | None = None
    start: int | None = None
    end: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it lets everything through."""
        return all(value is None for value in self)

    def arguments(self) -> tuple[Any, ...]:
        """$1 … $7."""
        start, end = (None if ts is None else to_datetime(ts) for ts in (self.start, self.end))
        return (None if self.ids is None else list(self.ids), *self[1:5], start, end)


async def list_quarantine(connection: Connection, wanted: Filter, limit: int) -> list[dict[str, Any]]:
    """The newest rows, newest first, without payloads."""
    return await _fetch(connection, "list", wanted, limit)


async def summarise_quarantine(connection: Connection, wanted: Filter, limit: int) -> list[dict[str, Any]]:
    """Counts by rule, instrument, kind and source, most first."""
    return await _fetch(connection, "summary", wanted, limit)


async def show_quarantine(connection: Connection, wanted: Filter, limit: int) -> list[dict[str, Any]]:
    """Whole rows with payloads, by id."""
    return await _fetch(connection, "show", wanted, limit)


async def count_quarantine(connection: Connection, wanted: Filter) -> int:
    return int(await connection.fetchval(_STATEMENTS["count"], *wanted.arguments()))


async def purge_quarantine(connection: Connection, wanted: Filter) -> int:
    """Delete the rows for good; how many there were. InvalidArgument for a filter that lets all through."""
    if wanted.is_open:
        raise InvalidArgument("purge: name what is to go by id, rule, instrument, kind, source or time")
    tag = await connection.execute(_STATEMENTS["purge"], *wanted.arguments())
    return int(tag.split()[-1])


async def _fetch(connection: Connection, name: str, wanted: Filter, limit: int) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(_STATEMENTS[name], *wanted.arguments(), limit)]
