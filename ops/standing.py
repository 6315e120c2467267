"""How a running daemon stands, gathered and laid out: the report of its supervisor, and the arenas beside it.

`gather` looks, `page` lays out; nothing is kept. The statistics of actors are read by name and may be absent: an actor
that has just started has none, and one of another version may have others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from marketd.client.books import frame_of
from marketd.client.local import LocalDaemon
from marketd.daemon.quantities import Bytes
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.protocol import ActorReport, StatusReport
from marketd.market.errors import MarketdError
from marketd.market.fixed import to_real
from marketd.market.instruments import GLOBAL_NAME, Instrument
from marketd.market.records import BY_NAME
from marketd.ops import words
from marketd.ops.extras import needs_daemon_extra
from marketd.ops.tables import Page


class InstrumentLine(NamedTuple):
    """One instrument as shared memory shows it."""

    name: str
    state: str  # WARMING | LIVE | RETIRED
    price: float | None
    ts_event: int
    seq: int
    stale_ns: int
    book: str | None = None  # state of the newest book; None: there is none
    bid: float | None = None  # best prices, of a book that is live
    ask: float | None = None


class Standing(NamedTuple):
    """All that `marketd status` shows."""

    report: StatusReport
    instruments: list[InstrumentLine]
    now_ns: int

    @property
    def is_well(self) -> bool:
        return self.report.health == "ok"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        report: dict[str, Any] = msgspec.to_builtins(self.report)
        shown = {name: value for name, value in report.items() if name not in ("type", "v", "id")}
        return {
            **shown,
            "uptime_seconds": (self.now_ns - self.report.started_ns) / 1e9,
            "journal": _journal(self.report),
            "instruments": [line._asdict() for line in self.instruments],
        }


def gather(runtime_dir: Path, timeout_seconds: float) -> Standing:
    """Raises NotRunning or Timeout."""
    with needs_daemon_extra():
        from marketd.daemon import operator
    report = operator.status(runtime_dir, timeout_seconds)
    return Standing(report, read_instruments(runtime_dir), time.time_ns())


def read_instruments(runtime_dir: Path) -> list[InstrumentLine]:
    """Those with an arena, by name; one that cannot be read now is left out."""
    local = LocalDaemon(runtime_dir)
    found = []
    try:
        instruments = local.instruments(local.presence())
    except MarketdError:
        return []
    for instrument in instruments:
        if instrument.name == GLOBAL_NAME:
            continue
        try:
            with local.open_arena(instrument) as arena:
                found.append(_line(instrument, arena))
        except MarketdError:
            continue  # replaced or retired while we look: the next look has it
    return found


def _line(instrument: Instrument, arena: ArenaReader) -> InstrumentLine:
    cut = arena.cut()
    price = None
    if "trade" in arena.rings:
        trades, _ = arena.last("trade", 1)
        price = float(to_real(trades["price"], instrument.price_scale)[0]) if len(trades) else None
    book = _newest_book(instrument, arena)
    return InstrumentLine(instrument.name, arena.state.name, price, cut.ts_event, cut.seq, arena.stale_ns(), *book)


def _newest_book(instrument: Instrument, arena: ArenaReader) -> tuple[str | None, float | None, float | None]:
    """State, best bid and best ask."""
    if "book" not in arena.rings:
        return None, None, None
    books, _ = arena.last("book", 1)
    if not len(books):
        return None, None, None
    found = frame_of(BY_NAME["book"], instrument, books)
    bid, ask = (_known(float(found[name][0, 0])) for name in ("bid_price", "ask_price"))
    return (found.meta.book_state or "").lower(), bid, ask


def _known(price: float) -> float | None:
    return None if math.isnan(price) else price


def page(standing: Standing) -> Page:
    """The whole of it, for a terminal."""
    report, now_ns = standing.report, standing.now_ns
    shown = Page()
    uptime = words.duration((now_ns - report.started_ns) / 1e9)
    style = {"ok": "bold green", "degraded": "bold yellow"}.get(report.health, "bold red")
    shown.line(
        f"marketd {report.version}, instance {report.instance}: {report.state}, {report.health}; "
        f"up {uptime}, process {report.pid}",
        style,
    )
    for problem in report.problems:
        shown.line(f"  ! {problem}", "red")
    shown.line()
    shown.table(("ACTOR", "STATE", "PID", "UPTIME", "RESTARTS", "HEARD", "MEMORY"), map(_actor_row, report.actors))
    shown.line()
    shown.pairs(_facts(report))
    if standing.instruments:
        shown.line()
        columns = ("INSTRUMENT", "STATE", "LAST PRICE", "BOOK", "BID", "ASK", "LAST EVENT", "AGE", "RECORDS")
        shown.table(columns, (_instrument_row(line, now_ns) for line in standing.instruments))
    return shown


def _actor_row(actor: ActorReport) -> tuple[object, ...]:
    heard = "-" if actor.heard_seconds is None else f"{words.duration(actor.heard_seconds)} ago"
    memory = words.size(actor.memory_bytes)
    return actor.name, actor.state, actor.pid, words.duration(actor.uptime_seconds), actor.restarts, heard, memory


def _instrument_row(line: InstrumentLine, now_ns: int) -> tuple[object, ...]:
    prices = ["-" if price is None else words.real(price) for price in (line.price, line.bid, line.ask)]
    event, age = words.moment(line.ts_event), words.age(line.ts_event, now_ns)
    return line.name, line.state, prices[0], line.book or "-", *prices[1:], event, age, words.count(line.seq)


def _facts(report: StatusReport) -> dict[str, str]:
    journal, ingest = _journal(report), _statistics(report, "ingest", "ingest")
    database, arena = _statistics(report, "writer", "database"), _statistics(report, "ingest", "arena")
    facts = {
        "journal": f"durable {words.count(journal['durable'])}, committed {words.count(journal['committed'])}, "
        f"lag {words.size(journal['lag_bytes'])}; {words.size(journal['disk_bytes'])} on disk "
        f"of {words.size(journal['budget_bytes'])}",
        "records": f"{words.count(ingest.get('records'))} accepted, {words.count(ingest.get('refused'))} refused, "
        f"{words.count(ingest.get('unacknowledged'))} unacknowledged",
        "stored": f"{words.count(_statistics(report, 'writer', 'writer').get('rows'))} rows since the writer's start",
        "database": _database_words(database),
        "memory": f"{words.size(_memory(report))} in the actors' processes; shared: "
        f"{words.size(arena.get('arena_bytes'))} for readers, {words.size(journal['front_bytes'])} before the disk",
        "runtime": report.runtime_dir,
        "state": report.state_dir,
        "http": f"{report.http}/metrics, {report.http}/health" if report.http else "off",
    }
    if journal["blocked"]:
        facts["journal"] += f"; blocked: {journal['blocked']}"
    return facts


def _memory(report: StatusReport) -> int | None:
    known = [actor.memory_bytes for actor in report.actors if actor.memory_bytes is not None]
    return sum(known) if known else None


def _database_words(database: Mapping[str, Any]) -> str:
    if not database:
        return "the writer has not said yet"
    text = f"{database.get('state')}, {database.get('size')} connections, {database.get('reconnects')} reconnects"
    if database.get("state") != "up":
        text += f", away for {words.duration(database.get('down_seconds'))}: {database.get('last_error')}"
    return text


def _journal(report: StatusReport) -> dict[str, Any]:
    """Offsets of the live journal: from ingest, who has them first, else from the writer."""
    journal = _statistics(report, "ingest", "journal")
    writer = _statistics(report, "writer", "writer")
    durable = journal.get("durable", writer.get("durable_offset"))
    committed = writer.get("committed_offset")
    known = durable is not None and committed is not None
    return {
        "end": journal.get("end"),
        "durable": durable,
        "committed": committed,
        # the two actors were heard at different moments: the writer may seem to be ahead
        "lag_bytes": max(0, durable - committed) if known else None,
        "disk_bytes": journal.get("disk_bytes"),
        "budget_bytes": _setting(journal.get("budget_bytes")),
        "front_bytes": _setting(journal.get("front_bytes")),
        "blocked": journal.get("blocked"),
    }


def _setting(size: str | int | None) -> int | None:
    """Bytes of what is a setting, and so perhaps written as one: "16GiB"."""
    return None if size is None else int(Bytes.parse(size))


def _statistics(report: StatusReport, actor: str, name: str) -> Mapping[str, Any]:
    """One table among the statistics of an actor; empty when it is not there."""
    for found in report.actors:
        if found.name == actor:
            table = found.statistics.get(name)
            return table if isinstance(table, Mapping) else {}
    return {}
