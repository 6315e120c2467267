"""What a feed remembers of one symbol, and the small records that it makes itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from marketd.daemon.feeds.recent import AsTheyCome, RecentIds
from marketd.daemon.feeds.sequence import NOTHING_YET, NumberSequence, bar_numbers, trade_numbers
from marketd.ipc.protocol import Resume
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, CANDLE, COVERAGE, TICK, TRADE, Coverage, Ended, Records, newest_of
from marketd.market.times import ABSENT, NS_PER_SECOND

Part = tuple[str, Records]  # name of the kind, records


class Track:
    """One stream of a symbol (its trades, or its bars of one timeframe) and where it stands.

    `can_ask`: what is missing can be told by its number, and asked for.
    """

    def __init__(self, kind: str, timeframe: int = 0, *, can_ask: bool = True) -> None:
        self.kind = kind
        self.timeframe = timeframe  # s; 0: trades
        self.can_ask = can_ask or not timeframe  # of trades without numbers the recent ones are
        self.time_field = BY_NAME[kind].time
        self.sequence: NumberSequence | RecentIds | AsTheyCome
        if timeframe and can_ask:
            self.sequence = NumberSequence(CANDLE, bar_numbers(timeframe), time_field=self.time_field)
        elif timeframe:
            self.sequence = AsTheyCome(CANDLE, bar_numbers(timeframe))
        elif can_ask:
            self.sequence = NumberSequence(TRADE, trade_numbers)
        else:
            self.sequence = RecentIds(TRADE)
        self._before_first: int | None = None  # the number before the first, while none has come
        self._is_connected = False  # it was, at least once
        self.last_ts = ABSENT  # of the newest record handed on
        self.held_since: float | None = None  # monotonic s; None: nothing is held back
        self.is_repaired = False  # a repair is running
        self.late_fills = 0  # running ones
        self.outage: tuple[int, int] | None = None  # the venue was away, and what it has of that is still to be asked

    def __repr__(self) -> str:
        return f"<Track {self.name}: last {self.sequence.last}, missing {self.sequence.missing}>"

    @property
    def name(self) -> str:
        return f"{self.kind} {self.timeframe}s" if self.timeframe else self.kind

    def numbers(self, records: Records) -> Records:
        return bar_numbers(self.timeframe)(records) if self.timeframe else trade_numbers(records)

    def begin_after(self, newest: Records) -> None:
        """The stream begins after the venue's newest record, or (empty) with its first."""
        numbers = self.numbers(newest)
        self.sequence.begin_catch_up(int(numbers[-1]) if len(numbers) else NOTHING_YET)
        self.follow(newest, 0.0)

    def begin_at(self, now_ns: int) -> None:
        """Of a stream of bars that is new here none is lost from the one on that the venue is about to tell, also when
        the connection breaks before one has come."""
        self._before_first = now_ns // (self.timeframe * NS_PER_SECOND) - 2

    def begin_catch_up(self) -> None:
        """Something may have been missed since the last record; where none has come, since the first connection."""
        is_first, self._is_connected = not self._is_connected, True
        first, sequence = self._before_first, self.sequence
        if first is not None and sequence.last is None and isinstance(sequence, NumberSequence) and not is_first:
            sequence.begin_from(first)
        else:
            sequence.begin_catch_up()

    def live(self, records: Records, now: float) -> Records:
        """Records of the stream; what may be handed on."""
        ready = self.sequence.live(records)
        self.follow(ready, now)
        return ready

    def follow(self, handed_on: Records, now: float) -> None:
        if len(handed_on):
            self.last_ts = max(self.last_ts, newest_of(handed_on, self.time_field))
        if not self.sequence.held:
            self.held_since = None
        elif self.held_since is None:
            self.held_since = now


class Down(NamedTuple):
    """Since when a venue is away, and what was said."""

    since_ns: int
    words: str = "the venue was away"


