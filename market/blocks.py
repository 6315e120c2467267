"""Packed blocks: many records of one instrument in few bytes, column by column; every bit comes back. Pure.

`pack` makes a block of records of any kind with integer and real fields (books, with their levels, too), best in the
order of time; `Block` reads it, all of it or some columns. A block describes itself:

    "MKTB"  version u8  3 zero bytes  CRC32 u32 of all that follows  length of the header u32  header  streams

The header is msgpack: the number of records, and of each column its name, type, levels, and how its streams are undone
(`block_columns`: which prediction; `block_streams`: which way). Little-endian. What a reader does not know is refused:
BlockDamaged.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.market import block_columns as columns
from marketd.market import block_streams as streams
from marketd.market.block_columns import NONE, PREDICTIONS, Column, Prediction
from marketd.market.block_streams import Ints, Meta
from marketd.market.book_rows import depth_of, refit
from marketd.market.errors import BlockDamaged, InvalidArgument
from marketd.market.records import Kind, Records
from marketd.market.zstd import ZstdError

_MAGIC = b"MKTB"
_VERSION, _VERSIONS = 2, (1, 2)  # that is written, that are read: in 1 planes were deflated
_FRAME = struct.Struct("<4sB3xII")
_CHECKED_FROM = 12  # the CRC is of everything from here on
_ROWS_IN_CACHE = 2048
_ALL = slice(None)
_FLAT, _PRICES, _SIZES, _PLACES, _MATRIX = range(5)  # the forms of a column
_BY_LEVEL, _BY_TIME = True, False  # which of a matrix' cells stand side by side
_decoder = msgspec.msgpack.Decoder(tuple[int, list[Any]])


class Choices:
    """How streams are told, by sample: found out for the first block that has something to tell of a stream, and kept
    for the others of a stretch, which are like it. Finding out takes several times as long as packing does.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], Any] = {}

    def get(self, name: str, what: str) -> Any:
        return self._made.get((name, what))

    def keep(self, name: str, what: str, choice: Any) -> None:
        self._made.setdefault((name, what), choice)


def pack(records: Records, choices: Choices | None = None) -> bytes:
    """A block of `records`, shape (n,), n > 0; `choices`: made for other blocks of the same stretch."""
    if not len(records):
        raise InvalidArgument("records: a packed block has at least one", field="records")
    packer = _Packer(records, choices or Choices())
    for name in records.dtype.names or ():
        packer.add(name)
    header = msgspec.msgpack.encode((len(records), packer.header))
    checked = b"".join((struct.pack("<I", len(header)), header, *packer.parts))
    return b"".join((_MAGIC, bytes((_VERSION, 0, 0, 0)), struct.pack("<I", zlib.crc32(checked)), checked))


class _Packer:
    def __init__(self, records: Records, choices: Choices) -> None:
        self._records = records
        self._choices = choices
        self._filled: dict[str, Ints] = {}
        self._masks: dict[str, npt.NDArray[np.bool_] | None] = {}
        self.header: list[Any] = []
        self.parts: list[bytes] = []

    def add(self, name: str) -> None:
        dtype = self._records.dtype[name]
        values = self.filled(name)
        mask = self._masks[name]
        levels = 0 if values.ndim == 1 else values.shape[1]
        mask_meta = None if mask is None else self._write(name, "mask", np.packbits(mask.reshape(-1)).astype(np.int64))
        if not levels:
            form, details = _FLAT, self._flat(name, values)
        elif (values == values[0, 0]).all():
            form, details = _MATRIX, [_BY_TIME, self._write(name, "cells", values.reshape(-1))]
        else:
            form, details = self._levels(name, values)
        self.header.append([name, dtype.base.str, levels, mask_meta, form, details])

    def filled(self, name: str) -> Ints:
        """A column as int64, without absent values between present ones."""
        if name not in self._filled:
            field = self._records[name]
            values = columns.as_ints(field)
            absent = field == np.iinfo(field.dtype).min if field.dtype.kind == "i" else np.zeros(values.shape, bool)
            is_mixed = bool(absent.any()) and not absent.all()
            self._masks[name] = absent if is_mixed else None
            if is_mixed:
                values = columns.filled(values.reshape(-1), absent.reshape(-1)).reshape(values.shape)
            self._filled[name] = values
        return self._filled[name]

    def _flat(self, name: str, values: Ints) -> list[Any]:
        best, power, left = NONE, 0, values
        if (values != values[0]).any():
            chosen = self._choices.get(name, "prediction")
            if chosen is None:
                best, power, left = self._predicted(name, values)
                self._choices.keep(name, "prediction", (best, power))
            else:
                best, power = chosen
                left = columns.remainder(best, values, columns.predicted(best, self._best, power))
        return [list(best), power, self._write(name, "flat", left)]

    def _predicted(self, name: str, values: Ints) -> tuple[Prediction, int, Ints]:
        """The prediction that leaves least to tell, its power of ten, and what it leaves."""
        known = self._records.dtype.names or ()
        best: tuple[Prediction, int, Ints] = (NONE, 0, values)
        size = streams.estimate(values)
        for prediction in PREDICTIONS.get(name, ()):
            if not set(prediction[1:]) <= set(known):
                continue
            power = columns.power_of(prediction, self._best, values)
            left = columns.remainder(prediction, values, columns.predicted(prediction, self._best, power))
            estimate = streams.estimate(left)
            if estimate < size:
                size, best = estimate, (prediction, power, left)
        return best

    def _best(self, name: str) -> Ints:
        return _first_level(self.filled(name))

    def _levels(self, name: str, values: Ints) -> tuple[int, list[Any]]:
        form, partner = _form_of(name, self._records.dtype.names or ())
        if form == _PRICES:
            return form, [*self._flat(name, _first_level(values)), *self._matrix(name, columns.gaps(values))]
        if form == _MATRIX:
            return form, self._matrix(name, values)
        order = _order(form, name, values.shape[1], self.filled(partner))
        return form, [partner, self._write(name, "cells", values.reshape(-1)[order])]

    def _matrix(self, name: str, values: Ints) -> list[Any]:
        """The cells side by side that are told more briefly."""
        if not values.size:
            return [_BY_TIME, None]
        order = self._choices.get(name, "order")
        if order is None:
            shorter = streams.estimate(_cells(values, _BY_LEVEL)) < streams.estimate(_cells(values, _BY_TIME))
            order = _BY_LEVEL if shorter else _BY_TIME
            self._choices.keep(name, "order", order)
        return [order, self._write(name, "cells", _cells(values, order))]

    def _write(self, name: str, what: str, values: Ints) -> Meta:
        encoded = streams.encode(values, self._choices.get(name, what))
        if encoded.meta[0] != streams.CONSTANT:
            self._choices.keep(name, what, encoded.meta[0])
        self.parts.append(encoded.data)
        return encoded.meta


