"""A venue whose deltas bear a time and no predecessor: when its snapshot may be believed."""

from __future__ import annotations

from marketd.market.book import Levels
from marketd.market.book_messages import BookDelta, BookRule, BookSnapshot, Fit
from marketd.market.book_sync import BookSync
from marketd.market.instruments import Instrument
from marketd.market.records import BookState

NONE = Levels([], [])
COIN = Instrument(id=1, symbol="BTCUSD", venue="BITSTAMP", price_scale=0, size_scale=8, quote_scale=8)


def fit(sequence: int, delta: BookDelta) -> Fit:
    return Fit.OLD if delta.last < sequence else Fit.NEXT


def subscribed() -> BookSync:
    sync = BookSync(BookRule("rest", splice=fit, follows=fit, needs_older=True), COIN)
    sync.subscribed()
    return sync


def snapshot(at: int) -> BookSnapshot:
    return BookSnapshot("BTCUSD", at, at, Levels([99], [5]), Levels([101], [5]))


def delta(at: int) -> BookDelta:
    return BookDelta("BTCUSD", at, at, None, at, Levels([98], [at]), NONE)


def test_a_snapshot_from_before_the_first_delta_is_asked_for_again() -> None:
    for heard_first in (True, False):
        sync = subscribed()
        told = [sync.delta(delta(900)), sync.snapshot(snapshot(100))]
        if not heard_first:
            sync = subscribed()
            told = [sync.snapshot(snapshot(100)), sync.delta(delta(900))]
        assert sync.state is BookState.SYNCING
        assert told[-1].needs_snapshot
        assert sync.delta(delta(950)).state is BookState.SYNCING
        assert sync.snapshot(snapshot(920)).state is BookState.LIVE
        assert (sync.sequence, sync.book.bids) == (950, {98: 950, 99: 5})


def test_a_delta_that_is_no_newer_proves_a_snapshot() -> None:
    sync = subscribed()
    sync.snapshot(snapshot(100))
    assert sync.delta(delta(100)).state is BookState.LIVE
