"""The whole book at a moment, of any depth, made again from the stored changes of its levels (`book.deltas = true`).

The changes are fetched backwards from the moment to the snapshot on which they stand. What a daemon did not store is
told by the ledger, not by the changes themselves: a book that may lack one of them is refused, never guessed.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from marketd.client.arguments import past_ns
from marketd.client.books import OrderBookDataFrame, check_depth, frame_of
from marketd.client.calls import Plan
from marketd.client.catalogue import Catalogue
from marketd.client.frames import Frame
from marketd.client.grid import SETTLE_NS
from marketd.client.requests import rows
from marketd.market.book_deltas import BookReplay, known_until, since_snapshot
from marketd.market.book_records import cut_flags
from marketd.market.errors import NotStored, NotYetStored
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, BookState, Coverage, Records, book_dtype, empty
from marketd.market.times import ABSENT, NS_PER_SECOND, NS_PER_US, isoformat_ns, type_time

STREAM = "book_delta"
MAX_LEVELS = 2**15 - 1  # a side; a record counts its levels in 16 bits
FIRST_PAGE, PAGE = 100_000, 250_000  # changes; DENSE_ROWS and a snapshot are in the first one, nearly always
MAX_CHANGES = 5_000_000  # that are looked through for a snapshot
# Event times of a book do not rise with every message: a snapshot has the newest time of its instrument, and the
# changes behind it their own.
DISORDER_NS = 5 * NS_PER_SECOND

BOOK_ID, DELTA_ID = BY_NAME["book"].id, BY_NAME[STREAM].id  # streams of the ledger; 0 is all


def rebuilt_book(
    catalogue: Catalogue, symbol: str, timestamp: type_time, depth: int | None
) -> Plan[OrderBookDataFrame]:
    """Plan: the book at event time `timestamp`, one row of `depth` levels a side (None: all that the venue told).

    NotStored when changes that it needs are not there, NotYetStored when they may still come.
    """
    ts_ns = past_ns(timestamp)
    if depth is not None:
        check_depth(depth)
    newest, changes = yield from _changes(catalogue, symbol, ts_ns)
    _demand_settled(newest, ts_ns)
    known = known_until(changes, ts_ns)
    used = since_snapshot(known)
    if not len(used):
        _refuse(
            newest.instrument,
            ts_ns,
            "none of its changes is stored up to then" if not len(known) else "there is no snapshot before it",
        )
    replay = BookReplay()
    replay.apply(used)
    if not replay.is_live:
        _refuse(newest.instrument, ts_ns, f"it was not in step from {isoformat_ns(replay.ts_ns)} on")
    ledger = yield from rows(catalogue, "coverage", symbol, int(used["ts_event"][0]) - DISORDER_NS)
    _demand_whole(newest.instrument, ledger.records, used, ts_ns)
    yield from _demand_same_feed(catalogue, newest.instrument, ledger.records, changes[len(known) :], used, ts_ns)
    return _frame(newest, replay, used, depth)


# ---- changes ------------------------------------------------------------------------------------


def _changes(catalogue: Catalogue, symbol: str, ts_ns: int) -> Plan[tuple[Frame, Records]]:
    """Plan: the newest page, and all changes by `seq` from before the snapshot till a little after `ts_ns`."""
    end, page = ts_ns + DISORDER_NS, FIRST_PAGE
    newest = found = yield from rows(catalogue, STREAM, symbol, None, end, page)
    changes = _ordered(found.records)
    while len(found) == page and len(changes) < MAX_CHANGES and not _reaches_back(changes, ts_ns):
        oldest = int(found["time"].min())
        later = changes[changes["ts_event"] > oldest]  # of that moment there may be more
        if not len(later):
            break
        end, page = oldest + NS_PER_US, PAGE
        found = yield from rows(catalogue, STREAM, symbol, None, end, page)
        changes = _ordered(np.concatenate((found.records, later)))
    return newest, changes


def _ordered(changes: Records) -> Records:
    return changes[np.argsort(changes["seq"], kind="stable")]


def _reaches_back(changes: Records, ts_ns: int) -> bool:
    """Are the snapshot and all that follows it among these?"""
    used = since_snapshot(known_until(changes, ts_ns))
    return bool(len(used) and changes["ts_event"].min() <= used["ts_event"][0] - DISORDER_NS)


def _frame(newest: Frame, replay: BookReplay, used: Records, depth: int | None) -> OrderBookDataFrame:
    book = replay.book
    wanted = min(depth or MAX_LEVELS, MAX_LEVELS)
    best = book.known(wanted)  # beyond the edges some levels are there, and some are not
    levels = wanted if depth else max(1, len(best.bid_prices), len(best.ask_prices))
    kind = BY_NAME["book"]._replace(dtype=book_dtype(levels))
    records = empty(kind, 1)
    records["ts_event"], records["ts_known"] = replay.ts_ns, used["ts_known"].max()
    records["seq"], records["sequence"] = used["seq"][-1], replay.sequence
    records["state"], records["flags"] = BookState.LIVE, cut_flags(book, wanted)
    records["bid_count"], records["ask_count"] = len(best.bid_prices), len(best.ask_prices)
    for name, values in zip(("bid_price", "bid_size", "ask_price", "ask_size"), best, strict=True):
        records[name][0, : len(values)] = values
    found = frame_of(kind, newest.instrument, records, newest.meta)
    assert isinstance(found, OrderBookDataFrame)
    return found


# ---- what may be missing ------------------------------------------------------------------------


def _demand_settled(newest: Frame, ts_ns: int) -> None:
    settled = None if newest.meta.watermark is None else newest.meta.watermark - SETTLE_NS
    if settled is None or ts_ns > settled:
        until = "nothing yet" if settled is None else f"what was before {isoformat_ns(settled)}"
        raise NotYetStored(
            f"timestamp: the database has {until} of {newest.instrument.name}; ask again, a little later",
            field="timestamp",
        )


def _demand_whole(instrument: Instrument, ledger: Records, used: Records, ts_ns: int) -> None:
    """No event of the ledger between snapshot and moment says that changes are missing."""
    for event in ledger[np.isin(ledger["stream"], (0, BOOK_ID, DELTA_ID))]:
        start, end = int(event["ts_start"]), _end(event)
        match event["state"]:
            case Coverage.UNSTORED:  # in times of knowledge, which are a little later
                is_missing = start < ts_ns + SETTLE_NS and end > used["ts_known"][0]
            case Coverage.GAP if event["stream"] == BOOK_ID:
                is_missing = False  # see _demand_same_feed
            case Coverage.GAP | Coverage.VENUE_DOWN:
                is_missing = start <= ts_ns and end > used["ts_event"][0]
            case Coverage.ENDED:
                is_missing = start <= ts_ns and event["seq"] > used["seq"][-1]
            case _:
                is_missing = False
        if is_missing:
            state = Coverage(int(event["state"])).name
            _refuse(instrument, ts_ns, f"changes may be missing: the ledger has {state} from {isoformat_ns(start)} on")


def _end(event: Any) -> int:
    # an end that shared memory has is not floored to µs yet, as the time of the snapshot at which it ended is
    end = int(event["ts_end"])
    return 2**63 - 1 if end == ABSENT else end - end % NS_PER_US


def _demand_same_feed(
    catalogue: Catalogue, instrument: Instrument, ledger: Records, later: Records, used: Records, ts_ns: int
) -> Plan[None]:
    """Plan: a feed that was killed says nothing. The one after it says since when it is in step (OBSERVED), or since
    when the book was lost (GAP), which is an estimate from what else the old one had sent. Whether the old feed still
    followed the book at that moment, a later change tells.
    """
    of_books = ledger[(ledger["stream"] == BOOK_ID) & (ledger["seq"] > used["seq"][-1])]
    is_lost = (of_books["state"] == Coverage.GAP) & (of_books["ts_start"] <= ts_ns)
    anew = of_books[is_lost | (of_books["state"] == Coverage.OBSERVED)]
    if not len(anew):
        return
    next_feed = anew[np.argmin(anew["seq"])]
    if len(later) and later["seq"][0] < next_feed["seq"]:
        return
    start, end = ts_ns + DISORDER_NS, _end(next_feed)
    if next_feed["ts_end"] == ABSENT:  # a GAP that ingest told of a feed that is gone: it begins with the last event
        end = int(next_feed["ts_start"]) + NS_PER_US
    between = None
    if start < end:
        between = yield from rows(catalogue, STREAM, instrument.name, start, end, 1)
    if between is None or not len(between):
        since = isoformat_ns(int(used["ts_event"][-1]))
        _refuse(instrument, ts_ns, f"nothing is known of it from {since} to {isoformat_ns(end)}")


def _refuse(instrument: Instrument, ts_ns: int, reason: str) -> NoReturn:
    raise NotStored(
        f"timestamp: the book of {instrument.name} at {isoformat_ns(ts_ns)} cannot be made again: {reason} "
        "(changes are stored with book.deltas = true, and as long as retention.book_deltas says)",
        field="timestamp",
    )
