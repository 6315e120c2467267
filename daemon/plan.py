"""Which actors a configuration asks for, in which order they start and stop, and how one is called. Pure.

An actor's name is its role, or the role and which of them: `ingest`, `writer`, `storage`, `query-1`, `feed-BINANCE`. It
is the actor's name on the control socket, in logs, in metrics and in `marketd actor NAME`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from marketd.daemon.settings import Config

INGEST, WRITER, STORAGE, QUERY, FEED = "ingest", "writer", "storage", "query", "feed"
START_ORDER = (INGEST, WRITER, STORAGE, QUERY, FEED)
# Whoever brings records ends before whoever stores them: the writer commits what ingest has accepted. Upkeep goes first
# of all: the database then works for the writer alone.
STOP_ORDER = (STORAGE, FEED, QUERY, INGEST, WRITER)
ESSENTIAL = (INGEST, QUERY)  # without one of these the daemon serves nobody

type_command = Callable[[str, Path, Sequence[str]], Sequence[str]]


def actors(config: Config) -> list[str]:
    """The names of all actors, in the order of their start."""
    queries = [f"{QUERY}-{number}" for number in range(1, config.query.processes + 1)]
    return [INGEST, WRITER, STORAGE, *queries, *(f"{FEED}-{venue}" for venue in config.active_venues)]


def role_of(name: str) -> str:
    return name.partition("-")[0]


def which_of(name: str) -> str:
    """`BINANCE` of `feed-BINANCE`, `1` of `query-1`; empty for an actor that is the only one of its role."""
    return name.partition("-")[2]


def stages(names: Sequence[str], order: Sequence[str]) -> list[list[str]]:
    """The names in groups of one role, in the order given; roles that the order does not know come first."""
    roles = [*dict.fromkeys(role for role in map(role_of, names) if role not in order), *order]
    grouped = [[name for name in names if role_of(name) == role] for role in roles]
    return [group for group in grouped if group]


def actor_command(name: str, config_file: Path, overrides: Sequence[str]) -> list[str]:
    """How a supervisor starts an actor: as the ordinary program that it is."""
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "marketd.ops", "actor", name, "--config", str(config_file), *sets]
