"""What a refusal of PostgreSQL means, and what an operator can do about it. Pure: SQLSTATEs in, words out.

An error is either about the *records* that were sent (they break a constraint that somebody added, a trigger raises, a
number is out of a domain): the writer finds those and puts them aside. Or it is about the server, the way to it or our
place in it: nothing is wrong with the records, so they wait, and the trouble is named until it is over.
"""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

from marketd.sql.errors import DatabaseUnavailable, QuarantineRefuses, SchemaError


class Trouble(NamedTuple):
    """`name` is stable: in logs, health and the runbook's headings. `advice` is the way out, for an operator."""

    name: str
    advice: str


AWAY = Trouble("away", "PostgreSQL does not answer: start it, or look at the network")
RECORDS = Trouble("records", "PostgreSQL refuses records: marketd quarantine list --rule refused_by_database")
FULL = Trouble("disk_full", "the database's disk is full: free space, or add some")
CROWDED = Trouble("out_of_resources", "PostgreSQL is out of connections, memory or locks: raise its limits")
BUSY = Trouble(
    "held_up", "another session holds a lock, or a statement takes longer than it may: look at pg_stat_activity"
)
PASSWORD = Trouble("login_refused", "PostgreSQL refuses user or password: mend database.url, or the role on the server")
MISSING = Trouble("no_such_database", "the database of database.url does not exist on that server")
RIGHTS = Trouble("right_missing", "a right was taken from our role: grant it again (marketd doctor names the role)")
READ_ONLY = Trouble("read_only", "that server is a standby, or set read-only: name the primary in database.url")
SCHEMA = Trouble("schema", "the schema is not the one that this marketd works with: marketd schema status")
STALE = Trouble("stale_session", "extension or schema changed underneath: sessions are made anew, nothing to do")
NO_QUARANTINE = Trouble(
    "quarantine_refuses", "drop the constraint or trigger on the table quarantine: it must take all"
)
DISK = Trouble("broken", "PostgreSQL fails inside, or its disk does: read its log")
UNKNOWN = Trouble("unknown", "PostgreSQL refuses for a reason that marketd does not know: read its log")

# single states first, then classes: the narrower word counts
_STATES = {
    "23505": UNKNOWN,  # a unique violation means merge; where that was tried in vain, it is nobody's record
    "25006": READ_ONLY,
    "42501": RIGHTS,
    "53100": FULL,
    "55000": STALE,  # TimescaleDB's loader: the library in this session is older than the extension in the database
    "58P01": STALE,  # … or its file is gone
    "55P03": BUSY,
    "57014": BUSY,
    "3D000": MISSING,
    "3F000": SCHEMA,
}
_CLASSES = {
    "08": AWAY,
    "0A": STALE,
    "21": RECORDS,
    "22": RECORDS,
    "23": RECORDS,
    "25": BUSY,
    "28": PASSWORD,
    "40": BUSY,
    "42": SCHEMA,
    "44": RECORDS,
    "53": CROWDED,
    "54": RECORDS,
    "55": BUSY,
    "57": AWAY,
    "58": DISK,
    "P0": RECORDS,  # raised by a trigger
    "XX": DISK,
}
# After these the same session would fail again, and a new one may not.
_NEEDS_NEW_SESSION = frozenset({"25006", "55000", "58P01", "XX000", "0A000"})


def trouble_of(error: BaseException) -> Trouble:
    """The trouble that an error tells of."""
    state = sqlstate_of(error)
    if state:
        return _STATES.get(state) or _CLASSES.get(state[:2], UNKNOWN)
    if isinstance(error, SchemaError):
        return SCHEMA
    if isinstance(error, QuarantineRefuses):
        return NO_QUARANTINE
    lost = (OSError, DatabaseUnavailable, asyncpg.InternalClientError, asyncpg.InterfaceError)
    return AWAY if isinstance(error, lost) else UNKNOWN


def is_about_records(error: BaseException) -> bool:
    """Would the same records be refused again, by a server that is well?"""
    return trouble_of(error) is RECORDS and not is_missing_piece(error)


def is_missing_piece(error: BaseException) -> bool:
    """Is there no partition for a row, or was it dropped while the row was on its way? A check that fails has the same
    class; only the place in the server's source tells them apart in every language."""
    if isinstance(error, asyncpg.CheckViolationError):
        return getattr(error, "server_source_function", None) == "ExecFindPartition"
    return isinstance(error, asyncpg.UndefinedTableError)


def needs_new_session(error: BaseException) -> bool:
    """Is the session itself of yesterday: from before an upgrade, a failover, a change of rights?"""
    return sqlstate_of(error) in _NEEDS_NEW_SESSION


def sqlstate_of(error: BaseException) -> str:
    """The five characters of an error of the server, or ""."""
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else ""


def said_by(error: BaseException) -> str:
    """What an error says, in one line, as a log has it: PostgreSQL puts DETAIL and HINT on lines of their own."""
    return "; ".join(str(error).splitlines())
