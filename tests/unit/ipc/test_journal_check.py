"""What `marketd journal check` and `show` are told: every kind of damage, and no false alarm."""

from __future__ import annotations

from pathlib import Path

import pytest
from journal_support import Kernel, append, change, fill, flip, newest, open_journal, zero

from marketd.ipc.journal_check import FrameLine, check, show
from marketd.ipc.journal_errors import JournalMismatch, JournalMissing
from marketd.ipc.segments import list_segments
from marketd.market.errors import JournalDamaged


def test_a_sound_journal_has_no_problems_and_says_what_it_holds(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, range(1, 1001))
        end, uuid = journal.end, journal.uuid
    report = check(tmp_path)
    assert report.ok
    assert (report.oldest, report.end, report.uuid, report.torn_bytes) == (0, end, uuid.hex(), 0)
    assert report.frames == 1000 + len(report.segments)
    assert [segment.first for segment in report.segments] == [file.first for file in list_segments(tmp_path)]
    assert all(segment.checkpoint_bytes == 16 for segment in report.segments)


def test_a_journal_is_checked_beside_its_running_writer(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        for start in range(0, 1000, 100):
            fill(journal, range(start, start + 100))
            assert check(tmp_path).ok
            journal.release(journal.durable, 0)


def test_a_torn_tail_is_counted_and_no_problem(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        start = journal.end
        end = append(journal, 1)
    change(newest(tmp_path), end - 40, zero, 40)
    report = check(tmp_path)
    assert report.ok
    assert report.end == start
    assert report.torn_bytes > 0


def test_every_damaged_segment_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, range(1, 1001))
    files = list_segments(tmp_path)
    change(files[0], 5000, flip)
    change(files[2], files[2].first - 30, flip)
    report = check(tmp_path)
    assert not report.ok
    assert [problem.partition(":")[0] for problem in report.problems] == [files[0].name, files[2].name]
    assert "damaged at offset" in report.problems[0]
    assert [bool(segment.problem) for segment in report.segments[:4]] == [True, False, True, False]


def test_a_missing_segment_in_the_middle_is_a_problem(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, range(1, 1001))
    files = list_segments(tmp_path)
    files[1].path.unlink()
    (problem,) = check(tmp_path).problems
    assert problem.startswith(files[0].name)
    assert f"its successor begins at {files[2].first}" in problem


def test_damage_below_what_was_durable_is_a_problem_in_the_newest_segment(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        start = journal.end
        for seq in range(1, 4):
            assert journal.wait_durable(append(journal, seq), 30)
    change(newest(tmp_path), start + 60, flip)
    (problem,) = check(tmp_path).problems
    assert f"damaged at offset {start}" in problem


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_journal_is_said_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(JournalMissing):
        check(tmp_path / name)


def test_show_tells_each_frame_from_the_newest_checkpoint_on(tmp_path: Path) -> None:
    kernel = Kernel()
    with open_journal(tmp_path, kernel) as journal:
        fill(journal, range(1, 1001), kernel=kernel)
    lines = list(show(tmp_path))
    assert lines[0].checkpoint and lines[0].offset == newest(tmp_path).first
    assert lines[-1].seq == 1000
    assert lines[-1].ts_known == 1_000_000
    assert lines[-1].sections == ((1, 100),)


def test_show_begins_where_it_is_asked_to_and_ends_at_damage(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, range(1, 1001))
    assert [line.seq for line in show(tmp_path, 0) if not line.checkpoint] == list(range(1, 1001))
    first = list_segments(tmp_path)[0]
    change(first, 5000, flip)
    shown: list[FrameLine] = []
    with pytest.raises(JournalDamaged):
        shown.extend(show(tmp_path, 0))
    first.path.unlink()
    with pytest.raises(JournalMismatch):
        next(show(tmp_path, 0))
