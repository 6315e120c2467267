"""Whose the levels of a consolidated book are: BOOK_VENUES records laid beside their books.

Ingest writes both in one batch, so that they share `ts_known`, which no other batch has.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from marketd.client.books import OrderBookDataFrame
from marketd.market.instruments import CONSOLIDATED_VENUE, Instrument
from marketd.market.records import BOOK_DEPTH, Records
from marketd.market.times import ABSENT

STREAM = "book_venues"
COLUMNS = ("bid_venue", "ask_venue")
Ids = npt.NDArray[np.int64]


def is_consolidated(instrument: Instrument) -> bool:
    return instrument.venue == CONSOLIDATED_VENUE


def with_venues(found: OrderBookDataFrame, venues: Records) -> OrderBookDataFrame:
    """The books with further columns `bid_venue`, `ask_venue`, shape (n, depth): ids of instruments, ABSENT where there
    is no level."""
    order = np.argsort(venues["ts_known"], kind="stable")
    known = venues["ts_known"][order]
    place = np.searchsorted(known, found.records["ts_known"])
    matched = np.flatnonzero(place < len(known))
    matched = matched[known[place[matched]] == found.records["ts_known"][matched]]
    kept = min(found.depth, BOOK_DEPTH)
    extras = dict(found.extras)
    for name in COLUMNS:
        ids: Ids = np.full((len(found), found.depth), ABSENT)
        ids[matched, :kept] = venues[name][order[place[matched]], :kept]
        extras[name] = ids
    return OrderBookDataFrame(
        found.kind, found.instrument, found.records, found.meta, timeframe=found.timeframe, extras=extras
    )
