"""Frames of order books and of what is made of them: `OrderBookDataFrame`, `BucketFrame`, `frame_of`.

    book = md.get_latest_orderbook("BTC/USDT")
    book.bids, book.asks                 # (n, depth, 2): price and size, the best level first
    book.mid, book.weighted_mid, book.spread, book.is_live

Only a LIVE book has numbers: in any other state every level is NaN, and so is what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.client.columns import Column
from marketd.client.frames import Frame
from marketd.ipc.protocol import Meta
from marketd.market.book_rows import depth_of, refit
from marketd.market.errors import BeyondCache, InvalidArgument
from marketd.market.fixed import to_real
from marketd.market.instruments import Instrument
from marketd.market.records import BUCKETS_A_SIDE, BookFlag, BookState, Kind, Records
from marketd.market.times import ABSENT

_NO_EXTRAS: Mapping[str, Column] = {}
_STATES = {int(state): state.name for state in BookState}
_WITH_STATE = frozenset({"book", "book_means", "imbalance", "buckets"})
Reals = npt.NDArray[np.float64]


class OrderBookDataFrame(Frame):
    """Books of one instrument, oldest first: snapshots, or (with a `timeframe`) the last one of each interval.

    `frame["bid_price"]`, `bid_size`, `ask_price`, `ask_size`: shape (n, depth), the best level first, NaN where there
    is no level. All else is as of `Frame`; `to_pandas` and `to_numpy` have a column a level (`bid_price_0`).
    """

    __slots__ = ()

    @property
    def depth(self) -> int:
        """Levels a side."""
        return depth_of(self.records)

    @property
    def bids(self) -> Reals:
        """Prices and sizes, shape (n, depth, 2)."""
        return self._side("bid")

    @property
    def asks(self) -> Reals:
        """Prices and sizes, shape (n, depth, 2)."""
        return self._side("ask")

    @property
    def mid(self) -> Column:
        """(best bid + best ask) / 2, shape (n,); NaN where a side is empty or the book is not LIVE."""
        return self["mid"]

    @property
    def weighted_mid(self) -> Column:
        """(Pa·Qb + Pb·Qa) / (Qb + Qa) of the best levels, shape (n,)."""
        return self["weighted_mid"]

    @property
    def spread(self) -> Column:
        """Best ask - best bid, shape (n,)."""
        return self["spread"]

    @property
    def state(self) -> Column:
        """A `BookState` (0 empty, 1 syncing, 2 live, 3 stale), shape (n,)."""
        return self["state"]

    @property
    def is_live(self) -> Column:
        """Whether the book could be believed, shape (n,)."""
        live: Column = self.records["state"] == BookState.LIVE
        return live

    @property
    def is_cut(self) -> Column:
        """Whether a side has all levels that the venue told, and may have more that it did not tell. Shape (n,)."""
        cut: Column = (self.records["flags"] & (BookFlag.BIDS_CUT | BookFlag.ASKS_CUT)) != 0
        return cut

    def top(self, depth: int) -> OrderBookDataFrame:
        """The best `depth` levels a side; InvalidArgument for none, BeyondCache for more than are kept."""
        return cut_depth(self, depth)

    def _side(self, side: str) -> Reals:
        return np.stack((self[f"{side}_price"], self[f"{side}_size"]), axis=-1)


class BucketFrame(Frame):
    """What rested in each bucket of prices, as a mean over each second or minute; oldest first.

    `frame["bid_size"]`, `frame["ask_size"]`: shape (n, 32). Column j is j buckets away from that of mid (`base`).
    """

    __slots__ = ()

    @property
    def bid_price(self) -> Reals:
        """The lower edge of each bucket on the bid side, shape (n, 32); it is `width` wide."""
        return self._edges(-1)

    @property
    def ask_price(self) -> Reals:
        """The lower edge of each bucket on the ask side, shape (n, 32)."""
        return self._edges(+1)

    def _edges(self, direction: int) -> Reals:
        base, width = self.records["base"], self.records["width"]
        known = (base != ABSENT) & (width != ABSENT)
        places = np.arange(BUCKETS_A_SIDE) * direction
        edges = (np.where(known, base, 0)[:, None] + places) * np.where(known, width, 0)[:, None]
        return to_real(np.where(known[:, None], edges, ABSENT), self.instrument.price_scale)


_CLASSES: Mapping[str, type[Frame]] = {
    "book": OrderBookDataFrame,
    "book_means": OrderBookDataFrame,
    "buckets": BucketFrame,
}


def frame_of(
    kind: Kind,
    instrument: Instrument,
    records: Records,
    meta: Meta | None = None,
    *,
    timeframe: int | None = None,
    extras: Mapping[str, Column] = _NO_EXTRAS,
) -> Frame:
    """Records as the frame of their kind; `meta.book_state` tells the newest book's or imbalance's state."""
    if records.dtype != kind.dtype:
        kind = kind._replace(dtype=records.dtype)  # of another depth
    made = Frame if kind.declared else _CLASSES.get(kind.name, Frame)
    frame = made(kind, instrument, records, meta, timeframe=timeframe, extras=extras)
    if frame.meta.book_state is None and kind.name in _WITH_STATE:
        frame.meta.book_state = state_name(records)
    return frame


def state_name(records: Records) -> str | None:
    """The state of the newest of these books or imbalances; None where there is none."""
    return _STATES.get(int(records["state"][-1])) if len(records) else None


def check_depth(depth: Any) -> int:
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise InvalidArgument(f"depth: {depth!r} is not a number of levels", field="depth")
    return depth


def cut_depth(frame: Frame, depth: int | None) -> OrderBookDataFrame:
    """The best `depth` levels of books; None: all. BeyondCache when fewer are kept."""
    assert isinstance(frame, OrderBookDataFrame)
    if depth is None or check_depth(depth) == frame.depth:
        return frame
    if depth > frame.depth:
        raise BeyondCache(
            f"depth: {depth} levels a side of {frame.instrument.name} are wanted, {frame.depth} are kept; "
            "a larger book.depth keeps more",
            field="depth",
        )
    records = refit(frame.records, depth)
    kind = frame.kind._replace(dtype=records.dtype)
    extras = {name: values[:, :depth] if values.ndim == 2 else values for name, values in frame.extras.items()}
    return OrderBookDataFrame(kind, frame.instrument, records, frame.meta, timeframe=frame.timeframe, extras=extras)
