"""The one exception tree. A class's docstring is its default message; an instance names the
operation, the object and the way out.

`code` is the error's name on the wire: stable, a promise to clients in other languages.
"""

from __future__ import annotations

from typing import ClassVar


class MarketdError(Exception):
    """marketd could not do what was asked."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.field = field

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "code" not in cls.__dict__:
            cls.code = "".join("_" + c.lower() if c.isupper() else c for c in cls.__name__).lstrip("_")


class ConfigError(MarketdError):
    """The configuration cannot be used."""


class InvalidArgument(MarketdError, ValueError):
    """An argument cannot be used."""


class RuleViolation(MarketdError, ValueError):
    """A value breaks a rule of the validator; `rule` names it."""

    rule: ClassVar[str] = "rule"


class PrecisionError(RuleViolation):
    """The text has more decimal places than the instrument's scale."""

    rule = "precision"


class RangeError(RuleViolation):
    """The value does not fit into 64 bits at the instrument's scale."""

    rule = "range"


class NotFiniteError(RuleViolation):
    """The value is not a finite number."""

    rule = "not_finite"


class UnknownInstrument(MarketdError, LookupError):
    """No such instrument is known here."""


class AmbiguousSymbol(UnknownInstrument):
    """More than one venue has the symbol."""


class UnknownStream(MarketdError, LookupError):
    """No such kind or declared stream."""


class NotRunning(MarketdError):
    """The marketd daemon does not answer."""


class Timeout(MarketdError, TimeoutError):
    """The deadline passed before the answer came."""


class Busy(MarketdError):
    """The actor has as many requests as it may queue; try again."""


class JournalFull(MarketdError):
    """The journal's disk budget is used up; the records were not accepted."""


class JournalDamaged(MarketdError):
    """The journal is damaged in its middle."""


class BeyondCache(MarketdError):
    """The shared memory does not reach back that far."""


class Warming(MarketdError):
    """The daemon is filling its shared memory and does not serve from it yet."""


class RequirementNotMet(MarketdError):
    """The answer is worth less than was required."""


class NotYetStored(MarketdError):
    """The database has not committed the records up to that time yet."""


class NotStored(MarketdError):
    """Records that the answer needs were not stored, or are not stored any more."""


class AnswerTooLarge(MarketdError):
    """The answer is larger than one message may be; ask in pages."""


class ProtocolError(MarketdError):
    """The message is not one of the protocol's."""


class BlockDamaged(MarketdError):
    """A packed block cannot be read: it is damaged, or a newer marketd wrote it."""
