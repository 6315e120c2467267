"""What records are worth by the ledger."""

from __future__ import annotations

import numpy as np

from marketd.market.records import BY_NAME, CANDLE, COVERAGE, TRADE, Coverage, Records, series_kind
from marketd.market.worth import MAX_GAPS, UNKNOWN, Worth, span_of, worse, worth_of, worth_of_newest

TRADES, CANDLES, BOOKS = (BY_NAME[name].id for name in ("trade", "candle", "book"))


def ledger(*rows: tuple[Coverage, int, int, int, str]) -> Records:
    """(state, start, end, stream, reason)"""
    records = np.zeros(len(rows), dtype=COVERAGE)
    for seq, (state, start, end, stream, reason) in enumerate(rows):
        records[seq]["seq"], records[seq]["state"], records[seq]["stream"] = seq, state, stream
        records[seq]["ts_start"], records[seq]["ts_end"] = start, end
        records[seq]["reason"] = reason.encode()
    return records


SEEN = (Coverage.OBSERVED, 0, 0, TRADES, "")


def test_neighbouring_stretches_that_are_missing_are_one_gap() -> None:
    coverage = ledger(SEEN, (Coverage.GAP, 10, 20, TRADES, ""), (Coverage.VENUE_DOWN, 20, 30, TRADES, ""))
    assert worth_of(coverage, BY_NAME["trade"], 0, 50) == Worth("gap", [(10, 30)])
    assert worth_of(coverage, BY_NAME["trade"], 22, 50) == Worth("venue_down", [(22, 30)])
    assert worth_of(coverage, BY_NAME["trade"], 30, 50) == Worth("observed", [])


def test_bars_are_as_whole_as_their_trades_were_and_as_their_own_table_is() -> None:
    coverage = ledger(
        SEEN,
        (Coverage.EXPIRED, 0, 10, TRADES, "trades"),
        (Coverage.EXPIRED, 0, 5, CANDLES, "candles_1s"),
    )
    assert worth_of(coverage, BY_NAME["trade"], 0, 50) == Worth("expired", [(0, 10)])
    assert worth_of(coverage, BY_NAME["candle"], 0, 50, 1) == Worth("expired", [(0, 5)])
    assert worth_of(coverage, BY_NAME["candle"], 0, 50, 60) == Worth("observed", [])


def test_books_have_a_ledger_of_their_own_and_series_none() -> None:
    coverage = ledger(SEEN, (Coverage.OBSERVED, 20, 20, BOOKS, ""))
    assert worth_of(coverage, BY_NAME["imbalance"], 20, 50) == Worth("observed", [])
    assert worth_of(coverage, BY_NAME["book"], 10, 50) == Worth("unobserved", [(10, 20)])
    assert worth_of(coverage, BY_NAME["tick"], 0, 50) == UNKNOWN


def test_what_is_made_of_books_is_dropped_with_its_own_table_and_not_with_the_snapshots() -> None:
    coverage = ledger(
        (Coverage.OBSERVED, 0, 0, BOOKS, ""),
        (Coverage.EXPIRED, 0, 30, BOOKS, "book_snapshots"),
        (Coverage.EXPIRED, 0, 20, BY_NAME["book_delta"].id, "book_deltas"),
        (Coverage.EXPIRED, 0, 10, BY_NAME["imbalance"].id, "imbalances"),
    )
    assert worth_of(coverage, BY_NAME["book"], 0, 50) == Worth("expired", [(0, 30)])
    assert worth_of(coverage, BY_NAME["book_delta"], 0, 50) == Worth("expired", [(0, 20)])
    assert worth_of(coverage, BY_NAME["imbalance"], 0, 50) == Worth("expired", [(0, 10)])
    assert worth_of(coverage, BY_NAME["buckets"], 0, 50) == Worth("observed", [])


def test_a_ledger_without_its_beginning_says_nothing() -> None:
    gap = (Coverage.GAP, 10, 20, TRADES, "")
    assert worth_of_newest(ledger(gap), BY_NAME["trade"], 0, 50) == UNKNOWN
    assert worth_of_newest(ledger(), BY_NAME["trade"], 0, 50) == UNKNOWN
    assert worth_of_newest(ledger(SEEN, gap), BY_NAME["trade"], 0, 50) == Worth("gap", [(10, 20)])


def test_gaps_are_bounded_and_none_is_left_out() -> None:
    many = [(Coverage.GAP, n * 10, n * 10 + 1, TRADES, "") for n in range(MAX_GAPS + 5)]
    gaps = worth_of(ledger(SEEN, *many), BY_NAME["trade"], 0, 10**6).gaps
    assert len(gaps) == MAX_GAPS
    assert gaps[-1][1] == (MAX_GAPS + 4) * 10 + 1


def test_of_two_answers_the_worse_counts_and_the_unknown_most() -> None:
    assert worse("observed", "gap") == worse("gap", "observed") == "gap"
    assert worse("observed", None) is None


def test_records_speak_of_the_time_between_them_and_bars_of_theirs() -> None:
    records = np.zeros(2, dtype=TRADE)
    records["ts_event"] = 5, 9
    assert span_of(BY_NAME["trade"], records, None) == (5, 10)
    bars = np.zeros(2, dtype=CANDLE)
    bars["ts"] = 5, 9
    assert span_of(BY_NAME["candle"], bars, 1) == (5, 9 + 10**9)
    assert span_of(BY_NAME["trade"], records[:0], None) is None
    assert span_of(BY_NAME["candle"], np.zeros(0, CANDLE), None) is None


def test_a_declared_series_is_worth_what_its_own_ledger_says_and_a_producers_is_not_known() -> None:
    funding = series_kind(70, "funding", {"rate": "f8"})
    coverage = ledger(SEEN, (Coverage.OBSERVED, 5, 5, 70, ""), (Coverage.VENUE_DOWN, 10, 20, 70, ""))
    assert (
        worth_of(coverage, funding, 5, 50)
        == worth_of_newest(coverage, funding, 5, 50)
        == Worth("venue_down", [(10, 20)])
    )
    assert worth_of(coverage, funding._replace(id=71), 5, 50) == UNKNOWN
    records = np.zeros(1, dtype=funding.dtype)
    assert span_of(funding, records, None) == (0, 1)
