"""How long an answer is worked on: shorter than its caller waits."""

from __future__ import annotations

import pytest

from marketd.daemon.query import seconds_for
from marketd.ipc.protocol import Rows


@pytest.mark.parametrize(
    ("timeout_ms", "seconds"), [(100, 0.09), (1_000, 0.9), (30_000, 29.75), (36_000_000, 600.0)], ids=str
)
def test_who_waits_for_an_answer_hears_what_is_in_its_way_before_giving_up(timeout_ms: int, seconds: float) -> None:
    assert seconds_for(Rows(symbol="BTCUSDT.BINANCE", stream="trade", timeout_ms=timeout_ms)) == pytest.approx(seconds)
