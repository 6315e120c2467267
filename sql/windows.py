"""Looking for the newest without asking every piece of a table: in windows that grow backwards from now.

"The newest 100 bars" has no beginning, and a statement without one is planned over every chunk or partition there is:
with two thousand of them that alone takes half a second. The newest rows nearly always lie in the last days; and where
they do not, some statements more find them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator

from marketd.market.times import NS_PER_SECOND
from marketd.sql.read import MAX_TIME_NS, CopiedRows, Span

_DAY_NS = 86_400 * NS_PER_SECOND
_GROWTH = 16
_SHORTEST_NS = 3 * _DAY_NS  # of which one lies ahead
_LONGEST_NS = 1_000 * _DAY_NS  # beyond it a window has as good as every piece, and is no quicker than all of them


def windows(span: Span, reach_ns: int = 0) -> Iterator[Span]:
    """Spans that end where `span` ends (at the latest now), each longer than the one before; the last is `span` itself.

    The first is at least `reach_ns` long. Of a span with a beginning there is only itself.
    """
    if span.start is None:
        newest = min(time.time_ns() + _DAY_NS, MAX_TIME_NS)  # clocks differ; a time of tomorrow is still found at last
        end = newest if span.end is None else min(span.end, newest)
        width = max(_SHORTEST_NS, reach_ns)
        while width < min(_LONGEST_NS, end):
            yield Span(end - width, span.end)
            width *= _GROWTH
    yield span


async def newest_in_windows(
    read: Callable[[Span], Awaitable[CopiedRows]], span: Span, limit: int | None, reach_ns: int = 0
) -> CopiedRows:
    """The newest `limit` rows of a span, read from the shortest window that has them. Without a limit, all."""
    if limit is None:
        return await read(span)
    for window in windows(span, reach_ns):
        found = await read(window)
        if window == span or found.size() >= limit:
            break
    return found
