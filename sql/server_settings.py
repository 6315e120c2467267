"""The configuration files of the embedded server, as text. Pure: numbers in, text out.

The defaults are for a trading host, where the database is the lesser tenant: little memory, no parallel
workers beside the feeds, full durability.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from marketd.market.errors import ConfigError

MIB = 1024 * 1024
DEFAULT_PORT = 5432
READER_ROLE = "marketd_reader"
type_setting = str | int | float | bool

# marketd sets these itself; a second opinion would break what `EmbeddedPostgres` promises.
_RESERVED = {
    "config_file",
    "data_directory",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "log_directory",
    "logging_collector",
    "port",
    "unix_socket_directories",
    "unix_socket_permissions",
}
# "Nothing is lost": the journal frees its segments on the word of the database's commit.
_DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
_DURABLE_VALUES = {"on", "true", "yes", "1", "local", "remote_write", "remote_apply"}
_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")


class Listen(NamedTuple):
    """The TCP address of `embedded.listen`; no host, no TCP."""

    host: str = ""
    port: int = DEFAULT_PORT


def parse_listen(text: str | None) -> Listen:
    """`"127.0.0.1:5433"`, `"0.0.0.0"`, `"[::1]:5433"`; ConfigError names the setting."""
    if not text:
        return Listen()
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s']+)(?::(\d{1,5}))?", text)
    port = int(match[2]) if match and match[2] else DEFAULT_PORT
    if match is None or not 0 < port < 65536:
        raise ConfigError(
            f"embedded.listen: {text!r} is no address; write host:port such as '127.0.0.1:5433'",
            field="embedded.listen",
        )
    return Listen(match[1].strip("[]"), port)


def default_settings(memory_bytes: int, cpus: int, *, timescale: bool) -> dict[str, type_setting]:
    """Settings that `[embedded.settings]` may override, by name."""
    shared_mib = min(2048, max(128, memory_bytes // 8 // MIB))
    settings: dict[str, type_setting] = {
        "max_connections": 60,
        "shared_buffers": f"{shared_mib}MB",
        "effective_cache_size": f"{max(256, memory_bytes // 2 // MIB)}MB",
        "work_mem": "32MB",
        "maintenance_work_mem": f"{min(512, max(64, memory_bytes // 32 // MIB))}MB",
        "max_parallel_workers_per_gather": min(2, cpus // 4),  # 0 on two cores: the feeds need them
        "max_worker_processes": max(16, 2 * cpus),
        "max_locks_per_transaction": 512,  # a query over years touches a thousand partitions
        "jit": False,  # costs more than it gives for queries of milliseconds
        "random_page_cost": 1.1,
        **_DURABLE,
        "wal_compression": True,
        "wal_buffers": "32MB",
        "min_wal_size": "512MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "10min",
        "checkpoint_completion_target": 0.9,
        "autovacuum_naptime": "30s",
        "idle_in_transaction_session_timeout": "60s",  # one idle reader blocks compression and all behind it
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %a ",
        "log_checkpoints": True,
        "log_lock_waits": True,
        "log_autovacuum_min_duration": "10s",
        "log_min_duration_statement": "5s",
        # one file a weekday, begun anew a week later
        "log_filename": "postgresql-%a.log",
        "log_rotation_age": "1d",
        "log_rotation_size": 0,
        "log_truncate_on_rotation": True,
        "cluster_name": "marketd",
    }
    if timescale:
        settings |= {
            "shared_preload_libraries": "timescaledb",
            "timescaledb.license": "timescale",
            "timescaledb.telemetry_level": "off",
            "timescaledb.max_background_workers": 8,
        }
    return settings


def merge_settings(
    defaults: Mapping[str, type_setting], overrides: Mapping[str, type_setting]
) -> dict[str, type_setting]:
    """The defaults with the user's own over them; ConfigError names a setting that may not be changed."""
    for name, value in overrides.items():
        where = f"embedded.settings.{name}"
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ConfigError(f"{where}: marketd sets this itself, or it is no setting's name", field=where)
        if name in _DURABLE and _text(value).lower() not in _DURABLE_VALUES:
            raise ConfigError(
                f"{where}: marketd frees its journal on the word of a commit; without {name} a power failure "
                "would lose records that were acknowledged",
                field=where,
            )
    merged = {**defaults, **overrides}
    preload = [_text(s.get("shared_preload_libraries", "")) for s in (defaults, overrides)]
    libraries = dict.fromkeys(part.strip() for text in preload for part in text.split(",") if part.strip())
    if libraries:
        merged["shared_preload_libraries"] = ",".join(libraries)
    return merged


def render_configuration(settings: Mapping[str, type_setting]) -> str:
    """The text of postgresql.conf."""
    lines = [
        "# Written by marketd at each start; changes here are lost. Set your own in [embedded.settings] of",
        "# marketd.toml, or with ALTER SYSTEM (postgresql.auto.conf in the data directory, which wins).",
    ]
    lines += [f"{name} = {_quoted(_text(value))}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def render_access(listen: Listen, database: str) -> str:
    """The text of pg_hba.conf: everything over the socket, whose directory only its owner and root can
    enter; over TCP the reader alone, with its password."""
    lines = ["# Written by marketd at each start.", "local all all trust", "local replication all trust"]
    if listen.host:
        lines.append(f"host {database} {READER_ROLE} all scram-sha-256")
    return "\n".join(lines) + "\n"


def _text(value: type_setting) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).strip()


def _quoted(text: str) -> str:
    if "\n" in text or "\0" in text:
        raise ConfigError("embedded.settings: a value may not hold a line break", field="embedded.settings")
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
