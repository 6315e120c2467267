"""Records to binary COPY and back: PostgreSQL's own layout, and the same bits again."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.errors import InvalidArgument, ProtocolError
from marketd.market.records import BY_NAME, CANDLE, TRADE, Kind, empty, series_kind
from marketd.market.rows import codec
from marketd.market.times import ABSENT

FUNDING = series_kind(64, "funding", {"rate": "f8", "mark": "price"})
TABLES = [
    ("trades", BY_NAME["trade"]),
    ("candles", BY_NAME["candle"]),
    ("candle_versions", BY_NAME["candle"]),
    ("series_funding", FUNDING),
]


def read_copy(data: bytes) -> list[list[bytes]]:
    """The fields of binary COPY data, read as PostgreSQL's manual describes it."""
    assert data[:11] == b"PGCOPY\n\xff\r\n\0"
    flags, extension = struct.unpack_from(">ii", data, 11)
    assert flags == 0
    position, rows = 19 + extension, []
    while True:
        (count,) = struct.unpack_from(">h", data, position)
        position += 2
        if count == -1:
            assert position == len(data)
            return rows
        row = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", data, position)
            row.append(data[position + 4 : position + 4 + length])
            position += 4 + length
        rows.append(row)


def arbitrary(kind: Kind, count: int, seed: int) -> np.ndarray:
    """Records with any bits in every field but whole microseconds in the times."""
    random = np.random.default_rng(seed)
    records = random.integers(0, 256, count * kind.dtype.itemsize, dtype=np.uint8).view(kind.dtype)
    for name in kind.dtype.names:
        if name.startswith("ts"):
            records[name] = random.integers(-(10**12), 4 * 10**15, count) * 1000
            records[name][random.random(count) < 0.2] = ABSENT
    return records


def test_a_trade_is_a_row_as_postgres_wants_it():
    trade = np.zeros(1, dtype=TRADE)
    trade[0] = (946_684_800_000_001_000, 946_684_799_999_999_000, 5, 77, 6183763, 12, -1, 8)
    trades = codec("trades", BY_NAME["trade"])
    assert trades.columns == (
        *("instrument_id", "ts_event", "ts_known", "seq", "trade_id", "price", "size", "side", "flags"),
    )
    (row,) = read_copy(trades.encode(np.array([65537], dtype=np.int32), trade))
    expected = struct.pack(">iqqqqqqii", 65537, 1, -1, 5, 77, 6183763, 12, -1, 8)
    assert b"".join(row) == expected
    assert [len(field) for field in row] == [4, 8, 8, 8, 8, 8, 8, 4, 4]


def test_bars_have_their_key_first_and_one_second_bars_no_timeframe():
    bars = codec("candles", BY_NAME["candle"])
    seconds = codec("candles_1s", BY_NAME["candle"])
    assert bars.columns == (
        *("instrument_id", "timeframe", "ts", "ts_known", "seq", "source", "open", "high", "low", "close"),
        *("volume", "quote_volume", "buy_volume", "trade_count", "flags"),
    )
    assert seconds.columns == tuple(name for name in bars.columns if name != "timeframe")
    records = arbitrary(BY_NAME["candle"], 5, seed=3)
    records["timeframe"] = 1
    _, decoded = seconds.decode(seconds.encode(np.arange(5, dtype=np.int32), records))
    assert decoded.tobytes() == records.tobytes()


@pytest.mark.parametrize(("table", "kind"), TABLES, ids=[table for table, _ in TABLES])
@given(count=st.integers(0, 20), seed=st.integers(0, 2**32))
def test_decoded_records_equal_the_encoded_ones_bit_for_bit(table, kind, count, seed):
    records = arbitrary(kind, count, seed)
    ids = np.arange(count, dtype=np.int32) + 65_537
    data = codec(table, kind).encode(ids, records)
    decoded_ids, decoded = codec(table, kind).decode(memoryview(data))
    assert decoded.tobytes() == records.tobytes()
    assert decoded_ids.tolist() == ids.tolist()
    assert len(read_copy(data)) == codec(table, kind).count(data) == count


def test_an_absent_time_is_minus_infinity_and_absent_numbers_stay_the_minimum():
    (row,) = read_copy(codec("series_funding", FUNDING).encode(np.array([1], dtype=np.int32), empty(FUNDING, 1)))
    infinity = struct.pack(">q", ABSENT)
    assert row[1] == infinity
    assert row[-1] == infinity
    assert np.isnan(struct.unpack(">d", row[-2])[0])


def test_rows_of_a_strided_or_read_only_array_are_encoded():
    records = arbitrary(BY_NAME["trade"], 6, seed=1)
    records.flags.writeable = False
    trades = codec("trades", BY_NAME["trade"])
    _, decoded = trades.decode(trades.encode(np.zeros(3, dtype=np.int32), records[::2]))
    assert decoded.tobytes() == records[::2].tobytes()


def test_a_header_extension_is_skipped():
    trades = codec("trades", BY_NAME["trade"])
    records = arbitrary(BY_NAME["trade"], 2, seed=2)
    data = trades.encode(np.zeros(2, dtype=np.int32), records)
    extended = data[:15] + struct.pack(">i", 3) + b"abc" + data[19:]
    assert trades.decode(extended)[1].tobytes() == records.tobytes()


def _with(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:18],
        lambda data: data[:-1],
        lambda data: data[:-2],
        lambda data: data + b"\0",
        lambda data: _with(data, 0, 0),
        lambda data: _with(data, 12, 1),  # rows with OIDs
        lambda data: _with(data, 15, 127),  # an extension of 2 GB
        lambda data: _with(data, 15, 255),
        lambda data: _with(data, 20, 3),  # field count
        lambda data: _with(data, 21, 255),  # a NULL's length is -1
        lambda data: _with(data, 24, 8),
    ],
)
def test_what_is_no_row_of_the_table_is_refused(damage):
    data = codec("trades", BY_NAME["trade"]).encode(np.zeros(2, dtype=np.int32), np.zeros(2, dtype=TRADE))
    with pytest.raises(ProtocolError, match=r"^trades: "):
        codec("trades", BY_NAME["trade"]).decode(damage(data))


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused_or_read_but_never_crash(noise):
    candles = codec("candles", BY_NAME["candle"])
    for data in (noise, candles.encode(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=CANDLE))[:19] + noise):
        with contextlib.suppress(ProtocolError):
            candles.decode(data)


def test_a_kind_with_text_has_no_fixed_layout():
    with pytest.raises(InvalidArgument, match="reason"):
        codec("coverage", BY_NAME["coverage"])


def test_codecs_are_made_once_and_a_changed_stream_gets_its_own():
    assert codec("trades", BY_NAME["trade"]) is codec("trades", BY_NAME["trade"])
    changed = series_kind(64, "funding", {"rate": "f8"})
    assert codec("series_funding", changed) is not codec("series_funding", FUNDING)
