"""Records to binary COPY and back: PostgreSQL's own layout, and the same bits again."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.book_rows import refit
from marketd.market.errors import InvalidArgument, ProtocolError
from marketd.market.records import BY_NAME, CANDLE, TRADE, Kind, book_kind, empty, series_kind
from marketd.market.rows import codec
from marketd.market.times import ABSENT

FUNDING = series_kind(64, "funding", {"rate": "f8", "mark": "price"})
TABLES = [
    ("trades", BY_NAME["trade"]),
    ("candles", BY_NAME["candle"]),
    ("candle_versions", BY_NAME["candle"]),
    ("series_funding", FUNDING),
    ("book_snapshots", BY_NAME["book"]),
    ("book_snapshots", book_kind(3)),
    ("book_buckets", BY_NAME["buckets"]),
    ("imbalances", BY_NAME["imbalance"]),
    ("book_deltas", BY_NAME["book_delta"]),
    ("book_venues", BY_NAME["book_venues"]),
    ("activity_bars", BY_NAME["activity_bar"]),
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


@pytest.mark.parametrize(("table", "kind"), TABLES, ids=[f"{table}-{kind.dtype.itemsize}" for table, kind in TABLES])
@given(count=st.integers(0, 20), seed=st.integers(0, 2**32))
def test_decoded_records_equal_the_encoded_ones_bit_for_bit(table, kind, count, seed):
    records = arbitrary(kind, count, seed)
    ids = np.arange(count, dtype=np.int32) + 65_537
    data = codec(table, kind).encode(ids, records)
    decoded_ids, decoded = codec(table, kind).decode(memoryview(data))
    assert decoded.tobytes() == records.tobytes()
    assert decoded_ids.tolist() == ids.tolist()
    assert len(read_copy(data)) == codec(table, kind).count(data) == count


@pytest.mark.parametrize(("table", "kind"), TABLES, ids=[f"{table}-{kind.dtype.itemsize}" for table, kind in TABLES])
def test_times_of_rows_are_told_without_their_order(table, kind):
    records = arbitrary(kind, 50, seed=5)
    of_table = codec(table, kind)
    times = records[kind.time]
    data = of_table.encode(np.zeros(50, dtype=np.int32), records)
    assert of_table.time_bounds(data) == (times.min(), times.max())
    assert of_table.time_bounds(of_table.encode(np.zeros(0, dtype=np.int32), records[:0])) is None


def test_rows_of_several_timeframes_are_parted_whatever_their_order():
    bars = codec("candles", BY_NAME["candle"])
    records = arbitrary(BY_NAME["candle"], 9, seed=7)
    records["timeframe"] = [60, 300, 60, 60, 3600, 300, 60, 60, 3600]
    data = bars.encode(np.zeros(9, dtype=np.int32), records)
    parts = bars.parted(data, "timeframe", [60, 300, 3600, 900])
    assert {value: bars.decode(part)[1].tobytes() for value, part in parts.items()} == {
        value: records[records["timeframe"] == value].tobytes() for value in (60, 300, 3600, 900)
    }


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


# ---- arrays ---------------------------------------------------------------------------------------


def test_the_levels_of_a_book_are_one_array_a_side_as_postgres_wants_it():
    book = empty(book_kind(2), 1)
    book["bid_price"] = (100, 99)
    (row,) = read_copy(codec("book_snapshots", book_kind(2)).encode(np.array([7], dtype=np.int32), book))
    assert row[9] == struct.pack(">iiiiiiqiq", 1, 0, 20, 2, 1, 8, 100, 8, 99)
    assert row[10] == struct.pack(">iiiiiiqiq", 1, 0, 20, 2, 1, 8, ABSENT, 8, ABSENT)


@given(st.lists(st.tuples(st.sampled_from((1, 3, 20, 21)), st.integers(0, 3)), max_size=8), st.integers(0, 2**32))
def test_books_of_other_depths_are_read_at_the_depth_of_the_kind(stretches, seed):
    parts = [arbitrary(book_kind(depth), count, seed + i) for i, (depth, count) in enumerate(stretches)]
    bodies = [
        codec("book_snapshots", book_kind(depth)).encode(np.full(len(part), i, dtype=np.int32), part)[19:-2]
        for i, ((depth, _), part) in enumerate(zip(stretches, parts, strict=True))
    ]
    data = b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(bodies) + b"\xff\xff"
    for depth in (1, 3, 20):
        books = codec("book_snapshots", book_kind(depth))
        ids, decoded = books.decode(data)
        assert ids.tolist() == [i for i, part in enumerate(parts) for _ in part]
        assert decoded.tobytes() == b"".join(refit(part, depth).tobytes() for part in parts)
        assert books.count(data) == len(ids)


@given(st.integers(19, 19 + 2 * 200), st.binary(min_size=1, max_size=8))
def test_damaged_rows_of_books_are_refused_by_name_or_read_as_something(at, damage):
    books = codec("book_snapshots", book_kind(3))
    data = bytearray(books.encode(np.zeros(2, dtype=np.int32), arbitrary(book_kind(3), 2, seed=4)))
    data[at : at + len(damage)] = damage
    with contextlib.suppress(ProtocolError):
        assert len(books.decode(data)[1]) <= len(data) // 100


def test_an_array_of_strings_or_of_two_dimensions_has_no_row_layout():
    for shape in ((2, 2), (3,)):
        field = ("bid_price", "<i8" if len(shape) == 2 else "<i4", shape)
        odd = BY_NAME["book"]._replace(dtype=np.dtype([("ts_event", "<i8"), field]))
        with pytest.raises(InvalidArgument, match="bid_price"):
            codec("odd", odd)
