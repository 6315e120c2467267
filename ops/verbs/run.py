"""Run the daemon: PostgreSQL if it is the embedded one, ingest, writer, storage, query and a feed for each venue.

Stays in the foreground; Ctrl-C, SIGTERM or `marketd stop` end it cleanly. `marketd init` writes a configuration.
"""

from __future__ import annotations

import argparse

from marketd.daemon import config as configuration
from marketd.ops.options import add_config_options, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    from marketd.daemon.prepare import embedded_postgres, prepare_schema
    from marketd.daemon.supervisor import run_supervisor

    config = load_config(args)
    return run_supervisor(
        config,
        configuration.find_file(args.config),
        args.set,
        postgres=None if config.database.url else embedded_postgres(config),
        prepare=lambda dsn: prepare_schema(dsn, config),
    )
