"""Which source's bar is the best one, against a plain loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fake_daemon import MINUTE_NS, candles
from marketd.client.cache import merge_best
from marketd.market.records import CandleFlag, Source

minutes = st.sets(st.integers(0, 12))


@given(minutes, minutes, minutes, st.integers(1, 14))
def test_own_bars_go_first_unless_partial_and_the_venue_knows_better(
    own: set[int], partial: set[int], venue: set[int], limit: int
) -> None:
    bars = candles(sorted(own))
    bars["flags"] = [CandleFlag.PARTIAL if minute in partial else 0 for minute in sorted(own)]
    theirs = candles(sorted(venue), source=Source.VENUE)
    best = merge_best(bars[-limit:], theirs[-limit:], limit, MINUTE_NS)
    expected = []
    for minute in sorted(own | venue):
        own_counts = minute in own and not (minute in partial and minute in venue)
        expected.append((minute, int(Source.OWN if own_counts else Source.VENUE)))
    found = list(zip((best["ts"] // MINUTE_NS).tolist(), best["source"].tolist(), strict=True))
    assert found == expected[-limit:]


def test_the_usual_case_hands_out_the_own_bars_untouched() -> None:
    own, venue = candles(range(5)), candles(range(4), source=Source.VENUE)
    assert merge_best(own, venue, 5, MINUTE_NS) is own
    assert np.shares_memory(merge_best(own, venue[:0], 5, MINUTE_NS), own)
