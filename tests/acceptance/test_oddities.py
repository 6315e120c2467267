"""The rules of the validator on what is found in the wild: what is legal passes, what is wrong is refused by name.

Files of others (their README tells their oddities), encoded as a producer's rows and judged by `DataValidator`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import pytest

from lane import BTC, MAX_SKEW_NS, SECOND
from marketd.client.encode import encode
from marketd.client.encode_books import encode_books
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, KindTable, Source
from marketd.market.trade_ids import TradeIds
from marketd.market.validation import DataValidator

NOW = 2_000_000_000 * SECOND  # after all of these files
WILD = Instrument(id=9, symbol="WILD", venue="TEST", price_scale=8, size_scale=9, quote_scale=8, base="W", quote="T")
CANDLE = ("time", "open", "high", "low", "close", "volume")


class Judged(NamedTuple):
    good: int
    rules: Counter[str]


class Known:
    """The ids that were accepted so far."""

    def __init__(self) -> None:
        self.trade_ids = TradeIds()


def judged(kind_name: str, columns: Mapping[str, Any], known: Known | None = None, **constants: Any) -> Judged:
    """How many of the rows may enter, and by which rules the others may not."""
    kind = BY_NAME[kind_name]
    encoded = encode_books(WILD, columns) if kind_name == "book" else encode(kind, WILD, columns, constants)
    books = KindTable((), encoded.records["bid_price"].shape[1]) if kind_name == "book" else KindTable()
    kind = books.by_name(kind_name)
    verdict = DataValidator(books, MAX_SKEW_NS).validate(kind, encoded.records, WILD, NOW, known)
    rules = Counter(each.rule for each in (*encoded.refused, *verdict.refused))
    return Judged(len(encoded.records) - len(verdict.refused), rules)


def bars(columns: Mapping[str, Any], timeframe: int) -> Judged:
    return judged("candle", columns, timeframe=timeframe, source=int(Source.IMPORT))


def table(path: Path, names: tuple[str, ...], *, skip: int = 0) -> dict[str, list[str]]:
    """A CSV without a header as columns of text."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[skip:]
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def in_ns(seconds: list[str]) -> list[int]:
    return [int(text) * SECOND for text in seconds]


# ---- bars -------------------------------------------------------------------------------------------


def test_bars_whose_high_is_below_their_open_are_refused_and_cost_no_neighbour(shared_data: Path) -> None:
    path = shared_data / "candles" / "gct_binance_BTCUSDT_24h_2019_01_01_2020_01_01.csv"
    columns = table(path, ("time", "volume", "open", "high", "low", "close"))
    wrong = sum(float(high) < float(opened) for high, opened in zip(columns["high"], columns["open"], strict=True))
    assert wrong == 176
    found = bars({**columns, "time": in_ns(columns["time"])}, 86_400)
    assert found == (365 - 176, Counter(ohlc_order=176))


@pytest.mark.parametrize(
    ("name", "timeframe"),
    [("XRP_ETH-1m", 60), ("UNITTEST_BTC-1m", 60), ("ADA_BTC-5m", 300), ("TRX_BTC-5m", 300)],
)
def test_bars_with_gaps_pass_whole(shared_data: Path, name: str, timeframe: int) -> None:
    frame = pandas.read_feather(shared_data / "candles" / f"{name}.feather").rename(columns={"date": "time"})
    assert bars(frame, timeframe) == (len(frame), Counter())
    # of another timeframe than they are said to be, only those that begin at its multiples
    found = bars(frame, 3600)
    assert set(found.rules) == {"aligned"} and found.good == int((frame["time"].dt.minute == 0).sum())


def test_times_without_a_zone_are_refused_and_pass_with_one(shared_data: Path) -> None:
    frame = pandas.read_parquet(shared_data / "candles" / "binance-BTCUSDT-1h.parquet").head(2_000)
    frame.columns = [str(name).lower() for name in frame.columns]
    columns = {"time": list(frame.index), **{name: frame[name] for name in CANDLE[1:]}}
    assert bars(columns, 3600) == (0, Counter(naive=2_000))
    assert bars({**columns, "time": frame.index.tz_localize("UTC")}, 3600) == (2_000, Counter())


def test_bars_newest_first_and_without_volume_pass(shared_data: Path) -> None:
    names = ("date", "symbol", "open", "high", "low", "close", "volume_btc", "volume")
    rows = table(shared_data / "candles" / "Coinbase_BTCUSD_d.csv", names, skip=2)
    columns = {name: rows[name] for name in CANDLE[1:-1]} | {"volume": rows["volume_btc"]}
    assert sum(float(volume) == 0 for volume in columns["volume"]) == 38
    found = bars({"time": [f"{day}T00:00:00+00:00" for day in rows["date"]], **columns}, 86_400)
    assert found == (len(rows["date"]), Counter())


