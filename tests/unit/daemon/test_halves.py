"""Batches that are too long for a frame: cut until they fit, nothing lost, nothing out of order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lane import bars, trades
from marketd.daemon.halves import MAX_KEPT_BYTES, halves
from marketd.daemon.kernel import CANDLE_KIND, TRADE_KIND
from marketd.ipc.protocol import Rejection

Flat = list[Any]


def flat(parts: Any, rejected: Any) -> Flat:
    """Record by record, and rejection by rejection."""
    return [(kind.name, record.tobytes()) for kind, records in parts for record in records] + list(rejected)


def cut(parts: Any, rejected: Any, most: int) -> list[Flat]:
    """Into batches of at most `most` items."""
    if len(flat(parts, rejected)) <= most:
        return [flat(parts, rejected)]
    return [items for half in halves(parts, rejected) for items in cut(*half, most)]


@given(
    trade_count=st.integers(0, 20), bar_count=st.integers(0, 20), rejections=st.integers(0, 9), most=st.integers(1, 9)
)
def test_what_is_cut_until_it_fits_is_whole_and_in_order(
    trade_count: int, bar_count: int, rejections: int, most: int
) -> None:
    parts = [
        (TRADE_KIND, trades([(n, n, 100, 1) for n in range(trade_count)] or [(0, 0, 1, 1)])[:trade_count]),
        (CANDLE_KIND, bars(range(bar_count))),
    ]
    rejected = [Rejection("message", "unreadable", str(n), bytes(n)) for n in range(rejections)]
    pieces = cut(parts, rejected, most)
    assert [item for piece in pieces for item in piece] == flat(parts, rejected)
    assert all(len(piece) <= most for piece in pieces)


def test_a_single_message_that_is_too_long_keeps_its_beginning_and_says_so() -> None:
    long = Rejection("message", "unreadable", "no JSON", b"x" * 100_000)
    ((parts, (short,)),) = halves([], [long])
    assert not parts
    assert (short.rule, short.payload) == ("unreadable", b"x" * MAX_KEPT_BYTES)
    assert short.detail == "no JSON; only its beginning is kept"
    assert halves([], [short]) == []


@pytest.mark.parametrize("count", [0, 1])
def test_of_one_record_nothing_can_be_taken(count: int) -> None:
    records = trades([(0, 1, 100, 1)])[:count]
    assert halves([(TRADE_KIND, records)], []) == []
    assert np.array_equal(records, trades([(0, 1, 100, 1)])[:count])
