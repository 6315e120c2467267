"""Which of several servers is meant by a DSN that names more than one host. Pure: text in, a word for asyncpg out."""

from __future__ import annotations

from typing import Literal
from urllib.parse import parse_qs, urlsplit

Target = Literal["any", "primary", "standby", "prefer-standby", "read-write", "read-only"]


def names_several_hosts(dsn: str) -> bool:
    """`postgresql://a:5432,b/db`, or `?host=a,b`."""
    parts = urlsplit(dsn)
    hosts = parts.netloc.rpartition("@")[2]
    return "," in hosts or any("," in value for value in parse_qs(parts.query).get("host", ()))


def wanted_server(dsn: str, *, read_only: bool) -> Target | None:
    """The `target_session_attrs` to ask for; None leaves it to the DSN.

    Of several hosts the primary, unless the DSN says otherwise: a standby that happens to answer first would refuse
    every commit. Our own read-only sessions are never `read-write`, so they ask for the primary by its name.
    """
    asked = parse_qs(urlsplit(dsn).query).get("target_session_attrs", [""])[-1]
    if asked == "read-write" and read_only:
        return "primary"
    return "primary" if not asked and names_several_hosts(dsn) else None
