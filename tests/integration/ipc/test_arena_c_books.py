"""A reader of books in C, compiled here and run against an arena."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from book_records import BUCKETS, IMBALANCE, books, buckets, imbalances, not_live
from marketd.ipc.arena import RingSpec
from marketd.ipc.arena_writer import ArenaWriter
from marketd.market.instruments import Instrument
from marketd.market.records import BookState, Records, book_kind
from support import REPOSITORY, demand, requires

pytestmark = requires("cc")
BTC = Instrument(id=65_537, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=8)


@pytest.fixture(scope="module")
def read_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("c") / "read_book"
    source = Path(__file__).with_name("read_book.c")
    strict = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2"]
    command = [str(demand("cc")), *strict, "-I", str(REPOSITORY / "ipc"), str(source), "-o", str(program), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture
def arena(runtime_dir: Path) -> Iterator[ArenaWriter]:
    with create(runtime_dir, 20) as writer:
        yield writer


def create(directory: Path, depth: int) -> ArenaWriter:
    kind = book_kind(depth)
    rings = [
        RingSpec("book", kind.id, kind.dtype, 10),
        RingSpec("imbalance", IMBALANCE.id, IMBALANCE.dtype, 10),
        RingSpec("buckets.1s", BUCKETS.id, BUCKETS.dtype, 10),
    ]
    return ArenaWriter.create(directory / "c.arena", instance="test", instrument=BTC, rings=rings, open_slots=2)


def publish(writer: ArenaWriter, *records: Records) -> None:
    for ring, rows in enumerate(records):
        writer.append(ring, rows)
    writer.publish(1, 2, 3, 4)


def run(program: Path, arena: ArenaWriter, code: int = 0) -> list[str]:
    done = subprocess.run([str(program), str(arena.path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout.splitlines()


def test_c_reads_the_newest_book_and_what_is_made_of_it(arena: ArenaWriter, read_book: Path) -> None:
    publish(arena, books(range(4)), imbalances([25]), buckets(range(3)))
    assert run(read_book, arena) == [
        "depth 20",
        "book 2 3 3 4",
        *(f"level bid {10_003 - n} {50_000 + n}" for n in range(3)),
        *(f"level ask {10_005 + n} {70_000 + n}" for n in range(3)),
        "mid 100.040000",
        "imbalance 1 250000 2",
        "buckets 1 200 200000",
    ]


def test_c_sees_that_a_book_is_not_live(arena: ArenaWriter, read_book: Path) -> None:
    publish(arena, books(range(4)))
    publish(arena, not_live(BookState.SYNCING, seq=9))
    assert run(read_book, arena, code=1) == ["depth 20", "book 1 0 0 9"]


def test_c_is_told_the_depth_of_the_books(runtime_dir: Path, read_book: Path) -> None:
    with create(runtime_dir, 50) as arena:
        publish(arena, books([0], depth=50))
        assert run(read_book, arena) == ["depth 50"]
