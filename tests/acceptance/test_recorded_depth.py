"""The books of recorded traffic: equal to the venue's own best prices, to the reference books, to their own deltas.

The messages are read here as plainly as can be; the feeds' decoders have tests of their own.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from msgspec.structs import replace

from book_oracles import Moment, Trade, buckets, imbalance
from book_teller import BookTeller
from marketd.market.book import BestLevels, Levels, OrderBook
from marketd.market.book_deltas import BookReplay
from marketd.market.book_messages import BookDelta, BookRule, BookSnapshot, Fit
from marketd.market.book_sync import BookSync
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.records import KindTable, Records
from marketd.market.times import ABSENT, NS_PER_MS, NS_PER_SECOND
from marketd.market.validation import DataValidator
from support import demand

NO_TRADES: list[Trade] = []
FUTURE_NS = 2**62
INSTRUMENT = Instrument(id=1, symbol="X", venue="BINANCE", price_scale=2, size_scale=8, quote_scale=8)


class Capture(NamedTuple):
    """One day's file, or two of which the second goes on where the first ends."""

    files: tuple[str, ...]
    price_scale: int
    size_scale: int
    is_spot: bool
    checks: int  # so many states of the book have a bookTicker of the same number


CAPTURES = (
    Capture(("spot_btcusdt_20240808", "spot_btcusdt_20240809"), 2, 8, True, 1_072),
    Capture(("usdm_btcusdt_20240718", "usdm_btcusdt_20240719"), 1, 3, False, 625),
    Capture(("usdm_ethusdt_20240718", "usdm_ethusdt_20240719"), 2, 3, False, 834),
    Capture(("cm_ethusd_perp_20240808",), 2, 0, False, 1_345),
)


def spot_fit(sequence: int, delta: BookDelta) -> Fit:
    if delta.last <= sequence:
        return Fit.OLD
    return Fit.NEXT if delta.first <= sequence + 1 else Fit.GAP


def futures_splice(sequence: int, delta: BookDelta) -> Fit:
    if delta.last < sequence:
        return Fit.OLD
    return Fit.NEXT if delta.first <= sequence else Fit.GAP


def futures_follows(sequence: int, delta: BookDelta) -> Fit:
    if delta.last <= sequence:
        return Fit.OLD
    return Fit.NEXT if delta.previous == sequence else Fit.GAP


SPOT = BookRule("rest", spot_fit, spot_fit)
FUTURES = BookRule("rest", futures_splice, futures_follows)


def path_of(name: str) -> Path:
    return demand("shared_data") / "ws_binance_raw" / f"{name}.gz"


def lines(capture: Capture) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(stream, data, file) of each message; the snapshot's stream is ""."""
    for name in capture.files:
        with gzip.open(path_of(name), "rt") as file:
            for line in file:
                message = json.loads(line.partition(" ")[2])
                yield message.get("stream", "@").partition("@")[2], message.get("data", message), name


def fixed(text: str, scale: int) -> int:
    whole, _, places = text.partition(".")
    assert not places[scale:].strip("0")
    return int(whole + places[:scale].ljust(scale, "0"))


def levels(rows: list[list[str]], capture: Capture) -> Levels:
    prices = [fixed(price, capture.price_scale) for price, _ in rows]
    return Levels(prices, [fixed(size, capture.size_scale) for _, size in rows])


def decoded(stream: str, data: dict[str, Any], capture: Capture) -> BookSnapshot | BookDelta | None:
    if "lastUpdateId" in data:
        bids, asks = levels(data["bids"], capture), levels(data["asks"], capture)
        return BookSnapshot("", data["lastUpdateId"], ABSENT, bids, asks)
    if not stream.startswith("depth"):
        return None
    bids, asks = levels(data["b"], capture), levels(data["a"], capture)
    return BookDelta("", data["U"], data["u"], data.get("pu"), data["E"] * NS_PER_MS, bids, asks)


