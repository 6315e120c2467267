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
from marketd.market.times import isoformat_ns, parse_duration_ns

F = TypeVar("F", bound=Frame)
FIELD = "max_stale"
_STATES = tuple(state.name for state in BookState)


class Require:
    """Demands of an answer. Immutable, reusable; each is left out with None.

    max_stale: a duration (`"2s"`, a number of seconds, a timedelta). So lately the daemon has shown that it lives, and
    something was heard of the instrument (a feed says each second that it listens, also when nothing happens).
    book: a `BookState` by name: the newest record's book is in that state.
    no_gaps: the ledger says of the whole stretch, until now where no end was named, that it was observed or fetched
    afterwards.
    """

    __slots__ = ("book", "max_stale_ns", "no_gaps")

    def __init__(
        self,
        max_stale: str | int | float | timedelta | None = None,
        book: str | None = None,
        no_gaps: bool = False,
    ) -> None:
        if book is not None and book not in _STATES:
            raise InvalidArgument(f"book: {book!r} is none of {', '.join(_STATES)}", field="book")
        self.max_stale_ns = None if max_stale is None else parse_duration_ns(max_stale, field=FIELD)
        self.book = book
        self.no_gaps = no_gaps

    def __repr__(self) -> str:
        stale = None if self.max_stale_ns is None else f"{self.max_stale_ns / 1e9:g}s"
        return f"Require(max_stale={stale!r}, book={self.book!r}, no_gaps={self.no_gaps!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Require) and self._demands() == other._demands()

    def __hash__(self) -> int:
        return hash(self._demands())

    def _demands(self) -> tuple[int | None, str | None, bool]:
        return self.max_stale_ns, self.book, self.no_gaps

    def check(self, frame: F) -> F:
        """The frame itself; RequirementNotMet when it is worth less."""
        what = f"{frame.kind.name} of {frame.instrument.name}"
        if self.book is not None and frame.meta.book_state != self.book:
            found = frame.meta.book_state or "unknown: there is no record of it"
            raise RequirementNotMet(f"{what}: the book is {found}, required is {self.book}", field="book")
        if self.max_stale_ns is not None:
            _check_age(frame, what, self.max_stale_ns)
        if self.no_gaps:
            _check_gaps(frame, what)
        return frame


def _check_gaps(frame: Frame, what: str) -> None:
    coverage, gaps = frame.meta.coverage, frame.meta.gaps
    if coverage is None:
        raise RequirementNotMet(
            f"{what}: the ledger does not say whether something is missing (no_gaps)", field="no_gaps"
        )
    if gaps:
        first = " to ".join(isoformat_ns(moment) for moment in gaps[0])
        raise RequirementNotMet(
            f"{what}: {len(gaps)} stretches are missing ({coverage}), the first from {first} (no_gaps)", field="no_gaps"
        )


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
