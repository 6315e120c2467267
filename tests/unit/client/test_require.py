"""What a caller requires of an answer, and the error that he gets instead of less."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from book_records import books, kind_of, not_live
from fake_daemon import BTC
from marketd import InvalidArgument, Meta, Require, RequirementNotMet
from marketd.client.books import frame_of
from marketd.client.frames import Frame
from marketd.market.records import BookState, Records

SECOND = 1_000_000_000


def answer(records: Records, *, known_ago: float | None = 0.0, stale_ns: int | None = 0) -> Frame:
    watermark = None if known_ago is None else time.time_ns() - round(known_ago * SECOND)
    meta = Meta(served_from="arena", watermark=watermark, stale_ns=stale_ns)
    return frame_of(kind_of(records), BTC, records, meta)


def test_an_answer_that_is_worth_enough_is_given() -> None:
    found = answer(books(range(2)))
    assert Require(max_stale="2s", book="LIVE").check(found) is found
    assert Require().check(found) is found
    assert Require(max_stale=timedelta(seconds=2)).check(answer(books([0]), stale_ns=None)) is not None


@pytest.mark.parametrize("state", [BookState.EMPTY, BookState.SYNCING, BookState.STALE])
def test_a_book_in_another_state_is_an_error_that_names_both(state: BookState) -> None:
    with pytest.raises(RequirementNotMet, match=f"the book is {state.name}, required is LIVE") as caught:
        Require(book="LIVE").check(answer(not_live(state)))
    assert caught.value.field == "book" and caught.value.code == "requirement_not_met"


def test_no_book_at_all_meets_no_requirement_of_one() -> None:
    with pytest.raises(RequirementNotMet, match="there is no record of it"):
        Require(book="LIVE").check(answer(books([0])[:0]))


def test_a_daemon_that_is_silent_for_too_long_is_an_error() -> None:
    with pytest.raises(RequirementNotMet, match=r"last alive 3\.000 s ago, required are at most 2 s") as caught:
        Require(max_stale="2s").check(answer(books([0]), stale_ns=3 * SECOND))
    assert caught.value.field == "max_stale"


@pytest.mark.parametrize("known_ago", [3600.0, None])
def test_an_answer_that_is_complete_up_to_long_ago_only_is_an_error(known_ago: float | None) -> None:
    with pytest.raises(RequirementNotMet, match="required are at most 2 s"):
        Require(max_stale=2).check(answer(books([0]), known_ago=known_ago))


def test_a_requirement_that_makes_no_sense_is_refused_when_it_is_written() -> None:
    with pytest.raises(InvalidArgument, match="'live' is none of EMPTY, SYNCING, LIVE, STALE"):
        Require(book="live")
    with pytest.raises(InvalidArgument, match="max_stale"):
        Require(max_stale="soon")
    assert Require("2s") == Require(2.0) and hash(Require("2s")) == hash(Require(2)) and Require() != Require("1s")
    assert repr(Require("2s", "LIVE")) == "Require(max_stale='2s', book='LIVE', no_gaps=False)"
