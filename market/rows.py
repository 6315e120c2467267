"""Records to rows of PostgreSQL's binary COPY and back, in bulk: one packed row dtype a table.

A row's layout follows from the kind: `instrument_id integer`, then the dtype's fields in their order (bars:
`timeframe` next to the instrument; `candles_1s` has no timeframe), each NOT NULL. Times (`ts…`) are
`timestamptz`, µs since 2000-01-01; other fields are integer or floating types of the field's own width. An
absent time is `-infinity`; every other absent field is the dtype's minimum, stored as it is (views make it
NULL). So a decoded record equals the encoded one bit for bit.

A field of many values (the levels of a book) is a `bigint[]` of one dimension, from 1 on, without NULLs; all rows of a
stretch have equally many. The table of books may hold rows of other depths than `kind` has now (`book.depth` is a
setting): they are decoded at the depth of `kind`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.book_rows import refit
from marketd.market.errors import InvalidArgument, ProtocolError
from marketd.market.records import MAX_BOOK_DEPTH, Kind, Records, book_kind
from marketd.market.times import ABSENT, NS_PER_US

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER = _SIGNATURE + bytes(8)  # no flags, no extension
_TRAILER = b"\xff\xff"
_PG_EPOCH_US = 946_684_800_000_000  # 2000-01-01 in µs since 1970
_HAS_OIDS = 1 << 16

_BIGINT_OID = 20
_VALUE = np.dtype([("#", ">i4"), ("value", ">i8")])  # an element of a bigint[]: its length, and itself
_ARRAY_HEAD_BYTES = 20  # dimensions, has NULLs, type of the elements, their number, the first one's index
_ROWS_IN_CACHE = 2048
_ARRAY_COUNT = struct.Struct(">12xi")  # the number of elements, in such a head

INSTRUMENT_COLUMN = "instrument_id"
BOOK_TABLE = "book_snapshots"
ONE_SECOND_BARS = "candles_1s"
BAR_VERSIONS = "candle_versions"
_BAR_TABLES = ("candles", ONE_SECOND_BARS, BAR_VERSIONS)
_BAR_COLUMNS = (
    *("timeframe", "ts", "ts_known", "seq", "source", "open", "high", "low", "close"),
    *("volume", "quote_volume", "buy_volume", "trade_count", "flags"),
)


class _Column(NamedTuple):
    name: str
    big_endian: np.dtype[Any]
    is_time: bool
    elements: int = 0  # of an array, in each row; 0: the column is no array

    @property
    def bytes(self) -> int:
        """The length that COPY tells of the column."""
        return _ARRAY_HEAD_BYTES + self.elements * _VALUE.itemsize if self.elements else self.big_endian.itemsize


class TableCodec:
    """Rows of one table. `columns` are the table's columns in the order in which COPY bears them."""

    def __init__(self, table: str, kind: Kind) -> None:
        self.table = table
        self.kind = kind
        self._columns = tuple(_column(kind, name) for name in _fields(table, kind))
        self.columns: tuple[str, ...] = (INSTRUMENT_COLUMN, *(column.name for column in self._columns))
        self._arrays = tuple(column for column in self._columns if column.elements)
        self.times = frozenset(column.name for column in self._columns if column.is_time)
        self._row, self._constants = _row_layout(self._columns)
        template = np.zeros(1, dtype=self._row)
        for name, value in self._constants.items():
            template[name] = value
        for column in self._arrays:
            template[column.name]["#"] = _VALUE["value"].itemsize
        self._template = template.view(f"V{self._row.itemsize}")[0]

    @property
    def has_integers_alone(self) -> bool:
        """Beside times: no reals and no arrays."""
        return all(column.big_endian.kind == "i" and not column.elements for column in self._columns)

    def encode(self, instrument_ids: npt.NDArray[np.int32], records: Records) -> bytes:
        """A complete COPY stream; both arrays have shape (n,). Times must be whole microseconds."""
        # as opaque bytes the template costs a fiftieth of what assigning a structured scalar does
        rows = np.full(len(records), self._template).view(self._row)
        rows[INSTRUMENT_COLUMN] = instrument_ids
        for column in self._columns:
            values = records[column.name]
            if column.elements:
                rows[column.name]["value"] = values
            else:
                rows[column.name] = _to_postgres_us(values) if column.is_time else values
        return b"".join((_HEADER, rows.view(np.uint8).data, _TRAILER))

    def decode(self, data: bytes | bytearray | memoryview) -> tuple[npt.NDArray[np.int32], Records]:
        """(instrument ids, records), shape (n,) each. ProtocolError if these are no rows of this table."""
        rows = self._rows_of(memoryview(data).cast("B"))
        found = self._decoded(rows)
        if found is not None:
            return found
        if self.table != BOOK_TABLE:
            raise self._other_rows(rows)
        stretches = [self._of_depth(depth)._decode_stretch(part) for depth, part in self._stretches(rows)]
        ids = np.concatenate([ids for ids, _ in stretches])
        depth = self._arrays[0].elements
        return ids, np.concatenate([refit(records, depth) for _, records in stretches])

    def deepest(self, data: bytes | memoryview) -> TableCodec:
        """Of books: the codec that cuts off no level of any row of a COPY stream; of other tables this one."""
        rows = self._rows_of(memoryview(data).cast("B"))
        if self.table != BOOK_TABLE or not len(rows) or self._are_alike(rows):
            return self
        return self._of_depth(max(depth for depth, _ in self._stretches(rows)))

    def count(self, data: bytes | memoryview) -> int:
        """How many rows a COPY stream of this table has."""
        if self.table != BOOK_TABLE:
            return (len(data) - len(_HEADER) - len(_TRAILER)) // self._row.itemsize  # by its length alone
        rows = self._rows_of(memoryview(data).cast("B"))
        if self._are_alike(rows):
            return len(rows) // self._row.itemsize
        return sum(len(part) // self._of_depth(depth)._row.itemsize for depth, part in self._stretches(rows))

    def last_time(self, data: bytes | memoryview) -> int | None:
        """The venue's time of the last row of a COPY stream, ns; None when it has no row."""
        rows = self._rows_of(memoryview(data).cast("B"))
        if not len(rows):
            return None
        time = self.kind.time
        if not self._are_alike(rows):
            return int(self.decode(data)[1][time][-1])
        return int(from_postgres_us(np.frombuffer(rows, dtype=self._row)[-1:][time])[0])

    def time_bounds(self, data: bytes | memoryview) -> tuple[int, int] | None:
        """The oldest and the newest venue's time of a COPY stream, ns, whatever its order; None when it has no row."""
        rows = self._rows_of(memoryview(data).cast("B"))
        if not len(rows):
            return None
        time = self.kind.time
        if self.table == BOOK_TABLE:  # rows of many lengths, perhaps
            times = self.decode(data)[1][time]
        else:
            times = from_postgres_us(np.frombuffer(rows, dtype=self._row)[time])
        return int(times.min()), int(times.max())

    def parted(self, data: bytes, name: str, values: Sequence[int]) -> dict[int, bytes]:
        """A COPY stream as one for each of the `values` that an integer column may have in it."""
        if len(values) == 1:
            return {values[0]: data}
        rows = np.frombuffer(self._rows_of(memoryview(data)), dtype=self._row)
        return {value: b"".join((_HEADER, rows[rows[name] == value].tobytes(), _TRAILER)) for value in values}

    def _decoded(self, data: memoryview) -> tuple[npt.NDArray[np.int32], Records] | None:
        """Instrument ids and records of rows of this codec's layout; None when there are others among them."""
        if len(data) % self._row.itemsize:
            return None
        rows = np.frombuffer(data, dtype=self._row)
        ids = np.empty(len(rows), np.int32)
        records = np.zeros(len(rows), dtype=self.kind.dtype)
        if self.table == ONE_SECOND_BARS:
            records["timeframe"] = 1
        # some rows at a time: column after column would fetch every line of the cache as often as there are columns
        for start in range(0, len(rows), _ROWS_IN_CACHE):
            part = rows[start : start + _ROWS_IN_CACHE]
            if not self._keep_layout(part):
                return None
            self._decode_rows(part, records[start : start + _ROWS_IN_CACHE])
            ids[start : start + _ROWS_IN_CACHE] = part[INSTRUMENT_COLUMN]
        return ids, records

    def _decode_rows(self, rows: Records, records: Records) -> None:
        for column in self._columns:
            values = rows[column.name]["value"] if column.elements else rows[column.name]
            records[column.name] = from_postgres_us(values) if column.is_time else values

    def _decode_stretch(self, data: memoryview) -> tuple[npt.NDArray[np.int32], Records]:
        found = self._decoded(data)
        if found is None:
            raise self._other_rows(data)
        return found

    def _rows_of(self, data: memoryview) -> memoryview:
        """The rows alone: what stands between header and trailer."""
        start = self._rows_start(data)
        if start + len(_TRAILER) > len(data) or data[-len(_TRAILER) :] != _TRAILER:
            raise ProtocolError(f"{self.table}: {len(data)} bytes of COPY data do not end after a whole row")
        return data[start : -len(_TRAILER)]

    def _are_alike(self, data: memoryview) -> bool:
        """Have all rows this codec's layout? ProtocolError when they have not and could not have another."""
        if len(data) % self._row.itemsize == 0 and self._keep_layout(np.frombuffer(data, dtype=self._row)):
            return True
        if self.table == BOOK_TABLE:
            return False  # other depths, perhaps
        raise self._other_rows(data)

    def _other_rows(self, data: memoryview) -> ProtocolError:
        if len(data) % self._row.itemsize:
            return ProtocolError(f"{self.table}: {len(data)} bytes of COPY data are no number of whole rows")
        return ProtocolError(f"{self.table}: a row of COPY data has a NULL or other columns than {self.columns}")

    def _keep_layout(self, rows: Records) -> bool:
        return all((rows[name] == value).all() for name, value in self._constants.items()) and all(
            (rows[column.name]["#"] == _VALUE["value"].itemsize).all() for column in self._arrays
        )

    def _of_depth(self, depth: int) -> TableCodec:
        return codec(self.table, book_kind(depth))

    def _stretches(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Neighbouring rows of books of one depth, and that depth."""
        fixed = self._row.itemsize - len(self._arrays) * self._arrays[0].elements * _VALUE.itemsize
        first_head = self._row.fields[_head(self._arrays[0].name)][1]  # type: ignore[index]
        start = at = depth = 0
        while at < len(data):
            if at + fixed > len(data):
                raise ProtocolError(f"{self.table}: {len(data)} bytes of COPY data do not end after a whole row")
            (found,) = _ARRAY_COUNT.unpack_from(data, at + first_head)
            size = fixed + len(self._arrays) * found * _VALUE.itemsize
            if not 1 <= found <= MAX_BOOK_DEPTH or at + size > len(data):
                raise ProtocolError(f"{self.table}: a row of COPY data with {found} levels")
            if found != depth and start < at:
                yield depth, data[start:at]
                start = at
            depth = found
            at += size
        yield depth, data[start:]

    def _rows_start(self, data: memoryview) -> int:
        if len(data) < len(_HEADER) or data[: len(_SIGNATURE)] != _SIGNATURE:
            raise ProtocolError(f"{self.table}: this is no binary COPY data")
        flags = int.from_bytes(data[11:15], "big")
        if flags & _HAS_OIDS or flags >> 17:
            raise ProtocolError(f"{self.table}: COPY data with flags {flags:#x} cannot be read")
        return len(_HEADER) + int.from_bytes(data[15:19], "big")


_codecs: dict[tuple[str, str, np.dtype[Any]], TableCodec] = {}  # bounded by the tables and depths there are


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
    if dtype is None or dtype.base.kind not in "if" or dtype.base.itemsize == 1:
        raise InvalidArgument(f"kind {kind.name} has no fixed row layout: {name} is {dtype}", field="kind")
    if dtype.shape and (len(dtype.shape) > 1 or dtype.base != np.int64):
        raise InvalidArgument(f"kind {kind.name} has no fixed row layout: {name} is {dtype}", field="kind")
    # a declared field is a number whatever it is called (`tsla_close`); the stamps are the only times of a series
    is_time = name.startswith("ts") and name not in kind.fields
    return _Column(name, dtype.base.newbyteorder(">"), is_time, dtype.shape[0] if dtype.shape else 0)


def _row_layout(columns: tuple[_Column, ...]) -> tuple[np.dtype[Any], dict[str, Any]]:
    """The packed dtype of a row, and what COPY has at the same place of each: field count, lengths, heads of arrays."""
    layout: list[tuple[Any, ...]] = [("#", ">i2"), (f"#{INSTRUMENT_COLUMN}", ">i4"), (INSTRUMENT_COLUMN, ">i4")]
    constants: dict[str, Any] = {"#": len(columns) + 1, f"#{INSTRUMENT_COLUMN}": 4}
    for column in columns:
        layout.append((f"#{column.name}", ">i4"))
        constants[f"#{column.name}"] = column.bytes
        if column.elements:
            layout.append((_head(column.name), ">i4", (5,)))
            constants[_head(column.name)] = (1, 0, _BIGINT_OID, column.elements, 1)
            layout.append((column.name, _VALUE, (column.elements,)))
        else:
            layout.append((column.name, column.big_endian))
    return np.dtype(layout), constants


def _head(name: str) -> str:
    return f"[]{name}"


def _to_postgres_us(times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    times_us = times_ns // NS_PER_US
    times_us -= _PG_EPOCH_US
    absent = times_ns == ABSENT
    if absent.any():
        times_us[absent] = ABSENT  # PostgreSQL's -infinity
    return times_us


def from_postgres_us(times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Times as PostgreSQL has them, in ns since 1970; of -infinity ABSENT."""
    times_ns = times_us.astype(np.int64)
    absent = times_ns == ABSENT
    times_ns += _PG_EPOCH_US
    times_ns *= NS_PER_US
    if absent.any():
        times_ns[absent] = ABSENT
    return times_ns
