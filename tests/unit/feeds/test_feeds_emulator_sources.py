"""What the emulated markets say: only what has happened, the same for a seed, in Binance's words."""

from __future__ import annotations

import asyncio
import itertools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from marketd.daemon.feeds.adapter import BookDelta, Candles, Series, Trades
from marketd.daemon.feeds.binance import BinanceAdapter, UsdMarginedAdapter
from marketd.daemon.feeds.binance_messages import Depth, DepthMessage
from marketd.daemon.feeds.captures import CaptureUnreadable
from marketd.daemon.feeds.emulator import CaptureSource, SyntheticFutures, SyntheticMarket, rest
from marketd.daemon.feeds.emulator.book import RecordedBook
from marketd.daemon.feeds.emulator.source import Message, Source
from marketd.market.errors import InvalidArgument

NOW_MS = 1_700_000_030_500
MINUTE = 60_000


class Everyone:
    """A crowd that listens to everything, until it is told to go."""

    present = True

    async def someone(self) -> None:
        pass

    def wants(self, stream: str) -> bool:
        return True


def ask(source: Source, target: str, status: int = 200) -> Any:
    answer = rest.answer(source, target)
    assert answer is not None
    assert answer.status == status, answer.body
    return json.loads(answer.body)


def synthetic(now_ms: int = NOW_MS, **options: Any) -> SyntheticMarket:
    return SyntheticMarket(5, ["BTCUSDT", "ETHUSDT"], 20.0, clock=lambda: now_ms * 10**6, **options)


async def play(source: CaptureSource, until: int | None = None) -> list[Message]:
    sent: list[Message] = []
    done = asyncio.Event()

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == until:
            done.set()
            await asyncio.Event().wait()

    playing = asyncio.create_task(source.play(Everyone(), send))
    waiting = asyncio.create_task(done.wait())
    await asyncio.wait((playing, waiting), return_when=asyncio.FIRST_COMPLETED)
    for task in (playing, waiting):
        task.cancel()
    await asyncio.gather(playing, waiting, return_exceptions=True)
    return sent


# ---- a capture ----------------------------------------------------------------------------------


async def test_a_capture_sends_every_message_as_it_was_received(shared_data: Path) -> None:
    source = CaptureSource([shared_data / "ws_cryptofeed" / "BINANCE-ee25be.0.gz"])
    sent = await play(source)
    assert len(sent) == 4716
    assert sent[0].stream == "dotusdt@depth"  # without its speed
    assert json.loads(sent[0].frame)["data"]["u"] == 1513939205
    assert source.progress().ended


async def test_messages_without_their_streams_names_are_sent_with_them(tmp_path: Path) -> None:
    """As connections to single streams have them."""
    levels = [[f"{price}.0", "1"] for price in range(5)]
    best = {"e": "depthUpdate", "E": 5, "s": "BTCUSDT", "U": 1, "u": 2, "pu": 0, "b": levels, "a": levels}
    bar = {"t": 0, "T": 59999, "s": "BTCUSDT", "i": "5m", "o": "1", "c": "1", "h": "1", "l": "1", "v": "1", "n": 1}
    order = {"s": "BTCUSDT", "S": "SELL", "q": "1", "p": "9", "ap": "9", "T": 5}
    came = [
        {"e": "trade", "E": 5, "s": "BTCUSDT", "t": 7, "p": "61837.6", "q": "0.02", "T": 5, "m": True},
        {**best, "a": []},
        {"e": "kline", "E": 5, "s": "BTCUSDT", "k": {**bar, "x": False, "q": "1", "V": "1"}},
        {"e": "markPriceUpdate", "E": 5, "s": "BTCUSDT", "p": "1", "i": "1", "r": "0", "T": 9},
        {"e": "forceOrder", "E": 5, "o": order},
    ]
    others = [best, {"e": "ORDER_TRADE_UPDATE", "E": 5}, {"result": None, "id": 1}]  # the best levels are no changes
    path = tmp_path / "capture"
    path.write_text("".join(f"1723161258000000000 {json.dumps(each)}\n" for each in [*came, *others]))
    source = CaptureSource([path])
    sent = await play(source)
    names = ("trade", "depth", "kline_5m", "markPrice", "forceOrder")
    assert [message.stream for message in sent] == [f"btcusdt@{name}" for name in names]
    frames = [json.loads(message.frame) for message in sent]
    assert [frame["data"] for frame in frames] == came
    assert [frame["stream"] for frame in frames] == [message.stream for message in sent]
    assert source.skipped == {"no stream's message": 3}
    assert source.rules["BTCUSDT"].price_places == 1
    assert source.recorded_trades == "trade"