class _ColumnHeader(NamedTuple):
    dtype: str
    levels: int
    mask: Meta | None
    form: int
    details: list[Any]
    start: int  # of its streams

    @property
    def streams(self) -> list[Meta]:
        """In the order in which they are written."""
        at = {_FLAT: (2,), _PRICES: (2, 4), _SIZES: (1,), _PLACES: (1,), _MATRIX: (1,)}[self.form]
        found = [self.mask, *(self.details[index] for index in at)]
        return [meta for meta in found if meta is not None]


class Block:
    """A block that is read. BlockDamaged when it cannot be: at once, or when a column is asked for."""

    def __init__(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            magic, version, crc, length = _FRAME.unpack_from(view)
        except struct.error:
            raise BlockDamaged(f"{len(view)} bytes are no packed block") from None
        if magic != _MAGIC or version not in _VERSIONS:
            raise BlockDamaged(
                f"a packed block begins with {magic!r}, version {version}: marketd reads up to {_VERSION}"
            )
        if zlib.crc32(view[_CHECKED_FROM:]) != crc:
            raise BlockDamaged(f"a packed block of {len(view)} bytes is damaged: its CRC does not agree")
        start = _FRAME.size + length
        self._data = view
        with _Reading("header"):
            self.count, listed = _decoder.decode(view[_FRAME.size : start])
            self._columns: dict[str, _ColumnHeader] = {}
            for name, dtype, levels, mask, form, details in listed:
                header = self._columns[name] = _ColumnHeader(dtype, levels, mask, form, details, start)
                start += sum(map(streams.bytes_of, header.streams))
        self._filled: dict[str, Ints] = {}
        self._masks: dict[str, npt.NDArray[np.bool_] | None] = {}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the records that were packed."""
        with _Reading("header"):
            return np.dtype(
                [(name, c.dtype, (c.levels,)) if c.levels else (name, c.dtype) for name, c in self._columns.items()]
            )

    def column(self, name: str) -> npt.NDArray[Any]:
        """One field of all records, shape (n,) or (n, levels)."""
        with _Reading(name):
            values = self._restored(name)
            header = self._columns[name]
            dtype = np.dtype(header.dtype)
            if dtype.kind == "f":
                return values.astype(f"<i{dtype.itemsize}").view(dtype)
            mask = self._masks[name]
            found = values if dtype == np.int64 and mask is None else values.astype(dtype)
            if mask is not None:
                found[mask] = np.iinfo(dtype).min
            return found

    def records(self, names: Iterable[str] | None = None, wanted: slice | npt.NDArray[np.bool_] = _ALL) -> Records:
        """The records, shape (n,), with all fields or those of `names`; those that are `wanted`."""
        dtype = self.dtype
        if names is not None:
            dtype = np.dtype([(name, dtype[name]) for name in names])
        count = len(range(*wanted.indices(self.count))) if isinstance(wanted, slice) else int(wanted.sum())
        records = np.empty(count, dtype)
        self.write(records, wanted)
        return records

    def write(self, into: Records, wanted: slice | npt.NDArray[np.bool_] = _ALL) -> None:
        """Put the records that are `wanted`, with the fields that `into` has, there; as many as it holds."""
        fields = [(into[name], self.column(name)[wanted]) for name in into.dtype.names or ()]
        # record by record as memory sees it: column after column would fetch every line of the cache as often
        for start in range(0, len(into), _ROWS_IN_CACHE):
            rows = slice(start, start + _ROWS_IN_CACHE)
            for field, values in fields:
                field[rows] = values[rows]

    def _restored(self, name: str) -> Ints:
        if name not in self._filled:
            header = self._columns[name]
            take = _Taker(self._data, header.start).take
            self._masks[name] = None
            if header.mask is not None:
                cells = self.count * max(1, header.levels)
                bits = streams.decode(header.mask, -(-cells // 8), take).astype(np.uint8)
                mask = np.unpackbits(bits, count=cells).astype(bool)
                self._masks[name] = mask.reshape(-1, header.levels) if header.levels else mask
            self._filled[name] = self._read(name, header, take)
        return self._filled[name]

    def _read(self, name: str, header: _ColumnHeader, take: streams.Take) -> Ints:
        details = header.details
        if header.form == _FLAT:
            return self._read_flat(details, take)
        if header.form == _PRICES:
            best = self._read_flat(details, take)
            return columns.from_gaps(best, self._read_matrix(details[3:], header.levels - 1, take))
        if header.form == _MATRIX:
            return self._read_matrix(details, header.levels, take)
        partner, meta = details
        cells = np.empty(self.count * header.levels, np.int64)
        order = _order(header.form, name, header.levels, self._restored(partner))
        cells[order] = streams.decode(meta, len(cells), take)
        return cells.reshape(-1, header.levels)

    def _read_flat(self, details: list[Any], take: streams.Take) -> Ints:
        prediction: Prediction = tuple(details[0])
        said = columns.predicted(prediction, self._best, details[1])
        return columns.restored(prediction, streams.decode(details[2], self.count, take), said)

    def _best(self, name: str) -> Ints:
        return _first_level(self._restored(name))

    def _read_matrix(self, details: list[Any], width: int, take: streams.Take) -> Ints:
        order, meta = details
        if meta is None:
            return np.empty((self.count, 0), np.int64)
        cells = streams.decode(meta, self.count * width, take)
        return cells.reshape(width, -1).T if order == _BY_LEVEL else cells.reshape(-1, width)


class _Taker:
    def __init__(self, data: memoryview, at: int) -> None:
        self._data, self._at = data, at

    def take(self, count: int) -> memoryview:
        self._at += count
        return self._data[self._at - count : self._at]


class _Reading:
    """What goes wrong inside is a damaged block. With the CRC right that takes a foreign hand, or a bug."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(
            error,
            (
                ArithmeticError,
                RecursionError,
                LookupError,
                TypeError,
                ValueError,
                zlib.error,
                ZstdError,
                msgspec.MsgspecError,
            ),
        ):
            if isinstance(error, BlockDamaged):
                return
            raise BlockDamaged(f"a packed block cannot be read: {self._what}: {error!r}") from error


