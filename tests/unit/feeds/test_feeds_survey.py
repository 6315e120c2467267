"""What a recording tells of its instruments, and the answers with which an emulator tells it on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from marketd.daemon.feeds.adapter import BookSnapshot, Trades
from marketd.daemon.feeds.emulator import venue_answers
from marketd.daemon.feeds.kraken_v1 import KrakenV1Adapter
from marketd.daemon.feeds.survey import survey
from marketd.daemon.feeds.venues import VENUES
from marketd.market.errors import ConfigError
from marketd.market.instruments import Instrument

NOW_NS = 1_618_678_132 * 10**9
KRAKEN = [
    "wss://ws.kraken.com <-> 1618678132.3",
    '1618678133.1: [337,[["60000.10000","0.50000000","1618678133.123456","b","l",""]],"trade","XBT/USD"]',
    '1618678134.1: {"event":"heartbeat"}',
]


def recording(tmp_path: Path, lines: list[str]) -> Path:
    path = tmp_path / "capture"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def frame(stream: str, data: dict[str, Any]) -> str:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":"))


def test_the_address_tells_which_protocol_was_spoken(tmp_path: Path) -> None:
    found = survey([recording(tmp_path, KRAKEN)], "KRAKEN")
    assert found.venue.adapter is KrakenV1Adapter
    (instrument,) = found.instruments
    assert (instrument.symbol, instrument.base, instrument.quote, instrument.market) == ("BTCUSD", "BTC", "USD", "spot")
    assert (instrument.price_scale, instrument.size_scale) == (1, 1)
    adapter = found.adapter()
    trades = [event for event in adapter.decode_many([KRAKEN[1].partition(": ")[2].encode()])]
    assert [event.symbol for event in trades if isinstance(event, Trades)] == ["BTCUSD"]


def test_a_snapshot_over_rest_may_have_finer_numbers_than_the_stream(tmp_path: Path) -> None:
    depth = {"e": "depthUpdate", "E": 5, "s": "ETHUSD_PERP", "U": 2, "u": 3, "pu": 1, "b": [["2680.9", "10"]], "a": []}
    snapshot = json.dumps({"lastUpdateId": 2, "bids": [["2680.97", "10"]], "asks": []})
    url = "https://dapi.binance.com/dapi/v1/depth?symbol=ETHUSD_PERP&limit=1000"
    lines = [
        "#marketd-capture 1 BINANCE_DELIVERY wss://dstream.binance.com",
        f"1723161258000000000 {frame('ethusd_perp@depth@100ms', depth)}",
        f"#rest 1723161258100000000 {url} {snapshot}",
    ]
    found = survey([recording(tmp_path, lines)], "BINANCE_DELIVERY")
    (instrument,) = found.instruments
    assert (instrument.price_scale, instrument.market, instrument.base) == (2, "swap", "ETH")
    (event,) = found.adapter(book=True).decode_rest(url, snapshot.encode())
    assert isinstance(event, BookSnapshot)


def test_only_aggregates_and_recorded_intervals_are_asked_for(tmp_path: Path) -> None:
    trade = {"e": "aggTrade", "E": 5, "s": "BTCUSDT", "a": 7, "p": "61837.60", "q": "0.02", "T": 5, "m": True}
    bar = {"t": 0, "T": 59999, "s": "BTCUSDT", "i": "5m", "o": "1", "c": "1", "h": "1", "l": "1", "v": "1", "n": 1}
    kline = {"e": "kline", "E": 5, "s": "BTCUSDT", "k": {**bar, "x": False, "q": "1", "V": "1"}}
    lines = [
        f"1723161258000000000 {frame('btcusdt@aggTrade', trade)}",
        f"1723161258000000001 {frame('btcusdt@kline_5m', kline)}",
    ]
    found = survey([recording(tmp_path, lines)])
    assert (found.trades, found.candles, found.first_ns) == ("aggTrade", ("5m",), 1723161258000000000)


def test_a_venue_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NOWHERE"):
        survey([recording(tmp_path, KRAKEN)], "NOWHERE")


@pytest.mark.parametrize("name", ["COINBASE", "KRAKEN", "BYBIT", "BYBIT_LINEAR", "BITSTAMP", "OKX"])
def test_an_adapter_understands_the_answers_of_its_emulated_venue(name: str) -> None:
    adapter = VENUES[name].adapter()
    symbol = adapter.venue_symbol("BTC/USDT:USDT" if name == "BYBIT_LINEAR" else "BTC/USD")
    told = Instrument(
        id=0,
        symbol=symbol,
        venue=name,
        price_scale=2,
        size_scale=5,
        quote_scale=7,
        base="BTC",
        quote=symbol.removeprefix("BTC"),
        market=VENUES[name].market_of(symbol),
    )
    body = venue_answers.answer(urlsplit(adapter.instruments_request([symbol]).target).path, [told], NOW_NS)
    assert body is not None
    (found,) = adapter.decode_instruments(body, [symbol])
    names = ("symbol", "price_scale", "size_scale", "base", "quote", "market")
    assert [getattr(found, name) for name in names] == [getattr(told, name) for name in names]
    clock = adapter.time_request()
    if clock is not None:
        body = venue_answers.answer(urlsplit(clock.target).path, [told], NOW_NS)
        assert body is not None
        assert adapter.decode_time(body) == NOW_NS


def test_of_an_unknown_path_nothing_is_known() -> None:
    assert venue_answers.answer("/api/v9/secrets", [], NOW_NS) is None
