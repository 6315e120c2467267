"""Books on their way from the journal to the database: as deep as they were when they were written."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import pytest

from book_lane import books, buckets, imbalances, stamped
from lane import BTC, KINDS, section
from marketd.daemon.journal_rows import commit_of
from marketd.ipc import frames
from marketd.ipc.frames import Frame
from marketd.market.records import BY_NAME, KindTable, Records, book_kind
from marketd.sql.store import Commit


def chain(*sections: tuple[int, int, int, bytes]) -> list[Frame]:
    """A frame of each section, one behind the other."""
    found: list[Frame] = []
    for number, each in enumerate(sections, 1):
        offset = found[-1].end if found else 0
        data = frames.encode(offset, [each], instrument=BTC.id, seq=number, ts_known=1000 * number)
        found.append(frames.decode(memoryview(data), 0, offset))
    return found


def commit(*sections: tuple[int, int, int, bytes], kinds: KindTable = KINDS) -> Commit:
    return commit_of(chain(*sections), kinds, UUID(int=5), "live")


def book_section(records: Records) -> tuple[int, int, int, bytes]:
    return section(book_kind(records.dtype["bid_price"].shape[0]), records)


def test_books_of_another_depth_than_now_are_stored_as_they_are() -> None:
    deep, shallow = stamped(books([(0, 99, 100, 30)], 30)), stamped(books([(1, 99, 100), (2, 98, 100)], 5), 2)
    work = commit(book_section(deep), book_section(shallow), book_section(deep))
    assert [(rows.table, rows.kind.dtype, len(rows.records)) for rows in work.rows] == [
        ("book_snapshots", deep.dtype, 2),
        ("book_snapshots", shallow.dtype, 2),
    ]
    assert work.rows[0].records.tobytes() == deep.tobytes() * 2
    assert work.rows[1].instruments.tolist() == [BTC.id, BTC.id]


def test_each_kind_of_books_has_its_table() -> None:
    made = {
        "book": books([(0, 99, 100)]),
        "imbalance": imbalances([(0, 7)]),
        "buckets": np.concatenate([buckets([(0, 1)]), buckets([(0, 1)], 60)]),
    }
    work = commit(*(section(BY_NAME[name], records) for name, records in made.items()))
    assert {rows.table: rows.records.tobytes() for rows in work.rows} == {
        BY_NAME[name].table: records.tobytes() for name, records in made.items()
    }


@pytest.mark.parametrize(("kind", "itemsize"), [("book", 41), ("trade", 48), ("imbalance", 8)])
def test_records_of_a_size_that_their_kind_has_not_are_kept_in_quarantine(kind: str, itemsize: int) -> None:
    work = commit((BY_NAME[kind].id, itemsize, 2, bytes(2 * itemsize)))
    assert work.rows == []
    assert [(row.rule, row.item & 1, len(row.payload)) for row in work.quarantine] == [
        ("undeclared", 0, itemsize),
        ("undeclared", 1, itemsize),
    ]
    assert f"records of {itemsize} bytes" in work.quarantine[0].detail
