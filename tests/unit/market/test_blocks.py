"""Packed blocks: every bit of every kind of record comes back, and damage is told by name."""

from __future__ import annotations

import struct
import zlib
from base64 import b85decode
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from marketd.market.block_columns import PREDICTIONS
from marketd.market.block_streams import decode, encode
from marketd.market.blocks import Block, Choices, pack
from marketd.market.errors import BlockDamaged, InvalidArgument
from marketd.market.records import BY_NAME, Records, book_dtype, empty, series_kind
from marketd.market.times import ABSENT

SECOND = 1_000_000_000
START = 1_723_161_600 * SECOND
FUNDING = series_kind(64, "funding", {"rate": "f8", "mark": "price"})
DTYPES = [
    *(BY_NAME[name].dtype for name in ("trade", "candle", "buckets", "imbalance", "book_delta", "activity_bar")),
    book_dtype(1),
    book_dtype(3),
    FUNDING.dtype,
]
# What `some_trades` were packed as in version 1: planes deflated, or as they are.
OF_VERSION_1 = b85decode(
    "O-ocl0RR91fuoTk7y$qPl0cZ2sC08*Wp-t5bfY|JH~_!^laZuuZ*FA(mIKch>E>8+m;eCH1L%?f0R)hisC08*Yi@6MZlgSDH~_!^laZuuZ*FA("
    "mIKch>E>8+<V!%!1L%?f0sxT+mZNiJaictGH~_!^laZuuZ*FA(mI43)kpKdamZ)@cVPs`rX=I~3X*dAD0F#lVZf|a70G0yI0BX;`0g(U#kd~!z"
    "a%p2_qdaLi0Kfo~k)&>KZe;+L1I_?jjer4?0097!3k#N{b7^{IqdaLi0Kfo~k)&>KZe;+L0RaJ!0Fuza(7=|Yb7^E{qdaLe0Kfo~k)&>KZe;+L"
    "0sjJ!0FeilrDkklXLF-GX*2-90F#lVZf|a70FnRzV`1cCAs+z%V`0GuPG7;wfwKT(V8931*|BoqEC2v;CH9qf?CbJWJ;9L?vj3_2rRxM`)<I~^"
    "WKmL>7V68xnY|RKiWGH0_SvC|J^RGjaohG>t0Y4}^-cN<`CI_M-$Bv)I+GlFXER5rc6EwAL-pP=U3}r1@aV~$vK~cL$M0{ywgIiGM!Tnzbu%ZN"
    "RuTzv27n?pju0zl)2U-*V5A5F00"
)
EDGES = [ABSENT, ABSENT + 1, -1, 0, 1, 2**63 - 1]


def day_of_bars(count: int = 86_400) -> Records:
    """Bars of one second as a market makes them."""
    random = np.random.default_rng(7)
    bars = np.zeros(count, BY_NAME["candle"].dtype)
    bars["ts"] = START + np.arange(count) * SECOND
    bars["ts_known"] = bars["ts"] + SECOND + 250_000_000 + random.integers(0, 2000, count) * 1000
    bars["seq"] = np.cumsum(random.integers(1, 20, count))
    bars["close"] = 6_000_000 + np.cumsum(random.normal(0, 12, count)).astype(int)
    bars["open"] = np.roll(bars["close"], 1) + random.integers(-1, 2, count)
    bars["high"] = np.maximum(bars["open"], bars["close"]) + random.integers(0, 5, count)
    bars["low"] = np.minimum(bars["open"], bars["close"]) - random.integers(0, 5, count)
    bars["volume"] = random.lognormal(10, 1.5, count).astype(int)
    bars["buy_volume"] = (bars["volume"] * random.random(count)).astype(int)
    bars["quote_volume"] = bars["close"] * bars["volume"] // 100_000
    bars["trade_count"], bars["timeframe"], bars["source"] = 1 + random.poisson(12, count), 1, 1
    return bars


def some_trades() -> Records:
    n = np.arange(64)
    trades = np.zeros(64, BY_NAME["trade"].dtype)
    trades["ts_event"] = START + n * n * 1000
    trades["ts_known"] = trades["ts_event"] + 5_000_000 + n % 3 * 1000
    trades["seq"], trades["trade_id"], trades["price"] = n, 7_000_000 + n, 6_000_000 + n * n % 1000
    trades["size"] = 1 + n**5 * 2_654_435_761 % 4_294_967_291 % 65_521
    trades["side"] = 1 - n % 2 * 2
    return trades


@st.composite
def any_records(draw: st.DrawFn, dtypes: Sequence[np.dtype[Any]] = DTYPES) -> Records:
    """Any bits at all, columns of edge cases, and columns that grow or stand still."""
    dtype = draw(st.sampled_from(dtypes))
    count = draw(st.integers(1, 12))
    records = np.frombuffer(draw(st.binary(min_size=dtype.itemsize * count, max_size=dtype.itemsize * count)), dtype)
    records = records.copy()
    for name in dtype.names or ():
        how = draw(st.sampled_from(["any", "edges", "grid", "same", "absent"]))
        shape = records[name].shape
        if how == "edges" and records[name].dtype == np.int64:
            records[name] = draw(arrays.arrays(np.int64, shape, elements=st.sampled_from(EDGES)))
        elif how == "grid":
            values = draw(st.integers(0, 1000)) + 10 * np.arange(int(np.prod(shape))).reshape(shape)
            records[name] = values.astype(records[name].dtype)
        elif how == "same":
            records[name] = records[name].reshape(-1)[0]
        elif how == "absent":
            records[name] = empty(BY_NAME["trade"]._replace(dtype=dtype), 1)[name][0]
    return records


