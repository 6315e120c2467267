"""Watches how much the database holds: a look every few minutes, as metrics, and as a file for whoever asks for health.

A background work of the storage actor; nothing waits for it. What it saw last lies in the runtime directory
(`storage.json`), so that the query actor can tell it in `health()` without a question to the database.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from marketd.daemon import metrics
from marketd.daemon.settings import Config, Retention
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.storage import StorageReport, TableSize, keep_sample, measure, next_cut

_log = logging.getLogger(__name__)
_BYTES = metrics.gauge("storage_bytes", "Bytes of a table on disk: rows, indexes, all pieces", ["table"])
_ROWS = metrics.gauge("storage_rows", "Rows of a table, as PostgreSQL estimates them", ["table"])
_PACKED = metrics.gauge("storage_packed_bytes", "Of storage_bytes, what is compressed or packed", ["table"])
_BEFORE = metrics.gauge("storage_packed_before_bytes", "What that took before", ["table"])
_PIECES = metrics.gauge("storage_pieces", "Chunks, or partitions and days of packed blocks, of a table", ["table"])
_OLDEST = metrics.gauge("storage_oldest_timestamp_seconds", "Time of a table's oldest row", ["table"])
_NEWEST = metrics.gauge("storage_newest_timestamp_seconds", "Time of a table's newest row", ["table"])
_CUT = metrics.gauge("storage_next_cut_timestamp_seconds", "When retention takes a table's next piece", ["table"])
_GROWTH = metrics.gauge("storage_growth_bytes_per_day", "Bytes a day that a table grows by", ["table"])
_FREE = metrics.gauge("storage_disk_free_bytes", "Free bytes of the database's disk, where it is this machine's")
_FULL = metrics.gauge("storage_disk_full_days", "Days until that disk is full at this growth; +Inf: never")

ROUND_SECONDS = 300.0
FULL_SOON_DAYS = 7.0
LITTLE_FREE = 0.05  # of the disk: PostgreSQL stops at the last byte, not before
FILE_NAME = "storage.json"


class SizesWatch:
    """Looks at the sizes as a background work. `file`: where the last look is told, replaced as a whole each time."""

    name = "sizes"

    def __init__(self, database: DatabaseConnectionManager, config: Config, file: Path) -> None:
        self._database = database
        self._retention = config.retention
        self._file = file

    def change(self, config: Config) -> None:
        """From now on the next cut is told after this retention."""
        self._retention = config.retention

    async def run(self) -> None:
        """Look after look, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(ROUND_SECONDS)

    async def look(self) -> None:
        """One look: metrics, the file, and once an hour a sample in the database."""
        async with self._database.acquire() as connection:
            report = await measure(connection)
            await keep_sample(connection, report)
        cuts = next_cuts(report, self._retention)
        _show(report, cuts)
        told = summary(report, cuts)
        for problem in told["problems"]:
            _log.warning("%s", problem, extra={"action": "storage_short"})
        _replace(self._file, json.dumps(told))


def problems(report: StorageReport) -> list[str]:
    """What an operator should hear about; none while all is well."""
    disk, days = report.disk, report.days_until_full
    found = []
    if disk is not None and disk.free_bytes < LITTLE_FREE * disk.total_bytes:
        found.append(f"the database's disk has only {disk.free_bytes / disk.total_bytes:.1%} free")
    if days is not None and days < FULL_SOON_DAYS:
        found.append(f"the database's disk is full in {days:.1f} days at this growth; see `marketd storage`")
    return found


def next_cuts(report: StorageReport, retention: Retention) -> dict[str, datetime]:
    """When the next piece goes of each table that has an end and a piece."""
    found = {}
    for table, kept in retention.tables.items():
        with suppress(OverflowError):  # kept for longer than there are years
            cut = next_cut(report.pieces, table, timedelta(seconds=kept.seconds))
            if cut is not None:
                found[table] = cut
    return found


def summary(report: StorageReport, cuts: Mapping[str, datetime]) -> dict[str, Any]:
    """The look for health and status, as JSON has it: totals, and each table that holds something."""
    return {
        "taken_at": report.taken_at.isoformat(),
        "database_bytes": report.database_bytes,
        "growth_bytes_per_day": report.growth_bytes,
        "disk_free_bytes": report.disk.free_bytes if report.disk else None,
        "disk_full_days": report.days_until_full,
        "problems": problems(report),
        "tables": {t.table: _table(t, cuts.get(t.table)) for t in report.tables if t.rows or t.bytes},
    }


def _table(table: TableSize, cut: datetime | None) -> dict[str, Any]:
    times = {"oldest": table.oldest, "newest": table.newest, "next_cut": cut}
    return {
        "rows": table.rows,
        "bytes": table.bytes,
        "pieces": table.pieces,
        "packed_rows": table.packed_rows,
        "packed_bytes": table.packed_bytes,
        "ratio": table.ratio,
        "growth_bytes_per_day": table.growth_bytes,
        **{name: None if moment is None else moment.isoformat() for name, moment in times.items()},
    }


def last_look(runtime_dir: Path) -> dict[str, Any]:
    """What a watch of this runtime directory saw last; empty when there was none."""
    try:
        found = json.loads((runtime_dir / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _show(report: StorageReport, cuts: Mapping[str, datetime]) -> None:
    for gauge in (_OLDEST, _NEWEST, _CUT, _GROWTH):
        gauge.clear()  # what is not known any more
    for name, cut in cuts.items():
        _CUT.labels(name).set(cut.timestamp())
    for table in report.tables:
        _PIECES.labels(table.table).set(table.pieces)
        if table.oldest is not None and table.newest is not None:
            _OLDEST.labels(table.table).set(table.oldest.timestamp())
            _NEWEST.labels(table.table).set(table.newest.timestamp())
        _BYTES.labels(table.table).set(table.bytes)
        _ROWS.labels(table.table).set(table.rows)
        _PACKED.labels(table.table).set(table.packed_bytes)
        _BEFORE.labels(table.table).set(table.bytes_before)
        if table.growth_bytes is not None:
            _GROWTH.labels(table.table).set(table.growth_bytes)
    if report.disk is not None:
        _FREE.set(report.disk.free_bytes)
        _FULL.set(float("inf") if report.days_until_full is None else report.days_until_full)


def _replace(file: Path, text: str) -> None:
    new = file.with_name(f".{file.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640), "w") as out:
        out.write(text)
    new.replace(file)
