"""What the tests of the daemon's parts share: records made by hand, a kernel, frames with and without a disk.

Times are given in ms after `START`, prices and sizes as the integers that they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from marketd.daemon.kernel import TRADE_KIND, Kernel, Lot, coverage_record
from marketd.ipc import frames
from marketd.ipc.frames import Frame
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, CANDLE, TRADE, Coverage, KindTable, Records, Source, series_kind

BTC = Instrument(
    id=65_537, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=3, quote_scale=2, base="BTC", quote="USDT"
)
FUNDING = series_kind(64, "funding", {"rate": "f8", "mark": "price", "order": "i8", "ts_next": "i8"})
KINDS = KindTable([FUNDING])
CANDLES = BY_NAME["candle"]
SECOND = 1_000_000_000
MS = 1_000_000
START = 1_723_161_540 * SECOND  # 2024-08-08 23:59, a minute before midnight
TIMEFRAMES = (1, 60)
GRACE_NS = 250 * MS
MAX_SKEW_NS = 10 * SECOND


def make_kernel(
    timeframes: Sequence[int] = TIMEFRAMES,
    *,
    kinds: KindTable = KINDS,
    first_seq: int = 1,
    activity_bars: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Kernel:
    return Kernel(
        kinds,
        timeframes,
        grace_ns=GRACE_NS,
        max_skew_ns=MAX_SKEW_NS,
        first_seq=first_seq,
        activity_bars=activity_bars,
    )


def trades(rows: Iterable[Sequence[int]]) -> Records:
    """TRADE records of (ms, id, price, size[, side[, flags]])."""
    listed = [tuple(row) + (1, 0)[len(row) - 4 :] for row in rows]
    return np.array([(START + ms * MS, 0, 0, number, *rest) for ms, number, *rest in listed], dtype=TRADE)


def bars(
    minutes: Iterable[int],
    price: int = 100,
    *,
    timeframe: int = 60,
    source: int = Source.VENUE,
    flags: int = 0,
    seq: int = 0,
    ts_known: int = 0,
) -> Records:
    """Bars of `timeframe`, the n-th after START; `seq` rises by one from the given on."""
    numbers = np.fromiter(minutes, dtype=np.int64)
    records = np.zeros(len(numbers), dtype=CANDLE)
    records["ts"] = START + numbers * timeframe * SECOND
    records["open"] = records["high"] = records["low"] = records["close"] = price
    records["volume"] = records["quote_volume"] = records["buy_volume"] = records["trade_count"] = 1
    records["timeframe"], records["source"], records["flags"] = timeframe, source, flags
    records["seq"] = np.arange(seq, seq + len(numbers))
    records["ts_known"] = ts_known
    return records


def rates(rows: Iterable[tuple[int, float]]) -> Records:
    """Records of the declared stream `funding`, of (ms, rate)."""
    return np.array([(START + ms * MS, 0, 0, rate, 5, 6, 7) for ms, rate in rows], dtype=FUNDING.dtype)


def observed(ms: int = 0) -> Records:
    return coverage_record(Coverage.OBSERVED, START + ms * MS, START + ms * MS, stream=TRADE_KIND.id)


def frame_of(lot: Lot, offset: int = 0) -> Frame:
    """The frame that the journal makes of a lot."""
    data = frames.encode(
        offset, lot.body, instrument=lot.state.instrument.id, seq=lot.seq, ts_known=lot.ts_known, durable=offset
    )
    return frames.decode(memoryview(data), 0, offset)


def section(kind: Any, records: Records) -> tuple[int, int, int, bytes]:
    return kind.id, kind.dtype.itemsize, len(records), records.tobytes()
