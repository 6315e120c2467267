"""The arena's header: the part of a file that never changes, written down and read back.

Pure: bytes in, layout out. A reader takes the layout from here and from nowhere else, so that it reads arenas
of declared series, capacities and rings that it was never told of; whatever cannot be true is refused, since
what a header claims decides which memory is touched.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from marketd.ipc import arena_words as word
from marketd.ipc.arena import (
    ARRAY_OF,
    PAGE,
    VERSION,
    ArenaState,
    ArenaUnreadable,
    Identity,
    Layout,
    Ring,
    describe,
    head_offset,
)
from marketd.market.errors import InvalidArgument
from marketd.market.records import CANDLE
from marketd.market.times import ABSENT

_STATIC = struct.Struct("<14q16s32s64s")
_RING = struct.Struct("<48s10q")


def encode_static(layout: Layout, identity: Identity) -> bytes:
    """What never changes in a file's life: its bytes from STATIC_OFFSET on. Equal bytes, equal arenas."""
    texts = [describe(ring.dtype) for ring in layout.rings]
    text_at = word.RING_TABLE_OFFSET + len(texts) * word.RING_ENTRY_BYTES
    fixed = _STATIC.pack(
        layout.file_bytes,
        text_at + sum(map(len, texts)),
        len(texts),
        word.RING_TABLE_OFFSET,
        word.RING_ENTRY_BYTES,
        layout.descriptors,
        layout.stride,
        word.DESCRIPTORS,
        layout.open_offset,
        layout.open_slots,
        identity.instrument_id,
        identity.price_scale,
        identity.size_scale,
        identity.quote_scale,
        identity.journal,
        _text(identity.instance, 32),
        _text(identity.instrument, 64),
    )
    table = b""
    for ring, text in zip(layout.rings, texts, strict=True):
        table += _encode_ring(ring, text_at, len(text))
        text_at += len(text)
    return fixed.ljust(word.RING_TABLE_OFFSET - word.STATIC_OFFSET, b"\0") + table + b"".join(texts)


def _encode_ring(ring: Ring, text_at: int, text_bytes: int) -> bytes:
    return _RING.pack(
        _text(ring.name, word.NAME_BYTES),
        ring.kind_id,
        ring.itemsize,
        ring.slots,
        ring.capacity,
        ring.offset,
        ring.images_offset,
        ring.live * word.BYTES,
        text_at,
        text_bytes,
        0,
    )


def first_bytes(layout: Layout, identity: Identity) -> bytes:
    """A new file up to the end of descriptor 0, which publishes empty rings as number 0; the rest is 0."""
    data = bytearray(layout.descriptors + layout.stride)
    static = encode_static(layout, identity)
    data[: len(word.MAGIC)] = word.MAGIC
    data[word.STATIC_OFFSET : word.STATIC_OFFSET + len(static)] = static
    words = memoryview(data).cast("q")
    words[word.VERSION] = VERSION
    words[word.STATE] = ArenaState.WARMING
    first = layout.descriptors // word.BYTES
    for ring in layout.rings:
        words[first + ring.head + word.SINCE] = word.NEVER
    bars, step = first + layout.open_offset // word.BYTES, CANDLE.itemsize // word.BYTES
    for slot in range(layout.open_slots):
        words[bars + slot * step] = ABSENT
    return bytes(data)


def check_version(data: bytes) -> None:
    """Raises ArenaUnreadable when the file does not begin as an arena of this version does."""
    if data[: len(word.MAGIC)] != word.MAGIC:
        raise ArenaUnreadable("the file does not begin as an arena does")
    version = int.from_bytes(data[word.VERSION * word.BYTES :][: word.BYTES], "little")
    if version != VERSION:
        raise ArenaUnreadable(f"the arena has layout version {version}; this marketd reads version {VERSION}")


