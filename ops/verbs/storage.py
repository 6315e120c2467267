"""What the database holds, how fast it grows, when its disk is full; backup and restore.

    marketd storage                     one line a table
    marketd storage --pieces            one line a chunk or partition, too
    marketd storage backup DIRECTORY    a consistent copy of the database, while the daemon runs
    marketd storage restore DIRECTORY   into an empty database, verified; the daemon is stopped

Rows are PostgreSQL's estimates; bytes are with indexes. Growth is measured between looks of the daemon.

Exit codes: 0 all is well, 4 the disk is full soon.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marketd.daemon.settings import Config
from marketd.ops import words
from marketd.ops.cli import EXIT_NOT_WELL
from marketd.ops.databases import database_dsn, run_database_work, run_in_database
from marketd.ops.extras import needs_daemon_extra
from marketd.ops.options import add_config_options, add_json_option, load_config, print_json
from marketd.ops.progress import Progress
from marketd.ops.tables import Page
from marketd.sql.dsn import without_password

if TYPE_CHECKING:
    from marketd.sql.storage import PieceSize, StorageReport, TableSize

_TABLE = ("TABLE", "ROWS ~", "BYTES", "A ROW", "PACKED", "RATIO", "A DAY", "OLDEST", "NEWEST", "NEXT CUT")
_PIECE = ("PIECE", "FROM", "TO", "ROWS ~", "BYTES", "PACKED", "RATIO")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pieces", action="store_true", help="each chunk or partition, too")
    add_json_option(parser)
    add_config_options(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    backup = actions.add_parser("backup", help="copy the database into a new directory")
    backup.add_argument("path", type=Path, metavar="DIRECTORY")
    restore = actions.add_parser("restore", help="from such a directory into an empty database")
    restore.add_argument("path", type=Path, metavar="DIRECTORY")
    for found in (backup, restore):
        add_json_option(found)
        add_config_options(found)


def run(args: argparse.Namespace) -> int:
    config = load_config(args)
    if args.action == "backup":
        return _back_up(args, config)
    if args.action == "restore":
        return _restore(args, config)
    return _report(args, config)


def _report(args: argparse.Namespace, config: Config) -> int:
    with needs_daemon_extra():
        from marketd.daemon.storage_watch import next_cuts, problems
        from marketd.sql.storage import measure

    with database_dsn(config) as dsn:
        report = run_in_database(dsn, measure)
    cuts = next_cuts(report, config.retention)
    found = problems(report)
    if args.json:
        print_json(_plain(report, cuts, found, without_password(dsn), pieces=args.pieces))
    else:
        _page(report, cuts, found, without_password(dsn), pieces=args.pieces).show()
    return EXIT_NOT_WELL if found else 0


def _back_up(args: argparse.Namespace, config: Config) -> int:
    with needs_daemon_extra():
        from marketd.daemon.registry import REGISTRY_NAME
        from marketd.sql.backup import back_up
    progress = Progress()
    registry = config.state_path / REGISTRY_NAME
    with database_dsn(config) as dsn:
        manifest = run_database_work(lambda: back_up(dsn, args.path, registry, lambda step: progress(*step)))
    if args.json:
        print_json({"path": str(args.path), "rows": manifest.rows, "tables": len(manifest.tables)})
    else:
        print(f"{args.path} has {words.plural(manifest.rows, 'row')} of {words.plural(len(manifest.tables), 'table')}")
        if not registry.exists():
            print(f"! {registry} is not there: copy that of the daemon that writes this database beside it")
    return 0


def _restore(args: argparse.Namespace, config: Config) -> int:
    with needs_daemon_extra():
        from marketd.daemon.registry import REGISTRY_NAME, has_ids
        from marketd.sql.backup import REGISTRY
        from marketd.sql.restore import restore
    registry, copy = config.state_path / REGISTRY_NAME, args.path / REGISTRY
    is_wanted = copy.exists() and not has_ids(registry)
    progress = Progress()
    with database_dsn(config, may_be_new=True) as dsn:
        manifest = run_database_work(lambda: restore(dsn, args.path, lambda step: progress(*step)))
    took_registry = is_wanted and config.state_path.is_dir()
    if took_registry:
        shutil.copy(copy, registry)
    if args.json:
        print_json({"rows": manifest.rows, "tables": len(manifest.tables), "registry": took_registry})
    else:
        tables = words.plural(len(manifest.tables), "table")
        print(f"{words.plural(manifest.rows, 'row')} of {tables} are back, and verified: as of {manifest.taken_at}")
        print(f"registry.json: {'restored, too' if took_registry else _registry_advice(copy, registry)}")
    return 0


def _registry_advice(copy: Path, registry: Path) -> str:
    """Without the daemon's own ids its instruments would get new ones, beside those that were restored."""
    if registry.exists():
        return f"{registry} stays as it is"
    if copy.exists():
        return f"copy {copy} into the state_dir of the daemon that is to go on with this database"
    return f"the backup has none: put that of the daemon that wrote this database at {registry}"


