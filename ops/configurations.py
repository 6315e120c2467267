"""Where each value of the configuration in force comes from, and how two configurations differ.

The same sources as `marketd.daemon.config.load`, which stays the one that decides; this only tells them apart.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from marketd.daemon import config as configuration
from marketd.daemon.settings import Config
from marketd.ops.options import load_config
from marketd.sql.dsn import without_password

DEFAULT = "default"
_SECRETS = ("database.url", "database.read_url", "database.replica_url")


class Value(NamedTuple):
    """One setting in force."""

    path: str
    value: Any
    origin: str  # "default", a file, the name of a variable, "--set PATH"


def effective(args: argparse.Namespace, *, secrets: bool = False) -> list[Value]:
    """Every setting in force, by path. Raises ConfigError. Passwords are left out unless `secrets`."""
    config = load_config(args)
    origins = _origins(args)
    values = flat(configuration.to_plain(config))
    return [
        Value(path, value if secrets else shown(path, value), _origin_of(path, origins))
        for path, value in values.items()
    ]


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted paths to values; an empty table is a value of its own."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{path}.")
        else:
            found[path] = value
    return found


def nested(values: list[Value]) -> dict[str, Any]:
    """The tables again, of values that `effective` gave."""
    tables: dict[str, Any] = {}
    for path, value, _ in values:
        *parents, name = path.split(".")
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        table[name] = value
    return tables


def shown(path: str, value: Any) -> Any:
    """A value as it may be shown."""
    return without_password(value) if path in _SECRETS and isinstance(value, str) else value


def differences(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(path, old value, new value) of what differs; None where there is none."""
    before, after = (_filled(configuration.to_plain(config)) for config in (old, new))
    return [
        (path, shown(path, before.get(path)), shown(path, after.get(path)))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    ]


def _filled(table: Mapping[str, Any]) -> dict[str, Any]:
    """Without empty tables: one that becomes filled differs by what is in it."""
    return {path: value for path, value in flat(table).items() if value != {}}


def _origins(args: argparse.Namespace) -> dict[str, str]:
    """Where a path was set, the last one that counts."""
    file = configuration.find_file(args.config)
    raw = configuration.read_toml(file) if file is not None else {}
    origins = dict.fromkeys(flat(raw), str(file))
    overrides = [
        *configuration.environment_overrides(os.environ, raw),
        *(configuration.parse_override(text) for text in args.set),
    ]
    return origins | {".".join(override.path): override.origin for override in overrides}


def _origin_of(path: str, origins: Mapping[str, str]) -> str:
    """A value may have been set as part of a whole table."""
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return DEFAULT
