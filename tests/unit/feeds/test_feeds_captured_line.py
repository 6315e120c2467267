"""A recorded book of Kraken over a line that drops, repeats and damages its messages: what is LIVE of it is right."""

from __future__ import annotations

import functools
import random
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_feeds_captured_venues import KRAKEN, kraken

from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Rejected
from marketd.daemon.feeds.venues import venue_of
from marketd.market.book import BestLevels, Levels, OrderBook
from marketd.market.book_sync import BookSync
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from support import requires

pytestmark = requires("shared_data")

HARMS = st.sampled_from(["drop", "repeat", "later", "cut", "garble"])
PAIR, KEPT = "XMR/USD", 200


@functools.lru_cache(maxsize=1)
def beginning(folder: Path) -> tuple[Instrument, list[bytes], list[tuple[Levels, Levels]]]:
    """Messages of one recorded book, and what it was after each of them."""
    capture = kraken(folder, "KRAKEN.ws.50.0.gz")
    frames = [frame for frame in capture.frames if frame.startswith(b"[") and PAIR.encode() in frame][:KEPT]
    rule, found = capture.adapter.book_rule, capture.adapter._instruments["XMRUSD"]  # type: ignore[attr-defined]
    assert rule is not None
    sync, states = BookSync(rule, found), []
    sync.subscribed()
    for event in capture.adapter.decode_many(frames):
        if isinstance(event, BookSnapshot):
            sync.snapshot(event)
        elif isinstance(event, BookDelta):
            sync.delta(event)
        if isinstance(event, (BookSnapshot, BookDelta)):
            bids, asks = sync.book.bids, sync.book.asks
            states.append((Levels(list(bids), list(bids.values())), Levels(list(asks), list(asks.values()))))
    assert len(states) == len(frames) == KEPT
    return found, frames, states


@settings(
    max_examples=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink takes minutes, and the seed tells enough
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(harms=st.dictionaries(st.integers(1, KEPT - 1), HARMS, max_size=25), seed=st.integers(0, 2**16))
def test_the_ten_best_levels_of_a_live_book_are_the_venues_whatever_the_line_does(
    shared_data: Path, harms: dict[int, str], seed: int
) -> None:
    """The same checksum holds, or the book begins anew."""
    found, frames, states = beginning(shared_data)
    adapter = venue_of("KRAKEN", KRAKEN).adapter(trades="trade", candles=(), book=True, series=())
    adapter.adopt(found)
    assert adapter.book_rule is not None
    tops, rng = [_top(*state) for state in states], random.Random(seed)
    late: list[bytes] = []
    sync = BookSync(adapter.book_rule, found)
    sync.subscribed()
    for at, frame in enumerate(frames):
        place = rng.randrange(len(frame))
        garbled = frame[:place] + b"\x00" + frame[place + 1 :]
        copies: dict[str, list[bytes]] = {"drop": [], "repeat": [frame, frame], "later": [], "cut": [frame[:place]]}
        came = (copies | {"garble": [garbled]}).get(harms.get(at, ""), [frame]) + late
        late = [frame] if harms.get(at) == "later" else []
        for event in adapter.decode_many(came):
            if isinstance(event, BookSnapshot):
                sync.snapshot(event)
            elif isinstance(event, BookDelta):
                sync.delta(event)
            elif isinstance(event, Rejected) and event.book:
                sync.damaged()
            if sync.state is BookState.LIVE:
                assert sync.book.top(10) in tops
        if sync.state is not BookState.LIVE:
            sync.snapshot(BookSnapshot("XMRUSD", 0, 0, *states[at]))
            late = []  # over another subscription


def _top(bids: Levels, asks: Levels) -> BestLevels:
    book = OrderBook()
    book.reset(bids, asks)
    return book.top(10)
