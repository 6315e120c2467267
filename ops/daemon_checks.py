"""What `marketd doctor` looks at beyond the machine: PostgreSQL, addresses, the daemon, its schema, its journal.

As in `marketd.ops.checks`: findings, no exceptions, and nothing is changed or started.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

from marketd.daemon.settings import Config
from marketd.ipc import paths
from marketd.ipc.presence import read_presence
from marketd.market.errors import ConfigError, MarketdError, NotRunning, ProtocolError
from marketd.ops.checks import Finding
from marketd.ops.databases import run_in_database, running_embedded_dsn
from marketd.ops.extras import MissingDaemonExtra, needs_daemon_extra
from marketd.sql.dsn import with_user, without_password
from marketd.sql.errors import NoInstallation
from marketd.sql.installations import Installation, choose_installation, find_installations
from marketd.sql.state_directory import StateDirectory

SOCKETS = ("ingest", "query", "stream", "control")
ANSWER_SECONDS = 3.0


def daemon_checks(config: Config) -> Iterator[Finding]:
    """All of this module."""
    if not config.database.url:
        yield from embedded_postgres(config)
    yield from api_keys(config)
    running = is_running(config)
    yield sockets(config)
    yield http_address(config, running=running)
    yield daemon(config, running=running)
    yield from database(config)


def is_running(config: Config) -> bool:
    from marketd.daemon.runtime import is_held

    return is_held(config.runtime_path)


def api_keys(config: Config) -> Iterator[Finding]:
    """Whether the keys of venues can be read, by whoever looks; never what they are."""
    from marketd.daemon.api_keys import api_key_of

    for name, venue in config.active_venues.items():
        if venue.api_key_file:
            try:
                api_key_of(name, venue)
            except ConfigError as error:
                yield Finding("api key", "fail", f"that of {name} cannot be used", str(error))
            else:
                yield Finding("api key", "ok", f"that of {name} can be read")


# ---- PostgreSQL ---------------------------------------------------------------------------------


def embedded_postgres(config: Config) -> Iterator[Finding]:
    """The installations of this machine, and which of them the data directory is run with."""
    try:
        found = find_installations()
    except NoInstallation as error:
        yield Finding("postgresql", "fail", "MARKETD_PG_BIN names none", str(error))
        return
    directory = StateDirectory(config.state_path)
    facts = directory.remembered()
    try:
        chosen = choose_installation(found, major=directory.major, needs_timescale=bool(facts.get("timescale")))
    except NoInstallation as error:
        yield Finding("postgresql", "fail", _listed(found) or "none found", str(error))
        return
    except PermissionError:
        yield Finding(
            "postgresql", "warn", "its data directory belongs to another user", "look as that user, or as root"
        )
        return
    others = [installation for installation in found if installation != chosen]
    text = f"{_words(chosen)}{'; there are also ' + _listed(others) if others else ''}"
    if facts and not facts.get("timescale"):
        chosen = chosen._replace(has_timescale=False)
    if not chosen.has_timescale:
        why = "the data was made without it, and stays so" if facts else "install PostgreSQL with TimescaleDB Community"
        yield Finding("postgresql", "warn", text, f"no TimescaleDB: the same answers, less compression; {why}")
    else:
        yield Finding("postgresql", "ok", text)


def _words(installation: Installation) -> str:
    timescale = f" with TimescaleDB {installation.timescale_version}" if installation.has_timescale else ""
    return f"{installation.version}{timescale} in {installation.bin_dir}"


def _listed(found: list[Installation]) -> str:
    return ", ".join(map(_words, found))


def database(config: Config) -> Iterator[Finding]:
    """The database and the schema in it; an embedded server that does not run is left alone."""
    try:
        dsn = config.database.url or running_embedded_dsn(config.state_path)
        if dsn is None:
            state = "stopped" if StateDirectory(config.state_path).exists else "not made yet"
            yield Finding("database", "ok", f"embedded, {state}; the daemon starts it")
            return
        facts, status = run_in_database(dsn, _look)
    except MissingDaemonExtra as error:
        yield Finding("database", "fail", "cannot be looked at", str(error))
        return
    except MarketdError as error:
        yield Finding("database", "fail", "cannot be used", str(error))
        return
    where = without_password(dsn) if config.database.url else "embedded"
    timescale = f", TimescaleDB {facts.timescale_installed} ({facts.licence})" if facts.timescale_installed else ""
    yield Finding("database", "ok", f"{where}: PostgreSQL {facts.server_version}{timescale}, profile {status.profile}")
    if status.problem is not None:
        yield Finding("schema", "fail", "does not fit this marketd", str(status.problem))
    elif status.pending:
        names = ", ".join(file.name for file in status.pending)
        yield Finding("schema", "warn", f"pending: {names}", "`marketd run` applies it, or `marketd schema apply`")
    else:
        yield Finding("schema", "ok", f"{len(status.applied)} changes applied, none pending")
    if status.applied:
        yield reading(config, dsn)


def reading(config: Config, dsn: str) -> Finding:
    """With which rights queries are answered."""
    from marketd.sql.server_settings import READER_ROLE

    url = config.database.url_for_reading or with_user(dsn, READER_ROLE)
    try:
        found = run_in_database(url, _look_as_reader)
    except MarketdError as error:
        return Finding("queries", "fail", "their login cannot be used", str(error))
    if not found.may_write:
        return Finding("queries", "ok", f"read as {found.role}, who may change nothing")
    return Finding(
        "queries",
        "warn",
        f"read as {found.role}, who may change what it reads; only each transaction of theirs is read-only",
        "`marketd schema status` has the SQL that lets it read as marketd_reader; or set database.read_url",
    )


async def _look(connection: Any) -> Any:
    from marketd.sql.profiles import describe_server
    from marketd.sql.schema_runner import SchemaRunner

    return await describe_server(connection), await SchemaRunner(connection).status()


async def _look_as_reader(connection: Any) -> Any:
    from marketd.sql.rights import become_reader, read_reading

    await become_reader(connection)
    return await read_reading(connection)


# ---- addresses and the daemon -------------------------------------------------------------------


def sockets(config: Config) -> Finding:
    """Whether the paths of the sockets are short enough."""
    try:
        for name in SOCKETS:
            paths.socket_url(config.runtime_path, name)
    except ConfigError as error:
        return Finding("sockets", "fail", "their paths are too long", str(error))
    return Finding("sockets", "ok", f"{', '.join(SOCKETS)} in {config.runtime_path}")


def http_address(config: Config, *, running: bool) -> Finding:
    """Whether the page's address is free, or ours."""
    address = config.http.address
    if address is None:
        return Finding("http", "ok", "switched off")
    text = config.http.listen
    if running:
        return Finding("http", "ok", f"{text}, the running daemon's")
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "somebody else listens there" if taken else error.strerror or str(error)
            return Finding("http", "fail", f"{text}: {why}", "set http.listen to another address")
    return Finding("http", "ok", f"{text} is free")


def daemon(config: Config, *, running: bool) -> Finding:
    """Whether it runs, and how it says it is."""
    if not running:
        return _stopped(config)
    try:
        with needs_daemon_extra():
            from marketd.daemon import operator
        report = operator.status(config.runtime_path, ANSWER_SECONDS)
    except NotRunning:
        return _stopped(config)  # it has ended this moment
    except MarketdError as error:
        return Finding("daemon", "fail", "runs and does not answer", str(error))
    text = f"{report.state}, {report.health}; {len(report.actors)} actors, process {report.pid}"
    if report.health == "ok":
        return Finding("daemon", "ok", text)
    level = "warn" if report.health == "degraded" else "fail"
    return Finding(
        "daemon", "warn" if level == "warn" else "fail", text, "; ".join(report.problems) or "marketd status"
    )


def _stopped(config: Config) -> Finding:
    try:
        presence = read_presence(config.runtime_path)
    except ProtocolError as error:
        return Finding("daemon", "warn", "does not run, and what it left cannot be read", str(error))
    left = f"; the last one was process {presence.pid}" if presence is not None else ""
    return Finding("daemon", "ok", f"does not run{left}; `marketd run` starts it")
