"""What can go wrong between marketd and PostgreSQL, in words an operator can act on.

Errors of the server that marketd has nothing to add to (a syntax error, a refused password) reach the
caller as asyncpg's own; `retry.is_retryable` tells the passing ones from the rest.
"""

from __future__ import annotations

from marketd.market.errors import MarketdError


class DatabaseError(MarketdError):
    """The database could not do what was asked."""


class DatabaseUnavailable(DatabaseError):
    """PostgreSQL does not answer."""


class SessionLost(DatabaseUnavailable):
    """A session broke while it was in use; another one may work."""


class RetryBudgetExceeded(DatabaseError):
    """The operation kept failing until its time was up."""


class QuarantineRefuses(DatabaseError):
    """PostgreSQL refuses a record, and the row of the quarantine that would keep it."""


class ProfileError(DatabaseError):
    """The server cannot serve the profile that the schema was made for."""


class SchemaError(DatabaseError):
    """The schema in the database and the schema files do not fit together."""


class SchemaTooNew(SchemaError):
    """The schema in the database was made by a newer marketd."""


class SchemaChanged(SchemaError):
    """A schema file differs from what was applied."""


class SchemaBehind(SchemaError):
    """The schema in the database lacks changes that this marketd needs."""


class SchemaBusy(DatabaseError):
    """Another marketd is changing the schema, or somebody uses a table that is to change; waiting helps."""


class JobsFail(DatabaseError):
    """Jobs that TimescaleDB runs for us fail."""


class SeriesRefused(SchemaError):
    """The declared series does not fit the table that stores it."""


class PartitionRefused(SchemaError):
    """Partitions for that stretch of time were refused."""


class EmbeddedError(DatabaseError):
    """The embedded PostgreSQL cannot be run."""


class NoInstallation(EmbeddedError):
    """No usable PostgreSQL was found on this machine."""


class NotReachable(EmbeddedError):
    """The database's system user cannot reach a directory it needs."""


class EmbeddedInUse(EmbeddedError):
    """Another marketd runs the embedded PostgreSQL of this state directory."""


class EmbeddedStartFailed(EmbeddedError):
    """The embedded PostgreSQL did not start."""
