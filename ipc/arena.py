"""The arena: one shared-memory file per instrument, and what its writer and its readers have to agree on.

A file begins with a header that describes itself, so that a reader in C needs only `docs/arena.md`; then come
the rings' live words, eight descriptors, and the rings with their before-images. This module plans that
layout; it does no I/O. Its neighbours: `arena_words` has the fixed places and the sync points, `arena_header`
writes a layout down and reads it back, `arena_file` makes, owns and maps files, `arena_writer` and
`arena_reader` are the two sides.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from marketd.ipc import arena_words as word
from marketd.market.errors import InvalidArgument, MarketdError
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, CANDLE

VERSION = 1  # of the layout
FILE_MODE = 0o640

ARRAY_OF = "<i8"  # the type of the values, where a field has many

_CACHE_LINE = 64
PAGE = 4096
_MIN_SPARE = 64


class ArenaState(IntEnum):
    WARMING = 1  # the rings are being filled; not to be served from yet
    LIVE = 2
    RETIRED = 3  # this file will not change again: map the one that has its name now


class ArenaUnsupported(MarketdError):
    """The arena relies on the order in which x86-64 makes stores visible; this machine is another one."""


class ArenaUnreadable(MarketdError):
    """The file is no arena that this version can read."""


class ArenaLayoutChanged(MarketdError):
    """The arena on this path was made for other rings, another instrument or another journal."""


class ArenaOwned(MarketdError):
    """Another process writes this arena."""


class ArenaNoSpace(MarketdError):
    """There is not enough shared memory for the arena."""


class ArenaContended(MarketdError):
    """The writer was faster than this read in every attempt."""


class RingSpec(NamedTuple):
    """A ring that is wanted: readers can rely on its newest `capacity` records."""

    name: str
    kind_id: int
    dtype: np.dtype[Any]
    capacity: int

    @property
    def spare(self) -> int:
        """Slots beyond the capacity, so that a whole ring can be read while a batch is being appended."""
        return max(_MIN_SPARE, self.capacity // 4)

    @property
    def slots(self) -> int:
        return self.capacity + self.spare

    @property
    def rewritable(self) -> bool:
        """Closed bars get new versions; all else is only ever appended."""
        return self.kind_id == BY_NAME["candle"].id

    def check(self) -> None:
        """Raises InvalidArgument in plain words."""
        if not self.name or len(self.name.encode()) > word.NAME_BYTES:
            raise InvalidArgument(f"ring {self.name!r}: a name is 1 to {word.NAME_BYTES} bytes", field="rings")
        if self.capacity < 1:
            raise InvalidArgument(f"ring {self.name}: a capacity of {self.capacity} records", field="rings")
        names = self.dtype.names or ()
        if names[:3] not in (("ts_event", "ts_known", "seq"), ("ts", "ts_known", "seq")):
            raise InvalidArgument(
                f"ring {self.name}: a record begins with its time, ts_known and seq, not with {names[:3]}",
                field="rings",
            )
        if self.dtype.itemsize % word.BYTES:
            raise InvalidArgument(
                f"ring {self.name}: records of {self.dtype.itemsize} bytes, not a multiple of {word.BYTES}",
                field="rings",
            )


class Ring(NamedTuple):
    """Where a ring stands. Offsets in bytes from the start of the file, words as indices of 8 bytes."""

    ordinal: int  # in the table of rings
    name: str
    kind_id: int
    dtype: np.dtype[Any]
    itemsize: int
    capacity: int
    slots: int
    offset: int
    images_offset: int  # before-images, one a slot; 0 where records are never rewritten
    live: int  # word of INTENT; its neighbours follow
    head: int  # word of HEAD, from the start of a descriptor; REVISION and SINCE follow

    def places(self, offset: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Byte ranges of positions [start, end) in the slots at `offset`; a second where the ring wraps."""
        while start < end:
            slot = start % self.slots
            count = min(end - start, self.slots - slot)
            begin = offset + slot * self.itemsize
            yield begin, begin + count * self.itemsize
            start += count


class Layout(NamedTuple):
    """Where everything stands in one file."""

    file_bytes: int
    rings: tuple[Ring, ...]
    descriptors: int  # offset of the first
    stride: int  # bytes from one descriptor to the next
    open_offset: int  # of the open bars, from the start of a descriptor
    open_slots: int

    def descriptor_at(self, number: int) -> int:
        """Offset of the descriptor of a publication."""
        return self.descriptors + (number & word.DESCRIPTOR_MASK) * self.stride

    @property
    def open_bytes(self) -> int:
        return self.open_slots * CANDLE.itemsize

    @property
    def descriptor_bytes(self) -> int:
        return self.open_offset + self.open_bytes


