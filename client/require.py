"""`Require`: what a caller demands of an answer, so that he gets an error instead of one that is worth less.

md.get_latest_orderbook("BTC/USDT", require=Require(max_stale="2s", book="LIVE"))
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TypeVar

from marketd.client.frames import Frame
from marketd.market.errors import InvalidArgument, RequirementNotMet
from marketd.market.records import BookState
from marketd.market.times import parse_duration_ns

F = TypeVar("F", bound=Frame)
FIELD = "max_stale"
_STATES = tuple(state.name for state in BookState)


class Require:
    """Demands of an answer. Immutable, reusable; each is left out with None.

    max_stale: a duration (`"2s"`, a number of seconds, a timedelta). So lately the daemon has shown that it lives, and
    something was heard of the instrument (a feed says each second that it listens, also when nothing happens).
    book: a `BookState` by name: the newest record's book is in that state.
    """

    __slots__ = ("book", "max_stale_ns")

    def __init__(self, max_stale: str | int | float | timedelta | None = None, book: str | None = None) -> None:
        if book is not None and book not in _STATES:
            raise InvalidArgument(f"book: {book!r} is none of {', '.join(_STATES)}", field="book")
        self.max_stale_ns = None if max_stale is None else parse_duration_ns(max_stale, field=FIELD)
        self.book = book

    def __repr__(self) -> str:
        stale = None if self.max_stale_ns is None else f"{self.max_stale_ns / 1e9:g}s"
        return f"Require(max_stale={stale!r}, book={self.book!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Require) and (self.max_stale_ns, self.book) == (other.max_stale_ns, other.book)

    def __hash__(self) -> int:
        return hash((self.max_stale_ns, self.book))

    def check(self, frame: F) -> F:
        """The frame itself; RequirementNotMet when it is worth less."""
        what = f"{frame.kind.name} of {frame.instrument.name}"
        if self.book is not None and frame.meta.book_state != self.book:
            found = frame.meta.book_state or "unknown: there is no record of it"
            raise RequirementNotMet(f"{what}: the book is {found}, required is {self.book}", field="book")
        if self.max_stale_ns is not None:
            _check_age(frame, what, self.max_stale_ns)
        return frame


def _check_age(frame: Frame, what: str, limit_ns: int) -> None:
    limit = f"required are at most {limit_ns / 1e9:g} s (max_stale)"
    silent_ns = frame.meta.stale_ns  # None: there is no shared memory
    if silent_ns is not None and silent_ns > limit_ns:
        raise RequirementNotMet(f"{what}: the daemon was last alive {silent_ns / 1e9:.3f} s ago, {limit}", field=FIELD)
    watermark = frame.meta.watermark
    if not watermark:
        raise RequirementNotMet(f"{what}: nothing live is known of it, {limit}", field=FIELD)
    age_ns = time.time_ns() - watermark
    if age_ns > limit_ns:
        raise RequirementNotMet(f"{what}: the newest is {age_ns / 1e9:.3f} s old, {limit}", field=FIELD)
