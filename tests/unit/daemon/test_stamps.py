"""Stamps: whole microseconds in every time that the database keeps, so that what is stored equals what was live."""

from __future__ import annotations

import numpy as np
import pytest

from marketd.daemon.stamps import SMALL_BATCH, stamp
from marketd.market.records import BY_NAME, Coverage
from marketd.market.times import ABSENT

COVERAGE, TRADE = BY_NAME["coverage"], BY_NAME["trade"]


@pytest.mark.parametrize("count", [1, SMALL_BATCH, SMALL_BATCH + 1])
def test_all_times_of_the_ledgers_events_are_whole_microseconds(count: int) -> None:
    events = np.zeros(count, dtype=COVERAGE.dtype)
    events["ts_event"], events["ts_start"], events["ts_end"] = 5_999, 5_999, 7_001
    events["ts_end"][-1] = ABSENT
    events["state"] = Coverage.GAP
    before = events.copy()
    data, stamped = stamp(COVERAGE, events, 9_000, 3)
    assert stamped["ts_event"].tolist() == stamped["ts_start"].tolist() == [5_000] * count
    assert stamped["ts_end"].tolist() == [7_000] * (count - 1) + [ABSENT]
    assert stamped["seq"].tolist() == list(range(3, 3 + count)) and set(stamped["ts_known"].tolist()) == {9_000}
    assert bytes(data) == stamped.tobytes()
    assert events.tobytes() == before.tobytes()


@pytest.mark.parametrize("count", [1, SMALL_BATCH + 1])
def test_other_fields_stay_as_they_are(count: int) -> None:
    trades = np.zeros(count, dtype=TRADE.dtype)
    trades["ts_event"], trades["price"], trades["trade_id"] = 1_234, 1_234, np.arange(count)
    _, stamped = stamp(TRADE, trades, 9_000, 1)
    assert stamped["ts_event"].tolist() == [1_000] * count
    assert stamped["price"].tolist() == [1_234] * count
