"""The newest closed bar of many instruments: one statement, completed by what only shared memory has yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from marketd.daemon.query_tail import Tail
from marketd.ipc.protocol import LatestAnswer, Meta, ResultPart
from marketd.market.bars import finish_bars, newest_versions
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, CANDLE, Records
from marketd.market.times import timeframe_name
from marketd.sql.read import Span
from marketd.sql.read_latest import read_latest_bars
from marketd.sql.store import Connection

EVERYTHING = Span()


async def latest_bars(
    connection: Connection, tails: Mapping[int, Tail], timeframe: int, bar_source: str
) -> dict[int, Records]:
    """By instrument id, its newest closed bar (shape (1,)), of those that have one."""
    found = await read_latest_bars(connection, list(tails), timeframe, bar_source=bar_source)
    for number, tail in tails.items():
        beyond = tail.bars(timeframe, EVERYTHING, bar_source)
        if len(beyond):
            stored = found.get(number, np.empty(0, CANDLE))
            found[number] = finish_bars(newest_versions(np.concatenate([stored, beyond])), bar_source, 1)
    return found


def latest_answer(
    instruments: Sequence[Instrument], found: Mapping[int, Records], tails: Mapping[int, Tail], timeframe: int
) -> tuple[LatestAnswer, Records]:
    """The reply, and the bars in the order of its instruments."""
    have = [instrument for instrument in instruments if instrument.id in found]
    bars = np.concatenate([np.empty(0, CANDLE), *(found[instrument.id] for instrument in have)])
    part = ResultPart(
        name=f"candle.{timeframe_name(timeframe)}", kind=BY_NAME["candle"].name, count=len(bars), encoding="records"
    )
    return LatestAnswer(instruments=have, parts=[part], meta=_meta(tails.values())), bars


def _meta(tails: Iterable[Tail]) -> Meta:
    """Of all together: the oldest of the watermarks, as the answer is complete up to there."""
    each = list(tails)
    watermarks = [tail.watermark for tail in each if tail.watermark is not None]
    stale = [tail.stale_ns for tail in each if tail.stale_ns is not None]
    return Meta(
        served_from="database+arena" if any(tail.used for tail in each) else "database",
        watermark=min(watermarks, default=None),
        stale_ns=max(stale, default=None),
    )
