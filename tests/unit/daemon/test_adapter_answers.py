"""Each venue's answers to subscriptions, in its own words, told by stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from adapter_samples import SAMPLES

from marketd.daemon.feeds.adapter import Subscribed, VenueAdapter, VenueError
from marketd.daemon.feeds.asked import MAX_COMMANDS, Asked, words_of
from marketd.daemon.feeds.venues import venue_of

Command = dict[str, Any]
Answers = Callable[[Command], list[Any]]

WORDS = "no such thing as this"


def binance(command: Command) -> list[Any]:
    return [{"result": None, "id": command["id"]}]


def binance_refuses(command: Command) -> list[Any]:
    return [{"error": {"code": 2, "msg": WORDS}, "id": command["id"]}]


def advanced(command: Command) -> list[Any]:
    if command["channel"] == "heartbeats":
        return []
    event = {"subscriptions": {command["channel"]: command["product_ids"]}}
    stamp = {"timestamp": "2023-02-09T20:32:50.714964855Z", "sequence_num": 0}
    return [{"channel": "subscriptions", **stamp, "events": [event]}]


def advanced_refuses(command: Command) -> list[Any]:
    return [{"type": "error", "message": f"{WORDS} {product}"} for product in command.get("product_ids", ())]


def exchange(command: Command) -> list[Any]:
    named = [{"name": name, "product_ids": command["product_ids"]} for name in command["channels"]]
    return [{"type": "subscriptions", "channels": named}]


def exchange_refuses(command: Command) -> list[Any]:
    return [
        {"type": "error", "message": "Failed to subscribe", "reason": f"{WORDS} {product}"}
        for product in command["product_ids"]
    ]


def kraken(command: Command) -> list[Any]:
    params = command["params"]
    head = {"method": "subscribe", "success": True, "req_id": command["req_id"]}
    return [{**head, "result": {**params, "symbol": pair}} for pair in params["symbol"]]


def kraken_refuses(command: Command) -> list[Any]:
    head = {"method": "subscribe", "success": False, "req_id": command["req_id"], "error": WORDS}
    return [{**head, "symbol": pair} for pair in command["params"]["symbol"]]


def kraken_v1(command: Command, **more: Any) -> list[Any]:
    head = {"event": "subscriptionStatus", "status": "subscribed", "reqid": command["reqid"]}
    named = {"subscription": command["subscription"], "channelName": command["subscription"]["name"]}
    return [{**head, **named, "pair": pair, **more} for pair in command["pair"]]


def kraken_v1_refuses(command: Command) -> list[Any]:
    return kraken_v1(command, status="error", errorMessage=WORDS)


def bybit(command: Command) -> list[Any]:
    return [{"success": True, "ret_msg": "", "conn_id": "x", "req_id": command["req_id"], "op": "subscribe"}]


def bybit_refuses(command: Command) -> list[Any]:
    return [{**bybit(command)[0], "success": False, "ret_msg": WORDS}]


def okx(command: Command) -> list[Any]:
    return [{"event": "subscribe", "arg": arg, "connId": "x"} for arg in command["args"] if "instId" in arg]


def okx_refuses(command: Command) -> list[Any]:
    return [{"event": "error", "code": "60018", "msg": WORDS, "id": command["id"]}]


def okx_names(command: Command) -> list[Any]:
    return [
        {"event": "error", "code": "60018", "msg": f"{WORDS} channel:{arg['channel']},instId:{arg['instId']} no"}
        for arg in command["args"]
        if "instId" in arg
    ]


def bitstamp(command: Command) -> list[Any]:
    return [{"event": "bts:subscription_succeeded", "channel": command["data"]["channel"], "data": {}}]


def bitstamp_refuses(command: Command) -> list[Any]:
    return [{"event": "bts:error", "channel": command["data"]["channel"], "data": {"code": None, "message": WORDS}}]


ANSWERS: list[tuple[str, str, Answers, Answers]] = [
    ("BINANCE", "", binance, binance_refuses),
    ("BINANCE_FUTURES", "", binance, binance_refuses),
    ("BINANCE_DELIVERY", "", binance, binance_refuses),
    ("COINBASE", "", advanced, advanced_refuses),
    ("COINBASE", "wss://ws-feed.exchange.coinbase.com", exchange, exchange_refuses),
    ("KRAKEN", "", kraken, kraken_refuses),
    ("KRAKEN", "wss://ws.kraken.com", kraken_v1, kraken_v1_refuses),
    ("BYBIT", "", bybit, bybit_refuses),
    ("BYBIT_LINEAR", "", bybit, bybit_refuses),
    ("OKX", "", okx, okx_refuses),
    ("OKX", "", okx, okx_names),
    ("BITSTAMP", "", bitstamp, bitstamp_refuses),
]


def asked(name: str, url: str) -> tuple[VenueAdapter, list[str], list[Command]]:
    """An adapter that has subscribed its sample's trades and books; those streams, and the commands."""
    sample = SAMPLES[name]
    adapter = venue_of(name, url).adapter(trades="trade", candles=sample.candles, book=True, series=())
    for instrument in sample.instruments:
        adapter.adopt(instrument)
    symbols = [instrument.symbol for instrument in sample.instruments]
    streams = [s for symbol in symbols for s in (adapter.streams(symbol)[0], *adapter.book_streams(symbol))]
    return adapter, streams, [json.loads(text) for text in adapter.commands("SUBSCRIBE", streams, 7001)]


