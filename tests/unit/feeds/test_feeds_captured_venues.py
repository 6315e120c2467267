"""Recorded traffic of Coinbase and Kraken: every message is accounted for, every checksum holds, no book is crossed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import pytest

from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookRule,
    BookSnapshot,
    Event,
    Ignored,
    MessagesLost,
    Rejected,
    Subscribed,
    Trades,
    VenueAdapter,
    VenueTime,
)
from marketd.daemon.feeds.books import BookKeeper
from marketd.daemon.feeds.captures import CaptureReader
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.pairs import PairNames
from marketd.daemon.feeds.precision import Texts
from marketd.daemon.feeds.venues import venue_of
from marketd.market.book_states import BookEvent
from marketd.market.book_sync import BookSync, Step
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.records import TradeFlag
from support import REPOSITORY, requires

pytestmark = requires("shared_data")

COINBASE = "wss://ws-feed.pro.coinbase.com"
KRAKEN = "wss://ws.kraken.com"
PRODUCTS = tuple(
    f"{base}-{quote}"
    for base, quotes in {
        "SKL": ("USD", "BTC", "GBP"),
        "BAND": ("GBP", "BTC"),
        "NMR": ("EUR",),
        "YFI": ("BTC",),
        "DASH": ("BTC",),
        "NU": ("GBP",),
        "CRV": ("EUR",),
    }.items()
    for quote in quotes
)
PAIRS = (
    "WAVES/EUR",
    "XMR/USD",
    "KSM/XBT",
    "GRT/ETH",
    "SC/EUR",
    "ETH/CHF",
    "OCEAN/XBT",
    "OMG/USD",
    "XBT/CHF",
    "ADA/XBT",
)

# What each capture's messages are to the adapter, as in docs/venues.md.
ACCOUNTS = {
    "COINBASE.ws.28.0.gz": {
        "trades": 107,
        "book snapshots": 10,
        "book updates": 9719,
        "ignored: ticker": 107,
        "ignored: subscriptions": 3,
    },
    "KRAKEN.ws.48.0.gz": {
        "trades": 8,
        "ignored: heartbeat": 30,
        "ignored: subscriptionStatus": 10,
        "ignored: systemStatus": 1,
    },
    "KRAKEN.ws.49.0.gz": {
        "ignored: ticker": 18,
        "ignored: heartbeat": 31,
        "ignored: subscriptionStatus": 10,
        "ignored: systemStatus": 1,
    },
    "KRAKEN.ws.50.0.gz": {
        "book snapshots": 10,
        "book updates": 4269,
        "ignored: heartbeat": 31,
        "ignored: subscriptionStatus": 10,
        "ignored: systemStatus": 1,
    },
}


class Capture(NamedTuple):
    adapter: VenueAdapter
    frames: list[bytes]


def frames_of(folder: Path, name: str) -> list[bytes]:
    return [line.payload for line in CaptureReader(folder / "ws_cryptofeed" / name) if line.kind == "ws"]


def kraken(folder: Path, name: str) -> Capture:
    """Kraken's recordings bear no AssetPairs: the scales are those of all recorded texts."""
    frames = frames_of(folder, name)
    adapter = venue_of("KRAKEN", KRAKEN).adapter(trades="trade", candles=(), book=True, series=())
    texts: dict[str, Texts] = {}
    for frame in frames:
        for symbol, price, size in adapter.survey_texts(frame):
            texts.setdefault(symbol, Texts()).see(price, size)
    names = PairNames("KRAKEN", "/", aliases={"XBT": "BTC"})
    for pair in PAIRS:
        base, quote = map(names.currency, pair.split("/"))
        found = texts.get(base + quote, Texts())
        adapter.adopt(instrument("KRAKEN", base, quote, found.price_places, found.size_places))
    return Capture(adapter, frames)


def instrument(venue: str, base: str, quote: str, price_scale: int, size_scale: int) -> Instrument:
    return Instrument(
        id=1,
        symbol=base + quote,
        venue=venue,
        price_scale=price_scale,
        size_scale=size_scale,
        quote_scale=8,
        base=base,
        quote=quote,
    )


