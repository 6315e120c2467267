"""Trade ids against a plain set, and the bounds of their memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.errors import InvalidArgument
from marketd.market.records import TRADE, TradeFlag
from marketd.market.trade_ids import TradeIds


def trades(ids, hashed=()):
    records = np.zeros(len(ids), dtype=TRADE)
    records["trade_id"] = ids
    records["flags"][list(hashed)] = TradeFlag.HASHED_ID
    return records


ids_and_hashed = st.lists(st.tuples(st.integers(-20, 60), st.booleans()), min_size=1, max_size=12)


@given(st.lists(st.tuples(ids_and_hashed, st.sampled_from(["add", "add new", "remove", "restart"])), max_size=12))
def test_ids_are_told_apart_as_a_plain_set_does(steps):
    known, plain = TradeIds(), set()
    for step, what in steps:
        batch = trades([i for i, _ in step], [n for n, (_, hashed) in enumerate(step) if hashed])
        if what == "restart":
            state, known = known.state(), TradeIds()
            known.restore(state)
        if what == "remove":
            known.remove(batch)
            plain -= set(step)
            continue
        repeated = known.repeated(batch)
        expected = [key in plain or key in step[:n] for n, key in enumerate(step)]
        assert (repeated.tolist() if repeated is not None else [False] * len(step)) == expected
        assert [known.seen(i, int(hashed)) for i, hashed in step] == [key in plain for key in step]
        if what == "add":
            known.add(batch)
        elif what == "add new":
            assert [known.add_new(i, int(hashed)) for i, hashed in step] == [not repetition for repetition in expected]
        else:
            for i, hashed in step:
                known.add_one(i, int(hashed))
        plain |= set(step)
        assert known.last == max((i for i, hashed in plain if not hashed), default=None)


def test_ids_that_follow_one_another_are_one_interval():
    known = TradeIds()
    known.add(trades(range(100, 200)))
    known.add(trades([205, 203, 204]))
    known.add(trades([200, 201, 202]))
    one = TradeIds()
    one.add(trades(range(100, 206)))
    assert known.state() == one.state()


def test_the_oldest_intervals_are_forgotten_and_their_ids_pass_as_repairs():
    known = TradeIds(max_intervals=10)
    for n in range(21):
        known.add_one(2 * n)
    assert not known.seen(0)
    assert not known.seen(20)
    assert known.seen(22)
    assert known.repeated(trades([0, 40])).tolist() == [False, True]


def test_of_hashed_ids_the_newest_are_known():
    known = TradeIds(max_hashed=3)
    known.add(trades([5, 6, 7, 8], hashed=range(4)))
    assert [known.seen(i, TradeFlag.HASHED_ID) for i in (5, 6, 7, 8)] == [False, True, True, True]
    assert known.last is None


def test_a_hashed_id_and_an_integer_one_of_the_same_value_are_two():
    known = TradeIds()
    known.add(trades([7]))
    assert known.repeated(trades([7, 7], hashed=[0])).tolist() == [False, True]


def test_state_that_is_none_is_refused():
    with pytest.raises(InvalidArgument, match="trade ids"):
        TradeIds().restore(b"\xc1")
