"""Recordings of other venues, played back to the ordinary feed over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_sink import IMPATIENT, RecordingSink, feed_of, running

from marketd.daemon.feeds.emulator import Playback, PlaybackEmulator
from marketd.daemon.feeds.repair import RepairSettings
from marketd.market.records import BookState, Coverage
from support import eventually_async


@contextlib.asynccontextmanager
async def played(files: Sequence[Path], venue: str, *, speed: str = "max") -> AsyncIterator[PlaybackEmulator]:
    emulator = PlaybackEmulator(Playback(files, venue, speed=speed))
    await emulator.start()
    try:
        yield emulator
    finally:
        await emulator.stop()


def capture(tmp_path: Path, lines: Sequence[str]) -> Path:
    path = tmp_path / "KRAKEN.0"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def kraken_trade(second: int, price: str) -> str:
    row = f'[["{price}","0.50000000","{1618678000 + second}.123456","b","l",""]]'
    return f'{1618678000 + second}.5: [337,{row},"trade","XBT/USD"]'


CONNECTED = "wss://ws.kraken.com <-> 1618677999.0"


async def test_a_venue_without_trade_numbers_is_fed_and_its_trades_come_once(tmp_path: Path) -> None:
    lines = [CONNECTED, *(kraken_trade(n, f"60000.{n}") for n in range(1, 6)), kraken_trade(5, "60000.5")]
    sink = RecordingSink()
    async with (
        played([capture(tmp_path, lines)], "KRAKEN") as emulator,
        running(feed_of(emulator, sink, ["BTC/USD"], venue="KRAKEN", candles=())),
    ):
        await eventually_async(lambda: len(sink.ids("BTCUSD")) >= 5)
        await eventually_async(lambda: emulator.progress().ended)
    trades = sink.records("BTCUSD", "trade")
    assert (np.diff(trades["ts_event"]) >= 0).all()
    assert len(set(trades["trade_id"].tolist())) == len(trades)


async def test_what_a_reconnect_may_have_lost_is_a_gap_when_the_venue_cannot_be_asked(tmp_path: Path) -> None:
    lines = [CONNECTED, *(kraken_trade(n, f"60000.{n % 10}") for n in range(1, 400))]
    sink = RecordingSink()
    async with (
        played([capture(tmp_path, lines)], "KRAKEN", speed="10") as emulator,
        running(feed_of(emulator, sink, ["BTC/USD"], venue="KRAKEN", candles=(), repair=IMPATIENT)) as feed,
    ):
        await eventually_async(lambda: len(sink.ids("BTCUSD")) >= 2)
        emulator.drop_connections()
        await eventually_async(lambda: Coverage.GAP in sink.states("BTCUSD"), timeout=30.0)
        before = len(sink.ids("BTCUSD"))
        await eventually_async(lambda: len(sink.ids("BTCUSD")) > before)
        assert feed.statistics().gaps == 1
    assert sink.states("BTCUSD") == [Coverage.OBSERVED, Coverage.GAP, Coverage.ENDED]


def test_a_recording_tells_what_a_feed_must_ask_for(tmp_path: Path) -> None:
    row = {"instId": "BTC-AED", "tradeId": "7", "px": "30.5", "sz": "3", "side": "buy", "ts": "1652459236119"}
    message = json.dumps({"arg": {"channel": "trades", "instId": "BTC-AED"}, "data": [row]})
    playback = Playback([capture(tmp_path, [f"1652459236.1: {message}"])], "OKX")
    assert (playback.symbols, playback.recorded_trades) == (["BTC/AED"], "aggTrade")


async def test_each_of_a_venues_addresses_has_its_own_frames(tmp_path: Path) -> None:
    """A feed of OKX is connected to two of them: a book that came over both would change twice."""

    def row(channel: str, data: Any, **more: Any) -> str:
        arg = {"channel": channel, "instId": "BTC-USDT"}
        return f"1652459236.1: {json.dumps({'arg': arg, 'data': [data], **more})}"

    levels = {"bids": [["9.5", "1", "0", "1"]], "asks": [["99.5", "1", "0", "1"]], "ts": "1652459236119"}
    changes = [{**levels, "checksum": 0, "bids": [["9.5", str(size), "0", "1"]]} for size in range(1, 200)]
    bar = ["1652459160000", "30", "30", "30", "30", "7", "210", "210", "1"]
    lines = [
        "wss://ws.okx.com:8443/ws/v5/public <-> 1652459224.5",  # where it had its bars, too, until 2023
        row("trades", {"instId": "BTC-USDT", "tradeId": "7", "px": "30", "sz": "3", "side": "buy", "ts": "5"}),
        row("books", changes[0], action="snapshot"),
        *(row("books", change, action="update") for change in changes[1:]),
        row("candle1m", bar),
    ]
    path = capture(tmp_path, lines)
    async with played([path], "OKX") as emulator:
        sink, paths = RecordingSink(), ("/ws/v5/public", "/ws/v5/business")
        assert [emulator.playback.endpoint_at(f"/ws.okx.com{each}") for each in paths] == list(paths)
        async with running(feed_of(emulator, sink, ["BTCUSDT"], venue="OKX", trades="aggTrade", book=True)) as feed:
            await eventually_async(lambda: len(sink.records("BTCUSDT", "candle")) == 1)
            await eventually_async(lambda: feed.statistics().books_live == 1)
            assert feed.statistics().book_events == {"subscribed": 1, "joined": 1}
            assert feed.statistics().messages == len(lines) - 1


def test_answers_are_told_apart_by_what_was_asked(tmp_path: Path) -> None:
    """A venue has all its lists of instruments at one path, and the trades of all its pairs at another."""
    api = "https://api.kraken.com/0/public"
    lines = [
        f'{api}/AssetPairs -> 1618678130.1: {{"error":[],"result":{{}}}}',
        f"{api}/Trades?pair=XBTUSD -> 1618678130.2: of BTC",
        f"{api}/Trades?pair=ETHUSD&since=5 -> 1618678130.3: of ETH",
        f"{api}/Depth?pair=XBTUSD -> 1618678130.4: of its book",
        "wss://ws.kraken.com <-> 1618678131.0",
        kraken_trade(2, "60000.1"),
    ]
    playback = Playback([capture(tmp_path, lines)], "KRAKEN")
    asked = [
        f"/0/public/{target}" for target in ("Trades?since=5&pair=ETHUSD", "Trades?pair=XBTEUR", "Depth?pair=XBTUSD")
    ]
    assert [playback.answer(target) for target in asked] == [b"of ETH", None, b"of its book"]
    assert playback.answer("/0/public/Trades?pair=ETHUSD&since=99") == b"of ETH"
    assert b"BTC/USD" in (playback.answer("/0/public/AssetPairs") or b"")


def test_a_file_without_a_message_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no message of a WebSocket"):
        Playback([capture(tmp_path, [CONNECTED])], "KRAKEN")


# ---- recorded traffic ---------------------------------------------------------------------------------

RECORDINGS = [
    ("COINBASE", ("COINBASE.ws.28.0",), 107, 10),
    ("KRAKEN", ("KRAKEN.ws.50.0",), 0, 10),
    ("KRAKEN", ("KRAKEN.ws.48.0",), 10, 0),
    ("BYBIT_LINEAR", ("BYBIT.ws.25.0",), 101, 8),
    ("BITSTAMP", ("BITSTAMP.http.0.0", "BITSTAMP.ws.1.0"), 10, 9),
]


@pytest.mark.parametrize(("venue", "stems", "trades", "books"), RECORDINGS)
async def test_recordings_of_other_venues_come_through_the_feed(
    shared_data: Path, venue: str, stems: Sequence[str], trades: int, books: int
) -> None:
    files = [shared_data / "ws_cryptofeed" / f"{stem}.gz" for stem in stems]
    sink = RecordingSink()
    async with played(files, venue) as emulator:
        symbols = emulator.playback.symbols
        settings = RepairSettings(hold_seconds=0.5)
        feed = feed_of(emulator, sink, symbols, venue=venue, book=True, candles=(), repair=settings)
        async with running(feed):
            await eventually_async(lambda: emulator.progress().ended, timeout=30.0)
            await eventually_async(lambda: feed.statistics().trades >= trades, timeout=30.0)
            await eventually_async(lambda: feed.statistics().books_live >= books, timeout=30.0)
            await asyncio.sleep(0)
            statistics = feed.statistics()
    assert statistics.rejected == {}
    assert (statistics.trades, statistics.books_live) == (trades, books)
    for symbol in symbols:
        records = sink.records(symbol, "book")
        live = records[records["state"] == BookState.LIVE]
        both = live[(live["bid_count"] > 0) & (live["ask_count"] > 0)]
        assert (both["bid_price"][:, 0] < both["ask_price"][:, 0]).all()