def coinbase(folder: Path, name: str) -> Capture:
    """The recording of the same minute has the venue's products."""
    (listed,) = [line for line in CaptureReader(folder / "ws_cryptofeed" / "COINBASE.0.gz") if line.kind == "rest"]
    adapter = venue_of("COINBASE", COINBASE).adapter(trades="trade", candles=(), book=True, series=())
    for found in adapter.decode_instruments(listed.payload, [product.replace("-", "") for product in PRODUCTS]):
        adapter.adopt(found)
    return Capture(adapter, frames_of(folder, name))


def opened(folder: Path, name: str) -> Capture:
    return coinbase(folder, name) if name.startswith("COINBASE") else kraken(folder, name)


def account(event: Event) -> tuple[str, int] | None:
    """What an event of one message stands for, and for how many messages."""
    if isinstance(event, Trades):
        return "trades", 1
    if isinstance(event, Ignored):
        return f"ignored: {event.name}", event.messages
    if isinstance(event, (Subscribed, VenueTime)):
        return None
    names = {BookSnapshot: "book snapshots", BookDelta: "book updates", Rejected: "rejected"}
    return names.get(type(event), type(event).__name__), 1


@pytest.mark.parametrize("name", ACCOUNTS)
def test_each_message_of_a_capture_is_accounted_for(shared_data: Path, name: str) -> None:
    capture = opened(shared_data, name)
    counts: Counter[str] = Counter()
    for frame in capture.frames:
        accounts = list(filter(None, map(account, capture.adapter.decode_many([frame]))))
        assert accounts, frame
        for what, number in accounts:
            counts[what] += number
    assert counts == ACCOUNTS[name]


# Types of messages, as the recordings' own statistics count them, by what they are here.
TYPES = {
    "trades": ("match", "last_match", "trade"),
    "book snapshots": ("snapshot",),
    "book updates": ("l2update",),
    "book": ("book-1000",),
}


@pytest.mark.parametrize("name", ACCOUNTS)
def test_the_counts_are_those_of_the_recordings_own_statistics(shared_data: Path, name: str) -> None:
    stated = json.loads((shared_data / "STATS.json").read_text())[f"ws_cryptofeed/{name}"]["by_type"]
    expected = {kind: number for kind, number in stated.items() if not kind.startswith("_")}
    mine = dict(ACCOUNTS[name])
    if "book-1000" in expected:
        mine["book"] = mine.pop("book snapshots") + mine.pop("book updates")
    for what, number in mine.items():
        kinds = TYPES.get(what, (what.removeprefix("ignored: "),))
        assert sum(expected.pop(kind, 0) for kind in kinds) == number
    assert not expected


@pytest.mark.parametrize("name", ACCOUNTS)
def test_the_manual_has_these_counts(name: str) -> None:
    page = (REPOSITORY / "docs" / "venues.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name.removesuffix('.0.gz')}` |")]
    for what, number in ACCOUNTS[name].items():
        shown = f"{number:,}" if not what.startswith("ignored") else f"`{what.removeprefix('ignored: ')}` {number}"
        assert shown in row
    assert f"| {sum(ACCOUNTS[name].values()):,} |" in row


def books(capture: Capture) -> tuple[dict[str, BookSync], list[Step]]:
    """The capture's books at its end, and all their steps."""
    rule = capture.adapter.book_rule
    assert rule is not None
    symbols: dict[str, Instrument] = capture.adapter._instruments  # type: ignore[attr-defined]
    syncs = {symbol: BookSync(rule, found) for symbol, found in symbols.items()}
    for sync in syncs.values():
        sync.subscribed()
    steps = []
    for event in capture.adapter.decode_many(capture.frames):
        if isinstance(event, BookSnapshot):
            steps.append(syncs[event.symbol].snapshot(event))
        elif isinstance(event, BookDelta):
            steps.append(syncs[event.symbol].delta(event))
            assert not syncs[event.symbol].book.is_crossed
    return syncs, steps


