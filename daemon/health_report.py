"""Is all well? What `health()` tells: one word, and the numbers behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from marketd.daemon.runtime import read_description
from marketd.daemon.storage_watch import last_look
from marketd.ipc.arena import ArenaState
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.protocol import HealthReport
from marketd.market.errors import MarketdError
from marketd.market.times import NS_PER_SECOND
from marketd.sql.connections import ConnectionStatistics

STALE_NS = NS_PER_SECOND  # ingest beats every tenth of a second
LAG_BYTES = 64 << 20  # of the journal that the database has not committed yet


def health_report(request_id: int, runtime_dir: Path, database: ConnectionStatistics) -> HealthReport:
    """`ok`, `degraded` (something is late or away, nothing is lost) or `failed` (nobody takes in records)."""
    instruments: dict[str, Any] = {}
    lag_bytes = 0
    for path in sorted((runtime_dir / "arena").glob("*.arena")):
        try:
            with ArenaReader.open(path) as arena:
                instruments[arena.identity.instrument] = _instrument(arena)
                lag_bytes = max(lag_bytes, arena.durable_offset - arena.committed_offset)
        except MarketdError as error:
            instruments[path.stem] = {"error": str(error)}
    stale = any(entry.get("stale_ns", 0) > STALE_NS for entry in instruments.values())
    problems = _problems(instruments, database, lag_bytes)
    if stale:
        problems.append("ingest does not beat: it is stopped, or gone and about to be replaced")
    storage = last_look(runtime_dir)
    problems += storage.get("problems", [])
    problems += read_description(runtime_dir).get("feed_problems", [])
    status = "failed" if stale else "degraded" if problems else "ok"
    report = {
        "problems": problems,
        "database": database._asdict(),
        "lag_bytes": lag_bytes,
        "storage": storage,
        "instruments": instruments,
    }
    return HealthReport(id=request_id, status=status, report=report)


def _instrument(arena: ArenaReader) -> dict[str, Any]:
    cut = arena.cut()
    return {
        "state": arena.state.name,
        "stale_ns": arena.stale_ns(),
        "seq": cut.seq,
        "ts_known": cut.ts_known,
        "ts_event": cut.ts_event,
        "durable": 0 <= cut.journal_offset <= arena.durable_offset,
    }


def _problems(instruments: dict[str, Any], database: ConnectionStatistics, lag_bytes: int) -> list[str]:
    problems = []
    if database.state != "up":
        problems.append(f"the database is {database.state}: {database.last_error}")
    if lag_bytes > LAG_BYTES:
        problems.append(f"the database is {lag_bytes} bytes of journal behind")
    if any(entry.get("state") == ArenaState.WARMING.name for entry in instruments.values()):
        problems.append("the shared memory is being filled")
    return problems
