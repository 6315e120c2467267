"""What records are worth by the ledger: were those of a stretch all received, and if not, where are they missing? Pure.

Bars are made of trades, so it is the trades' ledger that speaks of them; imbalances, buckets and changes are made of
the book, and a declared series has a ledger of its own, where a feed brings it. But whether retention has dropped them
is a matter of their own table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from marketd.market.records import BY_NAME, Coverage, Kind, Records
from marketd.market.rows import ONE_SECOND_BARS
from marketd.market.timeline import SEVERITY, Seen, in_order, timeline
from marketd.market.times import NS_PER_SECOND

_TRADE, _BOOK = BY_NAME["trade"].id, BY_NAME["book"].id
_STREAMS = {
    "trade": _TRADE,
    "candle": _TRADE,
    "activity_bar": _TRADE,
    "book": _BOOK,
    "book_delta": _BOOK,
    "imbalance": _BOOK,
    "buckets": _BOOK,
    "book_venues": _BOOK,
}
MAX_GAPS = 1000  # that are listed; the last one then reaches to the end


class Worth(NamedTuple):
    """`coverage`: the worst that befell the stretch, as `marketd coverage` names it; None: the ledger says nothing of
    such records, or not enough of it is known. `gaps`: [start, end) ns.
    """

    coverage: str | None
    gaps: list[tuple[int, int]]


UNKNOWN = Worth(None, [])


def stream_of(kind: Kind) -> int:
    """Whose ledger speaks of records of a kind, as a kind's number; 0: none does."""
    return _STREAMS.get(kind.name, kind.id if kind.declared else 0)


def table_of(kind: Kind, timeframe: int | None) -> str:
    """The table that has such records."""
    return ONE_SECOND_BARS if kind.name == "candle" and timeframe == 1 else kind.table or ""


def span_of(kind: Kind, records: Records, timeframe: int | None) -> tuple[int, int] | None:
    """The stretch of event time that records speak of; None when there are none."""
    times = records[kind.time] if len(records) and stream_of(kind) else None
    return None if times is None else stretch_of(kind, (int(times.min()), int(times.max())), timeframe)


def stretch_of(kind: Kind, bounds: tuple[int, int] | None, timeframe: int | None) -> tuple[int, int] | None:
    """The same by the oldest and the newest time of the records."""
    if bounds is None or not stream_of(kind):
        return None
    length = 1 if timeframe is None else timeframe * NS_PER_SECOND
    return bounds[0], bounds[1] + length


def worth_of(coverage: Records, kind: Kind, start_ns: int, end_ns: int, timeframe: int | None = None) -> Worth:
    """Of [start_ns, end_ns), by the COVERAGE records of an instrument from the beginning of its stream on."""
    stream = stream_of(kind)
    if not stream or end_ns <= start_ns:
        return UNKNOWN
    if kind.declared and stream not in coverage["stream"]:
        return UNKNOWN  # a producer's: nobody keeps a ledger of it
    line = timeline(_of_table(coverage, kind, stream, timeframe), stream, start_ns, end_ns)
    missing = [stretch for stretch in line if not stretch.state.is_whole]
    gaps: list[tuple[int, int]] = []
    for stretch in missing:
        if gaps and (gaps[-1][1] == stretch.start or len(gaps) == MAX_GAPS):
            gaps[-1] = gaps[-1][0], stretch.end
        else:
            gaps.append((stretch.start, stretch.end))
    return Worth(min((stretch.state for stretch in line), key=SEVERITY.__getitem__).value, gaps)


def worth_of_newest(coverage: Records, kind: Kind, start_ns: int, end_ns: int) -> Worth:
    """The same where only the newest of the ledger is at hand: it must say since when the stream was observed."""
    events = coverage[np.isin(coverage["stream"], (stream_of(kind) or -1, 0))]
    if not len(events) or events["state"][in_order(events)[0]] != Coverage.OBSERVED:
        return UNKNOWN
    return worth_of(coverage, kind, start_ns, end_ns)


def worse(one: str | None, other: str | None) -> str | None:
    """Of two answers' coverage; of what is not known nothing can be said."""
    if one is None or other is None:
        return None
    return min(Seen(one), Seen(other), key=SEVERITY.__getitem__).value


def _of_table(coverage: Records, kind: Kind, stream: int, timeframe: int | None) -> Records:
    """With what was dropped of the kind's own table in place of what was dropped of the stream that it is made of."""
    table = table_of(kind, timeframe)
    is_dropped = coverage["state"] == Coverage.EXPIRED
    found: Records = coverage[~is_dropped | (coverage["reason"] == table.encode())]
    dropped = found["state"] == Coverage.EXPIRED
    found["stream"][dropped] = stream
    found["reason"][dropped] = kind.name.encode()
    return found
