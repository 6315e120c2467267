"""Plans about order books: snapshots, one an interval, and books with the imbalances that were known beside them."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from marketd.client.arguments import check_count, past_ns
from marketd.client.book_columns import ratios
from marketd.client.book_venues import STREAM, is_consolidated, with_venues
from marketd.client.books import OrderBookDataFrame, cut_depth, frame_of
from marketd.client.calls import Plan
from marketd.client.catalogue import Catalogue
from marketd.client.columns import Column
from marketd.client.frames import Frame
from marketd.client.requests import rows
from marketd.market.errors import InvalidArgument
from marketd.market.records import WINDOWS_SECONDS, Records
from marketd.market.times import NS_PER_SECOND, NS_PER_US, parse_timeframe, type_time

Aggregation = Literal["raw", "1s", "1m"]
RATIOS = tuple(f"{form}_{seconds}s" for form in ("book", "volume") for seconds in WINDOWS_SECONDS)
FRESH_NS = 2 * NS_PER_SECOND  # there is an imbalance each second; an older one says nothing of a book


def seconds_of(aggregation: str) -> int | None:
    """The interval in seconds; None for snapshots as they came."""
    if aggregation not in get_args(Aggregation):
        choices = ", ".join(get_args(Aggregation))
        raise InvalidArgument(f"aggregation: {aggregation!r} is none of {choices}", field="aggregation")
    return None if aggregation == "raw" else parse_timeframe(aggregation)


def books(
    catalogue: Catalogue,
    symbol: str,
    start: type_time = None,
    end: type_time = None,
    limit: int | None = None,
    depth: int | None = None,
    timeframe: int | None = None,
    known_at: int | None = None,
) -> Plan[OrderBookDataFrame]:
    """Plan: snapshots, or the last LIVE one of each interval of `timeframe` s, cut to `depth` levels."""
    found = yield from rows(catalogue, "book", symbol, start, end, limit, timeframe=timeframe, known_at=known_at)
    if timeframe is None and is_consolidated(found.instrument):
        assert isinstance(found, OrderBookDataFrame)
        venues = yield from rows(catalogue, STREAM, symbol, start, end, limit, known_at=known_at)
        found = with_venues(found, venues.records)
    return cut_depth(found, depth)


def books_with_imbalances(
    catalogue: Catalogue,
    symbol: str,
    timestamp: type_time,
    aggregation: str,
    limit: int,
    depth: int | None,
) -> Plan[OrderBookDataFrame]:
    """Plan: the newest `limit` books as they were known at `timestamp` (None: now), with `RATIOS` as columns."""
    timeframe = seconds_of(aggregation)
    known_at = None if timestamp is None else past_ns(timestamp)
    found = yield from books(catalogue, symbol, None, None, check_count(limit), depth, timeframe, known_at)
    if not len(found):
        return with_ratios(found, np.zeros(0, dtype=(yield from catalogue.kind("imbalance")).dtype))
    start, end = stretch_of(found)
    beside = yield from rows(catalogue, "imbalance", symbol, start, end, known_at=known_at)
    return with_ratios(found, beside.records)


def stretch_of(found: Frame) -> tuple[int, int]:
    """[start, end) in ns of the imbalances that belong to these books, oldest first."""
    times, step = found["time"], (found.timeframe or 0) * NS_PER_SECOND
    before = 0 if step else FRESH_NS
    return int(times[0]) + step - before, int(times[-1]) + step + NS_PER_US


def with_ratios(found: OrderBookDataFrame, imbalances: Records) -> OrderBookDataFrame:
    """The books with the ratios of the imbalance that belongs to each as further columns, NaN where there is none.

    To a snapshot belongs the newest that was known before it, to an interval that of its end.
    """
    place, known = _by_interval(found, imbalances) if found.timeframe else _by_knowledge(found, imbalances)
    extras: dict[str, Column] = dict(found.extras)
    for name in RATIOS:
        values = np.full(len(found), np.nan)
        values[known] = ratios(imbalances[name][place[known]])
        extras[name] = values
    made: Any = frame_of(
        found.kind, found.instrument, found.records, found.meta, timeframe=found.timeframe, extras=extras
    )
    assert isinstance(made, OrderBookDataFrame)
    return made


_Match = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]


def _by_knowledge(found: Frame, imbalances: Records) -> _Match:
    order = np.argsort(imbalances["seq"], kind="stable")
    place = np.searchsorted(imbalances["seq"][order], found.records["seq"]) - 1
    known = place >= 0
    place = order[np.maximum(place, 0)] if len(order) else np.zeros(len(found), dtype=np.int64)
    if len(order):
        known &= found["time"] - imbalances["ts_event"][place] <= FRESH_NS
    return place, known


def _by_interval(found: Frame, imbalances: Records) -> _Match:
    ends = found["time"] + (found.timeframe or 0) * NS_PER_SECOND
    order = np.argsort(imbalances["ts_event"], kind="stable")
    if not len(order):
        return np.zeros(len(found), dtype=np.int64), np.zeros(len(found), dtype=bool)
    times = imbalances["ts_event"][order]
    place = np.minimum(np.searchsorted(times, ends), len(order) - 1)
    return order[place], times[place] == ends
