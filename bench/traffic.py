"""A producer as a process of its own: batches of trades over ZeroMQ to a real ingest actor, and its answers.

    python bench/traffic.py '{"runtime_dir": "…", "rate": 10000, "batch": 1, …}'

`rate` > 0 paces messages by the clock (open loop: a slow answer delays nothing that is sent later, and latency is
counted from the moment a message was due); `rate` 0 sends whenever fewer than `window` batches are unanswered, and
pauses while the journal is more than `max_lag_bytes` ahead of the database, so that a rate that is reached is one
that can be held.

It speaks the wire itself (one struct, one array of records a message) so that little of the two cores goes to it.
Prints a line `ready`, then, at its end, one line of JSON (`Summary`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import zmq

from marketd.ipc import paths, sockets
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.protocol import Declare, Declared, Decoder, Failure, FromIngest, Ingest, Outcome, Part, encode
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, TRADE
from marketd.market.times import NS_PER_SECOND

VENUE = "BENCH"
TICK_SECONDS = 0.001  # of a paced producer: what is due within one is sent together
LAG_LOOK_SECONDS = 0.05
ANSWER_SECONDS = 60.0
LATENCIES_KEPT = 2_000_000


class Load(msgspec.Struct, kw_only=True):
    """What to send."""

    runtime_dir: str
    prefix: str = "SYM"  # of the instruments' names
    instruments: int = 50
    batch: int = 1  # trades of a message
    rate: float = 0.0  # messages a second; 0: as fast as they are answered
    seconds: float = 10.0
    window: int = 64
    max_lag_bytes: int = 96 << 20
    history_seconds: int = 0  # one trade a second of the past for each instrument, before anything else
    latencies: str = ""  # a file for them: int64 ns, two columns (since due, since sent)


class Summary(msgspec.Struct, kw_only=True):
    """What became of it. Times are CLOCK_MONOTONIC seconds."""

    sent: int = 0  # trades
    accepted: int = 0
    refused: int = 0
    failures: list[str] = []
    messages: int = 0
    first_sent: float = 0.0
    last_sent: float = 0.0
    last_answer: float = 0.0
    cpu_seconds: float = 0.0
    paused_seconds: float = 0.0


class Market:
    """Trades without end: a random walk for each instrument, ids rising by one."""

    def __init__(self, count: int, batch: int) -> None:
        random = np.random.default_rng(7)
        self._next = 0
        self._count = count
        self._ids = [1] * count
        self._steps = np.arange(batch)
        self._records = []
        for _ in range(count):
            records = np.zeros(batch, dtype=TRADE)
            records["price"] = 6_000_000 + np.cumsum(random.integers(-5, 6, batch))
            records["size"] = random.integers(1, 500_000, batch)
            records["side"] = random.choice([-1, 1], batch)
            self._records.append(records)

    def batch(self, until_ns: int, spread_ns: int) -> tuple[int, bytes]:
        """(index of the instrument, the next batch of it): its trades end at `until_ns`, evenly over `spread_ns`."""
        index = self._next
        self._next = (index + 1) % self._count
        records = self._records[index]
        first = self._ids[index]
        size = len(records)
        self._ids[index] = first + size
        if size == 1:
            records["ts_event"] = until_ns
            records["trade_id"] = first
        else:
            records["ts_event"] = until_ns - spread_ns + (self._steps + 1) * (spread_ns // size)
            records["trade_id"] = self._steps + first
        return index, records.tobytes()

    def history(self, index: int, end_ns: int, seconds: int) -> bytes:
        """One trade a second before `end_ns`."""
        records = np.zeros(seconds, dtype=TRADE)
        records["ts_event"] = end_ns - (np.arange(seconds, 0, -1) * NS_PER_SECOND)
        records["trade_id"] = np.arange(seconds) + self._ids[index]
        records["price"] = 6_000_000 + np.arange(seconds) % 97
        records["size"] = 1_000
        self._ids[index] += seconds
        return records.tobytes()


class Producer:
    """One DEALER to ingest, its numbered batches and their answers."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.summary = Summary()
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        sockets.configure(self._socket, high_water=100_000)
        self._socket.connect(paths.socket_url(Path(load.runtime_dir), "ingest"))
        self._decoder = Decoder(FromIngest)
        self._producer = os.urandom(16)
        self._number = 0
        self._times: dict[int, tuple[int, int]] = {}  # of unanswered batches: when due and sent, ns
        self._latencies = np.zeros((LATENCIES_KEPT, 2), dtype=np.int64)
        self._answers = 0
        self._interrupted = False
        self._market = Market(load.instruments, load.batch)
        self._names = [f"{load.prefix}{number}USD.{VENUE}" for number in range(load.instruments)]
        self._ids = self._declare()
        self._previous = [time.time_ns()] * load.instruments
        if load.history_seconds:
            self._send_history()

    def _declare(self) -> list[int]:
        wanted = [
            Instrument(id=0, symbol=name.partition(".")[0], venue=VENUE, price_scale=2, size_scale=6, quote_scale=8)
            for name in self._names
        ]
        self._socket.send(encode(Declare(id=1, instruments=wanted)))
        if not self._socket.poll(int(ANSWER_SECONDS * 1000)):
            raise RuntimeError("ingest does not answer")
        declared = self._decoder.decode(self._socket.recv())
        assert isinstance(declared, Declared), declared
        return [instrument.id for instrument in declared.instruments]

    def _send_history(self) -> None:
        end_ns = time.time_ns() - NS_PER_SECOND
        for index in range(self.load.instruments):
            payload = self._market.history(index, end_ns, self.load.history_seconds)
            self._transmit(index, payload, self.load.history_seconds, time.monotonic_ns())
        self._await_answers(0)
        self._answers = 0

    # ---- the two ways of sending --------------------------------------------------------------------

    def interrupt(self) -> None:
        """Send no more; what was sent is still answered and told."""
        self._interrupted = True

    def run(self) -> Summary:
        self.summary.first_sent = time.monotonic()
        cpu = time.process_time()
        if self.load.rate:
            self._run_paced()
        else:
            self._run_saturating()
        self.summary.last_sent = time.monotonic()
        self._await_answers(0)
        self.summary.cpu_seconds = time.process_time() - cpu
        if self.load.latencies:
            np.save(self.load.latencies, self._latencies[: min(self._answers, LATENCIES_KEPT)])
        return self.summary

    def _run_paced(self) -> None:
        started = time.monotonic_ns()
        total = round(self.load.rate * self.load.seconds)
        gap_ns = NS_PER_SECOND / self.load.rate
        tick_ns = int(TICK_SECONDS * NS_PER_SECOND)
        sent = 0
        while sent < total and not self._interrupted:
            now = time.monotonic_ns()
            # what falls into one tick is due at its beginning
            due_until = min(total, int((now - started) // tick_ns * tick_ns / gap_ns) + max(1, round(tick_ns / gap_ns)))
            while sent < due_until:
                due = started + int(sent * gap_ns) // tick_ns * tick_ns
                self._send_batch(due)
                sent += 1
            next_tick = started + ((now - started) // tick_ns + 1) * tick_ns
            while (left := next_tick - time.monotonic_ns()) > 0:
                if not self._receive(left):
                    break

    def _run_saturating(self) -> None:
        end = time.monotonic() + self.load.seconds
        arena = ArenaReader.open(paths.arena_path(Path(self.load.runtime_dir), self._names[0]))
        look = 0.0
        while (now := time.monotonic()) < end and not self._interrupted:
            if now >= look:
                look = now + LAG_LOOK_SECONDS
                while arena.durable_offset - arena.committed_offset > self.load.max_lag_bytes:
                    self.summary.paused_seconds += LAG_LOOK_SECONDS / 10
                    time.sleep(LAG_LOOK_SECONDS / 10)
            while len(self._times) < self.load.window:
                self._send_batch(time.monotonic_ns())
            self._receive(NS_PER_SECOND)

    # ---- messages -----------------------------------------------------------------------------------

    def _send_batch(self, due: int) -> None:
        now = time.time_ns()
        index, payload = self._market.batch(now, self._spread(now))
        self._transmit(index, payload, self.load.batch, due)

    def _spread(self, now: int) -> int:
        """Since the last batch of the next instrument, as if its trades had come evenly since then."""
        index = self._market._next
        spread, self._previous[index] = now - self._previous[index], now
        return max(1_000, min(spread, NS_PER_SECOND))

    def _transmit(self, index: int, payload: bytes, trades: int, due: int) -> None:
        self._number += 1
        header = encode(
            Ingest(
                id=self._number,
                instrument=self._ids[index],
                producer=self._producer,
                batch=self._number,
                parts=[Part(BY_NAME["trade"].name, trades)],
                source="bench",
                live=True,
            )
        )
        self._times[self._number] = (due, time.monotonic_ns())
        self.summary.sent += trades
        self.summary.messages += 1
        self._socket.send_multipart((header, payload), copy=True)

    def _receive(self, wait_ns: int) -> bool:
        """Take all answers that are there, after waiting for the first one; False when none came."""
        if not self._socket.poll(max(1, -(-wait_ns // 1_000_000))):
            return False
        while True:
            try:
                answer = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return True
            self._take(self._decoder.decode(answer), time.monotonic_ns())

    def _take(self, answer: Outcome | Failure, now: int) -> None:
        if isinstance(answer, Failure):
            self.summary.failures = [*self.summary.failures[-9:], answer.message]
            self._times.pop(answer.id, None)
            return
        due, sent = self._times.pop(answer.batch)
        self.summary.accepted += answer.accepted
        self.summary.refused += len(answer.refused)
        self.summary.last_answer = now / NS_PER_SECOND
        if self._answers < LATENCIES_KEPT:
            self._latencies[self._answers] = (now - due, now - sent)
        self._answers += 1

    def _await_answers(self, left: int) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while len(self._times) > left and time.monotonic() < deadline:
            self._receive(NS_PER_SECOND)
        if self._times:
            self.summary.failures = [*self.summary.failures, f"{len(self._times)} batches were never answered"]


class Traffic:
    """A producer's process, seen from the benchmark."""

    def __init__(self, load: Load) -> None:
        command = [sys.executable, __file__, msgspec.json.encode(load).decode()]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._line()  # ready: instruments are declared, history is sent

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the producer died; its error is above")
        return line

    def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def interrupt(self) -> None:
        """Let it send no more, before its time; then `finish`."""
        self._process.send_signal(signal.SIGINT)

    def finish(self) -> Summary:
        """Wait for its end."""
        summary = msgspec.json.decode(self._line(), type=Summary)
        self._process.wait(timeout=ANSWER_SECONDS)
        if summary.failures:
            raise RuntimeError(f"ingest refused batches: {summary.failures}")
        return summary

    def kill(self) -> None:
        if self.running:
            self._process.kill()
        self._process.wait()


def main() -> None:
    producer = Producer(msgspec.json.decode(sys.argv[1], type=Load))
    print("ready", flush=True)
    sys.stdin.readline()
    signal.signal(signal.SIGINT, lambda *_: producer.interrupt())
    print(msgspec.json.encode(producer.run()).decode(), flush=True)


if __name__ == "__main__":
    main()
