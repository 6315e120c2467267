"""Fetches trades and bars of a past stretch over a venue's REST interface, on request (`marketd backfill`).

Records go to ingest in chunks, as late ones: with the moment that we learn of them as `ts_known`, and the bars that
they touch are computed anew. A chunk and the ledger's BACKFILLED for it are one batch, so that whoever is interrupted
has a ledger that says exactly how far he came.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from marketd.daemon.feeds.adapter import Page, Rejected, RestRequest, UnknownSymbol, VenueAdapter, VenueRefused
from marketd.daemon.feeds.backoff import Backoff
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.daemon.feeds.symbol_state import CoverageEvent, Part
from marketd.daemon.feeds.trade_search import TradeSearch, from_id, ids_of, without_holes
from marketd.market.errors import MarketdError, Timeout
from marketd.market.instruments import Instrument
from marketd.market.records import TRADE, Coverage, Records
from marketd.market.times import NS_PER_SECOND

_log = logging.getLogger(__name__)

CHUNK_RECORDS = 50_000  # of one batch; each makes the bars that it touches be computed anew once
REQUEST_SECONDS = 600.0  # for one page, waiting for the venue's budget or the end of a ban included
RETRY_FIRST_SECONDS, RETRY_CAP_SECONDS = 0.5, 60.0
ATTEMPTS = 8
_PASSING = frozenset({408, 418, 425, 429})  # refusals that are over after a while
REASON = "on request"

Ints = npt.NDArray[np.int64]
T = TypeVar("T")
Send = Callable[[Instrument, Sequence[Part], Sequence[Rejected]], Awaitable[None]]


class Stretch(NamedTuple):
    """[start, end) ns of event time."""

    start: int
    end: int


class Progress(NamedTuple):
    """How far one stretch is: fetched up to `ts_ns`, so many records in so many requests."""

    what: str
    stretch: Stretch
    ts_ns: int
    records: int
    requests: int


class Fetched(NamedTuple):
    """What came of a stretch. `unreachable`: the parts of it that the venue does not give."""

    records: int = 0
    rejected: int = 0
    unreachable: tuple[Stretch, ...] = ()

    def plus(self, other: Fetched) -> Fetched:
        return Fetched(
            self.records + other.records, self.rejected + other.rejected, self.unreachable + other.unreachable
        )


class BackfillFailed(MarketdError):
    """The venue did not give what was asked for; what came before is stored."""


class _Chunk:
    """Trades of a stretch that are collected for one batch: [since, until) so far."""

    def __init__(self, stretch: Stretch, known: Ints, *, is_whole: bool) -> None:
        self._stretch = stretch
        self._known = known
        self.since = self.until = stretch.start
        self.is_whole = is_whole  # nothing is missing between `since` and the first that comes
        self.is_over = False  # a page reached the end of the stretch
        self.parts: list[Records] = []
        self.rejected: list[Rejected] = []

    def begin_anew(self) -> None:
        self.since, self.is_whole = self.until, True
        self.parts, self.rejected = [], []

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))

    def add(self, page: Page) -> None:
        times = page.records["ts_event"]
        self.parts.append(_wanted(page.records, self._stretch, self._known))
        self.rejected += page.rejected
        newest = int(times.max(initial=self.until))
        self.is_over = newest >= self._stretch.end
        self.until = min(newest, self._stretch.end)


class Backfill:
    """Of one venue; `send` gets each chunk and returns when it may have the next one."""

    def __init__(
        self,
        adapter: VenueAdapter,
        rest: RestClient,
        send: Send,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._adapter = adapter
        self._rest = rest
        self._send = send
        self._progress = progress
        self._requests = 0

    # ---- trades -------------------------------------------------------------------------------

    async def trades(self, instrument: Instrument, stretch: Stretch, known: Iterable[int] = ()) -> Fetched:
        """All trades of a stretch but those whose ids are `known`, the oldest first. Raises BackfillFailed."""
        stored = np.fromiter(known, dtype=np.int64)
        if self._adapter.numbered_trades:
            return await self._numbered(instrument, stretch, stored)
        request = self._adapter.trades_request(instrument.symbol, 0)
        if request is None:
            return Fetched(unreachable=(stretch,))
        page = await self._trades(instrument.symbol, request)
        times = page.records["ts_event"]
        # only the newest are to be had: they reach back to the oldest of them
        since = min(max(stretch.start, int(times.min(initial=stretch.end))), stretch.end)
        records = _wanted(page.records, Stretch(since, stretch.end), stored)
        if since < stretch.end:
            await self._hand_over(instrument, "trade", records, page.rejected, Stretch(since, stretch.end))
        missing = (Stretch(stretch.start, since),) if since > stretch.start else ()
        return Fetched(len(records), len(page.rejected), missing)

    async def _numbered(self, instrument: Instrument, stretch: Stretch, known: Ints) -> Fetched:
        """From the first id of the stretch on, chunk by chunk. Ids are consecutive: where some do not come, the venue
        does not give them (any more), and the ledger claims nothing.
        """
        symbol = instrument.symbol
        page = await self._trades(symbol, self._adapter.newest_trade_request(symbol))
        newest, last_id = page.records, max(ids_of(page), default=-1)
        if page.rejected and last_id < 0:  # something was traded, and nobody knows what
            return Fetched(rejected=len(page.rejected), unreachable=(stretch,))
        if last_id < 0 or (last_id in newest["trade_id"] and int(newest["ts_event"].max()) < stretch.start):
            await self._hand_over(instrument, "trade", newest[:0], [], stretch)  # nothing was traded since
            return Fetched()
        asked, is_whole = await self._beginning(symbol, stretch.start, last_id)
        chunk = _Chunk(stretch, known, is_whole=is_whole)
        total = Fetched()
        while asked <= last_id and not chunk.is_over:
            page = await self._trades(symbol, self._adapter.trades_request(symbol, asked))
            pieces = without_holes(from_id(page, asked))
            if not pieces:
                break
            for first, last, piece in pieces:
                if first > max(asked, 1):  # the first trade of all is number 0 or 1
                    total = total.plus(await self._flush(instrument, chunk))
                    chunk.is_whole = False
                chunk.add(piece)
                asked = last + 1
            if chunk.size >= CHUNK_RECORDS:
                total = total.plus(await self._flush(instrument, chunk))
            self._tell(f"{instrument.name} trades", stretch, chunk.until, total.records + chunk.size)
        if asked > last_id:
            chunk.until = stretch.end  # there is no more
        total = total.plus(await self._flush(instrument, chunk))
        rest = (Stretch(chunk.since, stretch.end),) if chunk.since < stretch.end else ()
        return total.plus(Fetched(unreachable=rest))

    async def _flush(self, instrument: Instrument, chunk: _Chunk) -> Fetched:
        """Hand over what was collected; the next chunk begins where it ends."""
        records = np.concatenate([np.zeros(0, TRADE), *chunk.parts])
        rejected = chunk.rejected
        missing: tuple[Stretch, ...] = ()
        since = chunk.since
        if not chunk.is_whole:
            # nothing is known of what lies before the first that came
            since = int(records["ts_event"].min(initial=chunk.until))
            missing = (Stretch(chunk.since, since),) if chunk.since < since else ()
        if since < chunk.until or len(records) or rejected:
            await self._hand_over(instrument, "trade", records, rejected, Stretch(since, chunk.until))
        chunk.begin_anew()
        return Fetched(len(records), len(rejected), missing)

    async def _beginning(self, symbol: str, start_ns: int, last_id: int) -> tuple[int, bool]:
        """The first id at or after a time, and whether it is known that none of the stretch is before it."""
        request = self._adapter.trades_since_request(symbol, start_ns)
        if request is None:
            search = TradeSearch(lambda first_id: self._trades(symbol, self._adapter.trades_request(symbol, first_id)))
            first = await search.first_id(start_ns, last_id)
            return first, first <= 1 or await search.has(first - 1)
        records = (await self._trades(symbol, request)).records
        late = records["trade_id"][records["ts_event"] >= start_ns]
        return (int(late[0]), True) if len(late) else (last_id, False)

    async def _trades(self, symbol: str, request: RestRequest | None) -> Page:
        assert request is not None  # a venue that numbers its trades gives them by their numbers
        return await self._ask(request, f"trades of {symbol}", lambda body: self._adapter.decode_trades(symbol, body))

    # ---- bars ---------------------------------------------------------------------------------

    async def bars(self, instrument: Instrument, timeframe: int, stretch: Stretch, known: Iterable[int]) -> Fetched:
        """The venue's closed bars of `timeframe` (s) with stretch.start <= ts < stretch.end but those whose open times
        are `known`. Raises BackfillFailed.
        """
        delta_ns = timeframe * NS_PER_SECOND
        now_ns = await self._venue_now_ns()
        first, last = -(-stretch.start // delta_ns), min(-(-stretch.end // delta_ns), now_ns // delta_ns)
        wanted = np.setdiff1d(np.arange(first, last), np.fromiter(known, dtype=np.int64) // delta_ns) * delta_ns
        count = refused = 0
        for run in _runs(wanted, delta_ns):
            fetched = await self._run_of_bars(instrument, timeframe, run, now_ns)
            if fetched is None:
                return Fetched(count, refused, (stretch,))
            count, refused = count + fetched.records, refused + fetched.rejected
        return Fetched(count, refused)

    async def _run_of_bars(self, instrument: Instrument, timeframe: int, run: Stretch, now_ns: int) -> Fetched | None:
        """Bars without a hole; None when the venue has no such call."""
        symbol, at, count, refused = instrument.symbol, run.start, 0, 0
        while at < run.end:
            request = self._adapter.bars_request(symbol, timeframe, at)
            if request is None:
                return None
            page = await self._ask(
                request,
                f"bars of {symbol}",
                lambda body: self._adapter.decode_bars(symbol, timeframe, body, now_ns),
            )
            times = page.records["ts"]
            newest = int(times.max(initial=at - 1))
            done = page.at_present or newest >= run.end or not len(times)
            until = run.end if done else newest + timeframe * NS_PER_SECOND
            records = page.records[(times >= at) & (times < until)]
            await self._hand_over(instrument, "candle", records, page.rejected, Stretch(at, until))
            at, count, refused = until, count + len(records), refused + len(page.rejected)
            self._tell(f"{instrument.name} bars of {timeframe} s", run, at, count)
        return Fetched(count, refused)

    async def _venue_now_ns(self) -> int:
        request = self._adapter.time_request()
        return time.time_ns() if request is None else await self._ask(request, "time", self._adapter.decode_time)

    # ---- both ---------------------------------------------------------------------------------

    async def _hand_over(
        self, instrument: Instrument, kind: str, records: Records, rejected: Sequence[Rejected], stretch: Stretch
    ) -> None:
        event = CoverageEvent(Coverage.BACKFILLED, stretch.start, stretch.end, kind, len(records), REASON)
        # first what the ledger says: bars that close with these records are whole
        parts = [(kind, records)] if len(records) else []
        await self._send(instrument, [event.part(), *parts], rejected)

    async def _ask(self, request: RestRequest, what: str, decode: Callable[[bytes], T]) -> T:
        """One answer of the venue, asked for until it comes or `ATTEMPTS` failed."""
        backoff = Backoff(RETRY_FIRST_SECONDS, RETRY_CAP_SECONDS)
        while True:
            self._requests += 1
            try:
                return decode(await self._rest.get(request, time.monotonic() + REQUEST_SECONDS))
            except (RestFailed, VenueRefused, Timeout) as error:
                if backoff.failures + 1 >= ATTEMPTS or _is_final(error):
                    raise BackfillFailed(f"{what} cannot be fetched: {error}; run it again to go on") from error
                _log.warning("%s: %s; asking again", what, error, extra={"action": "backfill_retry"})
            await asyncio.sleep(backoff.next())

    def _tell(self, what: str, stretch: Stretch, ts_ns: int, records: int) -> None:
        self._progress(Progress(what, stretch, min(ts_ns, stretch.end), records, self._requests))


def _is_final(error: MarketdError) -> bool:
    """The venue would say the same again."""
    if isinstance(error, UnknownSymbol):
        return True
    return isinstance(error, RestFailed) and 400 <= error.status < 500 and error.status not in _PASSING


def _wanted(trades: Records, stretch: Stretch, known: Ints) -> Records:
    times = trades["ts_event"]
    found: Records = trades[(times >= stretch.start) & (times < stretch.end) & ~np.isin(trades["trade_id"], known)]
    return found


def _runs(starts: Ints, delta_ns: int) -> list[Stretch]:
    """Neighbouring intervals as stretches."""
    if not len(starts):
        return []
    cuts = np.flatnonzero(np.diff(starts) != delta_ns) + 1
    return [Stretch(int(part[0]), int(part[-1]) + delta_ns) for part in np.split(starts, cuts)]
