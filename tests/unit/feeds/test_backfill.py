"""Backfills from a small venue made of lists: what is asked for, what is handed over, what the ledger is told."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lane import BTC, MS, SECOND, START, bars
from lane import trades as trade_records
from marketd.daemon.feeds import backfill
from marketd.daemon.feeds.adapter import Page, Rejected, RestRequest, UnknownSymbol
from marketd.daemon.feeds.backfill import Backfill, BackfillFailed, Fetched, Progress, Stretch
from marketd.daemon.feeds.rest import RestFailed
from marketd.market.records import BY_NAME, Coverage, Records

PAGE_ROWS = 5
ALL = Stretch(START, START + 1000 * SECOND)


class Venue:
    """An adapter and its REST interface in one: trades as (ms, id), bars as numbers of minutes after START."""

    def __init__(
        self, trades: Sequence[tuple[int, int]] = (), minutes: Sequence[int] = (), *, numbered: bool = True
    ) -> None:
        self.trades = trade_records([(ms, number, 100, 1) for ms, number in trades])
        self.minutes = minutes
        self.numbered_trades = numbered
        self.asked: list[str] = []
        self.failures: list[Exception] = []
        self.rejects: list[int] = []  # ids that come as rejected
        self.forgotten: set[int] = set()  # ids that do not come any more
        self.answers_left: int | None = None

    async def get(self, request: RestRequest, deadline: float) -> bytes:
        self.asked.append(request.target)
        if self.failures:
            raise self.failures.pop(0)
        if self.answers_left is not None:
            if not self.answers_left:
                raise RestFailed("gone", status=403)
            self.answers_left -= 1
        return request.target.encode()

    def trades_request(self, symbol: str, first_id: int) -> RestRequest | None:
        return RestRequest(json.dumps(first_id), 1)

    def trades_since_request(self, symbol: str, ts_ns: int) -> RestRequest | None:
        return None

    def newest_trade_request(self, symbol: str) -> RestRequest | None:
        return RestRequest(json.dumps(None), 1)

    def decode_trades(self, symbol: str, body: bytes) -> Page:
        first = json.loads(body)
        ids, found = self.trades["trade_id"], self.trades
        if first is None:
            found = found[-1:]
        elif self.numbered_trades:  # as some venues do it: by a span of ids
            found = found[(ids >= first) & (ids < first + PAGE_ROWS)]
        found = found[~np.isin(found["trade_id"], sorted(self.forgotten))]
        page = found[-PAGE_ROWS:]
        broken = np.isin(page["trade_id"], self.rejects)
        rejected = [Rejected(symbol, "range", "", b"", int(number)) for number in page["trade_id"][broken]]
        return Page(page[~broken], rejected, len(page), at_present=len(page) < PAGE_ROWS)

    def time_request(self) -> RestRequest | None:
        return None

    def bars_request(self, symbol: str, timeframe: int, start_ns: int) -> RestRequest | None:
        return RestRequest(json.dumps(start_ns), 1)

    def decode_bars(self, symbol: str, timeframe: int, body: bytes, now_ns: int) -> Page:
        found = bars(self.minutes)
        page = found[found["ts"] >= json.loads(body)][:PAGE_ROWS]
        return Page(page, [], len(page), at_present=len(page) < PAGE_ROWS)


class Sink:
    def __init__(self) -> None:
        self.batches: list[list[tuple[str, Records]]] = []
        self.rejected: list[Rejected] = []

    async def send(self, instrument: Any, parts: Sequence[tuple[str, Records]], rejected: Sequence[Rejected]) -> None:
        assert instrument is BTC
        self.batches.append(list(parts))
        self.rejected += rejected

    def records(self, kind: str) -> Records:
        found = [records for batch in self.batches for name, records in batch if name == kind]
        return np.concatenate([np.zeros(0, BY_NAME[kind].dtype), *found])

    def stretches(self) -> list[tuple[int, int, int]]:
        """Of the ledger's events: from and to in ms, and how many records."""
        events = self.records("coverage")
        assert set(events["state"].tolist()) <= {Coverage.BACKFILLED}
        times = [(events[name] - START) // MS for name in ("ts_start", "ts_end")]
        return list(zip(*(each.tolist() for each in times), events["detail"].tolist(), strict=True))


def fetched(venue: Venue, stretch: Stretch, sink: Sink, progress: Any = lambda _: None) -> Fetched:
    work: Any = venue
    return asyncio.run(Backfill(work, work, sink.send, progress).trades(BTC, stretch))


def listed(first_id: st.SearchStrategy[int]) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Trades whose times rise, several at one moment perhaps, and whose ids are consecutive."""
    steps = st.lists(st.integers(0, 3), max_size=40)
    return st.tuples(first_id, steps).map(
        lambda made: [(sum(made[1][: n + 1]), made[0] + n) for n in range(len(made[1]))]
    )


spans = st.tuples(st.integers(-1, 90), st.integers(0, 90))


@given(listed(st.sampled_from([0, 1])), spans, st.integers(1, 12))
def test_exactly_the_trades_of_the_stretch_come_in_order(
    rows: list[tuple[int, int]], span: tuple[int, int], chunk: int
) -> None:
    start, end = sorted(span)
    stretch, venue, sink = Stretch(START + start * MS, START + end * MS), Venue(rows), Sink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backfill, "CHUNK_RECORDS", chunk)
        report = fetched(venue, stretch, sink)
    expected = [number for ms, number in rows if start <= ms < end]
    assert sink.records("trade")["trade_id"].tolist() == expected
    assert report == Fetched(len(expected), 0)
    # the ledger covers the stretch without a hole, each chunk with what came with it
    told = sink.stretches()
    if start == end:
        return
    assert [told[0][0], told[-1][1]] == [start, end]
    assert [first for first, _, _ in told[1:]] == [last for _, last, _ in told[:-1]]
    assert sum(count for *_, count in told) == len(expected)


@given(listed(st.integers(0, 5_000)), spans, st.sets(st.integers(0, 39)), st.integers(1, 12))
def test_the_ledger_never_claims_what_the_venue_has_forgotten(
    rows: list[tuple[int, int]], span: tuple[int, int], forgotten: set[int], chunk: int
) -> None:
    start, end = sorted(span)
    stretch, venue, sink = Stretch(START + start * MS, START + end * MS), Venue(rows), Sink()
    # the newest is always there; all up to some id are gone, or some in between. That number 0 alone does not come
    # tells nothing: some venues begin to count with 1
    venue.forgotten = {rows[index][1] for index in forgotten if index < len(rows) - 1} - {0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backfill, "CHUNK_RECORDS", chunk)
        report = fetched(venue, stretch, sink)
    claimed = [(first, last) for first, last, _ in sink.stretches()]
    lost = [((first - START) // MS, (last - START) // MS) for first, last in report.unreachable]
    came = set(sink.records("trade")["trade_id"].tolist())
    for ms, number in rows:
        if any(first < ms < last for first, last in claimed) and start <= ms < end:
            assert number in came
        if number in came:
            assert start <= ms < end
    # every moment is claimed, or told to be out of reach
    for ms in range(start, end):
        assert any(first <= ms < last for first, last in claimed + lost)


@given(listed(st.sampled_from([0, 1])), spans, st.integers(1, 12), st.lists(st.integers(0, 25), max_size=4))
def test_what_was_interrupted_goes_on_where_the_ledger_ends(
    rows: list[tuple[int, int]], span: tuple[int, int], chunk: int, deaths: list[int]
) -> None:
    start, end = sorted(span)
    stretch, venue, sink = Stretch(START + start * MS, START + end * MS), Venue(rows), Sink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backfill, "CHUNK_RECORDS", chunk)
        for requests in (*deaths, None):
            venue.answers_left = requests
            done = sink.stretches()
            rest = Stretch(START + done[-1][1] * MS, stretch.end) if done else stretch
            try:
                fetched(venue, rest, sink)
            except BackfillFailed:
                continue
    ids = sink.records("trade")["trade_id"].tolist()
    assert sorted(set(ids)) == [number for ms, number in rows if start <= ms < end]
    told = sink.stretches()
    assert start == end or (told[0][0], told[-1][1]) == (start, end)
    assert all(first == last for (_, last, _), (first, *_) in itertools.pairwise(told))


def test_the_first_trade_is_found_among_billions() -> None:
    rows = [(n * 1_000, 3_000_000_000 + n) for n in range(200)]
    venue = Venue(rows)
    fetched(venue, Stretch(START + 20_500 * MS, START + 22_500 * MS), sink := Sink())
    assert sink.records("trade")["trade_id"].tolist() == [3_000_000_021, 3_000_000_022]
    assert len(venue.asked) < 50


def test_what_the_venue_rejects_is_in_quarantine_and_stops_nothing() -> None:
    venue, sink = Venue([(n, n) for n in range(1, 12)]), Sink()
    venue.rejects = [3, 4, 5, 6, 7, 8, 9]
    assert fetched(venue, ALL, sink) == Fetched(4, 7)
    assert sink.records("trade")["trade_id"].tolist() == [1, 2, 10, 11]
    assert [each.trade_id for each in sink.rejected] == venue.rejects


def test_a_newest_trade_that_breaks_a_rule_is_not_taken_for_no_trade() -> None:
    venue, sink = Venue([(ms, ms) for ms in range(1, 13)]), Sink()
    venue.rejects = [12]
    found = fetched(venue, ALL, sink)
    assert sink.records("trade")["trade_id"].tolist() == list(range(1, 12))
    assert (found.rejected, [each.trade_id for each in sink.rejected]) == (1, [12])


def test_what_is_stored_already_is_left_out() -> None:
    for numbered in (True, False):
        venue, sink = Venue([(n, n) for n in range(1, 5)], numbered=numbered), Sink()
        work: Any = venue
        report = asyncio.run(Backfill(work, work, sink.send).trades(BTC, ALL, [1, 3]))
        assert sink.records("trade")["trade_id"].tolist() == [2, 4]
        assert report.records == 2


def test_of_a_venue_without_numbers_only_the_newest_are_to_be_had() -> None:
    venue, sink = Venue([(n * 1_000, 7 * n) for n in range(20)], numbered=False), Sink()
    report = fetched(venue, Stretch(START, START + 18_000 * MS), sink)
    assert sink.records("trade")["trade_id"].tolist() == [15 * 7, 16 * 7, 17 * 7]
    assert report == Fetched(3, 0, (Stretch(START, START + 15_000 * MS),))
    assert sink.stretches() == [(15_000, 18_000, 3)]
    early, sink = Stretch(START, START + SECOND), Sink()
    assert fetched(venue, early, sink).unreachable == (early,)
    assert sink.batches == []


def test_a_failure_is_asked_again_and_a_final_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "RETRY_FIRST_SECONDS", 1e-6)
    monkeypatch.setattr(backfill, "RETRY_CAP_SECONDS", 1e-5)
    venue, sink = Venue([(1, 1), (2, 2)]), Sink()
    venue.failures = [RestFailed("busy", status=503), RestFailed("slow", status=429)]
    assert fetched(venue, ALL, sink).records == 2
    for error in (RestFailed("no", status=403), UnknownSymbol("BTCUSDT")):
        venue = Venue([(1, 1)])
        venue.failures = [error]
        with pytest.raises(BackfillFailed, match="run it again"):
            fetched(venue, ALL, Sink())
        assert len(venue.asked) == 1
    venue.failures = [RestFailed("busy", status=503)] * 100
    with pytest.raises(BackfillFailed, match="busy"):
        fetched(venue, ALL, Sink())
    assert len(venue.asked) == 1 + backfill.ATTEMPTS


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_exactly_the_bars_that_are_missing_come(has: set[int], known: set[int], span: tuple[int, int]) -> None:
    first, last = sorted(span)
    venue, sink = Venue(minutes=sorted(has)), Sink()
    work: Any = venue
    stretch = Stretch(START + first * 60 * SECOND, START + last * 60 * SECOND)
    opened = [START + minute * 60 * SECOND for minute in known]
    report = asyncio.run(Backfill(work, work, sink.send).bars(BTC, 60, stretch, opened))
    found = ((sink.records("candle")["ts"] - START) // (60 * SECOND)).tolist()
    assert sorted(found) == [minute for minute in range(first, last) if minute in has - known]
    assert report.records == len(found)
    covered = {minute for start, end, _ in sink.stretches() for minute in range(start // 60_000, end // 60_000)}
    assert covered == set(range(first, last)) - known


def test_bars_that_have_not_ended_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    venue, sink = Venue(minutes=range(10)), Sink()
    monkeypatch.setattr(backfill.time, "time_ns", lambda: START + 150 * SECOND)
    work: Any = venue
    assert asyncio.run(Backfill(work, work, sink.send).bars(BTC, 60, ALL, [])).records == 2
    assert sink.stretches() == [(0, 120_000, 2)]


def test_progress_is_told_page_by_page() -> None:
    told: list[Progress] = []
    fetched(Venue([(n * 1_000, n) for n in range(1, 13)]), ALL, Sink(), told.append)
    assert [each.records for each in told] == [4, 9, 12]
    assert [(each.ts_ns - START) // SECOND for each in told] == [4, 9, 12]
    assert {each.what for each in told} == {"BTCUSDT.BINANCE trades"}
