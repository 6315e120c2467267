"""The named statements: `queries/*.sql`, each begun by `-- name: …` and described by the comment under it."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: *(\w+) *$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)


@cache
def statements(file: str) -> dict[str, str]:
    """The statements of `queries/<file>.sql` by name, without comments and the final semicolon."""
    text = (resources.files("marketd.sql") / "queries" / f"{file}.sql").read_text()
    pieces = _NAME.split(text)[1:]
    return {
        name: _COMMENT.sub("", body).strip().rstrip(";").rstrip()
        for name, body in zip(pieces[::2], pieces[1::2], strict=True)
    }
