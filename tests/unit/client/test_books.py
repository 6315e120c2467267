"""Frames of books, imbalances and buckets: columns, what is computed from them, and the ways out."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from book_records import BUCKETS, IMBALANCE, SECOND, book, books, buckets, imbalances, kind_of, not_live
from fake_daemon import BTC
from marketd import BeyondCache, BucketFrame, Frame, InvalidArgument, Meta, OrderBookDataFrame
from marketd.client.book_requests import RATIOS, with_ratios
from marketd.client.book_venues import with_venues
from marketd.client.books import frame_of
from marketd.market.book_means import book_means, means_kind
from marketd.market.records import BY_NAME, BookState, Records, empty, series_kind
from marketd.market.times import ABSENT


def frame(records: Records) -> OrderBookDataFrame:
    found = frame_of(kind_of(records), BTC, records)
    assert isinstance(found, OrderBookDataFrame)
    return found


def test_levels_are_real_numbers_the_best_first() -> None:
    found = frame(books(range(2)))
    assert (len(found), found.depth, found["bid_price"].shape, found.bids.shape) == (2, 20, (2, 20), (2, 20, 2))
    assert found.bids[0, :3].tolist() == [[100.0, 0.5], [99.99, 0.50001], [99.98, 0.50002]]
    assert found.asks[1, 0].tolist() == [100.03, 0.7]
    assert np.isnan(found.bids[:, 3:]).all() and np.isnan(found["ask_size"][:, 3:]).all()
    assert found["bid_count"].tolist() == [3, 3]


@given(
    bid=st.integers(1, 10**9),
    above=st.integers(1, 10**6),
    bid_size=st.integers(1, 10**9),
    ask_size=st.integers(1, 10**9),
)
@example(bid=1_000_000_000, above=1, bid_size=89_478_485, ask_size=1)  # rounding alone would go beyond the ask
def test_mid_spread_and_weighted_mid_are_what_they_are_called(
    bid: int, above: int, bid_size: int, ask_size: int
) -> None:
    found = frame(book([(bid, bid_size)], [(bid + above, ask_size)]))
    assert found.mid[0] == (2 * bid + above) / 100 / 2
    assert found.spread[0] == above / 100
    exact = Fraction((bid + above) * bid_size + bid * ask_size, (bid_size + ask_size) * 100)
    assert found.weighted_mid[0] == pytest.approx(float(exact), rel=1e-12)
    assert found["bid_price"][0, 0] <= found.weighted_mid[0] <= found["ask_price"][0, 0]


def test_a_book_and_the_imbalance_of_the_same_moment_agree_to_the_last_bit() -> None:
    of_book = frame(book([(10_000, 100_000)], [(10_002, 300_000)]))
    of_imbalance = frame_of(IMBALANCE, BTC, imbalances([0]))
    for name in ("mid", "spread", "weighted_mid"):
        assert of_book[name].tobytes() == of_imbalance[name].tobytes()


@pytest.mark.parametrize("state", [state for state in BookState if state is not BookState.LIVE])
def test_a_book_that_is_not_live_has_no_numbers(state: BookState) -> None:
    found = frame(not_live(state))
    assert np.isnan(found.bids).all() and np.isnan(found.asks).all()
    assert all(np.isnan(values[0]) for values in (found.mid, found.weighted_mid, found.spread))
    assert (found.meta.book_state, found.is_live.tolist(), found.state.tolist()) == (state.name, [False], [state])


def test_an_empty_side_leaves_no_mid() -> None:
    found = frame(book([(10_000, 1)], []))
    assert found.is_live[0] and found.bids[0, 0].tolist() == [100.0, 0.00001]
    assert np.isnan(found.mid[0]) and np.isnan(found.spread[0]) and np.isnan(found.weighted_mid[0])


def test_the_state_of_the_newest_is_in_meta() -> None:
    records = np.concatenate([books([0]), not_live(BookState.STALE, seq=2)])
    assert frame(records).meta.book_state == "STALE"
    assert frame(books([0])).meta.book_state == "LIVE"
    assert frame(books([0])[:0]).meta.book_state is None
    assert frame_of(IMBALANCE, BTC, imbalances([0])).meta.book_state == "LIVE"


def test_the_best_levels_alone_can_be_had_but_not_more_than_there_are() -> None:
    found = frame(books(range(3)))
    best = found.top(2)
    assert best.bids.tolist() == found.bids[:, :2].tolist() and best.mid.tolist() == found.mid.tolist()
    assert best["bid_count"].tolist() == [2, 2, 2]
    assert found.top(20) is found
    with pytest.raises(BeyondCache, match=r"50 levels a side of BTCUSDT\.BINANCE are wanted, 20 are kept"):
        found.top(50)
    for depth in (0, -1, True, 2.5):
        with pytest.raises(InvalidArgument, match="is not a number of levels"):
            found.top(depth)  # type: ignore[arg-type]


def test_slices_and_rows_are_books_too() -> None:
    found = frame(books(range(5)))
    part = found[1:3]
    assert isinstance(part, OrderBookDataFrame) and part.mid.tolist() == found.mid[1:3].tolist()
    row = found[-1]
    assert row["bid_price"][:2] == [100.04, 100.03] and row["state"] == BookState.LIVE
    assert isinstance(found.restamped(Meta()), Frame)


# ---- ways out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3, 20])
def test_bytes_give_the_same_book_whatever_its_depth(depth: int) -> None:
    found = frame(books(range(4), depth=depth, levels=min(3, depth)))
    found.meta.book_state = "STALE"  # the daemon was silent when it was read
    for again in (Frame.from_bytes(found.to_bytes()), pickle.loads(pickle.dumps(found))):
        assert isinstance(again, OrderBookDataFrame)
        assert (again.digest, again.depth, again.meta.book_state) == (found.digest, depth, "STALE")
        assert again.records.tobytes() == found.records.tobytes()


def test_means_buckets_and_imbalances_survive_as_bytes() -> None:
    means = book_means(books(range(30)), 1, price_scale=2, size_scale=5)
    for kind, records, made in (
        (means_kind(20), means, OrderBookDataFrame),
        (BUCKETS, buckets(range(3)), BucketFrame),
        (IMBALANCE, imbalances(range(3)), Frame),
    ):
        found = frame_of(kind, BTC, records, timeframe=1)
        again = Frame.from_bytes(found.to_bytes())
        assert type(again) is made and again.digest == found.digest and again.timeframe == 1


def test_another_book_has_another_digest() -> None:
    found = frame(books([0]))
    changed = found.records.copy()
    changed["ask_size"][0, 1] += 1
    assert frame(changed).digest != found.digest != frame(books([0], depth=5)).digest
    assert frame(books([0])).digest == found.digest


def test_pandas_has_a_column_a_level() -> None:
    pytest.importorskip("pandas")
    table = frame(books(range(2), depth=3)).to_pandas()
    assert table.index.name == "time" and table["bid_price_0"].tolist() == [100.0, 100.01]
    assert [name for name in table.columns if name.startswith("ask_size")] == ["ask_size_0", "ask_size_1", "ask_size_2"]
    assert {"mid", "weighted_mid", "spread", "state"} <= set(table.columns)


def test_arrow_has_lists_with_nulls_for_what_is_not_there() -> None:
    pytest.importorskip("pyarrow")
    table = frame(books([0], depth=4)).to_arrow()
    assert table["bid_price"].to_pylist() == [[100.0, 99.99, 99.98, None]]
    assert str(table.schema.field("bid_price").type) == "fixed_size_list<item: double>[4]"


def test_numpy_lays_levels_side_by_side() -> None:
    found = frame(books(range(2), depth=3))
    assert found.to_numpy(["mid", "bid_price", "bid_size"]).shape == (2, 7)
    assert found.to_numpy(["mid", "bid_price"])[0].tolist() == [100.01, 100.0, 99.99, 99.98]
    out = np.empty((2, 3), dtype=np.float32)
    assert found.to_numpy(["bid_price"], out=out) is out and out[0, 0] == np.float32(100.0)
    with pytest.raises(InvalidArgument, match="shape"):
        found.to_numpy(["bid_price"], out=np.empty((2, 1)))


# ---- imbalances and buckets -------------------------------------------------------------------------


def test_an_imbalance_has_ratios_in_real_numbers_and_nan_where_there_is_none() -> None:
    found = frame_of(IMBALANCE, BTC, imbalances([25]))
    assert found["book_1s"].tolist() == [0.25] and np.isnan(found["volume_60s"]).all()
    assert (found["mid"][0], found["spread"][0]) == (100.01, 0.02)
    assert found["weighted_mid"][0] == pytest.approx(100.005, rel=1e-15)
    assert "mid2" not in found.columns and found["reason"].tolist() == [0]
    nothing = frame_of(IMBALANCE, BTC, empty(IMBALANCE, 1))
    assert all(np.isnan(nothing[name][0]) for name in ("mid", "spread", "weighted_mid", "book_5s", "bid_size"))


def test_buckets_tell_their_lower_edges() -> None:
    found = frame_of(BUCKETS, BTC, buckets(range(2)), timeframe=1)
    assert isinstance(found, BucketFrame)
    assert found["bid_size"].shape == (2, 32) and found["bid_size"][1].tolist() == [1.0] * 32
    assert found.bid_price[0, :3].tolist() == [100.0, 99.5, 99.0]
    assert found.ask_price[0, :3].tolist() == [100.0, 100.5, 101.0]
    records = buckets([0])
    records["base"] = empty(BUCKETS, 1)["base"]
    assert np.isnan(frame_of(BUCKETS, BTC, records).bid_price).all()  # type: ignore[attr-defined]


def test_a_declared_series_may_have_columns_of_the_same_names() -> None:
    kind = series_kind(70, "sentiment", {"mid": "f8", "book_1s": "i8"})
    records = np.array([(1, 2, 3, 0.5, 7)], dtype=kind.dtype)
    found = frame_of(kind, BTC, records)
    assert (found["mid"].tolist(), found["book_1s"].tolist()) == ([0.5], [7.0]) and type(found) is Frame


# ---- books and the imbalances beside them -----------------------------------------------------------


def test_to_a_snapshot_belongs_the_newest_imbalance_that_was_known_before_it() -> None:
    records = books(range(4))
    records["seq"] = [10, 20, 30, 40]
    beside = imbalances([0, 1, 2])
    beside["seq"] = [11, 31, 50]
    found = with_ratios(frame(records), beside)
    assert found["book_1s"].tolist()[1:] == [0.0, 0.0, 0.01] and np.isnan(found["book_1s"][0])
    assert set(RATIOS) <= set(found.columns) and Frame.from_bytes(found.to_bytes()).digest == found.digest


def test_an_imbalance_that_is_seconds_old_says_nothing_of_a_book() -> None:
    records = books([0, 30])
    found = with_ratios(frame(records), imbalances([0], first_seq=0))
    assert found["book_1s"][0] == 0.0 and np.isnan(found["book_1s"][1])


def test_to_an_interval_belongs_the_imbalance_of_its_end() -> None:
    means = book_means(books(range(30)), 1, price_scale=2, size_scale=5)
    found = frame_of(means_kind(20), BTC, means, timeframe=1)
    assert found["time"].tolist() == [SECOND, 2 * SECOND, 3 * SECOND]
    beside = imbalances([0, 1, 3, 4])  # of the seconds that end at 1, 2, 4, 5 s
    laid = with_ratios(found, beside)  # type: ignore[arg-type]
    assert laid["book_1s"][[0, 2]].tolist() == [0.01, 0.03] and np.isnan(laid["book_1s"][1])
    assert np.isnan(with_ratios(found, beside[:0])["book_1s"]).all()  # type: ignore[arg-type]


# ---- consolidated books -----------------------------------------------------------------------------


def venues_of(found: Records, ids: list[int]) -> Records:
    """For each book the ids of its best bids; asks are all of instrument 9."""
    records = empty(BY_NAME["book_venues"], len(found))
    records["ts_known"], records["seq"] = found["ts_known"], found["seq"] + 1
    records["bid_venue"][:, : len(ids)], records["ask_venue"][:, :3] = ids, 9
    return records


def test_each_level_of_a_consolidated_book_has_its_venue() -> None:
    records = books(range(3), depth=25)
    found = with_venues(frame(records), venues_of(records, [7, 8, 7])[::-1])
    assert found["bid_venue"].shape == (3, 25) and found["bid_venue"][1, :4].tolist() == [7, 8, 7, ABSENT]
    assert (found["ask_venue"][:, 3:] == ABSENT).all()
    best = found.top(2)
    assert best["bid_venue"].tolist() == [[7, 8]] * 3 and best[1:]["ask_venue"].tolist() == [[9, 9]] * 2
    again = Frame.from_bytes(found.to_bytes())
    assert again.digest == found.digest and again["bid_venue"].tolist() == found["bid_venue"].tolist()
    assert found.to_numpy(["bid_venue"], dtype=np.int64).shape == (3, 25)


def test_a_book_whose_venues_are_not_known_has_none() -> None:
    records = books(range(3))
    found = with_venues(frame(records), venues_of(records[:1], [7]))
    assert found["bid_venue"][0, 0] == 7 and (found["bid_venue"][1:] == ABSENT).all()
    assert (with_venues(frame(records), venues_of(records[:0], []))["ask_venue"] == ABSENT).all()
