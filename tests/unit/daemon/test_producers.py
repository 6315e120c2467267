"""What producers were told: kept for a retry, bounded, the same after a restart."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.producers import (
    KEPT_OUTCOMES,
    MAX_PRODUCERS,
    NO_NUMBER,
    UNFRAMED,
    Producers,
    Remembered,
    repeated_outcome,
)
from marketd.ipc.protocol import Refusal

ALICE, BOB = b"a" * 16, b"b" * 16


def outcome(number: int, *refused: Refusal) -> Remembered:
    return Remembered(number, list(refused), number * 10, number * 1000, number * 100)


def after_restart(producers: Producers) -> Producers:
    fresh = Producers()
    fresh.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(producers.state())))
    return fresh


def test_a_repeated_number_gets_its_first_outcome() -> None:
    producers = Producers()
    refusal = Refusal(1, "side", "side is 7", 0)
    producers.remember(ALICE, 5, outcome(3, refusal))
    known = producers.find(ALICE, 5)
    assert known is not None
    answer = repeated_outcome(77, 5, known)
    assert (answer.id, answer.batch, answer.accepted, answer.refused) == (77, 5, 3, [refusal])
    assert (answer.seq, answer.ts_known, answer.repeated, answer.durable) == (30, 3000, True, True)


def test_numbers_belong_to_their_producer() -> None:
    producers = Producers()
    producers.remember(ALICE, 5, outcome(1))
    assert producers.find(BOB, 5) is None
    assert producers.find(ALICE, 6) is None


def test_a_batch_without_a_number_is_not_remembered() -> None:
    producers = Producers()
    producers.remember(ALICE, NO_NUMBER, outcome(1))
    assert producers.find(ALICE, NO_NUMBER) is None
    assert producers.state() == []


def test_an_outcome_gets_its_offset_once_its_frame_has_one() -> None:
    producers = Producers()
    producers.remember(ALICE, 1, msgspec.structs.replace(outcome(1), offset=UNFRAMED))
    producers.remember(ALICE, 1, outcome(1))
    assert producers.find(ALICE, 1) == outcome(1)


def test_each_producers_oldest_outcomes_are_forgotten_first() -> None:
    producers = Producers()
    for batch in range(1, KEPT_OUTCOMES + 3):
        producers.remember(ALICE, batch, outcome(batch))
    assert producers.find(ALICE, 2) is None
    assert producers.find(ALICE, 3) == outcome(3)
    assert producers.find(ALICE, KEPT_OUTCOMES + 2) == outcome(KEPT_OUTCOMES + 2)


def test_the_producer_that_was_silent_longest_is_forgotten_first() -> None:
    producers = Producers()
    for number in range(MAX_PRODUCERS):
        producers.remember(number.to_bytes(16), 1, outcome(1))
    producers.remember((0).to_bytes(16), 2, outcome(2))  # not silent any more
    producers.remember(ALICE, 1, outcome(1))
    assert producers.find((0).to_bytes(16), 1) is not None
    assert producers.find((1).to_bytes(16), 1) is None
    assert producers.find(ALICE, 1) is not None


batches = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6), st.integers(0, 2)), max_size=60)


@given(batches)
def test_a_restart_changes_nothing_but_that_everything_is_durable(sent: list[tuple[int, int, int]]) -> None:
    producers = Producers()
    for producer, batch, refusals in sent:
        refused = [Refusal(index, "side", "bad", 0) for index in range(refusals)]
        producers.remember(producer.to_bytes(16), batch, outcome(batch, *refused))
    again = after_restart(producers)
    for producer, batch, _ in sent:
        known = producers.find(producer.to_bytes(16), batch)
        assert known is not None
        assert again.find(producer.to_bytes(16), batch) == msgspec.structs.replace(known, offset=0)
    assert [entry[0] for entry in again.state()] == [entry[0] for entry in producers.state()]


def test_after_a_restart_the_same_ones_are_forgotten_first() -> None:
    producers = Producers()
    producers.remember(ALICE, 1, outcome(1))
    producers.remember(BOB, 1, outcome(1))
    producers.remember(ALICE, 2, outcome(2))
    again = after_restart(producers)
    for number in range(MAX_PRODUCERS - 1):
        again.remember((number + 1).to_bytes(16), 1, outcome(1))
    assert again.find(BOB, 1) is None
    assert again.find(ALICE, 1) is not None
