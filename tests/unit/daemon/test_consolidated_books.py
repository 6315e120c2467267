"""The consolidated book as ingest keeps it: which venues, when it is told, whose each level is."""

from __future__ import annotations

import msgspec
import pytest

from book_records import book, not_live
from marketd.daemon.consolidated import Consolidator, Merged, pair_of
from marketd.daemon.kernel import tick_record
from marketd.daemon.settings import Book
from marketd.market.consolidated import STALE_AFTER_NS
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, BookFlag, BookState, Coverage, Kind, KindTable, Records
from marketd.market.times import ABSENT

SECOND, MS = 1_000_000_000, 1_000_000
KNOWN = 1_723_161_540 * SECOND
BOOK, TICK = BY_NAME["book"], BY_NAME["tick"]
SETTINGS = Book()


def instrument(number: int, venue: str, **fields: object) -> Instrument:
    basis = Instrument(
        id=65_536 + number,
        symbol="BTCUSDT",
        venue=venue,
        price_scale=2,
        size_scale=5,
        quote_scale=8,
        base="BTC",
        quote="USDT",
    )
    return msgspec.structs.replace(basis, **fields)


BINANCE, BYBIT = instrument(1, "BINANCE"), instrument(2, "BYBIT", price_scale=1, size_scale=6, tick_size=5)


@pytest.fixture
def consolidator() -> Consolidator:
    made = Consolidator(KindTable(), SETTINGS)
    made.declare(BINANCE)
    made.declare(BYBIT)
    return made


def tell(made: Consolidator, venue: Instrument, records: Records, ms: int, kind: Kind = BOOK) -> Merged | None:
    return made.follow(venue, [(kind, records)], KNOWN + ms * MS)


def parts(merged: Merged | None) -> tuple[Records, Records]:
    assert merged is not None
    (first, found), (second, venues) = merged.parts[:2]
    assert (first.name, second.name) == ("book", "book_venues")
    assert found["ts_event"][0] == venues["ts_event"][0]
    return found, venues


def test_each_level_keeps_its_venue_at_common_scales(consolidator: Consolidator) -> None:
    assert tell(consolidator, BINANCE, book([(10_000, 200), (9_999, 100)], [(10_002, 300)]), 0) is not None
    found, venues = parts(tell(consolidator, BYBIT, book([(1_000, 1_000)], [(1_001, 5_000)]), 1))
    assert found["bid_price"][0, :4].tolist() == [10_000, 10_000, 9_999, ABSENT]
    assert found["bid_size"][0, :3].tolist() == [2_000, 1_000, 1_000]
    assert found["ask_price"][0, :3].tolist() == [10_002, 10_010, ABSENT]
    assert venues["bid_venue"][0, :4].tolist() == [BINANCE.id, BYBIT.id, BINANCE.id, ABSENT]
    assert venues["ask_venue"][0, :3].tolist() == [BINANCE.id, BYBIT.id, ABSENT]
    assert (found["state"][0], found["bid_count"][0], found["flags"][0]) == (BookState.LIVE, 3, BookFlag.STATE)


def test_the_instrument_has_the_finest_scales_and_steps_of_all(consolidator: Consolidator) -> None:
    merged = tell(consolidator, BINANCE, book([(10_000, 200)], []), 0)
    assert merged is not None
    made = merged.instrument
    assert (made.name, made.base, made.quote, made.market) == ("BTCUSDT.COB", "BTC", "USDT", "spot")
    assert (made.price_scale, made.size_scale, made.tick_size, made.step_size) == (2, 6, 1, 1)


def test_one_venue_alone_has_no_consolidated_book() -> None:
    made = Consolidator(KindTable(), SETTINGS)
    made.declare(BINANCE)
    assert tell(made, BINANCE, book([(1, 1)], []), 0) is None
    made.declare(BYBIT)
    assert tell(made, BINANCE, book([(1, 1)], []), 1) is not None


def test_only_spot_of_one_pair_comes_together() -> None:
    assert pair_of(BINANCE) == pair_of(BYBIT) == ("BTC", "USDT")
    assert pair_of(instrument(3, "KRAKEN", quote="USD")) == ("BTC", "USD")
    for other in (
        instrument(3, "BINANCE_FUTURES", market="swap"),
        instrument(3, "DESK", base="", quote=""),
        instrument(3, "COB"),
    ):
        assert pair_of(other) is None