class Rebuilt(NamedTuple):
    capture: Capture
    sync: BookSync
    ends: dict[str, dict[str, Any]]  # by file: the book when it ended, as STATS.json tells it
    best: dict[int, tuple[int, int, int, int]]  # of each state of the book, by its number
    tickers: dict[int, tuple[int, int, int, int]]  # the venue's own, by its number
    records: dict[str, Records]
    moments: list[Moment]  # some seconds in the middle


@pytest.fixture(scope="module", params=CAPTURES, ids=lambda capture: capture.files[0])
def rebuilt(request: pytest.FixtureRequest) -> Rebuilt:
    """The whole capture through a book and all that is made of it."""
    capture: Capture = request.param
    scales = {"price_scale": capture.price_scale, "size_scale": capture.size_scale, "quote_scale": 8}
    instrument = Instrument(id=1, symbol="X", venue="BINANCE", **scales)
    sync = BookSync(SPOT if capture.is_spot else FUTURES, instrument)
    sync.subscribed()
    teller = BookTeller(sync, depth=20, width=10**capture.price_scale)
    rebuilt = Rebuilt(capture, sync, {}, {}, {}, {}, [])
    told: dict[str, list[Records]] = {}
    for stream, data, file in lines(capture):
        if stream == "bookTicker":
            bid, ask = (fixed(data[key], capture.price_scale) for key in "ba")
            bid_size, ask_size = (fixed(data[key], capture.size_scale) for key in "BA")
            rebuilt.tickers[data["u"]] = bid, bid_size, ask, ask_size
        message = decoded(stream, data, capture)
        if message is None:
            continue
        step = sync.snapshot(message) if isinstance(message, BookSnapshot) else sync.delta(message)
        if step.began or step.change is not None:
            teller.step(sync.ts_ns, step)
            for kind, records in teller.advance(sync.ts_ns):
                told.setdefault(kind, []).append(records)
            remember(rebuilt, file)
    rebuilt.records.update({kind: np.concatenate(records) for kind, records in told.items()})
    return rebuilt


def remember(rebuilt: Rebuilt, file: str) -> None:
    sync = rebuilt.sync
    (bid,), (bid_size,), (ask,), (ask_size,) = sync.book.top(1)
    rebuilt.best[sync.sequence] = bid, bid_size, ask, ask_size
    top = sync.book.top(5)
    rebuilt.ends[file] = {
        "levels": [len(sync.book.bids), len(sync.book.asks)],
        "top5_bids": list(map(list, zip(top.bid_prices, top.bid_sizes, strict=True))),
        "top5_asks": list(map(list, zip(top.ask_prices, top.ask_sizes, strict=True))),
    }
    begin = rebuilt.moments[0].ts if rebuilt.moments else sync.ts_ns
    if len(rebuilt.best) > 500 and sync.ts_ns < begin + 5 * NS_PER_SECOND:
        rebuilt.moments.append(Moment(sync.ts_ns, BookState.LIVE, dict(sync.book.bids), dict(sync.book.asks)))


def test_a_rebuilt_book_is_the_venues_own_at_every_shared_number_and_the_reference_at_the_end(rebuilt: Rebuilt) -> None:
    assert rebuilt.sync.state is BookState.LIVE
    events = rebuilt.sync.statistics().events
    assert {"gap", "crossed", "damaged", "snapshot_old"} & set(events) == set()
    shared = rebuilt.best.keys() & rebuilt.tickers.keys()
    assert len(shared) == rebuilt.capture.checks
    assert [number for number in shared if rebuilt.best[number] != rebuilt.tickers[number]] == []
    stats = json.loads((demand("shared_data") / "STATS.json").read_text())
    for file, found in rebuilt.ends.items():
        expected = stats[f"ws_binance_raw/{file}.gz"]["book_at_end"]
        assert found["levels"] == expected["levels"]
        for side in ("top5_bids", "top5_asks"):
            wanted = levels(expected[side], rebuilt.capture)
            assert found[side] == list(map(list, zip(wanted.prices, wanted.sizes, strict=True)))


