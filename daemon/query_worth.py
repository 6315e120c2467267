"""What an answer of the database is worth: `meta.coverage` and `meta.gaps`, from the stored ledger and what only the
arena has.

The stretch that is judged is the one that was asked for, until now: a gap that has not ended is missing also where
nothing has come since. Of an instrument that is not live it ends with the newest record, unless an end was named. Where
no start was named it begins with the oldest record of the answer. Bars of a timeframe that is not stored are worth what
those are that they are made of.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from marketd.daemon.answers import Result, time_bounds
from marketd.daemon.query_facts import Facts
from marketd.daemon.query_tail import Tail
from marketd.market.book_means import KIND_NAME
from marketd.market.records import BY_NAME, Coverage, Kind, Records
from marketd.market.rows import BAR_VERSIONS
from marketd.market.worth import UNKNOWN, Worth, stretch_of, table_of, worse, worth_of
from marketd.sql.read import Span

_BOOK, _CANDLE = BY_NAME["book"], BY_NAME["candle"]


class _Stretch(NamedTuple):
    start: int
    end: int
    newest: int  # the newest event


async def worth_of_answer(
    facts: Facts, results: Sequence[tuple[Result, int | None]], span: Span, known_at: int | None
) -> Worth:
    """Of results and their timeframes (s); of several the worst, and the gaps of all."""
    tail = await facts.tail()
    stretches = [_stretch(result, timeframe, span, known_at, tail) for result, timeframe in results]
    told = [stretch.start for stretch in stretches if stretch is not None]
    if not told:
        return UNKNOWN
    ledger = await facts.ledger(min(told))
    found = [
        UNKNOWN if stretch is None else _worth(ledger, result, stretch, timeframe, known_at)
        for (result, timeframe), stretch in zip(results, stretches, strict=True)
    ]
    coverage = found[0].coverage
    for each in found[1:]:
        coverage = worse(coverage, each.coverage)
    return Worth(coverage, sorted({gap for each in found for gap in each.gaps}))


def _stretch(result: Result, timeframe: int | None, span: Span, known_at: int | None, tail: Tail) -> _Stretch | None:
    """What a result is judged for; None where there is nothing that the ledger could speak of."""
    start, newest_ns = span.start, tail.newest_ns
    if not newest_ns and span.end is not None:
        # what was asked for is judged though nothing of it is there: that may be what the ledger has to say
        newest_ns = time.time_ns()
    if start is None or not newest_ns:  # finding out the times of packed blocks means unpacking them
        told = stretch_of(_kind_of(result), time_bounds(result), timeframe)
        if start is None:
            if told is None:
                return None
            start = told[0]
        newest_ns = newest_ns or (time.time_ns() if told is None else told[1])
    now_ns = max(newest_ns + 1, time.time_ns()) if tail.is_live else newest_ns
    return _Stretch(start, min(each for each in (span.end, known_at, now_ns) if each is not None), newest_ns)


def _kind_of(result: Result) -> Kind:
    """Books by the second are worth what the books are."""
    return _BOOK if result.kind.name == KIND_NAME else result.kind


def _worth(ledger: Records, result: Result, stretch: _Stretch, timeframe: int | None, known_at: int | None) -> Worth:
    kind = _kind_of(result)
    stored = timeframe if result.made_of is None else result.made_of.timeframe
    found = ledger.copy()
    dropped = found["state"] == Coverage.EXPIRED
    if result.made_of is not None:  # what was dropped before then, longer bars had been made of
        found["ts_start"][dropped] = np.maximum(found["ts_start"][dropped], result.made_of.since)
    if kind.name == _CANDLE.name and known_at is not None:
        # a version that was replaced later than that is part of what was known then
        replaced = dropped & (found["reason"] == BAR_VERSIONS.encode()) & (found["ts_known"] > known_at)
        found["reason"][replaced] = table_of(kind, stored).encode()
    worth = worth_of(found, kind, stretch.start, stretch.end, stored)
    return UNKNOWN if stretch.start > stretch.newest and not worth.gaps else worth  # nothing was heard there yet
