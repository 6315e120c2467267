"""Books of venues whose deltas bear no numbers of their own symbol: what a lost message does to them.

An adapter that could not use a message of a book, or sees that some never came, notes it here. The symbol's next delta
then has `LOST` as its `previous`, which is a gap, whatever its numbers are; a snapshot begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable

from marketd.daemon.feeds.adapter import BookDelta, BookRule, BookSnapshot, Fit
from marketd.market.times import NS_PER_SECOND

LOST = -1  # as `BookDelta.previous`: there were messages before this one that are not in the book


def unnumbered(last: int, delta: BookDelta) -> Fit:
    """Splice and continuity where a venue numbers nothing: the order on the socket is the order of changes."""
    return Fit.GAP if delta.previous == LOST else Fit.NEXT


UNNUMBERED = BookRule("stream", splice=unnumbered, follows=unnumbered, audited=True)


class ChainedBooks:
    """Gives each delta the number of the event of its book before it; LOST where some are missing between."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def snapshot(self, snapshot: BookSnapshot) -> BookSnapshot:
        self._last[snapshot.symbol] = snapshot.sequence
        return snapshot

    def delta(self, delta: BookDelta) -> BookDelta:
        delta.previous = self._last.get(delta.symbol, LOST)
        self._last[delta.symbol] = delta.last
        return delta

    def lose(self, symbols: Iterable[str] | None = None) -> None:
        """A message of these symbols' books, or (None) of any, was lost."""
        if symbols is None:
            self._last.clear()
            return
        for symbol in symbols:
            self._last.pop(symbol, None)


class TradeNumbers:
    """Consecutive ids of trades, which show that a connection lost messages. Where the venue begins to tell a symbol's
    trades (`begin`) nothing was lost before; ids that came already, over another connection perhaps, show nothing."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}  # by symbol

    def last(self, symbol: str) -> int | None:
        return self._last.get(symbol)

    def begin(self, symbol: str, number: int) -> None:
        self._last[symbol] = max(number, self._last.get(symbol, number))

    def loss_before(self, symbol: str, number: int) -> str:
        """The loss that this trade shows, in words; none: ""."""
        last = self._last.get(symbol, number)
        self._last[symbol] = max(number, last)
        missing = number - last - 1
        return f"{symbol}: {missing} trades are missing before number {number}" if missing > 0 else ""

    def forget(self, symbol: str) -> None:
        self._last.pop(symbol, None)


class DepthChannels:
    """Where a venue has channels of several depths: by which of them a symbol's book is held.

    A recording may have more than one; mixed they give no book. It is the deepest of which a snapshot came.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, str]] = {}

    def takes(self, symbol: str, depth: int, channel: str, *, is_snapshot: bool) -> bool:
        """Whether this message of a channel is one of the symbol's book."""
        held = self._held.get(symbol)
        if held is not None and (held[1] == channel or not is_snapshot or held[0] >= depth):
            return held[1] == channel
        if is_snapshot:
            self._held[symbol] = depth, channel
        return True

    def forget(self, symbol: str) -> None:
        self._held.pop(symbol, None)


def other_depth(depth: int, usual: int) -> int:
    """The `BookSnapshot.depth` of a channel: 0 is the rule's."""
    return 0 if depth == usual else depth


class ConnectionNumbers:
    """Numbers that count all messages of a connection, from 0.

    An adapter is not told which connection a message came over, so the next number of each is kept: a message that
    bears none of them comes after a loss. Two connections can be taken for one another only by a loss on one of them,
    and then the other's next message tells.
    """

    DEAD_NS = 30 * NS_PER_SECOND  # silent for so long while another is heard: closed (heartbeats come each second)
    MAX_CONNECTIONS = 16

    def __init__(self) -> None:
        self._open: list[tuple[int, int]] = []  # next number, time of the last message; in the order of that

    def follows(self, number: int, ts_ns: int = 0) -> bool:
        """Whether nothing was lost before this message; the loss of a connection's first ones cannot be seen."""
        place = self._find(number, ts_ns)
        is_next = place is not None and self._open[place][0] == number
        begins = place is None
        if place is not None:
            del self._open[place]
        self._open.append((number + 1, ts_ns))
        del self._open[: -self.MAX_CONNECTIONS]
        return is_next or begins

    def _find(self, number: int, ts_ns: int) -> int | None:
        """The connection that a message came over, most likely; None when it is a new one."""
        connections = self._open
        if len(connections) > 1:
            last = connections[-1]
            connections = self._open = [c for c in connections if c is last or c[1] > ts_ns - self.DEAD_NS]
        for place, (expected, _) in enumerate(connections):
            if expected == number:
                return place
        if number == 0 or not connections:
            return None
        below = [(expected, place) for place, (expected, _) in enumerate(connections) if expected < number]
        return max(below)[1] if below else len(connections) - 1