def test_the_records_of_a_recorded_book_keep_the_rules_and_make_it_again(rebuilt: Rebuilt) -> None:
    kinds = KindTable()
    assert set(rebuilt.records) == {"book", "imbalance", "buckets", "book_delta"}
    for name, records in rebuilt.records.items():
        verdict = DataValidator(kinds, 0).validate(kinds.by_name(name), records, rebuilt.sync.instrument, FUTURE_NS)
        assert verdict.refused == []
    replay = BookReplay()
    replay.apply(rebuilt.records["book_delta"])
    assert replay.is_live
    assert replay.book == rebuilt.sync.book
    seconds = np.diff(rebuilt.records["imbalance"]["ts_event"])
    assert set(seconds.tolist()) == {NS_PER_SECOND}


def spoil(name: str, value: Any, *, level: int | None = None) -> Callable[[Records], None]:
    def change(record: Records) -> None:
        place = record[name] if level is None else record[name][0]
        place[0 if level is None else level] = value

    return change


def swap(name: str) -> Callable[[Records], None]:
    def change(record: Records) -> None:
        record[name][0, :2] = record[name][0, 1::-1]

    return change


def cross(record: Records) -> None:
    record["ask_price"][0, 0] = record["bid_price"][0, 0]


WRONG_RECORDS: list[tuple[str, str, Callable[[Records], None]]] = [  # kind, rule, what is done to one record
    ("book", "absent", spoil("ts_event", ABSENT)),
    ("book", "range", spoil("ts_event", -1)),
    ("book", "max_skew", spoil("ts_event", FUTURE_NS + 1)),
    ("book", "book_state", spoil("state", 9)),
    ("book", "not_live", spoil("state", BookState.STALE)),
    ("book", "level_count", spoil("bid_count", 21)),
    ("book", "level_count", spoil("ask_count", 19)),
    ("book", "positive_price", spoil("bid_price", 0, level=19)),
    ("book", "non_negative", spoil("ask_size", -1, level=0)),
    ("book", "bids_falling", swap("bid_price")),
    ("book", "asks_rising", swap("ask_price")),
    ("book", "crossed", cross),
    ("book_delta", "side", spoil("side", 2)),
    ("imbalance", "aligned", spoil("ts_event", 1_723_161_300_000_000_001)),
    ("imbalance", "ratio", spoil("book_1s", 1_000_001)),
    ("imbalance", "book_state", spoil("reason", 1)),
    ("buckets", "timeframe", spoil("timeframe", 5)),
    ("buckets", "bucket", spoil("width", 0)),
]


@pytest.mark.parametrize(("kind_name", "rule", "change"), WRONG_RECORDS)
def test_a_recorded_record_that_is_made_wrong_is_refused_by_name_and_alone(
    rebuilt: Rebuilt, kind_name: str, rule: str, change: Callable[[Records], None]
) -> None:
    records = rebuilt.records[kind_name][-9:].copy()
    change(records[4:5])
    kinds = KindTable()
    verdict = DataValidator(kinds, 0).validate(kinds.by_name(kind_name), records, rebuilt.sync.instrument, FUTURE_NS)
    assert [(each.index, each.rule) for each in verdict.refused] == [(4, rule)]


def test_the_figures_of_a_recorded_book_are_those_of_their_definition(rebuilt: Rebuilt) -> None:
    moments, width = rebuilt.moments, 10**rebuilt.capture.price_scale
    begin = moments[0].ts - moments[0].ts % NS_PER_SECOND + NS_PER_SECOND
    ends = range(begin + NS_PER_SECOND, moments[-1].ts, NS_PER_SECOND)
    assert len(ends) >= 3
    for end in ends:
        (row,) = rebuilt.records["imbalance"][rebuilt.records["imbalance"]["ts_event"] == end].tolist()
        expected = imbalance(moments, NO_TRADES, begin, end, 10_000)
        assert row[3:10] == expected[:7]
        found = rebuilt.records["buckets"]
        (found,) = found[(found["ts"] == end - NS_PER_SECOND) & (found["timeframe"] == 1)]
        state, base, bids, asks = buckets(moments, 1, end, width)
        assert (found["state"], found["base"]) == (state, base)
        assert found["bid_size"].tolist() == bids
        assert found["ask_size"].tolist() == asks


