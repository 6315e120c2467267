"""The books of a feed's symbols, and what brings them (back) into step: snapshots over REST or on the stream.

A book that leaves LIVE has one task that asks for snapshots until it is LIVE again, slower and slower, within the
venue's budget. What came meanwhile waits in `BookSync`. A book that is near what it knows has another, less urgent one,
which asks for a fresh snapshot while the book stays LIVE. All but the asking happens with the feed's order lock held.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, VenueAdapter, VenueRefused
from marketd.daemon.feeds.backoff import Backoff
from marketd.daemon.feeds.books import BookKeeper
from marketd.daemon.feeds.connection import Connection
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.daemon.feeds.symbol_state import HandOver, Part, SymbolState
from marketd.daemon.feeds.tasks import Tasks
from marketd.market.errors import Timeout
from marketd.market.records import BookState, Records
from marketd.market.times import ABSENT, NS_PER_SECOND

_log = logging.getLogger(__name__)

RETRY_FIRST_SECONDS = 0.25  # between two times of asking for a snapshot
RETRY_CAP_SECONDS = 30.0
REQUEST_SECONDS = 30.0  # for one snapshot, waiting for the venue's budget included
SPARE = 0.25  # of the venue's budget, which snapshots leave to the repair of trades
FRESH_FIRST_SECONDS = 1.0  # between two times of asking for a fresh snapshot of a book that is LIVE
FRESH_CAP_SECONDS = 30.0
FRESH_SPARE = 0.5  # of the venue's budget, which these leave to the books that are not LIVE, and to repair
STREAM_SECONDS = 10.0  # for a snapshot to come on the stream after its subscription
# between two fresh snapshots of a book that nothing numbers: over REST, and on the stream, which stands meanwhile
AUDIT_NS = 600 * NS_PER_SECOND
ANEW_NS = 3600 * NS_PER_SECOND
ANEW_SECONDS = 5.0  # for that snapshot to come
STEADY_SECONDS = 60.0  # a book that was in step so long is asked for at once when it is lost


class _Kept:
    """A symbol's book, and the asking for it."""

    def __init__(self, keeper: BookKeeper) -> None:
        self.keeper = keeper
        self.is_asking = False
        self.is_due = False  # to be told anew, once it is its turn
        self.changed = asyncio.Event()  # a snapshot came, or the state changed: what was asked for is answered
        self.backoff = Backoff(RETRY_FIRST_SECONDS, RETRY_CAP_SECONDS)
        self.asked_at = float("-inf")  # monotonic s
        self.is_denied = False  # its changes may come no more: they are subscribed anew before a snapshot is fetched
        self.audited_ns = 0  # the venue's time
        self.is_refreshing = False
        self.fresh_backoff = Backoff(FRESH_FIRST_SECONDS, FRESH_CAP_SECONDS)
        self.refreshed_at = float("-inf")  # monotonic s