class Identity(NamedTuple):
    """What an arena is of."""

    instance: str
    journal: bytes  # 16 bytes: the journal that journal_offset counts in
    instrument_id: int
    instrument: str
    price_scale: int
    size_scale: int
    quote_scale: int

    @classmethod
    def of(cls, instance: str, journal: bytes, instrument: Instrument) -> Identity:
        i = instrument
        return cls(instance, journal, i.id, i.name, i.price_scale, i.size_scale, i.quote_scale)


def require_x86_64(machine: str | None = None) -> None:
    """Refuses other machines by name: their stores may become visible in another order."""
    found = machine or platform.machine()
    if found.lower() not in ("x86_64", "amd64"):
        raise ArenaUnsupported(
            f"the shared-memory arena needs an x86-64 machine and this is {found}: its readers rely on "
            "stores becoming visible in the order in which they were made, which it does not promise; "
            "read from a marketd on another host instead (MARKETD_URL)"
        )


def plan(specs: Sequence[RingSpec], open_slots: int) -> Layout:
    """The layout for these rings, in this order, and `open_slots` open bars. Raises InvalidArgument."""
    for spec in specs:
        spec.check()
    if len({spec.name for spec in specs}) != len(specs):
        raise InvalidArgument("rings: two rings bear the same name", field="rings")
    if open_slots < 0:
        raise InvalidArgument(f"open_slots: {open_slots} open bars", field="open_slots")
    text_bytes = sum(len(describe(spec.dtype)) for spec in specs)
    live = _round(word.RING_TABLE_OFFSET + len(specs) * word.RING_ENTRY_BYTES + text_bytes, _CACHE_LINE)
    descriptors = live + len(specs) * word.RING_LIVE_BYTES
    open_offset = _round(head_offset(len(specs)), _CACHE_LINE)
    stride = _round(open_offset + open_slots * CANDLE.itemsize, _CACHE_LINE)
    rings, at = [], descriptors + word.DESCRIPTORS * stride
    for ordinal, spec in enumerate(specs):
        rings.append(_place(spec, ordinal, live + ordinal * word.RING_LIVE_BYTES, at))
        at += _ring_bytes(spec) * (2 if spec.rewritable else 1)
    return Layout(_round(at, PAGE), tuple(rings), descriptors, stride, open_offset, open_slots)


def head_offset(ordinal: int) -> int:
    """Bytes from the start of a descriptor to a ring's HEAD."""
    return word.DESCRIPTOR_FIXED_BYTES + ordinal * word.DESCRIPTOR_RING_BYTES


def describe(dtype: np.dtype[Any]) -> bytes:
    """A dtype as text: a line `name type offset` a field, types as numpy writes them (`<i8`, `|S40`).

    A field of many values is `|V160` where they are 20 of `<i8`, as numpy writes it too: so readers of a version that
    knows no such fields still read all other rings.
    """
    lines = []
    for name in dtype.names or ():
        field, offset = dtype.fields[name][:2]  # type: ignore[index]
        if field.shape and (field.base.str != ARRAY_OF or len(field.shape) > 1):
            raise InvalidArgument(f"{name}: {field} is no row of {ARRAY_OF}", field="rings")
        lines.append(f"{name} {field.str} {offset}\n")
    return "".join(lines).encode()


def _place(spec: RingSpec, ordinal: int, live: int, offset: int) -> Ring:
    return Ring(
        ordinal=ordinal,
        name=spec.name,
        kind_id=spec.kind_id,
        dtype=spec.dtype,
        itemsize=spec.dtype.itemsize,
        capacity=spec.capacity,
        slots=spec.slots,
        offset=offset,
        images_offset=offset + _ring_bytes(spec) if spec.rewritable else 0,
        live=live // word.BYTES,
        head=head_offset(ordinal) // word.BYTES,
    )


def _ring_bytes(spec: RingSpec) -> int:
    return _round(spec.slots * spec.dtype.itemsize, _CACHE_LINE)


def _round(value: int, unit: int) -> int:
    return -(-value // unit) * unit
