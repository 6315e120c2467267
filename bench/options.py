"""What every benchmark is told."""

from __future__ import annotations

from typing import NamedTuple


class Options(NamedTuple):
    """Of the command line."""

    quick: bool  # seconds instead of minutes: to see that it works, not for figures
    seconds: float | None  # of a sustained load; None: the benchmark's own
    profile: bool  # py-spy on the actors meanwhile: figures are worse then
