"""A daemon for the client's tests: real sockets, the real protocol, a few lines of behaviour.

It keeps records in memory, answers queries from them, accepts batches with numbers as ingest does, and
publishes. Tests turn
its screws: `mute` (requests that get no answer), `reply` (an answer of the test's own), `encoding`, `watermark`.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq

from marketd.ipc import protocol, sockets
from marketd.ipc.book_parts import read_part
from marketd.ipc.paths import socket_url
from marketd.ipc.presence import Presence, write_presence
from marketd.ipc.protocol import Decoder, ResultPart, Stream, StreamHeader
from marketd.market.bars import SOURCES_PER_BAR, finish_bars
from marketd.market.blocks import pack
from marketd.market.book_means import book_means, means_kind
from marketd.market.errors import MarketdError
from marketd.market.instruments import Instrument, global_instrument, resolve
from marketd.market.records import BY_NAME, Kind, KindTable, Records, Source, series_kind
from marketd.market.rows import codec
from marketd.market.times import timeframe_name

BTC = Instrument(
    id=65_537,
    symbol="BTCUSDT",
    venue="BINANCE",
    price_scale=2,
    size_scale=5,
    quote_scale=8,
    base="BTC",
    quote="USDT",
)
FUNDING = Stream(id=64, name="funding", fields={"rate": "f8", "mark": "price", "count": "i8"})
MINUTE_NS = 60_000_000_000
TRADE, CANDLE, COVERAGE = BY_NAME["trade"], BY_NAME["candle"], BY_NAME["coverage"]

Handler = Callable[[Any, list[Any]], tuple[Any, list[Any]]]


def trades(ids: Iterable[int], *, first_seq: int = 1, ts: int = 1_000_000_000) -> Records:
    """Trades a millisecond apart, with these ids, at 100.00 + id cents."""
    numbers = np.fromiter(ids, dtype=np.int64)
    records = np.zeros(len(numbers), dtype=TRADE.dtype)
    records["trade_id"], records["price"], records["size"], records["side"] = numbers, 10_000 + numbers, 50_000, 1
    records["seq"] = first_seq + np.arange(len(numbers))
    records["ts_event"] = ts + numbers * 1_000_000
    records["ts_known"] = records["ts_event"] + 1_000
    return records


def candles(
    indexes: Iterable[int], *, timeframe: int = 60, source: int = Source.OWN, flags: int = 0, first_seq: int = 1
) -> Records:
    """Bars at the indexes' multiples of the timeframe; the bar at index i closes at 100.00 + i cents."""
    numbers = np.fromiter(indexes, dtype=np.int64)
    records = np.zeros(len(numbers), dtype=CANDLE.dtype)
    records["ts"] = numbers * timeframe * 1_000_000_000
    records["ts_known"] = records["ts"] + timeframe * 1_000_000_000 + 250_000_000
    for field in ("open", "high", "low", "close"):
        records[field] = 10_000 + numbers
    records["volume"], records["trade_count"], records["seq"] = 100_000, 3, first_seq + np.arange(len(numbers))
    records["timeframe"], records["source"], records["flags"] = timeframe, source, flags
    return records


