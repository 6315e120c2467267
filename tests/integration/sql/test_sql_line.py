"""The part of a ledger that is read for a stretch draws the same line there as the whole ledger does."""

from __future__ import annotations

import random
from uuid import uuid4

import numpy as np
import pytest

from lane import BTC, SECOND, START
from marketd.daemon.ledger import coverage_records
from marketd.market.records import BY_NAME, COVERAGE, Coverage, Records
from marketd.market.timeline import timeline
from marketd.market.times import ABSENT, NS_PER_US
from marketd.sql.connections import type_connection
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import detect_profile
from marketd.sql.read import Span, read_coverage, read_facts, read_line
from marketd.sql.store import Commit, commit, to_datetime

TRADE, BOOK = BY_NAME["trade"].id, BY_NAME["book"].id
EVENTS, HOUR = 400, 3600
STATES = [state for state in Coverage if state != Coverage.EXPIRED]


def any_ledger(rng: random.Random) -> Records:
    """Events as a long life leaves them: mostly in the order of time, some of the past, some without an end."""
    records = np.zeros(EVENTS, COVERAGE)
    for number, record in enumerate(records):
        begin = number * HOUR // EVENTS + rng.choice((0, 0, 0, -rng.randrange(HOUR)))
        record["seq"], record["state"] = number + 1, rng.choice(STATES)
        record["stream"] = rng.choice((TRADE, TRADE, BOOK, 0))
        start = START + begin * SECOND + rng.randrange(SECOND) // NS_PER_US * NS_PER_US
        record["ts_event"] = record["ts_start"] = start
        length = rng.choice((-5, 0, 1, 7, 60, 900)) * SECOND
        record["ts_end"] = rng.choice((start + length, start + length, ABSENT))
        record["ts_known"] = START + (number + HOUR) * SECOND
    return records


async def keep(conn: type_connection, events: Records, rng: random.Random) -> None:
    coverage = [(np.full(len(events), BTC.id, np.int32), events)]
    work = Commit(uuid4(), "live", 8, START, [], None, coverage, [], 0)
    await commit(conn, work, PartitionKeeper(await detect_profile(conn)))
    for _ in range(20):  # what retention dropped
        first = START + rng.randrange(-HOUR, HOUR) * SECOND
        known = START + (HOUR + rng.randrange(EVENTS)) * SECOND
        await conn.execute(
            "INSERT INTO expired (stream, of_table, ts_start, ts_end, ts_known) VALUES ($1, 'trades', $2, $3, $4)",
            *(TRADE, to_datetime(first), to_datetime(first + rng.randrange(1, HOUR) * SECOND), to_datetime(known)),
        )


@pytest.mark.parametrize("seed", range(4))
async def test_the_line_of_any_stretch_needs_no_more_than_is_read(conn: type_connection, seed: int) -> None:
    rng = random.Random(seed)
    await keep(conn, any_ledger(rng), rng)
    fewest = EVENTS
    for _ in range(60):
        stream = rng.choice((TRADE, BOOK))
        first = START + rng.randrange(-HOUR, HOUR) * SECOND + rng.randrange(SECOND)
        last = first + rng.choice((1, SECOND, 60 * SECOND, HOUR * SECOND))
        known_at = rng.choice((None, START + (HOUR + rng.randrange(EVENTS)) * SECOND))
        whole = coverage_records(await read_coverage(conn, BTC.id, Span(), known_at=known_at))
        part = coverage_records(await read_line(conn, BTC.id, stream, Span(first, last), known_at=known_at))
        assert timeline(part, stream, first, last) == timeline(whole, stream, first, last), (stream, first, known_at)
        _, beside = await read_facts(conn, BTC.id, None, stream, Span(first, last), known_at=known_at)
        assert sorted(coverage_records(beside).tolist()) == sorted(part.tolist())
        fewest = min(fewest, len(part))
    assert fewest < EVENTS // 10, "short stretches read few rows"


async def test_of_a_stretch_without_a_beginning_all_is_read(conn: type_connection) -> None:
    rng = random.Random(5)
    await keep(conn, any_ledger(rng), rng)
    whole = coverage_records(await read_coverage(conn, BTC.id, Span()))
    part = coverage_records(await read_line(conn, BTC.id, TRADE, Span()))
    assert sorted(part["seq"].tolist()) == sorted(whole["seq"][np.isin(whole["stream"], (TRADE, 0))].tolist())