def test_a_capture_tells_which_trades_a_feed_must_ask_for(tmp_path: Path) -> None:
    dealt = {"E": 5, "s": "BTCUSDT", "p": "1", "q": "1", "T": 5, "m": True}
    summed, single = {"e": "aggTrade", "a": 7, **dealt}, {"e": "trade", "t": 7, **dealt}
    path = tmp_path / "capture"
    for came, wanted in (([summed], "aggTrade"), ([summed, single], "trade")):
        path.write_text("".join(f"1723161258000000000 {json.dumps(each)}\n" for each in came))
        assert CaptureSource([path]).recorded_trades == wanted


async def test_rest_knows_only_what_has_happened(shared_data: Path) -> None:
    source = CaptureSource([shared_data / "ws_binance_raw" / "spot_btcusdt_20240808.gz"])
    assert ask(source, "/api/v3/trades?symbol=BTCUSDT") == []
    assert ask(source, "/api/v3/klines?symbol=BTCUSDT&interval=1m") == []
    sent = await play(source, 5000)
    happened = [json.loads(m.frame)["data"] for m in sent if m.stream.endswith("@trade")]
    rows = ask(source, "/api/v3/historicalTrades?symbol=BTCUSDT&fromId=3735683259&limit=1000")
    assert [row["id"] for row in rows] == [trade["t"] for trade in happened][:1000]
    assert rows[0] == {
        "id": 3735683259,
        "price": "61837.63000000",
        "qty": "0.02000000",
        "quoteQty": "1236.75260000",
        "time": 1723161255342,
        "isBuyerMaker": True,
        "isBestMatch": True,
    }
    assert ask(source, "/api/v3/trades?symbol=BTCUSDT&limit=3")[-1]["id"] == happened[-1]["t"]
    newest = max(event["E"] for m in sent if "E" in (event := json.loads(m.frame)["data"]))
    assert ask(source, "/api/v3/time") == {"serverTime": newest}


async def test_klines_that_were_not_recorded_are_made_of_the_trades(shared_data: Path) -> None:
    name = "ws_binance_raw/spot_btcusdt_20240808.gz"
    source = CaptureSource([shared_data / name])
    await play(source)
    stats = json.loads((shared_data / "STATS.json").read_text())[name]
    expected = next(value for key, value in stats.items() if key.startswith("candles_1m"))
    rows = ask(source, "/api/v3/klines?symbol=BTCUSDT&interval=1m")
    assert {str(row[0]): [*row[1:6], row[8]] for row in rows} == expected
    later = ask(source, f"/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={rows[2][0]}&limit=2")
    assert later == rows[2:4]


async def test_the_book_of_a_capture_equals_the_reference(shared_data: Path) -> None:
    folder = shared_data / "ws_binance_raw"
    source = CaptureSource([folder / "spot_btcusdt_20240808.gz", folder / "spot_btcusdt_20240809.gz"])
    await play(source)
    expected = json.loads((shared_data / "STATS.json").read_text())["ws_binance_raw/spot_btcusdt_20240809.gz"]
    book = ask(source, "/api/v3/depth?symbol=BTCUSDT&limit=5")
    assert book["bids"] == expected["book_at_end"]["top5_bids"]
    assert book["asks"] == expected["book_at_end"]["top5_asks"]
    whole = ask(source, "/api/v3/depth?symbol=BTCUSDT&limit=5000")
    assert [len(whole["bids"]), len(whole["asks"])] == expected["book_at_end"]["levels"]


