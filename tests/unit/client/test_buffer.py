"""What a buffered producer gathers: when it is due, how much there may be, whose result is whose."""

import numpy as np
import pytest

from fake_daemon import BTC, CANDLE, TRADE, candles, trades
from marketd.client.buffer import Buffer, Limits
from marketd.client.encode import Encoded
from marketd.client.offers import IngestResult, Offer
from marketd.ipc.protocol import Refusal
from marketd.market.errors import InvalidArgument

LIMITS = Limits(batch_size=10, batch_timeout=1.0, max_pending=25, when_full="wait")


def offer(count: int, places: list[int] | None = None, refused: tuple[Refusal, ...] = ()) -> Offer:
    chosen = None if places is None else np.array(places)
    return Offer(BTC, TRADE, Encoded(trades(range(count)), chosen, refused))


def test_a_pile_is_due_by_size_or_by_age() -> None:
    buffer: Buffer[str] = Buffer(LIMITS)
    buffer.add(offer(4), "a", now=100.0)
    assert buffer.take_due(100.5) == [] and buffer.next_due() == 101.0
    buffer.add(offer(6), "b", now=100.6)
    (pile,) = buffer.take_due(100.6)
    assert len(pile.offer().encoded.records) == 10 and buffer.next_due() is None
    buffer.add(offer(1), "c", now=200.0)
    assert len(buffer.take_due(201.0)) == 1


def test_a_flush_takes_everything_and_kinds_stay_apart() -> None:
    buffer: Buffer[str] = Buffer(LIMITS)
    buffer.add(offer(1), "a", now=0)
    buffer.add(Offer(BTC, CANDLE, Encoded(candles([1]), None, ())), "b", now=0)
    assert {pile.kind.name for pile in buffer.take_due(0, everything=True)} == {"trade", "candle"}


def test_rows_count_until_they_are_answered() -> None:
    buffer: Buffer[str] = Buffer(LIMITS)
    buffer.add(offer(20), "a", now=0)
    assert buffer.has_room(5) and not buffer.has_room(6)
    (pile,) = buffer.take_due(0)
    assert not buffer.has_room(6) and buffer.outstanding() == ["a"]
    buffer.settled(pile, IngestResult(19, (Refusal(3, "range"),)))
    assert buffer.has_room(25) and buffer.outstanding() == []
    assert buffer.statistics() == (19, 1, 0, 0, 1)


def test_more_rows_than_the_bound_find_room_in_an_empty_buffer_only() -> None:
    buffer: Buffer[str] = Buffer(LIMITS)
    assert buffer.has_room(1_000)
    buffer.add(offer(1), "a", now=0)
    assert not buffer.has_room(1_000)


def test_failed_rows_are_counted() -> None:
    buffer: Buffer[str] = Buffer(LIMITS)
    buffer.add(offer(12), "a", now=0)
    buffer.failed(buffer.take_due(0)[0])
    assert buffer.statistics() == (0, 0, 12, 0, 0)


def test_each_call_hears_of_its_own_rows_by_its_own_indexes() -> None:
    buffer: Buffer[str] = Buffer(LIMITS)
    early = Refusal(1, "precision", "deep")
    buffer.add(offer(2, places=[0, 2], refused=(early,)), "a", now=0)
    buffer.add(offer(3), "b", now=0)
    (pile,) = buffer.take_due(0, everything=True)
    whole = IngestResult(3, (Refusal(1, "range", "x"), Refusal(4, "duplicate", "y")), ts_known=9)
    results = dict(pile.results(whole))
    assert results["a"].accepted == 1
    assert results["a"].refused == (early, Refusal(2, "range", "x"))
    assert results["b"].accepted == 2 and results["b"].refused == (Refusal(2, "duplicate", "y"),)
    assert results["a"].ts_known == 9


def test_limits_that_cannot_be_kept_are_refused() -> None:
    for limits in (
        Limits(0, 1, 10, "wait"),
        Limits(20, 1, 10, "wait"),
        Limits(1, 0, 10, "wait"),
        Limits(1, 1, 10, "hope"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidArgument):
            limits.checked()
