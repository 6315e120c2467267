"""Books of OKX and Bybit over a bad line: messages that are lost, repeated, out of order or damaged. Whatever comes, a
book that is LIVE is the venue's. The venue is a small one of the tests' own that speaks as the documentation says.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Rejected, VenueAdapter
from marketd.daemon.feeds.bybit import BybitLinearAdapter
from marketd.daemon.feeds.okx import OkxAdapter
from marketd.market.book_sync import BookSync
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState

Side = dict[int, int]
INSTRUMENT = Instrument(
    id=1, symbol="BTCUSDT", venue="X", price_scale=0, size_scale=0, quote_scale=0, base="BTC", quote="USDT"
)


class State(NamedTuple):
    bids: Side
    asks: Side


class Speaker(Protocol):
    """How a venue writes its messages; it counts them."""

    adapter: VenueAdapter
    number: int

    def snapshot(self, state: State) -> bytes: ...

    def delta(self, bids: Side, asks: Side, state: State) -> bytes: ...


def _rows(side: Side, *rest: str) -> list[list[str]]:
    return [[str(price), str(size), *rest] for price, size in side.items()]


class Okx:
    """Numbers with holes, each message naming the one before; a checksum over what is held after it."""

    def __init__(self) -> None:
        self.adapter: VenueAdapter = OkxAdapter(book=True)
        self.number = 100

    def snapshot(self, state: State) -> bytes:
        return self._message("snapshot", state.bids, state.asks, state, -1)

    def delta(self, bids: Side, asks: Side, state: State) -> bytes:
        previous, self.number = self.number, self.number + 3
        return self._message("update", bids, asks, state, previous)

    def _message(self, action: str, bids: Side, asks: Side, state: State, previous: int) -> bytes:
        row: dict[str, Any] = {"bids": _rows(bids, "0", "1"), "asks": _rows(asks, "0", "1"), "ts": "1700000000000"}
        row |= {"checksum": self._checksum(state), "prevSeqId": previous, "seqId": self.number}
        return json.dumps({"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": action, "data": [row]}).encode()

    def _checksum(self, state: State) -> int:
        bids, asks = sorted(state.bids.items(), reverse=True), sorted(state.asks.items())
        texts = []
        for index in range(25):
            texts += [f"{price}:{size}" for side in (bids, asks) for price, size in side[index : index + 1]]
        unsigned = zlib.crc32(":".join(texts).encode())
        return unsigned - 2**32 if unsigned >= 2**31 else unsigned


class Bybit:
    """Consecutive numbers, and nothing to check the levels by."""

    def __init__(self) -> None:
        self.adapter: VenueAdapter = BybitLinearAdapter(book=True)
        self.number = 100

    def snapshot(self, state: State) -> bytes:
        return self._message("snapshot", state.bids, state.asks)

    def delta(self, bids: Side, asks: Side, state: State) -> bytes:
        self.number += 1
        return self._message("delta", bids, asks)

    def _message(self, kind: str, bids: Side, asks: Side) -> bytes:
        data = {"s": "BTCUSDT", "b": _rows(bids), "a": _rows(asks), "u": self.number, "seq": 1}
        return json.dumps({"topic": "orderbook.1000.BTCUSDT", "type": kind, "ts": 1700000000000, "data": data}).encode()


# bids below 1000, asks above: no book of the venue is crossed
bid_changes = st.dictionaries(st.integers(980, 999), st.integers(0, 5), max_size=4)
ask_changes = st.dictionaries(st.integers(1001, 1020), st.integers(0, 5), max_size=4)
faults = st.sampled_from(["none"] * 6 + ["lost", "twice", "late", "cut", "changed"])


class Line:
    """The venue, the bad line, and a book that follows."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        speaker.adapter.adopt(INSTRUMENT)
        assert speaker.adapter.book_rule is not None
        self.sync = BookSync(speaker.adapter.book_rule, INSTRUMENT)
        self.sync.subscribed()
        self.state = State({999: 1}, {1001: 1})
        self.truth = {speaker.number: State({999: 1}, {1001: 1})}
        self.asked = 0
        self.late: list[bytes] = []
        self.receive(speaker.snapshot(self.state))

    def change(self, bids: Side, asks: Side) -> bytes:
        for side, changes in ((self.state.bids, bids), (self.state.asks, asks)):
            side.update(changes)
            for price in [price for price, size in side.items() if not size]:
                del side[price]
        frame = self.speaker.delta(bids, asks, self.state)
        self.truth[self.speaker.number] = State(dict(self.state.bids), dict(self.state.asks))
        return frame

    def send(self, frame: bytes, fault: str, place: int, byte: int) -> None:
        place %= len(frame)
        if fault == "late":
            self.late.append(frame)
            return
        if fault != "lost":
            damaged = frame[:place] if fault == "cut" else frame
            if fault == "changed":
                damaged = frame[:place] + bytes([byte]) + frame[place + 1 :]
            self.receive(damaged)
        if fault == "twice":
            self.receive(frame)
        while self.late:
            self.receive(self.late.pop())
        if self.asked:  # a snapshot comes some messages after it was asked for
            self.asked -= 1
            if not self.asked:
                self.receive(self.speaker.snapshot(self.state))

    def receive(self, frame: bytes) -> None:
        for event in self.speaker.adapter.decode_many([frame]):
            step = None
            if isinstance(event, BookSnapshot):
                step = self.sync.snapshot(event)
            elif isinstance(event, BookDelta):
                step = self.sync.delta(event)
            elif isinstance(event, Rejected) and event.book:
                step = self.sync.damaged()
            if step is not None and step.needs_snapshot:
                self.asked = 2
        self.check()

    def check(self) -> None:
        if self.sync.state is BookState.LIVE:
            held = State(self.sync.book.bids, self.sync.book.asks)
            assert held in self.truth.values()
            if self.sync.sequence in self.truth:
                assert held == self.truth[self.sync.sequence]


@pytest.mark.parametrize(("kind", "allowed"), [(Okx, ("cut", "changed")), (Bybit, ("cut",))])
@settings(max_examples=150)
@example(changes=[({}, {}, "none", 0, 32)] * 14 + [({}, {1019: 0}, "changed", 203, ord("8"))])  # 145 comes as 148
@given(
    changes=st.lists(
        st.tuples(bid_changes, ask_changes, faults, st.integers(0, 2000), st.integers(32, 126)), max_size=40
    )
)
def test_a_live_book_is_the_venues_whatever_the_line_does(
    kind: type[Okx] | type[Bybit], allowed: Sequence[str], changes: list[tuple[Side, Side, str, int, int]]
) -> None:
    line = Line(kind())
    for bids, asks, fault, place, byte in changes:
        is_possible = fault not in ("cut", "changed") or fault in allowed
        line.send(line.change(bids, asks), fault if is_possible else "none", place, byte)
    for _ in range(4):  # in peace the book is LIVE again, and up to date
        line.send(line.change({998: 7}, {}), "none", 0, 0)
    assert line.sync.state is BookState.LIVE
    assert State(line.sync.book.bids, line.sync.book.asks) == line.state
