"""A venue that does not even say what its instruments are, at a feed's start: those that are known from before are told
VENUE_DOWN, from the feed's start on, until the feed follows them (`outages`) or ends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from marketd.daemon.feeds.feed_model import Sink
from marketd.daemon.feeds.outages import AWAY_SECONDS
from marketd.daemon.feeds.symbol_state import CoverageEvent, Part
from marketd.ipc.protocol import Resume
from marketd.market.instruments import Instrument
from marketd.market.records import Coverage, Ended
from marketd.market.times import ABSENT


class Recalled:
    def __init__(self, sink: Sink, venue: str) -> None:
        self._sink = sink
        self._venue = venue
        self._began, self._began_ns = time.monotonic(), time.time_ns()
        self._down: list[tuple[Instrument, dict[int, int]]] = []  # streams, and since when
        self.words = ""  # what was said last; "": it has answered, or has not been away for long

    async def not_answered(self, symbols: Sequence[str], words: str) -> None:
        if time.monotonic() - self._began < AWAY_SECONDS:
            return
        if not self.words:
            for instrument, resume in await self._sink.recall([f"{symbol}.{self._venue}" for symbol in symbols]):
                await self._tell(instrument, resume, words)
        self.words = words

    async def _tell(self, instrument: Instrument, resume: Resume, words: str) -> None:
        since_ns = max(self._began_ns, resume.heard_ts or 0)
        new = dict.fromkeys([stream for stream in resume.observed if stream not in resume.down], since_ns)
        parts = [CoverageEvent(Coverage.VENUE_DOWN, since_ns, ABSENT, stream, reason=words).part() for stream in new]
        self._down.append((instrument, resume.down | new))
        if parts:
            await self._sink.send(instrument, parts)

    def answered(self) -> None:
        """The venue has said what they are; they are followed now."""
        self.words = ""
        self._down.clear()

    async def end(self, reason: str) -> None:
        """Nobody knows of the venue from now on."""
        for instrument, down in self._down:
            parts: list[Part] = []
            for stream, since_ns in down.items():
                end_ns = max(since_ns, time.time_ns())
                parts.append(CoverageEvent(Coverage.VENUE_DOWN, since_ns, end_ns, stream, reason=self.words).part())
                ended = CoverageEvent(Coverage.ENDED, end_ns, end_ns, stream, int(Ended.BARS_GO_ON), reason)
                parts.append(ended.part())
            if parts:
                await self._sink.send(instrument, parts)
