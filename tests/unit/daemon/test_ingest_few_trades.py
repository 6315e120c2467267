"""A message of one to eight trades has a way of its own through ingest: it ends as the general way does.

Two daemons get the same messages; in one of them nothing takes a shorter way, whether ingest's, the kernel's, the
validator's or the fold's. Journal, shared memory, stream, answers and the state to restart from must be the same.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lane import BTC, MAX_SKEW_NS, MS, START, bars
from marketd.daemon import ingest as ingest_module
from marketd.daemon.clock import LiveClock
from marketd.daemon.ingest import Ingest
from marketd.daemon.kernel import Kernel
from marketd.ipc import protocol
from marketd.ipc.journal import Journal
from marketd.ipc.journal_reader import JournalReader
from marketd.market import candles, validation
from marketd.market.records import TRADE, TradeFlag
from marketd.market.times import ABSENT
from small_daemon import SmallDaemon

NOW = START + 60_000 * MS
NAMES = (BTC.symbol, "ETHUSDT")
numbers = itertools.count(1)

# what each field of a trade may be beside what it mostly is
ODD: dict[int, list[int]] = {
    0: [START + 999, NOW + MAX_SKEW_NS - MS, NOW + 2 * MAX_SKEW_NS, -1, 0, ABSENT, 2**63 - 1],
    1: [1, 2, 3, -1, 2**63 - 1, ABSENT],
    2: [-1, 0, ABSENT, 2**62, 2**63 - 1],
    3: [-1, 0, ABSENT, 2**55, 2**61, 2**63 - 1],
    4: [0, 2, -(2**31)],
    5: [int(TradeFlag.HASHED_ID), int(TradeFlag.NOT_MARKET), 1 << 30],
}
good = st.tuples(
    st.integers(0, 4_000).map(lambda ms: START + ms * MS),
    st.integers(1, 10_000),
    st.integers(90, 110),
    st.integers(1, 9),
    st.sampled_from([-1, 1]),
    st.just(0),
)
odd = st.builds(
    lambda row, field, at: (*row[:field], ODD[field][at % len(ODD[field])], *row[field + 1 :]),
    good,
    st.sampled_from(list(ODD)),
    st.integers(0, 6),
)
FEW = {"min_size": 1, "max_size": 9}
batches = st.one_of(st.lists(good, **FEW), st.lists(odd, **FEW), st.lists(st.one_of(good, good, good, odd), **FEW))


class Sent(msgspec.Struct, frozen=True):
    """One message, and how ingest finds its journal."""

    rows: list[tuple[int, ...]]
    instrument: int
    batch: int
    rejects: bool
    with_bar: bool
    live: bool
    is_full: bool


seldom = st.sampled_from([False] * 9 + [True])
messages = st.builds(
    Sent,
    rows=batches,
    instrument=st.integers(0, 1),
    batch=st.integers(0, 20),  # repeated ones among them
    rejects=seldom,
    with_bar=seldom,
    live=st.booleans(),
    is_full=seldom,
)


GOOD = (START, 5_000, 100, 5, 1, 0)
ONE_ODD = [(*GOOD[:field], value, *GOOD[field + 1 :]) for field, values in ODD.items() for value in values]


def each_alone_and_among_others() -> list[Sent]:
    """Every odd value in a message of its own, and between good trades; and bars that close, one by one and at once."""
    told: list[list[tuple[int, ...]]] = []
    for number, row in enumerate(ONE_ODD):
        before, after = ((START + number * 100 * MS, 6_000 + 2 * number + at, 101, 1, -1, 0) for at in (0, 1))
        told += [[row], [before, row, after]]
    told += [[(START + second * 1_000 * MS, 9_000 + second, 99, 2, 1, 0)] for second in range(4)]
    return [Sent(rows, 0, number, False, False, True, False) for number, rows in enumerate(told, 1)]


def frames_of(sent: Sent, number: int) -> list[bytes]:
    records = np.array([(ts, 7, 7, *rest) for ts, *rest in sent.rows], dtype=TRADE)
    parts, payloads = [protocol.Part("trade", len(records))], [records.tobytes()]
    if sent.with_bar:
        parts.append(protocol.Part("candle", 1))
        payloads.append(bars([0]).tobytes())
    header = protocol.Ingest(
        id=number,
        instrument=f"{NAMES[sent.instrument]}.{BTC.venue}",
        producer=b"p" * 16,
        batch=sent.batch,
        parts=parts,
        source="test",
        live=sent.live,
        rejected=[protocol.Rejection("trade", "precision", "too fine", b"raw")] if sent.rejects else [],
    )
    return [protocol.encode(header), *payloads]


@contextmanager
def general_way() -> Iterator[None]:
    """Nothing takes a shorter way."""
    with ExitStack() as stack:
        for owner, name, value in (
            (ingest_module, "_is_few_trades", lambda *_: False),
            (Kernel, "accept_few", lambda *_: None),
            (validation, "FEW_TRADES", 0),
            (validation, "_many_are_good", lambda *_: False),
            (candles, "FEW_TRADES", 0),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def run(state: Path, runtime: Path, sent: list[Sent]) -> dict[str, Any]:
    """What a daemon made of the messages, wherever it shows."""
    with SmallDaemon(state, runtime) as daemon:
        for name in NAMES:
            daemon.declare(msgspec.structs.replace(BTC, symbol=name))
        daemon.publisher.heard(b"\x01")
        socket = mock.Mock()
        moments = itertools.count(NOW, 1_500)
        made = Ingest(
            registry=daemon.registry,
            kernel=daemon.kernel,
            journal=daemon.journal,
            publisher=daemon.publisher,
            clock=LiveClock(NOW, wall=lambda: next(moments), monotonic=lambda: 0),
            socket=socket,
            live_only=True,
        )
        begin = daemon.journal.end
        for number, each in enumerate(sent, 1):
            full = mock.patch.multiple(Journal, has_room=False, blocked="the budget is used up")
            with full if each.is_full else ExitStack():
                made.handle(b"peer", frames_of(each, number))
        assert daemon.journal.wait_durable(daemon.journal.end, 30)
        made.acks.acknowledge()
        made.close()
        with JournalReader(daemon.state / "journal") as reader:
            frames = reader.read(begin, daemon.journal.end, 1 << 22)
        shown = []
        for name in NAMES:
            with daemon.reader(msgspec.structs.replace(BTC, symbol=name)) as arena:
                records, cut = arena.snapshot(dict.fromkeys(arena.rings, 10_000))
                stamps = (cut.number, cut.seq, cut.ts_known, cut.ts_event, cut.journal_offset, cut.complete_since)
                shown.append((stamps, cut.open_bars.tobytes(), {ring: r.tobytes() for ring, r in records.items()}))
        return {
            "journal": [  # all of a frame but how far the disk was when it was written
                (
                    *f[:2],
                    *f[3:7],
                    [(*section[:3], bytes(section.payload)) for section in f.sections],
                )
                for f in frames
            ],
            "shared memory": shown,
            "stream": daemon.stream.sent,
            "answers": [call.args[0] for call in socket.send.call_args_list],
            "statistics": (made.statistics(), made.rules, daemon.kernel.producers.state()),
            "checkpoint": daemon.kernel.checkpoint(),
            "known": [f.ts_known for f in frames],
        }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(messages, min_size=8, max_size=20))
@example(each_alone_and_among_others())
def test_a_few_trades_end_as_they_would_on_the_general_way(tmp_path: Path, runtime_dir: Path, sent: list[Sent]) -> None:
    number = next(numbers)
    short = run(tmp_path / f"{number}s", runtime_dir / f"{number}s", sent)
    with general_way():
        long = run(tmp_path / f"{number}l", runtime_dir / f"{number}l", sent)
    for way in "sl":
        shutil.rmtree(runtime_dir / f"{number}{way}")
    for what, found in short.items():
        assert found == long[what], what
    assert all(a < b for a, b in itertools.pairwise(short["known"]))
