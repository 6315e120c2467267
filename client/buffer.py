"""What a buffered producer has gathered and not yet sent: bookkeeping without threads, sockets or clocks.

Rows wait by instrument and kind, because a batch holds one of each. A pile is due when it has `batch_size` rows or its
oldest row is `batch_timeout` old. Rows count as pending until their batch was answered; `max_pending` bounds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np

from marketd.client.calls import deadline_after
from marketd.client.encode import Encoded
from marketd.client.offers import IngestResult, Offer
from marketd.market.book_rows import join
from marketd.market.errors import InvalidArgument

F = TypeVar("F")  # a future, of a thread or of asyncio
WhenFull = Literal["wait", "refuse"]
_Key = tuple[str, str]


class Limits(NamedTuple):
    """When a buffer is sent, and what it does when it is full."""

    batch_size: int  # rows of one instrument and kind
    batch_timeout: float  # seconds that a row waits for others
    max_pending: int  # rows that were taken and are not yet answered
    when_full: WhenFull  # a call waits for room (up to the pipeline's timeout), or gets Busy at once

    def checked(self) -> Limits:
        """These limits; InvalidArgument for such as cannot be kept."""
        deadline_after(self.batch_timeout)
        if not 1 <= self.batch_size <= self.max_pending:
            raise InvalidArgument("batch_size: at least 1 and at most max_pending", field="batch_size")
        if self.when_full not in ("wait", "refuse"):
            raise InvalidArgument(f"when_full: {self.when_full!r} is neither 'wait' nor 'refuse'", field="when_full")
        return self


class BufferStatistics(NamedTuple):
    """Rows, counted over the life of a buffer."""

    accepted: int
    refused: int
    failed: int  # whose batch raised an error; their futures bear it
    pending: int
    batches: int


class Item(NamedTuple, Generic[F]):
    """The rows of one call and the future of its result."""

    encoded: Encoded
    future: F


class Pile(Generic[F]):
    """Rows of one instrument and kind that will go together."""

    def __init__(self, offer: Offer, since: float) -> None:
        self.instrument = offer.instrument
        self.kind = offer.kind
        self.since = since  # monotonic seconds
        self.rows = 0
        self.items: list[Item[F]] = []

    def offer(self) -> Offer:
        """All rows as one offer."""
        parts = [item.encoded.records for item in self.items]
        records = join(parts) if self.kind.name == "book" else np.concatenate(parts)
        rejected = tuple(each for item in self.items for each in item.encoded.rejected)
        return Offer(self.instrument, self.kind, Encoded(records, None, (), rejected))

    def results(self, whole: IngestResult) -> Iterator[tuple[F, IngestResult]]:
        """Each call's own result, from that of all rows together."""
        start = 0
        for encoded, future in self.items:
            end = start + len(encoded.records)
            own = [refusal for refusal in whole.refused if start <= refusal.index < end]
            yield future, _own_result(encoded, start, own, whole)
            start = end


def _own_result(encoded: Encoded, start: int, refused: list[Any], whole: IngestResult) -> IngestResult:
    places = encoded.places
    own = [
        type(refusal)(
            refusal.index - start if places is None else int(places[refusal.index - start]),
            refusal.rule,
            refusal.detail,
        )
        for refusal in refused
    ]
    every = tuple(sorted((*encoded.refused, *own), key=lambda refusal: refusal.index))
    return whole._replace(accepted=len(encoded.records) - len(own), refused=every)


class Buffer(Generic[F]):
    """Piles that wait. Not thread-safe: its owner has a lock, or an event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._piles: dict[_Key, Pile[F]] = {}
        self._under_way: list[Pile[F]] = []
        self._accepted = self._refused = self._failed = self._pending = self._batches = 0

    def has_room(self, rows: int) -> bool:
        """Whether so many rows may be added. Rows beyond `max_pending` in one call find room in an empty buffer."""
        return not self._pending or self._pending + rows <= self.limits.max_pending

    def add(self, offer: Offer, future: F, now: float) -> None:
        key = (offer.instrument.name, offer.kind.name)
        pile = self._piles.get(key)
        if pile is None:
            pile = self._piles[key] = Pile(offer, now)
        rows = len(offer.encoded.records)
        pile.items.append(Item(offer.encoded, future))
        pile.rows += rows
        self._pending += rows
        self._refused += len(offer.encoded.refused)

    def take_due(self, now: float, *, everything: bool = False) -> list[Pile[F]]:
        """The piles to send now; they stay pending until `settled` or `failed`."""
        limits = self.limits
        due = [
            key
            for key, pile in self._piles.items()
            if everything or pile.rows >= limits.batch_size or now - pile.since >= limits.batch_timeout
        ]
        taken = [self._piles.pop(key) for key in due]
        self._under_way += taken
        return taken

    def next_due(self) -> float | None:
        """The monotonic time at which a pile is due by age; None when nothing waits."""
        return min((pile.since + self.limits.batch_timeout for pile in self._piles.values()), default=None)

    def outstanding(self) -> list[F]:
        """The futures of all rows that are pending now."""
        return [item.future for pile in (*self._under_way, *self._piles.values()) for item in pile.items]

    @property
    def pending(self) -> int:
        return self._pending

    def settled(self, pile: Pile[F], whole: IngestResult) -> None:
        self._batches += 1
        self._answered(pile)
        self._accepted += whole.accepted
        self._refused += len(whole.refused)

    def failed(self, pile: Pile[F]) -> None:
        self._answered(pile)
        self._failed += pile.rows

    def _answered(self, pile: Pile[F]) -> None:
        self._under_way.remove(pile)
        self._pending -= pile.rows

    def statistics(self) -> BufferStatistics:
        return BufferStatistics(self._accepted, self._refused, self._failed, self._pending, self._batches)
