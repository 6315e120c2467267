"""A caller's rows as records; what does not fit is refused by index and rule, without cost for its neighbours."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_daemon import BTC, CANDLE, FUNDING, TRADE, candles, trades
from marketd.client.encode import Encoded, encode
from marketd.client.encode_fields import encode_ids, encode_sides
from marketd.client.frames import Frame
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import TradeFlag, series_kind
from marketd.market.rules import RULES
from marketd.market.times import ABSENT
from marketd.market.trade_ids import hashed_id

NOON = datetime(2024, 8, 8, 12, tzinfo=UTC)
NOON_NS = 1_723_118_400_000_000_000
BARS = {"timeframe": 60, "source": 2}
FUNDING_KIND = series_kind(FUNDING.id, FUNDING.name, FUNDING.fields)


def encode_trades(**columns: Any) -> Encoded:
    count = len(next(iter(columns.values())))
    defaults = {"time": [NOON_NS] * count, "price": ["1"] * count, "size": ["1"] * count}
    return encode(TRADE, BTC, defaults | columns, {})


def refusals(encoded: Encoded) -> list[tuple[int, str]]:
    assert all(refusal.rule in RULES for refusal in encoded.refused)
    return [(refusal.index, refusal.rule) for refusal in encoded.refused]


def test_numbers_may_be_text_float_int_or_decimal() -> None:
    encoded = encode_trades(price=["61837.63", 61837.63, 61837, Decimal("61837.630")])
    assert encoded.records["price"].tolist() == [6_183_763, 6_183_763, 6_183_700, 6_183_763]
    assert not encoded.refused and encoded.places is None


def test_an_array_of_floats_is_snapped_to_the_grid_and_flagged() -> None:
    encoded = encode_trades(price=np.array([0.1 + 0.2, 0.3]))
    assert encoded.records["price"].tolist() == [30, 30]
    assert (encoded.records["flags"] & TradeFlag.SNAPPED).astype(bool).tolist() == [True, False]


def test_a_bad_number_costs_only_its_own_row() -> None:
    prices: list[Any] = ["1.5", "1.555", "1e99", float("nan"), float("inf"), "abc", None, "2"]
    encoded = encode_trades(price=prices)
    assert encoded.records["price"].tolist() == [150, 200]
    assert encoded.places is not None and encoded.places.tolist() == [0, 7]
    names = ["precision", "range", "not_finite", "not_finite", "not_finite", "absent"]
    assert refusals(encoded) == list(zip(range(1, 7), names, strict=True))


def test_times_of_every_kind_are_floored_to_microseconds() -> None:
    encoded = encode_trades(time=[NOON, "2024-08-08T14:00:00+02:00", NOON_NS + 1_999, np.int64(NOON_NS)])
    assert encoded.records["ts_event"].tolist() == [NOON_NS, NOON_NS, NOON_NS + 1_000, NOON_NS]


def test_a_time_without_a_zone_is_refused_by_name() -> None:
    times = [NOON.replace(tzinfo=None), "2024-08-08T12:00:00", np.datetime64("2024-08-08"), "soon", None, NOON]
    encoded = encode_trades(time=times)
    rules = ["naive", "naive", "naive", "not_finite", "absent"]
    assert refusals(encoded) == list(zip(range(5), rules, strict=True))
    assert len(encoded.records) == 1


def test_ids_that_are_no_integers_are_hashed_and_flagged() -> None:
    encoded = encode_trades(trade_id=[17, "18", "a-b", "007", 2**64])
    assert encoded.records["trade_id"].tolist() == [17, 18, hashed_id("a-b"), hashed_id("007")]
    assert encoded.records["flags"].tolist() == [0, 0, TradeFlag.HASHED_ID, TradeFlag.HASHED_ID]
    assert refusals(encoded) == [(4, "range")]


def test_trades_without_ids_get_different_ones() -> None:
    encoded = encode_trades(price=["1"] * 100)
    assert len(set(encoded.records["trade_id"].tolist())) == 100
    assert (encoded.records["flags"] == TradeFlag.HASHED_ID).all()


def test_sides_are_words_or_numbers() -> None:
    field = encode_sides(["buy", "SELL", 1, -1, 0, None, "unknown", "up"], "side")
    assert field.values.tolist() == [1, -1, 1, -1, 0, 0, 0, 0] and set(field.flaws) == {7}


def test_what_a_bar_does_not_tell_is_absent() -> None:
    bar = {"time": [0], "open": ["1"], "high": ["3"], "low": ["1"], "close": ["2"], "volume": ["9"]}
    encoded = encode(CANDLE, BTC, bar | {"buy_volume": [None]}, BARS)
    record = encoded.records[0]
    assert [int(record[name]) for name in ("quote_volume", "buy_volume", "trade_count")] == [ABSENT] * 3
    assert (int(record["timeframe"]), int(record["source"]), int(record["flags"])) == (60, 2, 0)
    assert (int(record["ts_known"]), int(record["seq"])) == (0, 0)


def test_a_series_may_leave_out_any_field() -> None:
    rows = {"time": [NOON, NOON, NOON], "rate": [0.25, None, float("inf")], "count": [3, None, 4]}
    encoded = encode(FUNDING_KIND, BTC, rows, {})
    assert encoded.records["rate"][0] == 0.25 and np.isnan(encoded.records["rate"][1])
    assert encoded.records["count"].tolist() == [3, ABSENT] and (encoded.records["mark"] == ABSENT).all()
    assert refusals(encoded) == [(2, "not_finite")]


def test_what_is_no_table_at_all_is_an_error_in_plain_words() -> None:
    with pytest.raises(InvalidArgument, match="'prize' is no column of trade"):
        encode_trades(prize=["1"])
    with pytest.raises(InvalidArgument, match="'size' is missing"):
        encode(TRADE, BTC, {"time": [1], "price": ["1"]}, {})
    with pytest.raises(InvalidArgument, match="different lengths"):
        encode_trades(price=["1"], size=["1", "2"])
    with pytest.raises(InvalidArgument, match="neither a dict"):
        encode(TRADE, BTC, [1, 2], {})
    with pytest.raises(InvalidArgument, match="no one-dimensional array of trade records"):
        encode(TRADE, BTC, candles(range(2)), {})


def test_records_and_frames_go_through_as_they_are() -> None:
    records = trades(range(3))
    assert (encode(TRADE, BTC, records, {}).records == records).all()
    assert (encode(TRADE, BTC, Frame(TRADE, BTC, records), {}).records == records).all()
    coarse = Instrument(id=1, symbol="X", venue="Y", price_scale=1, size_scale=5, quote_scale=6)
    with pytest.raises(InvalidArgument, match="scales"):
        encode(TRADE, coarse, Frame(TRADE, BTC, records), {})


def test_a_dataframe_of_marketd_goes_back_in() -> None:
    pytest.importorskip("pandas")
    frame = Frame(CANDLE, BTC, candles(range(1, 4)), timeframe=60)
    encoded = encode(CANDLE, BTC, frame.to_pandas(), BARS)
    assert not encoded.refused
    for name in ("ts", "open", "close", "volume", "trade_count", "timeframe"):
        assert (encoded.records[name] == frame.records[name]).all()
    assert (encoded.records["source"] == 2).all()


def test_times_of_a_dataframe_may_be_of_another_unit_or_zone_but_not_naive() -> None:
    pandas = pytest.importorskip("pandas")
    data = pandas.DataFrame({"price": ["1"], "size": ["1"]}, index=pandas.DatetimeIndex([NOON]).as_unit("s"))
    moved = data.tz_convert("Europe/Berlin")
    assert encode(TRADE, BTC, data, {}).records["ts_event"].tolist() == [NOON_NS]
    assert encode(TRADE, BTC, moved, {}).records["ts_event"].tolist() == [NOON_NS]
    assert refusals(encode(TRADE, BTC, data.tz_localize(None), {})) == [(0, "naive")]
    column = data.reset_index(names="time")
    assert encode(TRADE, BTC, column, {}).records["ts_event"].tolist() == [NOON_NS]


def test_a_missing_value_of_pandas_is_absent() -> None:
    pandas = pytest.importorskip("pandas")
    rows = {"time": [NOON] * 2, "mark": pandas.Series([1.5, None], dtype="Float64")}
    assert encode(FUNDING_KIND, BTC, rows, {}).records["mark"].tolist() == [150, ABSENT]


@given(st.lists(st.one_of(st.integers(0, 10**9).map(lambda n: f"{n / 100:.2f}"), st.text(max_size=5)), min_size=1))
def test_every_row_is_either_sent_or_refused(prices: list[str]) -> None:
    encoded = encode_trades(price=prices)
    refused = {refusal.index for refusal in encoded.refused}
    places = range(len(prices)) if encoded.places is None else encoded.places.tolist()
    assert sorted([*refused, *places]) == list(range(len(prices)))
    assert len(encoded.records) == len(places)


def test_a_trade_id_that_is_a_fraction_is_refused() -> None:
    """As text it would be hashed, and no number of the venue's would ever be its equal."""
    field = encode_ids([1.5, 17.0, 2.0**60, float("nan")], "trade_id")
    assert field.marks is not None
    assert field.values[1] == 17 and not field.marks[1]
    assert {index: rule for index, (rule, _) in field.flaws.items()} == {0: "range", 2: "range"}
    assert field.marks[3]  # as None: there is no id