async def test_recorded_klines_are_served_with_the_newest_state(shared_data: Path) -> None:
    source = CaptureSource([shared_data / "ws_cryptofeed" / "BINANCE-ee25be.0.gz"])
    await play(source)
    rows = ask(source, "/api/v3/klines?symbol=BTCUSDT&interval=1m")
    assert [row[0] for row in rows] == [1617566580000, 1617566640000]
    aggs = ask(source, "/api/v3/aggTrades?symbol=BTCUSDT&fromId=665076760&limit=2")
    assert aggs[0]["a"] == 665076760
    assert aggs[0]["f"] == 745522877


def test_exchange_info_bears_the_finest_places_that_were_recorded(shared_data: Path) -> None:
    source = CaptureSource([shared_data / "ws_cryptofeed" / "BINANCE-ee25be.0.gz"])
    info = ask(source, "/api/v3/exchangeInfo?symbols=%5B%22DOTUSDT%22%5D")
    (symbol,) = info["symbols"]
    filters = {entry["filterType"]: entry for entry in symbol["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.00010000"
    assert filters["LOT_SIZE"]["stepSize"] == "0.01000000"
    assert (symbol["baseAsset"], symbol["quoteAsset"]) == ("DOT", "USDT")
    assert len(ask(source, "/api/v3/exchangeInfo")["symbols"]) == 3


def test_captures_without_binances_messages_and_unknown_speeds_are_refused(shared_data: Path) -> None:
    with pytest.raises(CaptureUnreadable, match="no message"):
        CaptureSource([shared_data / "ws_cryptofeed" / "KRAKEN.ws.48.0.gz"])
    with pytest.raises(InvalidArgument, match="speed"):
        CaptureSource([shared_data / "ws_cryptofeed" / "BINANCE-ee25be.0.gz"], speed="fast")


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/api/v3/trades", -1102),
        ("/api/v3/trades?symbol=NOSUCH", -1121),
        ("/api/v3/exchangeInfo?symbols=[%22NOSUCH%22]", -1121),
        ("/api/v3/exchangeInfo?symbols=x", -1100),
        ("/api/v3/historicalTrades?symbol=BTCUSDT&fromId=-1", -1100),
        ("/api/v3/klines?symbol=BTCUSDT&interval=7m", -1120),
        ("/api/v3/depth?symbol=BTCUSDT&limit=many", -1100),
    ],
)
def test_what_binance_refuses_is_refused_with_its_code(target: str, code: int) -> None:
    assert ask(synthetic(), target, 400)["code"] == code


def test_paths_that_are_not_served_are_told_from_those_that_are_no_rest_paths() -> None:
    assert ask(synthetic(), "/api/v3/account", 404)["code"] == -1
    assert rest.answer(synthetic(), "/stream?streams=x") is None
    assert ask(synthetic(), "/api/v3/ping") == {}


# ---- the synthetic market -----------------------------------------------------------------------


def messages(market: SyntheticMarket, after_ms: int, until_ms: int, *names: str) -> list[bytes]:
    def wants(stream: str) -> bool:
        return not names or stream.partition("@")[2] in names

    return [message.frame for message in market.messages(after_ms, until_ms, wants)]


def test_a_seed_gives_the_same_market_in_any_process_and_in_any_steps() -> None:
    whole = messages(synthetic(), NOW_MS - 5000, NOW_MS, "trade", "depth", "kline_1s")
    other = synthetic()
    steps = [f for at in range(5) for f in messages(other, NOW_MS - 5000 + at * 1000, NOW_MS - 4000 + at * 1000,
                                                    "trade", "depth", "kline_1s")]  # fmt: skip
    assert sorted(whole) == sorted(steps)
    assert len(whole) > 200
    another_seed = SyntheticMarket(6, ["BTCUSDT", "ETHUSDT"], 20.0, clock=lambda: NOW_MS * 10**6)
    assert messages(another_seed, NOW_MS - 5000, NOW_MS, "trade") != messages(other, NOW_MS - 5000, NOW_MS, "trade")


