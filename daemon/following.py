"""What accepted bars and events of the ledger change in an instrument's state. Pure."""

from __future__ import annotations

import numpy as np

from marketd.daemon.instrument_state import InstrumentState
from marketd.market.candles import Folded
from marketd.market.records import BY_NAME, CandleFlag, Coverage, Ended, Records, Source
from marketd.market.times import ABSENT

MAX_VENUE_BARS = 1_000  # (source, timeframe)s of an instrument whose newest bar is known
_TRADE_STREAM = BY_NAME["trade"].id


def follow_bars(state: InstrumentState, bars: Records) -> None:
    """Remember the newest bar per source and timeframe; a bar at or before it revises (the flag is set in place)."""
    for index in range(len(bars)):
        source, ts = int(bars["source"][index]), int(bars["ts"][index])
        if source == Source.OWN:
            continue
        key = (source, int(bars["timeframe"][index]))
        if ts > state.venue_bars.get(key, ABSENT):
            state.venue_bars[key] = ts
            if len(state.venue_bars) > MAX_VENUE_BARS:
                # a bar of a forgotten timeframe that comes again merges in the database, only without its flag
                del state.venue_bars[next(iter(state.venue_bars))]
        elif bars.flags.writeable:
            bars["flags"][index] |= CandleFlag.REVISED


def forget_rebuilt(state: InstrumentState, bars: Records) -> None:
    """Own bars that came by themselves were computed from the stored trades; a venue's are no answer to that."""
    if state.rebuild:
        own = bars[bars["source"] == Source.OWN]
        for timeframe, ts in zip(own["timeframe"].tolist(), own["ts"].tolist(), strict=True):
            state.rebuild.pop((timeframe, ts), None)


def follow_coverage(state: InstrumentState, events: Records) -> Folded | None:
    """What the ledger's events make of the bars: full, partial, or closed as they stand."""
    state.observed.follow(events)
    changed = []
    for event in events:
        if event["stream"] not in (0, _TRADE_STREAM):
            continue  # what happened to the venue's own bars does not touch those made of trades
        start, end = int(event["ts_start"]), int(event["ts_end"])
        if event["state"] in (Coverage.GAP, Coverage.VENUE_DOWN):
            changed.append(state.fold.unobserved(start) if end == ABSENT else state.fold.gap(start, end))
            if state.activity is not None:
                state.activity.interrupted()
        elif event["state"] == Coverage.BACKFILLED:
            changed.append(state.fold.filled(start, end))
        elif event["state"] == Coverage.OBSERVED:
            changed.append(state.fold.observe(start))
        elif event["state"] == Coverage.ENDED:
            if event["detail"] == Ended.BARS_CLOSED:
                changed.append(state.fold.flush())
            changed.append(state.fold.unobserved(start))
    bars = [each for each in changed if len(each)]
    return Folded(np.concatenate(bars), []) if bars else None
