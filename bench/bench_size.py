"""Bytes a row, with all indexes and TOAST, as rows and after what is closed was compressed or packed; and elsewhere.

A week of ten symbols made out of real recordings (week.py); the same rows in both profiles and in every peer. A table's
bytes are those of its files in PostgreSQL. "saved" is against the same profile's rows with their indexes.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
from closing import close
from daemon_under_test import profiles
from options import Options
from peers_environment import peers_python
from report import Goal, Report
from table_sizes import bytes_of
from week import SYMBOLS, WEEK_TABLES, Week, daemon_with_week

from marketd.sql.profiles import Profile

SAVED = {"trades": 0.92, "candles_1s": 0.90}  # the goals
PEERS_SECONDS = 1800.0
LEAST_OF_PEERS = 1.1  # times that a peer may be smaller than the packed blocks
PACKED_TABLES = ("trades", "candles_1s", "book_snapshots", "book_buckets", "imbalances")


def run(options: Options) -> Report:
    week = Week.of(options.quick)
    report = Report("size", "bytes a row with indexes and TOAST, of a week of ten symbols")
    report.facts = dict(week.in_words())
    sizes = {profile: _of_profile(week, profile, report) for profile in profiles()}
    peers = _of_peers(week)
    for table in WEEK_TABLES:
        for profile, tables in sizes.items():
            report.rows.append(_row(table, str(profile), tables[table]))
        rows = tables[table]["rows"]
        for peer, found in peers.get(table, {}).items():
            report.rows.append({"table": table, "store": peer, "rows": rows, "after": found["bytes"] / rows})
    _set_goals(report)
    return report


def _of_profile(week: Week, profile: Profile, report: Report) -> dict[str, dict[str, Any]]:
    with daemon_with_week(week, profile) as (daemon, stored):
        found, took = asyncio.run(_measured(daemon.dsn))
    told = stored.told
    report.facts[f"{profile}: seconds to store"] = {table: each["seconds"] for table, each in told.items()}
    report.facts[f"{profile}: seconds to compress"] = took
    return {table: {"rows": told[table]["rows"], **found[table]} for table in WEEK_TABLES}


async def _measured(dsn: str) -> tuple[dict[str, dict[str, int]], dict[str, float]]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "marketd,public"})
    before = {table: await bytes_of(connection, table) for table in WEEK_TABLES}
    took = await close(connection)
    after = {table: await bytes_of(connection, table) for table in WEEK_TABLES}
    await connection.close()
    return {table: {"before": before[table], "after": after[table]} for table in WEEK_TABLES}, took


def _row(table: str, profile: str, found: dict[str, Any]) -> dict[str, Any]:
    rows = found["rows"]
    return {
        "table": table,
        "store": profile,
        "rows": rows,
        "before": found["before"] / rows,
        "after": found["after"] / rows,
        "saved %": 100 * (1 - found["after"] / found["before"]),
    }


def _of_peers(week: Week) -> dict[str, dict[str, Any]]:
    """By table and peer: bytes and seconds of the same rows."""
    found = {}
    with peers_python() as python:
        for table in PACKED_TABLES:
            with tempfile.TemporaryDirectory(prefix="marketd-peers-", dir=_place()) as place:
                for number in range(SYMBOLS):
                    np.save(Path(place) / f"{number}.npy", week.of_symbol(table, number))
                found[table] = _asked(python, place)
    return found


def _asked(python: Path, place: str) -> dict[str, Any]:
    command = [str(python), str(Path(__file__).parent / "peer_stores.py"), place]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=PEERS_SECONDS)
    peers: dict[str, Any] = json.loads(done.stdout)
    return peers


def _place() -> str:
    return os.environ.get("MARKETD_BENCH_DIR", "/var/tmp")


def _set_goals(report: Report) -> None:
    by_store = {(row["table"], row["store"]): row for row in report.rows}
    for table, wanted in SAVED.items():
        for profile in profiles():
            reached = by_store[table, str(profile)]["saved %"]
            report.goals.append(Goal(f"{table} in {profile}, saved", 100 * wanted, reached, False, " %"))
    for table in PACKED_TABLES:
        packed = by_store[table, str(Profile.POSTGRES)]["after"]
        others = {row["store"]: row["after"] for row in report.rows if row["table"] == table and "before" not in row}
        smallest = min(others, key=lambda store: others[store])
        what = f"{table}, packed blocks to the smallest peer ({smallest})"
        report.goals.append(Goal(what, LEAST_OF_PEERS, packed / others[smallest], True, " times"))
