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
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.errors import ConfigError, UnknownStream
from marketd.market.times import ABSENT

Records = npt.NDArray[Any]  # a one-dimensional structured array of one kind

_STAMP = [("ts_event", "<i8"), ("ts_known", "<i8"), ("seq", "<i8")]

TRADE = np.dtype([*_STAMP, ("trade_id", "<i8"), ("price", "<i8"), ("size", "<i8"), ("side", "<i4"), ("flags", "<i4")])
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
TICK = np.dtype(_STAMP)
INSTRUMENT = np.dtype(
    [
        *_STAMP,
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
        *_STAMP,
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
    ENDED = 8  # the source ended (an import's last file): forming bars were closed as they stood


class InstrumentFlag(IntFlag):
    REMOVED = 1


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

    @property
    def declared(self) -> bool:
        return self.id >= FIRST_SERIES_ID


_OHLC = {"open": "price", "high": "price", "low": "price", "close": "price"}

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
        {**_OHLC, "volume": "size", "quote_volume": "quote", "buy_volume": "size"},
    ),
    Kind(6, "tick", TICK, None, False, "ts_event", ("seq",), {}),
    Kind(7, "instrument", INSTRUMENT, "instruments", False, "ts_event", ("instrument",), {}),
    Kind(8, "coverage", COVERAGE, "coverage", True, "ts_event", ("seq",), {}),
    Kind(16, "producer", PRODUCER, None, False, "batch", ("producer", "batch"), {}),
    Kind(17, "quarantine", BYTES, "quarantine", False, "", (), {}),
)
FIRST_SERIES_ID = 64
BY_NAME: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in KINDS})
BY_ID: Mapping[int, Kind] = MappingProxyType({kind.id: kind for kind in KINDS})

SERIES_TYPES = {"f8": "<f8", "i8": "<i8", "price": "<i8", "size": "<i8"}
MAX_FIELD_NAME = 40


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
        if field in dict(_STAMP) or field == "instrument_id" or not _is_name(field):
            raise ConfigError(f"{path}: not a name for a field", field=path)
        if type_name not in SERIES_TYPES:
            raise ConfigError(f"{path}: {type_name!r} is none of {', '.join(SERIES_TYPES)}", field=path)
    dtype = np.dtype([*_STAMP, *((field, SERIES_TYPES[type_name]) for field, type_name in fields.items())])
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


def _is_name(name: str) -> bool:
    return name.isidentifier() and name.islower() and name.isascii() and len(name) <= MAX_FIELD_NAME


class KindTable:
    """The built-in kinds and the declared series of one daemon, by name and by id."""

    def __init__(self, series: Iterable[Kind] = ()) -> None:
        self._by_id = dict(BY_ID)
        self._by_name = dict(BY_NAME)
        for kind in series:
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
        base = kind.dtype[name]
        if base.kind == "i":
            records[name] = np.iinfo(base).min
        elif base.kind == "f":
            records[name] = np.nan
    return records


__all__ = [
    "ABSENT",
    "BYTES",
    "BY_ID",
    "BY_NAME",
    "CANDLE",
    "COVERAGE",
    "FIRST_SERIES_ID",
    "INSTRUMENT",
    "KINDS",
    "PRODUCER",
    "SERIES_TYPES",
    "TICK",
    "TRADE",
    "CandleFlag",
    "Coverage",
    "InstrumentFlag",
    "Kind",
    "KindTable",
    "Records",
    "Side",
    "Source",
    "TradeFlag",
    "empty",
    "series_kind",
]
