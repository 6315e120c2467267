"""Frames: columns in real numbers, slices, arrays, digests."""

import numpy as np
import pytest

from fake_daemon import BTC, CANDLE, FUNDING, TRADE, candles, trades
from marketd.client.frames import Frame
from marketd.ipc.protocol import Meta
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, empty, series_kind
from marketd.market.times import ABSENT


def frame_of_trades(count: int = 5) -> Frame:
    return Frame(TRADE, BTC, trades(range(count)), Meta(served_from="arena"))


def test_prices_are_the_doubles_of_their_decimal_text() -> None:
    records = trades(range(3))
    records["price"] = [6_183_763, 1, 10]
    assert Frame(TRADE, BTC, records)["price"].tolist() == [61837.63, 0.01, 0.1]


def test_an_absent_number_is_nan_and_an_integer_column_stays_integer() -> None:
    records = candles(range(2))
    records["quote_volume"][0] = ABSENT
    records["trade_count"][1] = ABSENT
    frame = Frame(CANDLE, BTC, records, timeframe=60)
    assert np.isnan(frame["quote_volume"]).tolist() == [True, False]
    assert frame["trade_count"].tolist()[0] == 3.0 and np.isnan(frame["trade_count"][1])
    assert frame["time"].dtype == np.int64 and frame["source"].dtype.kind == "i"


def test_the_columns_begin_with_time_and_end_with_the_stamps() -> None:
    assert frame_of_trades().columns == ("time", "trade_id", "price", "size", "side", "flags", "ts_known", "seq")


def test_a_declared_series_has_its_fields_as_columns() -> None:
    kind = series_kind(FUNDING.id, FUNDING.name, FUNDING.fields)
    records = empty(kind, 2)
    records["ts_event"], records["mark"][0], records["rate"][1] = [1, 2], 250, 0.5
    frame = Frame(kind, BTC, records)
    assert frame["mark"][0] == 2.5 and np.isnan(frame["mark"][1]) and np.isnan(frame["count"]).all()
    assert frame["rate"][1] == 0.5


def test_texts_of_records_are_text() -> None:
    records = np.zeros(1, dtype=BY_NAME["coverage"].dtype)
    records["reason"] = b"reconnect"
    assert Frame(BY_NAME["coverage"], BTC, records)["reason"].tolist() == ["reconnect"]


def test_a_column_is_made_once_and_shared_by_a_restamped_frame() -> None:
    frame = frame_of_trades()
    assert frame["price"] is frame["price"]
    other = frame.restamped(Meta(served_from="arena", watermark=9))
    assert other["price"] is frame["price"] and other.meta.watermark == 9 and frame.meta.watermark is None


def test_an_unknown_column_is_refused_and_the_choices_are_named() -> None:
    with pytest.raises(InvalidArgument, match=r"'prise' is none of time, .*price"):
        frame_of_trades()["prise"]


def test_slices_and_masks_are_frames_and_an_index_is_a_row() -> None:
    frame = frame_of_trades(6)
    assert len(frame[2:4]) == 2 and frame[2:4]["trade_id"].tolist() == [2, 3]
    assert frame[frame["trade_id"] > 3]["trade_id"].tolist() == [4, 5]
    assert frame[-1]["trade_id"] == 5 and frame[-1]["price"] == 100.05
    assert [row["trade_id"] for row in frame] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(IndexError):
        frame[6]


def test_extra_columns_are_sliced_with_the_records() -> None:
    frame = Frame(TRADE, BTC, trades(range(3)), extras={"is_own": np.array([True, False, True])})
    assert frame.columns[-1] == "is_own" and frame[1:]["is_own"].tolist() == [False, True]


def test_columns_go_side_by_side_into_an_array() -> None:
    array = frame_of_trades(3).to_numpy(["price", "size"])
    assert array.shape == (3, 2) and array.dtype == np.float64
    assert array[:, 0].tolist() == [100.0, 100.01, 100.02]
    assert frame_of_trades(3).to_numpy().shape == (3, 8)
    assert frame_of_trades(3).to_numpy(["price"], dtype=np.float32).dtype == np.float32


def test_a_given_array_is_filled_and_one_of_another_shape_refused() -> None:
    out = np.zeros((3, 1), dtype=np.float32)
    assert frame_of_trades(3).to_numpy(["price"], out=out) is out and out[0, 0] == 100.0
    with pytest.raises(InvalidArgument, match="out: its shape"):
        frame_of_trades(3).to_numpy(["price"], out=np.zeros((2, 1)))


def test_reals_are_not_squeezed_into_integers() -> None:
    with pytest.raises(InvalidArgument, match="'price' is float64"):
        frame_of_trades().to_numpy(["price"], dtype=np.int64)


def test_the_digest_is_of_the_data_and_not_of_the_meta() -> None:
    frame = frame_of_trades()
    assert frame.digest == frame.restamped(Meta(served_from="database")).digest
    changed = trades(range(5))
    changed["price"][0] += 1
    other_scale = Instrument(id=BTC.id, symbol=BTC.symbol, venue=BTC.venue, price_scale=3, size_scale=5, quote_scale=8)
    flagged = Frame(TRADE, BTC, frame.records, extras={"x": np.ones(5, dtype=bool)})
    others = [Frame(TRADE, BTC, changed), Frame(TRADE, other_scale, frame.records), flagged, frame[:4]]
    assert len({frame.digest, *(other.digest for other in others)}) == 5
