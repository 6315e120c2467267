"""Which streams of an instrument are observed now, and until when the others were: the newest word of its ledger.

Trades, the venue's bars, books and declared series are observed; what is said of all streams at once is said of each of
the first three, and of every other that was ever spoken of. A stream is *down* from a VENUE_DOWN without an end on,
until its end, an OBSERVED or an ENDED is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from marketd.market.records import BY_NAME, Coverage, Records
from marketd.market.times import ABSENT

TRADES, BARS, BOOK = (BY_NAME[name].id for name in ("trade", "candle", "book"))
_ALL = (TRADES, BARS, BOOK)


class _Stream:
    """Times in ns. `until` is None while it is observed, `down` unless its venue is away."""

    __slots__ = ("down", "since", "until")

    def __init__(self, since: int | None = None, until: int | None = None, down: int | None = None) -> None:
        self.since = since  # None: it never was
        self.until = until
        self.down = down

    @property
    def is_observed(self) -> bool:
        return self.since is not None and self.until is None

    @property
    def has_ended(self) -> bool:
        return self.until is not None and self.down is None

    def end(self, at_ns: int) -> None:
        if self.since is not None and (self.until is None or self.down is not None):
            self.until = at_ns

    def follow(self, state: int, start: int, end: int) -> None:
        if state == Coverage.OBSERVED:
            self.since, self.until, self.down = start, None, None
        elif state == Coverage.ENDED:
            self.end(start)
            self.down = None
        elif state == Coverage.VENUE_DOWN and end == ABSENT:
            self.end(start)
            self.down = start
        elif state == Coverage.VENUE_DOWN and start == self.down:
            self.end(end)
            self.down = None


class ObservedStreams:
    __slots__ = ("_streams", "has_ended")

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self.has_ended = False  # of any stream; asked with each batch

    def __contains__(self, stream: int) -> bool:
        """Whether the stream is observed now."""
        return stream in self._streams and self._streams[stream].is_observed

    @property
    def begun(self) -> list[int]:
        """The streams that were ever observed."""
        return [number for number, stream in self._streams.items() if stream.since is not None]

    @property
    def now(self) -> dict[int, int]:
        """The streams that are observed now, and since when (ns)."""
        return {n: s.since for n, s in self._streams.items() if s.since is not None and s.until is None}

    @property
    def ended(self) -> dict[int, int]:
        """The streams that were observed and are not down, and until when (ns)."""
        return {n: s.until for n, s in self._streams.items() if s.until is not None and s.down is None}

    @property
    def down(self) -> dict[int, int]:
        """The streams whose venue is away, and since when (ns)."""
        return {n: s.down for n, s in self._streams.items() if s.down is not None}

    def follow(self, events: Records) -> None:
        """COVERAGE records, in their order."""
        for event in events:
            state, start, end = int(event["state"]), int(event["ts_start"]), int(event["ts_end"])
            for number in self._meant(int(event["stream"])):
                self._streams.setdefault(number, _Stream()).follow(state, start, end)
        self.has_ended = any(stream.has_ended for stream in self._streams.values())

    def _meant(self, stream: int) -> Iterable[int]:
        return (stream,) if stream else {*_ALL, *self._streams}

    def state(self) -> list[tuple[Any, ...]]:
        """As msgpack can write it."""
        return [(number, each.until, each.since, each.down) for number, each in self._streams.items()]

    def restore(self, state: Iterable[Sequence[Any]] | bool) -> None:
        """A checkpoint of an older version has no more than until when, or only whether trades were ever observed."""
        if isinstance(state, bool):
            state = [(TRADES, None)] if state else []
        self._streams = {}
        for number, until, *more in state:
            since, down = more or (until or 0, None)
            self._streams[number] = _Stream(since, until, down)
        self.has_ended = any(stream.has_ended for stream in self._streams.values())