class FakeDaemon:
    """Runs in a thread; start it with `with`."""

    def __init__(self, directory: Path, instruments: Iterable[Instrument] = (BTC,), *, present: bool = True) -> None:
        self.directory = directory
        self.instruments = [global_instrument(1), *instruments]
        self.kinds = KindTable([series_kind(FUNDING.id, FUNDING.name, FUNDING.fields)])
        self.stored: dict[str, Records] = {}
        self.encoding: protocol.Format = "copy"  # of what the client lets pass as it is; else records
        self.watermark: int | None = None
        self.mute = 0
        self.rejected: list[protocol.Rejection] = []
        self.reply: Handler | None = None
        self.received: list[Any] = []
        self.outcomes: dict[tuple[bytes, int], protocol.Outcome] = {}
        self.seq = 1_000_000
        self._present = present
        self._numbers: dict[bytes, int] = {}
        self._publish: queue.Queue[list[bytes]] = queue.Queue()
        self.subscribed = threading.Event()
        self._stop = threading.Event()
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake-daemon")

    def __enter__(self) -> FakeDaemon:
        self._thread.start()
        assert self._bound.wait(10)
        if self._present:
            self.write_presence()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def write_presence(self, pid: int | None = None, **fields: Any) -> None:
        presence = Presence(
            instance="test",
            pid=os.getpid() if pid is None else pid,
            version="0",
            streams=[FUNDING],
            instruments=self.instruments[1:],
            **fields,
        )
        write_presence(self.directory, presence)

    def store(self, kind: str, records: Records) -> None:
        """Adds records of BTC, as the database would have them."""
        before = self.stored.get(kind)
        self.stored[kind] = records if before is None else np.concatenate((before, records))

    def publish(
        self, kind: str, records: Records, *, timeframe: str | None = None, skip: int = 0, number: int = BTC.id
    ) -> None:
        """One message of the stream, of the id `number`; `skip` messages are left out before it, as if they had been
        lost."""
        topic = sockets.topic(kind, BTC.venue, BTC.symbol, timeframe)
        message = self._numbers.get(topic, 0) + skip
        self._numbers[topic] = message + 1
        known = int(records["ts_known"].max(initial=0))
        first = int(records["seq"][0]) if len(records) else 0
        header = StreamHeader(message, kind, len(records), number, known, first)
        self._publish.put([topic, protocol.encode(header), records.tobytes()])

    def publish_raw(self, frames: list[bytes]) -> None:
        self._publish.put(frames)

    def restart_numbers(self) -> None:
        self._numbers.clear()

    # ---- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        with zmq.Context() as context:
            query, ingest, stream = (context.socket(kind) for kind in (zmq.ROUTER, zmq.ROUTER, zmq.XPUB))
            stream.set(zmq.XPUB_VERBOSE, 1)
            for socket, name in ((query, "query"), (ingest, "ingest"), (stream, "stream")):
                sockets.configure(socket)
                socket.bind(socket_url(self.directory, name))
            self._bound.set()
            decoders = {query: Decoder(protocol.ToQuery), ingest: Decoder(protocol.ToIngest)}
            try:
                while not self._stop.is_set():
                    self._turn(decoders, stream)
            finally:
                for socket in (query, ingest, stream):
                    socket.close(0)

    def _turn(self, decoders: dict[Any, Decoder], stream: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        for socket in (*decoders, stream):
            poller.register(socket, zmq.POLLIN)
        for socket, _ in poller.poll(10):
            if socket is stream:
                if stream.recv()[:1] == b"\1":
                    self.subscribed.set()
            else:
                self._answer(socket, decoders[socket])
        while self.subscribed.is_set() and not self._publish.empty():
            stream.send_multipart(self._publish.get())

    def _answer(self, socket: zmq.Socket[bytes], decoder: Decoder) -> None:
        received = sockets.receive_routed(socket, decoder)
        if received is None:
            return
        if received.error is not None:
            sockets.send_message(socket, sockets.failure(received.error, received.id), route=received.route)
            return
        self.received.append(received.message)
        try:
            handler = self.reply or self._handle
            message, frames = handler(received.message, received.payloads)
        except MarketdError as error:
            message, frames = sockets.failure(error), []
        if self.mute:
            self.mute -= 1
            return
        message.id = message.id or received.id
        sockets.send_message(socket, message, frames, route=received.route)

    def _handle(self, message: Any, payloads: list[Any]) -> tuple[Any, list[Any]]:
        name = type(message).__name__.lower()
        return getattr(self, f"answer_{name}")(message, payloads)

    # ---- answers --------------------------------------------------------------------------------

    def answer_describe(self, message: Any, payloads: list[Any]) -> tuple[Any, list[Any]]:
        description = protocol.Description(
            instance="test",
            daemon_no=1,
            version="0",
            runtime_dir=str(self.directory),
            profile="postgres",
            timeframes=[1, 60],
            streams=[FUNDING],
            instruments=self.instruments,
            aliases={"bitcoin": "BTCUSDT.BINANCE"},
        )
        return description, []

    def answer_health(self, message: Any, payloads: list[Any]) -> tuple[Any, list[Any]]:
        return protocol.HealthReport(status="ok", report={"actors": 4}), []

    def answer_rows(self, message: Any, payloads: list[Any]) -> tuple[Any, list[Any]]:
        kind, stored = self.kinds.by_name(message.stream), self.stored.get(message.stream)
        name = message.stream
        if message.stream in ("book", "buckets") and message.timeframe is not None:
            name = f"{message.stream}.{timeframe_name(message.timeframe)}"
            kind, stored = self._by_timeframe(kind, message.timeframe, stored)
        records = self._select(kind, message, stored, message.limit)
        return self._answer_with(message, [(name, kind, records)])

    def _by_timeframe(self, kind: Kind, timeframe: int, stored: Records | None) -> tuple[Kind, Records | None]:
        if stored is None or kind.name == "buckets":
            return kind, None if stored is None else stored[stored["timeframe"] == timeframe]
        means = book_means(stored, timeframe, price_scale=BTC.price_scale, size_scale=BTC.size_scale)
        return means_kind(means.dtype["bid_price"].shape[0]), means

    def answer_bars(self, message: Any, payloads: list[Any]) -> tuple[Any, list[Any]]:
        stored = self.stored.get("candle", np.zeros(0, dtype=CANDLE.dtype))
        parts = []
        rows = None if message.limit is None else message.limit * SOURCES_PER_BAR
        for timeframe in message.timeframes:
            bars = stored[stored["timeframe"] == timeframe]
            if message.bar_source != "best":
                bars = bars[bars["source"] == Source[message.bar_source.upper()]]
            bars = self._select(CANDLE, message, bars, rows)
            if self.encoding == "records":
                bars = finish_bars(bars, message.bar_source, message.limit)
            parts.append((f"candle.{timeframe_name(timeframe)}", CANDLE, bars))
        return self._answer_with(message, parts)

    def answer_declare(self, message: Any, payloads: list[Any]) -> tuple[Any, list[Any]]:
        told = [msgspec.structs.replace(instrument, id=65_600 + i) for i, instrument in enumerate(message.instruments)]
        self.instruments += told
        return protocol.Declared(instruments=told, resume=[protocol.Resume() for _ in told]), []

    def answer_ingest(self, message: Any, payloads: list[Any]) -> tuple[Any, list[Any]]:
        """Refuses trades that are not above zero; a repeated number gets its first outcome."""
        number = (message.producer, message.batch)
        if number in self.outcomes:
            return msgspec.structs.replace(self.outcomes[number], id=0, repeated=True), []
        if not message.parts:
            self.rejected += message.rejected
            self.outcomes[number] = outcome = protocol.Outcome(batch=message.batch, accepted=0)
            return outcome, []
        (part,) = message.parts
        records = read_part(self.kinds.by_name(part.kind), part.count, payloads[0]).copy()
        bad = records["price"] <= 0 if part.kind == "trade" else np.zeros(len(records), dtype=bool)
        refused = [protocol.Refusal(int(i), "positive_price", "price: not above zero") for i in np.flatnonzero(bad)]
        accepted = records[~bad]
        accepted["seq"] = self.seq + np.arange(len(accepted))
        accepted["ts_known"] = 5_000_000_000
        self.store(part.kind, accepted)
        outcome = protocol.Outcome(
            batch=message.batch, accepted=len(accepted), refused=refused, seq=self.seq, ts_known=5_000_000_000
        )
        self.seq += len(accepted)
        self.outcomes[number] = outcome
        return outcome, []

    def _select(self, kind: Kind, message: Any, stored: Records | None, limit: int | None) -> Records:
        records = np.zeros(0, dtype=kind.dtype) if stored is None else stored
        if message.known_at is not None:
            records = records[records["ts_known"] <= message.known_at]
        times = records[kind.time]
        keep = np.ones(len(records), dtype=bool)
        if message.start is not None:
            keep &= times >= message.start
        if message.end is not None:
            keep &= times < message.end
        records = records[keep][np.argsort(times[keep], kind="stable")]
        return records if limit is None else records[-limit:]

    def _passes_on(self, message: Any, encoding: str) -> bool:
        return message.format == "packed" and self.encoding == encoding

    def _answer_with(self, message: Any, parts: list[tuple[str, Kind, Records]]) -> tuple[Any, list[Any]]:
        instrument = resolve(message.symbol, self.instruments, aliases={"bitcoin": "BTCUSDT.BINANCE"})
        told, frames = [], []
        for name, kind, records in parts:
            as_copy = self._passes_on(message, "copy") and kind.name in ("trade", "candle", "funding")
            as_block = self._passes_on(message, "packed") and len(records) > 0
            if as_block:
                frames.append(pack(records))
            elif as_copy:
                assert kind.table is not None
                ids = np.full(len(records), instrument.id, dtype=np.int32)
                frames.append(codec(kind.table, kind).encode(ids, records[::-1]))  # newest first, as it comes
            else:
                frames.append(records.tobytes())
            told.append(
                ResultPart(
                    name=name,
                    kind=kind.name,
                    count=len(records),
                    encoding="packed" if as_block else "copy" if as_copy else "records",
                    table=kind.table if as_copy else None,
                    depth=records.dtype["bid_price"].shape[0] if "bid_price" in (records.dtype.names or ()) else None,
                )
            )
        meta = protocol.Meta(served_from="database", watermark=self.watermark)
        return protocol.Answer(instrument=instrument, parts=told, meta=meta), frames
