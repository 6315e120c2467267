"""Which streams of an instrument are observed now, and until when the others were: the newest word of its ledger.

Only trades, the venue's bars and books are observed; what is said of all streams at once is said of each of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from marketd.market.records import BY_NAME, Coverage, Records

TRADES, BARS, BOOK = (BY_NAME[name].id for name in ("trade", "candle", "book"))
_ALL = (TRADES, BARS, BOOK)


class ObservedStreams:
    __slots__ = ("_until", "has_ended")

    def __init__(self) -> None:
        # by stream, only those that were ever observed: where that ended (ns), None while it goes on
        self._until: dict[int, int | None] = {}
        self.has_ended = False  # of any stream; asked with each batch

    def __contains__(self, stream: int) -> bool:
        """Whether the stream is observed now."""
        return self._until.get(stream, 0) is None

    @property
    def begun(self) -> list[int]:
        """The streams that were ever observed."""
        return list(self._until)

    @property
    def now(self) -> list[int]:
        """The streams that are observed now."""
        return [stream for stream, until in self._until.items() if until is None]

    @property
    def ended(self) -> dict[int, int]:
        """The streams that were observed, and until when (ns)."""
        return {stream: until for stream, until in self._until.items() if until is not None}

    def follow(self, events: Records) -> None:
        """COVERAGE records, in their order."""
        for event in events:
            for stream in self._meant(int(event["stream"])):
                if event["state"] == Coverage.OBSERVED:
                    self._until[stream] = None
                elif event["state"] == Coverage.ENDED and stream in self:
                    self._until[stream] = int(event["ts_start"])
        self.has_ended = bool(self.ended)

    @staticmethod
    def _meant(stream: int) -> Iterable[int]:
        return (stream,) if stream else _ALL

    def state(self) -> list[tuple[int, int | None]]:
        """As msgpack can write it."""
        return list(self._until.items())

    def restore(self, state: Iterable[tuple[int, int | None]] | bool) -> None:
        """A checkpoint of the version before only has whether trades were ever observed."""
        if isinstance(state, bool):
            state = [(TRADES, None)] if state else []
        self._until = dict(state)
        self.has_ended = bool(self.ended)
