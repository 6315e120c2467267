"""Open psql in the daemon's database, with our tables on the search path.

    marketd psql
    marketd psql -c "select * from v_trades where ts_event > now() - interval '1 min' limit 10"
    marketd psql -- --csv -f report.sql

What stands behind `--` goes to psql. v_trades and v_candles show real numbers; the tables hold integers at the
instruments' scales. psql is taken from the PATH, else from beside the embedded server's programs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from marketd.daemon.settings import Config
from marketd.market.errors import MarketdError
from marketd.ops.databases import database_dsn, running_embedded_dsn
from marketd.ops.options import add_config_options, load_config
from marketd.sql.dsn import password_of, without_password
from marketd.sql.installations import find_installations
from marketd.sql.state_directory import StateDirectory

_SEARCH_PATH = "-c search_path=marketd,public"


class NoPsql(MarketdError):
    """psql was not found."""


class Command(NamedTuple):
    """What is run."""

    program: str
    arguments: list[str]
    environment: dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="for psql; write -- before the first")
    parser.add_argument("-c", dest="sql", action="append", default=[], metavar="SQL", help="run this, and end")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    config = load_config(args)
    arguments = [*(part for sql in args.sql for part in ("-c", sql)), *args.arguments]
    psql = find_psql(config)
    dsn = config.database.url or running_embedded_dsn(config.state_path)
    if dsn:
        command = command_for(psql, dsn, arguments, os.environ)
        os.execve(command.program, command.arguments, command.environment)
    with database_dsn(config) as started:
        # the server that we started must outlive psql, so psql is our child
        return _wait_for(command_for(psql, started, arguments, os.environ))


def find_psql(config: Config) -> Path:
    """Raises NoPsql with the way out."""
    on_path = shutil.which("psql")
    if on_path:
        return Path(on_path)
    last = StateDirectory(config.state_path).remembered().get("bin_dir")
    bin_dirs = [Path(last)] if last else []
    for bin_dir in (*bin_dirs, *(installation.bin_dir for installation in find_installations())):
        if os.access(bin_dir / "psql", os.X_OK):
            return bin_dir / "psql"
    raise NoPsql(
        "psql is neither on the PATH nor beside an installed PostgreSQL; install the client (Debian: "
        "apt-get install postgresql-client), or ask without it: marketd query"
    )


def command_for(psql: Path, dsn: str, arguments: list[str], environment: Mapping[str, str]) -> Command:
    """The password goes by the environment: a command line is everybody's to read."""
    options = f"{environment.get('PGOPTIONS', '')} {_SEARCH_PATH}".strip()
    variables = {**environment, "PGOPTIONS": options}
    password = password_of(dsn)
    if password:
        variables["PGPASSWORD"] = password
    return Command(str(psql), [str(psql), without_password(dsn), *arguments], variables)


def _wait_for(command: Command) -> int:
    # Ctrl-C is psql's: it cancels a query there
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.run(command.arguments, env=command.environment, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