def decode(data: bytes, file_bytes: int) -> tuple[Layout, Identity]:
    """Layout and identity from a file's beginning; ArenaUnreadable when they cannot be true."""
    check_version(data)
    try:
        return _decode(data, file_bytes)
    except (struct.error, ValueError, TypeError, SyntaxError, IndexError, OverflowError) as error:
        raise ArenaUnreadable(f"the arena's header makes no sense: {error}") from None


def _decode(data: bytes, file_bytes: int) -> tuple[Layout, Identity]:
    fixed = _STATIC.unpack_from(data, word.STATIC_OFFSET)
    size, _, ring_count, table, entry, descriptors, stride, count, open_offset, open_slots = fixed[:10]
    instrument_id, price_scale, size_scale, quote_scale, journal, instance, instrument = fixed[10:]
    if size != file_bytes or size % PAGE or count != word.DESCRIPTORS or entry < _RING.size or ring_count < 0:
        raise ValueError(f"{size} bytes, {count} descriptors, {ring_count} rings; the file has {file_bytes} bytes")
    rings = tuple(_decode_ring(data, ordinal, table + ordinal * entry, size) for ordinal in range(ring_count))
    layout = Layout(size, rings, descriptors, stride, open_offset, open_slots)
    if open_slots < 0 or open_offset < head_offset(ring_count) or layout.descriptor_bytes > stride:
        raise ValueError(f"{open_slots} open bars at {open_offset} in descriptors of {stride} bytes")
    _check_inside(size, descriptors, count * stride)
    names = (_untext(instance), journal, instrument_id, _untext(instrument))
    return layout, Identity(*names, price_scale, size_scale, quote_scale)


def _decode_ring(data: bytes, ordinal: int, at: int, file_bytes: int) -> Ring:
    fields = _RING.unpack_from(data, at)
    name, kind_id, itemsize, slots, capacity, offset, images, live, text_at, text_bytes, _ = fields
    dtype = _dtype_of(data[text_at : text_at + text_bytes].decode())
    if dtype.itemsize != itemsize or itemsize % word.BYTES or not 0 < capacity <= slots:
        raise ValueError(f"ring {ordinal}: records of {itemsize} bytes, {capacity} of {slots} slots")
    _check_inside(file_bytes, live, word.RING_LIVE_BYTES)
    _check_inside(file_bytes, offset, slots * itemsize)
    if images:
        _check_inside(file_bytes, images, slots * itemsize)
    head = head_offset(ordinal) // word.BYTES
    return Ring(
        ordinal,
        _untext(name),
        kind_id,
        dtype,
        itemsize,
        capacity,
        slots,
        offset,
        images,
        live // word.BYTES,
        head,
    )


def _check_inside(file_bytes: int, offset: int, size: int) -> None:
    if offset % word.BYTES or size < 0 or not word.RING_TABLE_OFFSET <= offset <= file_bytes - size:
        raise ValueError(f"{size} bytes at {offset} are not inside the {file_bytes} bytes of the file")


def _dtype_of(text: str) -> np.dtype[Any]:
    """The dtype of a description; ValueError when the offsets do not follow from the types."""
    fields = [line.split(" ") for line in text.splitlines()]
    dtype = np.dtype([(name, *_type_of(kind)) for name, kind, _ in fields])
    if dtype.hasobject or describe(dtype).decode() != text or len(fields) < 3:
        raise ValueError(f"no description of a record: {text[:80]!r}")
    return dtype


def _type_of(kind: str) -> tuple[Any, ...]:
    """A field's type, and its shape where it has many values; see `describe`."""
    if not kind.startswith("|V"):
        return (kind,)
    count, rest = divmod(int(kind[2:]), np.dtype(ARRAY_OF).itemsize)
    if rest or count < 1:
        raise ValueError(f"{kind} is no row of {ARRAY_OF}")
    return ARRAY_OF, (count,)


def _text(text: str, size: int) -> bytes:
    data = text.encode()
    if len(data) > size:
        raise InvalidArgument(f"{text!r} is longer than the {size} bytes that the arena's header has for it")
    return data.ljust(size, b"\0")


def _untext(data: bytes) -> str:
    return data.rstrip(b"\0").decode()
