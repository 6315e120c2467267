"""Records to rows of PostgreSQL's binary COPY and back, in bulk: one packed row dtype a table.

A row's layout follows from the kind: `instrument_id integer`, then the dtype's fields in their order (bars:
`timeframe` next to the instrument; `candles_1s` has no timeframe), each NOT NULL. Times (`ts…`) are
`timestamptz`, µs since 2000-01-01; other fields are integer or floating types of the field's own width. An
absent time is `-infinity`; every other absent field is the dtype's minimum, stored as it is (views make it
NULL). So a decoded record equals the encoded one bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.errors import InvalidArgument, ProtocolError
from marketd.market.records import Kind, Records
from marketd.market.times import ABSENT, NS_PER_US

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER = _SIGNATURE + bytes(8)  # no flags, no extension
_TRAILER = b"\xff\xff"
_PG_EPOCH_US = 946_684_800_000_000  # 2000-01-01 in µs since 1970
_HAS_OIDS = 1 << 16

INSTRUMENT_COLUMN = "instrument_id"
ONE_SECOND_BARS = "candles_1s"
_BAR_TABLES = ("candles", ONE_SECOND_BARS, "candle_versions")
_BAR_COLUMNS = (
    *("timeframe", "ts", "ts_known", "seq", "source", "open", "high", "low", "close"),
    *("volume", "quote_volume", "buy_volume", "trade_count", "flags"),
)


class _Column(NamedTuple):
    name: str
    big_endian: np.dtype[Any]
    is_time: bool


class TableCodec:
    """Rows of one table. `columns` are the table's columns in the order in which COPY bears them."""

    def __init__(self, table: str, kind: Kind) -> None:
        self.table = table
        self.kind = kind
        self._columns = tuple(_column(kind, name) for name in _fields(table, kind))
        self.columns: tuple[str, ...] = (INSTRUMENT_COLUMN, *(column.name for column in self._columns))
        self._row, self._constants = _row_layout(self._columns)
        template = np.zeros(1, dtype=self._row)
        for name, value in self._constants.items():
            template[name] = value
        self._template = template.view(f"V{self._row.itemsize}")[0]

    def encode(self, instrument_ids: npt.NDArray[np.int32], records: Records) -> bytes:
        """A complete COPY stream; both arrays have shape (n,). Times must be whole microseconds."""
        # as opaque bytes the template costs a fiftieth of what assigning a structured scalar does
        rows = np.full(len(records), self._template).view(self._row)
        rows[INSTRUMENT_COLUMN] = instrument_ids
        for column in self._columns:
            values = records[column.name]
            rows[column.name] = _to_postgres_us(values) if column.is_time else values
        return b"".join((_HEADER, rows.view(np.uint8).data, _TRAILER))

    def decode(self, data: bytes | bytearray | memoryview) -> tuple[npt.NDArray[np.int32], Records]:
        """(instrument ids, records), shape (n,) each. ProtocolError if these are no rows of this table."""
        rows = self._view_rows(memoryview(data).cast("B"))
        records = np.zeros(len(rows), dtype=self.kind.dtype)
        for column in self._columns:
            values = rows[column.name]
            records[column.name] = _from_postgres_us(values) if column.is_time else values
        if self.table == ONE_SECOND_BARS:
            records["timeframe"] = 1
        return rows[INSTRUMENT_COLUMN].astype(np.int32), records

    def count(self, data: bytes | memoryview) -> int:
        """How many rows a COPY stream of this table has, by its length alone."""
        return (len(data) - len(_HEADER) - len(_TRAILER)) // self._row.itemsize

    def _view_rows(self, data: memoryview) -> Records:
        start = self._rows_start(data)
        size = len(data) - start - len(_TRAILER)
        if size < 0 or size % self._row.itemsize or data[-len(_TRAILER) :] != _TRAILER:
            raise ProtocolError(f"{self.table}: {len(data)} bytes of COPY data do not end after a whole row")
        rows = np.frombuffer(data[start : start + size], dtype=self._row)
        for name, value in self._constants.items():
            if not (rows[name] == value).all():
                raise ProtocolError(f"{self.table}: a row of COPY data has a NULL or other columns than {self.columns}")
        return rows

    def _rows_start(self, data: memoryview) -> int:
        if len(data) < len(_HEADER) or data[: len(_SIGNATURE)] != _SIGNATURE:
            raise ProtocolError(f"{self.table}: this is no binary COPY data")
        flags = int.from_bytes(data[11:15], "big")
        if flags & _HAS_OIDS or flags >> 17:
            raise ProtocolError(f"{self.table}: COPY data with flags {flags:#x} cannot be read")
        return len(_HEADER) + int.from_bytes(data[15:19], "big")


_codecs: dict[tuple[str, str, np.dtype[Any]], TableCodec] = {}  # bounded by the tables there are


def codec(table: str, kind: Kind) -> TableCodec:
    """The codec of a table for records of `kind`, made once. InvalidArgument if it has no fixed layout."""
    key = (table, kind.name, kind.dtype)
    found = _codecs.get(key)
    if found is None:
        found = _codecs[key] = TableCodec(table, kind)
    return found


def _fields(table: str, kind: Kind) -> tuple[str, ...]:
    if table in _BAR_TABLES:
        return _BAR_COLUMNS[1:] if table == ONE_SECOND_BARS else _BAR_COLUMNS
    return tuple(kind.dtype.names or ())


def _column(kind: Kind, name: str) -> _Column:
    dtype = kind.dtype.fields[name][0] if kind.dtype.fields and name in kind.dtype.fields else None
    if dtype is None or dtype.kind not in "if" or dtype.itemsize == 1:
        raise InvalidArgument(f"kind {kind.name} has no fixed row layout: {name} is {dtype}", field="kind")
    # a declared field is a number whatever it is called (`tsla_close`); the stamps are the only times of a series
    return _Column(name, dtype.newbyteorder(">"), name.startswith("ts") and name not in kind.fields)


def _row_layout(columns: tuple[_Column, ...]) -> tuple[np.dtype[Any], dict[str, int]]:
    """The packed dtype of a row, and what COPY has at the same place of each: the field count and lengths."""
    layout: list[tuple[str, Any]] = [("#", ">i2")]
    constants = {"#": len(columns) + 1}
    for name, dtype in ((INSTRUMENT_COLUMN, np.dtype(">i4")), *((c.name, c.big_endian) for c in columns)):
        layout += [(f"#{name}", ">i4"), (name, dtype)]
        constants[f"#{name}"] = dtype.itemsize
    return np.dtype(layout), constants


def _to_postgres_us(times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    times_us = times_ns // NS_PER_US
    times_us -= _PG_EPOCH_US
    absent = times_ns == ABSENT
    if absent.any():
        times_us[absent] = ABSENT  # PostgreSQL's -infinity
    return times_us


def _from_postgres_us(times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    times_ns = times_us.astype(np.int64)
    absent = times_ns == ABSENT
    times_ns += _PG_EPOCH_US
    times_ns *= NS_PER_US
    if absent.any():
        times_ns[absent] = ABSENT
    return times_ns