def unpacked(block: Block, kind: Kind, wanted: slice | npt.NDArray[np.bool_] = _ALL) -> Records:
    """What is in a block, or is `wanted` of it, in the layout of `kind`: books at its depth, later fields absent."""
    return refitted(block.records(wanted=wanted), kind)


def refitted(records: Records, kind: Kind) -> Records:
    """Records as they were packed in the layout of `kind`."""
    return records if records.dtype == kind.dtype else refit(records, depth_of(np.empty(0, kind.dtype)))


def _cells(values: Ints, order: bool) -> Ints:
    return np.ascontiguousarray(values.T).reshape(-1) if order == _BY_LEVEL else values.reshape(-1)


def _first_level(values: Ints) -> Ints:
    return values if values.ndim == 1 else np.ascontiguousarray(values[:, 0])


def _form_of(name: str, names: Iterable[str]) -> tuple[int, str]:
    """How levels are told, and by which other column's help."""
    side, _, what = name.partition("_")
    if what == "price":
        return _PRICES, ""
    if what == "size" and f"{side}_price" in names:
        return _SIZES, f"{side}_price"
    if what == "size" and "base" in names:
        return _PLACES, "base"
    return _MATRIX, ""


def _order(form: int, name: str, levels: int, partner: Ints) -> npt.NDArray[np.intp]:
    if form == _SIZES:
        return columns.order_of(partner)
    return columns.order_of(columns.bucket_places(partner, levels, name.partition("_")[0]))


__all__ = ["Block", "BlockDamaged", "Choices", "Column", "pack", "refitted", "unpacked"]
