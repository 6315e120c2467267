"""A subscription's bookkeeping, without sockets: what arrived, what is missing, what was seen before.

The daemon numbers the messages of each topic. A hole in the numbers, or numbers that begin anew (the daemon was
restarted), means that records may be missing between the last one delivered and the message at hand. They are
looked for in shared memory when the ring reaches back that far, else in the database, and delivered first.
A record is delivered once: its `seq` is greater than that of the one before it on the topic.

A finer precision gives an instrument another id, with scales and a `seq` of its own, on the same topic: each message
says whose it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from marketd.client.arguments import ceil_us
from marketd.client.books import frame_of
from marketd.client.cache import DataCacheManager
from marketd.client.calls import Plan, pause
from marketd.client.catalogue import Catalogue
from marketd.client.frames import Frame
from marketd.client.requests import bars, joined, rows
from marketd.ipc import sockets
from marketd.ipc.book_parts import read_part
from marketd.ipc.protocol import Meta, StreamHeader
from marketd.ipc.sockets import Payload
from marketd.market.errors import InvalidArgument, MarketdError, ProtocolError
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, Records
from marketd.market.times import NS_PER_SECOND, parse_time_ns, parse_timeframe, timeframe_name, type_time

# The database is asked by event time, while what is missing is known by arrival: a record may have come so much
# later than the market made it. Shared memory is asked by `seq` and needs no such bound.
LATE_NS = 3600 * NS_PER_SECOND
TIMED = ("candle", "buckets")  # kinds that have a topic for each timeframe
BUCKET_TIMEFRAMES = (1, 60)  # s; of bars the daemon tells
TICK = "tick"  # is kept nowhere: one that was missed cannot be looked for
UNPUBLISHED = "instrument"  # has no topic: `instruments` lists them


class SubscriptionStatistics(NamedTuple):
    """Counted over the life of a subscription."""

    messages: int  # that arrived
    records: int  # that were delivered
    missed: int  # messages that did not arrive, as far as the numbers tell
    restarts: int  # times that the numbers began anew
    fetched: int  # records that came from shared memory or the database instead
    duplicates: int  # records that were dropped because they had been delivered
    garbage: int  # messages that could not be read


class Message(NamedTuple):
    """One message of the topic."""

    header: StreamHeader
    records: Records


class Follower:
    """One topic, followed. `open` and `begin` come first; then each message goes through `read` and `settle`."""

    kind: Kind
    instrument: Instrument

    def __init__(
        self,
        catalogue: Catalogue,
        local: DataCacheManager | None,
        kind: str,
        symbol: str,
        timeframe: str | int | None = None,
        since: type_time = None,
    ) -> None:
        if (kind in TIMED) != (timeframe is not None):
            raise InvalidArgument(
                "timeframe: a subscription to 'candle' or 'buckets' needs one, others have none", field="timeframe"
            )
        if kind == UNPUBLISHED:
            raise InvalidArgument("kind: instruments are not published; `instruments` lists them", field="kind")
        if kind == TICK and since is not None:
            raise InvalidArgument("since: ticks are kept nowhere; subscribe from now on", field="since")
        self.topic = b""
        self._catalogue = catalogue
        self._local = local
        self._names = (kind, symbol)
        self._timeframe = None if timeframe is None else parse_timeframe(timeframe)
        self._since = None if since is None else ceil_us(parse_time_ns(since, field="since"))
        self._next_number: int | None = None
        self._last_seq: int | None = None  # of what was delivered; None: it does not matter what came before
        self._from_ns: int | None = None  # event time from which a missing record is looked for
        self._messages = self._records = self._missed = self._restarts = 0
        self._fetched = self._duplicates = self._garbage = 0

    def open(self) -> Plan[bytes]:
        """Plan: the topic to subscribe to."""
        kind, symbol = self._names
        self.kind = yield from self._catalogue.kind(kind)
        self.instrument = yield from self._catalogue.instrument(symbol)
        if self._timeframe is not None:
            yield from self._check_timeframe(self._timeframe)
        name = None if self._timeframe is None else timeframe_name(self._timeframe)
        self.topic = sockets.topic(kind, self.instrument.venue, self.instrument.symbol, name)
        return self.topic

    def _check_timeframe(self, seconds: int) -> Plan[None]:
        """Plan: InvalidArgument for one that is never published: it would be waited for without end."""
        published: Sequence[int] = BUCKET_TIMEFRAMES
        if self.kind.name == "candle":
            published = (yield from self._catalogue.describe()).timeframes
            if seconds not in published:  # the daemon may have been configured anew
                published = (yield from self._catalogue.describe(fresh=True)).timeframes
        if seconds not in published:
            names = ", ".join(map(timeframe_name, published))
            raise InvalidArgument(
                f"timeframe: {self.kind.name} is not published by {timeframe_name(seconds)}; there are: {names}",
                field="timeframe",
            )

    def begin(self) -> Plan[list[Frame]]:
        """Plan, once subscribed: what there is since `since`; without one, from where on nothing is missed."""
        if self._since is None:
            self._begin_now()
            return []
        self._last_seq, self._from_ns = 0, self._since
        frames = yield from self._ask(self._since)
        self.instrument = frames[0].instrument  # what was known here may be of before a finer precision
        records, source = self._own(frames), frames[0].meta.served_from
        return self._deliver(records[np.argsort(records["seq"], kind="stable")], Meta(served_from=source))

    def _begin_now(self) -> None:
        """A subscription takes a moment to reach the daemon. Where shared memory tells what was newest before,
        what was published in that moment is found with the first message."""
        if self._local is None or self.kind.name in ("candle", TICK):  # bars would have to be asked of the database
            return
        with contextlib.suppress(MarketdError):
            self.instrument = self._local.instrument(self.instrument.name)
            cut = self._local.cut(self.instrument.name)
            self._last_seq, self._from_ns = cut.seq, max(0, cut.ts_event - LATE_NS)

    def read(self, frames: Sequence[Payload]) -> Message | None:
        """The message in these frames; None (and counted) when it is none of this topic."""
        try:
            topic, header, payload = sockets.read_stream(frames)
            if topic != self.topic or header.kind != self.kind.name:
                raise ProtocolError(f"a message of {header.kind} on topic {topic!r}", field="kind")
            records = read_part(self.kind, header.count, payload)  # books: at whatever depth the daemon has now
        except ProtocolError:
            self._garbage += 1
            return None
        self._messages += 1
        return Message(header, records)

    def settle(self, message: Message) -> Plan[list[Frame]]:
        """Plan: what is to be delivered now: missing records first. When it fails, it may be tried again."""
        header, records = message
        if header.instrument != self.instrument.id:
            yield from self._go_on_with(header.instrument)
        found: list[Frame] = []
        number = header.number
        hole = number != self._next_number if self._next_number is not None else self._last_seq is not None
        if hole and self._last_seq is not None and len(records) and self.kind.name != TICK:
            missing, source = yield from self._missing(int(records["seq"].min()), header.ts_known)
            self._fetched += len(missing)
            found += self._deliver(missing, Meta(served_from=source, watermark=header.ts_known))
        if hole and self._next_number is not None:
            self._missed += max(0, number - self._next_number)
            self._restarts += number < self._next_number
        self._next_number = number + 1
        return found + self._deliver(records, Meta(served_from="stream", watermark=header.ts_known))

    def _go_on_with(self, number: int) -> Plan[None]:
        """Plan: the topic belongs to another id from here on."""
        attempt = 0
        while True:
            description = yield from self._catalogue.describe(fresh=True)
            found = next((each for each in description.instruments if each.id == number), None)
            if found is not None:
                break
            yield from pause(attempt)  # the daemon looks for new ones once a second
            attempt += 1
        self.instrument = found
        self._last_seq = None if self._last_seq is None else 0

    def statistics(self) -> SubscriptionStatistics:
        return SubscriptionStatistics(
            messages=self._messages,
            records=self._records,
            missed=self._missed,
            restarts=self._restarts,
            fetched=self._fetched,
            duplicates=self._duplicates,
            garbage=self._garbage,
        )

    # ---- parts ----------------------------------------------------------------------------------

    def _deliver(self, records: Records, meta: Meta) -> list[Frame]:
        if self._last_seq is not None:
            fresh = records[records["seq"] > self._last_seq]
            self._duplicates += len(records) - len(fresh)
            records = fresh
        if not len(records):
            return []
        self._records += len(records)
        self._last_seq = int(records["seq"].max())
        self._from_ns = max(self._from_ns or 0, int(records[self.kind.time].max()) - LATE_NS)
        return [frame_of(self.kind, self.instrument, records, meta, timeframe=self._timeframe)]

    def _missing(self, before_seq: int, ts_known: int) -> Plan[tuple[Records, str]]:
        """Records after the last delivered one and before `before_seq`, by `seq`, and where they were found."""
        records = self._from_arena()
        source = "arena"
        if records is None:
            records, source = yield from self._query(self._from_ns, known_until=ts_known)
        assert self._last_seq is not None
        records = records[(records["seq"] > self._last_seq) & (records["seq"] < before_seq)]
        return records[np.argsort(records["seq"], kind="stable")], source

    def _from_arena(self) -> Records | None:
        """What the ring has; None unless it reaches back to the last record that was delivered.

        Not for bars: their rings are in the order of time, so that their oldest `seq` bounds nothing.
        """
        if self._local is None or self.kind.name == "candle":
            return None
        try:
            ring = self._local.whole_ring(self.kind.name, self.instrument.name, self._timeframe)
        except MarketdError:
            return None
        if ring.instrument.id != self.instrument.id:
            return None
        records = ring.records
        return records if len(records) and int(records["seq"][0]) <= (self._last_seq or 0) else None

    def _query(self, start: int | None, known_until: int) -> Plan[tuple[Records, str]]:
        """What the daemon answers, asked again until it is complete up to `known_until` (ts_known)."""
        attempt = 0
        while True:
            frames = yield from self._ask(start)
            watermarks = [frame.meta.watermark for frame in frames if frame.meta.watermark is not None]
            if not watermarks or min(watermarks) >= known_until:
                return self._own(frames), frames[0].meta.served_from
            yield from pause(attempt)
            attempt += 1

    def _own(self, frames: Sequence[Frame]) -> Records:
        """Their records, but those of another id."""
        return joined(
            [frame.records if frame.instrument.id == self.instrument.id else frame.records[:0] for frame in frames]
        )

    def _ask(self, start: int | None) -> Plan[list[Frame]]:
        name = self.instrument.name
        if self._timeframe is None or self.kind.name != "candle":
            return [(yield from rows(self._catalogue, self.kind.name, name, start, timeframe=self._timeframe))]
        frames: list[Frame] = []
        for source in ("own", "venue"):
            found = yield from bars(self._catalogue, name, [self._timeframe], start, bar_source=source)
            frames += found.values()
        return frames