def test_synthetic_trades_have_rising_ids_and_times_and_are_served_over_rest_too() -> None:
    market = synthetic()
    trades = [json.loads(f)["data"] for f in messages(market, NOW_MS - 90_000, NOW_MS, "trade") if b'"BTCUSDT"' in f]
    numbers = [trade["t"] for trade in trades]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [trade["T"] for trade in trades] == sorted(trade["T"] for trade in trades)
    rows = ask(market, f"/api/v3/historicalTrades?symbol=BTCUSDT&fromId={numbers[0]}&limit=1000")
    assert [row["id"] for row in rows] == numbers[:1000]
    assert [row["price"] for row in rows] == [trade["p"] for trade in trades][:1000]
    assert ask(market, "/api/v3/trades?symbol=BTCUSDT&limit=1")[0]["id"] == numbers[-1]


def test_synthetic_klines_are_those_of_the_trades() -> None:
    market = synthetic()
    start = NOW_MS - NOW_MS % MINUTE - MINUTE
    trades = [t["data"] for t in map(json.loads, messages(market, start - 10_000, NOW_MS, "trade"))
              if t["data"]["s"] == "ETHUSDT" and start <= t["data"]["T"] < start + MINUTE]  # fmt: skip
    (row,) = ask(market, f"/api/v3/klines?symbol=ETHUSDT&interval=1m&startTime={start}&limit=1")
    prices = [Decimal(trade["p"]) for trade in trades]
    assert [Decimal(text) for text in row[1:5]] == [prices[0], max(prices), min(prices), prices[-1]]
    assert Decimal(row[5]) == sum(Decimal(trade["q"]) for trade in trades)
    assert Decimal(row[7]) == sum(Decimal(trade["q"]) * Decimal(trade["p"]) for trade in trades)
    assert Decimal(row[9]) == sum(Decimal(trade["q"]) for trade in trades if not trade["m"])
    assert row[8] == len(trades)
    closed = [json.loads(f)["data"]["k"] for f in messages(market, NOW_MS - 90_000, NOW_MS, "kline_1m")]
    (final,) = [k for k in closed if k["s"] == "ETHUSDT" and k["x"] and k["t"] == start]
    assert [final[name] for name in ("o", "h", "l", "c", "v", "q", "n")] == [*row[1:5], row[5], row[7], row[8]]


def test_longer_klines_contain_the_shorter_ones() -> None:
    market = synthetic()
    quarter = ask(market, "/api/v3/klines?symbol=BTCUSDT&interval=15m&limit=2")[0]
    minutes = ask(market, f"/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={quarter[0]}&limit=15")
    assert len(minutes) == 15
    assert Decimal(quarter[2]) == max(Decimal(row[2]) for row in minutes)
    assert Decimal(quarter[5]) == sum(Decimal(row[5]) for row in minutes)
    assert quarter[8] == sum(row[8] for row in minutes)


def test_the_synthetic_book_is_never_crossed_and_its_diffs_lead_from_snapshot_to_snapshot() -> None:
    before, after = synthetic(NOW_MS), synthetic(NOW_MS + 3000)
    old, new = (ask(market, "/api/v3/depth?symbol=BTCUSDT") for market in (before, after))
    sides = {"b": dict(old["bids"]), "a": dict(old["asks"])}
    last = old["lastUpdateId"]
    for frame in messages(after, NOW_MS, NOW_MS + 3000, "depth"):
        diff = json.loads(frame)["data"]
        if diff["s"] != "BTCUSDT":
            continue
        assert diff["U"] == last + 1
        last = diff["u"]
        for side, levels in sides.items():
            for price, size in diff[side]:
                levels.pop(price, None)
                if Decimal(size):
                    levels[price] = size
        assert max(map(Decimal, sides["b"])) < min(map(Decimal, sides["a"]))
    assert last == new["lastUpdateId"]
    assert (sides["b"], sides["a"]) == (dict(new["bids"]), dict(new["asks"]))


def test_history_reaches_back_as_far_as_it_is_told() -> None:
    market = synthetic(history_seconds=3600)
    (first,) = ask(market, "/api/v3/historicalTrades?symbol=BTCUSDT&fromId=0&limit=1")
    assert NOW_MS - 3_660_000 <= first["time"] <= NOW_MS - 3_500_000
    rows = ask(market, "/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime=0&limit=1000")
    assert 58 <= len(rows) <= 61


