"""The reader in C, compiled here and run against a live arena."""

from __future__ import annotations

import subprocess
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from adversity import arena_market as market
from marketd.ipc.arena import ArenaState, RingSpec
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.arena_writer import ArenaWriter
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, Records
from support import REPOSITORY, demand, eventually, requires

pytestmark = requires("cc")
SPAWN = get_context("spawn")
BTC = Instrument(id=65_537, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=8)


@pytest.fixture(scope="module")
def read_arena(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("c"), "read_arena")


def compiled(directory: Path, name: str) -> Path:
    program, source = directory / name, Path(__file__).with_name(f"{name}.c")
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


def test_a_reader_of_few_lines_prints_the_newest_bars(runtime_dir: Path, tmp_path: Path) -> None:
    program, path = compiled(tmp_path, "read_bars"), runtime_dir / "c.arena"
    with market.create(path) as writer, ArenaReader.open(path) as reader:
        for _ in range(1001):
            market.write_step(writer)
        command = [str(program), str(path), "candle.1s.own", "3"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        bars, _ = reader.last("candle.1s.own", 3)
        assert shown.splitlines() == [f"{bar['ts']} {bar['close']} {bar['volume']}" for bar in bars]


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


def test_c_finds_no_cut_of_a_venues_arena_mixed_in_which_books_are_numbered_too(
    runtime_dir: Path, read_arena: Path
) -> None:
    rings = [RingSpec(name, BY_NAME[name].id, BY_NAME[name].dtype, 8) for name in ("trade", "book")]
    shape = {"instance": "test", "instrument": BTC, "rings": rings, "open_slots": 2}
    with ArenaWriter.create(runtime_dir / "c.arena", **shape) as writer:
        for seq in range(1, 41, 4):
            for ring, offset in ((1, 0), (0, 1), (0, 2), (1, 3)):
                record = np.zeros(1, dtype=rings[ring].dtype)
                record["seq"], record["ts_known"], record["ts_event"] = seq + offset, 1000 + seq, 100 + seq + offset
                writer.append(ring, record)
            writer.publish(1000 + seq, 103 + seq, seq + 3, 0)
            found = run(read_arena, writer.path, "trade", 4, 1)["record"]
            assert [record[2] for record in found[-2:]] == [seq + 1, seq + 2]
        writer.append(0, record_of(seq=99, ts_known=9999))
        writer.publish(2000, 200, 98, 0)  # a trade that the cut does not know
        run(read_arena, writer.path, "trade", 4, 1, code=1)


def record_of(**fields: int) -> Records:
    record = np.zeros(1, dtype=BY_NAME["trade"].dtype)
    for name, value in fields.items():
        record[name] = value
    return record


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
