"""What a hostile peer sends: strategies and builders that the tests of this folder share."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from marketd.market.records import BY_NAME, CANDLE, COVERAGE, TICK, TRADE, Kind, Records, series_kind
from marketd.market.times import NS_PER_SECOND

SERIES = series_kind(64, "hostile", {"tsunami": "f8", "level": "price", "much": "size", "number": "i8"})
KINDS: dict[str, Kind] = {
    **{name: BY_NAME[name] for name in ("trade", "candle", "tick", "coverage")},
    "hostile": SERIES,
}
YEAR_NS = 365 * 86_400 * NS_PER_SECOND
NOW_NS = 1_723_161_240 * NS_PER_SECOND

GIGABYTE = 1 << 30
# headers that claim far more than follows: bin32, str32, array32, map32, ext32
CLAIMS = [bytes([code]) + GIGABYTE.to_bytes(4, "big") for code in (0xC6, 0xDB, 0xDD, 0xDF, 0xC9)]
NESTED = [b"\x91" * 100_000 + b"\xc0", b"\x81\xa1a" * 100_000 + b"\xc0"]
GARBAGE = [b"", b"\xc1", b"\xff" * 50, b"\x80", b"\x81\xa4type\xa4nope", b"\x81\xa4type\xc0", b"\xa3\xed\xa0\x80"]

NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 7, 999, 1000, 2**31 - 1, -(2**31), 2**53, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1, 86_400 * 10**9]
)
INTEGERS = NUMBERS | st.integers(-(2**63), 2**63 - 1)
TIMES = INTEGERS | st.sampled_from(
    [0, NOW_NS, NOW_NS + 1, NOW_NS + YEAR_NS, NOW_NS - 20 * YEAR_NS, -1968 * YEAR_NS % 2**63, 292 * YEAR_NS]
)
NEAR = st.integers(-120, 5).map(lambda seconds: NOW_NS + seconds * NS_PER_SECOND)
TEXTS = st.sampled_from([b"", b"\0", b"a\0b", b"\xff\xfe", "é".encode() * 20, b"'; DROP TABLE trades; --"])
MESSAGE_VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def _field(name: str, dtype: np.dtype[Any]) -> st.SearchStrategy[Any]:
    if dtype.kind == "f":
        return st.floats()
    if dtype.kind == "S":
        return TEXTS | st.binary(max_size=dtype.itemsize)
    if name.startswith("ts_") or name == "ts":
        return NEAR | NEAR | TIMES
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    small = st.integers(1, 9) if name in ("state", "stream") else st.integers(-1, min(high, 100_000))
    return small | INTEGERS.map(lambda value: max(low, min(high, value)))


@st.composite
def hostile_records(draw: st.DrawFn, kind: Kind, max_size: int = 12) -> Records:
    """Records of a kind, each field either plausible or at its edges."""
    count = draw(st.integers(0, max_size))
    records = np.zeros(count, dtype=kind.dtype)
    for name in kind.dtype.names or ():
        records[name] = draw(st.lists(_field(name, kind.dtype[name]), min_size=count, max_size=count))
    if kind.dtype is CANDLE and draw(st.booleans()):
        records["timeframe"], records["source"] = 60, 2
        records["ts"] -= records["ts"] % (60 * NS_PER_SECOND)
        records["low"], records["high"] = 1, 2**63 - 1
    return records


def hostile_parts() -> st.SearchStrategy[list[tuple[Kind, Records]]]:
    part = st.sampled_from(list(KINDS.values())).flatmap(lambda kind: st.tuples(st.just(kind), hostile_records(kind)))
    return st.lists(part, max_size=4)


def trades(count: int, *, first_id: int = 1, ts: int = NOW_NS, price: int = 100, size: int = 1) -> Records:
    records = np.zeros(count, dtype=TRADE)
    records["ts_event"], records["price"], records["size"], records["side"] = ts, price, size, 1
    records["trade_id"] = np.arange(first_id, first_id + count)
    return records


def coverage(
    state: int = 2, *, start: int = NOW_NS, end: int = NOW_NS, stream: int = 1, reason: bytes = b""
) -> Records:
    record = np.zeros(1, dtype=COVERAGE)
    record["ts_event"], record["ts_start"] = NOW_NS, start
    record["ts_end"], record["state"], record["stream"], record["reason"] = end, state, stream, reason
    return record


def tick(ts: int) -> Records:
    record = np.zeros(1, dtype=TICK)
    record["ts_event"] = ts
    return record


def packed(fields: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode(fields)
