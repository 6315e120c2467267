"""The Binance adapter: bytes in, events out; every message is accounted for."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.feeds.adapter import (
    Candles,
    Event,
    Ignored,
    Rejected,
    Trades,
    UnknownSymbol,
    VenueClosing,
    VenueError,
    VenueRefused,
    VenueTime,
)
from marketd.daemon.feeds.binance import BinanceAdapter
from marketd.daemon.feeds.captures import CaptureReader
from marketd.daemon.feeds.survey import survey
from marketd.daemon.feeds.venues import VENUES, venue_of
from marketd.market.errors import ConfigError, InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import CANDLE, TRADE, Source, TradeFlag

BTC = Instrument(id=1, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=7)


def adapter(**options: Any) -> BinanceAdapter:
    made = BinanceAdapter(**options)
    made.adopt(BTC)
    return made


def frame(stream: str, data: dict[str, Any]) -> bytes:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()


def trade(number: int = 1, **changes: Any) -> bytes:
    fields = {"e": "trade", "E": 1723161255343, "s": "BTCUSDT", "t": number, "p": "61837.63000000"}
    more = {"q": "0.02000000", "T": 1723161255342, "m": True, "M": True}
    return frame("btcusdt@trade", {**fields, **more, **changes})


def kline(**changes: Any) -> bytes:
    inner = {
        "t": 1617566580000,
        "T": 1617566639999,
        "s": "BTCUSDT",
        "i": "1m",
        "f": 1,
        "L": 9,
        "o": "2063.88",
        "c": "2064.73",
        "h": "2065.00",
        "l": "2063.88",
        "v": "70.86425",
        "n": 71,
        "x": True,
        "q": "146321.71560791",
        "V": "46.98201000",
        "Q": "97009.77617410",
        "B": "0",
    }
    return frame("btcusdt@kline_1m", {"e": "kline", "E": 1617566640001, "s": "BTCUSDT", "k": {**inner, **changes}})


def accounted(events: list[Event]) -> int:
    """How many messages the events stand for."""
    total = 0
    for event in events:
        if isinstance(event, (Trades, Candles)):
            total += len(event.records)
        elif isinstance(event, Ignored):
            total += event.messages
        elif isinstance(event, (Rejected, VenueError, VenueClosing)):
            total += 1
    return total


def only(events: list[Event], kind: type[Any]) -> Any:
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def test_a_trade_becomes_a_record_in_fixed_point() -> None:
    records = only(adapter().decode_many([trade(7)]), Trades).records
    assert records.dtype == TRADE
    assert records.tolist() == [(1723161255342 * 10**6, 0, 0, 7, 6183763, 2000, -1, 0)]


def test_few_and_many_trades_give_the_same_records() -> None:
    frames = [trade(n, p=f"{n}.5", q=f"0.000{n % 9}", m=n % 3 == 0, T=1723161255342000 + n) for n in range(100)]
    decode = adapter().decode_many
    many = only(decode(frames), Trades).records
    few = [only(decode(frames[i : i + 3]), Trades).records.tolist() for i in range(0, 100, 3)]
    assert many.tolist() == list(itertools.chain(*few))
    assert many["ts_event"][1] == (1723161255342000 + 1) * 1000


def test_milliseconds_and_microseconds_are_told_apart() -> None:
    in_ms = only(adapter().decode_many([trade(T=1735689600123)]), Trades).records
    in_us = only(adapter().decode_many([trade(T=1735689600123000)]), Trades).records
    assert in_ms["ts_event"][0] == in_us["ts_event"][0] == 1735689600123 * 10**6


def test_a_futures_trade_that_is_no_market_trade_is_flagged() -> None:
    events = adapter().decode_many([trade(1, X="INSURANCE_FUND"), trade(2, X="MARKET"), trade(3)])
    assert only(events, Trades).records["flags"].tolist() == [TradeFlag.NOT_MARKET, 0, 0]


def test_an_aggregate_trade_is_flagged_and_only_one_id_space_is_used() -> None:
    agg = frame(
        "btcusdt@aggTrade",
        {"e": "aggTrade", "E": 5, "s": "BTCUSDT", "a": 9, "p": "1", "q": "1", "f": 1, "l": 2, "T": 4, "m": False},
    )
    events = adapter(trades="aggTrade").decode_many([agg, trade()])
    records = only(events, Trades).records
    assert (records["trade_id"][0], records["side"][0], records["flags"][0]) == (9, 1, TradeFlag.AGGREGATE)
    assert Ignored("trade", 1) in events
    assert Ignored("aggTrade", 1) in adapter().decode_many([agg])


def test_a_bad_trade_costs_its_neighbours_nothing() -> None:
    for padding in (0, 100):  # the way of few and the way of many
        good = [trade(n) for n in range(10, 10 + padding)]
        events = adapter().decode_many([trade(1), trade(2, p="1.234"), trade(3, q="nan"), trade(4), *good])
        assert only(events, Trades).records["trade_id"][:2].tolist() == [1, 4]
        rejected = [event for event in events if isinstance(event, Rejected)]
        assert [(r.symbol, r.rule, r.trade_id) for r in rejected] == [
            ("BTCUSDT", "precision", 2),
            ("BTCUSDT", "not_finite", 3),
        ]
        assert b"1.234" in rejected[0].payload
        assert accounted(events) == 4 + padding


def test_only_closed_klines_are_records_and_quote_volumes_are_floored() -> None:
    events = adapter().decode_many([kline(x=False), kline()])
    records = only(events, Candles).records
    assert records.dtype == CANDLE
    bar = dict(zip(CANDLE.names or (), records[0].tolist(), strict=True))
    assert bar["ts"] == 1617566580 * 10**9
    assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (206388, 206500, 206388, 206473)
    assert (bar["volume"], bar["buy_volume"], bar["quote_volume"]) == (7086425, 4698201, 1463217156079)
    assert (bar["timeframe"], bar["source"], bar["trade_count"]) == (60, Source.VENUE, 71)
    assert Ignored("open kline", 1) in events
    assert only(events, VenueTime) == VenueTime("BTCUSDT", 1617566640001 * 10**6)


def test_klines_of_other_intervals_are_named_and_left_out() -> None:
    events = adapter(candles=("5m",)).decode_many([kline(), kline(i="1M")])
    assert Ignored("kline_1m", 1) in events
    assert Ignored("kline_1M", 1) in events


def test_other_messages_are_named_and_drive_the_clock_when_they_bear_a_time() -> None:
    depth = {"e": "depthUpdate", "E": 1723161255208, "s": "BTCUSDT", "U": 1, "u": 2, "b": [], "a": []}
    events = adapter().decode_many(
        [
            frame("btcusdt@depth@100ms", depth),
            frame("btcusdt@depth", depth | {"E": 1723161255300}),
            frame("btcusdt@bookTicker", {"u": 1, "s": "BTCUSDT", "b": "1", "B": "1", "a": "2", "A": "1"}),
            frame("btcusdt@somethingNew", {"e": "brandNew", "E": 1723161255400, "s": "BTCUSDT"}),
            frame("!ticker@arr", {"e": "x"}).replace(b'{"e":"x"}', b"[1]"),
            b'{"result":null,"id":3}',
            json.dumps(depth).encode(),
        ]
    )
    counted = {event.name: event.messages for event in events if isinstance(event, Ignored)}
    assert counted == {"depth": 3, "bookTicker": 1, "brandNew": 1, "!ticker@arr": 1, "reply": 1}
    assert only(events, VenueTime) == VenueTime("BTCUSDT", 1723161255400 * 10**6)


def test_a_symbol_that_is_not_subscribed_is_named() -> None:
    events = adapter().decode_many([trade(s="ETHUSDT")])
    assert [event for event in events if not isinstance(event, VenueTime)] == [Ignored("not subscribed", 1)]


def test_an_error_and_a_shutdown_of_the_venue_are_events() -> None:
    events = adapter().decode_many(
        [
            b'{"error":{"code":2,"msg":"Invalid request"},"id":1}',
            b'{"e":"serverShutdown","E":1}',
            b'{"code":1,"msg":"x"}',
        ]
    )
    assert [type(event) for event in events] == [VenueError, VenueClosing, VenueError]


def test_a_shutdown_of_the_venue_is_told_as_it_came() -> None:
    alone = b'{"e":"serverShutdown","E":1770123456789}'
    (closing,) = adapter().decode_many([alone])
    assert closing == VenueClosing(alone.decode())
    within = [event for event in adapter().decode_many([b'{"stream":"x@y","data":' + alone + b"}"])]
    assert VenueClosing(alone.decode()) in within


@given(st.lists(st.binary(max_size=200)))
def test_any_bytes_are_accounted_for_and_raise_nothing(frames: list[bytes]) -> None:
    assert accounted(adapter().decode_many(frames)) == len(frames)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_fields = st.dictionaries(st.sampled_from([*"eEstpqTmMXakUub"]), _json)
_streams = st.sampled_from(["btcusdt@trade", "btcusdt@kline_1m", "btcusdt@depth", "x@y", "", "btcusdt@bookTicker"])


@given(st.lists(st.tuples(_streams, _fields | _json, st.booleans()), max_size=5))
def test_any_json_is_accounted_for_and_raises_nothing(messages: list[tuple[str, Any, bool]]) -> None:
    frames = [json.dumps({"stream": s, "data": data} if wrapped else data).encode() for s, data, wrapped in messages]
    assert accounted(adapter().decode_many(frames)) == len(frames)


@given(st.dictionaries(st.sampled_from([*"EtpqTmX"]), _json, min_size=1))
def test_a_trade_with_any_wrong_field_is_accounted_for(changes: dict[str, Any]) -> None:
    assert accounted(adapter().decode_many([trade(1), trade(2, **changes), trade(3)])) == 3


def test_deep_nesting_is_rejected_and_not_a_crash() -> None:
    (event,) = adapter().decode_many([b'{"data":' + b"[" * 200_000])
    assert isinstance(event, Rejected)
    assert len(event.payload) <= 16_384


STATS = [
    ("ws_binance_raw/spot_btcusdt_20240808.gz", "trade"),
    ("ws_binance_raw/spot_btcusdt_20240809.gz", "trade"),
    ("ws_binance_raw/usdm_btcusdt_20240718.gz", "trade"),
    ("ws_cryptofeed/BINANCE-ee25be.0.gz", "aggTrade"),
    ("ws_cryptofeed/BINANCE.ws.1.0.gz", "aggTrade"),
]


@pytest.mark.parametrize(("name", "trades"), STATS)
def test_recorded_traffic_is_decoded_as_the_statistics_say(shared_data: Path, name: str, trades: str) -> None:
    stats = json.loads((shared_data / "STATS.json").read_text())[name]
    found = survey([shared_data / name])
    assert found.trades == trades
    made = BinanceAdapter(trades=trades)
    for instrument in found.instruments:
        made.adopt(instrument)
    lines = [line.payload for line in CaptureReader(shared_data / name) if line.kind == "ws"]
    counts: Counter[str] = Counter()
    for chunk in (lines[i : i + 777] for i in range(0, len(lines), 777)):
        events = made.decode_many(chunk)
        assert accounted(events) == len(chunk)
        for event in events:
            if isinstance(event, (Trades, Candles)):
                counts[type(event).__name__] += len(event.records)
            elif isinstance(event, Ignored):
                counts[event.name] += event.messages
            assert not isinstance(event, (Rejected, VenueError))
    if "by_stream" in stats:
        snapshots = stats["by_stream"].get("REST depth snapshot (no stream wrapper)", 0)
        depth = sum(number for stream, number in stats["by_stream"].items() if stream.startswith("depth@"))
        assert len(lines) + snapshots == stats["messages"]
        assert counts["Trades"] == stats["trades"]
        assert counts["bookTicker"] == stats["by_stream"]["bookTicker"]
        assert sum(counts.values()) - counts["Trades"] - counts["bookTicker"] == depth
    else:
        assert len(lines) == stats["ws_messages"]
        assert [counts["Candles"], counts["open kline"]] == stats["klines_closed_open"]


# ---- names, streams, commands -------------------------------------------------------------------


@pytest.mark.parametrize("symbol", ["BTC/USDT", "BTCUSDT", "btcusdt", "BTCUSDT.BINANCE", "BTC/USDT.BINANCE"])
def test_symbols_are_read_as_ccxt_and_the_venue_write_them(symbol: str) -> None:
    assert adapter().venue_symbol(symbol) == "BTCUSDT"


@pytest.mark.parametrize("symbol", ["BTC/USDT:USDT", "/", "BTC/", "BTC-USDT", "", "B", "BTC USDT", "ÄÖÜ"])
def test_what_is_no_spot_symbol_is_refused(symbol: str) -> None:
    with pytest.raises(InvalidArgument):
        adapter().venue_symbol(symbol)


def test_streams_beyond_what_an_address_holds_are_subscribed_by_message() -> None:
    made = adapter(candles=("1m", "1h"))
    streams = [stream for n in range(200) for stream in made.streams(f"S{n}USDT")]
    assert streams[:3] == ["s0usdt@trade", "s0usdt@kline_1m", "s0usdt@kline_1h"]
    url, rest = made.connect_url("wss://x:9443/", streams)
    assert url.startswith("wss://x:9443/stream?streams=s0usdt@trade/s0usdt@kline_1m/")
    assert len(url) < 8000
    commands = [json.loads(text) for text in made.commands("SUBSCRIBE", rest, 5)]
    named = url.partition("=")[2].split("/")
    assert named + [stream for command in commands for stream in command["params"]] == streams
    assert [command["id"] for command in commands] == list(range(5, 5 + len(commands)))


def test_settings_that_binance_cannot_serve_are_refused_early() -> None:
    with pytest.raises(ConfigError, match="neither"):
        BinanceAdapter(trades="both")
    with pytest.raises(ConfigError, match="no klines"):
        BinanceAdapter(candles=("7m",))
    with pytest.raises(ConfigError, match="there are: BINANCE"):
        venue_of("NOWHERE")


def test_every_venue_of_the_table_keeps_its_own_limits() -> None:
    for venue in VENUES.values():
        made = venue.adapter()
        assert made.venue == venue.name
        assert len(made.streams("BTCUSDT")) <= venue.limits.streams_per_connection
        assert venue.ws_url.startswith("wss://")
        assert venue.rest_url.startswith("https://")


# ---- REST ---------------------------------------------------------------------------------------


def symbol_info(**changes: Any) -> dict[str, Any]:
    filters = [
        {"filterType": "PRICE_FILTER", "tickSize": "0.01000000"},
        {"filterType": "LOT_SIZE", "stepSize": "0.00001000"},
        {"filterType": "SOMETHING_NEW", "limit": 5},
    ]
    base = {"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "quotePrecision": 8, "filters": filters}
    return {**base, "status": "TRADING", "baseAssetPrecision": 8, **changes}


def test_exchange_info_gives_instruments_with_their_scales() -> None:
    body = json.dumps({"symbols": [symbol_info()], "timezone": "UTC"}).encode()
    (instrument,) = adapter().decode_instruments(body, ["BTCUSDT"])
    assert instrument == Instrument(
        id=0,
        symbol="BTCUSDT",
        venue="BINANCE",
        price_scale=2,
        size_scale=5,
        quote_scale=7,
        base="BTC",
        quote="USDT",
        tick_size=1,
        step_size=1,
    )


@pytest.mark.parametrize(
    ("tick", "step", "scales", "units"),
    [
        ("0.05000000", "1.00000000", (2, 0, 2), (5, 1)),
        ("10", "0.1", (0, 1, 1), (10, 1)),
        ("0.00000000", "0.00000000", (8, 8, 8), (1, 1)),  # switched off: the venue's own precision
        ("1E-8", "1", (8, 0, 8), (1, 1)),
        ("nonsense", "", (8, 8, 8), (1, 1)),
    ],
)
def test_ticks_and_steps_become_scales(tick: str, step: str, scales: Any, units: Any) -> None:
    filters = [{"filterType": "PRICE_FILTER", "tickSize": tick}, {"filterType": "LOT_SIZE", "stepSize": step}]
    body = json.dumps({"symbols": [symbol_info(filters=filters)]}).encode()
    (instrument,) = adapter().decode_instruments(body, ["BTCUSDT"])
    assert (instrument.price_scale, instrument.size_scale, instrument.quote_scale) == scales
    assert (instrument.tick_size, instrument.step_size) == units


def test_an_unknown_symbol_and_an_unreadable_answer_are_told_apart() -> None:
    with pytest.raises(UnknownSymbol):
        adapter().decode_instruments(b'{"code":-1121,"msg":"Invalid symbol."}', ["X"])
    with pytest.raises(UnknownSymbol):
        adapter().decode_instruments(b'{"symbols":[]}', ["X"])
    with pytest.raises(VenueRefused, match="cannot be read"):
        adapter().decode_instruments(b"<html>", ["X"])
    with pytest.raises(VenueRefused, match="Too many"):
        adapter().decode_trades("BTCUSDT", b'{"code":-1003,"msg":"Too many requests"}')


def rest_trade(number: int, **changes: Any) -> dict[str, Any]:
    row = {"id": number, "price": "61837.63000000", "qty": "0.02000000", "quoteQty": "1", "time": 1723161255342}
    return {**row, "isBuyerMaker": True, "isBestMatch": True, **changes}


def test_rest_trades_equal_those_of_the_stream_but_for_their_flag() -> None:
    page = adapter().decode_trades("BTCUSDT", json.dumps([rest_trade(7)]).encode())
    live = only(adapter().decode_many([trade(7)]), Trades).records
    assert page.records["flags"].tolist() == [0]
    page.records["flags"] = 0
    assert page.records.tolist() == live.tolist()
    assert page.at_present
    assert page.rows == 1


def test_a_bad_row_of_a_page_is_rejected_by_itself() -> None:
    rows = [rest_trade(2, price="x"), rest_trade(1), {"id": "?"}, rest_trade(3)]
    page = adapter().decode_trades("BTCUSDT", json.dumps(rows).encode())
    assert page.records["trade_id"].tolist() == [1, 3]
    assert sorted((r.rule, r.trade_id) for r in page.rejected) == [("not_finite", 2), ("undecodable", None)]


def test_a_full_page_says_that_there_is_more() -> None:
    rows = [rest_trade(number) for number in range(1000)]
    assert not adapter().decode_trades("BTCUSDT", json.dumps(rows).encode()).at_present


def test_aggregate_trades_come_over_rest_too() -> None:
    made = adapter(trades="aggTrade")
    row = {"a": 5, "p": "1.5", "q": "2", "f": 1, "l": 2, "T": 1723161255342, "m": False, "M": True}
    page = made.decode_trades("BTCUSDT", json.dumps([row]).encode())
    assert page.records["flags"].tolist() == [TradeFlag.AGGREGATE]
    assert made.trades_request("BTCUSDT", 5).target == "/api/v3/aggTrades?symbol=BTCUSDT&fromId=5&limit=1000"


REST_KLINE = [1617566580000, "1", "3", "0.5", "2", "10", 1617566639999, "15.5", 4, "6", "9", "0"]


def test_only_bars_that_had_ended_are_taken_from_rest() -> None:
    later = [REST_KLINE[0] + 60_000, *REST_KLINE[1:]]
    body = json.dumps([REST_KLINE, later]).encode()
    now_ns = (1617566640000 + 500) * 10**6
    page = adapter().decode_bars("BTCUSDT", 60, body, now_ns)
    assert page.records["ts"].tolist() == [1617566580 * 10**9]
    assert page.records["close"].tolist() == [200]
    assert not len(adapter().decode_bars("BTCUSDT", 60, body, now_ns - 1).records)


def test_a_recorded_rest_answer_gives_its_events() -> None:
    made = adapter()
    body = json.dumps([rest_trade(7)]).encode()
    events = made.decode_rest("https://api.binance.com/api/v3/historicalTrades?symbol=BTCUSDT&fromId=7", body)
    assert only(events, Trades).records["trade_id"].tolist() == [7]
    assert made.decode_rest("https://x/api/v3/depth?symbol=BTCUSDT", b"{}") == [Ignored("REST depth")]
    refused = made.decode_rest("https://x/api/v3/trades?symbol=BTCUSDT", b"<html>")
    assert isinstance(refused[0], Rejected)
    bars = made.decode_rest(
        "https://x/klines?symbol=BTCUSDT&interval=1m", json.dumps([REST_KLINE, REST_KLINE]).encode()
    )
    assert len(only(bars, Candles).records) == 1


def test_the_time_of_the_venue_is_read() -> None:
    assert adapter().decode_time(msgspec.json.encode({"serverTime": 1723161255342})) == 1723161255342 * 10**6