class FeedBooks:
    def __init__(
        self,
        adapter: VenueAdapter,
        rest: RestClient,
        settings: BookSettings,
        tasks: Tasks,
        *,
        wanted: bool,
        order: asyncio.Lock,
        connection_of: Callable[[str], Connection | None],
    ) -> None:
        self._adapter = adapter
        self._rule = adapter.book_rule if wanted else None
        self._rest = rest
        self._settings = settings
        self._tasks = tasks
        self._order = order
        self._connection_of = connection_of
        self._kept: dict[str, _Kept] = {}
        is_audited = self._rule is not None and self._rule.audited
        self._audit_ns = (ANEW_NS if self.come_on_stream else AUDIT_NS) if is_audited else 0
        self._anew = asyncio.Lock()  # one book after the other is told anew
        self.hand_over: HandOver  # set once, by the feed: each needs the other
        self.resyncs = 0
        self.refreshes = 0
        self.failed = 0

    @property
    def are_kept(self) -> bool:
        return self._rule is not None

    @property
    def come_on_stream(self) -> bool:
        """Snapshots come on the stream: the messages of two connections must not mix."""
        return self._rule is not None and self._rule.snapshot == "stream"

    def keeper(self, symbol: str) -> BookKeeper | None:
        kept = self._kept.get(symbol)
        return kept.keeper if kept else None

    # ---- symbols and connections --------------------------------------------------------------

    def add(self, state: SymbolState) -> None:
        if self._rule is not None:
            # else it was in step until the newest that is known of the symbol
            lost_ns = state.trades.last_ts if state.book_lost_ns is None else state.book_lost_ns
            down = state.down.get("book")
            keeper = BookKeeper(self._rule, state.instrument, self._settings, lost_ns=lost_ns, down=down)
            self._kept[state.symbol] = _Kept(keeper)

    def remove(self, state: SymbolState, reason: str) -> list[Part]:
        """The ledger of one that is down is closed by `outages`."""
        kept = self._kept.pop(state.symbol, None)
        if kept is None:
            return []
        kept.changed.set()
        return kept.keeper.ended(reason)

    async def up(self, states: Iterable[SymbolState]) -> None:
        await self._tell_all(states, BookKeeper.subscribed)

    async def down(self, states: Iterable[SymbolState]) -> None:
        await self._tell_all(states, BookKeeper.disconnected)

    def away(self, state: SymbolState, since_ns: int, words: str) -> tuple[int, list[Part]]:
        """The venue is away; since when, as the ledger has it of the book."""
        kept = self._kept.get(state.symbol)
        return (since_ns, []) if kept is None else kept.keeper.away(since_ns, words)

    def heard(self, state: SymbolState, ts_ns: int) -> list[Part]:
        """The venue is heard again."""
        kept = self._kept.get(state.symbol)
        return [] if kept is None else kept.keeper.heard(ts_ns)

    async def silent(self, states: Iterable[SymbolState]) -> None:
        """Nothing has come from the venue for a while: the books may be old."""
        live = [state for state in states if self._is_live(state)]
        await self._tell_all(live, BookKeeper.silent)

    def _is_live(self, state: SymbolState) -> bool:
        kept = self._kept.get(state.symbol)
        return kept is not None and kept.keeper.sync.state is BookState.LIVE

    async def _tell_all(self, states: Iterable[SymbolState], tell: Callable[[BookKeeper], list[Part]]) -> None:
        for state in states:
            kept = self._kept.get(state.symbol)
            if kept is not None:
                await self.hand_over(state, tell(kept.keeper))
                kept.changed.set()
                self._look(state, kept)

    async def changed(self, state: SymbolState) -> None:
        """The symbol has new scales."""
        kept = self._kept.get(state.symbol)
        if kept is not None:
            await self.hand_over(state, kept.keeper.tick_changed(state.instrument))
            self._look(state, kept)

    # ---- what comes ---------------------------------------------------------------------------

    def trades(self, state: SymbolState, lots: Sequence[Records]) -> None:
        kept = self._kept.get(state.symbol)
        if kept is not None:
            for records in lots:
                kept.keeper.trades(records)

    def witness(self, state: SymbolState, lots: Sequence[Records]) -> list[Part]:
        """Live trades, before the changes that came with them."""
        kept = self._kept.get(state.symbol)
        parts = [part for records in lots for part in kept.keeper.witness(records)] if kept is not None else []
        if kept is not None and parts:
            _log.warning(
                "%s: trades go on that its book cannot have; it begins anew",
                state.instrument.name,
                extra={"action": "book_denied", "instrument": state.instrument.name},
            )
            kept.is_denied = not self.come_on_stream  # where snapshots do, each is asked for by subscribing anew
            self._look(state, kept)
        return parts

    def repaired(self, state: SymbolState, parts: Sequence[Part]) -> None:
        """What a repair of the trades brought, and what it gave up."""
        self.trades(state, [records for kind, records in parts if kind == "trade"])
        kept = self._kept.get(state.symbol)
        if kept is not None:
            for kind, records in parts:
                if kind == "coverage":
                    kept.keeper.coverage(records)

    def take(self, state: SymbolState, event: BookSnapshot | BookDelta) -> list[Part]:
        kept = self._kept.get(event.symbol)
        if kept is None:
            return []
        keeper = kept.keeper
        before = keeper.sync.state
        parts = keeper.take(event)
        if keeper.sync.state is not before or type(event) is BookSnapshot:
            kept.changed.set()
        if keeper.needs_snapshot or keeper.sync.wants_fresh:
            self._look(state, kept)
        return parts

    def damaged(self, state: SymbolState) -> list[Part]:
        kept = self._kept.get(state.symbol)
        if kept is None:
            return []
        parts = kept.keeper.damaged()
        self._look(state, kept)
        return parts

    def hole(self, state: SymbolState) -> list[Part]:
        kept = self._kept.get(state.symbol)
        if kept is None:
            return []
        parts = kept.keeper.hole()
        self._look(state, kept)
        return parts

    def time(self, state: SymbolState, ts_ns: int) -> list[Part]:
        kept = self._kept.get(state.symbol)
        if kept is None:
            return []
        if self._audit_ns and abs(ts_ns - kept.audited_ns) >= self._audit_ns and ts_ns != ABSENT:
            self._audit(state, kept, ts_ns)
        return kept.keeper.time(ts_ns, trades_complete=state.is_heard and state.trades.sequence.missing is None)

    # ---- audits ---------------------------------------------------------------------------------

    def _audit(self, state: SymbolState, kept: _Kept, ts_ns: int) -> None:
        """It is time for a fresh snapshot, if the book was LIVE for so long."""
        if kept.is_asking or kept.is_due:
            return  # for one already
        is_first, kept.audited_ns = not kept.audited_ns, ts_ns
        if is_first or kept.keeper.sync.state is not BookState.LIVE:
            return
        if not self.come_on_stream:
            kept.keeper.sync.audit()  # its next change asks
        else:
            kept.is_due = True
            self._tasks.spawn(self._in_turn(state, kept), f"book anew {state.symbol}")

    async def _in_turn(self, state: SymbolState, kept: _Kept) -> None:
        """A book that is lost while it waits is asked for like any other, and its turn is over."""
        due_at = time.monotonic()
        try:
            async with self._anew:
                if kept.is_asking or kept.asked_at >= due_at or kept.keeper.sync.state is not BookState.LIVE:
                    return
                kept.is_asking = True
                try:
                    await self._tell_anew(state, kept)
                finally:
                    kept.is_asking = False
        finally:
            kept.is_due = False
        self._look(state, kept)  # what was lost meanwhile

    async def _tell_anew(self, state: SymbolState, kept: _Kept) -> None:
        """Have the venue tell a LIVE book anew. It stays LIVE, as old as it is, until that comes a moment later."""
        connection = self._connection_of(state.symbol)
        if connection is None or not connection.is_up:
            return
        kept.changed.clear()
        await connection.resubscribe(self._adapter.book_streams(state.symbol))
        try:
            async with asyncio.timeout(ANEW_SECONDS):
                await kept.changed.wait()
        except TimeoutError:
            async with self._order:
                await self.hand_over(state, kept.keeper.lost())

    # ---- into step ----------------------------------------------------------------------------

    def _look(self, state: SymbolState, kept: _Kept) -> None:
        if kept.keeper.needs_snapshot and not kept.is_asking:
            kept.is_asking = True
            self._tasks.spawn(self._ask_until_live(state, kept), f"book {state.symbol}")
        if kept.keeper.sync.wants_fresh and not kept.is_refreshing:
            kept.is_refreshing = True
            self._tasks.spawn(self._refresh(state, kept), f"fresh book {state.symbol}")

    async def _ask_until_live(self, state: SymbolState, kept: _Kept) -> None:
        try:
            if time.monotonic() - kept.asked_at >= STEADY_SECONDS:
                kept.backoff.reset()
            else:
                await asyncio.sleep(kept.backoff.next())
            while _is_needed(state, kept):
                await self._ask(state, kept)
                if _is_needed(state, kept):
                    await asyncio.sleep(kept.backoff.next())
        finally:
            kept.is_asking = False
        self._look(state, kept)  # what was lost meanwhile

    async def _ask(self, state: SymbolState, kept: _Kept) -> None:
        kept.asked_at = time.monotonic()
        self.resyncs += 1
        if self.come_on_stream:
            await self._subscribe_anew(state, kept)
            return
        connection, is_denied, kept.is_denied = self._connection_of(state.symbol), kept.is_denied, False
        if is_denied and connection is not None and connection.is_up:
            await connection.resubscribe(self._adapter.book_streams(state.symbol))
            async with self._order:
                if state.removed or not connection.is_up:
                    return
                await self.hand_over(state, kept.keeper.subscribed())  # what came until now is followed by a hole
        await self._fetch(state, kept, SPARE)

    async def _refresh(self, state: SymbolState, kept: _Kept) -> None:
        """Ask for fresh snapshots until one has widened the book, or it has left LIVE: then `_ask_until_live` does."""
        try:
            if time.monotonic() - kept.refreshed_at >= STEADY_SECONDS:
                kept.fresh_backoff.reset()
            else:
                await asyncio.sleep(kept.fresh_backoff.next())
            while kept.keeper.sync.wants_fresh and not state.removed:
                kept.refreshed_at = time.monotonic()
                self.refreshes += 1
                await self._fetch(state, kept, FRESH_SPARE)
                if kept.keeper.sync.wants_fresh:
                    await asyncio.sleep(kept.fresh_backoff.next())
            if kept.keeper.sync.state is BookState.LIVE:
                kept.fresh_backoff.reset()
        finally:
            kept.is_refreshing = False

    async def _fetch(self, state: SymbolState, kept: _Kept, spare: float) -> None:
        request = self._adapter.snapshot_request(state.symbol)
        if request is None:
            raise NotImplementedError(f"{self._adapter.venue}: a rule with REST snapshots, and no request for one")
        try:
            body = await self._rest.get(request, time.monotonic() + REQUEST_SECONDS, spare=spare)
            async with self._order:
                if not state.removed:  # a removed symbol's scales are gone
                    snapshot = self._adapter.decode_snapshot(state.symbol, body)
                    kept.keeper.needs_snapshot = False
                    await self.hand_over(state, kept.keeper.take(snapshot))
        except (RestFailed, VenueRefused, Timeout) as error:
            self.failed += 1
            _log.warning(
                "no snapshot of the book of %s yet: %s",
                state.symbol,
                error,
                extra={"action": "snapshot_failed", "symbol": state.symbol},
            )

    async def _subscribe_anew(self, state: SymbolState, kept: _Kept) -> None:
        """The first subscription of a connection brings a snapshot by itself; later ones are made for it."""
        connection = self._connection_of(state.symbol)
        if connection is None or not connection.is_up:
            kept.keeper.needs_snapshot = False  # `up` will ask
            return
        kept.changed.clear()
        if not kept.keeper.awaits_first_snapshot:
            await connection.resubscribe(self._adapter.book_streams(state.symbol))
        await connection.has_asked.wait()
        try:
            async with asyncio.timeout(STREAM_SECONDS):
                await kept.changed.wait()
        except TimeoutError:
            async with self._order:
                if not _is_needed(state, kept):
                    return  # it came while we waited for our turn
                self.failed += 1
                await self.hand_over(state, kept.keeper.silent())

    # ---- statistics ---------------------------------------------------------------------------

    @property
    def live(self) -> int:
        return sum(kept.keeper.sync.state is BookState.LIVE for kept in self._kept.values())

    @property
    def refused_settings(self) -> list[str]:
        """What the configuration says of some books, and cannot be had of their instruments."""
        return [kept.keeper.refused_setting for kept in self._kept.values() if kept.keeper.refused_setting]

    @property
    def events(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for kept in self._kept.values():
            total.update(kept.keeper.events)
        return dict(total)


def _is_needed(state: SymbolState, kept: _Kept) -> bool:
    return kept.keeper.needs_snapshot and not state.removed
