"""The prices and sizes in Binance's messages as texts: what a recording tells of its instruments' decimal places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from marketd.daemon.feeds import binance_messages as messages

Texts = list[tuple[str, str, str]]  # symbol, price, size

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_envelope = msgspec.json.Decoder(messages.Envelope).decode


def _of_trade(trade: Any) -> Texts:
    return [(trade.symbol, trade.price, trade.size)]


def _of_ticker(ticker: messages.BookTicker) -> Texts:
    return [(ticker.symbol, ticker.bid, ticker.bid_size), (ticker.symbol, ticker.ask, ticker.ask_size)]


def _of_depth(depth: messages.DepthMessage) -> Texts:
    return [(depth.symbol, price, size) for price, size in depth.bids + depth.asks]


def _of_kline(message: messages.KlineMessage) -> Texts:
    kline = message.kline
    prices = (kline.open, kline.high, kline.low, kline.close)
    return [(message.symbol, price, kline.volume) for price in prices]


_DECODERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Texts]]] = {
    "trade": (msgspec.json.Decoder(messages.TradeMessage).decode, _of_trade),
    "aggTrade": (msgspec.json.Decoder(messages.AggTradeMessage).decode, _of_trade),
    "bookTicker": (msgspec.json.Decoder(messages.BookTicker).decode, _of_ticker),
    "depth": (msgspec.json.Decoder(messages.DepthMessage).decode, _of_depth),
    "kline": (msgspec.json.Decoder(messages.KlineMessage).decode, _of_kline),
}


_STREAMS = {"depthUpdate": "depth"}  # of events that are called otherwise


def texts_of(frame: bytes) -> Texts:
    """Of one message of a stream, with its name or without; none of whatever else it is."""
    try:
        envelope = _envelope(frame)
        data: msgspec.Raw | bytes = frame
        if envelope.stream is None:
            name = _STREAMS.get(str(envelope.event), str(envelope.event))
        else:
            name, data = envelope.stream.partition("@")[2].partition("@")[0].partition("_")[0], envelope.data
        if name not in _DECODERS:
            return []
        decode, texts = _DECODERS[name]
        return texts(decode(data))
    except _UNREADABLE:
        return []
