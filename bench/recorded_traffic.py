"""Recorded messages of venues, as `bench_feeds` gives them to marketd and to cryptofeed.

Both sides get what both would subscribe to: trades, changes of the book, bars. bookTicker and ticker messages are left
out: marketd does not subscribe to them, and passing over them would flatter it. Binance's single trades, which
cryptofeed does not know, are written as its aggregate ones (`aggTrade`) for both sides.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from duel import Traffic

from marketd.daemon.feeds.captures import CaptureLine, CaptureReader
from marketd.daemon.feeds.survey import survey

DATA = Path(os.environ.get("MARKETD_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
BINANCE_RAW, CRYPTOFEED = "ws_binance_raw", "ws_cryptofeed"

_TRADE = re.compile(r'"stream":"(\w+)@trade"')
_NAMES = {
    "BINANCE": re.compile(r'"s":"([^"]+)"'),
    "COINBASE": re.compile(r'"product_id":"([^"]+)"'),
    "KRAKEN": re.compile(r'"([^"]+/[^"]+)"\]$'),
    "BYBIT": re.compile(r'"topic":"[^"]*\.([^".]+)"'),
    "BITSTAMP": re.compile(r'"channel": ?"(?:diff_order_book|live_trades)_([^"]+)"'),
}
_WANTED: dict[str, Callable[[str], bool]] = {
    "BINANCE": lambda text: re.match(r'\{"stream":"[^"@]+@(?:trade|aggTrade|depth|kline)', text) is not None,
    "COINBASE": lambda text: not text.startswith('{"type":"ticker"'),
}


class Capture(NamedTuple):
    """Files that are one recording, and who reads it."""

    name: str
    venue: str
    exchange: str  # cryptofeed's class
    release: str  # of cryptofeed, the last one that speaks what was recorded
    folder: str
    files: tuple[str, ...]
    aggregate: bool = False

    @property
    def paths(self) -> list[Path]:
        return [DATA / self.folder / name for name in self.files]

    @property
    def is_there(self) -> bool:
        return all(path.exists() for path in self.paths)


def prepared(capture: Capture, most: int) -> Traffic:
    """The first `most` messages of a recording."""
    family = capture.venue.partition("_")[0]
    lines = sorted(_lines(capture), key=lambda line: line.recv_ns)
    found = survey(capture.paths, capture.venue)
    wanted = _WANTED.get(family, _everything)
    frames: list[str] = []
    for line in lines:
        text = line.payload.decode()
        if line.kind == "ws" and wanted(text) and len(frames) < most:
            frames.append(_as_aggregate(text) if capture.aggregate else text)
    names = sorted({match[1] for text in frames if (match := _NAMES[family].search(text))})
    url = next((line.url for line in lines if line.kind == "connect"), "")
    return Traffic(
        venue=capture.venue,
        url=url,
        exchange=capture.exchange,
        trades="aggTrade" if capture.aggregate else found.trades,
        candles=["1m"] if any('"k":{' in text for text in frames[:5000]) else [],
        symbols=names,
        instruments=[msgspec.to_builtins(instrument) for instrument in found.instruments],
        books=dict(_books(lines, names)),
        frames=frames,
    )


def _everything(text: str) -> bool:
    return True


def _lines(capture: Capture) -> Iterator[CaptureLine]:
    for path in capture.paths:
        yield from CaptureReader(path)


def _books(lines: list[CaptureLine], names: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        if line.kind == "rest":
            named = [name for name in names if name.lower() in line.url.lower()]
            # one format does not name the symbol, and has only one
            yield max(named, key=len) if named else names[0], line.payload.decode()


def _as_aggregate(text: str) -> str:
    match = _TRADE.search(text[:60])
    if match is None:
        return text
    data = json.loads(text)["data"]
    number = data.pop("t")
    told = {**data, "e": "aggTrade", "a": number, "f": number, "l": number}
    return json.dumps({"stream": f"{match[1]}@aggTrade", "data": told}, separators=(",", ":"))


NOW, BEFORE = "2.4.1", "2.3.2"
"""cryptofeed's releases: the newest, and the last with Coinbase's Exchange feed and Bybit's second protocol."""

CAPTURES = (
    Capture(
        "spot BTCUSDT, 2024",
        "BINANCE",
        "Binance",
        NOW,
        BINANCE_RAW,
        ("spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"),
        aggregate=True,
    ),
    Capture("3 spot pairs, 2021", "BINANCE", "Binance", NOW, CRYPTOFEED, ("BINANCE-ee25be.0.gz",)),
    Capture(
        "USD-M BTCUSDT, 2024",
        "BINANCE_FUTURES",
        "BinanceFutures",
        NOW,
        BINANCE_RAW,
        ("usdm_btcusdt_20240718.gz", "usdm_btcusdt_20240719.gz"),
        aggregate=True,
    ),
    Capture(
        "COIN-M ETHUSD_PERP, 2024",
        "BINANCE_DELIVERY",
        "BinanceDelivery",
        NOW,
        BINANCE_RAW,
        ("cm_ethusd_perp_20240808.gz",),
        aggregate=True,
    ),
    Capture("Exchange feed, 10 pairs", "COINBASE", "Coinbase", BEFORE, CRYPTOFEED, ("COINBASE.ws.28.0.gz",)),
    Capture("version 1, 10 pairs", "KRAKEN", "Kraken", NOW, CRYPTOFEED, ("KRAKEN.ws.48.0.gz", "KRAKEN.ws.50.0.gz")),
    Capture("version 2, 8 swaps", "BYBIT_LINEAR", "Bybit", BEFORE, CRYPTOFEED, ("BYBIT.ws.25.0.gz",)),
    Capture("10 pairs", "BITSTAMP", "Bitstamp", NOW, CRYPTOFEED, ("BITSTAMP.ws.1.0.gz", "BITSTAMP.http.0.0.gz")),
)
