"""Records as text: times, words for numbers, absent values."""

from __future__ import annotations

import json

import numpy as np

from marketd.client.frames import Frame
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, Records, empty
from marketd.market.times import ABSENT
from marketd.ops.rows import cell, json_value, shown_columns, table_row

BTC = Instrument(id=1, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=7)
TS = 1_723_161_240_000_000_000


def frame(kind: str, **values: object) -> Frame:
    records: Records = empty(BY_NAME[kind], 1)
    for name, value in values.items():
        records[name] = value
    return Frame(BY_NAME[kind], BTC, records)


def test_a_trade_is_shown_with_what_people_want() -> None:
    trade = frame("trade", ts_event=TS, trade_id=7, price=6_100_050, size=10_000, side=-1, flags=0, seq=3)
    row = {name: trade[name].tolist()[0] for name in shown_columns(trade)}
    assert table_row(trade, row) == ["2024-08-08T23:54:00.000000Z", "7", "61000.5", "0.1", "sell"]


def test_absent_values_are_empty_and_null() -> None:
    bar = frame("candle", ts=TS, timeframe=60, source=2)
    assert cell(bar, "open", bar["open"].tolist()[0]) == ""
    assert json_value(bar, "open", bar["open"].tolist()[0]) is None
    assert json_value(bar, "seq", ABSENT) is None
    assert json_value(bar, "source", 2) == "venue"


def test_counts_are_whole_in_json() -> None:
    bar = frame("candle", ts=TS, timeframe=60, source=1, trade_count=12, volume=500_000)
    assert json.dumps(json_value(bar, "trade_count", bar["trade_count"].tolist()[0])) == "12"
    assert json.dumps(json_value(bar, "volume", bar["volume"].tolist()[0])) == "5.0"


def test_the_ledger_speaks_in_words() -> None:
    row = frame("coverage", ts_event=TS, stream=1, state=2)
    assert (cell(row, "stream", 1), cell(row, "state", 2)) == ("trade", "gap")
    assert (cell(row, "stream", 0), cell(row, "stream", 4711)) == ("all", "4711")


def test_truth_is_a_word_or_nothing() -> None:
    bar = frame("candle", ts=TS)
    assert (cell(bar, "is_filled", True), cell(bar, "is_filled", False)) == ("yes", "")
    assert json_value(bar, "is_filled", np.bool_(True).item()) is True


def test_a_book_is_shown_by_its_state_and_the_levels_that_are_there() -> None:
    found = frame("book", ts_event=TS, state=2, sequence=7)
    found.records["bid_price"][0, :2] = 6_100_050, 6_100_000
    assert cell(found, "bid_price", found["bid_price"].tolist()[0]) == "61000.5 61000"
    assert json_value(found, "bid_price", found["bid_price"].tolist()[0]) == [61000.5, 61000.0, *[None] * 18]
    assert cell(found, "state", 2) == "live" and cell(found, "ask_price", found["ask_price"].tolist()[0]) == ""
    assert {"mid", "spread", "weighted_mid", "state", "bid_price"} <= set(shown_columns(found))
    assert not {"bid_count", "flags", "seq"} & set(shown_columns(found))


def test_why_an_imbalance_is_absent_is_a_word() -> None:
    found = frame("imbalance", ts_event=TS, state=3, reason=1)
    assert (cell(found, "state", 3), cell(found, "reason", 1), cell(found, "reason", 0)) == ("stale", "not_live", "0")


def test_people_see_an_absent_time_and_no_digits_that_say_nothing() -> None:
    gap = frame("coverage", ts_event=TS, ts_start=TS, ts_end=ABSENT, state=2)
    assert table_row(gap, {"ts_end": ABSENT}) == ["-"] and cell(gap, "ts_end", ABSENT) == ""
    fine = frame("imbalance", ts_event=TS, state=2, reason=0)
    assert table_row(fine, {"state": 2, "reason": 0}) == ["live", ""]
    book = frame("book", ts_event=TS, state=2)
    assert table_row(book, {"weighted_mid": 61837.633333333331}) == ["61837.633333"]
    assert cell(book, "weighted_mid", 61837.633333333331) == "61837.63333333333"
