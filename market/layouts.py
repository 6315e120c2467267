"""The layouts of the built-in records and the enumerations in their fields; `market/records.py` is the table of them.

Numpy structured dtypes, little-endian, packed: every field at a multiple of its own size, a record a multiple of 8
bytes. An absent field is its dtype's minimum.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any

import numpy as np

STAMP = [("ts_event", "<i8"), ("ts_known", "<i8"), ("seq", "<i8")]

TRADE = np.dtype([*STAMP, ("trade_id", "<i8"), ("price", "<i8"), ("size", "<i8"), ("side", "<i4"), ("flags", "<i4")])
CANDLE = np.dtype(
    [
        ("ts", "<i8"),
        ("ts_known", "<i8"),
        ("seq", "<i8"),
        ("open", "<i8"),
        ("high", "<i8"),
        ("low", "<i8"),
        ("close", "<i8"),
        ("volume", "<i8"),
        ("quote_volume", "<i8"),
        ("buy_volume", "<i8"),
        ("trade_count", "<i8"),
        ("timeframe", "<i4"),
        ("source", "<i2"),
        ("flags", "<i2"),
    ]
)
TICK = np.dtype(STAMP)
ACTIVITY_BAR = np.dtype(
    [
        *STAMP,  # ts_event: the newest time of its trades
        ("ts_start", "<i8"),  # the oldest
        ("threshold", "<i8"),  # trades, or at size_scale, or at quote_scale
        ("open", "<i8"),
        ("high", "<i8"),
        ("low", "<i8"),
        ("close", "<i8"),
        ("volume", "<i8"),
        ("quote_volume", "<i8"),
        ("buy_volume", "<i8"),
        ("trade_count", "<i8"),
        ("measure", "<i4"),
        ("flags", "<i4"),
    ]
)
INSTRUMENT = np.dtype(
    [
        *STAMP,
        ("instrument", "<i8"),
        ("symbol", "S32"),
        ("venue", "S24"),
        ("base", "S16"),
        ("quote", "S16"),
        ("market", "S8"),
        ("tick_size", "<i8"),
        ("step_size", "<i8"),
        ("price_scale", "<i2"),
        ("size_scale", "<i2"),
        ("quote_scale", "<i2"),
        ("flags", "<i2"),
    ]
)
COVERAGE = np.dtype(
    [
        *STAMP,
        ("ts_start", "<i8"),
        ("ts_end", "<i8"),
        ("detail", "<i8"),
        ("stream", "<i4"),
        ("state", "<i4"),
        ("reason", "S40"),
    ]
)
# Rows of the journal that describe a batch rather than the market; they never leave the daemon.
PRODUCER = np.dtype([("producer", "V16"), ("batch", "<i8"), ("offered", "<i4"), ("accepted", "<i4")])
BYTES = np.dtype("u1")


class Side(IntEnum):
    """The aggressor's side."""

    SELL = -1
    UNKNOWN = 0
    BUY = 1


class TradeFlag(IntFlag):
    HASHED_ID = 1  # the venue's id is no integer; trade_id is its 64-bit hash
    AGGREGATE = 2  # an aggregate trade: the id is from the aggregate's id space
    NOT_MARKET = 8  # no market trade (insurance fund, ADL): stored, kept out of bars
    SNAPPED = 16  # a float was snapped to the grid


class CandleFlag(IntFlag):
    PARTIAL = 1  # its stretch was not observed throughout
    RECONSTRUCTED = 2  # ts_known is a reconstruction (import)
    REVISED = 4  # replaces an earlier version
    SNAPPED = 16


class Measure(IntEnum):
    """What closes an activity bar."""

    TICK = 1
    VOLUME = 2
    DOLLAR = 3


class ActivityFlag(IntFlag):
    PARTIAL = 1  # trades may be missing between its first and its last
    EARLY = 4  # closed before its threshold: one more trade would have left 64 bits


class Source(IntEnum):
    """Where a bar comes from; sources never revise each other."""

    OWN = 1
    VENUE = 2
    IMPORT = 3


class Coverage(IntEnum):
    OBSERVED = 1
    GAP = 2
    BACKFILLED = 3
    VENUE_DOWN = 4
    UNSTORED = 5
    CLOCK_STEP = 6
    LATE_REFUSED = 7  # a trade came later than the retention of its bar's trades
    ENDED = 8  # nobody listens any more; of trades, `detail` is an `Ended`
    EXPIRED = 9  # retention dropped the rows of a table, which is the reason; told to readers, never journaled


class Ended(IntEnum):
    """What became of the bars that were forming when nobody listened to the trades any more."""

    BARS_CLOSED = 0  # closed as they stood: an import's last file, a symbol that was removed, a venue left out
    BARS_GO_ON = 1  # the source may come back at any moment: its feed stopped, or is not heard


