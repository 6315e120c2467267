"""What venues say of their books, as values: snapshots, deltas, and the rule that joins them."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Literal, NamedTuple

from msgspec import Struct

from marketd.market.book import Levels, OrderBook
from marketd.market.instruments import Instrument


class BookSnapshot(Struct, gc=False):
    symbol: str
    sequence: int  # the venue's number of this state; 0 where it numbers nothing
    ts_ns: int  # ABSENT when it bears none
    bids: Levels
    asks: Levels
    checksum: int | None = None
    depth: int = 0  # levels a side that the venue keeps in step from here on, where that is not the rule's
    streamed: bool = False  # came in the order of all else, though snapshots are asked for: it needs no proof
    limit: int = 0  # levels a side that were asked for: a side with as many may go on beyond them; 0: all there are


class BookDelta(Struct, gc=False):
    """One message of changes; the numbers are 0 where the venue has none."""

    symbol: str
    first: int
    last: int
    previous: int | None
    ts_ns: int
    bids: Levels
    asks: Levels
    checksum: int | None = None


class Fit(Enum):
    """How a delta joins what was applied."""

    OLD = "old"
    NEXT = "next"
    GAP = "gap"


class BookRule(NamedTuple):
    """How a venue's deltas join its snapshots and each other."""

    snapshot: Literal["rest", "stream"]
    splice: Callable[[int, BookDelta], Fit]  # the first delta against the snapshot's sequence
    follows: Callable[[int, BookDelta], Fit]  # a delta against the last applied sequence
    checksum: Callable[[OrderBook, Instrument], int] | None = None
    depth: int = 0  # levels a side that the venue keeps in step; 0: all. Deeper ones are cut after each delta
    # deltas do not name what they follow: only one that is no newer than a REST snapshot proves that none was missed
    needs_older: bool = False
    audited: bool = False  # nothing numbers the changes: now and then a fresh snapshot is asked for, to be sure
    # each level that is told is a change: one that changes nothing shows that a message before it was lost
    exact: bool = False
