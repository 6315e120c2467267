"""Stop the running daemon: nothing more is accepted, what was accepted is committed, then it ends.

    marketd stop                    waits until it has ended, within supervisor.drain_timeout
    marketd stop --timeout 5min     waits longer

Exit codes: 0 it has ended, 1 it still drains, 3 it does not run.
"""

from __future__ import annotations

import argparse
import time

from marketd.ops.daemons import seconds
from marketd.ops.extras import needs_daemon_extra
from marketd.ops.options import add_config_options, add_json_option, load_config, print_json
from marketd.ops.words import duration

# Behind the actors' budget PostgreSQL makes its checkpoint.
EXTRA_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=seconds,
        help=f"how long to wait (default: supervisor.drain_timeout and {EXTRA_SECONDS:g} s)",
    )
    add_json_option(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    with needs_daemon_extra():
        from marketd.daemon import operator
    config = load_config(args)
    budget = args.timeout or config.supervisor.drain_timeout.seconds + EXTRA_SECONDS
    began = time.monotonic()
    operator.stop(config.runtime_path, budget)
    took = time.monotonic() - began
    if args.json:
        print_json({"stopped": True, "runtime_dir": config.runtime_path, "seconds": round(took, 3)})
    else:
        print(f"the daemon in {config.runtime_path} has ended, after {duration(took)}")
    return 0
