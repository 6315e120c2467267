"""A frame as bytes: what `Frame.to_bytes` writes and pickling uses.

    8 bytes   b"MDFRAME" and the version (1)
    8 bytes   length of the header, little-endian
    header    msgpack of `_Header`, padded with zeros to 8 bytes
    records   count * itemsize, padded to 8
    extras    each column in the header's order, padded to 8
    4 bytes   zlib's crc32 over all before

The layout of the records (dtype description) is in the header: a frame written by a version with another
layout of the kind is refused in plain words, never misread.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from marketd.client.books import OrderBookDataFrame, frame_of
from marketd.client.frames import Frame
from marketd.client.live_meta import LiveMeta
from marketd.ipc.protocol import Meta
from marketd.market.book_means import KIND_NAME as MEANS
from marketd.market.book_means import means_kind
from marketd.market.book_rows import depth_of
from marketd.market.errors import InvalidArgument, MarketdError
from marketd.market.instruments import Instrument
from marketd.market.records import BOOK_DEPTH, FIRST_SERIES_ID, Kind, KindTable, book_dtype, series_kind

_MAGIC = b"MDFRAME"
VERSION = 1
_ALIGN = 8
_EXTRA_DTYPES = "?bhilqfd"


class _Extra(msgspec.Struct, frozen=True, array_like=True):
    name: str
    dtype: str
    width: int = 0  # values of each row; 0: one, and no second dimension


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    kind_id: int
    layout: str  # numpy's description of the dtype
    count: int
    instrument: Instrument
    meta: Meta
    fields: dict[str, str] = {}  # of a declared series
    timeframe: int | None = None
    extras: list[_Extra] = []
    depth: int | None = None  # levels a side, of books


_decoder = msgspec.msgpack.Decoder(_Header)


def dump(frame: Frame) -> bytes:
    """See the module's docstring."""
    header = _Header(
        kind=frame.kind.name,
        kind_id=frame.kind.id,
        layout=str(frame.kind.dtype.descr),
        count=len(frame),
        instrument=frame.instrument,
        meta=frame.meta.plain() if isinstance(frame.meta, LiveMeta) else frame.meta,
        fields=dict(frame.kind.fields),
        timeframe=frame.timeframe,
        extras=[_extra(name, values) for name, values in frame.extras.items()],
        depth=depth_of(frame.records) if isinstance(frame, OrderBookDataFrame) else None,
    )
    text = msgspec.msgpack.encode(header)
    parts = [_MAGIC + bytes([VERSION]), len(text).to_bytes(8, "little"), text, _pad(len(text))]
    for values in (frame.records, *frame.extras.values()):
        data = values.tobytes()
        parts += [data, _pad(len(data))]
    body = b"".join(parts)
    return body + zlib.crc32(body).to_bytes(4, "little")


def _extra(name: str, values: Any) -> _Extra:
    return _Extra(name, values.dtype.char, values.shape[1] if values.ndim == 2 else 0)


def _pad(size: int) -> bytes:
    return bytes(-size % _ALIGN)


def load(data: bytes | bytearray | memoryview) -> Frame:
    """The frame in `data`; its arrays are a copy. InvalidArgument if it is none, damaged, or of another version."""
    view = memoryview(bytes(data))
    if view[:7] != _MAGIC or len(view) < 20:
        raise InvalidArgument("data: these bytes are no frame of marketd", field="data")
    if view[7] != VERSION:
        raise InvalidArgument(f"data: a frame of version {view[7]}; this marketd reads version {VERSION}", field="data")
    if zlib.crc32(view[:-4]) != int.from_bytes(view[-4:], "little"):
        raise InvalidArgument("data: the frame is damaged (its checksum does not fit)", field="data")
    try:
        return _load(view[8:-4])
    except (msgspec.MsgspecError, ValueError, TypeError, MarketdError) as error:
        raise InvalidArgument(f"data: the frame cannot be read: {error}", field="data") from error


def _load(view: memoryview) -> Frame:
    size = int.from_bytes(view[:8], "little")
    header = _decoder.decode(view[8 : 8 + size])
    kind = _kind(header)
    arrays = _arrays(view[8 + size + (-size % _ALIGN) :], header, kind)
    records = next(arrays)
    extras = {extra.name: values for extra, values in zip(header.extras, arrays, strict=True)}
    return frame_of(kind, header.instrument, records, header.meta, timeframe=header.timeframe, extras=extras)


def _kind(header: _Header) -> Kind:
    if header.kind_id >= FIRST_SERIES_ID:
        kind = series_kind(header.kind_id, header.kind, header.fields)
    elif header.kind == MEANS:
        kind = means_kind(header.depth or BOOK_DEPTH)
    else:
        kind = KindTable().by_name(header.kind)
        if header.kind == "book":  # of any depth: one that was made again may be deeper than any that is kept
            kind = kind._replace(dtype=book_dtype(header.depth or BOOK_DEPTH))
    if str(kind.dtype.descr) != header.layout:
        raise InvalidArgument(
            f"records of {header.kind} had another layout in the marketd that wrote it: {header.layout}"
        )
    return kind


def _arrays(view: memoryview, header: _Header, kind: Kind) -> Iterator[Any]:
    if not all(extra.dtype in _EXTRA_DTYPES for extra in header.extras):
        raise InvalidArgument("a further column has an unknown type")
    at = 0
    for dtype, width in ((kind.dtype, 0), *((np.dtype(extra.dtype), extra.width) for extra in header.extras)):
        count = header.count * (width or 1)
        size = count * dtype.itemsize
        values = np.frombuffer(view[at : at + size], dtype=dtype, count=count).copy()
        yield values.reshape(header.count, width) if width else values
        at += size + (-size % _ALIGN)
