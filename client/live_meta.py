"""`Meta` of an answer out of shared memory: its coverage and gaps are looked up when somebody asks for them.

A read of shared memory takes less than a microsecond; the ledger takes a hundred. So the answer only keeps where to
look: the ring of the ledger's newest events. What it then says is how things stood at the look, with all that was known
by then.
"""

from __future__ import annotations

import time
from typing import Any, cast

import msgspec

from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.protocol import Meta
from marketd.market.errors import MarketdError
from marketd.market.records import Kind, Records
from marketd.market.worth import UNKNOWN, Worth, span_of, worth_of_newest

_RING = "coverage"


class Look:
    """Where the ledger of some records is, while they are the newest."""

    __slots__ = ("_arena", "_kind", "_records", "_timeframe")

    def __init__(self, arena: ArenaReader, kind: Kind, records: Records, timeframe: int | None) -> None:
        self._arena = arena
        self._kind = kind
        self._records = records
        self._timeframe = timeframe

    def __call__(self) -> Worth:
        """From the oldest of the records until now: what is missing now is missing, however far the records reach."""
        span = span_of(self._kind, self._records, self._timeframe)
        ring = self._arena.rings.get(_RING)
        if span is None or ring is None:
            return UNKNOWN
        try:
            ledger, cut = self._arena.last(_RING, ring.capacity)
        except (MarketdError, ValueError):  # closed meanwhile, or replaced by an arena without it
            return UNKNOWN
        end_ns = max(span[1], cut.ts_event + 1, time.time_ns())
        return worth_of_newest(ledger, self._kind, span[0], end_ns)


class LiveMeta(Meta, kw_only=True):
    """`look` is called once, by the first who reads `coverage` or `gaps`."""

    look: Any = None

    def _looked(self) -> None:
        look, self.look = self.look, None
        if look is not None:
            worth = look()
            _COVERAGE.__set__(self, worth.coverage)
            _GAPS.__set__(self, worth.gaps)

    def plain(self) -> Meta:
        """With what was looked up, for those who send it elsewhere."""
        self._looked()
        return msgspec.convert(msgspec.to_builtins(self), Meta)

    def __reduce__(self) -> tuple[Any, ...]:
        return cast(tuple[Any, ...], self.plain().__reduce__())


def _lazy(field: Any) -> property:
    def read(meta: LiveMeta) -> Any:
        meta._looked()
        return field.__get__(meta, LiveMeta)

    def write(meta: LiveMeta, value: Any) -> None:
        field.__set__(meta, value)

    return property(read, write)


# msgspec keeps a struct's fields in descriptors of its class: these stand before those of Meta
_COVERAGE: Any = Meta.__dict__["coverage"]
_GAPS: Any = Meta.__dict__["gaps"]
LiveMeta.coverage = _lazy(_COVERAGE)  # type: ignore[assignment]
LiveMeta.gaps = _lazy(_GAPS)  # type: ignore[assignment]
