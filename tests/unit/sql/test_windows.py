"""How far back the newest is looked for, step by step."""

from __future__ import annotations

import time

import numpy as np

from marketd.market.records import BY_NAME, TRADE
from marketd.sql.read import CopiedRows, Span
from marketd.sql.windows import newest_in_windows, windows

DAY = 86_400 * 10**9
NOON = 20_000 * DAY + DAY // 2  # of 2024


def days(span: Span) -> list[int | None]:
    end = span.end or 0
    return [None if window.start is None else (end - window.start) // DAY for window in windows(span)]


def test_windows_grow_until_they_are_as_good_as_all() -> None:
    assert days(Span(None, NOON)) == [3, 48, 768, None]
    assert list(windows(Span(5, NOON))) == [Span(5, NOON)]


def test_a_window_holds_what_is_asked_for_and_the_day_ahead_of_now() -> None:
    found = [each.start for each in windows(Span(None, NOON), reach_ns=100 * DAY)]
    assert found == [NOON - 100 * DAY, None]
    first = next(iter(windows(Span())))
    assert first.end is None
    assert first.start is not None and 1.9 * DAY < time.time_ns() - first.start < 2.1 * DAY


async def test_it_ends_with_the_first_window_that_has_enough() -> None:
    asked: list[Span] = []

    def rows_of(window: Span) -> int:
        return 10 if window.start is None or window.start < NOON - 40 * DAY else 2

    async def read(window: Span) -> CopiedRows:
        asked.append(window)
        return CopiedRows("trades", BY_NAME["trade"], b"", np.empty(rows_of(window), TRADE))

    assert (await newest_in_windows(read, Span(None, NOON), 5)).size() == 10
    assert len(asked) == 2
    asked.clear()
    await newest_in_windows(read, Span(None, NOON), 50)
    assert asked[-1] == Span(None, NOON) and len(asked) == 4
    asked.clear()
    await newest_in_windows(read, Span(None, NOON), None)
    assert asked == [Span(None, NOON)]
