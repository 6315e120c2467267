"""Books whose feed is gone: they must not stay LIVE until somebody comes back.

Each feed says every fifth of a second that it lives, and which process it is. Whose process has ended is gone at the
next look; who is silent for two seconds (stopped, or hanging) is taken for gone too. A book that was LIVE by its word
is then left as STALE, by a record like any other, and so are the figures that were made of it. A feed that speaks again
needs no ceremony: its next record says so.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from marketd.daemon.kernel import Lot
from marketd.market.records import BookState, Records

SILENT_SECONDS = 2.0  # ten beats of a feed: a busy machine delays a few
NOBODY_SECONDS = 5.0  # after a start, for the feed of a book that was LIVE before
MAX_FEEDS = 1024
_NOBODY = b""


class _Feed:
    def __init__(self, heard: float, pid: int = 0) -> None:
        self.heard = heard  # monotonic s
        self.books: set[int] = set()  # instruments whose book is LIVE by its word
        self.process = -1  # a pidfd: readable once the process has ended
        if pid:
            with suppress(OSError):  # of another host or namespace, or gone already: its silence will tell
                self.process = os.pidfd_open(pid)

    def is_gone(self, now: float) -> bool:
        if self.process >= 0:
            poll = select.poll()
            poll.register(self.process, select.POLLIN)
            if poll.poll(0):
                return True
        return now - self.heard > SILENT_SECONDS

    def close(self) -> None:
        if self.process >= 0:
            os.close(self.process)


class Orphans:
    """`alive` and `follow` hear, `found` asks."""

    def __init__(self, live_books: Sequence[int] = ()) -> None:
        """`live_books`: instruments whose book was LIVE before this process, by whose word is not known."""
        self._feeds: dict[bytes, _Feed] = {_NOBODY: _Feed(time.monotonic() + NOBODY_SECONDS - SILENT_SECONDS)}
        self._feeds[_NOBODY].books.update(live_books)
        self._owners: dict[int, bytes] = dict.fromkeys(live_books, _NOBODY)

    def alive(self, producer: bytes, pid: int) -> None:
        feed = self._feeds.get(producer)
        if feed is not None:
            feed.heard = time.monotonic()
        elif len(self._feeds) < MAX_FEEDS:
            self._feeds[producer] = _Feed(time.monotonic(), pid)

    def follow(self, producer: bytes, lot: Lot) -> None:
        """A feed's batch: what it says of its book. Books of those who never said that they live are not watched."""
        feed = self._feeds.get(producer)
        if feed is None:
            return
        for kind, records in lot.rows:
            if kind.name == "book" and len(records):
                self._own(lot.state.instrument.id, producer, feed, is_live=records["state"][-1] == BookState.LIVE)

    def _own(self, instrument: int, producer: bytes, feed: _Feed, *, is_live: bool) -> None:
        before = self._owners.pop(instrument, None)
        if before is not None and before in self._feeds:
            self._feeds[before].books.discard(instrument)
        if is_live:
            self._owners[instrument] = producer
            feed.books.add(instrument)

    def found(self) -> list[int]:
        """Instruments whose LIVE books have lost their feed since the last call."""
        now, lost = time.monotonic(), []
        for producer, feed in list(self._feeds.items()):
            if not feed.is_gone(now):
                continue
            lost += sorted(feed.books)
            for instrument in feed.books:
                del self._owners[instrument]
            feed.books.clear()
            if producer != _NOBODY:
                del self._feeds[producer]
                feed.close()
        return lost

    def close(self) -> None:
        for feed in self._feeds.values():
            feed.close()
        self._feeds.clear()


def lost_since(books: Records) -> int | None:
    """Since when an instrument's book is not LIVE, by its newest BOOK records; None: it is, or nothing is known."""
    if not len(books):
        return None
    live = np.flatnonzero(books["state"] == BookState.LIVE)
    if not len(live):
        return int(books["ts_event"][0])
    first = int(live[-1]) + 1
    return int(books["ts_event"][first]) if first < len(books) else None
