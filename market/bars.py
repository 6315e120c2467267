"""Which bar counts when there are several: by version, by source. Pure; arrays of CANDLE records in, arrays out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from marketd.market.errors import InvalidArgument
from marketd.market.records import CandleFlag, Records, Source

BAR_SOURCES = {"own": Source.OWN, "venue": Source.VENUE, "import": Source.IMPORT}
BEST = "best"


def source_number(bar_source: str) -> int | None:
    """The number of a named source; None for `best`. InvalidArgument names the choices."""
    if bar_source == BEST:
        return None
    if bar_source not in BAR_SOURCES:
        raise InvalidArgument(
            f"bar_source: {bar_source!r} is none of {', '.join((BEST, *BAR_SOURCES))}", field="bar_source"
        )
    return int(BAR_SOURCES[bar_source])


def preference(bars: Records) -> npt.NDArray[np.int64]:
    """Lower is better: own bars whose trades were observed throughout, the venue's, imported ones, partial own ones."""
    ranks = bars["source"].astype(np.int64)
    partial = (bars["source"] == Source.OWN) & ((bars["flags"] & CandleFlag.PARTIAL) != 0)
    ranks[partial] = max(Source) + 1
    return ranks


def newest_versions(bars: Records) -> Records:
    """Of each bar and source the version with the greatest `seq`; ordered by ts. One timeframe."""
    if len(bars) < 2:
        return bars
    order = np.lexsort((bars["seq"], bars["source"], bars["ts"]))
    ordered = bars[order]
    last = np.empty(len(ordered), dtype=bool)
    last[-1] = True
    last[:-1] = (ordered["ts"][1:] != ordered["ts"][:-1]) | (ordered["source"][1:] != ordered["source"][:-1])
    return ordered[last]


def pick_best(bars: Records) -> Records:
    """One bar for each ts, the best source's; ordered by ts. One timeframe, one version a source."""
    if len(bars) < 2:
        return bars
    ts = bars["ts"]
    steps = ts[1:] - ts[:-1]
    if (steps > 0).all():
        return bars  # the usual case: one source, in order already
    if (steps < 0).all():
        return bars[::-1]
    ordered = bars[np.lexsort((preference(bars), ts))]
    first = np.empty(len(ordered), dtype=bool)
    first[0] = True
    first[1:] = ordered["ts"][1:] != ordered["ts"][:-1]
    return ordered[first]


def finish_bars(bars: Records, bar_source: str, limit: int | None) -> Records:
    """What a reader gets of a store's rows: one version and one source a bar, oldest first, the newest `limit`."""
    chosen = pick_best(bars) if bar_source == BEST or len(bars) < 2 else bars[np.argsort(bars["ts"], kind="stable")]
    return chosen if limit is None else chosen[max(0, len(chosen) - limit) :]


SOURCES_PER_BAR = len(Source)  # a store must be asked for so many rows a bar to be sure of `limit` bars
