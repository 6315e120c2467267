"""The arena's sync points, store by store: a writer that stops, dies or goes on between any two loads of a reader."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adversity import arena_market as market
from marketd.ipc.arena import ArenaContended
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.arena_writer import ArenaWriter

KINDS_OF_READ = (0, 32, 8, 4, 3, 1)
LATE_BAR_STEPS = range(115, 131)  # bar 49 of the seconds comes late in one of these
SETTLED = 700  # steps after which every ring has wrapped


class Killed(BaseException):
    """The writer got SIGKILL at this store."""


class Watched:
    """Memory or words with something that happens before each store, or before each load."""

    def __init__(self, real: Any, store: Callable[[], None] | None = None, load: Callable[[], None] | None = None):
        self._real, self._store, self._load = real, store, load

    def __getitem__(self, key: Any) -> Any:
        if self._load:
            self._load()
        return self._real[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._store:
            self._store()
        self._real[key] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def watch_stores(writer: ArenaWriter, store: Callable[[], None]) -> None:
    parts: list[Any] = [writer, *writer.rings]
    for part in parts:
        part._memory = Watched(part._memory, store=store)
        part._words = Watched(part._words, store=store)


def watch_loads(reader: ArenaReader, load: Callable[[], None]) -> None:
    mapped: Any = reader._mapped
    mapped.memory = Watched(mapped.memory, load=load)
    mapped.words = Watched(mapped.words, load=load)


class SteppedWriter:
    """A writer in a thread of its own that makes as many stores as it is told to, and then stands still."""

    def __init__(self, path: Path, *, skip: int = 0, broken: str | None = None) -> None:
        self.writer = market.create(path)
        for _ in range(skip):
            market.write_step(self.writer)
        self._stores_left = 0
        self._dying = False
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        watch_stores(self.writer, self._before_store)
        if broken is not None:
            market.break_order(self.writer, broken)
        self._thread = threading.Thread(target=self._write)
        self._thread.start()
        self._stands.acquire()

    def _write(self) -> None:
        try:
            while True:
                market.write_step(self.writer)
        except Killed:
            self._stands.release()

    def _before_store(self) -> None:
        if not self._stores_left:
            self._stands.release()
            self._go.acquire()
        if self._dying:
            raise Killed
        self._stores_left -= 1

    def advance(self, stores: int) -> None:
        if stores:
            self._stores_left = stores
            self._go.release()
            self._stands.acquire()

    def kill(self) -> None:
        self._dying = True
        self._go.release()
        self._thread.join()
        self.writer.close()


def flaw_of(reader: ArenaReader, kind: int) -> str | None:
    try:
        return market.read_flaw(reader, kind)[0]
    except ArenaContended as error:
        return str(error)


def check_every_read(reader: ArenaReader, number: int) -> None:
    assert reader.cut().number == number
    for kind in KINDS_OF_READ:
        flaw, cut = market.read_flaw(reader, kind)
        assert flaw is None
        assert cut.number == number


def held_by(writer: ArenaWriter) -> list[bytes]:
    return [ring.records(ring.oldest, ring.head) for ring in writer.rings]


def step_killed_at(writer: ArenaWriter, store: int) -> bool:
    """Make a step, killed before its store number `store`; False when it has fewer stores and was made."""
    left = store

    def count() -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1

    watch_stores(writer, count)
    try:
        market.write_step(writer)
    except Killed:
        return True
    return False


@pytest.mark.parametrize("first", [0, LATE_BAR_STEPS.start, SETTLED])
def test_a_writer_killed_at_any_store_leaves_the_last_publication_and_the_next_one_goes_on(
    runtime_dir: Path, first: int
) -> None:
    path = runtime_dir / "a.arena"
    with market.create(path) as writer:
        for _ in range(first):
            market.write_step(writer)
    with ArenaReader.open(path) as reader:
        for step in range(first + 1, first + 17):
            store = 0
            while True:
                with market.attach(path) as writer:
                    before = held_by(writer)
                    killed = step_killed_at(writer, store)
                if not killed:
                    break
                check_every_read(reader, step - 1)
                with market.attach(path) as writer:
                    for ring, after in zip(before, held_by(writer), strict=True):
                        assert ring.endswith(after)  # what was being overwritten has left at the old end
                    check_every_read(reader, step - 1)
                store += 1
            assert store > 3
            check_every_read(reader, step)


def test_a_writer_that_discards_has_written_nothing(runtime_dir: Path) -> None:
    path = runtime_dir / "a.arena"
    with market.create(path) as writer, ArenaReader.open(path) as reader:
        for step in range(1, SETTLED, 7):
            for name, arguments in list(market.calls_of(step))[:-1]:
                getattr(writer, name)(*arguments)
            writer.discard()
            for _ in range(7):
                market.write_step(writer)
            check_every_read(reader, step + 6)
        assert writer.statistics().discarded == len(range(1, SETTLED, 7))


@given(
    skip=st.sampled_from([0, 4, 120, SETTLED]),
    ahead=st.integers(0, 60),
    schedule=st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, 8, 60, 300, 2000]), max_size=25),
    kind=st.sampled_from(KINDS_OF_READ),
    restart=st.booleans(),
)
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_read_is_of_one_publication_wherever_the_writer_goes_meanwhile(
    runtime_dir: Path, skip: int, ahead: int, schedule: list[int], kind: int, restart: bool
) -> None:
    path = runtime_dir / "a.arena"
    writer = SteppedWriter(path, skip=skip)
    moves = iter(schedule)
    try:
        writer.advance(ahead)
        with ArenaReader.open(path) as reader:
            watch_loads(reader, lambda: writer.advance(next(moves, 0)))
            assert flaw_of(reader, kind) is None
    finally:
        writer.kill()
    if restart:
        with market.attach(path), ArenaReader.open(path) as reader:
            check_every_read(reader, reader.cut().number)


def flaws_of_many_reads(path: Path, broken: str | None, reads: int) -> Iterator[str]:
    """Reads with a writer that goes on now and then between two loads, by one store or by many."""
    choose = random.Random(1)
    moves = [0] * 40 + [1, 2, 3, 5, 60, 90, 2000]  # 90 stores: from one rewrite to the next; 2000: once around a ring
    writer = SteppedWriter(path, skip=SETTLED, broken=broken)
    try:
        with ArenaReader.open(path) as reader:
            watch_loads(reader, lambda: writer.advance(choose.choice(moves)))
            for _ in range(reads):
                flaw = flaw_of(reader, choose.choice(KINDS_OF_READ))
                if flaw is not None:
                    yield flaw
    finally:
        writer.kill()


def test_a_descriptor_that_was_overwritten_meanwhile_is_not_taken(runtime_dir: Path) -> None:
    writer = SteppedWriter(runtime_dir / "a.arena", skip=SETTLED)
    try:
        for stores in range(60, 180):
            moves = iter([0, 0, stores])  # state, counter, descriptor
            with ArenaReader.open(runtime_dir / "a.arena") as reader:
                watch_loads(reader, lambda moves=moves: writer.advance(next(moves, 0)))
                assert market.cut_flaw(reader.cut()) is None
    finally:
        writer.kill()


def test_many_reads_with_a_writer_that_goes_on_between_their_loads_have_no_flaw(runtime_dir: Path) -> None:
    assert list(flaws_of_many_reads(runtime_dir / "a.arena", None, 800)) == []


@pytest.mark.parametrize("point", sorted(market.BREAKS))
def test_a_writer_that_stores_in_the_wrong_order_is_caught(runtime_dir: Path, point: str) -> None:
    """The sync points are needed, each of them; and the tests above would notice."""
    with contextlib.closing(flaws_of_many_reads(runtime_dir / "a.arena", point, 1500)) as flaws:
        assert next(flaws, None)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before
