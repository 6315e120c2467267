"""The ingest process: a poll loop around `daemon.ingest`, the journal's recovery before it, a heartbeat beside it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import zmq

from marketd.daemon import metrics
from marketd.daemon.actor import PollActor
from marketd.daemon.clock import LiveClock
from marketd.daemon.consolidated import Consolidator
from marketd.daemon.feeds.followed import followed_symbols
from marketd.daemon.ingest import Ingest
from marketd.daemon.journal_room import RoomWait
from marketd.daemon.kernel import Kernel
from marketd.daemon.observed_streams import BOOK
from marketd.daemon.publisher import Publisher
from marketd.daemon.query_link import QueryLink
from marketd.daemon.recovery import recover
from marketd.daemon.registry import REGISTRY_NAME, Registry
from marketd.daemon.settings import Config
from marketd.daemon.warming import Warmer
from marketd.ipc import paths, sockets
from marketd.ipc.arena import ArenaState
from marketd.ipc.journal import Journal
from marketd.ipc.protocol import Answer, RebuildBars
from marketd.market.instruments import CONSOLIDATED_VENUE, GLOBAL_NAME
from marketd.market.records import CANDLE
from marketd.market.times import NS_PER_SECOND

_log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 0.1  # a stopped writer shows within a second
MESSAGES_PER_TURN = 256  # then durable offsets, control and heartbeat get their turn
DRAIN_LOOK_SECONDS = 0.1  # how often a drain that waits for the disk looks whether it still works
MAX_TOPIC_BYTES = 1_024  # of a subscription; a topic of ours is far shorter
_NOBLOCK = int(zmq.NOBLOCK)  # flags of an enum are slow to combine
STREAM_HIGH_WATER = 10_000  # messages to a subscriber that does not read; beyond, they are dropped and it can tell


class IngestActor(PollActor):
    def start(self) -> None:
        config = self.config
        self._room = RoomWait()
        self._is_caught_up = False  # nothing waits to be read: who is silent has said nothing
        self._registry = Registry(config.state_path / REGISTRY_NAME, config.daemon_no)
        self._kernel = Kernel(
            config.kinds(),
            config.timeframe_seconds,
            grace_ns=config.grace,
            max_skew_ns=config.validation.max_skew,
            band_bps=config.book.band_bps,
            activity_bars=config.activity_bars,
        )
        self._journal = self._room.until(self._open_journal, self._pause)
        self._stream = self.context.socket(zmq.XPUB)
        sockets.configure(self._stream, high_water=STREAM_HIGH_WATER, max_frame_bytes=MAX_TOPIC_BYTES)
        self._publisher = Publisher(
            config.runtime_path,
            config.instance,
            self._journal.uuid,
            self._kernel,
            config.cache,
            self._stream,
            config.book,
        )
        for instrument in self._registry.instruments:
            if not instrument.removed:
                self._publisher.board(instrument)
        recover(self._journal, self._kernel, self._registry, self._publisher)
        self._queries = QueryLink(self.context, paths.socket_url(config.runtime_path, "query"))
        self._rebuilding: RebuildBars | None = None
        self._clock = LiveClock(self._kernel.ts_known)
        self._socket = self.context.socket(zmq.ROUTER)
        sockets.configure(self._socket, high_water=sockets.HIGH_WATER_MESSAGES * 10)
        self._ingest = Ingest(
            registry=self._registry,
            kernel=self._kernel,
            journal=self._journal,
            publisher=self._publisher,
            clock=self._clock,
            socket=self._socket,
            live_only=config.journal.when_full == "live_only",
            consolidator=self._consolidator() if config.book.consolidated else None,
        )
        self._ingest.hearing.followed = followed_symbols(config)
        self._acks = self._ingest.acks
        self._publisher.announce(self._registry.instruments)
        self._beat()
        sockets.bind(self._stream, paths.socket_url(config.runtime_path, "stream"))
        sockets.bind(self._socket, paths.socket_url(config.runtime_path, "ingest"))
        metrics.publish("ingest", self._ingest.statistics)
        metrics.publish("journal", self._journal.statistics)
        metrics.publish("arena", self._publisher.statistics)
        if self._publisher.new_boards:
            self.become("warming")
        else:
            self._publisher.set_state(ArenaState.LIVE)

    def _open_journal(self) -> Journal:
        config = self.config  # perhaps another one than at the last try
        return Journal.open(
            config.state_path / "journal",
            front_path=config.runtime_path / "front",
            front_bytes=config.journal.front,
            segment_bytes=config.journal.segment,
            budget_bytes=config.journal.budget,
            durability=config.journal.durability,
            interval_ns=config.journal.interval,
            checkpoint=self._kernel.checkpoint,
            flusher="process",
        )

    def _pause(self, seconds: float) -> bool:
        """Answer the supervisor for so long; False once we are to stop."""
        poller = zmq.Poller()
        self.control.register(poller)
        deadline = time.monotonic() + seconds
        while not self.stopping and (left := deadline - time.monotonic()) > 0:
            if self.control.called(dict(poller.poll(round(left * 1000)))):
                self.control.read()
        return not self.stopping

    def _consolidator(self) -> Consolidator:
        """With the venues that there are, and their books as shared memory has them."""
        made = Consolidator(self._kernel.kinds, self.config.book)
        boards = [board for board in self._publisher.boards if not board.state.instrument.removed]
        for board in sorted(boards, key=lambda board: board.state.instrument.venue != CONSOLIDATED_VENUE):
            made.declare(board.state.instrument)
        for board in boards:
            if "book" in board.rings and not board.is_new:
                made.seed(board.state.instrument, board.newest("book"), board.arena.ts_known)
            state = board.state
            if state.instrument.venue == CONSOLIDATED_VENUE and BOOK in state.observed.begun:
                made.resume(state.instrument, observed=BOOK in state.observed, newest_ns=state.newest)
        return made

    # ---- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        if self.state == "warming":
            self._warm()
        # after a reboot the newest that was journaled is the last sign of life
        self._ingest.hearing.begin(self._publisher.last_alive_ns or self._kernel.ts_known)
        poller = zmq.Poller()
        self.control.register(poller)
        poller.register(self._journal.fd, zmq.POLLIN)
        poller.register(self._stream, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        reading = True
        next_beat = time.monotonic()
        while not self.stopping:
            if reading != self._acks.accepting:
                reading = not reading
                poller.modify(self._socket, zmq.POLLIN if reading else 0)
            events = dict(poller.poll(self._wait_ms(next_beat)))
            self._journal.look_away()
            if self._journal.fd in events:
                self._hear()
            self._acks.acknowledge_if_due()
            if self._socket in events:
                self._read_some()
            if self.control.called(events):
                self.control.read()
            if self._stream in events:
                self._read_subscriptions()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + HEARTBEAT_SECONDS
                self._beat()

    def _wait_ms(self, next_beat: float) -> int:
        """How long the poll may last: not at all where something became durable that somebody waits for."""
        left = next_beat - time.monotonic()
        if self._journal.end != self._acks.acknowledged:
            patience_ns = self._acks.patience_ns
            if not patience_ns:
                self._journal.listen()
                if self._journal.durable != self._acks.acknowledged:
                    return 0
            left = min(left, (patience_ns or NS_PER_SECOND) / NS_PER_SECOND)
        return max(0, math.ceil(left * 1000))

    def _warm(self) -> None:
        """Fill the arenas that are new. Senders wait meanwhile: what they send would come before its past."""
        boards = self._publisher.new_boards

        def turn() -> bool:
            self.control.read()
            self._beat()
            return not self.stopping

        Warmer(self._queries, self._kernel, self.config.state_path / "journal", boards).run(turn)
        if not self.stopping:  # else the successor fills them
            self._publisher.set_state(ArenaState.LIVE)
            self.become("live")

    def _rebuild(self) -> None:
        """Late trades of bars that the fold no longer keeps: ask for them one instrument at a time, and adopt the
        answer.
        """
        taken = self._queries.take()
        if taken is not None and self._rebuilding is not None:
            answer, payloads = taken
            if isinstance(answer, Answer):
                self._ingest.rebuilds.adopt(self._rebuilding, np.frombuffer(payloads[0], dtype=CANDLE))
            else:
                self._ingest.rebuilds.failed()
            self._rebuilding = None
        if not self._queries.busy:
            self._rebuilding = self._ingest.rebuilds.next(self._acks.committed)
            if self._rebuilding is not None:
                self._queries.ask(self._rebuilding)

    def _read_some(self) -> None:
        receive, handle = self._socket.recv, self._ingest.handle
        journal, acks = self._journal, self._acks
        self._is_caught_up = False
        for _ in range(MESSAGES_PER_TURN):
            try:
                peer = receive(_NOBLOCK)
            except zmq.Again:
                self._is_caught_up = True
                return
            # recv_multipart asks the socket after each frame whether there is more; a Frame knows by itself
            frames, more = [], True
            while more:
                frame = receive(_NOBLOCK, copy=False)
                frames.append(frame.bytes)
                more = frame.more
            handle(peer, frames)
            if journal.durable != acks.acknowledged:
                acks.acknowledge_if_due()  # a turn may last much longer than the disk

    def _hear(self) -> None:
        self._journal.hear()
        if self._journal.failure is not None:
            # what was accepted since may not reach the disk: nothing more may be acknowledged, and the next start
            # finds out what did
            raise self._journal.failure

    def _read_subscriptions(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            try:
                self._publisher.heard(self._stream.recv(zmq.NOBLOCK))
            except zmq.Again:
                return

    def _beat(self) -> None:
        step = self._clock.correct()
        if step:
            self._ingest.lane.step_of_clock(self._registry.by_name(GLOBAL_NAME), step)
        self._ingest.lane.tell_due_events()
        self._acks.tell_writer()
        if self._is_caught_up:
            self._ingest.leave_orphans()
            self._ingest.hearing.look()
            self._ingest.look_at_consolidated()
        self._journal.release(self._acks.committed, self.config.journal.keep)
        self._publisher.heartbeat(self._journal.durable, self._acks.committed)
        if self.state == "live":
            self._rebuild()  # while warming, the line to the query actor is the Warmer's

    # ---- the end ------------------------------------------------------------------------------

    def drain(self, deadline: float) -> None:
        while len(self._acks) and time.monotonic() < deadline:
            self._journal.wait_durable(self._journal.end, DRAIN_LOOK_SECONDS)
            self._hear()
            self._acks.acknowledge()

    def end(self) -> None:
        self._journal.close()
        self._acks.acknowledge()
        self._acks.tell_writer()  # it drains after us, up to this last word
        self._beat_last()
        self._ingest.close()
        self._publisher.close()
        self._queries.close()
        self._registry.close()
        self._socket.close(linger=1000)
        self._stream.close(linger=0)

    def _beat_last(self) -> None:
        self._publisher.heartbeat(self._journal.durable, self._acks.committed)

    def reload(self, config: Config) -> None:
        if not hasattr(self, "_ingest"):
            return  # waiting for room: the next try is made with it
        self._journal.set_budget(config.journal.budget)
        self._ingest.live_only = config.journal.when_full == "live_only"
        self._kernel.set_max_skew(config.validation.max_skew)
        self._ingest.hearing.followed = followed_symbols(config)

    def statistics(self) -> Mapping[str, Any]:
        if not hasattr(self, "_ingest"):
            waits = getattr(self, "_room", None)
            return {"journal": {"blocked": waits.blocked}} if waits is not None and waits.blocked else {}
        return {
            "ingest": self._ingest.statistics(),
            "journal": self._journal.statistics(),
            "arena": self._publisher.statistics(),
            "rules": dict(self._ingest.rules),
            "committed_offset": self._acks.committed,
        }