# ---- a bad line -----------------------------------------------------------------------------------------------

STEP = 25  # every so many messages a snapshot could be had


class Truth(NamedTuple):
    """What the venue had: its messages, its best levels by number, and now and then the whole book."""

    deltas: list[BookDelta]
    best: dict[int, BestLevels]
    books: dict[int, OrderBook]


@pytest.fixture(scope="module", params=[CAPTURES[0], CAPTURES[2]], ids=lambda capture: capture.files[0])
def truth(request: pytest.FixtureRequest) -> tuple[BookRule, Truth]:
    """The first minutes of a capture, after its snapshot."""
    capture: Capture = request.param
    rule = SPOT if capture.is_spot else FUTURES
    messages = [
        message for stream, data, _ in lines(capture) if (message := decoded(stream, data, capture)) is not None
    ][:2_500]
    (first,) = (message for message in messages if isinstance(message, BookSnapshot))
    found, book, sequence = Truth([], {}, {}), OrderBook(), first.sequence
    book.reset(first.bids, first.asks)
    for delta in messages:
        if not isinstance(delta, BookDelta) or delta.last <= first.sequence:
            continue
        book.apply(delta.bids, delta.asks)
        if len(found.deltas) % STEP == 0:
            found.books[delta.last] = deepcopy(book)
        found.deltas.append(delta)
        found.best[delta.last] = book.top(50)
        sequence = delta.last
    found.books[sequence] = deepcopy(book)
    return rule, found


@pytest.mark.parametrize("seed", range(3))
def test_over_a_bad_line_a_recorded_book_is_right_or_not_live(truth: tuple[BookRule, Truth], seed: int) -> None:
    rule, venue = truth
    chance = random.Random(seed)
    sync = BookSync(rule, INSTRUMENT)
    sync.subscribed()
    wants_snapshot, live, checked = True, 0, 0
    for at in range(len(venue.deltas)):
        for delta in befallen(venue.deltas, at, chance):
            wants_snapshot |= sync.delta(delta).needs_snapshot
            if sync.state is BookState.LIVE:
                live += 1
                assert sync.book.top(50) == venue.best[sync.sequence]
            if sync.state is BookState.LIVE and sync.sequence in venue.books:
                checked += 1
                assert sync.book == venue.books[sync.sequence]
        if chance.random() < 0.003:
            sync.disconnected()
            wants_snapshot = sync.subscribed().needs_snapshot
        if wants_snapshot and sync.state is BookState.SYNCING and chance.random() < 0.3:
            late = [number for number in venue.books if number <= venue.deltas[at].last][-chance.choice((1, 1, 2)) :]
            book = venue.books[late[0]]
            bids, asks = (Levels(list(side), list(side.values())) for side in (book.bids, book.asks))
            wants_snapshot = sync.snapshot(BookSnapshot("", late[0], ABSENT, bids, asks)).needs_snapshot
    events = sync.statistics().events
    assert {"gap", "old", "damaged", "snapshot_old", "joined", "disconnected"} <= set(events)
    assert live > len(venue.deltas) // 10
    assert checked > 5


def befallen(deltas: list[BookDelta], at: int, chance: random.Random) -> list[BookDelta]:
    """What arrives when a message is sent."""
    delta, fate = deltas[at], chance.random()
    if fate < 0.005:
        return []
    if fate < 0.01:
        return [delta, delta]
    if fate < 0.015:
        return [deltas[min(at + 1, len(deltas) - 1)], delta]
    if fate < 0.02:
        return [delta, deltas[max(at - chance.randrange(1, 50), 0)]]
    if fate < 0.025:
        return [replace(delta, bids=Levels([*delta.bids.prices, 0], [*delta.bids.sizes, 5]))]
    return [delta]
