"""Books by the second, against a slow count with fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from book_lane import book_rows, books, stamped
from lane import SECOND, START
from marketd.market.book_means import MEANS, book_means, join_means, means_kind
from marketd.market.records import BookState, Records


def naive(records: Records, timeframe: int) -> list[dict[str, Any]]:
    """Price scale 2, size scale 3."""
    found = []
    starts = sorted({int(r["ts_event"]) // (timeframe * SECOND) * timeframe * SECOND for r in records})
    for start in starts:
        live = [
            r for r in records if start <= r["ts_event"] < start + timeframe * SECOND and r["state"] == BookState.LIVE
        ]
        if not live:
            continue
        last = max(live, key=lambda r: (r["ts_event"], r["seq"]))
        both = [r for r in live if r["bid_count"] and r["ask_count"]]
        bids, asks = ([int(r[name][0]) for r in both] for name in ("bid_price", "ask_price"))
        sizes = [[int(r[name][0]) for r in both] for name in ("bid_size", "ask_size")]
        sums = [Fraction(sum(bids) + sum(asks), 200), Fraction(sum(asks) - sum(bids), 100)]
        sums += [Fraction(sum(size), 1000) for size in sizes]
        means = [float(each / len(both)) if both else None for each in sums]
        found.append({"ts": start, "seq": int(last["seq"]), "count": len(both), "means": means})
    return found


@given(st.lists(book_rows, max_size=30), st.sampled_from([1, 2, 60]), st.randoms())
def test_each_interval_is_its_last_live_snapshot_and_the_mean_of_all(
    rows: list[Any], timeframe: int, random: Any
) -> None:
    records = stamped(books(rows))
    shuffled = records[random.sample(range(len(records)), len(records))]
    found = book_means(shuffled, timeframe, price_scale=2, size_scale=3)
    expected = naive(records, timeframe)
    assert [(r["ts"], r["seq"], r["count"]) for r in found] == [(e["ts"], e["seq"], e["count"]) for e in expected]
    for name, position in zip(MEANS, range(4), strict=True):
        wanted = [np.nan if e["means"][position] is None else e["means"][position] for e in expected]
        np.testing.assert_allclose(found[name], wanted, rtol=1e-15)
    for record in found:
        (last,) = records[records["seq"] == record["seq"]]
        assert record["timeframe"] == timeframe
        assert all((record[name] == last[name]).all() for name in last.dtype.names)


@given(st.lists(st.tuples(book_rows, st.booleans()), max_size=30), st.sampled_from([1, 2, 60]))
def test_means_over_two_parts_are_those_over_both(rows: list[Any], timeframe: int) -> None:
    records = stamped(books([row for row, _ in rows]))
    ours = np.array([mine for _, mine in rows], dtype=bool)
    parts = (book_means(records[mine], timeframe, price_scale=2, size_scale=3) for mine in (ours, ~ours))
    whole = book_means(records, timeframe, price_scale=2, size_scale=3)
    assert join_means(*parts, price_scale=2, size_scale=3).tobytes() == whole.tobytes()


def test_a_book_that_is_not_live_says_nothing() -> None:
    assert len(book_means(books([(0, 1, 2, 2, BookState.STALE)]), 1, price_scale=2, size_scale=3)) == 0
    assert len(book_means(books([]), 1, price_scale=2, size_scale=3)) == 0


def test_a_live_book_without_a_side_is_shown_and_has_no_mean() -> None:
    (found,) = book_means(books([(0, 1, 2, 0)]), 1, price_scale=2, size_scale=3)
    assert (found["ts"], found["count"], found["state"]) == (START, 0, BookState.LIVE)
    assert np.isnan([found[name] for name in MEANS]).all()


def test_sums_beyond_64_bits_are_exact() -> None:
    records = books([(0, 2**62 - 3, 2**62 - 1), (1, 2**62 - 3, 2**62 - 1), (2, 2**62 - 3, 2**62 - 1)])
    (found,) = book_means(records, 1, price_scale=0, size_scale=0)
    assert (found["mean_mid"], found["mean_spread"]) == (2.0**62, 2.0)


@pytest.mark.parametrize("depth", [1, 20, 100])
def test_a_record_is_of_whole_words(depth: int) -> None:
    dtype = means_kind(depth).dtype
    assert dtype.itemsize % 8 == 0
    assert all(dtype.fields[name][1] % dtype[name].base.itemsize == 0 for name in dtype.names)  # type: ignore[index,union-attr]
    assert dtype["bid_price"].shape == (depth,)
