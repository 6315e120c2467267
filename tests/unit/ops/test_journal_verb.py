"""`marketd journal`: what it tells of a whole journal and of a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from book_records import books
from marketd.ipc.journal import Journal
from marketd.ipc.segments import HEADER_BYTES
from marketd.market.records import BY_NAME, empty
from marketd.ops.cli import EXIT_FAILED, EXIT_NOT_WELL, EXIT_USAGE, main
from support import eventually

TRADE = BY_NAME["trade"]
BTC = {"id": 65537, "symbol": "BTCUSDT", "venue": "BINANCE", "price_scale": 2, "size_scale": 5, "quote_scale": 7}
SEGMENT_BYTES = 1 << 20
TS = 1_723_161_240_000_000_000


def trade(price: int, number: int) -> bytes:
    record = empty(TRADE, 1)
    for name, value in {"ts_event": TS, "price": price, "size": 10_000, "side": 1, "flags": 0}.items():
        record[name] = value
    record["seq"] = record["trade_id"] = number
    return record.tobytes()


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A state directory with a journal of three trades."""
    (tmp_path / "registry.json").write_text(json.dumps({"daemon_no": 1, "instruments": [BTC]}))
    journal = Journal.open(
        tmp_path / "journal",
        front_path=None,
        segment_bytes=SEGMENT_BYTES,
        budget_bytes=8 * SEGMENT_BYTES,
        checkpoint=lambda: b"state",
    )
    for number in range(1, 4):
        sections = [(TRADE.id, TRADE.dtype.itemsize, 1, trade(6_100_000 + number, number)), (4711, 1, 3, b"abc")]
        journal.append(65537, number, TS + number, sections)
        # each frame says what was durable when it was written: by that damage is told from a torn tail
        eventually(lambda: journal.durable == journal.end)
    journal.close()
    return tmp_path


def ask(state_dir: Path, *arguments: str) -> int:
    return main(["journal", *arguments, "--set", f"state_dir={state_dir}"])


def test_list_names_the_journals(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(state_dir, "list", "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert (line["name"], line["segments"], line["oldest"]) == ("journal", 1, 0)


def test_check_of_a_whole_journal(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(state_dir, "check") == 0
    assert "whole: 4 frames" in capsys.readouterr().out  # a checkpoint, three batches
    assert ask(state_dir, "check", str(state_dir / "journal"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"]


def test_check_of_a_damaged_journal_exits_with_4(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (segment,) = (state_dir / "journal").glob("*.seg")
    with segment.open("r+b") as file:
        file.seek(HEADER_BYTES + 200)  # in the first trade's frame
        file.write(b"\xff" * 8)
    assert ask(state_dir, "check") == EXIT_NOT_WELL
    shown = capsys.readouterr().out
    assert "damaged" in shown
    assert segment.name in shown
    assert ask(state_dir, "check", "--json") == EXIT_NOT_WELL
    assert not json.loads(capsys.readouterr().out)["ok"]


def test_show_has_a_line_for_each_frame(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(state_dir, "show", "--from", "0", "--limit", "2", "--records") == 0
    first, second, record = capsys.readouterr().out.splitlines()
    assert first.endswith("checkpoint")
    assert "BTCUSDT.BINANCE  seq 1  trade ×1, kind 4711" in second
    assert "price=61000.01 size=0.1 side=buy" in record


def test_an_offset_inside_a_frame_is_refused_with_where_frames_begin(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(state_dir, "show", "--from", "0", "--json") == 0
    frames = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    begin, end = frames[1]["offset"], frames[2]["offset"]
    for inside in (begin + 1, begin + 8, end - 8):
        assert ask(state_dir, "show", "--from", str(inside)) == EXIT_USAGE
        said = capsys.readouterr()
        assert f"{inside} lies inside a frame; frames begin at {begin} and, behind it, at {end}" in said.err
        assert not said.out
    assert ask(state_dir, "show", "--from", str(end), "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_end_of_a_journal_has_no_frames_and_beyond_it_nothing_is_asked_for(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(state_dir, "check", "--json") == 0
    end = json.loads(capsys.readouterr().out)["segments"][-1]["end"]
    assert ask(state_dir, "show", "--from", str(end)) == 0
    assert not capsys.readouterr().out
    assert ask(state_dir, "show", "--from", str(end + 1)) == EXIT_USAGE
    assert f"the journal ends at offset {end}, before {end + 1}" in capsys.readouterr().err


def test_show_filters_by_instrument_and_prints_json(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(state_dir, "show", "--from", "0", "--instrument", "BTCUSDT", "--records", "--json") == 0
    frames = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [frame["seq"] for frame in frames] == [1, 2, 3]
    assert [frame["records"][0]["price"] for frame in frames] == [61000.01, 61000.02, 61000.03]
    assert ask(state_dir, "show", "--instrument", "DOGEUSDT") == EXIT_USAGE


def test_without_a_registry_numbers_are_shown_as_they_stand(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (state_dir / "registry.json").unlink()
    assert ask(state_dir, "show", "--from", "0", "--instrument", "65537", "--limit", "1", "--records") == 0
    assert "price=6100001 " in capsys.readouterr().out


def test_a_journal_that_is_not_there_is_said_with_those_that_are(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(state_dir, "check", "import/2021") == EXIT_FAILED
    assert "there are: journal" in capsys.readouterr().err


def test_show_prints_books_of_whatever_depth_they_were_written_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "registry.json").write_text(json.dumps({"daemon_no": 1, "instruments": [BTC]}))
    journal = Journal.open(
        tmp_path / "journal",
        front_path=None,
        segment_bytes=SEGMENT_BYTES,
        budget_bytes=8 * SEGMENT_BYTES,
        checkpoint=lambda: b"state",
    )
    for depth in (2, 20):
        record = books([0], depth=depth, levels=2)
        journal.append(65537, depth, TS + depth, [(3, record.dtype.itemsize, 1, record.tobytes())])
        eventually(lambda: journal.durable == journal.end)
    journal.close()
    assert ask(tmp_path, "show", "--records") == 0
    shown = capsys.readouterr().out
    assert shown.count("100 99.99") == 2 and shown.count("live") == 2
