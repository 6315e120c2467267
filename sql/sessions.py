"""A pooled session that knows how long it may live. Pure but for the clock.

A backend of PostgreSQL keeps what it knows of every partition or chunk that it has touched, the plans made over them,
and a descriptor of each file; nothing of that is given back before it ends. So memory and descriptors of a session that
is used for weeks grow with the database. A session is replaced once it is old: what it holds then is bounded by what it
has touched in that time, and a new one costs a few milliseconds.
"""

from __future__ import annotations

import random
import time
from typing import Any

import asyncpg

SESSION_SECONDS = 300.0
_SPREAD = 0.25  # of it, by which lives differ: sessions that began together do not all end together


class Session(asyncpg.Connection):
    __slots__ = ("ends_at",)  # asyncpg's own has them

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ends_at = time.monotonic() + SESSION_SECONDS * random.uniform(1 - _SPREAD, 1)


def is_old(conn: asyncpg.Connection[Any]) -> bool:
    """Whether the session behind a pool's connection is to be replaced."""
    return time.monotonic() >= float(getattr(conn, "ends_at", float("inf")))
