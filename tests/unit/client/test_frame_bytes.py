"""Frames as bytes: complete, checked, refused when damaged."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_daemon import BTC, CANDLE, FUNDING, TRADE, candles, trades
from marketd.client.frames import Frame
from marketd.ipc.protocol import Meta
from marketd.market.errors import InvalidArgument
from marketd.market.records import empty, series_kind


def test_a_frame_comes_back_whole() -> None:
    meta = Meta(served_from="arena", watermark=5, gaps=[(1, 2)], durable=True)
    frame = Frame(CANDLE, BTC, candles(range(3)), meta, timeframe=60, extras={"is_filled": np.array([1, 0, 1], "?")})
    again = Frame.from_bytes(frame.to_bytes())
    assert again.digest == frame.digest
    assert (again.instrument, again.meta, again.timeframe) == (frame.instrument, meta, 60)
    assert again["is_filled"].tolist() == [True, False, True]


def test_a_declared_series_needs_no_config_to_be_read() -> None:
    kind = series_kind(FUNDING.id, FUNDING.name, FUNDING.fields)
    frame = Frame(kind, BTC, empty(kind, 2))
    assert Frame.from_bytes(frame.to_bytes()).digest == frame.digest


def test_a_frame_survives_pickling_and_an_empty_one_too() -> None:
    for records in (trades(range(4)), trades([])):
        frame = Frame(TRADE, BTC, records)
        assert pickle.loads(pickle.dumps(frame)).digest == frame.digest


def test_bytes_of_something_else_and_of_another_version_are_refused() -> None:
    data = Frame(TRADE, BTC, trades(range(2))).to_bytes()
    with pytest.raises(InvalidArgument, match="no frame"):
        Frame.from_bytes(b"PNG" + data)
    with pytest.raises(InvalidArgument, match="version 9"):
        Frame.from_bytes(data[:7] + b"\x09" + data[8:])


@given(st.data())
def test_no_damage_goes_unnoticed(data: st.DataObject) -> None:
    whole = Frame(TRADE, BTC, trades(range(2))).to_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :]
    with pytest.raises(InvalidArgument):
        Frame.from_bytes(damaged)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        Frame.from_bytes(b"MDFRAME\x01" + data)
