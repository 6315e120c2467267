"""`marketd storage` and the watch behind its metrics, in a real database of each profile."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from marketd.daemon import metrics, storage_watch
from marketd.daemon.health_report import health_report
from marketd.daemon.quantities import Nanoseconds
from marketd.daemon.settings import Config, Retention
from marketd.daemon.storage_watch import FILE_NAME, SizesWatch, last_look, problems
from marketd.daemon.verdict import judge
from marketd.ipc.protocol import ActorReport
from marketd.ops.cli import EXIT_NOT_RUNNING, EXIT_NOT_WELL, main
from marketd.sql.connections import ConnectionStatistics, DatabaseConnectionManager
from marketd.sql.storage import Disk, StorageReport, measure

REGISTRY = '{"daemon_no":1,"instruments":[]}'
KEPT = Config(retention=Retention(trades=Nanoseconds(7 * 86_400 * 10**9)))
AWAY = ConnectionStatistics("up", 1, 1, 0, 0, 0, "", 0.0, 0.0, "")


def ask_json(capsys: pytest.CaptureFixture[str], dsn: str, *arguments: str) -> Any:
    capsys.readouterr()
    main(["storage", *arguments, "--json", "--set", f"database.url={dsn}", "--set", "retention.trades='7d'"])
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def stored(database: str) -> str:
    async def store() -> None:
        conn = await asyncpg.connect(database, server_settings={"search_path": "marketd, public"})
        if await conn.fetchval("SELECT relkind = 'p' FROM pg_class WHERE oid = 'trades'::regclass"):
            await conn.execute(
                "CREATE TABLE trades_p20240808 PARTITION OF trades FOR VALUES FROM ('2024-08-08Z') TO ('2024-08-09Z')"
            )
        await conn.execute(
            "INSERT INTO trades SELECT 1, '2024-08-08 12:00Z'::timestamptz + n * interval '1 s', now(), n, n,"
            " 1, 1, 1, 0 FROM generate_series(1, 1000) n"
        )
        await conn.execute("ANALYZE trades")
        await conn.close()

    asyncio.run(store())
    return database


def test_the_report_names_tables_pieces_and_the_next_cut(stored: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask_json(capsys, stored, "--pieces")
    trades = next(table for table in found["tables"] if table["table"] == "trades")
    assert trades["rows"] == 1000
    assert trades["next_cut"].startswith(("2024-08-1", "20"))
    assert [piece["rows"] for piece in found["pieces"] if piece["table"] == "trades"] == [1000]
    assert found["disk"]["free_bytes"] > 0
    assert main(["storage", "--pieces", "--set", f"database.url={stored}"]) in (0, EXIT_NOT_WELL)
    page = capsys.readouterr().out
    assert "1,000" in page
    assert "NEXT CUT" in page
    assert "free of" in page


async def report_of(manager: DatabaseConnectionManager) -> StorageReport:
    async with manager.acquire() as conn:
        return await measure(conn)


async def test_a_disk_that_is_full_soon_is_said_everywhere(
    connections: DatabaseConnectionManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = await report_of(connections)
    assert problems(report._replace(disk=Disk("/", 50, 100))) == []
    growing = [table._replace(growth_bytes=10.0) for table in report.tables[:1]]
    short = report._replace(disk=Disk("/", 30, 1000), tables=growing)
    assert [problem[:45] for problem in problems(short)] == [
        "the database's disk has only 3.0% free",
        "the database's disk is full in 3.0 days at th",
    ]

    async def measured(_: object) -> StorageReport:
        return short

    monkeypatch.setattr(storage_watch, "measure", measured)
    watch = SizesWatch(connections, KEPT, tmp_path / FILE_NAME)
    await watch.look()
    assert last_look(tmp_path)["disk_full_days"] == 3.0
    health = health_report(1, tmp_path, AWAY)
    assert (health.status, health.report["storage"]["disk_free_bytes"]) == ("degraded", 30)
    actor = ActorReport(name="storage", state="live", statistics={"sizes": last_look(tmp_path)})
    status, said = judge("live", [actor], "")
    assert (status, len(said)) == ("degraded", 2)


async def test_each_table_is_told_in_health_and_metrics(stored: str, tmp_path: Path) -> None:
    async with DatabaseConnectionManager(stored) as manager:
        async with manager.acquire() as conn:
            await conn.execute(
                "INSERT INTO instruments VALUES (1, 'A', 'B', 'A', 'B', 'spot', 2, 3, 2, 1, 1, 0, now(), 1)"
            )
        await SizesWatch(manager, KEPT, tmp_path / FILE_NAME).look()
    told = health_report(1, tmp_path, AWAY).report["storage"]["tables"]["trades"]
    assert (told["rows"], told["pieces"]) == (1000, 1)
    assert told["oldest"] == "2024-08-08T12:00:01+00:00"
    assert told["newest"] == "2024-08-08T12:16:40+00:00"
    assert (told["growth_bytes_per_day"], told["ratio"]) == (None, None)
    assert datetime.fromisoformat(told["next_cut"]) > datetime.fromisoformat("2024-08-15T00:00+00:00")
    shown = metrics.exposition().decode()
    for name, value in (
        ("pieces", 1.0),
        ("oldest_timestamp_seconds", datetime.fromisoformat(told["oldest"]).timestamp()),
        ("newest_timestamp_seconds", datetime.fromisoformat(told["newest"]).timestamp()),
        ("next_cut_timestamp_seconds", datetime.fromisoformat(told["next_cut"]).timestamp()),
    ):
        line = next(line for line in shown.splitlines() if line.startswith(f'marketd_storage_{name}{{table="trades"}}'))
        assert float(line.split()[1]) == pytest.approx(value)


async def test_the_watch_measures_keeps_a_sample_and_tells_nothing_it_did_not_see(
    connections: DatabaseConnectionManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = SizesWatch(connections, KEPT, tmp_path / FILE_NAME)
    await watch.look()
    assert b'marketd_storage_bytes{table="trades"}' in metrics.exposition()
    async with connections.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM storage_samples WHERE table_name = 'trades'") == 1
    before = last_look(tmp_path)
    assert before["database_bytes"] > 0
    assert before["tables"]["schema_changes"]["rows"] >= 0

    async def broken(_: object) -> StorageReport:
        raise asyncpg.QueryCanceledError("statement timeout")

    monkeypatch.setattr(storage_watch, "measure", broken)
    with pytest.raises(asyncpg.QueryCanceledError):  # which the actor counts, and begins it again
        await watch.look()
    assert last_look(tmp_path) == before


def test_a_backup_made_and_restored_by_the_command_line(
    stored: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, state = tmp_path / "copy", tmp_path / "state"
    state.mkdir()
    (state / "registry.json").write_text(REGISTRY)
    database = ["--set", f"database.url={stored}", "--set", f"state_dir={state}"]
    assert main(["storage", "backup", str(copy), *database]) == 0
    assert "rows of" in capsys.readouterr().out
    assert (copy / "registry.json").exists()
    assert main(["storage", "backup", str(copy), *database]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["storage", "restore", str(copy), *database]) == 1
    assert "has rows in trades" in capsys.readouterr().err
    asyncio.run(_emptied(stored))
    (state / "registry.json").unlink()
    assert main(["storage", "restore", str(copy), *database]) == 0
    assert "are back, and verified" in capsys.readouterr().out
    assert (state / "registry.json").read_text() == REGISTRY
    trades = next(table for table in ask_json(capsys, stored)["tables"] if table["table"] == "trades")
    assert trades["rows"] == 1000
    for path in (copy, state):
        (path / "registry.json").unlink()
    asyncio.run(_emptied(stored))
    assert main(["storage", "restore", str(copy), *database]) == 0
    assert "registry.json: the backup has none: put that of the daemon" in capsys.readouterr().out


def test_a_backup_is_restored_on_a_new_machine_whose_postgresql_marketd_makes(
    stored: str, tmp_path: Path, reachable_dir: Path, state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, old, new = tmp_path / "copy", tmp_path / "old", state_dir
    old.mkdir()
    (old / "registry.json").write_text(REGISTRY)
    assert main(["storage", "backup", str(copy), "--set", f"database.url={stored}", "--set", f"state_dir={old}"]) == 0
    here = ["--set", f"state_dir={new}", "--set", f"runtime_dir={reachable_dir / 'run'}"]
    assert main(["storage", "--json", *here]) == EXIT_NOT_RUNNING  # nothing but a restore makes a database
    capsys.readouterr()
    assert main(["storage", "restore", str(copy), *here]) == 0, capsys.readouterr().err
    assert "are back, and verified" in capsys.readouterr().out
    assert (new / "registry.json").read_text() == REGISTRY
    assert main(["storage", "--json", *here]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert next(table["rows"] for table in tables if table["table"] == "trades") == 1000


async def _emptied(dsn: str) -> None:
    conn = await asyncpg.connect(dsn)
    await conn.execute("TRUNCATE marketd.trades")
    await conn.close()
