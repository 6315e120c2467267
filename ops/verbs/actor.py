"""Run one actor in this process, for a debugger or a unit of its own.

The supervisor starts its actors with this verb: ingest, writer, storage, query-1, feed-BINANCE.
"""

from __future__ import annotations

import argparse

from marketd.ops.options import add_config_options, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="ingest, writer, storage, query-1, feed-VENUE")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    from marketd.daemon.actor import run_and_exit
    from marketd.daemon.actors import make_actor

    run_and_exit(make_actor(args.name, load_config(args), lambda: load_config(args)))