def test_it_is_told_once_an_interval_and_what_waited_is_not_lost(consolidator: Consolidator) -> None:
    tell(consolidator, BINANCE, book([(1_000_000, 1)], []), 0)
    assert tell(consolidator, BINANCE, book([(1_000_001, 1)], []), 50) is None
    found, _ = parts(consolidator.follow(BINANCE, [(TICK, tick_record(SECOND))], KNOWN + 100 * MS))
    assert found["bid_price"][0, 0] == 1_000_001 and found["flags"][0] == 0
    assert consolidator.follow(BINANCE, [(TICK, tick_record(SECOND))], KNOWN + 300 * MS) is None  # nothing new to tell


def test_a_best_price_that_jumps_is_told_at_once(consolidator: Consolidator) -> None:
    tell(consolidator, BINANCE, book([(1_000_000, 1)], [(1_000_100, 1)]), 0)
    assert tell(consolidator, BINANCE, book([(1_000_100, 1)], [(1_000_200, 1)]), 1) is None  # a basis point is no jump
    found, _ = parts(tell(consolidator, BINANCE, book([(1_000_300, 1)], [(1_000_400, 1)]), 2))
    assert found["flags"][0] == BookFlag.JUMP


def test_a_venue_that_left_live_falls_out_at_once_and_returns(consolidator: Consolidator) -> None:
    tell(consolidator, BINANCE, book([(10_000, 1)], []), 0)
    tell(consolidator, BYBIT, book([(2_000, 1)], []), 1)
    found, venues = parts(tell(consolidator, BYBIT, not_live(BookState.STALE), 2))
    assert venues["bid_venue"][0, :2].tolist() == [BINANCE.id, ABSENT] and found["state"][0] == BookState.LIVE
    _, venues = parts(tell(consolidator, BYBIT, book([(2_000, 1)], []), 3))
    assert venues["bid_venue"][0, :2].tolist() == [BYBIT.id, BINANCE.id]


def test_a_venue_that_fell_silent_falls_out_and_returns_when_it_is_heard(consolidator: Consolidator) -> None:
    tell(consolidator, BINANCE, book([(10_000, 1)], []), 0)
    tell(consolidator, BYBIT, book([(2_000, 1)], []), 1)
    later = STALE_AFTER_NS // MS + 10
    _, venues = parts(tell(consolidator, BINANCE, book([(10_001, 1)], []), later))
    assert venues["bid_venue"][0, :2].tolist() == [BINANCE.id, ABSENT]
    _, venues = parts(consolidator.follow(BYBIT, [(TICK, tick_record(SECOND))], KNOWN + (later + 200) * MS))
    assert venues["bid_venue"][0, :2].tolist() == [BYBIT.id, BINANCE.id]


def test_when_no_venue_is_live_there_are_no_numbers(consolidator: Consolidator) -> None:
    tell(consolidator, BINANCE, book([(10_000, 1)], []), 0)
    found, venues = parts(tell(consolidator, BINANCE, not_live(BookState.SYNCING), 1))
    assert (found["state"][0], found["bid_count"][0]) == (BookState.STALE, 0)
    assert (found["bid_price"] == ABSENT).all() and (venues["bid_venue"] == ABSENT).all()
    assert found["ts_event"][0] == KNOWN + MS  # of no book: when it became known
    assert tell(consolidator, BINANCE, not_live(BookState.STALE), 200) is not None


def test_after_a_restart_the_newest_books_of_shared_memory_count(consolidator: Consolidator) -> None:
    consolidator.seed(BYBIT, book([(2_000, 1)], []), KNOWN)
    consolidator.seed(BYBIT, book([], [])[:0], KNOWN)
    _, venues = parts(tell(consolidator, BINANCE, book([(10_000, 1)], []), 5))
    assert venues["bid_venue"][0, :2].tolist() == [BYBIT.id, BINANCE.id]


def test_a_venue_with_finer_scales_makes_another_instrument_of_the_same_books(consolidator: Consolidator) -> None:
    tell(consolidator, BINANCE, book([(10_000, 1)], []), 0)
    consolidator.declare(instrument(3, "KRAKEN", price_scale=4))
    merged = tell(consolidator, BYBIT, book([(1_000, 1)], []), 1)
    found, venues = parts(merged)
    assert merged is not None and merged.instrument.price_scale == 4
    assert found["bid_price"][0, 0] == 1_000_000 and venues["bid_venue"][0, 1] != ABSENT
    assert told(merged) == [(Coverage.OBSERVED, SECOND, SECOND)]


def test_deep_books_are_as_deep_as_venues_can_be_told() -> None:
    made = Consolidator(KindTable(book_depth=50), msgspec.structs.replace(SETTINGS, depth=50))
    made.declare(BINANCE)
    made.declare(BYBIT)
    deep = book([(10_000 - n, 1) for n in range(50)], [], depth=50)
    found, venues = parts(tell(made, BINANCE, deep, 0))
    assert found["bid_price"].shape == (1, 50) and found["bid_count"][0] == 20
    assert (venues["bid_venue"] == BINANCE.id).all()


