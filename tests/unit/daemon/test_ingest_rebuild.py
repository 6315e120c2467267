"""What ingest does with bars that were computed anew, and with a journal that has no room for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest

from lane import BTC, START
from marketd.daemon.clock import LiveClock
from marketd.daemon.ingest import Ingest
from marketd.market.errors import JournalFull
from marketd.market.records import CANDLE, Records, Source
from small_daemon import SmallDaemon

BAR = (60, START)
ETH = msgspec.structs.replace(BTC, id=65_538, symbol="ETHUSDT", base="ETH")


@pytest.fixture
def daemon(tmp_path: Path, runtime_dir: Path) -> Iterator[SmallDaemon]:
    daemon = SmallDaemon(tmp_path / "state", runtime_dir)
    daemon.declare(BTC)
    yield daemon
    daemon.stop()


def ingest_of(daemon: SmallDaemon) -> Ingest:
    socket: Any = mock.Mock()
    return Ingest(
        registry=daemon.registry,
        kernel=daemon.kernel,
        journal=daemon.journal,
        publisher=daemon.publisher,
        clock=LiveClock(daemon.kernel.ts_known),
        socket=socket,
        live_only=True,
    )


def rebuilt() -> Records:
    bar = np.zeros(1, CANDLE)
    bar["timeframe"], bar["ts"], bar["source"] = *BAR, Source.OWN
    return bar


def test_a_rebuilt_bar_is_adopted_once(daemon: SmallDaemon) -> None:
    ingest, state = ingest_of(daemon), daemon.kernel.state(daemon.registry.by_name(BTC.name))
    state.rebuild[BAR] = ingest.committed = 100
    question = ingest.next_rebuild()
    assert question is not None
    ingest.adopt(question, rebuilt())
    assert state.rebuild == {}
    assert ingest.next_rebuild() is None


@pytest.mark.parametrize("answer", [rebuilt(), rebuilt()[:0]])
def test_a_late_trade_during_the_question_is_not_forgotten(daemon: SmallDaemon, answer: Records) -> None:
    ingest, state = ingest_of(daemon), daemon.kernel.state(daemon.registry.by_name(BTC.name))
    state.rebuild[BAR] = ingest.committed = 100
    question = ingest.next_rebuild()
    assert question is not None
    state.rebuild[BAR] = 200  # one more, which the answer cannot have
    seq = state.seq
    ingest.adopt(question, answer)
    assert (state.rebuild, state.seq) == ({BAR: 200}, seq)
    ingest.committed = 200
    assert ingest.next_rebuild() == question


def test_an_instrument_that_found_no_room_is_still_due(daemon: SmallDaemon) -> None:
    ingest = ingest_of(daemon)
    eth = daemon.registry.declare(ETH)[0]
    with mock.patch.object(daemon.journal, "append", side_effect=JournalFull("full")), pytest.raises(JournalFull):
        ingest.journal_instrument(eth)
    assert daemon.kernel.state(eth).seq == 0


def test_what_was_not_stored_is_said_as_soon_as_there_is_room(daemon: SmallDaemon) -> None:
    ingest, state = ingest_of(daemon), daemon.kernel.state(daemon.registry.by_name(BTC.name))
    state.unstored_since, state.unstored_count = 7_000, 3
    with mock.patch.object(daemon.journal, "append", side_effect=JournalFull("full")):
        ingest._close_unstored(state, 9_000)
    assert (state.unstored_since, state.unstored_count) == (7_000, 3)
    ingest._close_unstored(state, 9_000)
    assert (state.unstored_since, state.unstored_count) == (0, 0)
