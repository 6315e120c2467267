"""Coinbase's answers to subscriptions, of both its WebSockets: as names of streams. Pure.

    {"channel": "subscriptions", "events": [{"subscriptions": {"level2": ["BTC-USD"]}}]}
    {"type": "subscriptions", "channels": [{"name": "level2", "product_ids": ["BTC-USD"]}]}

Both tell all that is subscribed, not what is new. An error bears no number: it names the product in
its text, if at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

_PRODUCT = re.compile(r"[A-Z0-9]+(?:-[A-Z0-9]+)+")


class _Subscriptions(Struct, gc=False):
    subscriptions: dict[str, list[str]] = {}


class _Advanced(Struct, gc=False):
    events: list[_Subscriptions] = []


class _Channel(Struct, gc=False):
    name: str
    product_ids: list[str] = []


class _Exchange(Struct, gc=False):
    channels: list[_Channel] = []


_advanced = msgspec.json.Decoder(_Advanced).decode
_exchange = msgspec.json.Decoder(_Exchange).decode


def subscribed_in(frame: bytes) -> tuple[str, ...]:
    """Streams of an answer of Advanced Trade; none where it is not as it should be."""
    try:
        events = _advanced(frame).events
    except msgspec.MsgspecError:
        return ()
    pairs = [(name, products) for event in events for name, products in event.subscriptions.items()]
    return tuple(f"{name}:{product}" for name, products in pairs for product in products)


def exchange_subscribed_in(frame: bytes) -> tuple[str, ...]:
    """The same of the Exchange feed."""
    try:
        channels = _exchange(frame).channels
    except msgspec.MsgspecError:
        return ()
    return tuple(f"{channel.name}:{product}" for channel in channels for product in channel.product_ids)


def streams_named_in(frame: bytes, symbols: Mapping[str, str], streams: Callable[[str], list[str]]) -> tuple[str, ...]:
    """Streams of the products in an error's text; `symbols` by the venue's names, `streams` of a symbol."""
    words = set(_PRODUCT.findall(frame.decode("utf-8", "replace")))
    return tuple(stream for wire, symbol in symbols.items() if wire in words for stream in streams(symbol))