@given(st.data())
def test_what_was_chosen_for_one_block_loses_nothing_of_another(data: st.DataObject) -> None:
    first = data.draw(any_records())
    choices = Choices()
    pack(first, choices)
    other = data.draw(any_records([first.dtype]))
    assert Block(pack(other, choices)).records().tobytes() == other.tobytes()


def test_blocks_of_a_stretch_are_as_small_with_choices_made_once() -> None:
    bars, choices = day_of_bars(14_400), Choices()
    parts = np.split(bars, 4)
    shared, alone = (sum(len(pack(part, *args)) for part in parts) for args in ((choices,), ()))
    assert shared < 1.01 * alone


@given(any_records())
def test_every_bit_of_any_records_comes_back(records: Records) -> None:
    block = Block(pack(records))
    assert block.dtype == records.dtype
    assert block.records().tobytes() == records.tobytes()


@given(any_records(), st.data())
def test_some_columns_can_be_read_alone(records: Records, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(records.dtype.names or ()), min_size=1, unique=True))
    found = Block(pack(records)).records(names)
    for name in names:
        assert found[name].tobytes() == records[name].tobytes()


@given(arrays.arrays(np.int64, st.integers(1, 40), elements=st.one_of(st.sampled_from(EDGES), st.integers(-300, 300))))
def test_every_integer_of_a_stream_comes_back(values: Any) -> None:
    encoded = encode(values)
    data = memoryview(encoded.data)
    at = 0

    def take(count: int) -> memoryview:
        nonlocal at
        at += count
        return data[at - count : at]

    assert decode(encoded.meta, len(values), take).tolist() == values.tolist()
    assert at == len(data)


def test_a_day_of_bars_takes_an_eighth_of_its_records() -> None:
    bars = day_of_bars()
    data = pack(bars)
    assert Block(data).records().tobytes() == bars.tobytes()
    assert len(data) / len(bars) < 12  # 96 as records, some 150 as rows


def test_what_follows_from_other_columns_costs_next_to_nothing() -> None:
    bars = day_of_bars(10_000)
    whole = len(pack(bars))
    bars["quote_volume"] = np.random.default_rng(1).integers(0, 2**40, len(bars))
    assert len(pack(bars)) > whole + 4 * len(bars)


def test_no_column_follows_from_itself() -> None:
    def followed(name: str) -> set[str]:
        names = {other for prediction in PREDICTIONS.get(name, ()) for other in prediction[1:]}
        return names.union(*(followed(other) for other in names))

    assert not [name for name in PREDICTIONS if name in followed(name)]


def test_levels_that_move_with_the_price_cost_next_to_nothing() -> None:
    """A book whose best price moves by a level: every size is at another level, and all of them were told before."""
    count, depth = 500, 10
    books = np.zeros(count, book_dtype(depth))
    rests = np.random.default_rng(3).integers(1, 2**40, 200)
    best = 100 + np.arange(count) % 7
    for side, sign in (("bid", -1), ("ask", 1)):
        prices = best[:, None] + sign * np.arange(depth) + sign
        books[f"{side}_price"], books[f"{side}_size"] = prices * 50, rests[prices]
    data = pack(books)
    assert Block(data).records().tobytes() == books.tobytes()
    assert len(data) < 6 * count  # 40 numbers in each


@pytest.mark.parametrize("place", [0, 4, 9, 13, 40, -1])
def test_a_damaged_block_is_refused_by_name(place: int) -> None:
    data = bytearray(pack(day_of_bars(100)))
    data[place] ^= 0x10
    with pytest.raises(BlockDamaged):
        Block(bytes(data))


@pytest.mark.parametrize("length", [0, 5, 20, 300])
def test_a_cut_block_is_refused_by_name(length: int) -> None:
    with pytest.raises(BlockDamaged):
        Block(pack(day_of_bars(100))[:length])


def test_a_block_of_the_version_before_is_read() -> None:
    assert OF_VERSION_1[4] == 1 and pack(some_trades())[4] == 2
    assert Block(OF_VERSION_1).records().tobytes() == some_trades().tobytes()


def test_a_block_of_a_later_version_is_refused_by_name() -> None:
    data = bytearray(pack(some_trades()))
    data[4] = 3
    with pytest.raises(BlockDamaged, match="version 3"):
        Block(bytes(data))


@pytest.mark.parametrize("packed", [pack(some_trades()), OF_VERSION_1])
def test_a_column_that_cannot_be_decompressed_is_refused_by_name(packed: bytes) -> None:
    data = bytearray(packed)
    start = 16 + struct.unpack_from("<I", data, 12)[0]
    data[start:] = bytes(len(data) - start)
    data[8:12] = struct.pack("<I", zlib.crc32(data[12:]))
    with pytest.raises(BlockDamaged, match="price"):
        Block(bytes(data)).column("price")


def test_a_column_that_a_block_has_not_is_refused_by_name() -> None:
    with pytest.raises(BlockDamaged, match="rate"):
        Block(pack(day_of_bars(3))).column("rate")


def test_a_block_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        pack(day_of_bars(0))
