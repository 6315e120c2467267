"""What `marketd reload` may change in a running daemon, and what needs a restart. Pure.

A change to anything else is refused as a whole, by name: half a reload would leave a daemon that no file
describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from marketd.daemon.config import to_plain
from marketd.daemon.settings import Config

# Patterns of paths. A whole venue may come and go: its feed actor is started or drained.
RELOADABLE = (
    "aliases.*",
    "default_venue",
    "venues.*.symbols",
    "venues.*.enabled",
    "journal.keep",
    "journal.budget",
    "journal.when_full",
    "writer.batch_rows",
    "writer.batch_age",
    "retention.*",
    "storage.*",
    "query.max_queue",
    "validation.max_skew",
    "log.level",
    "supervisor.*",
)


class Changes(NamedTuple):
    """Dotted paths of what differs."""

    reloadable: list[str]
    needs_restart: list[str]


def changes(old: Config, new: Config) -> Changes:
    """What differs between two configurations, sorted by whether a running daemon may take it over."""
    before, after = _flat(to_plain(old)), _flat(to_plain(new))
    differing = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
    came_or_went = set(old.venues) ^ set(new.venues)
    found = Changes([], [])
    for path in differing:
        whole_venue = path.startswith("venues.") and path.split(".")[1] in came_or_went
        may = whole_venue or any(fnmatchcase(path, pattern) for pattern in RELOADABLE)
        (found.reloadable if may else found.needs_restart).append(path)
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