def events_of(steps: Iterable[Step]) -> Counter[BookEvent]:
    return Counter(step.event for step in steps)


def test_every_checksum_of_kraken_holds(shared_data: Path) -> None:
    capture = kraken(shared_data, "KRAKEN.ws.50.0.gz")
    syncs, steps = books(capture)
    assert events_of(steps) == {BookEvent.JOINED: 10, BookEvent.APPLIED: 4269}
    assert {sync.state for sync in syncs.values()} == {BookState.LIVE}
    deltas = [event for event in capture.adapter.decode_many(capture.frames) if isinstance(event, BookDelta)]
    assert all(delta.checksum is not None for delta in deltas)


def test_a_lost_message_of_kraken_is_noticed_or_changes_no_level_that_the_checksum_covers(shared_data: Path) -> None:
    """The ten best levels of a LIVE book are always right."""
    name = "KRAKEN.ws.50.0.gz"
    right, _ = books(kraken(shared_data, name))
    noticed = 0
    for dropped in range(100, 4269, 700):
        capture = kraken(shared_data, name)
        updates = [index for index, frame in enumerate(capture.frames) if b'"c":"' in frame]
        del capture.frames[updates[dropped]]
        damaged, steps = books(capture)
        noticed += BookEvent.CHECKSUM_FAILED in events_of(steps)
        for symbol, sync in damaged.items():
            if sync.state is BookState.LIVE:
                assert sync.book.top(10) == right[symbol].book.top(10)
    assert noticed


def test_a_loss_below_the_checksum_shows_when_a_level_is_told_as_it_stands(shared_data: Path) -> None:
    """No level of the recording is told that did not change. So where a message is missing, one that is shows it."""
    capture = kraken(shared_data, "KRAKEN.ws.50.0.gz")
    rule = capture.adapter.book_rule
    assert rule is not None
    of_books: dict[str, list[BookSnapshot | BookDelta]] = {}
    for event in capture.adapter.decode_many(capture.frames):
        if isinstance(event, (BookSnapshot, BookDelta)):
            of_books.setdefault(event.symbol, []).append(event)
    noticed = {exact: Counter(_lost_one_each(capture, rule._replace(exact=exact), of_books)) for exact in (True, False)}
    assert noticed[True][BookEvent.CHECKSUM_FAILED] == noticed[False][BookEvent.CHECKSUM_FAILED] > 50
    assert noticed[False][BookEvent.UNCHANGED] == 0
    assert noticed[True][BookEvent.UNCHANGED] > 3


def _lost_one_each(
    capture: Capture, rule: BookRule, of_books: dict[str, list[BookSnapshot | BookDelta]]
) -> Iterator[BookEvent | None]:
    """Of books that miss one of their messages, now this one and now that: what made them leave LIVE."""
    instruments: dict[str, Instrument] = capture.adapter._instruments  # type: ignore[attr-defined]
    for symbol, events in of_books.items():
        for dropped in range(1, len(events), 53):
            sync = BookSync(rule, instruments[symbol])
            sync.subscribed()
            came = events[:dropped] + events[dropped + 1 :]
            steps = (sync.snapshot(e) if isinstance(e, BookSnapshot) else sync.delta(e) for e in came)
            yield next((step.event for step in steps if step.left), None)


def as_version_2(frame: bytes) -> bytes | None:
    """A message of a book of version 1 as version 2 writes it: the same digits, as numbers, and with a checksum."""
    message = json.loads(frame)
    if not isinstance(message, list) or not message[-2].startswith("book-"):
        return None
    sides: dict[str, list[list[str]]] = {"a": [], "b": [], "as": [], "bs": []}
    check = ""
    for part in message[1:-2]:
        check = part.pop("c", check)
        for name, rows in part.items():
            sides[name] += rows
    is_snapshot = not check
    asks, bids = sides["as"] or sides["a"], sides["bs"] or sides["b"]
    if is_snapshot:
        digits = [text.replace(".", "").lstrip("0") for row in asks[:10] + bids[:10] for text in row[:2]]
        check = str(crc32("".join(digits).encode()))
    kind = "snapshot" if is_snapshot else "update"
    pair = message[-1].replace("XBT", "BTC")
    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"{pair}","bids":[{numbers(bids)}],'
        f'"asks":[{numbers(asks)}],"checksum":{check},"timestamp":"2021-04-17T16:48:53.481570Z"}}]}}'
    ).encode()


