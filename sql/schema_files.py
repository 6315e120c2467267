"""The numbered files of `schema/`: reading them and what their headers say. No database here.

A file is plain SQL. Comment lines at its top may direct the runner:

    -- marketd: profile=timescale    only for databases of that profile
    -- marketd: no-transaction       for statements that cannot run inside of one

Without a transaction a file can be applied in part, so its statements must be repeatable (IF NOT EXISTS).
Each goes to the server by itself; a line `-- marketd: next` stands between them.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from marketd.sql.errors import SchemaError
from marketd.sql.profiles import Profile

BOOTSTRAP = "0000_schema_changes"
_NAME = re.compile(r"\d{4}_[a-z0-9_]+")
_DIRECTIVE = re.compile(r"^-- marketd:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_NEXT = re.compile(r"^-- marketd:[ \t]*next[ \t]*$", re.MULTILINE)


class SchemaFile(NamedTuple):
    name: str
    sql: str
    checksum: str
    profile: Profile | None
    transaction: bool

    def concerns(self, profile: Profile) -> bool:
        return self.profile in (None, profile)

    @property
    def statements(self) -> list[str]:
        """What is sent to the server at a time: the whole file, or without a transaction one statement
        each."""
        return [self.sql] if self.transaction else _NEXT.split(self.sql)


def load_schema_files(directory: Traversable | None = None) -> list[SchemaFile]:
    """The files of `directory` (default: those of this package) by name; SchemaError on one that cannot be
    used."""
    source = directory if directory is not None else files("marketd.sql") / "schema"
    found = [
        parse_schema_file(entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8"))
        for entry in source.iterdir()
        if entry.name.endswith(".sql")
    ]
    return sorted((file for file in found if file.name != BOOTSTRAP), key=lambda file: file.name)


def bootstrap_sql() -> str:
    """What makes the table that the runner keeps its account in."""
    return (files("marketd.sql") / "schema" / f"{BOOTSTRAP}.sql").read_text(encoding="utf-8")


def parse_schema_file(name: str, text: str) -> SchemaFile:
    """One file from its name (without .sql) and text."""
    if not _NAME.fullmatch(name):
        raise SchemaError(f"schema file {name}.sql: a name is four digits, _, and lower-case words")
    text = text.replace("\r\n", "\n")  # a checkout on another system is the same file
    profile: Profile | None = None
    transaction = True
    for directive in _DIRECTIVE.findall(text):
        if directive == "no-transaction":
            transaction = False
        elif directive in ("profile=timescale", "profile=postgres"):
            profile = Profile(directive.removeprefix("profile="))
        elif directive != "next":
            raise SchemaError(f"schema file {name}.sql: unknown directive {directive!r}")
    if transaction and _NEXT.search(text):
        raise SchemaError(f"schema file {name}.sql: 'next' only makes sense with 'no-transaction'")
    return SchemaFile(name, text, hashlib.sha256(text.encode()).hexdigest(), profile, transaction)
