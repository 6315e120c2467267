"""The schema in the daemon's database: how far it is, what is to come, and apply it.

    marketd schema status
    marketd schema plan
    marketd schema apply

`marketd run` applies it by itself; `apply` is for a database that somebody else looks after. With TimescaleDB
the policies that follow from [storage] and retention.candles_1s are part of it. Files that were applied
never change, and there is no way back down but a backup.

Exit codes: 0 the schema is what this marketd needs, 4 changes are pending or it does not fit.
"""

from __future__ import annotations

import argparse
from typing import Any

from marketd.daemon.settings import Config
from marketd.ops.cli import EXIT_NOT_WELL
from marketd.ops.databases import database_dsn, run_in_database, without_password
from marketd.ops.extras import needs_daemon_extra
from marketd.ops.options import add_config_options, add_json_option, load_config, print_json
from marketd.ops.tables import Page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    plan = actions.add_parser("plan", help="what apply would do; changes nothing")
    apply = actions.add_parser("apply", help="apply what is pending, and make the tables of declared series")
    status = actions.add_parser("status", help="what was applied, and what is pending")
    for found in (plan, apply, status):
        add_json_option(found)
        add_config_options(found)


def run(args: argparse.Namespace) -> int:
    config = load_config(args)
    if args.action == "apply":
        return _apply(args, config)
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
        from marketd.sql.schema_runner import SchemaRunner
        from marketd.sql.series import declared_series
    status = await SchemaRunner(connection).status()
    stored = await declared_series(connection) if status.applied else {}
    wanted = {name: stream.fields for name, stream in config.streams.items()}
    # fields that are declared no more keep their columns: only what is wanted and not there is missing
    missing = [name for name, fields in wanted.items() if not fields.items() <= stored.get(name, {}).items()]
    changes = await plan_policies(connection, wishes_of(config)) if status.current else []
    return {
        "profile": str(status.profile),
        "applied": [change.name for change in status.applied],
        "pending": [file.name for file in status.pending],
        "series": {"stored": sorted(stored), "missing": missing},
        "policies": [{"what": each.what, "before": each.before, "after": each.after} for each in changes],
        "problem": str(status.problem) if status.problem else None,
    }


def _page(found: dict[str, Any], *, everything: bool) -> Page:
    page = Page()
    page.pairs({"database": found["database"], "profile": found["profile"]})
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
