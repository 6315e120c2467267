"""Every message of the recordings of Bybit and Bitstamp: used, ignored by name, or rejected; and the books that come of
them. The counts stand in docs/venues.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Event,
    Ignored,
    Subscribed,
    Trades,
    VenueAdapter,
    VenueTime,
)
from marketd.daemon.feeds.bitstamp import BitstampAdapter
from marketd.daemon.feeds.bybit import BybitLinearAdapter
from marketd.daemon.feeds.captures import CaptureLine, CaptureReader
from marketd.daemon.feeds.precision import Texts
from marketd.market.book_states import BookEvent
from marketd.market.book_sync import BookSync
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.trade_ids import hashed_id

BYBIT = ("BYBIT.ws.25.0.gz",)
BITSTAMP = ("BITSTAMP.ws.1.0.gz", "BITSTAMP.http.0.0.gz")


class Played(NamedTuple):
    """What a recording came to."""

    counts: Counter[str]  # messages by what became of them
    syncs: dict[str, BookSync]
    steps: dict[str, Counter[BookEvent]]  # by symbol
    trades: dict[str, list[tuple[int, int, int]]]  # by symbol: id, price, side
    sides: list[tuple[int, int]]  # levels of the two sides, after each change of a LIVE book


def lines(directory: Path, names: Iterable[str]) -> list[CaptureLine]:
    """All that came, in the order in which it came."""
    found = [line for name in names for line in CaptureReader(directory / "ws_cryptofeed" / name)]
    return sorted((line for line in found if line.kind in ("ws", "rest")), key=lambda line: line.recv_ns)


def texts(adapter: VenueAdapter, line: CaptureLine) -> Iterator[tuple[str, str, str]]:
    if line.kind == "ws":
        yield from adapter.survey_texts(line.payload)
    else:
        book = json.loads(line.payload)
        symbol = line.url.rstrip("/").rpartition("/")[2].upper()
        yield from ((symbol, price, size) for price, size in book["bids"] + book["asks"])


def instruments(adapter: VenueAdapter, came: Iterable[CaptureLine]) -> list[Instrument]:
    """A recording has no list of instruments: their scales are the finest decimal places that stand in it."""
    seen: dict[str, Texts] = {}
    for line in came:
        for symbol, price, size in texts(adapter, line):
            seen.setdefault(symbol, Texts()).see(price, size)
    return [
        Instrument(
            id=number,
            symbol=symbol,
            venue=adapter.venue,
            price_scale=found.price_places,
            size_scale=found.size_places,
            quote_scale=8,
        )
        for number, (symbol, found) in enumerate(sorted(seen.items()))
    ]


def name_of(event: Event) -> str:
    return f"ignored: {event.name}" if isinstance(event, Ignored) else type(event).__name__


def play(adapter: VenueAdapter, came: list[CaptureLine]) -> Played:
    rule = adapter.book_rule
    assert rule is not None
    played = Played(Counter(), {}, {}, {}, [])
    for instrument in instruments(adapter, came):
        adapter.adopt(instrument)
        played.syncs[instrument.symbol] = BookSync(rule, instrument)
        played.syncs[instrument.symbol].subscribed()
        played.steps[instrument.symbol] = Counter()
    for line in came:
        decode = adapter.decode_rest(line.url, line.payload) if line.kind == "rest" else None
        events = adapter.decode_many([line.payload]) if decode is None else decode
        # one, or it is not accounted for
        [event] = [event for event in events if not isinstance(event, VenueTime | Subscribed)]
        played.counts[f"{'REST ' if line.kind == 'rest' else ''}{name_of(event)}"] += 1
        take(played, event)
    return played


def take(played: Played, event: Event) -> None:
    if isinstance(event, Trades):
        rows = event.records[["trade_id", "price", "side"]].tolist()
        played.trades.setdefault(event.symbol, []).extend(rows)
    elif isinstance(event, (BookSnapshot, BookDelta)):
        sync = played.syncs[event.symbol]
        step = sync.snapshot(event) if isinstance(event, BookSnapshot) else sync.delta(event)
        played.steps[event.symbol][step.event] += 1
        if step.state is BookState.LIVE:
            assert not sync.book.is_crossed
            played.sides.append((len(sync.book.bids), len(sync.book.asks)))


@pytest.fixture(scope="module")
def bybit() -> BybitLinearAdapter:
    return BybitLinearAdapter(book=True)


def test_each_message_of_the_bybit_recording_is_accounted_for(bybit: BybitLinearAdapter, shared_data: Path) -> None:
    played = play(bybit, lines(shared_data, BYBIT))
    wanted = {"BookDelta": 3252, "Trades": 66, "ignored: reply": 16, "BookSnapshot": 8}
    assert played.counts == wanted
    assert sum(len(rows) for rows in played.trades.values()) == 101


def test_the_books_of_the_bybit_recording_always_have_their_25_levels(
    bybit: BybitLinearAdapter, shared_data: Path
) -> None:
    """Were one level lost or left over in 3,252 messages, a side would have another length from then on."""
    played = play(bybit, lines(shared_data, BYBIT))
    assert len(played.syncs) == 8
    assert all(sync.state is BookState.LIVE for sync in played.syncs.values())
    assert set(played.sides) == {(25, 25)}
    assert {event for steps in played.steps.values() for event in steps} == {BookEvent.JOINED, BookEvent.APPLIED}


def test_bybits_trades_are_the_recorded_ones(bybit: BybitLinearAdapter, shared_data: Path) -> None:
    came = lines(shared_data, BYBIT)
    found = play(bybit, came).trades
    known: dict[str, list[tuple[int, int, int]]] = {}
    for line in came:
        message = json.loads(line.payload)
        if message.get("topic", "").startswith("trade."):
            for row in message["data"]:
                side = 1 if row["side"] == "Buy" else -1
                known.setdefault(row["symbol"], []).append((hashed_id(row["trade_id"]), row["price"], side))
    assert {s: [(i, side) for i, _, side in rows] for s, rows in found.items()} == {
        s: [(i, side) for i, _, side in rows] for s, rows in known.items()
    }


def test_each_message_of_the_bitstamp_recording_is_accounted_for(shared_data: Path) -> None:
    played = play(BitstampAdapter(book=True), lines(shared_data, BITSTAMP))
    wanted = {"BookDelta": 717, "ignored: subscription_succeeded": 20, "Trades": 10, "REST BookSnapshot": 10}
    assert played.counts == wanted
    assert sum(len(rows) for rows in played.trades.values()) == 10
    ids = [number for rows in played.trades.values() for number, _, _ in rows]
    assert len(set(ids)) == 10


def test_bitstamps_books_are_live_and_never_crossed(shared_data: Path) -> None:
    """The snapshots came first in this recording; the changes from before them are old."""
    played = play(BitstampAdapter(book=True), lines(shared_data, BITSTAMP))
    states = {symbol: sync.state for symbol, sync in played.syncs.items()}
    # SGB/EUR did not change in these seconds: nothing proves that its snapshot is no old one
    assert {symbol for symbol, state in states.items() if state is not BookState.LIVE} == {"SGBEUR"}
    total = sum(played.steps.values(), Counter())
    assert total == {
        BookEvent.UNPROVEN: 10,
        BookEvent.JOINED: 9,
        BookEvent.OLD: total[BookEvent.OLD],
        BookEvent.APPLIED: 717 - 9 - total[BookEvent.OLD],
    }


def test_the_side_of_bitstamps_trades_is_that_of_the_newer_order(shared_data: Path) -> None:
    """Order ids ascend, and the order that came later is the one that took."""
    came = lines(shared_data, BITSTAMP)
    sides = {number: side for rows in play(BitstampAdapter(), came).trades.values() for number, _, side in rows}
    orders = [json.loads(line.payload) for line in came if b'"event":"trade"' in line.payload]
    taken = {order["data"]["id"]: order["data"]["buy_order_id"] - order["data"]["sell_order_id"] for order in orders}
    assert {number: 1 if ahead > 0 else -1 for number, ahead in taken.items()} == sides
