"""What an answer of the database is worth: `meta.coverage` and `meta.gaps`, from the stored ledger and what only the
arena has.

The stretch that is judged is the one that was asked for, until now: a gap that has not ended is missing also where
nothing has come since. Of an instrument that is not live it ends with the newest record. Where no start was named it
begins with the oldest record of the answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from marketd.daemon.answers import Result, time_bounds
from marketd.daemon.query_facts import Facts
from marketd.daemon.query_tail import Tail
from marketd.market.records import Records
from marketd.market.worth import UNKNOWN, Worth, stretch_of, worse, worth_of
from marketd.sql.read import Span


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
        UNKNOWN if stretch is None else _judge(ledger, result.kind.name, stretch, timeframe)
        for (result, timeframe), stretch in zip(results, stretches, strict=True)
    ]
    coverage = found[0].coverage
    for each in found[1:]:
        coverage = worse(coverage, each.coverage)
    return Worth(coverage, sorted({gap for each in found for gap in each.gaps}))


def _judge(ledger: Records, kind: str, stretch: _Stretch, timeframe: int | None) -> Worth:
    worth = worth_of(ledger, kind, stretch.start, stretch.end, timeframe)
    return UNKNOWN if stretch.start > stretch.newest and not worth.gaps else worth  # nothing was heard there yet


def _stretch(result: Result, timeframe: int | None, span: Span, known_at: int | None, tail: Tail) -> _Stretch | None:
    """What a result is judged for; None where there is nothing that the ledger could speak of."""
    start, newest_ns = span.start, tail.newest_ns
    if start is None or not newest_ns:
        told = stretch_of(result.kind.name, time_bounds(result), timeframe)
        if told is None:
            return None
        start = told[0] if start is None else start
        newest_ns = newest_ns or told[1]
    now_ns = max(newest_ns + 1, time.time_ns()) if tail.is_live else newest_ns
    return _Stretch(start, min(each for each in (span.end, known_at, now_ns) if each is not None), newest_ns)