def said(adapter: VenueAdapter, answers: list[Any]) -> list[Any]:
    frames = [json.dumps(answer, separators=(",", ":")).encode() for answer in answers]
    return [event for event in adapter.decode_many(frames) if isinstance(event, (Subscribed, VenueError))]


@pytest.mark.parametrize(("name", "url", "accept", "refuse"), ANSWERS)
def test_what_a_venue_takes_is_told_by_stream(name: str, url: str, accept: Answers, refuse: Answers) -> None:
    adapter, streams, commands = asked(name, url)
    events = said(adapter, [answer for command in commands for answer in accept(command)])
    assert sorted(stream for event in events for stream in event.streams) == sorted(streams)
    assert all(isinstance(event, Subscribed) for event in events)


@pytest.mark.parametrize(("name", "url", "accept", "refuse"), ANSWERS)
def test_what_a_venue_refuses_is_told_by_stream_and_in_its_words(
    name: str, url: str, accept: Answers, refuse: Answers
) -> None:
    adapter, streams, commands = asked(name, url)
    events = said(adapter, [answer for command in commands for answer in refuse(command)])
    assert {stream for event in events for stream in event.streams} >= set(streams)
    assert all(isinstance(event, VenueError) and event.words.startswith(WORDS) for event in events)


# the others say by themselves whether it was a subscription
@pytest.mark.parametrize(
    ("name", "url", "accept"), [row[:3] for row in ANSWERS if row[2] in (binance, kraken, kraken_v1, bybit)]
)
def test_streams_that_are_given_back_are_not_taken_for_subscribed(name: str, url: str, accept: Answers) -> None:
    adapter, streams, _ = asked(name, url)
    given_back = [json.loads(text) for text in adapter.commands("UNSUBSCRIBE", streams, 9001)]
    assert said(adapter, [answer for command in given_back for answer in accept(command)]) == []


def test_the_oldest_commands_are_forgotten() -> None:
    commands = Asked()
    for number in range(MAX_COMMANDS + 1):
        commands.note("SUBSCRIBE", number, [f"s{number}"])
    assert commands.of(0) == ()
    assert commands.of("1") == ("s1",)
    assert commands.of(None) == commands.of("x") == ()


def test_words_are_found_wherever_a_venue_writes_them() -> None:
    assert words_of(b'{"error":{"code":2,"msg":"A"}}') == "A"
    assert words_of(b'{"data":{"message":"B"}}') == "B"
    assert words_of(b'{"message":"less","reason":"C"}') == "C"
    assert words_of(b'{"error":"D"}') == "D"
    assert words_of(b"no JSON \xff") == "no JSON \ufffd"
