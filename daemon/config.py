"""From a TOML file, the environment and `--set` to a `Config`, strictly.

    config = load()                       # MARKETD_CONFIG, else the usual places, else the defaults alone
    config = load(path, overrides=["journal.budget=8GiB"])

Later ones win: file, `MARKETD_JOURNAL__BUDGET=8GiB` (two underscores go one table down; the name of a venue,
stream, alias or timeframe is written as it is in the file), `--set`. A value is read as TOML where it is one
(`MARKETD_TIMEFRAMES='["1s", "1m"]'`), else as text. Every flaw is a ConfigError that says where it stands,
the path of the setting, and the way out. What may change in a running daemon is in `marketd.daemon.reload`.
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from marketd.daemon import quantities
from marketd.daemon.schema import (
    did_you_mean,
    explain,
    is_table,
    leaf_type,
    setting_names,
    wants_text,
)
from marketd.daemon.settings import Config
from marketd.market.errors import ConfigError

ENVIRONMENT_PREFIX = "MARKETD_"
CONFIG_VARIABLE = "MARKETD_CONFIG"
SUPERVISOR_VARIABLE = "MARKETD_SUPERVISOR_PID"  # set for actors by their supervisor
_NO_SETTINGS = {CONFIG_VARIABLE, SUPERVISOR_VARIABLE, "MARKETD_URL"}
MAX_FILE_BYTES = 1 << 20


class Override(NamedTuple):
    """One setting that does not come from the file; `origin` is what an error calls it."""

    path: tuple[str, ...]
    value: Any
    origin: str


def find_file(path: str | Path | None = None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file that `load` reads: the argument, MARKETD_CONFIG, the user's, the host's; None when there is
    none."""
    named = path or environment.get(CONFIG_VARIABLE)
    if named:
        return Path(named).absolute()
    usual = [Path("/etc/marketd/marketd.toml")]
    if os.geteuid() != 0:
        home = environment.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        usual.insert(0, Path(home) / "marketd" / "marketd.toml")
    return next((candidate for candidate in usual if candidate.is_file()), None)


def load(
    path: str | Path | None = None,
    *,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Config:
    """The Config of a file (see `find_file`) under the overrides. Raises ConfigError."""
    environment = os.environ if environment is None else environment
    file = find_file(path, environment)
    raw = read_toml(file) if file is not None else {}
    wanted = [*environment_overrides(environment, raw), *(parse_override(text) for text in overrides)]
    for override in wanted:
        _put(raw, override)
    return convert(raw, wanted, origin=str(file) if file is not None else "")


def read_toml(file: Path) -> dict[str, Any]:
    """The tables of a file; ConfigError names it, and the line where it is no TOML."""
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ConfigError(f"{file}: larger than {MAX_FILE_BYTES} bytes; that is no configuration of marketd")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror}); name another with --config or {CONFIG_VARIABLE}, "
            "or let `marketd init` write one"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None


def environment_overrides(environment: Mapping[str, str], raw: Mapping[str, Any]) -> list[Override]:
    """The settings among the variables. Others that begin alike (Kubernetes makes some for a service of our
    name) are left alone, unless they look like a setting that was misspelt."""
    found = []
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in _NO_SETTINGS:
            continue
        path = _path_of_variable(name, raw)
        if path is None:
            continue
        found.append(Override(path, _value(path, environment[name]), name))
    return found


def parse_override(text: str) -> Override:
    """`journal.budget=8GiB` as `--set` takes it."""
    dotted, equals, value = text.partition("=")
    path = tuple(part.strip() for part in dotted.split("."))
    if not equals or not all(path):
        raise ConfigError(f"--set {text!r}: write PATH=VALUE, such as journal.budget=8GiB", field="--set")
    return Override(path, _value(path, value), f"--set {dotted}")


def convert(raw: dict[str, Any], overrides: Sequence[Override] = (), *, origin: str = "") -> Config:
    """Plain tables as a Config; ConfigError begins with the origin of the setting that is wrong."""
    try:
        return _decode(raw)
    except msgspec.ValidationError as error:
        path, sentence = explain(error, raw, _decode)
    except ConfigError as error:  # a rule between settings; its message begins with the path
        path = error.field or ""
        sentence = str(error).removeprefix(f"{path}: ")
    where = next((o.origin for o in overrides if ".".join(o.path) == path), origin)
    raise ConfigError(": ".join(part for part in (where, path, sentence) if part), field=path)


def to_plain(config: Config) -> dict[str, Any]:
    """The Config as plain tables, sizes and durations as an operator writes them."""
    plain: dict[str, Any] = msgspec.to_builtins(config, enc_hook=quantities.encode)
    return plain


def _decode(raw: Mapping[str, Any]) -> Config:
    return msgspec.convert(raw, Config, dec_hook=quantities.decode)


def _path_of_variable(name: str, raw: Mapping[str, Any]) -> tuple[str, ...] | None:
    parts = name.removeprefix(ENVIRONMENT_PREFIX).split("__")
    path: tuple[str, ...] = ()
    for part in parts:
        path = (*path, part if is_table(path) == "free" else part.lower())
    if leaf_type(path) is not None:
        return path
    known = {"__".join(setting).upper(): setting for setting in setting_names()}
    plain = {spelling.replace("__", "_"): spelling for spelling in known}
    tail = name.removeprefix(ENVIRONMENT_PREFIX)
    meant = plain.get(tail.replace("__", "_")) or did_you_mean(tail, known)
    if meant is None and len(parts) == 1:
        return None
    hint = f"did you mean {ENVIRONMENT_PREFIX}{meant}?" if meant else "every setting is in ops/marketd.toml"
    raise ConfigError(f"{name}: no such setting; {hint}", field=name)


def _value(path: tuple[str, ...], text: str) -> Any:
    """A value of a setting that holds text is the text itself, else what TOML makes of it, else again the
    text."""
    if wants_text(path):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(raw: dict[str, Any], override: Override) -> None:
    table: Any = raw
    for part in override.path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            path = ".".join(override.path)
            raise ConfigError(f"{override.origin}: {path}: {part} is no table in the file", field=path)
    table[override.path[-1]] = copy.copy(override.value)
