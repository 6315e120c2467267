"""A connection that is cut fifty times in a run: afterwards the rows of an undisturbed one, and a ledger that tells.

The recording goes across midnight, where a bar of every timeframe ends; it is played ten times as fast as it was, and
its time goes on while nobody listens. The undisturbed run is that of `played`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from acceptance import stored
from acceptance.conftest import Played, until_stored
from acceptance.cut_exchange import CutExchange
from acceptance.daemon_under_test import DaemonUnderTest, Place
from acceptance.oracle import Bar
from marketd.market.records import BY_NAME, Coverage
from support import eventually

CUTS = 50
QUIET_END_MS = 5_000  # of the recording: the last cut is repaired by live traffic that follows
GRACE_MS = 250
KLINES = 60  # s: those that the recording has
TIMEFRAMES = (1, 60, 300, 900, 3_600, 14_400, 86_400)

_EVENTS = """
SELECT symbol, state, stream, (extract(epoch FROM ts_start)::numeric * 1000)::bigint,
       (extract(epoch FROM ts_end)::numeric * 1000)::bigint, detail
FROM coverage JOIN instruments USING (instrument_id) ORDER BY coverage.seq"""

pytestmark = pytest.mark.parametrize("recorded", ["recorded here"], indirect=True)


Closed = Callable[[DaemonUnderTest], list[tuple[Bar, int]]]


class Cut(NamedTuple):
    """A daemon whose venue was cut off again and again."""

    daemon: DaemonUnderTest
    cuts: int
    unheard: list[dict[str, Any]]

    def events(self, symbol: str) -> list[tuple[int, int, int, int]]:
        """Of the ledger of its trades: state, from and to (ms), how many records."""
        return [
            (state, start, end, detail)
            for name, state, stream, start, end, detail in self.daemon.rows(_EVENTS)
            if name == symbol and stream == BY_NAME["trade"].id
        ]


@pytest.fixture(scope="module")
def cut(played: Played) -> Iterator[Cut]:
    """Cut at random moments while the whole recording is played."""
    dealt = sorted(trade.time_ms for trades in played.recorded.trades.values() for trade in trades)
    moments = sorted(random.Random(50).choices(range(dealt[0] + 1_000, dealt[-1] - QUIET_END_MS), k=CUTS))
    place = Place()
    try:
        with (
            CutExchange(played.recorded.files) as exchange,
            DaemonUnderTest(place, exchange.venue()) as daemon,
        ):
            cuts = exchange.cut_at(moments)
            eventually(lambda: exchange.ended, timeout=60.0)
            until_stored(daemon, played.recorded.trades)
            yield Cut(daemon, cuts, exchange.unheard)
    finally:
        place.remove()


def test_the_trades_of_a_run_that_was_cut_are_those_of_an_undisturbed_one(played: Played, cut: Cut) -> None:
    assert cut.cuts == CUTS
    assert len([data for data in cut.unheard if data["e"] == "trade"]) > CUTS
    for symbol in played.recorded.trades:
        assert stored.trades(cut.daemon, symbol) == stored.trades(played.daemon, symbol)


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
@pytest.mark.parametrize("source", [stored.OWN, stored.VENUE])
def test_the_bars_of_a_run_that_was_cut_are_those_of_an_undisturbed_one(
    played: Played, cut: Cut, timeframe: int, source: int
) -> None:
    for symbol, dealt in played.recorded.trades.items():
        # what the trades alone have closed; the others wait for the venue's time to go on
        newest = dealt[-1].time_ms - timeframe * 1000 - GRACE_MS

        def closed(daemon: DaemonUnderTest, symbol: str = symbol, newest: int = newest) -> list[tuple[Bar, int]]:
            found = stored.bars_and_flags(daemon, symbol, timeframe, source)
            return [(bar, flags) for bar, flags in found if bar.ts_ms <= newest]

        def are_the_same(closed: Closed = closed) -> bool:
            assert closed(cut.daemon) == closed(played.daemon)
            return True

        eventually(are_the_same, timeout=60.0)
        assert closed(cut.daemon) or (source == stored.VENUE and timeframe != KLINES)


def test_the_ledger_of_a_run_that_was_cut_tells_each_gap_and_its_repair(played: Played, cut: Cut) -> None:
    for symbol in played.recorded.trades:
        events = cut.events(symbol)
        filled = [(start, end) for state, start, end, _ in events if state == Coverage.BACKFILLED]
        missed = [data["T"] for data in cut.unheard if data["e"] == "trade" and data["s"] == symbol]
        assert missed
        for moment in missed:
            assert any(start <= moment <= end for start, end in filled), (moment, filled)
        newest = played.recorded.trades[symbol][-1].time_ms
        for state, start, end, _ in events:
            is_over = state == Coverage.ENDED and start >= newest  # nothing comes after the recording
            assert is_over or state in (Coverage.OBSERVED, Coverage.BACKFILLED), (state, start, end)
    assert cut.daemon.count("quarantine") == 0
