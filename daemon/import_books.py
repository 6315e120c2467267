"""The order books of a recording: kept in step as a feed keeps them, but nothing can be asked for.

A book begins with a recorded snapshot, on the stream or over REST, and is out of step from a loss until the next one.
What was imported before is not told again: of a line that was received before the newest record of its instrument the
book is followed, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from marketd.daemon.feeds.adapter import BookDelta, BookRule, BookSnapshot, Event, Rejected, VenueTime
from marketd.daemon.feeds.books import BookKeeper
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.symbol_state import Part
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, KindTable, Records

Told = tuple[Instrument, list[tuple[Kind, Records]]]


class ImportedBooks:
    def __init__(self, rule: BookRule | None, settings: BookSettings, kinds: KindTable) -> None:
        # a recording cannot be asked for a later snapshot: the one that it has is taken
        self._rule = rule and rule._replace(needs_older=False)
        self._settings = settings
        self._kinds = kinds
        self._keepers: dict[str, BookKeeper] = {}
        self._known_ns: dict[str, int] = {}
        self._urls: set[str] = set()

    def add(self, instrument: Instrument, known_ns: int) -> None:
        """`known_ns`: ts_known of its newest record, 0 for a new one."""
        if self._rule is not None:
            keeper = self._keepers[instrument.symbol] = BookKeeper(self._rule, instrument, self._settings)
            self._known_ns[instrument.symbol] = known_ns
            keeper.subscribed()

    def connected(self, url: str, received_ns: int) -> list[Told]:
        """A connection was made; if there had been one to this address, it was lost."""
        is_again = url in self._urls
        self._urls.add(url)
        if not is_again:
            return []
        return [told for symbol in self._keepers for told in self._told(symbol, received_ns, _begun_anew)]

    def trades(self, symbol: str, records: Records) -> None:
        keeper = self._keepers.get(symbol)
        if keeper is not None:
            keeper.trades(records)

    def take(self, events: Iterable[Event], received_ns: int) -> list[Told]:
        """What the events of one line say of books."""
        found: list[Told] = []
        for event in events:
            if isinstance(event, (BookSnapshot, BookDelta)):
                found += self._told(event.symbol, received_ns, partial(BookKeeper.take, event=event))
            elif isinstance(event, VenueTime):
                found += self._told(event.symbol, received_ns, partial(BookKeeper.time, ts_ns=event.ts_ns))
            elif isinstance(event, Rejected) and event.book:
                for symbol in list(self._keepers) if event.symbol is None else [event.symbol]:
                    found += self._told(symbol, received_ns, BookKeeper.damaged)
        return found

    def _told(self, symbol: str, received_ns: int, tell: Callable[[BookKeeper], list[Part]]) -> list[Told]:
        keeper = self._keepers.get(symbol)
        parts = tell(keeper) if keeper is not None else []
        if keeper is None or not parts or received_ns <= self._known_ns[symbol]:
            return []
        return [(keeper.instrument, [(self._kinds.by_name(name), records) for name, records in parts])]


def _begun_anew(keeper: BookKeeper) -> list[Part]:
    return keeper.disconnected() + keeper.subscribed()
