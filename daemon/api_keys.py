"""API keys of venues: read from files that nobody else can read, and shown to nobody.

A key is for REST requests that a venue answers only to who has one. The configuration names its file, so that the key
itself is in no configuration, environment, log or recording; what is wrong with a file is told without what is in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from marketd.daemon.settings import Config, Venue
from marketd.market.errors import ConfigError

CREDENTIALS = "CREDENTIALS_DIRECTORY"  # where systemd puts what `LoadCredential=` names
MAX_BYTES = 4096
MAX_CHARS = 512
_OF_OTHERS = stat.S_IRWXO | stat.S_IWGRP


def check_api_keys(config: Config) -> None:
    """ConfigError for the first active venue whose key cannot be read."""
    for name, venue in config.active_venues.items():
        api_key_of(name, venue)


def api_key_of(name: str, venue: Venue) -> str:
    """The key of a venue; "" where its settings name none. Raises ConfigError."""
    return read_api_key(f"venues.{name}.api_key_file", venue.api_key_file)


def read_api_key(field: str, name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The key in the file `name`: an absolute path, or a credential of systemd's. "" where none is named.

    ConfigError naming `field` where there is no such file, others may read or change it, or it holds no key.
    """
    if not name:
        return ""
    path = _path_of(field, name, environment)
    try:
        with path.open("rb") as file:
            mode, content = os.fstat(file.fileno()).st_mode, file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{field}: {path} cannot be read: {error.strerror}", field=field) from None
    if mode & _OF_OTHERS:
        raise ConfigError(
            f"{field}: others may read or change {path} (mode {stat.S_IMODE(mode):04o}); chmod 600 it", field=field
        )
    key = content.strip().decode("ascii", "replace")
    if not key or len(key) > MAX_CHARS or not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"{field}: {path} holds no key; write the key alone, in one line", field=field)
    return key


def _path_of(field: str, name: str, environment: Mapping[str, str]) -> Path:
    if name.startswith("/"):
        return Path(name)
    directory = environment.get(CREDENTIALS, "")
    if not directory:
        raise ConfigError(
            f"{field}: {name!r} is no absolute path, and without LoadCredential= of systemd there is no other place",
            field=field,
        )
    return Path(directory) / name