class InstrumentFlag(IntFlag):
    REMOVED = 1


# ---- order books --------------------------------------------------------------------------------------

BOOK_DEPTH = 20  # levels a side of a BOOK record unless `book.depth` says otherwise
BUCKETS_A_SIDE = 32
WINDOWS_SECONDS = (1, 5, 15, 60)  # of the ratios of an imbalance


def book_dtype(depth: int) -> np.dtype[Any]:
    """BOOK with `depth` levels a side, the best first. Levels that are not there are ABSENT, price and size."""
    levels = [(name, "<i8", (depth,)) for name in ("bid_price", "bid_size", "ask_price", "ask_size")]
    return np.dtype(
        [
            *STAMP,
            ("sequence", "<i8"),  # the venue's number of this state; ABSENT where it numbers nothing
            ("bid_count", "<i2"),
            ("ask_count", "<i2"),
            ("state", "<i2"),
            ("flags", "<i2"),
            *levels,
        ]
    )


BOOK = book_dtype(BOOK_DEPTH)
# Beside each BOOK record of a consolidated book: whose its levels are, best first, as ids of instruments.
BOOK_VENUES = np.dtype([*STAMP, ("bid_venue", "<i8", (BOOK_DEPTH,)), ("ask_venue", "<i8", (BOOK_DEPTH,))])
BUCKETS = np.dtype(
    [
        ("ts", "<i8"),  # start of the second or minute
        ("ts_known", "<i8"),
        ("seq", "<i8"),
        ("width", "<i8"),  # price units a bucket
        ("base", "<i8"),  # number of the bucket of the last mid
        ("timeframe", "<i4"),
        ("state", "<i2"),
        ("flags", "<i2"),
        ("bid_size", "<i8", (BUCKETS_A_SIDE,)),
        ("ask_size", "<i8", (BUCKETS_A_SIDE,)),
    ]
)
IMBALANCE = np.dtype(
    [
        *STAMP,  # ts_event: the end of the second
        ("mid2", "<i8"),  # best bid + best ask: twice the mid, so that it is an integer
        ("spread", "<i8"),
        ("bid_size", "<i8"),  # within the band around mid
        ("ask_size", "<i8"),
        ("best_bid_size", "<i8"),
        ("best_ask_size", "<i8"),
        *((f"book_{seconds}s", "<i4") for seconds in WINDOWS_SECONDS),
        *((f"volume_{seconds}s", "<i4") for seconds in WINDOWS_SECONDS),
        ("state", "<i4"),
        ("reason", "<i4"),
    ]
)
BOOK_DELTA = np.dtype(
    [*STAMP, ("sequence", "<i8"), ("price", "<i8"), ("size", "<i8"), ("side", "<i4"), ("flags", "<i4")]
)


class BookState(IntEnum):
    """How far a book can be believed; only LIVE yields numbers."""

    EMPTY = 0  # nothing was asked for yet
    SYNCING = 1  # waits for a snapshot, or for the deltas that join it
    LIVE = 2
    STALE = 3  # disconnected, or silent: what is known is old


class BookFlag(IntFlag):
    JUMP = 1  # sent at once, because the best price moved by more than book.jump
    STATE = 2  # sent at once, because the state changed
    OFFERED = 4  # a producer's own snapshot; its imbalance is made by ingest
    SNAPPED = 16  # a float was snapped to the grid
    BIDS_CUT = 32  # these are all bids that the venue told, and there may be more
    ASKS_CUT = 64


class BookDeltaFlag(IntFlag):
    SNAPSHOT = 1  # a row of a snapshot
    END = 2  # the book left LIVE here: price and size are absent, side is 0
    FIRST = 4  # the first row of a snapshot: the book begins anew here
    LAST = 8  # the last row of a snapshot or of one message's changes: the book is whole again
    # How far the book is known; such a row has no side and no size. Without a price the side is known whole, and so it
    # is when a snapshot has no such row.
    BID_EDGE = 16  # bids are known from this price on
    ASK_EDGE = 32  # asks are known up to this price


# In the flags of a snapshot's FIRST row, from this bit on: so many levels a side the venue tells; 0: all.
WINDOW_BIT = 16


class ImbalanceReason(IntEnum):
    """Why numbers of an imbalance are absent."""

    NONE = 0
    NOT_LIVE = 1
    NO_LEVELS = 2  # one side is empty, or nothing rests within the band
    WARMING = 3  # the longest windows are not full yet
    BEYOND_EDGE = 4  # the band reaches beyond the levels that the venue told