def _plain(
    report: StorageReport, cuts: Mapping[str, datetime | None], found: list[str], database: str, *, pieces: bool
) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "database": database,
        "profile": str(report.profile),
        "database_bytes": report.database_bytes,
        "growth_bytes_per_day": report.growth_bytes,
        "disk": report.disk._asdict() if report.disk else None,
        "disk_full_days": report.days_until_full,
        "problems": found,
        "tables": [
            {**table._asdict(), "ratio": table.ratio, "next_cut": cuts.get(table.table)} for table in report.tables
        ],
    }
    if pieces:
        shown["pieces"] = [piece._asdict() for piece in report.pieces]
    return shown


def _page(
    report: StorageReport, cuts: Mapping[str, datetime | None], found: list[str], database: str, *, pieces: bool
) -> Page:
    page = Page()
    page.pairs({"database": database, "profile": report.profile, **_facts(report)})
    page.line()
    page.table(_TABLE, [_table_row(table, cuts) for table in report.tables if table.bytes or table.rows])
    if pieces:
        page.line()
        page.table(_PIECE, map(_piece_row, report.pieces))
    page.line()
    for problem in found:
        page.line(f"! {problem}", "bold red")
    return page


def _facts(report: StorageReport) -> dict[str, str]:
    growth = "not known yet" if report.growth_bytes is None else f"{words.size(report.growth_bytes)} a day"
    disk = "unknown: the server is another machine's, or does not tell where its data lie"
    if report.disk is not None:
        days = report.days_until_full
        when = "" if days is None else f", full in {_days(days)}"
        disk = f"{words.size(report.disk.free_bytes)} free of {words.size(report.disk.total_bytes)}{when}"
    return {"bytes": words.size(report.database_bytes), "growth": growth, "disk": disk}


def _days(days: float) -> str:
    return f"{days:.1f} days" if days < 10 else f"{days:,.0f} days" if days < 36_500 else "over a century"


def _table_row(table: TableSize, cuts: Mapping[str, datetime | None]) -> tuple[object, ...]:
    return (
        table.table,
        words.count(table.rows),
        words.size(table.bytes),
        f"{table.bytes / table.rows:.1f}" if table.rows else "-",
        words.size(table.packed_bytes) if table.packed_bytes else "-",
        f"{table.ratio:.1f}" if table.ratio else "-",
        words.size(table.growth_bytes),
        _minute(table.oldest),
        _minute(table.newest),
        _minute(cuts.get(table.table)),
    )


def _piece_row(piece: PieceSize) -> tuple[object, ...]:
    return (
        f"{piece.table}: {piece.name}",
        _minute(piece.start),
        _minute(piece.end),
        words.count(piece.rows),
        words.size(piece.bytes),
        words.size(piece.packed_bytes) if piece.packed_bytes else "-",
        f"{piece.ratio:.1f}" if piece.ratio else "-",
    )


def _minute(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
