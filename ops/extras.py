"""What a bare `pip install marketd` lacks: said by name, with the way to get it, instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from marketd.market.errors import MarketdError


class MissingDaemonExtra(MarketdError, ImportError):
    """This needs what the daemon needs, which is not installed: pip install 'marketd[daemon]'."""


@contextmanager
def needs_daemon_extra() -> Iterator[None]:
    """An import that fails inside becomes a MarketdError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDaemonExtra(
            f"{error.name} is not installed, and this needs it: pip install 'marketd[daemon]'"
        ) from None