def test_microseconds_taken_for_nanoseconds_are_refused_as_what_they_are(shared_data: Path) -> None:
    columns = table(shared_data / "candles" / "binance_vision_spot_BTCUSDT-1m-2026-09-15.head.csv", CANDLE)
    assert bars({**columns, "time": [int(us) for us in columns["time"]]}, 60) == (0, Counter(range=4))
    assert bars({**columns, "time": [int(us) * 1000 for us in columns["time"]]}, 60) == (4, Counter())


def test_what_is_made_wrong_among_real_bars_is_refused_alone(shared_data: Path) -> None:
    """No file of others bears a timeframe or a source of ours: those of real bars are made wrong."""
    frame = pandas.read_feather(shared_data / "candles" / "XRP_ETH-1m.feather").rename(columns={"date": "time"})
    frame["timeframe"], frame["source"] = 60, int(Source.IMPORT)
    frame.loc[[3, 5], "timeframe"], frame.loc[[7, 8], "source"] = [0, -60], [0, 4]
    assert judged("candle", frame) == (len(frame) - 4, Counter(timeframe=2, source=2))


# ---- trades -----------------------------------------------------------------------------------------


def test_trades_with_ids_as_text_pass_once(shared_data: Path) -> None:
    frame = pandas.read_parquet(shared_data / "trades" / "XRP_ETH-trades.parquet")
    columns = {
        "time": frame["timestamp"].to_numpy().astype(np.int64) * 1_000_000,
        "trade_id": frame["id"], "side": frame["side"], "price": frame["price"], "size": frame["amount"],
    }  # fmt: skip
    known = Known()
    assert judged("trade", columns, known) == (12_477, Counter())
    assert judged("trade", columns, known) == (0, Counter(duplicate=12_477))


def test_trades_without_ids_pass_though_many_are_of_one_second(shared_data: Path) -> None:
    path = shared_data / "trades" / "gct_binance_BTCUSDT_24h-trades_2020_11_16.csv"
    rows = table(path, ("time", "price", "size", "side"))
    columns = {**rows, "time": in_ns(rows["time"])}
    assert judged("trade", columns) == (0, Counter(side=1_000))  # `ANY` is no aggressor
    assert len(set(rows["time"])) < 1_000
    assert judged("trade", {name: columns[name] for name in ("time", "price", "size")}, Known()) == (1_000, Counter())


def test_what_is_made_wrong_among_real_trades_is_refused_alone(shared_data: Path) -> None:
    frame = pandas.read_parquet(shared_data / "trades" / "btcusdt-trades.parquet").head(200)
    times = frame["timestamp"].dt.as_unit("ns").astype("int64").tolist() if "timestamp" in frame else list(frame.index)
    columns: dict[str, list[Any]] = {
        "time": times,
        "price": frame["price"].tolist(),
        "size": frame["quantity"].tolist(),
        "side": ["sell" if maker == "True" else "buy" for maker in frame["buyer_maker"]],
        "trade_id": frame["trade_id"].tolist(),
    }
    assert judged("trade", columns, Known()) == (200, Counter())
    wrong: list[tuple[str, Any, str]] = [
        ("price", 0, "positive_price"), ("price", float("nan"), "not_finite"), ("size", "-1", "positive_size"),
        ("size", "0.1234567891", "precision"), ("size", "1e30", "range"), ("side", "ANY", "side"),
        ("time", NOW + 60 * SECOND, "max_skew"), ("time", "2024-08-08T12:00:00", "naive"), ("time", None, "absent"),
    ]  # fmt: skip
    for place, (name, value, _) in enumerate(wrong):
        columns[name][10 * place + 5] = value
    found = judged("trade", columns, Known())
    assert found == (200 - len(wrong), Counter(rule for *_, rule in wrong))


# ---- books ------------------------------------------------------------------------------------------


def test_a_recorded_book_passes_and_one_turned_round_does_not(shared_data: Path) -> None:
    names = ("symbol", "timestamp", "first", "last", "side", "type", "price", "qty", "pu")
    rows = table(shared_data / "l2" / "btcusdt-depth-snap.csv", names, skip=1)
    # the file is the head of a longer one: bids, the best first
    bids = list(zip(rows["price"], rows["qty"], strict=True))
    asks = [(str(float(bids[0][0]) + 1), "1")]
    ts = int(rows["timestamp"][0]) * 1_000_000
    books = [(bids, asks), (bids[::-1], asks), (asks, bids[:1]), (bids, [("1",)]), (bids, asks)]
    columns = {"time": [ts] * 5, "bids": [each[0] for each in books], "asks": [each[1] for each in books]}
    found = judged("book", columns)
    assert found == (2, Counter(bids_falling=1, crossed=1, levels=1))


def test_the_same_instrument_elsewhere_is_none_here() -> None:
    trade = encode(BY_NAME["trade"], BTC, {"time": [SECOND], "price": ["1"], "size": ["1"], "trade_id": [1]}, {})
    verdict = DataValidator(KindTable(), MAX_SKEW_NS).validate(BY_NAME["trade"], trade.records, None, NOW)
    assert [each.rule for each in verdict.refused] == ["unknown_instrument"]
