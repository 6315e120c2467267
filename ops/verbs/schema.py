"""The schema in the daemon's database: how far it is, what is to come, and apply it.

    marketd schema status
    marketd schema plan
    marketd schema apply
    marketd schema move --to postgresql://…

`marketd run` applies it by itself; `apply` is for a database that somebody else looks after. With TimescaleDB the
policies that follow from [storage] and retention.candles_1s are part of it. Files that were applied never change, and
there is no way back down but a backup. `move` copies everything into another database, of whatever
profile, and verifies it; the old one stays as it is. Interrupted, the same command goes on.

Exit codes: 0 the schema is what this marketd needs, or all is moved; 4 changes are pending, it does not fit, or the
move is to be finished once the daemon has stopped.
"""

from __future__ import annotations

import argparse
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
    from marketd.sql.move import Moved


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    plan = actions.add_parser("plan", help="what apply would do; changes nothing")
    apply = actions.add_parser("apply", help="apply what is pending, and make the tables of declared series")
    status = actions.add_parser("status", help="what was applied, and what is pending")
    move = actions.add_parser("move", help="everything into another database, verified")
    move.add_argument("--to", required=True, metavar="URL", help="an empty database, of whatever profile")
    for found in (plan, apply, status, move):
        add_json_option(found)
        add_config_options(found)


def run(args: argparse.Namespace) -> int:
    config = load_config(args)
    if args.action == "apply":
        return _apply(args, config)
    if args.action == "move":
        return _move(args, config)
    with database_dsn(config) as dsn:
        found = run_in_database(dsn, lambda connection: _look(connection, config))
        found["database"] = without_password(dsn)
    if args.json:
        print_json(found)
    else:
        _page(found, everything=args.action == "status").show()
    return EXIT_NOT_WELL if found["problem"] or _is_behind(found) else 0


def _is_behind(found: dict[str, Any]) -> bool:
    return bool(found["pending"] or found["series"]["missing"] or found["policies"])


async def _look(connection: Any, config: Config) -> dict[str, Any]:
    with needs_daemon_extra():
        from marketd.daemon.policy_keeper import wishes_of
        from marketd.sql.policies import plan_policies
        from marketd.sql.rights import read_rights
        from marketd.sql.schema_runner import SchemaRunner
        from marketd.sql.series import declared_series
    status = await SchemaRunner(connection).status()
    stored = await declared_series(connection) if status.applied else {}
    wanted = {name: stream.fields for name, stream in config.streams.items()}
    # fields that are declared no more keep their columns: only what is wanted and not there is missing
    missing = [name for name, fields in wanted.items() if not fields.items() <= stored.get(name, {}).items()]
    changes = await plan_policies(connection, wishes_of(config)) if status.current else []
    rights = await read_rights(connection)
    return {
        "profile": str(status.profile),
        "owner": rights.owner,
        "roles_missing": rights.missing,
        "applied": [change.name for change in status.applied],
        "pending": [file.name for file in status.pending],
        "series": {"stored": sorted(stored), "missing": missing},
        "policies": [{"what": each.what, "before": each.before, "after": each.after} for each in changes],
        "problem": str(status.problem) if status.problem else None,
    }


def _page(found: dict[str, Any], *, everything: bool) -> Page:
    page = Page()
    page.pairs({"database": found["database"], "profile": found["profile"], "owner": found["owner"] or "-"})
    for statement in found["roles_missing"]:
        page.line(f"a superuser may run: {statement};", "yellow")
    page.line()
    changes = [(name, "applied") for name in found["applied"]] if everything else []
    changes += [(name, "pending") for name in found["pending"]]
    changes += [(f"series {name}", "applied") for name in found["series"]["stored"]] if everything else []
    changes += [(f"series {name}", "pending") for name in found["series"]["missing"]]
    changes += [(f"{each['what']}: {each['after']} (now {each['before']})", "pending") for each in found["policies"]]
    if changes:
        page.table(("CHANGE", "STATE"), changes)
        page.line()
    if found["problem"]:
        page.line(f"! {found['problem']}", "bold red")
    elif _is_behind(found):
        page.line("`marketd schema apply` applies what is pending, and so does the next `marketd run`", "yellow")
    else:
        page.line("the schema is what this marketd needs", "green")
    return page


def _apply(args: argparse.Namespace, config: Config) -> int:
    with needs_daemon_extra():
        from marketd.daemon.policy_keeper import wishes_of
        from marketd.sql.policies import apply_policies
        from marketd.sql.schema_runner import SchemaRunner
        from marketd.sql.series import ensure_series_table

    async def work(connection: Any) -> tuple[list[str], list[str]]:
        applied = [file.name for file in await SchemaRunner(connection).apply()]
        await connection.execute("SET search_path = marketd, public")
        for name, stream in config.streams.items():
            await ensure_series_table(connection, name, stream.fields)
        changes = await apply_policies(connection, wishes_of(config))
        return applied, [f"{change.what}: {change.after}" for change in changes]

    with database_dsn(config) as dsn:
        applied, policies = run_in_database(dsn, work)
    if args.json:
        print_json({"applied": applied, "series": sorted(config.streams), "policies": policies})
    else:
        print(f"applied: {', '.join(applied) or 'nothing was pending'}")
        if config.streams:
            print(f"series:  {', '.join(sorted(config.streams))}")
        for line in policies:
            print(f"policy:  {line}")
    return 0


def _move(args: argparse.Namespace, config: Config) -> int:
    with needs_daemon_extra():
        from marketd.sql.move import move
        from marketd.sql.sole import sole_connection

    progress = Progress()

    async def work(dsn: str) -> Moved:
        async with sole_connection(dsn, "move") as source, sole_connection(args.to, "move") as target:
            return await move(source, target, progress)

    with database_dsn(config) as dsn:
        moved = run_database_work(lambda: work(dsn))
    if args.json:
        print_json({**moved._asdict(), "finished": moved.finished})
    else:
        _say_moved(moved, without_password(args.to))
    return 0 if moved.finished else EXIT_NOT_WELL


def _say_moved(moved: Moved, target: str) -> None:
    rows = words.plural(moved.rows, "row")
    pieces = f"{words.plural(moved.copied, 'piece')} copied, {moved.kept:,} as they were, {rows}"
    if moved.finished:
        print(f"moved and verified: {pieces}")
        print(f"now set database.url to {target}, and start the daemon: it goes on where it stopped")
        print("the old database is as it was; drop it when you trust the new one, and start no daemon on it before")
    else:
        print(f"copied so far: {pieces}")
        print(f"{', '.join(moved.daemons)} still writes: `marketd stop`, and then the same command, which finishes it")
