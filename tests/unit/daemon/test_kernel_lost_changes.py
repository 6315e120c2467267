"""Changes of a book that are refused: the ledger says so, because a book that is made again cannot know it."""

from __future__ import annotations

import numpy as np

from lane import BTC, SECOND, START, frame_of, make_kernel, trades
from marketd.daemon.kernel import COVERAGE_KIND, TRADE_KIND, Kernel, Lot
from marketd.market.records import BOOK_DELTA, BY_NAME, Coverage, Kind, Records

DELTA = BY_NAME["book_delta"]
KNOWN = START + 3600 * SECOND


def accept(kernel: Kernel, kind: Kind, records: Records) -> Lot:
    return kernel.accept(BTC, [(kind, records)], KNOWN, source="test")


def test_the_ledger_tells_in_the_same_frame_of_changes_of_a_book_that_were_refused() -> None:
    changes = np.zeros(3, dtype=BOOK_DELTA)
    changes["ts_event"], changes["price"], changes["size"], changes["side"] = START, [99, -1, 98], 1, 1
    kernel = make_kernel()
    lot = accept(kernel, DELTA, changes)
    assert (lot.accepted, [refusal.rule for refusal in lot.refused]) == (2, ["positive_price"])
    (event,) = next(records for kind, records in lot.rows if kind is COVERAGE_KIND)
    assert (event["state"], event["stream"], event["detail"]) == (Coverage.UNSTORED, DELTA.id, 1)
    assert event["ts_start"] == KNOWN
    replayed = make_kernel()
    replayed.state(BTC).unstored_since = 5  # of a full journal: another matter
    replayed.apply(frame_of(lot, 0), BTC)
    assert (replayed.state(BTC).seq, replayed.state(BTC).unstored_since) == (kernel.state(BTC).seq, 5)
    assert not [kind for kind, _ in accept(kernel, TRADE_KIND, trades([(0, 1, -1, 5)])).rows if kind is COVERAGE_KIND]