def test_the_adapter_reads_all_that_the_synthetic_market_says() -> None:
    market = synthetic()
    adapter = BinanceAdapter(candles=("1s",))
    body = rest.answer(market, "/api/v3/exchangeInfo")
    assert body is not None
    for instrument in adapter.decode_instruments(body.body, ["BTCUSDT", "ETHUSDT"]):
        adapter.adopt(instrument)
    frames = messages(market, NOW_MS - 3000, NOW_MS)
    found = {type(event).__name__ for event in adapter.decode_many(frames)}
    assert found == {"Trades", "Candles", "Ignored", "VenueTime"}
    records = [e for e in adapter.decode_many(frames) if isinstance(e, (Trades, Candles))]
    assert {event.symbol for event in records} == {"BTCUSDT", "ETHUSDT"}


def test_a_market_of_futures_has_their_series_the_same_in_any_steps_and_the_adapter_reads_all() -> None:
    names = ("funding", "mark_price", "open_interest", "liquidation")
    market = SyntheticFutures(5, ["BTCUSDT"], 20.0, clock=lambda: NOW_MS * 10**6)
    streams = ("markPrice", "forceOrder", "depth")
    whole = messages(market, NOW_MS - 10_000, NOW_MS, *streams)
    steps = [f for at in range(10) for f in messages(market, NOW_MS - 10_000 + at * 1000, NOW_MS - 9000 + at * 1000,
                                                     *streams)]  # fmt: skip
    assert sorted(whole) == sorted(steps)
    adapter = UsdMarginedAdapter(book=True, series=names)
    body = rest.answer(market, "/fapi/v1/exchangeInfo")
    assert body is not None
    adapter.adopt(adapter.decode_instruments(body.body, ["BTCUSDT"])[0])
    events = adapter.decode_many(whole)
    found = {event.stream: len(event.records) for event in events if isinstance(event, Series)}
    assert found == {"funding": 10, "mark_price": 10, "liquidation": 2}
    deltas = [event for event in events if isinstance(event, BookDelta)]
    assert len(deltas) == 100 and all(d.previous == b.last for b, d in itertools.pairwise(deltas))
    target = "/fapi/v1/openInterest?symbol=BTCUSDT"
    answered = rest.answer(market, target)
    assert answered is not None
    (interest,) = adapter.decode_rest(target, answered.body)
    assert isinstance(interest, Series) and interest.records["size"][0] > 0
    assert rest.answer(synthetic(), target).status == 400  # type: ignore[union-attr]  # a spot market has none


def test_settings_of_a_synthetic_market_are_checked() -> None:
    with pytest.raises(InvalidArgument, match="symbols"):
        SyntheticMarket(1, [])
    with pytest.raises(InvalidArgument, match="trades_per_second"):
        SyntheticMarket(1, ["BTCUSDT"], 0.0)


def test_a_recorded_book_goes_on_from_the_snapshot_after_a_hole() -> None:
    book = RecordedBook()
    book.add_snapshot(Depth(last_id=10, bids=[("99", "1")], asks=[("101", "1")]))
    book.add_snapshot(Depth(last_id=30, bids=[("89", "1")], asks=[("91", "1")]))
    for position, (first, last, bids) in enumerate(
        [(9, 11, [("98", "2")]), (12, 12, [("99", "0")]), (29, 31, [("88", "3")]), (32, 32, [("88", "4")])]
    ):
        book.add_diff(position, DepthMessage(symbol="X", first_id=first, last_id=last, bids=bids, asks=[]))
    told = [book.answer(position, 10) for position in range(5)]
    assert [each["lastUpdateId"] for each in told] == [10, 11, 12, 31, 32]
    assert [dict(each["bids"]) for each in told] == [
        {"99": "1"},
        {"99": "1", "98": "2"},
        {"98": "2"},
        {"89": "1", "88": "3"},
        {"89": "1", "88": "4"},
    ]
