"""Reading the longer bars that TimescaleDB makes of our own bars of a second (sql/levels.py)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from marketd.market.records import BY_NAME, Source
from marketd.sql.copy import copy_out
from marketd.sql.levels import Level
from marketd.sql.read import NO_LIMIT, CopiedRows, Span, columns_of
from marketd.sql.statements import statements
from marketd.sql.store import Connection

_LEVELS = statements("levels")
_CANDLE = BY_NAME["candle"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


async def oldest_due(connection: Connection, span: Span) -> int | None:
    """From when on (ns) longer bars of a span may lack late ones; None: nowhere."""
    return _ns(await connection.fetchval(_LEVELS["oldest_due"], *span.bounds()))


async def newest_second(connection: Connection, instrument_id: int, span: Span) -> int | None:
    """The newest own bar of a second that is stored of a span, ns; or where those end that were dropped, if later."""
    return _ns(await connection.fetchval(_LEVELS["newest_second"], instrument_id, *span.bounds()))


async def has_foreign(connection: Connection, instrument_id: int, span: Span) -> bool:
    """Whether other sources than our own have bars of a second in a span."""
    return bool(await connection.fetchval(_LEVELS["has_foreign"], instrument_id, *span.bounds()))


async def read_level(
    connection: Connection, instrument_id: int, level: Level, span: Span, limit: int | None
) -> CopiedRows:
    """Bars of a level, the newest first, as rows of `candles`."""
    columns = columns_of("candles", _CANDLE)
    columns = columns.replace('"timeframe"', f'{level.seconds} AS "timeframe"')
    columns = columns.replace('"source"', f'{int(Source.OWN)}::smallint AS "source"')
    statement = _LEVELS["level_bars"].format(columns=columns, level=level.view)
    rows = NO_LIMIT if limit is None else limit
    return CopiedRows("candles", _CANDLE, await copy_out(connection, statement, instrument_id, *span.bounds(), rows))


def _ns(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND * 1000
