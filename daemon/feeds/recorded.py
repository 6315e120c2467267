"""Recorded Binance messages, decoded with all their fields, for the emulator; and the symbols that they speak of.

A recording bears no `exchangeInfo`: a symbol's scales are the finest decimal places among all its recorded prices and
sizes, those of the order book included, as `survey` finds them for an import.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from marketd.daemon.feeds import binance_messages as messages
from marketd.daemon.feeds.binance_records import is_partial
from marketd.daemon.feeds.captures import CaptureLine
from marketd.daemon.feeds.precision import Rules, Texts, split_pair, step_text

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_envelope = msgspec.json.Decoder(messages.Envelope).decode
_head = msgspec.json.Decoder(messages.Head)
_force_order = msgspec.json.Decoder(messages.ForceOrderMessage).decode
_snapshot = msgspec.json.Decoder(messages.Depth).decode
_EVENTS = {  # of messages that came without their streams' names
    **{name: name for name in ("trade", "aggTrade", "bookTicker", "kline", "forceOrder")},
    "depthUpdate": "depth",
    "markPriceUpdate": "markPrice",
}
_BY_NAME: dict[str, msgspec.json.Decoder[Any]] = {
    "trade": msgspec.json.Decoder(messages.TradeMessage),
    "aggTrade": msgspec.json.Decoder(messages.AggTradeMessage),
    "bookTicker": msgspec.json.Decoder(messages.BookTicker),
    "depth": msgspec.json.Decoder(messages.DepthMessage),
    "kline": msgspec.json.Decoder(messages.KlineMessage),
}


class Recorded(NamedTuple):
    """One message of a stream: `name` is trade, aggTrade, bookTicker, depth, kline, or "other"."""

    stream: str
    name: str
    message: Any
    data: bytes
    frame: bytes  # of a combined connection, whatever kind was recorded


class RecordedSnapshot(NamedTuple):
    symbol: str
    snapshot: messages.Depth


class Recording:
    """Reads a recording's lines, one after the other, and learns its symbols' scales."""

    def __init__(self) -> None:
        self._texts: dict[str, Texts] = {}
        self.skipped: Counter[str] = Counter()  # lines that are no message of a stream, by reason

    def read(self, line: CaptureLine) -> Recorded | RecordedSnapshot | None:
        """What a line says; None (and counted) when it is neither a stream's message nor a book's snapshot."""
        try:
            if line.kind == "ws":
                return self._message(line.payload)
            if line.kind == "rest":
                return self._snapshot(line)
        except _UNREADABLE:
            self.skipped["REST answer" if line.kind == "rest" else "undecodable"] += 1
            return None
        self.skipped[line.kind] += 1
        return None

    def _message(self, payload: bytes) -> Recorded | None:
        envelope = _envelope(payload)
        stream, data, frame = envelope.stream, bytes(envelope.data), payload
        if stream is None:
            stream, data = _stream_of(payload, envelope.event), payload
            frame = b'{"stream":"%b","data":%b}' % (stream.encode(), data)
        suffix = stream.partition("@")[2]
        name = suffix.partition("@")[0].partition("_")[0]
        if not suffix:
            self.skipped["no stream's message"] += 1
            return None
        decoder = _BY_NAME.get(name)
        if decoder is None:
            return Recorded(stream, "other", _head.decode(data), data, frame)
        message = decoder.decode(data)
        self._see(name, message)
        return Recorded(stream, name, message, data, frame)

    def _see(self, name: str, message: Any) -> None:
        texts = self._texts_of(message.symbol)
        if name in ("trade", "aggTrade"):
            texts.see(message.price, message.size)
        elif name == "bookTicker":
            texts.see(message.bid, message.bid_size)
            texts.see(message.ask, message.ask_size)
        elif name == "depth":
            for price, size in message.bids + message.asks:
                texts.see(price, size)
        else:
            kline = message.kline
            for price in (kline.open, kline.high, kline.low, kline.close):
                texts.see(price, kline.volume)

    def _snapshot(self, line: CaptureLine) -> RecordedSnapshot | None:
        snapshot = _snapshot(line.payload)
        symbol = parse_qs(urlsplit(line.url).query).get("symbol", [""])[-1]
        if not symbol and len(self._texts) == 1:
            symbol = next(iter(self._texts))  # one format does not name it, and there is only one
        if not symbol:
            self.skipped["snapshot of no known symbol"] += 1
            return None
        texts = self._texts_of(symbol)
        for price, size in snapshot.bids + snapshot.asks:
            texts.see(price, size)
        return RecordedSnapshot(symbol, snapshot)

    def _texts_of(self, symbol: str) -> Texts:
        texts = self._texts.get(symbol)
        if texts is None:
            texts = self._texts[symbol] = Texts()
        return texts

    @property
    def rules(self) -> dict[str, Rules]:
        """Of each symbol seen so far."""
        return {symbol: _rules(symbol, texts) for symbol, texts in self._texts.items()}


def _stream_of(payload: bytes, event: Any) -> str:
    """The stream that a message without its name is of; "" where it is of none that can be told."""
    name = _EVENTS.get(event, "") if isinstance(event, str) else ""
    if not name:
        return ""
    symbol = _force_order(payload).order.symbol if name == "forceOrder" else _head.decode(payload).symbol
    if name == "kline":
        name = f"kline_{_BY_NAME['kline'].decode(payload).kline.interval}"
    elif name == "depth" and is_partial(_BY_NAME["depth"].decode(payload)):
        return ""  # it looks like changes, and is none
    return f"{symbol.lower()}@{name}"


def _rules(symbol: str, texts: Texts) -> Rules:
    base, quote = split_pair(symbol)
    return Rules(symbol, base or symbol, quote or "USD", texts.price_places, texts.size_places)


def filters_of(rules: Rules) -> list[dict[str, str]]:
    """The filters of `exchangeInfo` that say the same."""
    tick, step = step_text(rules.price_places), step_text(rules.size_places)
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000.00000000", "stepSize": step},
    ]
