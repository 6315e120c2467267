"""Make the running daemon take over its configuration file: symbols and venues, limits, aliases, the level of logs.

What a running daemon cannot change is refused as a whole, and named. `marketd config diff` tells beforehand.

Exit codes: 0 taken over, 2 refused, 3 the daemon does not run.
"""

from __future__ import annotations

import argparse

from marketd.ops.daemons import seconds
from marketd.ops.extras import needs_daemon_extra
from marketd.ops.options import add_config_options, add_json_option, load_config, print_json

DEFAULT_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=seconds,
        default=DEFAULT_SECONDS,
        help=f"how long to wait (default {DEFAULT_SECONDS:g}s)",
    )
    add_json_option(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    with needs_daemon_extra():
        from marketd.daemon import operator
    config = load_config(args)  # a flaw in the file is told here, with its line, before the daemon is asked
    detail = operator.reload(config.runtime_path, args.timeout)
    if args.json:
        print_json({"reloaded": True, "detail": detail})
    else:
        print(f"taken over: {detail}")
    return 0
