"""Fills what the stream did not bring, over REST.

For a while the live records that follow a hole are held back, so that what is missing comes before them
(`hold_seconds`). Then they go on, the ledger says GAP, and the hole is filled behind them, at leisure: BACKFILLED.
Numbers that the venue itself does not have are a GAP at once, and so is what no REST call of the venue can give.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from marketd.daemon.feeds.adapter import Page, Rejected, RestRequest, VenueAdapter, VenueRefused
from marketd.daemon.feeds.backoff import Backoff
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.daemon.feeds.sequence import Lost, Missing
from marketd.daemon.feeds.symbol_state import CoverageEvent, HandOver, Part, SymbolState, Track
from marketd.market.errors import Timeout
from marketd.market.records import Coverage, Records
from marketd.market.times import ABSENT, NS_PER_SECOND

_log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0  # for one page, waiting for the venue's budget included
RETRY_FIRST_SECONDS = 0.2
RETRY_CAP_SECONDS = 5.0
LATE_RETRY_CAP_SECONDS = 300.0
LATE_FILLS = 16  # holes of one track that are filled behind the live records at a time
LATE_MOST = 2_000_000  # records in one of them; a longer hole stays a GAP
Reject = Callable[[list[Rejected]], Awaitable[None]]
Spawn = Callable[[Coroutine[Any, Any, None], str], object]


class RepairSettings(NamedTuple):
    hold_seconds: float = 10.0  # live records wait at most so long for what is missing before them
    patience_seconds: float = 0.3  # a hole inside the stream may close by itself (a rolled connection overlaps)


class Repairs:
    def __init__(
        self,
        adapter: VenueAdapter,
        rest: RestClient,
        settings: RepairSettings,
        *,
        order: asyncio.Lock,
        hand_over: HandOver,
        reject: Reject,
        spawn: Spawn,
    ) -> None:
        self._adapter = adapter
        self._rest = rest
        self._settings = settings
        self._order = order  # held from a sequence's decision until its records are handed over
        self._hand_over = hand_over
        self._reject = reject
        self._spawn = spawn
        self.counts: Counter[str] = Counter()

    def look(self, state: SymbolState) -> None:
        """Begin to repair whatever is missing and not being repaired."""
        for track in state.tracks:
            if track.kind in state.down or not (track.timeframe or state.is_heard):
                continue  # what comes before the venue has taken the subscription would be missed again
            is_due = track.sequence.missing is not None or track.outage is not None
            if is_due and not (track.is_repaired or state.removed):
                track.is_repaired = True
                self._spawn(self._run(state, track), f"repair {state.symbol} {track.name}")

    async def _run(self, state: SymbolState, track: Track) -> None:
        try:
            await self._repair(state, track)
        finally:
            track.is_repaired = False
        self.look(state)  # what went missing while the repair was reported

    async def _repair(self, state: SymbolState, track: Track) -> None:
        sequence = track.sequence
        reason = "after a reconnect" if sequence.is_catching_up else "hole in the stream"
        filling = _Filling(track, reason, _heard_until(state, track))
        if not sequence.is_catching_up:
            await asyncio.sleep(self._settings.patience_seconds)
        backoff = Backoff(RETRY_FIRST_SECONDS, RETRY_CAP_SECONDS)
        while (missing := sequence.missing) is not None and not state.removed:
            request = self._request(state, track, missing.first)
            if request is None:
                await self._do_without(state, track, filling)
                continue
            page = await self._fetch(state, track, missing.first, request)
            scales = state.changes
            async with self._order:
                if _is_outdated(state, scales):
                    page = None  # while we waited for our turn; what was read at other scales is asked for again
                came = await self._take(state, track, missing, page, filling)
                await self._give_up_in_time(state, track, filling)
            if came:
                backoff.reset()
            elif sequence.missing is not None:
                await asyncio.sleep(self._wait_seconds(track, backoff.next()))
        async with self._order:
            await self._hand_over(state, filling.end(track.last_ts))

    def _wait_seconds(self, track: Track, wanted: float) -> float:
        """Not beyond the moment at which held records must go on."""
        if track.held_since is None:
            return wanted
        return max(0.01, min(wanted, track.held_since + self._settings.hold_seconds - time.monotonic()))

    def _request(self, state: SymbolState, track: Track, first: int) -> RestRequest | None:
        """What asks for number `first` and those after it; None where the venue has no such call."""
        if not track.timeframe:
            return self._adapter.trades_request(state.symbol, first)
        return self._adapter.bars_request(state.symbol, track.timeframe, first * track.timeframe * NS_PER_SECOND)

    async def _do_without(self, state: SymbolState, track: Track, filling: _Filling) -> None:
        """Nothing can be asked for: what is missing ends where the first live record stands."""
        if not track.sequence.held:
            await asyncio.sleep(RETRY_FIRST_SECONDS)
            return
        async with self._order:
            await self._give_up(state, track, filling, "the venue cannot be asked for it")

    async def _fetch(self, state: SymbolState, track: Track, first: int, request: RestRequest) -> Page | None:
        """The page from number `first` on; None when the venue did not give it."""
        deadline = time.monotonic() + REQUEST_SECONDS
        if track.held_since is not None:
            deadline = min(deadline, max(track.held_since + self._settings.hold_seconds, time.monotonic() + 1.0))
        page: Page | None = None
        try:
            if not track.timeframe:
                body = await self._rest.get(request, deadline)
                # a removed symbol's scales are gone
                page = None if state.removed else self._adapter.decode_trades(state.symbol, body)
            else:
                # the venue's clock is asked before its bars: what had ended then is whole in the answer
                now_ns = await self.venue_now_ns(deadline)
                body = await self._rest.get(request, deadline)
                if not state.removed:
                    page = self._adapter.decode_bars(state.symbol, track.timeframe, body, now_ns)
        except (RestFailed, VenueRefused, Timeout) as error:
            self.counts["failed requests"] += 1
            _log.warning(
                "%s of %s from %d on cannot be fetched yet: %s",
                track.name,
                state.symbol,
                first,
                error,
                extra={"action": "repair_failed", "symbol": state.symbol, "track": track.name},
            )
            return None
        return page

    async def venue_now_ns(self, deadline: float) -> int:
        """The venue's clock; this machine's where the venue has none that can be asked. RestFailed, Timeout."""
        request = self._adapter.time_request()
        if request is None:
            return time.time_ns()
        return self._adapter.decode_time(await self._rest.get(request, deadline))

    async def _take(
        self, state: SymbolState, track: Track, asked: Missing, page: Page | None, filling: _Filling
    ) -> int:
        """Hand on what a page brought; how many records were missing and are no more."""
        sequence = track.sequence
        missing = sequence.missing
        if page is None or missing is None or missing.first != asked.first:
            return 0  # or the stream has brought them meanwhile
        before, records = track.last_ts, page.records
        numbers = track.numbers(records)
        if missing.last is not None and len(numbers) and numbers[0] > missing.last:
            records = records[:0]  # asked for the missing ones the venue gave what follows: it has none of them
            step = sequence.skip()
        else:
            if missing.last is not None:
                records = records[numbers <= missing.last]  # what follows is held, as it came live
            step = sequence.fetched(records, at_present=page.at_present)
        track.follow(step.records, time.monotonic())
        await self._reject(page.rejected)
        refused = {rejected.trade_id for rejected in page.rejected}
        lost = [hole for hole in step.lost if not _is_within(hole, refused)]
        parts: list[Part] = []
        if lost:
            parts = filling.end(track.last_ts)
            parts += [self._gap(track, hole, before, "the venue has no such records") for hole in lost]
        elif step.fetched:
            times = records[track.time_field]
            filling.add(step.fetched, int(times.min()), int(times.max()))
        if len(step.records):
            parts.append((track.kind, step.records))
        await self._hand_over(state, parts)
        self.counts["filled"] += step.fetched
        return step.fetched

    async def _give_up_in_time(self, state: SymbolState, track: Track, filling: _Filling) -> None:
        sequence, now = track.sequence, time.monotonic()
        waited = 0.0 if track.held_since is None else now - track.held_since
        if not sequence.overfull and waited < self._settings.hold_seconds:
            return
        before = track.last_ts
        for hole in await self._give_up(state, track, filling, "not to be had in time"):
            self._fill_late(state, track, hole, before)

    async def _give_up(self, state: SymbolState, track: Track, filling: _Filling, reason: str) -> list[Lost]:
        """Go on without what is missing before the held records; what is lost thereby."""
        before = track.last_ts
        step = track.sequence.skip()
        track.held_since = None  # for a further hole the time begins anew
        track.follow(step.records, time.monotonic())
        parts = filling.end(track.last_ts) if step.lost else []
        parts += [self._gap(track, hole, before, reason) for hole in step.lost]
        if len(step.records):
            parts.append((track.kind, step.records))
        await self._hand_over(state, parts)
        return step.lost

    def _gap(self, track: Track, hole: Lost, before_ns: int, reason: str) -> Part:
        self.counts["gaps"] += 1
        self.counts["lost"] += hole.size
        _log.warning(
            "%s of %s are missing: %s",
            f"{hole.size} records (numbers {hole.first} to {hole.last})" if hole.size else "some records",
            track.name,
            reason,
            extra={"action": "coverage_gap", "first": hole.first, "last": hole.last},
        )
        start_ns = before_ns if hole.ts_start == ABSENT else hole.ts_start
        return CoverageEvent(Coverage.GAP, start_ns, hole.ts_end, track.kind, hole.size, reason).part()

    # ---- behind the live records --------------------------------------------------------------

    def _fill_late(self, state: SymbolState, track: Track, hole: Lost, before_ns: int) -> None:
        if not track.sequence.is_numbered or track.late_fills >= LATE_FILLS or hole.size > LATE_MOST:
            self.counts["holes left open"] += 1
            return
        track.late_fills += 1
        self._spawn(self._late(state, track, hole, before_ns), f"late fill {state.symbol} {track.name} {hole.first}")

    async def _late(self, state: SymbolState, track: Track, hole: Lost, before_ns: int) -> None:
        backoff = Backoff(RETRY_CAP_SECONDS, LATE_RETRY_CAP_SECONDS)
        first, filled, refused = hole.first, 0, 0
        try:
            while first <= hole.last and not state.removed:
                request = self._request(state, track, first)
                page = None if request is None else await self._fetch(state, track, first, request)
                if page is None:
                    await asyncio.sleep(backoff.next())
                    continue
                backoff.reset()
                scales = state.changes
                numbers = track.numbers(page.records)
                records: Records = page.records[(numbers >= first) & (numbers <= hole.last)]
                async with self._order:
                    if _is_outdated(state, scales):
                        continue  # as above
                    await self._reject(page.rejected)
                    if len(records):
                        await self._hand_over(state, [(track.kind, records)])
                filled += len(records)
                refused += sum(1 for r in page.rejected if first <= (r.trade_id or 0) <= hole.last)
                if page.at_present or not len(numbers):
                    break  # the venue has no more
                first = int(numbers[-1]) + 1
        finally:
            track.late_fills -= 1
        self.counts["filled"] += filled
        if filled and filled + refused >= hole.size:  # else it stays a GAP
            reason = "behind the live records"
            event = CoverageEvent(Coverage.BACKFILLED, before_ns, hole.ts_end, track.kind, filled, reason)
            async with self._order:
                await self._hand_over(state, [event.part()])


def _heard_until(state: SymbolState, track: Track) -> int | None:
    """Until when a stream was heard; None: it never was, whatever else the venue has told of its time."""
    if track.last_ts == ABSENT:
        return None
    return track.last_ts if track.timeframe else max(track.last_ts, state.newest_ns)


class _Filling:
    """What a repair has filled so far, up to the next hole that stays: one BACKFILLED of the ledger."""

    def __init__(self, track: Track, reason: str, heard_ns: int | None) -> None:
        """`heard_ns`: until when the stream was heard itself; None: never, so that it begins with what is fetched."""
        self._track = track
        self._reason = reason
        self._start_ns = heard_ns
        self._end_ns = ABSENT if heard_ns is None else heard_ns
        self._count = 0

    def add(self, count: int, oldest_ns: int, newest_ns: int) -> None:
        self._start_ns = oldest_ns if self._start_ns is None else min(self._start_ns, oldest_ns)
        self._end_ns = max(self._end_ns, newest_ns)
        self._count += count

    def end(self, now_ns: int) -> list[Part]:
        """The event, if there was something to report; what comes next begins at `now_ns`.

        Of an outage all is whole now but for the holes that follow, though nothing may have happened in it.
        """
        outage, self._track.outage = self._track.outage, None
        count, start_ns, end_ns = self._count, self._start_ns, self._end_ns
        self._count, self._start_ns, self._end_ns = 0, None if now_ns == ABSENT else now_ns, now_ns
        if outage is not None:
            start_ns = outage[0] if start_ns is None else min(start_ns, outage[0])
            end_ns = max(end_ns, outage[1])
        elif not count:
            return []
        if start_ns is None:
            return []
        return [CoverageEvent(Coverage.BACKFILLED, start_ns, end_ns, self._track.kind, count, self._reason).part()]


def _is_outdated(state: SymbolState, changes: int) -> bool:
    """Whether what was read after so many changes of its scales is of no use any more."""
    return state.removed or state.changes != changes


def _is_within(hole: Lost, refused: set[int | None]) -> bool:
    """Whether every number of a hole was there, but broke a rule: then it is in quarantine, and no gap."""
    return 0 < hole.size <= len(refused) and all(number in refused for number in range(hole.first, hole.last + 1))
