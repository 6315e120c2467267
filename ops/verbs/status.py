"""How the running daemon stands: actors, journal, database, instruments with their last prices.

    marketd status                  once
    marketd status --watch          again every 2 s, until Ctrl-C
    marketd status --json           for programs; with --watch one object a line

Exit codes: 0 all is well, 4 degraded or failed (the reasons stand under the first line), 3 it does not run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from marketd.ops.cli import EXIT_NOT_WELL
from marketd.ops.daemons import seconds
from marketd.ops.options import add_config_options, add_json_option, load_config, print_json
from marketd.ops.screen import repeat, watch
from marketd.ops.standing import Standing, gather, page

WATCH_SECONDS = 2.0
ANSWER_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch",
        metavar="TIME",
        type=seconds,
        nargs="?",
        const=WATCH_SECONDS,
        help=f"look again after so long (default {WATCH_SECONDS:g}s), until Ctrl-C",
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=seconds,
        default=ANSWER_SECONDS,
        help=f"how long the supervisor may take to answer (default {ANSWER_SECONDS:g}s)",
    )
    add_json_option(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    runtime_dir = load_config(args).runtime_path
    standing = gather(runtime_dir, args.timeout)  # NotRunning comes out before a screen is cleared
    if args.watch is not None:
        standing = _watch(standing, runtime_dir, args)
    elif args.json:
        print_json(standing.plain())
    else:
        page(standing).show()
    return 0 if standing.is_well else EXIT_NOT_WELL


def _watch(first: Standing, runtime_dir: Path, args: argparse.Namespace) -> Standing:
    """Until Ctrl-C; the last one that was seen."""
    seen = [first]

    def look() -> Standing:
        seen[:] = [gather(runtime_dir, args.timeout)]
        return seen[0]

    if args.json:
        repeat(lambda: print(json.dumps(look().plain()), flush=True), args.watch)
    else:
        watch(lambda: page(look()), args.watch)
    return seen[0]
