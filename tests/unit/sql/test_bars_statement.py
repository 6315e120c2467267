"""Bars are asked for in their order where a limit may leave some out, and in any where it cannot."""

from __future__ import annotations

import pytest

from marketd.market.times import NS_PER_SECOND
from marketd.sql.read import NO_LIMIT, Span, bars_statement

MINUTE = 60 * NS_PER_SECOND
HOUR = Span(0, 60 * MINUTE)


@pytest.mark.parametrize(
    ("span", "timeframe", "rows", "in_order"),
    [
        (HOUR, 60, 3 * 60, True),  # a bar of each source in every minute
        (HOUR, 60, 3 * 61, True),
        (Span(1, 60 * MINUTE + 1), 60, 3 * 61, True),
        (HOUR, 60, 3 * 61 + 1, False),
        (HOUR, 1, 3 * 61 + 1, True),
        (HOUR, 1, NO_LIMIT, False),
        (Span(None, 60 * MINUTE), 60, 1000, True),
        (Span(0, None), 60, 1000, True),
        (Span(), 60, NO_LIMIT, False),
    ],
)
def test_only_what_a_limit_cannot_cut_comes_in_any_order(span: Span, timeframe: int, rows: int, in_order: bool) -> None:
    for source in (None, 1):
        statement, _ = bars_statement(1, timeframe, span, rows, source, None)
        assert ("ORDER BY ts DESC" in statement) is in_order
