"""The table of kinds: one layout from socket to disk.

A record is a row of a numpy structured dtype, little-endian, every field a multiple of its own
size from the start, no hidden padding: used unchanged in messages, journal and arena. A new kind is
a row in `KINDS` (or, declared by a user, a `[streams.…]` table in the config that `series_kind` turns
into one).

Times are int64 ns UTC, floored to whole microseconds. Prices and sizes are int64 fixed-point numbers
at the instrument's `price_scale` and `size_scale`; `quote_volume` is at `quote_scale`. An absent field is
the dtype's minimum (`ABSENT`).

Fields that every kind has:

    ts_event (or ts)   the venue's time (a bar: its open time)
    ts_known           the moment ingest accepted the record; one value for a batch
    seq                +1 for each record of an instrument, whatever its kind; "latest" is the greatest
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.errors import ConfigError, UnknownStream
from marketd.market.layouts import (
    ACTIVITY_BAR,
    BOOK,
    BOOK_DELTA,
    BOOK_DEPTH,
    BOOK_VENUES,
    BUCKETS,
    BUCKETS_A_SIDE,
    BYTES,
    CANDLE,
    COVERAGE,
    IMBALANCE,
    INSTRUMENT,
    PRODUCER,
    STAMP,
    TICK,
    TRADE,
    WINDOWS_SECONDS,
    ActivityFlag,
    BookDeltaFlag,
    BookFlag,
    BookState,
    CandleFlag,
    Coverage,
    Ended,
    ImbalanceReason,
    InstrumentFlag,
    Measure,
    Side,
    Source,
    TradeFlag,
    book_dtype,
)
from marketd.market.times import ABSENT

Records = npt.NDArray[Any]  # a one-dimensional structured array of one kind


class Kind(NamedTuple):
    """One row of the table of kinds."""

    id: int  # on disk and on the wire
    name: str
    dtype: np.dtype[Any]
    table: str | None  # its table in the database; None: not stored there
    ring: bool  # has a ring in the arena
    time: str  # the field with the venue's time
    key: tuple[str, ...]  # what makes a record one and the same in its instrument
    scales: Mapping[str, str]  # field -> "price" | "size" | "quote"
    fields: Mapping[str, str] = MappingProxyType({})  # a declared series: field -> declared type
    is_global: bool = False  # a declared series that belongs to no instrument

    @property
    def declared(self) -> bool:
        return self.id >= FIRST_SERIES_ID


_OHLC = {"open": "price", "high": "price", "low": "price", "close": "price"}
_VOLUMES = {"volume": "size", "quote_volume": "quote", "buy_volume": "size"}
_SIZES = {"bid_size": "size", "ask_size": "size"}
_LEVELS = {"bid_price": "price", "ask_price": "price", **_SIZES}

KINDS: tuple[Kind, ...] = (
    Kind(1, "trade", TRADE, "trades", True, "ts_event", ("trade_id",), {"price": "price", "size": "size"}),
    Kind(
        2,
        "candle",
        CANDLE,
        "candles",
        True,
        "ts",
        ("timeframe", "ts", "source"),
        {**_OHLC, **_VOLUMES},
    ),
    Kind(3, "book", BOOK, "book_snapshots", True, "ts_event", ("seq",), _LEVELS),
    Kind(4, "buckets", BUCKETS, "book_buckets", True, "ts", ("timeframe", "ts"), {"width": "price", **_SIZES}),
    Kind(
        5,
        "imbalance",
        IMBALANCE,
        "imbalances",
        True,
        "ts_event",
        ("ts_event",),
        {"mid2": "price", "spread": "price", **_SIZES, "best_bid_size": "size", "best_ask_size": "size"},
    ),
    Kind(6, "tick", TICK, None, False, "ts_event", ("seq",), {}),
    Kind(7, "instrument", INSTRUMENT, "instruments", False, "ts_event", ("instrument",), {}),
    Kind(8, "coverage", COVERAGE, "coverage", True, "ts_event", ("seq",), {}),
    Kind(9, "book_delta", BOOK_DELTA, "book_deltas", True, "ts_event", ("seq",), {"price": "price", "size": "size"}),
    Kind(10, "book_venues", BOOK_VENUES, "book_venues", True, "ts_event", ("seq",), {}),
    # the scale of its threshold depends on its measure: `activity_specs.real_thresholds`
    Kind(11, "activity_bar", ACTIVITY_BAR, "activity_bars", True, "ts_event", ("seq",), {**_OHLC, **_VOLUMES}),
    Kind(16, "producer", PRODUCER, None, False, "batch", ("producer", "batch"), {}),
    Kind(17, "quarantine", BYTES, "quarantine", False, "", (), {}),
)
FIRST_SERIES_ID = 64
BY_NAME: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in KINDS})
BY_ID: Mapping[int, Kind] = MappingProxyType({kind.id: kind for kind in KINDS})

SERIES_TYPES = {"f8": "<f8", "i8": "<i8", "price": "<i8", "size": "<i8"}
MAX_FIELD_NAME = 40
MAX_BOOK_DEPTH = 1_000  # a record of 32 kB; a frame's section tells its records' size in 16 bits


def series_kind(kind_id: int, name: str, fields: Mapping[str, str]) -> Kind:
    """The kind of a user-declared stream: `fields` maps a name to one of `SERIES_TYPES`.

    Raises ConfigError naming the field.
    """
    where = f"streams.{name}"
    if name in BY_NAME or not _is_name(name):
        raise ConfigError(
            f"{where}: a stream's name is lower-case letters, digits and _, and no built-in kind", field=where
        )
    if not fields:
        raise ConfigError(f"{where}.fields: a stream needs at least one field", field=f"{where}.fields")
    for field, type_name in fields.items():
        path = f"{where}.fields.{field}"
        if field in dict(STAMP) or field == "instrument_id" or not _is_name(field):
            raise ConfigError(f"{path}: not a name for a field", field=path)
        if type_name not in SERIES_TYPES:
            raise ConfigError(f"{path}: {type_name!r} is none of {', '.join(SERIES_TYPES)}", field=path)
    dtype = np.dtype([*STAMP, *((field, SERIES_TYPES[type_name]) for field, type_name in fields.items())])
    scales = {field: type_name for field, type_name in fields.items() if type_name in ("price", "size")}
    return Kind(
        kind_id,
        name,
        dtype,
        f"series_{name}",
        True,
        "ts_event",
        ("seq",),
        scales,
        MappingProxyType(dict(fields)),
    )


def book_kind(depth: int) -> Kind:
    """The kind of BOOK records with `depth` levels a side."""
    if not 1 <= depth <= MAX_BOOK_DEPTH:
        raise ConfigError(f"book.depth: {depth} levels; it is 1 to {MAX_BOOK_DEPTH}", field="book.depth")
    return BY_NAME["book"]._replace(dtype=book_dtype(depth))


def _is_name(name: str) -> bool:
    return name.isidentifier() and name.islower() and name.isascii() and len(name) <= MAX_FIELD_NAME


class KindTable:
    """The built-in kinds and the declared series of one daemon, by name and by id.

    BOOK records have `book_depth` levels a side; ConfigError unless it is 1 to `MAX_BOOK_DEPTH`.
    """

    def __init__(self, series: Iterable[Kind] = (), book_depth: int = BOOK_DEPTH) -> None:
        self._by_id = dict(BY_ID)
        self._by_name = dict(BY_NAME)
        book = [] if book_depth == BOOK_DEPTH else [book_kind(book_depth)]
        for kind in (*book, *series):
            self._by_id[kind.id] = kind
            self._by_name[kind.name] = kind

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._by_id.values())

    def __contains__(self, kind_id: int) -> bool:
        return kind_id in self._by_id

    @property
    def series(self) -> list[Kind]:
        return [kind for kind in self._by_id.values() if kind.declared]

    def by_id(self, kind_id: int) -> Kind:
        try:
            return self._by_id[kind_id]
        except KeyError:
            raise UnknownStream(f"no kind has the number {kind_id}", field="kind") from None

    def by_name(self, name: str) -> Kind:
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(sorted(self._by_name))
            raise UnknownStream(
                f"no kind or declared stream is called {name!r}; there are: {known}", field="kind"
            ) from None


def empty(kind: Kind, count: int) -> Records:
    """`count` records of a kind with every field absent (integers at their minimum, reals NaN)."""
    records = np.zeros(count, dtype=kind.dtype)
    for name in kind.dtype.names or ():
        base = kind.dtype[name].base
        if base.kind == "i":
            records[name] = np.iinfo(base).min
        elif base.kind == "f":
            records[name] = np.nan
    return records


def newest_of(records: Records, field: str) -> int:
    """The greatest of a field of at least one record; numpy's own way costs 3 µs, and there is nearly always one."""
    column = records[field]
    return int(column[0]) if len(column) == 1 else int(column.max())


__all__ = [
    "ABSENT",
    "ACTIVITY_BAR",
    "BOOK",
    "BOOK_DELTA",
    "BOOK_DEPTH",
    "BOOK_VENUES",
    "BUCKETS",
    "BUCKETS_A_SIDE",
    "BYTES",
    "BY_ID",
    "BY_NAME",
    "CANDLE",
    "COVERAGE",
    "FIRST_SERIES_ID",
    "IMBALANCE",
    "INSTRUMENT",
    "KINDS",
    "MAX_BOOK_DEPTH",
    "PRODUCER",
    "SERIES_TYPES",
    "TICK",
    "TRADE",
    "WINDOWS_SECONDS",
    "ActivityFlag",
    "BookDeltaFlag",
    "BookFlag",
    "BookState",
    "CandleFlag",
    "Coverage",
    "Ended",
    "ImbalanceReason",
    "InstrumentFlag",
    "Kind",
    "KindTable",
    "Measure",
    "Records",
    "Side",
    "Source",
    "TradeFlag",
    "book_dtype",
    "book_kind",
    "empty",
    "newest_of",
    "series_kind",
]
