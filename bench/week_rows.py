"""Records of a made market, by table, out of a recording (`recorded_rows`) and a `Tiling` of it.

    make(table, recording, number, count, start_ns, end_ns) -> records, oldest first

What is arithmetic in the market is arithmetic here: a bar's volume is never less than that of its buyers, books do not
cross, mids lie between bids and asks, trade ids rise by one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tiling import Tiling, scaled, step_of, type_ints

from marketd.market.records import ABSENT, BookState, Records, Source
from marketd.market.times import NS_PER_SECOND

FIRST_SEQ = -(2**60)  # below every live one, as an import's
SEED = 20240808


def make(table: str, recorded: Records, number: int, count: int, start_ns: int, end_ns: int) -> Records:
    """`count` records of the made market `number` in [start_ns, end_ns); of seconds, one each from `start_ns` on."""
    return _MAKERS[table](recorded, (SEED, number, start_ns // NS_PER_SECOND), count, start_ns, end_ns)


def _trades(recorded: Records, seed: tuple[int, ...], count: int, start_ns: int, end_ns: int) -> Records:
    tiling = Tiling(recorded["price"], count, seed)
    made = np.zeros(count, dtype=recorded.dtype)
    made["ts_event"] = tiling.times(recorded["ts_event"], start_ns, end_ns)
    made["ts_known"] = tiling.known(recorded["ts_known"] - recorded["ts_event"], made["ts_event"])
    made["seq"] = tiling.numbers(recorded["seq"], FIRST_SEQ)
    made["trade_id"] = np.arange(count) + int(recorded["trade_id"][0])
    made["price"] = tiling.walk(0.03)
    made["size"] = tiling.redrawn(recorded["size"], 0.5)
    made["side"] = np.where(tiling.mirrored, -1, 1) * recorded["side"][tiling.place]
    return made


def _bars_of_seconds(recorded: Records, seed: tuple[int, ...], count: int, start_ns: int, end_ns: int) -> Records:
    tiling = Tiling(recorded["close"], count, seed)
    place, mirrored, random = tiling.place, tiling.mirrored, tiling.random
    made = np.zeros(count, dtype=recorded.dtype)
    made["ts"] = start_ns + np.arange(count) * NS_PER_SECOND
    ends = made["ts"] + NS_PER_SECOND
    made["ts_known"] = tiling.known(recorded["ts_known"] - recorded["ts"], ends)
    made["seq"] = tiling.numbers(recorded["seq"], FIRST_SEQ)
    made["timeframe"], made["source"] = 1, Source.OWN
    width = random.lognormal(0.0, 0.2, count)
    offsets = {
        name: np.rint((recorded[name] - recorded["close"])[place] * width).astype(np.int64)
        for name in ("open", "high", "low")
    }
    made["close"] = tiling.walk(0.3)
    made["open"] = made["close"] + np.where(mirrored, -offsets["open"], offsets["open"])
    made["high"] = made["close"] + np.where(mirrored, -offsets["low"], offsets["high"])
    made["low"] = made["close"] + np.where(mirrored, -offsets["high"], offsets["low"])
    _volumes(made, recorded, tiling)
    return made


def _volumes(made: Records, recorded: Records, tiling: Tiling) -> None:
    place, random = tiling.place, tiling.random
    busy = random.lognormal(0.0, 0.3, tiling.count)
    made["trade_count"] = np.maximum(1, np.rint(recorded["trade_count"][place] * busy))
    made["volume"] = scaled(recorded["volume"][place], busy, step_of(recorded["volume"]))
    bought = recorded["buy_volume"] / recorded["volume"]
    share = np.where(tiling.mirrored, 1 - bought[place], bought[place])
    step = step_of(recorded["volume"])
    made["buy_volume"] = np.rint(made["volume"] * (share / step)).astype(np.int64) * step
    spread = np.maximum(1, recorded["high"] - recorded["low"])
    where = ((recorded["quote_volume"] / recorded["volume"] - recorded["low"]) / spread)[place]
    where = np.where(tiling.mirrored, 1 - where, where)
    mean_price = made["low"] + where.clip(0, 1) * (made["high"] - made["low"])
    made["quote_volume"] = (made["volume"] * mean_price).astype(np.int64)


def longer_bars(bars: Records, seconds: int, number: int, count: int, start_ns: int) -> Records:
    """`count` further bars of a longer timeframe from `start_ns` on, made of bars of it as of a recording."""
    made = _bars_of_seconds(bars, (SEED, number, seconds), count, start_ns, 0)
    made["ts"] = start_ns + np.arange(count) * seconds * NS_PER_SECOND
    made["ts_known"] += made["ts"] - start_ns - np.arange(count) * NS_PER_SECOND + (seconds - 1) * NS_PER_SECOND
    made["timeframe"] = seconds
    return made


def _books(recorded: Records, seed: tuple[int, ...], count: int, start_ns: int, end_ns: int) -> Records:
    depth = recorded["bid_price"].shape[1]
    is_full = (recorded["bid_count"] == depth) & (recorded["ask_count"] == depth)
    recorded = recorded[(recorded["state"] == BookState.LIVE) & is_full]
    tiling = Tiling(recorded["bid_price"][:, 0], count, seed)
    place = tiling.place
    made = np.zeros(count, dtype=recorded.dtype)
    made["ts_event"] = tiling.times(recorded["ts_event"], start_ns, end_ns)
    made["ts_known"] = tiling.known(recorded["ts_known"] - recorded["ts_event"], made["ts_event"])
    made["seq"] = tiling.numbers(recorded["seq"], FIRST_SEQ)
    made["sequence"] = tiling.numbers(recorded["sequence"], int(recorded["sequence"][0]))
    for name in ("bid_count", "ask_count", "state", "flags"):
        made[name] = recorded[name][place]
    best = tiling.walk(0.01)
    spread = (recorded["ask_price"][:, 0] - recorded["bid_price"][:, 0])[place]
    below = (recorded["bid_price"][:, :1] - recorded["bid_price"])[place]
    above = (recorded["ask_price"] - recorded["ask_price"][:, :1])[place]
    mirrored = tiling.mirrored[:, None]
    made["bid_price"] = best[:, None] - np.where(mirrored, above, below)
    made["ask_price"] = (best + spread)[:, None] + np.where(mirrored, below, above)
    factor = tiling.of_repetition(0.5, 2.0)
    _two_sides(made, recorded, tiling, factor, ("bid_size", "ask_size"))
    return made


def _buckets(recorded: Records, seed: tuple[int, ...], count: int, start_ns: int, end_ns: int) -> Records:
    recorded = recorded[recorded["base"] != ABSENT]
    tiling = Tiling(recorded["base"], count, seed)
    made = np.zeros(count, dtype=recorded.dtype)
    made["ts"] = start_ns + np.arange(count) * NS_PER_SECOND
    made["ts_known"] = tiling.known(recorded["ts_known"] - recorded["ts"], made["ts"] + NS_PER_SECOND)
    made["seq"] = tiling.numbers(recorded["seq"], FIRST_SEQ)
    made["width"], made["timeframe"], made["state"] = recorded["width"][0], 1, BookState.LIVE
    made["base"] = tiling.walk(0.01)
    # means over time: no two are alike, whatever the market trades in
    _two_sides(made, recorded, tiling, tiling.random.lognormal(0.0, 0.1, count), ("bid_size", "ask_size"))
    return made


def _imbalances(recorded: Records, seed: tuple[int, ...], count: int, start_ns: int, end_ns: int) -> Records:
    recorded = recorded[recorded["mid2"] != ABSENT]
    tiling = Tiling(recorded["mid2"], count, seed)
    made = np.zeros(count, dtype=recorded.dtype)
    made["ts_event"] = start_ns + (np.arange(count) + 1) * NS_PER_SECOND
    made["ts_known"] = tiling.known(recorded["ts_known"] - recorded["ts_event"], made["ts_event"])
    made["seq"] = tiling.numbers(recorded["seq"], FIRST_SEQ)
    for name in ("spread", "state", "reason"):
        made[name] = recorded[name][tiling.place]
    made["mid2"] = tiling.walk(0.05)
    made["mid2"] += (made["mid2"] - made["spread"]) % 2  # bid + ask and ask - bid are both even, or both odd
    factor = tiling.of_repetition(0.5, 2.0)
    _two_sides(made, recorded, tiling, factor, ("bid_size", "ask_size"))
    _two_sides(made, recorded, tiling, factor, ("best_bid_size", "best_ask_size"))
    for name in (name for name in recorded.dtype.names or () if name.startswith(("book_", "volume_"))):
        made[name] = _ratios(recorded[name][tiling.place], tiling)
    return made


def _ratios(values: npt.NDArray[np.int32], tiling: Tiling) -> type_ints:
    """Ratios in millionths, a few per cent apart from the recorded ones."""
    varied = values * np.where(tiling.mirrored, -1, 1) * tiling.random.normal(1.0, 0.03, tiling.count)
    return np.where(values == np.iinfo(np.int32).min, values, np.rint(varied).clip(-1_000_000, 1_000_000))


def _two_sides(
    made: Records, recorded: Records, tiling: Tiling, factor: npt.NDArray[np.float64], names: tuple[str, str]
) -> None:
    sides = [recorded[name][tiling.place] for name in names]
    step = min(step_of(recorded[name]) for name in names)
    factors, mirrored = factor, tiling.mirrored
    if sides[0].ndim == 2:
        factors, mirrored = factor[:, None], tiling.mirrored[:, None]
    for name, mine, other in zip(names, sides, reversed(sides), strict=True):
        made[name] = scaled(np.where(mirrored, other, mine), factors, step)


_MAKERS = {
    "trades": _trades,
    "candles_1s": _bars_of_seconds,
    "book_snapshots": _books,
    "book_buckets": _buckets,
    "imbalances": _imbalances,
}