class SymbolState:
    """`streams`: of each kind the venue's streams that carry it (`stream_kinds`); `numbers`: the kinds' numbers."""

    def __init__(
        self,
        instrument: Instrument,
        resume: Resume,
        timeframes: Sequence[int],
        *,
        numbered_trades: bool = True,
        has_bars: bool = True,
        streams: Mapping[str, frozenset[str]] = MappingProxyType({}),
        numbers: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.instrument = instrument
        self.streams = streams
        self.numbers = numbers
        self._series_count = len(self.series)
        self.trades = Track("trade", can_ask=numbered_trades)
        self.bars = {timeframe: Track("candle", timeframe, can_ask=has_bars) for timeframe in timeframes}
        self.newest_ns = ABSENT  # the newest ts_event handed on, ticks included
        self.sent_at = 0.0  # monotonic s of the last trade or tick
        self.trade_at = 0.0  # … of the last trade that came, or since when they are subscribed
        self.series_at: dict[str, float] = {}  # … of the last record of each series
        # By timeframe, numbers of bars: of the newest that came live; of one that must have ended, since trades came
        # before and after its end, and since when (monotonic s) such a one is waited for; of the newest trade.
        self.live_bars: dict[int, int] = {}
        self.due_bars: dict[int, tuple[int, float]] = {}
        self._trade_bars: dict[int, int] = {}
        # ingest knows since when its trades and the venue's bars are observed
        self.observed = BY_NAME["trade"].id in resume.observed
        self.observes_bars = BY_NAME["candle"].id in resume.observed
        of_resume = {kind: numbers[kind] for kind in streams}
        # declared series of which the ledger says since when they are observed; since when each that was lost is
        self.observed_series = {kind for kind in self.series if of_resume[kind] in resume.observed}
        self.lost = {
            kind: heard
            for kind in self.observed_series
            if (heard := resume.heard_ts) is not None and of_resume[kind] not in (*resume.ended, *resume.down)
        }
        # kinds that the ledger has as VENUE_DOWN without an end
        self.down = {kind: Down(resume.down[number]) for kind, number in of_resume.items() if number in resume.down}
        self.is_heard = False  # the venue has taken the subscription of its trades
        self.is_silent = False  # and does not send them, by the word of its REST interface, until one comes
        self.removed = False
        self.book_lost_ns = resume.book_lost_ts  # since when its book was not LIVE before this process
        self.refreshed_at = 0.0  # monotonic s: when its scales were asked for
        self.changes = 0  # how often its scales became others
        self.begin_catch_up(resume)

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    @property
    def series(self) -> list[str]:
        """The declared series that it has."""
        return [kind for kind in self.streams if kind not in BY_NAME]

    @property
    def is_beginning(self) -> bool:
        """Is something that it has to be observed still?"""
        if not self.observed or (self.bars and not self.observes_bars):
            return True
        return len(self.observed_series) < self._series_count

    @property
    def tracks(self) -> list[Track]:
        return [self.trades, *self.bars.values()]

    def saw_trades(self, newest_ns: int, now: float) -> None:
        """Live ones came: none is waited for, and the bar of those before them is."""
        self.trade_at = now
        for timeframe in self.bars:
            number = newest_ns // (timeframe * NS_PER_SECOND)
            before = self._trade_bars.get(timeframe)
            if before is None or number > before:
                self._trade_bars[timeframe] = number
                if before is not None:
                    due, since = self.due_bars.get(timeframe, (before, now))
                    is_waited_for = self.live_bars.get(timeframe, -1) < due
                    self.due_bars[timeframe] = before, since if is_waited_for else now

    def saw_bars(self, timeframe: int, records: Records) -> None:
        """Live ones came."""
        if len(records):
            newest = newest_of(records, "ts") // (timeframe * NS_PER_SECOND)
            self.live_bars[timeframe] = max(self.live_bars.get(timeframe, newest), newest)

    def begin_catch_up(self, resume: Resume | None = None) -> None:
        """Something may have been missed since the last record, here or (resume) before this process."""
        if resume is None:
            for track in self.tracks:
                track.begin_catch_up()
            return
        newest = resume.last_trade_id if self.trades.sequence.is_numbered else resume.last_trade_ts
        self.trades.sequence.begin_catch_up(newest)
        self.trades.last_ts = max(self.trades.last_ts, _or_absent(resume.last_trade_ts))
        for timeframe, track in self.bars.items():
            ts = resume.venue_bars.get(timeframe)
            track.sequence.begin_catch_up(None if ts is None else ts // (timeframe * NS_PER_SECOND))
            track.last_ts = max(track.last_ts, _or_absent(ts))

    def change(self, instrument: Instrument) -> bool:
        """Take over the venue's new rules; True when numbers are written otherwise from now on."""
        before, self.instrument = self.instrument, instrument
        if before.id == instrument.id and _scales(before) == _scales(instrument):
            return False
        self.changes += 1
        if before.id != instrument.id:  # the ledger knows nothing of it yet
            self.observed = self.observes_bars = False
            self.observed_series.clear()
            self.lost.clear()
            self.down.clear()
        for track in self.tracks:
            track.sequence.drop_held()
        return True

    def observes(self, kind: str) -> bool:
        """Has the ledger begun with trades, bars, a series?"""
        if kind == "candle":
            return self.observes_bars
        return self.observed if kind == "trade" else kind in self.observed_series

    def begin_observing(self, kind: str) -> None:
        if kind == "candle":
            self.observes_bars = True
        elif kind == "trade":
            self.observed = True
        else:
            self.observed_series.add(kind)

    def event(self, state: Coverage, kind: str, start_ns: int, end_ns: int, reason: str, detail: int = 0) -> Part:
        """An event of the ledger, of any kind that it has."""
        return CoverageEvent(state, start_ns, end_ns, self.numbers[kind], detail, reason).part()

    def ended(self, reason: str, bars: Ended) -> list[Part]:
        """Nobody listens any more: what the ledger calls observed ends with the last that was heard."""
        end_ns = self.newest_ns
        if end_ns == ABSENT:
            return []  # ingest knows from before until when it was heard, and will say it
        return [
            self.event(Coverage.ENDED, kind, end_ns, end_ns, reason, int(bars))
            for kind in self.streams
            if kind != "book" and kind not in self.down and self.observes(kind)
        ]


HandOver = Callable[[SymbolState, list[Part]], Awaitable[None]]
"""What takes a symbol's parts on their way to the sink; with the feed's order lock held."""


def _or_absent(ts: int | None) -> int:
    return ABSENT if ts is None else ts


def _scales(instrument: Instrument) -> tuple[int, int, int]:
    return instrument.price_scale, instrument.size_scale, instrument.quote_scale


def tick(ts_ns: int) -> Part:
    record = np.zeros(1, dtype=TICK)
    record["ts_event"] = ts_ns
    return "tick", record


class CoverageEvent(NamedTuple):
    """One row of the ledger. `detail` counts records; `stream` is the kind that it speaks of, or its number. An end
    that is ABSENT is not known yet; so may be a start, which is the end then."""

    state: Coverage
    start_ns: int
    end_ns: int
    stream: str | int = "trade"
    detail: int = 0
    reason: str = ""

    def part(self) -> Part:
        record = np.zeros(1, dtype=COVERAGE)
        start = self.start_ns if self.end_ns == ABSENT else min(self.start_ns, self.end_ns)
        start = self.end_ns if self.start_ns == ABSENT else start
        record["ts_event"] = record["ts_start"] = start
        record["ts_end"] = self.end_ns
        record["detail"] = self.detail
        record["stream"] = self.stream if isinstance(self.stream, int) else BY_NAME[self.stream].id
        record["state"] = self.state
        record["reason"] = self.reason.encode()[:40].decode(errors="ignore").encode()
        return "coverage", record
