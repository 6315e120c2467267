"""Bars of a longer timeframe from bars of a shorter one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.aggregate import aggregate
from marketd.market.candles import bars_from_trades
from marketd.market.errors import InvalidArgument, RangeError
from marketd.market.fixed import MAX_FIXED
from marketd.market.records import CANDLE, TRADE, CandleFlag, Source
from marketd.market.times import ABSENT, NS_PER_SECOND

START = 1_723_161_600 * NS_PER_SECOND
SCALES = {"price_scale": 2, "size_scale": 3, "quote_scale": 2}


def minutes(count, first=0):
    bars = np.zeros(count, dtype=CANDLE)
    bars["ts"] = START + (first + np.arange(count)) * 60 * NS_PER_SECOND
    bars["timeframe"] = 60
    bars["source"] = Source.VENUE
    bars["open"], bars["high"], bars["low"], bars["close"] = 5, 9, 1, 6
    bars["volume"] = bars["quote_volume"] = bars["buy_volume"] = bars["trade_count"] = 2
    bars["seq"] = np.arange(count) + 10
    bars["ts_known"] = bars["ts"] + 1
    return bars


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 50), st.integers(1, 99)), min_size=1, max_size=50))
def test_bars_of_bars_are_the_bars_of_the_trades(trades):
    records = np.zeros(len(trades), dtype=TRADE)
    for index, (second, price, size) in enumerate(trades):
        records[index] = (START + second * NS_PER_SECOND, 0, 0, index, price, size, index % 3 - 1, 0)
    seconds = bars_from_trades(records, 1, **SCALES, observed_since_ns=0)
    for timeframe in (60, 300, 900):
        expected = bars_from_trades(records, timeframe, **SCALES, observed_since_ns=0)
        assert aggregate(seconds, timeframe).tobytes() == expected.tobytes()
        assert aggregate(seconds[::-1], timeframe).tobytes() == expected.tobytes()
        assert aggregate(aggregate(seconds, 60), timeframe).tobytes() == expected.tobytes()


def test_stamps_are_the_greatest_and_marks_are_inherited():
    bars = minutes(10)
    bars["flags"][1] = CandleFlag.PARTIAL | CandleFlag.REVISED
    bars["flags"][7] = CandleFlag.RECONSTRUCTED
    bars["source"][9] = Source.IMPORT
    longer = aggregate(bars, 300)
    assert longer["ts"].tolist() == [START, START + 300 * NS_PER_SECOND]
    assert longer["seq"].tolist() == [14, 19]
    assert longer["ts_known"].tolist() == [bars["ts_known"][4], bars["ts_known"][9]]
    assert longer["flags"].tolist() == [CandleFlag.PARTIAL, CandleFlag.RECONSTRUCTED]
    assert longer["source"].tolist() == [Source.VENUE, Source.IMPORT]
    assert longer["timeframe"].tolist() == [300, 300]


def test_a_volume_that_one_part_lacks_is_absent_and_the_others_are_not():
    bars = minutes(10)
    bars["buy_volume"][3] = ABSENT
    bars["trade_count"][8] = ABSENT
    longer = aggregate(bars, 300)
    assert longer["buy_volume"].tolist() == [ABSENT, 10]
    assert longer["trade_count"].tolist() == [10, ABSENT]
    assert longer["volume"].tolist() == [10, 10]
    assert bars["buy_volume"][3] == ABSENT


def test_the_same_timeframe_and_no_bars_stay_as_they_are():
    bars = minutes(3)
    assert aggregate(bars, 60) is bars
    assert not len(aggregate(bars[:0], 300))


def test_bars_that_do_not_divide_the_timeframe_are_refused():
    mixed = minutes(2)
    mixed["timeframe"][1] = 300
    for bars, timeframe in ((minutes(2), 90), (minutes(2), 30), (mixed, 300)):
        with pytest.raises(InvalidArgument, match="timeframe"):
            aggregate(bars, timeframe)


def test_a_volume_beyond_64_bits_is_an_error():
    bars = minutes(2)
    bars["volume"] = MAX_FIXED
    with pytest.raises(RangeError):
        aggregate(bars, 300)
