"""All that the kernel remembers of one instrument, and its part of the journal's checkpoint."""

from __future__ import annotations

from typing import Any

from marketd.daemon.observed_streams import ObservedStreams
from marketd.daemon.offered_books import OfferedBooks
from marketd.ipc.protocol import Resume
from marketd.market.activity_bars import ActivityFold
from marketd.market.candles import BarFold
from marketd.market.instruments import Instrument
from marketd.market.records import Coverage, Records, Source
from marketd.market.times import ABSENT
from marketd.market.trade_ids import TradeIds

MAX_REBUILD = 64  # bars computed anew at a time; so many go into one frame of the smallest journal too


class InstrumentState:
    __slots__ = (
        "activity",
        "fold",
        "instrument",
        "journaled",
        "last_trade_ts",
        "newest",
        "observed",
        "offered",
        "rebuild",
        "seq",
        "trade_ids",
        "ts_known",
        "unstored_count",
        "unstored_since",
        "venue_bars",
    )

    def __init__(self, instrument: Instrument, fold: BarFold, seq: int, activity: ActivityFold | None = None) -> None:
        self.instrument = instrument
        self.fold = fold
        self.activity = activity  # where the configuration wants such bars
        self.trade_ids = TradeIds()
        self.seq = seq  # of the newest record
        self.journaled = False  # its INSTRUMENT record is in this journal
        self.newest = ABSENT  # event time
        self.observed = ObservedStreams()  # since when, the fold knows
        self.last_trade_ts = ABSENT
        self.ts_known = 0
        # (timeframe s, ts) -> journal offset that must be committed first
        self.rebuild: dict[tuple[int, int], int] = {}
        self.venue_bars: dict[tuple[int, int], int] = {}  # (source, timeframe) -> newest ts
        self.offered: OfferedBooks | None = None  # since a producer offered a book
        self.unstored_since = 0  # ts_known of the first record kept live only; 0: none
        self.unstored_count = 0

    def resume(self) -> Resume:
        """What a feed must know to fetch only what is missing."""
        return Resume(
            last_trade_id=self.trade_ids.last,
            last_trade_ts=None if self.last_trade_ts == ABSENT else self.last_trade_ts,
            venue_bars={frame: ts for (source, frame), ts in self.venue_bars.items() if source == Source.VENUE},
            observed=self.observed.begun,
            ended=list(self.observed.ended),
            down=self.observed.down,
            heard_ts=None if self.fold.heard_ns == ABSENT else self.fold.heard_ns,
        )

    def follow_unstored(self, events: Records) -> None:
        """The ledger's word on what was kept live only, in the journal again: it need not be said once more."""
        if self.unstored_since and ((events["state"] == Coverage.UNSTORED) & (events["stream"] == 0)).any():
            self.unstored_since = self.unstored_count = 0

    def checkpoint(self) -> dict[str, Any]:
        """As msgpack can write it."""
        return {
            "id": self.instrument.id,
            "seq": self.seq,
            "journaled": self.journaled,
            "newest": self.newest,
            "observed": self.observed.state(),
            "last_trade_ts": self.last_trade_ts,
            "fold": self.fold.state(),
            "activity": None if self.activity is None else self.activity.state(),
            "trade_ids": self.trade_ids.state(),
            "venue_bars": [[*key, ts] for key, ts in self.venue_bars.items()],
            "ts_known": self.ts_known,
            "rebuild": list(self.rebuild),
            "offered": None if self.offered is None else self.offered.state(),
            "unstored": [self.unstored_since, self.unstored_count],
        }

    def restore(self, entry: dict[str, Any], end: int, band_bps: float) -> None:
        """Take over an entry of `checkpoint`; bars to be computed anew wait for the journal's offset `end`."""
        self.seq = entry["seq"]
        self.journaled = entry["journaled"]
        self.newest = entry["newest"]
        self.observed.restore(entry["observed"])
        self.last_trade_ts = entry["last_trade_ts"]
        self.fold.restore(entry["fold"])
        if self.activity is not None and entry["activity"] is not None:
            self.activity.restore(entry["activity"])
        self.trade_ids.restore(entry["trade_ids"])
        self.venue_bars = {(source, frame): ts for source, frame, ts in entry["venue_bars"]}
        self.ts_known = entry["ts_known"]
        self.rebuild = {(frame, ts): end for frame, ts in entry["rebuild"]}
        if entry["offered"] is not None:
            self.offered = OfferedBooks(band_bps)
            self.offered.restore(entry["offered"])
        self.unstored_since, self.unstored_count = entry["unstored"]
