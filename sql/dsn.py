"""DSNs as text: what may be shown of one, its password, the same server's other database. Pure."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit


def without_password(dsn: str) -> str:
    """A DSN as it may be shown, and stand on a command line."""
    parts = urlsplit(dsn)
    query = "&".join(item for item in parts.query.split("&") if not item.startswith("password="))
    login, at, host = parts.netloc.rpartition("@")
    user = login.partition(":")[0]
    return parts._replace(netloc=f"{user}{at}{host}", query=query).geturl()


def password_of(dsn: str) -> str:
    """The password in a DSN, "" when there is none."""
    parts = urlsplit(dsn)
    named = dict(parse_qsl(parts.query)).get("password", "")
    return unquote(parts.password) if parts.password else named


def with_user(dsn: str, user: str) -> str:
    """The same server and database, another user, without a password."""
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}").geturl()


def with_database(dsn: str, database: str) -> str:
    """The same server and login, another database."""
    parts = urlsplit(dsn)
    query = "&".join(item for item in parts.query.split("&") if not item.startswith(("dbname=", "database=")))
    return parts._replace(path=f"/{database}", query=query).geturl()
