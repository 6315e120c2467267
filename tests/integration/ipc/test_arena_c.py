"""The reader in C, compiled here and run against a live arena."""

from __future__ import annotations

import subprocess
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from adversity import arena_market as market
from marketd.ipc.arena import ArenaState
from marketd.ipc.arena_reader import ArenaReader
from support import REPOSITORY, demand, eventually, requires

pytestmark = requires("cc")
SPAWN = get_context("spawn")


@pytest.fixture(scope="module")
def read_arena(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("c") / "read_arena"
    source = Path(__file__).with_name("read_arena.c")
    strict = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2"]
    command = [str(demand("cc")), *strict, "-I", str(REPOSITORY / "ipc"), str(source), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return program


def run(program: Path, *arguments: object, code: int = 0) -> dict[str, list[list[int]]]:
    """The words of the lines that the program prints, by what they tell."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code, done.stderr
    lines: dict[str, list[list[int]]] = {"cut": [], "state": [], "record": [], "open": []}
    for line in done.stdout.splitlines():
        what, *words = line.split()
        lines[what].append([int(text) for text in words])
    return lines


@pytest.mark.parametrize(
    ("ring", "count"), [("trade", 1), ("trade", 5000), ("candle.1s.own", 300), ("candle.1m.own", 2)]
)
def test_c_reads_what_python_reads(runtime_dir: Path, read_arena: Path, ring: str, count: int) -> None:
    path = runtime_dir / "c.arena"
    with market.create(path) as writer, ArenaReader.open(path) as reader:
        for _ in range(1001):
            market.write_step(writer)
        writer.set_state(ArenaState.LIVE)
        found = run(read_arena, path, ring, count, 1)
        records, cut = reader.last(ring, count)
        ours = [cut.number, cut.ts_known, cut.ts_event, cut.seq, cut.journal_offset]
        ours += [cut.heads[ring], cut.revisions[ring], cut.complete_since[ring]]
        assert found["cut"] == [ours]
        assert found["state"] == [[ArenaState.LIVE]]
        assert found["record"] == words_of(records.tobytes(), records.dtype.itemsize)
        assert found["open"] == words_of(cut.open_bars.tobytes(), 96)


def test_c_is_given_before_images_while_bars_are_being_replaced(runtime_dir: Path, read_arena: Path) -> None:
    path = runtime_dir / "c.arena"
    with market.create(path) as writer:
        for _ in range(1001):
            market.write_step(writer)
        before = run(read_arena, path, "candle.1s.own", 600, 1)
        rewrite = 1001 + -1001 % market.REWRITE_EVERY
        for name, arguments in market.calls_of(rewrite):
            if name == "rewrite":
                writer.rewrite(*arguments)
        assert run(read_arena, path, "candle.1s.own", 600, 1) == before


def test_c_sees_no_mixed_cut_of_a_writer_at_full_speed(runtime_dir: Path, read_arena: Path) -> None:
    path = runtime_dir / "c.arena"
    market.create(path).close()
    process = SPAWN.Process(target=market.write_for_ever, args=(str(path), None))
    process.start()
    try:
        with ArenaReader.open(path) as reader:
            eventually(lambda: reader.cut().number > 100)
            assert len(run(read_arena, path, "trade", 50, 1_000_000)["record"]) == 50
            assert len(run(read_arena, path, "trade", 5000, 20_000)["record"]) == market.SPECS[0].capacity
    finally:
        process.kill()
        process.join()
        process.close()


def test_c_refuses_what_it_cannot_read(runtime_dir: Path, read_arena: Path) -> None:
    path = runtime_dir / "c.arena"
    run(read_arena, path, "trade", 1, 1, code=2)
    path.write_bytes(bytes(8192))
    run(read_arena, path, "trade", 1, 1, code=2)
    market.create(path).close()
    run(read_arena, path, "book", 1, 1, code=2)


def words_of(data: bytes, itemsize: int) -> list[list[int]]:
    words: list[list[int]] = np.frombuffer(data, "<i8").reshape(-1, itemsize // 8).tolist()
    return words
