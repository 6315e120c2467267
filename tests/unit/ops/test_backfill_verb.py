"""Which trades a backfill asks for."""

from __future__ import annotations

from marketd.daemon.feeds.backfill import Stretch
from marketd.market.times import NS_PER_MS, NS_PER_SECOND
from marketd.ops.verbs.backfill import SETTLE_NS, fetched_until

WANTED = Stretch(0, 600 * NS_PER_SECOND)


def test_trades_of_the_millisecond_in_which_it_was_heard_first_are_asked_for() -> None:
    heard = 590 * NS_PER_SECOND
    assert fetched_until(heard, WANTED, 10_000 * NS_PER_SECOND) == heard + NS_PER_MS


def test_what_the_venue_may_not_show_yet_is_not_asked_for() -> None:
    assert fetched_until(WANTED.end, WANTED, WANTED.end) == WANTED.end - SETTLE_NS
    assert fetched_until(WANTED.end, WANTED, WANTED.end + SETTLE_NS) == WANTED.end
