"""The pieces (partitions, chunks) of the database's tables that records touch: how many, in which stretches. Pure.

A row locks its piece until its transaction ends, and a piece that is missing is made: both are bounded by bounding the
pieces of a batch (ingest) and of a transaction (writer). A record of a wrong but possible time, such as 1970, costs one
piece and not all those between it and today.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from marketd.market.records import Kind, Records
from marketd.market.times import NS_PER_SECOND
from marketd.sql.store import TableRows

Ints = npt.NDArray[np.int64]

DAY_NS = 86_400 * NS_PER_SECOND  # no piece is shorter
MAX_PIECES = 500  # PostgreSQL's default lock table has room for some 6000 tables and indexes; a day may lock eight
_ONE_STRETCH_NS = 30 * DAY_NS  # within so much time nothing is worth cutting


def days_of(times_ns: Ints) -> int:
    """How many days have one of these times; when they lie close together, at most how many."""
    if not len(times_ns):
        return 0
    between = (int(times_ns.max()) - int(times_ns.min())) // DAY_NS + 1
    return min(between, len(times_ns)) if between <= MAX_PIECES else len(np.unique(times_ns // DAY_NS))


def too_scattered(parts: Sequence[tuple[Kind, Records]]) -> bool:
    """Whether a batch touches more than `MAX_PIECES`."""
    if sum(len(records) for _, records in parts) <= MAX_PIECES:
        return False
    return sum(days_of(records[kind.time]) for kind, records in parts if kind.table is not None) > MAX_PIECES


def stretches(rows: TableRows) -> list[TableRows]:
    """The rows cut where whole days are missing between them, and after `MAX_PIECES` days; in the order of time.

    Rows of one day stay in their order.
    """
    times = rows.records[rows.kind.time]
    if not len(times) or int(times.max()) - int(times.min()) < _ONE_STRETCH_NS:
        return [rows]
    days = times // DAY_NS
    order = np.argsort(days, kind="stable")
    steps = np.diff(days[order])
    numbers = np.cumsum(steps != 0)  # of days that have rows
    cuts = np.flatnonzero((steps > 1) | ((steps != 0) & (numbers % MAX_PIECES == 0))) + 1
    return [
        rows._replace(instruments=rows.instruments[part], records=rows.records[part]) for part in np.split(order, cuts)
    ]


def pieces_of(rows: Sequence[TableRows]) -> int:
    """How many days the rows of a transaction touch, table by table."""
    return sum(days_of(each.records[each.kind.time]) for each in rows)