def numbers(rows: list[list[str]]) -> str:
    return ",".join(f'{{"price":{row[0]},"qty":{row[1]}}}' for row in rows)


def test_the_same_market_in_version_2_gives_the_same_books(shared_data: Path) -> None:
    """Version 2 was not recorded; its checksum is over the places of the instrument."""
    old = kraken(shared_data, "KRAKEN.ws.50.0.gz")
    right, _ = books(old)
    new = venue_of("KRAKEN").adapter(trades="trade", candles=(), book=True, series=())
    places = {symbol: Texts() for symbol in right}
    for frame in old.frames:
        for symbol, price, size in old.adapter.survey_texts(frame):
            texts = places[symbol]
            texts.price_places = max(texts.price_places, len(price.partition(".")[2]))
            texts.size_places = max(texts.size_places, len(size.partition(".")[2]))
    for pair in PAIRS:
        base, quote = pair.replace("XBT", "BTC").split("/")
        texts = places[base + quote]
        new.adopt(instrument("KRAKEN", base, quote, texts.price_places, texts.size_places))
    frames = [translated for translated in map(as_version_2, old.frames) if translated]
    syncs, steps = books(Capture(new, frames))
    assert events_of(steps) == {BookEvent.JOINED: 10, BookEvent.APPLIED: 4269}
    for symbol, sync in syncs.items():
        unit = 10 ** (sync.instrument.price_scale - right[symbol].instrument.price_scale)
        assert [price // unit for price in sync.book.bid_prices] == right[symbol].book.bid_prices
        assert list(sync.book.asks.values()) == list(right[symbol].book.asks.values())


def as_advanced_trade(frame: bytes, number: int) -> bytes | None:
    """A message of a book of the Exchange feed as Advanced Trade writes it."""
    message = json.loads(frame)
    if message["type"] == "snapshot":
        rows = [("bid", *row) for row in message["bids"]] + [("offer", *row) for row in message["asks"]]
    elif message["type"] == "l2update":
        rows = [("bid" if side == "buy" else "offer", price, size) for side, price, size in message["changes"]]
    else:
        return None
    updates = [
        {"side": side, "event_time": "1970-01-01T00:00:00Z", "price_level": price, "new_quantity": size}
        for side, price, size in rows
    ]
    kind = "snapshot" if message["type"] == "snapshot" else "update"
    event = {"type": kind, "product_id": message["product_id"], "updates": updates}
    time = message.get("time", "2021-04-17T16:43:37.061Z")
    return json.dumps(
        {"channel": "l2_data", "timestamp": time, "sequence_num": number, "events": [event]}, separators=(",", ":")
    ).encode()


def test_the_same_market_in_advanced_trade_gives_the_same_books(shared_data: Path) -> None:
    """Advanced Trade was not recorded."""
    old = coinbase(shared_data, "COINBASE.ws.28.0.gz")
    right, _ = books(old)
    new = venue_of("COINBASE").adapter(trades="trade", candles=(), book=True, series=())
    for sync in right.values():
        new.adopt(sync.instrument)
    frames: list[bytes] = []
    for frame in old.frames:
        translated = as_advanced_trade(frame, len(frames))
        if translated:
            frames.append(translated)
    syncs, steps = books(Capture(new, frames))
    assert events_of(steps) == {BookEvent.JOINED: 10, BookEvent.APPLIED: 9719}
    assert {symbol: sync.book for symbol, sync in syncs.items()} == {s: sync.book for s, sync in right.items()}
    assert {sync.sequence for sync in syncs.values()} <= set(range(len(frames)))


def test_the_books_of_coinbase_stay_live_and_uncrossed(shared_data: Path) -> None:
    syncs, steps = books(coinbase(shared_data, "COINBASE.ws.28.0.gz"))
    assert events_of(steps) == {BookEvent.JOINED: 10, BookEvent.APPLIED: 9719}
    assert {sync.state for sync in syncs.values()} == {BookState.LIVE}


def test_the_trades_of_coinbase_go_with_its_books(shared_data: Path) -> None:
    capture = coinbase(shared_data, "COINBASE.ws.28.0.gz")
    rule = capture.adapter.book_rule
    assert rule is not None
    instruments: dict[str, Instrument] = capture.adapter._instruments  # type: ignore[attr-defined]
    keepers = {symbol: BookKeeper(rule, found, BookSettings()) for symbol, found in instruments.items()}
    for keeper in keepers.values():
        keeper.subscribed()
    heard = 0
    for frame in capture.frames:
        for event in capture.adapter.decode_many([frame]):
            if isinstance(event, Trades):
                assert not keepers[event.symbol].witness(event.records)
                heard += keepers[event.symbol].sync.state is BookState.LIVE
            elif isinstance(event, (BookSnapshot, BookDelta)):
                keepers[event.symbol].take(event)
            assert not isinstance(event, MessagesLost)
    assert heard > 90
    assert {name for keeper in keepers.values() for name in keeper.events} == {"subscribed", "joined"}


def test_the_books_of_coinbase_agree_with_its_ticker(shared_data: Path) -> None:
    """A ticker is of a match, whose changes of the book come around it: the best levels pass each other by at most a
    few messages."""
    capture = coinbase(shared_data, "COINBASE.ws.28.0.gz")
    rule = capture.adapter.book_rule
    assert rule is not None
    syncs: dict[str, BookSync] = {}
    seen: dict[str, list[tuple[int | None, int | None]]] = {}
    agreed = compared = 0
    for frame in capture.frames:
        for event in capture.adapter.decode_many([frame]):
            if isinstance(event, BookSnapshot):
                found = capture.adapter._instruments[event.symbol]  # type: ignore[attr-defined]
                syncs[event.symbol] = BookSync(rule, found)
                syncs[event.symbol].subscribed()
                syncs[event.symbol].snapshot(event)
            elif isinstance(event, BookDelta):
                syncs[event.symbol].delta(event)
                book = syncs[event.symbol].book
                seen.setdefault(event.symbol, []).append((book.best_bid, book.best_ask))
        message = json.loads(frame)
        if message["type"] == "ticker" and seen.get(message["product_id"].replace("-", "")):
            sync = syncs[message["product_id"].replace("-", "")]
            unit = 10**sync.instrument.price_scale
            best = round(float(message["best_bid"]) * unit), round(float(message["best_ask"]) * unit)
            compared += 1
            agreed += best in seen[sync.instrument.symbol][-8:] or best == (sync.book.best_bid, sync.book.best_ask)
    assert compared > 80
    assert agreed / compared > 0.9


def test_the_trades_of_coinbase_are_numbered_without_a_hole(shared_data: Path) -> None:
    capture = coinbase(shared_data, "COINBASE.ws.28.0.gz")
    assert capture.adapter.numbered_trades
    trades = [event for event in capture.adapter.decode_many(capture.frames) if isinstance(event, Trades)]
    assert len(trades) == len(PRODUCTS)
    for records in [event.records for event in trades]:
        assert (np.diff(records["trade_id"]) == 1).all()
        assert (np.diff(records["ts_event"]) >= 0).all()
        assert set(records["side"].tolist()) <= {-1, 1}


def test_the_trades_of_kraken_have_ids_of_their_own(shared_data: Path) -> None:
    capture = kraken(shared_data, "KRAKEN.ws.48.0.gz")
    assert not capture.adapter.numbered_trades
    trades = [event.records for event in capture.adapter.decode_many(capture.frames) if isinstance(event, Trades)]
    records = np.concatenate(trades)
    assert len(set(records["trade_id"].tolist())) == len(records) == 10
    assert (records["flags"] == TradeFlag.HASHED_ID).all()
