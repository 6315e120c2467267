"""The configuration: what is in force, and why; is it right; what would a reload change; the defaults explained.

    marketd config show                     every setting with its origin
    marketd config show --changed           only what is no default
    marketd config check                    exit code 2 and the place of the first flaw
    marketd config diff                     the running daemon's against the file's: what `marketd reload` would do
    marketd config diff --against default
    marketd config default                  every setting with its default, unit and reason, as a file to copy from

Exit codes of diff: 0 no difference, 4 some; 3 no daemon runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import resources
from typing import Any

from marketd.daemon import config as configuration
from marketd.daemon.rules import unsent_candles
from marketd.daemon.settings import Config
from marketd.market.errors import NotRunning
from marketd.ops import configurations
from marketd.ops.cli import EXIT_NOT_WELL
from marketd.ops.configurations import DEFAULT
from marketd.ops.options import add_config_options, add_json_option, load_config, print_json
from marketd.ops.tables import Page, print_table

RUNNING = "running"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="the settings in force, each with its origin")
    show.add_argument("--changed", action="store_true", help="only what is no default")
    show.add_argument("--secrets", action="store_true", help="passwords too")
    check = actions.add_parser("check", help="is it right")
    diff = actions.add_parser("diff", help="against the running daemon, the defaults, or another file")
    diff.add_argument(
        "--against", metavar="WHAT", default=RUNNING, help=f"{RUNNING}, {DEFAULT}, or a file (default: {RUNNING})"
    )
    default = actions.add_parser("default", help="the defaults, explained")
    for found in (show, check, diff, default):
        add_json_option(found)
        if found is not default:
            add_config_options(found)


def run(args: argparse.Namespace) -> int:
    actions = {"show": _show, "check": _check, "diff": _diff, "default": _default}
    return actions[args.action](args)


def _show(args: argparse.Namespace) -> int:
    values = [
        value
        for value in configurations.effective(args, secrets=args.secrets)
        if not args.changed or value.origin != DEFAULT
    ]
    if args.json:
        origins = {value.path: value.origin for value in values if value.origin != DEFAULT}
        print_json({"settings": configurations.nested(values), "origins": origins})
        return 0
    rows = [(value.path, json.dumps(value.value, ensure_ascii=False), value.origin) for value in values]
    print_table(("SETTING", "VALUE", "FROM"), rows)
    return 0


def _check(args: argparse.Namespace) -> int:
    config = load_config(args)
    file = configuration.find_file(args.config)
    notes = _notes(args, config)
    if args.json:
        found = {"ok": True, "file": file, "instance": config.instance, "venues": sorted(config.active_venues)}
        print_json({**found, "notes": notes})
        return 0
    page = Page()
    page.line(f"{file or 'the defaults (there is no file)'}: right", "green")
    symbols = [f"{name} {', '.join(venue.symbols)}" for name, venue in config.active_venues.items()]
    page.pairs(
        {
            "  instance": config.instance,
            "  venues": "; ".join(symbols) or "none: only producers of your own will send records",
            "  streams": ", ".join(config.streams) or "none",
            "  state": config.state_path,
            "  runtime": config.runtime_path,
            "  database": configurations.shown("database.url", config.database.url) or "embedded",
        }
    )
    for note in notes:
        page.line(f"! {note}", "yellow")
    page.show()
    return 0


def _notes(args: argparse.Namespace, config: Config) -> list[str]:
    """What is written there and does nothing."""
    written = {value.path for value in configurations.effective(args) if value.origin != DEFAULT}
    return [
        f"venues.{name}.candles[{i}]: {why}"
        for name, venue in config.active_venues.items()
        if f"venues.{name}.candles" in written
        for i, why in unsent_candles(name, venue)
    ]


def _diff(args: argparse.Namespace) -> int:
    from marketd.daemon.reload import changes

    new = load_config(args)
    old = _other(args, new)
    needs_restart = set(changes(old, new).needs_restart) if args.against == RUNNING else set()
    found = configurations.differences(old, new)
    if args.json:
        print_json([_difference(path, before, after, path in needs_restart) for path, before, after in found])
    elif found:
        columns = ("SETTING", args.against.upper(), "FILE", "TAKEN OVER BY")
        rows = [
            (path, _text(before), _text(after), "a restart" if path in needs_restart else "marketd reload")
            for path, before, after in found
        ]
        width = len(columns) if args.against == RUNNING else len(columns) - 1
        print_table(columns[:width], (row[:width] for row in rows))
    else:
        print("no difference", file=sys.stderr)
    return EXIT_NOT_WELL if found else 0


def _other(args: argparse.Namespace, new: Config) -> Config:
    if args.against == DEFAULT:
        return Config()
    if args.against != RUNNING:
        return configuration.load(args.against, overrides=args.set)
    from marketd.daemon.runtime import CONFIG_COPY, is_held

    if not is_held(new.runtime_path):
        raise NotRunning(
            f"no daemon runs in {new.runtime_path}; compare with --against {DEFAULT}, or with another file"
        )
    return configuration.load(new.runtime_path / CONFIG_COPY, overrides=args.set)


def _difference(path: str, before: Any, after: Any, needs_restart: bool) -> dict[str, Any]:
    return {"setting": path, "old": before, "new": after, "needs_restart": needs_restart}


def _text(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)


def _default(args: argparse.Namespace) -> int:
    if args.json:
        print_json(configuration.to_plain(Config()))
    else:
        sys.stdout.write((resources.files("marketd.ops") / "marketd.toml").read_text(encoding="utf-8"))
    return 0
