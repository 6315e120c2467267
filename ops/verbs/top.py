"""The market at a glance: books, spreads and imbalances of every instrument, straight from shared memory.

    marketd top                     again every second, until Ctrl-C
    marketd top --once              one look
    marketd top --json              for programs: a list a look, one a line

Only on the daemon's own host. A book that is not live has no prices.
"""

from __future__ import annotations

import argparse
import json

from marketd.client.cache import DataCacheManager
from marketd.ops import market_view
from marketd.ops.daemons import add_daemon_options, daemon_url, seconds
from marketd.ops.options import add_json_option
from marketd.ops.screen import repeat, watch

LOOK_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="one look, then end")
    parser.add_argument(
        "--every",
        metavar="TIME",
        type=seconds,
        default=LOOK_SECONDS,
        help=f"look again after so long (default {LOOK_SECONDS:g}s)",
    )
    add_json_option(parser)
    add_daemon_options(parser)


def run(args: argparse.Namespace) -> int:
    times = 1 if args.once else None
    with DataCacheManager(daemon_url(args)) as cache:
        market_view.look(cache)  # NotRunning comes out before a screen is cleared
        if args.json:
            repeat(lambda: print(json.dumps(_plain(cache)), flush=True), args.every, times=times)
        elif args.once:
            market_view.page(market_view.look(cache)).show()
        else:
            watch(lambda: market_view.page(market_view.look(cache)), args.every)
    return 0


def _plain(cache: DataCacheManager) -> list[dict[str, object]]:
    return [line._asdict() for line in market_view.look(cache)]
