"""Books of Coinbase and Kraken over a bad line, as `test_feeds_faulty_books` has them of OKX and Bybit.

Whatever comes, a book that is LIVE is one that the venue had, and soon the one that it has.
"""

from __future__ import annotations

import json
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_feeds_faulty_books import Line, Side, Speaker, State

from marketd.daemon.feeds.adapter import VenueAdapter
from marketd.daemon.feeds.coinbase import CoinbaseAdapter
from marketd.daemon.feeds.coinbase_exchange import CoinbaseExchangeAdapter
from marketd.daemon.feeds.kraken import KrakenAdapter
from marketd.daemon.feeds.kraken_v1 import KrakenV1Adapter
from marketd.market.layouts import BookState

SENT = "2023-10-06T17:35:55.440295Z"
EVERYTHING = ("lost", "twice", "late", "cut")


class AdvancedTrade:
    """Every message of the connection is numbered."""

    def __init__(self) -> None:
        self.adapter: VenueAdapter = CoinbaseAdapter(book=True)
        self.number = 100

    def snapshot(self, state: State) -> bytes:
        return self._message("snapshot", state.bids, state.asks)

    def delta(self, bids: Side, asks: Side, state: State) -> bytes:
        return self._message("update", bids, asks)

    def _message(self, kind: str, bids: Side, asks: Side) -> bytes:
        self.number += 1
        updates = [
            {"side": side, "event_time": SENT, "price_level": str(price), "new_quantity": str(size)}
            for side, levels in (("bid", bids), ("offer", asks))
            for price, size in levels.items()
        ]
        event = {"type": kind, "product_id": "BTC-USDT", "updates": updates}
        head = {"channel": "l2_data", "timestamp": SENT, "sequence_num": self.number}
        return json.dumps({**head, "events": [event]}).encode()


class Exchange:
    """Nothing is numbered: what is lost cannot be seen, and only what comes can be judged."""

    def __init__(self) -> None:
        self.adapter: VenueAdapter = CoinbaseExchangeAdapter(book=True)
        self.number = 100  # of the state; the venue does not tell it

    def snapshot(self, state: State) -> bytes:
        rows = [[[str(p), str(s)] for p, s in side.items()] for side in state]
        return json.dumps({"type": "snapshot", "product_id": "BTC-USDT", "bids": rows[0], "asks": rows[1]}).encode()

    def delta(self, bids: Side, asks: Side, state: State) -> bytes:
        self.number += 1
        changes = [["buy", str(price), str(size)] for price, size in bids.items()]
        changes += [["sell", str(price), str(size)] for price, size in asks.items()]
        return json.dumps({"type": "l2update", "product_id": "BTC-USDT", "changes": changes, "time": SENT}).encode()


def checksum(state: State) -> int:
    rows = sorted(state.asks.items())[:10] + sorted(state.bids.items(), reverse=True)[:10]
    return crc32("".join(f"{price}{size}" for price, size in rows).encode())


class Kraken2:
    """A checksum over ten levels a side: the book here has no more."""

    def __init__(self) -> None:
        self.adapter: VenueAdapter = KrakenAdapter(book=True)
        self.number = 100  # of the state; the venue does not tell it

    def snapshot(self, state: State) -> bytes:
        return self._message("snapshot", state.bids, state.asks, state)

    def delta(self, bids: Side, asks: Side, state: State) -> bytes:
        self.number += 1
        return self._message("update", bids, asks, state)

    def _message(self, kind: str, bids: Side, asks: Side, state: State) -> bytes:
        sides = [[{"price": price, "qty": size} for price, size in side.items()] for side in (bids, asks)]
        data = {"symbol": "BTC/USDT", "bids": sides[0], "asks": sides[1], "checksum": checksum(state)}
        return json.dumps({"channel": "book", "type": kind, "data": [{**data, "timestamp": SENT}]}).encode()


class Kraken1:
    """The same, but for the snapshot, which has no checksum."""

    def __init__(self) -> None:
        self.adapter: VenueAdapter = KrakenV1Adapter(book=True)
        self.number = 100  # of the state; the venue does not tell it

    def snapshot(self, state: State) -> bytes:
        body = {"as": self._rows(state.asks), "bs": self._rows(state.bids)}
        return json.dumps([1, body, "book-1000", "XBT/USDT"]).encode()

    def delta(self, bids: Side, asks: Side, state: State) -> bytes:
        self.number += 1
        bodies = [{"a": self._rows(asks)}, {"b": self._rows(bids), "c": str(checksum(state))}]
        return json.dumps([1, *bodies, "book-1000", "XBT/USDT"]).encode()

    def _rows(self, side: Side) -> list[list[str]]:
        return [[str(price), str(size), "1696613755.440295"] for price, size in side.items()]


bid_changes = st.dictionaries(st.integers(990, 999), st.integers(0, 5), max_size=4)
ask_changes = st.dictionaries(st.integers(1001, 1010), st.integers(0, 5), max_size=4)
faults = st.sampled_from(["none"] * 6 + list(EVERYTHING))


@pytest.mark.parametrize(
    ("kind", "possible"),
    [
        (AdvancedTrade, EVERYTHING),
        (Kraken2, EVERYTHING),
        (Kraken1, EVERYTHING),
        (Exchange, ("cut",)),
    ],
)
@settings(max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(bid_changes, ask_changes, faults, st.integers(0, 2000)), max_size=40))
def test_a_live_book_is_the_venues_whatever_the_line_does(
    kind: type[Speaker], possible: tuple[str, ...], changes: list[tuple[Side, Side, str, int]]
) -> None:
    line = Line(kind())
    for bids, asks, fault, place in changes:
        line.send(line.change(bids, asks), fault if fault in possible else "none", place, 0)
    for size in range(1, 6):  # in peace the book is LIVE again, and up to date
        line.send(line.change({998: size}, {}), "none", 0, 0)
    assert line.sync.state is BookState.LIVE
    assert State(line.sync.book.bids, line.sync.book.asks) == line.state