def test_an_instrument_that_is_there_keeps_its_scales_though_its_finest_venue_is_gone() -> None:
    made = Consolidator(KindTable(), SETTINGS)
    made.declare(instrument(9, "COB", price_scale=4, size_scale=8))
    made.declare(BINANCE)
    made.declare(BYBIT)
    merged = tell(made, BINANCE, book([(10_000, 1)], []), 0)
    found, _ = parts(merged)
    assert merged is not None and (merged.instrument.price_scale, merged.instrument.size_scale) == (4, 8)
    assert (found["bid_price"][0, 0], found["bid_size"][0, 0]) == (1_000_000, 1_000)


# ---- the ledger -------------------------------------------------------------------------------------


def told(merged: Merged | None) -> list[tuple[Coverage, int, int]]:
    """State, start and end of what the ledger hears with it."""
    rows = [] if merged is None else [records for kind, records in merged.parts if kind.name == "coverage"]
    assert all((records["stream"] == BOOK.id).all() for records in rows)
    return [(Coverage(e["state"]), int(e["ts_start"]), int(e["ts_end"])) for records in rows for e in records]


def live(ts: int) -> Records:
    return book([(10_000, 1)], [(10_002, 1)], ts=ts)


def test_the_ledger_observes_it_while_one_venue_is_in_it(consolidator: Consolidator) -> None:
    assert told(tell(consolidator, BINANCE, live(5), 0)) == [(Coverage.OBSERVED, 5, 5)]
    assert told(tell(consolidator, BYBIT, live(6), 1)) == []
    assert told(tell(consolidator, BINANCE, not_live(BookState.STALE, ts=7), 2)) == []
    assert told(tell(consolidator, BYBIT, not_live(BookState.STALE, ts=9), 3)) == [(Coverage.GAP, 9, ABSENT)]
    assert told(tell(consolidator, BINANCE, not_live(BookState.SYNCING, ts=10), 300)) == []
    assert told(tell(consolidator, BINANCE, live(20), 301)) == [(Coverage.GAP, 9, 20), (Coverage.OBSERVED, 20, 20)]


def test_one_that_no_venue_is_in_any_more_is_found_though_nothing_comes(consolidator: Consolidator) -> None:
    tell(consolidator, BINANCE, live(5), 0)
    assert consolidator.look(KNOWN + STALE_AFTER_NS) == []
    (merged,) = consolidator.look(KNOWN + STALE_AFTER_NS + 1)
    assert told(merged) == [(Coverage.GAP, 5, ABSENT)] and parts(merged)[0]["state"][0] == BookState.STALE
    assert consolidator.look(KNOWN + STALE_AFTER_NS + 2) == []


@pytest.mark.parametrize("was_observed", [True, False])
def test_after_a_restart_the_ledger_goes_on_where_it_was(consolidator: Consolidator, was_observed: bool) -> None:
    own = instrument(9, "COB")
    consolidator.resume(own, observed=was_observed, newest_ns=40)
    found = [event for merged in consolidator.look(KNOWN) for event in told(merged)]
    assert found == ([(Coverage.GAP, 40, ABSENT)] if was_observed else [])
    assert told(tell(consolidator, BINANCE, live(50), 1)) == [(Coverage.GAP, 40, 50), (Coverage.OBSERVED, 50, 50)]


def test_a_quick_restart_is_no_gap(consolidator: Consolidator) -> None:
    consolidator.seed(BINANCE, live(50), KNOWN)
    consolidator.resume(instrument(9, "COB"), observed=True, newest_ns=50)
    assert consolidator.look(KNOWN + 10) == []
    assert told(tell(consolidator, BINANCE, live(60), 1)) == []


def test_without_room_nothing_is_told_and_nothing_lost(consolidator: Consolidator) -> None:
    tell(consolidator, BINANCE, live(5), 0)
    rows = [(BOOK, not_live(BookState.STALE, ts=9))]
    assert consolidator.follow(BINANCE, rows, KNOWN + 300 * MS, has_room=False) is None
    (merged,) = consolidator.look(KNOWN + 301 * MS)
    assert told(merged) == [(Coverage.GAP, 9, ABSENT)]


def test_another_venue_changes_nothing_of_those_that_are_in_it(consolidator: Consolidator) -> None:
    tell(consolidator, BINANCE, live(5), 0)
    consolidator.declare(instrument(3, "KRAKEN"))
    assert consolidator.look(KNOWN + 1) == []
    merged = tell(consolidator, BYBIT, live(6), 1)
    _, venues = parts(merged)
    assert told(merged) == [] and BINANCE.id in venues["bid_venue"][0]
