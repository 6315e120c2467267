"""The arena as its users know it: what a writer publishes is what readers get."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketd.ipc import arena_words as word
from marketd.ipc.arena import (
    ArenaLayoutChanged,
    ArenaNoSpace,
    ArenaOwned,
    ArenaState,
    ArenaUnreadable,
    RingSpec,
)
from marketd.ipc.arena_reader import MAX_REPEATED, ArenaReader
from marketd.ipc.arena_writer import ArenaWriter
from marketd.market.errors import BeyondCache, InvalidArgument, NotRunning, UnknownStream
from marketd.market.instruments import Instrument
from marketd.market.records import CANDLE, TRADE, Records, series_kind
from marketd.market.times import ABSENT

INSTRUMENT = Instrument(id=65_537, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=7)
FUNDING = series_kind(64, "funding", {"rate": "f8", "mark": "price"})
TRADES, BARS, SERIES = range(3)
SPECS = (
    RingSpec("trade", 1, TRADE, 100),
    RingSpec("candle.1m.own", 2, CANDLE, 10),
    RingSpec("funding", FUNDING.id, FUNDING.dtype, 5),
)
JOURNAL = bytes(range(16))
BAR_SLOTS = SPECS[BARS].slots


def arguments(**changes: Any) -> dict[str, Any]:
    settings = {"instance": "test", "instrument": INSTRUMENT, "rings": SPECS, "open_slots": 2, "journal": JOURNAL}
    return {**settings, **changes}


@pytest.fixture
def path(runtime_dir: Path) -> Path:
    return runtime_dir / "arena" / "BTCUSDT.BINANCE.arena"


@pytest.fixture
def writer(path: Path) -> Iterator[ArenaWriter]:
    with ArenaWriter.create(path, **arguments()) as writer:
        yield writer


@pytest.fixture
def reader(writer: ArenaWriter) -> Iterator[ArenaReader]:
    with ArenaReader.open(writer.path) as reader:
        yield reader


def trades(first: int, count: int) -> Records:
    records = np.zeros(count, TRADE)
    records["seq"] = np.arange(first, first + count)
    records["ts_event"] = records["seq"] * 1000
    records["price"] = records["seq"] + 7
    return records


def bars(times: Sequence[int], version: int = 1) -> Records:
    records = np.zeros(len(times), CANDLE)
    records["ts"], records["close"], records["seq"] = times, np.array(times) * 10 + version, version
    return records


def publish(writer: ArenaWriter, open_table: Any = None) -> None:
    writer.publish(writer.number + 1, 5, writer.head(TRADES), 64, open_table)


# ---- reading what was published -----------------------------------------------------------------


def test_a_new_arena_is_warming_and_empty(writer: ArenaWriter, reader: ArenaReader) -> None:
    records, cut = reader.last("trade", 10)
    assert len(records) == 0
    assert (cut.number, cut.heads, len(cut.open_bars)) == (0, dict.fromkeys(reader.rings, 0), 0)
    assert reader.state is ArenaState.WARMING
    assert reader.reach("trade") == word.NEVER


def test_the_header_tells_what_the_arena_is_of(reader: ArenaReader) -> None:
    identity = reader.identity
    assert (identity.instance, identity.instrument, identity.instrument_id) == ("test", "BTCUSDT.BINANCE", 65_537)
    assert (identity.price_scale, identity.size_scale, identity.quote_scale) == (2, 5, 7)
    assert identity.journal == JOURNAL
    assert {name: ring.dtype for name, ring in reader.rings.items()} == {spec.name: spec.dtype for spec in SPECS}


def test_what_was_not_published_is_not_seen(writer: ArenaWriter, reader: ArenaReader) -> None:
    writer.append(TRADES, trades(1, 3))
    assert len(reader.last("trade", 10)[0]) == 0
    publish(writer)
    records, cut = reader.last("trade", 10)
    assert records.tobytes() == trades(1, 3).tobytes()
    assert (cut.number, cut.seq, cut.ts_event, cut.journal_offset) == (1, 3, 5, 64)


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, TRADE)])
@pytest.mark.parametrize("count", [1, 30, 99, 1000])
def test_records_may_come_in_any_form_and_number(
    writer: ArenaWriter, reader: ArenaReader, form: Any, count: int
) -> None:
    writer.append(TRADES, trades(1, 90).tobytes())
    writer.append(TRADES, form(trades(91, count).tobytes()))
    publish(writer)
    expected = trades(max(1, 90 + count - 99), min(100, 90 + count))
    assert reader.last("trade", 100)[0].tobytes() == expected.tobytes()


@given(st.lists(st.integers(0, 60), max_size=30), st.integers(0, 120))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_newest_records_are_those_that_were_appended_last(path: Path, batches: list[int], count: int) -> None:
    with ArenaWriter.create(path, **arguments()) as writer, ArenaReader.open(path) as reader:
        for batch in batches:
            writer.append(TRADES, trades(writer.head(TRADES) + 1, batch))
            publish(writer)
        head, size = sum(batches), min(count, 100, sum(batches))
        records, cut = reader.last("trade", count)
        assert records.tobytes() == trades(head - size + 1, size).tobytes()
        assert cut.heads["trade"] == head
        assert writer.statistics().appended == head
        assert writer.statistics().dropped == max(0, head - 100)


def test_records_that_were_read_are_copies_and_read_only(writer: ArenaWriter, reader: ArenaReader) -> None:
    writer.append(BARS, bars([60]))
    publish(writer)
    records, _ = reader.last("candle.1m.own", 1)
    writer.rewrite(BARS, 0, bars([60], version=2))
    publish(writer)
    assert records["seq"] == 1
    with pytest.raises(ValueError, match="read-only"):
        records["seq"] = 3


def test_open_bars_belong_to_the_cut_and_stay_until_they_are_told_anew(
    writer: ArenaWriter, reader: ArenaReader
) -> None:
    table = bars([ABSENT, 60])
    publish(writer, table)
    first = reader.cut()
    publish(writer)
    second = reader.cut()
    publish(writer, memoryview(bars([ABSENT, ABSENT]).tobytes()).cast("q"))
    assert first.open_bars.tobytes() == second.open_bars.tobytes() == table[1:].tobytes()
    assert len(reader.cut().open_bars) == 0


def test_open_bars_of_another_size_are_refused_and_nothing_is_published(
    writer: ArenaWriter, reader: ArenaReader
) -> None:
    with pytest.raises(InvalidArgument, match="192 bytes"):
        publish(writer, bars([60]))
    assert reader.cut().number == 0


def test_a_snapshot_has_several_rings_in_one_cut(writer: ArenaWriter, reader: ArenaReader) -> None:
    writer.append(TRADES, trades(1, 5))
    writer.append(BARS, bars([60, 120]))
    funding = np.zeros(2, FUNDING.dtype)
    funding["rate"] = 0.25
    writer.append(SERIES, funding)
    publish(writer)
    records, cut = reader.snapshot({"trade": 3, "candle.1m.own": 9, "funding": 1})
    assert records["trade"]["seq"].tolist() == [3, 4, 5]
    assert records["candle.1m.own"]["ts"].tolist() == [60, 120]
    assert records["funding"]["rate"].tolist() == [0.25]
    assert cut.heads == {"trade": 5, "candle.1m.own": 2, "funding": 2}


def test_a_ring_that_does_not_exist_is_named_with_those_that_do(reader: ArenaReader) -> None:
    for read in (lambda: reader.last("book", 1), lambda: reader.snapshot({"book": 1}), lambda: reader.reach("book")):
        with pytest.raises(UnknownStream, match=r"'book'.*candle\.1m\.own"):
            read()


def test_no_records_at_all_change_nothing(writer: ArenaWriter, reader: ArenaReader) -> None:
    for count in (0, 100, 0, 1, 0):
        writer.append(TRADES, trades(writer.head(TRADES) + 1, count))
        publish(writer)
    records, cut = reader.last("trade", 0)
    assert (len(records), cut.heads["trade"], reader.reach("trade")) == (0, 101, 1001)


def test_part_of_a_record_is_refused(writer: ArenaWriter) -> None:
    with pytest.raises(InvalidArgument, match="no whole records"):
        writer.append(TRADES, bytes(57))
    assert writer.head(TRADES) == 0


# ---- how far back -------------------------------------------------------------------------------


def test_a_range_of_trades_is_by_time_in_the_order_they_came(writer: ArenaWriter, reader: ArenaReader) -> None:
    records = trades(1, 50)
    records["ts_event"][[10, 30]] = records["ts_event"][[30, 10]]
    writer.append(TRADES, records)
    publish(writer)
    found, _ = reader.range("trade", 5000, 20_000)
    inside = records[(records["ts_event"] >= 5000) & (records["ts_event"] < 20_000)]
    assert found.tobytes() == inside.tobytes()


def test_a_range_of_bars_includes_its_start_and_excludes_its_end(writer: ArenaWriter, reader: ArenaReader) -> None:
    writer.append(BARS, bars(range(60, 600, 60)))
    publish(writer)
    assert reader.range("candle.1m.own", 120, 300)[0]["ts"].tolist() == [120, 180, 240]
    assert len(reader.range("candle.1m.own", 130, 140)[0]) == 0


def test_asking_beyond_the_ring_names_the_setting(writer: ArenaWriter, reader: ArenaReader) -> None:
    writer.append(TRADES, trades(1, 101))
    writer.append(BARS, bars([60]))
    publish(writer)
    assert reader.reach("trade") == 1001  # trade 1 has left
    with pytest.raises(BeyondCache, match=r"cache\.window") as error:
        reader.range("trade", 1000, 9000)
    assert error.value.field == "start"
    assert len(reader.range("trade", 1001, 9000)[0]) == 7
    with pytest.raises(BeyondCache, match=r"cache\.bars"):
        reader.range("candle.1m.own", 0, 60)
    with pytest.raises(BeyondCache, match="is empty"):
        reader.range("funding", 0, 60)


@given(st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=40), min_size=1, max_size=12))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_ring_is_complete_since_the_time_it_tells(path: Path, batches: list[list[int]]) -> None:
    with ArenaWriter.create(path, **arguments()) as writer, ArenaReader.open(path) as reader:
        for times in batches:
            records = trades(writer.head(TRADES) + 1, len(times))
            records["ts_event"] = times
            writer.append(TRADES, records)
        publish(writer)
        since = reader.reach("trade")
        given_times = [time for times in batches for time in times]
        found, _ = reader.last("trade", 100)
        assert sorted(found["ts_event"][found["ts_event"] >= since]) == sorted(
            time for time in given_times if time >= since
        )
        left = given_times[:-100]
        assert since == (max([*left, given_times[0] - 1]) + 1 if left else given_times[0])


def test_a_warm_start_can_tell_that_there_was_nothing_before(writer: ArenaWriter, reader: ArenaReader) -> None:
    writer.append(TRADES, trades(10, 5))
    writer.complete_since(TRADES, 77)
    publish(writer)
    assert reader.reach("trade") == 77
    assert len(reader.range("trade", 77, 10_000)[0]) == 0


# ---- new versions of bars -----------------------------------------------------------------------


@given(st.lists(st.integers(0, 25), min_size=1, max_size=60))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bars_stand_in_order_of_time_however_they_come(path: Path, minutes: list[int]) -> None:
    """`put` against a dictionary: as many bars as the ring has slots never leave it."""
    assert BAR_SLOTS > 26
    known: dict[int, int] = {}
    with ArenaWriter.create(path, **arguments()) as writer, ArenaReader.open(path) as reader:
        for version, minute in enumerate(minutes):
            assert writer.put(BARS, bars([minute], version))
            known[minute] = version
            if version % 3 == 0:
                publish(writer)
                newest = sorted(known)[-10:]
                records, cut = reader.last("candle.1m.own", 10)
                assert records["ts"].tolist() == newest
                assert records["seq"].tolist() == [known[minute] for minute in newest]
                assert cut.heads["candle.1m.own"] == len(known)
        for minute in range(26):
            position = writer.find(BARS, minute)
            assert position == (sorted(known).index(minute) if minute in known else None)


def test_a_bar_before_all_that_the_ring_holds_is_refused_once_bars_have_left(writer: ArenaWriter) -> None:
    writer.append(BARS, bars(range(1000, 1000 + BAR_SLOTS)))
    assert writer.put(BARS, bars([5000]))
    assert not writer.put(BARS, bars([3]))
    assert writer.find(BARS, 1000) is None
    assert writer.find(BARS, 1001) == 1


def test_a_rewrite_may_reach_beyond_the_newest(writer: ArenaWriter, reader: ArenaReader) -> None:
    writer.append(BARS, bars([1, 2, 3]))
    publish(writer)
    writer.rewrite(BARS, 2, bars([3, 4, 5], version=2))
    publish(writer)
    records, cut = reader.last("candle.1m.own", 10)
    assert records["ts"].tolist() == [1, 2, 3, 4, 5]
    assert records["seq"].tolist() == [1, 1, 2, 2, 2]
    assert (cut.heads["candle.1m.own"], cut.revisions["candle.1m.own"]) == (5, 1)


@pytest.mark.parametrize(("ring", "position"), [(TRADES, 0), (BARS, 4), (BARS, -1)])
def test_only_what_a_ring_of_bars_holds_can_be_rewritten(writer: ArenaWriter, ring: int, position: int) -> None:
    writer.append(TRADES, trades(1, 1))
    writer.append(BARS, bars([1, 2, 3]))
    data = trades(1, 1) if ring == TRADES else bars([9])
    with pytest.raises(InvalidArgument, match="cannot go to"):
        writer.rewrite(ring, position, data)


# ---- life ---------------------------------------------------------------------------------------


def test_an_arena_outlives_its_writer_and_the_next_one_goes_on(path: Path) -> None:
    with ArenaWriter.create(path, **arguments()) as writer:
        writer.append(TRADES, trades(1, 5))
        publish(writer)
        writer.append(TRADES, trades(6, 5))
        writer.set_state(ArenaState.LIVE)
    with ArenaReader.open(path) as reader, ArenaWriter.attach(path, **arguments()) as writer:
        assert (writer.number, writer.seq, writer.journal_offset, writer.head(TRADES)) == (1, 5, 64, 5)
        assert writer.state is reader.state is ArenaState.WARMING
        writer.append(TRADES, trades(6, 1))
        publish(writer)
        assert reader.last("trade", 9)[0]["seq"].tolist() == [1, 2, 3, 4, 5, 6]
        assert reader.heartbeat.attached == 2
        assert reader.heartbeat.writer_pid == os.getpid()


def test_there_is_one_writer_and_its_place_is_free_when_it_has_left(writer: ArenaWriter, path: Path) -> None:
    for take in (ArenaWriter.attach, ArenaWriter.create):
        with pytest.raises(ArenaOwned, match="another process writes"):
            take(path, **arguments())
    writer.close()
    ArenaWriter.attach(path, **arguments()).close()
    ArenaWriter.create(path, **arguments()).close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "changes",
    [
        {"rings": SPECS[:2]},
        {"rings": (SPECS[0]._replace(capacity=101), *SPECS[1:])},
        {"open_slots": 4},
        {"instance": "other"},
        {"journal": bytes(16)},
        {"instrument": msgspec.structs.replace(INSTRUMENT, price_scale=3)},
    ],
)
def test_an_arena_of_another_layout_is_replaced_and_readers_follow(
    writer: ArenaWriter, reader: ArenaReader, path: Path, changes: dict[str, Any]
) -> None:
    writer.append(TRADES, trades(1, 5))
    publish(writer)
    writer.close()
    with pytest.raises(ArenaLayoutChanged, match="create it anew"):
        ArenaWriter.attach(path, **arguments(**changes))
    assert len(reader.last("trade", 9)[0]) == 5
    with ArenaWriter.create(path, **arguments(**changes)) as new:
        new.append(TRADES, trades(1, 2))
        publish(new)
        assert len(reader.last("trade", 9)[0]) == 2
        assert reader.statistics().remapped == 1


def test_a_file_that_is_no_arena_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"garbage")
    with pytest.raises(ArenaLayoutChanged, match="does not begin"):
        ArenaWriter.attach(path, **arguments())
    ArenaWriter.create(path, **arguments()).close()
    ArenaReader.open(path).close()


def test_what_a_creator_left_half_way_is_no_hindrance(path: Path) -> None:
    path.parent.mkdir()
    path.with_name(path.name + ".new").write_bytes(b"x" * 10_000_000)
    with ArenaWriter.create(path, **arguments()) as writer:
        assert path.stat().st_size == writer.layout.file_bytes
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_instrument_that_is_removed_takes_its_file_along(writer: ArenaWriter, reader: ArenaReader) -> None:
    writer.append(TRADES, trades(1, 5))
    publish(writer)
    writer.retire()
    assert not writer.path.exists()
    assert reader.state is ArenaState.RETIRED
    assert len(reader.last("trade", 9)[0]) == 5
    assert not reader.reopen()


def test_a_reader_finds_a_file_that_took_the_name_in_silence(reader: ArenaReader, path: Path) -> None:
    assert not reader.reopen()
    path.unlink()
    assert not reader.reopen()
    ArenaWriter.create(path, **arguments()).close()
    assert reader.reopen()


def test_readers_may_read_and_others_may_not(writer: ArenaWriter, reader: ArenaReader, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(TypeError, match="read-only"):
        reader._mapped.words[word.PUBLISHED] = 9


def test_a_silent_writer_is_stale(writer: ArenaWriter, reader: ArenaReader) -> None:
    now = time.monotonic_ns()
    writer.heartbeat(now, 5, 100, 90)
    assert reader.stale_ns(now + 1_000_000_000) == 1_000_000_000
    assert (reader.durable_offset, reader.committed_offset, reader.heartbeat.wall_ns) == (100, 90, 5)
    assert reader.stale_ns() < 3_600_000_000_000


def test_an_arena_that_is_not_there_means_that_nothing_runs(path: Path) -> None:
    with pytest.raises(NotRunning, match="there is no arena"):
        ArenaReader.open(path)
    with pytest.raises(FileNotFoundError):
        ArenaWriter.attach(path, **arguments())


def test_too_little_memory_is_told_before_anything_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(ArenaNoSpace, match=r"cache\.window"):
        ArenaWriter.create(path, **arguments())
    assert list(path.parent.iterdir()) == []


def test_a_reader_refuses_what_is_no_arena(path: Path) -> None:
    path.parent.mkdir()
    for content in (b"", b"short", bytes(4096), b"MARKETD\0" + bytes(4088)):
        path.write_bytes(content)
        with pytest.raises(ArenaUnreadable, match=path.name):
            ArenaReader.open(path)


def test_a_question_is_answered_by_the_same_records_until_something_is_published(
    writer: ArenaWriter, reader: ArenaReader
) -> None:
    writer.append(TRADES, trades(1, 3))
    writer.publish(1, 1, 1, 0)
    records, cut = reader.last("trade", 2)
    again, same_cut = reader.last("trade", 2)
    assert again is records and same_cut is cut
    assert len(reader.last("trade", 3)[0]) == 3  # another question is another answer
    writer.append(TRADES, trades(4, 1))
    assert reader.last("trade", 2)[0] is records  # not published yet
    writer.publish(2, 2, 2, 0)
    assert reader.last("trade", 2)[0]["seq"].tolist() == [3, 4]


def test_many_different_questions_do_not_fill_the_memory(writer: ArenaWriter, reader: ArenaReader) -> None:
    writer.append(TRADES, trades(1, 90))
    writer.publish(1, 1, 1, 0)
    for count in [*range(1, 90), *range(1, 90)]:
        assert reader.last("trade", count)[0]["seq"].tolist() == list(range(91 - count, 91))
    assert len(reader._repeated) <= MAX_REPEATED
