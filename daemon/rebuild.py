"""Bars computed anew from their stored trades: for late trades that the fold can no longer merge.

The query actor does it for ingest, the import lane for itself; both get the same versions of the same bars.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from marketd.daemon.ledger import Ledger
from marketd.market.candles import bars_from_trades
from marketd.market.errors import RangeError
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, CANDLE, CandleFlag, Records
from marketd.market.times import NS_PER_SECOND
from marketd.sql.read import Span, read_bars, read_rows
from marketd.sql.store import Connection


async def rebuilt_bars(connection: Connection, instrument: Instrument, bars: Iterable[tuple[int, int]]) -> Records:
    """CANDLE records of the own bars (timeframe s, ts ns) that have stored trades, unstamped.

    A bar without trades, one that had others once (retention has dropped them), or one whose sums do not fit into
    64 bits, is not among them: it can never be computed.
    """
    ledger = Ledger(connection, instrument.id)
    found = [await _rebuilt(connection, instrument, ledger, timeframe, ts) for timeframe, ts in bars]
    return np.concatenate([np.empty(0, CANDLE), *found])


async def _rebuilt(connection: Connection, instrument: Instrument, ledger: Ledger, timeframe: int, ts: int) -> Records:
    """One bar from all its stored trades, a new version; as partial as the one that is there, unless what was missing
    was fetched.
    """
    span = Span(ts, ts + timeframe * NS_PER_SECOND)
    trades = (await read_rows(connection, instrument.id, BY_NAME["trade"], span)).records()
    before = (await read_bars(connection, instrument.id, timeframe, span, bar_source="own")).records()
    if len(before) and len(trades) < before["trade_count"][0]:
        return np.empty(0, CANDLE)
    if await ledger.has_lost(ts, ts + timeframe * NS_PER_SECOND):
        return np.empty(0, CANDLE)  # however many there are now: those that were dropped are not among them
    partial = len(before) == 0 or bool(before["flags"][0] & CandleFlag.PARTIAL)
    if partial:
        partial = not await ledger.covers(ts, ts + timeframe * NS_PER_SECOND)
    try:
        return bars_from_trades(
            trades[np.argsort(trades["seq"])],
            timeframe,
            price_scale=instrument.price_scale,
            size_scale=instrument.size_scale,
            quote_scale=instrument.quote_scale,
            observed_since_ns=None if partial else ts,
            revised=len(before) > 0,
        )
    except RangeError:
        return np.empty(0, CANDLE)
