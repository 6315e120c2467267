"""Rings of records that hold many values in a field: described in the header, read as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from book_records import BUCKETS, books, buckets
from marketd.ipc.arena import RingSpec, describe
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.arena_writer import ArenaWriter
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, book_kind

BTC = Instrument(id=65_537, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=8)
CAPACITY = 7


def create(path: Path, depth: int) -> ArenaWriter:
    kind = book_kind(depth)
    rings = [RingSpec("book", kind.id, kind.dtype, CAPACITY), RingSpec("buckets.1s", BUCKETS.id, BUCKETS.dtype, 3)]
    return ArenaWriter.create(path, instance="test", instrument=BTC, rings=rings, open_slots=1)


@pytest.mark.parametrize("depth", [1, 20, 1000])
def test_a_reader_learns_the_depth_from_the_header(runtime_dir: Path, depth: int) -> None:
    with create(runtime_dir / "a.arena", depth), ArenaReader.open(runtime_dir / "a.arena") as reader:
        assert reader.rings["book"].dtype == book_kind(depth).dtype
        assert reader.rings["buckets.1s"].dtype == BUCKETS.dtype


def test_a_field_of_many_values_is_described_by_its_bytes() -> None:
    lines = describe(book_kind(5).dtype).decode().splitlines()
    assert lines[8:10] == ["bid_price |V40 40", "bid_size |V40 80"]
    with pytest.raises(InvalidArgument, match="no row of <i8"):
        describe(np.dtype([("levels", "<i4", (5,))]))


def test_a_reader_that_knows_no_fields_of_many_values_can_still_make_sense_of_the_description() -> None:
    text = describe(book_kind(5).dtype).decode()
    plain = np.dtype([(name, kind) for name, kind, _ in (line.split(" ") for line in text.splitlines())])
    assert plain.itemsize == book_kind(5).dtype.itemsize and describe(plain).decode() == text


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    depth=st.integers(1, 30), batches=st.lists(st.integers(1, 12), min_size=1, max_size=12), wanted=st.integers(1, 9)
)
def test_whatever_was_appended_the_newest_books_are_read_whole(
    runtime_dir: Path, depth: int, batches: list[int], wanted: int
) -> None:
    path = runtime_dir / "a.arena"
    with create(path, depth) as writer, ArenaReader.open(path) as reader:
        written = books(range(sum(batches)), depth=depth, levels=min(3, depth))
        at = 0
        for count in batches:
            writer.append(0, written[at : at + count])
            writer.append(1, buckets(range(at, at + count)))
            at += count
            writer.publish(at, at, at, at)
        found, cut = reader.last("book", wanted)
        assert found.tobytes() == written[-min(wanted, CAPACITY) :].tobytes()
        assert reader.last("buckets.1s", 1)[0]["bid_size"][0, 31] == (at - 1) * 100_000
        assert cut.heads == {"book": at, "buckets.1s": at}
    path.unlink()


def test_the_kinds_of_books_begin_as_every_record_does() -> None:
    for name in ("book", "book_venues", "imbalance", "buckets"):
        kind = BY_NAME[name]
        RingSpec(name, kind.id, kind.dtype, 1).check()
