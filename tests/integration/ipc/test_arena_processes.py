"""The arena between processes: torn reads, stopped and killed writers, readers that end. (`adversity.torn_reads`
is the same at full length.)"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from adversity import arena_market as market
from adversity.torn_reads import NOTICED_WITHIN_NS, STALE_NS, Torture
from marketd.ipc.arena import ArenaOwned
from marketd.ipc.arena_reader import ArenaReader
from support import eventually

SPAWN = get_context("spawn")


@pytest.fixture
def path(runtime_dir: Path) -> Path:
    path = runtime_dir / "torn.arena"
    market.create(path).close()
    return path


@pytest.fixture
def reader(path: Path) -> Iterator[ArenaReader]:
    with ArenaReader.open(path) as reader:
        yield reader


@pytest.fixture
def writing(path: Path, reader: ArenaReader) -> Iterator[SpawnProcess]:
    """A writer process at full speed."""
    process = SPAWN.Process(target=market.write_for_ever, args=(str(path), None))
    process.start()
    try:
        eventually(lambda: reader.cut().number > 100)
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def test_no_cut_is_torn_or_mixed_while_the_writer_is_stopped_and_killed(runtime_dir: Path) -> None:
    torture = Torture(runtime_dir / "torn.arena", readers=4, cuts=80_000, broken=None, seed=3)
    try:
        outcome = torture.run(pause_seconds=0.3)
    finally:
        torture.end()
    assert outcome.examples == []
    assert (outcome.flaws, outcome.backwards) == (0, 0)
    assert outcome.cuts >= 80_000
    assert outcome.stopped > 0
    assert outcome.killed > 0


@pytest.mark.parametrize("point", ["A2", "A5"])
def test_readers_notice_when_the_writer_stores_in_the_wrong_order(runtime_dir: Path, point: str) -> None:
    torture = Torture(runtime_dir / "torn.arena", readers=2, cuts=10_000_000, broken=point, seed=4)
    try:
        outcome = torture.run(pause_seconds=0.3, until_flaw=True)
    finally:
        torture.end()
    assert outcome.flaws > 0


def test_a_stopped_writer_shows_within_a_second_and_its_last_publication_stays_readable(
    writing: SpawnProcess, reader: ArenaReader
) -> None:
    assert writing.pid is not None
    eventually(lambda: reader.stale_ns() < STALE_NS)
    os.kill(writing.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, writing.pid, os.WSTOPPED)
    beat = reader.heartbeat.mono_ns
    number = reader.cut().number
    for turn in range(64):
        flaw, cut = market.read_flaw(reader, turn)
        assert flaw is None
        assert cut.number == number
    eventually(lambda: reader.stale_ns() > STALE_NS)
    assert reader.stale_ns(beat + NOTICED_WITHIN_NS) == NOTICED_WITHIN_NS
    os.kill(writing.pid, signal.SIGCONT)
    eventually(lambda: reader.stale_ns() < STALE_NS and reader.cut().number > number)


def test_a_living_writer_keeps_others_out_and_a_killed_one_does_not(writing: SpawnProcess, path: Path) -> None:
    with pytest.raises(ArenaOwned):
        market.attach(path)
    assert writing.pid is not None
    os.kill(writing.pid, signal.SIGSTOP)
    with pytest.raises(ArenaOwned):
        market.attach(path)
    writing.kill()
    writing.join()
    with market.attach(path) as writer, ArenaReader.open(path) as reader:
        before = writer.number
        market.write_step(writer)
        for turn in range(64):
            flaw, cut = market.read_flaw(reader, turn)
            assert flaw is None
            assert cut.number == before + 1


@pytest.mark.parametrize("target", ["_read_once", "_read_in_a_fork"])
def test_a_reader_that_ends_takes_nothing_with_it(
    writing: SpawnProcess, path: Path, reader: ArenaReader, target: str
) -> None:
    child = SPAWN.Process(target=globals()[target], args=(str(path),))
    child.start()
    child.join()
    assert child.exitcode == 0
    child.close()
    number = reader.cut().number
    eventually(lambda: reader.cut().number > number)
    assert path.exists()


def _read_once(path: str) -> None:
    with ArenaReader.open(Path(path)) as reader:
        flaw, _ = market.read_flaw(reader, 0)
        assert flaw is None


def _read_in_a_fork(path: str) -> None:
    """A reader goes on in a forked child, and after it in the parent (here, since this process has no threads)."""
    with ArenaReader.open(Path(path)) as reader:
        number = reader.cut().number
        child = os.fork()
        eventually(lambda: reader.cut().number > number)
        flaw, _ = market.read_flaw(reader, 0)
        assert flaw is None
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
