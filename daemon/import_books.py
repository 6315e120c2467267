"""The order books of a recording: kept in step as a feed keeps them, but nothing can be asked for.

A book begins with a recorded snapshot, on the stream or over REST, and is out of step from a loss until the next one.
Where snapshots come on the stream, it is that of one connection: a recording may have the same of two, of which neither
knows where the other one is.
What was imported before is not told again: of a line that was received before the newest record of its instrument the
book is followed, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, Protocol

from marketd.daemon.feeds.adapter import BookDelta, BookRule, BookSnapshot, Event, MessagesLost, Rejected, VenueTime
from marketd.daemon.feeds.books import BookKeeper
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.symbol_state import Part
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, KindTable, Records

Told = tuple[Instrument, list[tuple[Kind, Records]]]


class File(Protocol):
    """A recorded file."""

    is_over: bool  # all of it was read


class Source(NamedTuple):
    """A file, or a connection in it: what it has came in this order."""

    file: File | None
    conn: str

    @property
    def is_over(self) -> bool:
        return self.file is not None and self.file.is_over


class ImportedBooks:
    def __init__(self, rule: BookRule | None, settings: BookSettings, kinds: KindTable) -> None:
        # a recording cannot be asked for a later snapshot: the one that it has is taken
        self._rule = rule and rule._replace(needs_older=False)
        self._is_streamed = rule is not None and rule.snapshot == "stream"
        self._settings = settings
        self._kinds = kinds
        self._keepers: dict[str, BookKeeper] = {}
        self._known_ns: dict[str, int] = {}
        self._source = Source(None, "")  # of the line that is being read
        self._sources: dict[str, Source] = {}  # by symbol: which its book is from
        self._connected: set[tuple[Source, str]] = set()
        self._begun: set[str] = set()  # symbols of which a snapshot came
        self._changed: set[str] = set()  # and changes
        self.others = 0  # messages of another connection's book

    def add(self, instrument: Instrument, known_ns: int) -> None:
        """`known_ns`: ts_known of its newest record, 0 for a new one."""
        if self._rule is not None:
            keeper = self._keepers[instrument.symbol] = BookKeeper(self._rule, instrument, self._settings)
            self._known_ns[instrument.symbol] = known_ns
            keeper.subscribed()

    @property
    def without_snapshot(self) -> list[str]:
        """Symbols whose books changed and never began."""
        return sorted(self._changed - self._begun)

    def reads(self, file: File, conn: str) -> None:
        """Of which file, and of which of its connections where it names them, the next line is."""
        if file is not self._source.file or conn != self._source.conn:
            self._source = Source(file, conn)

    def connected(self, url: str, received_ns: int) -> list[Told]:
        """A connection was made; if there had been one to this address, it was lost."""
        here = self._source
        lost = {s for s, known in self._connected if known == url and (s == here or s.is_over)}
        self._connected.add((here, url))
        if not lost:
            return []
        begun = [symbol for symbol in self._keepers if self._sources.get(symbol, here) in lost]
        return [told for symbol in begun for told in self._told(symbol, received_ns, _begun_anew)]

    def trades(self, symbol: str, records: Records, received_ns: int) -> list[Told]:
        """What trades say of their symbol's book."""
        keeper = self._keepers.get(symbol)
        if keeper is not None:
            keeper.trades(records)
        return self._told(symbol, received_ns, partial(BookKeeper.witness, records=records))

    def take(self, events: Iterable[Event], received_ns: int) -> list[Told]:
        """What the events of one line say of books."""
        found: list[Told] = []
        for event in events:
            if isinstance(event, (BookSnapshot, BookDelta)):
                if self._is_of_another(event):
                    self.others += 1
                    continue
                (self._begun if isinstance(event, BookSnapshot) else self._changed).add(event.symbol)
                found += self._told(event.symbol, received_ns, partial(BookKeeper.take, event=event))
            elif isinstance(event, VenueTime):
                found += self._told(event.symbol, received_ns, partial(BookKeeper.time, ts_ns=event.ts_ns))
            elif isinstance(event, MessagesLost):
                for symbol in [symbol for symbol, source in self._sources.items() if source == self._source]:
                    found += self._told(symbol, received_ns, BookKeeper.hole)
            elif isinstance(event, Rejected) and event.book:
                for symbol in list(self._keepers) if event.symbol is None else [event.symbol]:
                    found += self._told(symbol, received_ns, BookKeeper.damaged)
        return found

    def finish(self, received_ns: int) -> list[Told]:
        """The last line was read."""
        return [told for symbol in self._keepers for told in self._told(symbol, received_ns, BookKeeper.finish)]

    def _is_of_another(self, event: BookSnapshot | BookDelta) -> bool:
        """Whether that symbol's book comes over another connection, which goes on."""
        held, is_snapshot = self._sources.get(event.symbol), isinstance(event, BookSnapshot)
        if self._is_streamed and held is not None and held != self._source and not held.is_over:
            return True
        if held is not None or is_snapshot is self._is_streamed:  # a book begins with what the stream has of it
            self._sources[event.symbol] = self._source
        return False

    def _told(self, symbol: str, received_ns: int, tell: Callable[[BookKeeper], list[Part]]) -> list[Told]:
        keeper = self._keepers.get(symbol)
        parts = tell(keeper) if keeper is not None else []
        if keeper is None or not parts or received_ns <= self._known_ns[symbol]:
            return []
        return [(keeper.instrument, [(self._kinds.by_name(name), records) for name, records in parts])]


def _begun_anew(keeper: BookKeeper) -> list[Part]:
    return keeper.disconnected() + keeper.subscribed()
