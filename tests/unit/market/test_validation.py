"""The validator: each rule, its name, and that a bad record costs no neighbour."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.market import validation
from marketd.market.errors import NotFiniteError, PrecisionError, RangeError
from marketd.market.instruments import Instrument, global_instrument
from marketd.market.records import (
    BY_NAME,
    Coverage,
    KindTable,
    Side,
    Source,
    TradeFlag,
    empty,
    series_kind,
)
from marketd.market.rules import RULES, checks_of
from marketd.market.times import ABSENT, NS_PER_SECOND
from marketd.market.trade_ids import TradeIds
from marketd.market.validation import DataValidator

NOW = 1_723_161_600 * NS_PER_SECOND
MAX_SKEW_NS = 10 * NS_PER_SECOND
FUNDING = series_kind(64, "funding", {"rate": "f8", "mark": "price"})
KINDS = KindTable([FUNDING])
INSTRUMENT = Instrument(id=65537, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=7)


def good(name, count=1):
    """Records of a kind that keep every rule."""
    records = np.zeros(count, dtype=KINDS.by_name(name).dtype)
    fields = {
        "trade": {"ts_event": NOW, "price": 6_183_763, "size": 100, "side": Side.BUY},
        "candle": {
            **{"ts": NOW - 60 * NS_PER_SECOND, "timeframe": 60, "source": Source.VENUE},
            **{"open": 5, "high": 9, "low": 1, "close": 6, "buy_volume": ABSENT},
        },
        "tick": {"ts_event": NOW},
        "coverage": {"ts_event": NOW, "ts_start": NOW, "ts_end": NOW, "state": Coverage.GAP},
        "funding": {"ts_event": NOW, "rate": 0.5, "mark": -7},
    }[name]
    for field, value in fields.items():
        records[field] = value
    if name == "trade":
        records["trade_id"] = np.arange(count)
    return records


def rules(name, records, instrument=INSTRUMENT, state=None):
    verdict = DataValidator(KINDS, MAX_SKEW_NS).validate(KINDS.by_name(name), records, instrument, NOW, state)
    assert (verdict.good is None) == (not verdict.refused)
    if verdict.good is not None:
        assert np.flatnonzero(~verdict.good).tolist() == [refused.index for refused in verdict.refused]
    return {refused.index: refused.rule for refused in verdict.refused}


BROKEN = [
    ("trade", {"ts_event": ABSENT}, "absent"),
    ("trade", {"trade_id": ABSENT}, "absent"),
    ("trade", {"price": ABSENT}, "absent"),
    ("trade", {"size": ABSENT}, "absent"),
    ("trade", {"ts_event": -1}, "range"),
    ("trade", {"ts_event": NOW + MAX_SKEW_NS + 1}, "max_skew"),
    ("trade", {"price": 0}, "positive_price"),
    ("trade", {"price": -5}, "positive_price"),
    ("trade", {"size": 0}, "positive_size"),
    ("trade", {"price": -1, "flags": TradeFlag.NOT_MARKET}, "non_negative"),
    ("trade", {"size": -1, "flags": TradeFlag.NOT_MARKET}, "non_negative"),
    ("trade", {"side": 2}, "side"),
    ("trade", {"side": ABSENT >> 32}, "side"),
    ("trade", {"price": 2**62, "size": 2**62}, "range"),
    ("candle", {"ts": ABSENT}, "absent"),
    ("candle", {"close": ABSENT}, "absent"),
    ("candle", {"ts": -60 * NS_PER_SECOND}, "range"),
    ("candle", {"timeframe": 0}, "timeframe"),
    ("candle", {"timeframe": -60}, "timeframe"),
    ("candle", {"ts": NOW - 61 * NS_PER_SECOND}, "aligned"),
    ("candle", {"ts": NOW}, "max_skew"),
    ("candle", {"ts": (2**63 // (60 * NS_PER_SECOND)) * 60 * NS_PER_SECOND}, "max_skew"),
    ("candle", {"source": 0}, "source"),
    ("candle", {"source": 4}, "source"),
    ("candle", {"low": 0}, "positive_price"),
    ("candle", {"open": 10}, "ohlc_order"),
    ("candle", {"close": 10}, "ohlc_order"),
    ("candle", {"low": 6}, "ohlc_order"),
    ("candle", {"low": 9, "high": 1}, "ohlc_order"),
    ("candle", {"volume": -1}, "non_negative"),
    ("candle", {"trade_count": -1}, "non_negative"),
    ("tick", {"ts_event": ABSENT}, "absent"),
    ("tick", {"ts_event": NOW + 2 * MAX_SKEW_NS}, "max_skew"),
    ("coverage", {"ts_start": ABSENT}, "absent"),
    ("coverage", {"state": 0}, "coverage"),
    ("coverage", {"ts_end": NOW - 1}, "coverage"),
    ("funding", {"rate": np.inf}, "not_finite"),
    ("funding", {"ts_event": NOW + 2 * MAX_SKEW_NS}, "max_skew"),
]


@pytest.mark.parametrize(("name", "change", "rule"), BROKEN, ids=[f"{n}-{'-'.join(c)}-{r}" for n, c, r in BROKEN])
@pytest.mark.parametrize("count", [1, 3, 100])
def test_a_bad_record_is_refused_by_its_rule_and_its_neighbours_pass(name, change, rule, count):
    records = good(name, count)
    index = count // 2
    for field, value in change.items():
        records[field][index] = value
    assert rules(name, records) == {index: rule}


@pytest.mark.parametrize("name", ["trade", "candle", "tick", "coverage", "funding"])
@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_records_that_keep_the_rules_pass(name, count):
    assert rules(name, good(name, count)) == {}


def test_values_at_the_edge_of_a_rule_pass():
    trade = good("trade")
    trade["ts_event"] = NOW + MAX_SKEW_NS
    trade["price"] = trade["size"] = 1
    assert rules("trade", trade) == {}
    off_market = good("trade", 2)
    off_market["price"] = off_market["size"] = 0
    off_market["flags"] = TradeFlag.NOT_MARKET
    assert rules("trade", off_market) == {}
    candle = good("candle")
    for field in ("volume", "quote_volume", "buy_volume", "trade_count"):
        candle[field] = ABSENT
    candle["ts"] = NOW  # it ends 60 s from now; a bar whose end is within the skew passes
    candle["timeframe"] = 10
    assert rules("candle", candle) == {}
    open_ended = good("coverage")
    open_ended["ts_end"] = ABSENT
    assert rules("coverage", open_ended) == {}
    absent = empty(FUNDING, 1)
    absent["ts_event"] = NOW
    assert rules("funding", absent) == {}


def test_without_an_instrument_everything_is_refused():
    assert rules("trade", good("trade"), instrument=None) == {0: "unknown_instrument"}
    assert rules("funding", good("funding", 2), instrument=None) == dict.fromkeys(range(2), "unknown_instrument")


def test_a_series_is_taken_only_for_what_its_scope_says():
    everywhere, nowhere = INSTRUMENT, global_instrument(1)
    global_series = series_kind(65, "risk", {"level": "f8"})._replace(is_global=True)
    validator = DataValidator(KindTable([FUNDING, global_series]), MAX_SKEW_NS)
    for kind, right, wrong in ((FUNDING, everywhere, nowhere), (global_series, nowhere, everywhere)):
        records = np.zeros(2, dtype=kind.dtype)
        records["ts_event"] = NOW
        assert not validator.validate(kind, records, right, NOW).refused
        refused = validator.validate(kind, records, wrong, NOW).refused
        assert [each.rule for each in refused] == ["scope"] * 2
        assert f"streams.{kind.name} is declared with scope" in refused[0].detail


@pytest.mark.parametrize("name", ["instrument", "producer", "quarantine"])
def test_kinds_that_marketd_makes_itself_are_taken_from_nobody(name):
    assert rules(name, np.zeros(2, dtype=BY_NAME[name].dtype)) == dict.fromkeys(range(2), "not_taken")


def test_the_detail_tells_the_numbers_as_the_sender_wrote_them():
    candle = good("candle")
    candle["open"] = 1001
    (refused,) = DataValidator(KINDS, MAX_SKEW_NS).validate(BY_NAME["candle"], candle, INSTRUMENT, NOW).refused
    assert refused.detail == "open is 10.01, high is 0.09, low is 0.01, close is 0.06"
    candle["open"] = ABSENT
    (refused,) = DataValidator(KINDS, MAX_SKEW_NS).validate(BY_NAME["candle"], candle, INSTRUMENT, NOW).refused
    assert refused.detail == "open is absent"
    trade = good("trade")
    trade["ts_event"] += 60 * NS_PER_SECOND
    (refused,) = DataValidator(KINDS, MAX_SKEW_NS).validate(BY_NAME["trade"], trade, INSTRUMENT, NOW).refused
    assert refused.detail == "ts_event is 2024-08-09T00:01:00.000000+00:00"


@pytest.mark.parametrize("count", [1, 2, 20, 100])
def test_a_trade_id_is_accepted_once(count):
    state = SimpleNamespace(trade_ids=TradeIds())
    assert rules("trade", good("trade", count), state=state) == {}
    assert rules("trade", good("trade", count), state=state) == dict.fromkeys(range(count), "duplicate")
    state.trade_ids.remove(good("trade", count))
    assert rules("trade", good("trade", count), state=state) == {}


def test_a_refused_trade_does_not_make_the_next_of_its_id_a_repetition():
    state = SimpleNamespace(trade_ids=TradeIds())
    trades = good("trade", 4)
    trades["trade_id"] = [5, 5, 6, 5]
    trades["price"][0] = 0
    assert rules("trade", trades, state=state) == {0: "positive_price", 3: "duplicate"}
    assert rules("trade", trades, state=state)[1] == "duplicate"


fields = st.fixed_dictionaries(
    {
        "ts_event": st.sampled_from([NOW, -1, ABSENT, NOW + MAX_SKEW_NS, NOW + MAX_SKEW_NS + 1]),
        "trade_id": st.one_of(st.integers(0, 6), st.just(ABSENT)),
        "price": st.sampled_from([1, 100, 0, -1, 2**40, 2**62, ABSENT]),
        "size": st.sampled_from([1, 100, 0, -1, 2**40, 2**62, ABSENT]),
        "side": st.integers(-2, 2),
        "flags": st.sampled_from([0, 0, 1, 8]),
    }
)
mostly_good = st.one_of(
    fields,
    st.integers(0, 9).map(lambda i: {"ts_event": NOW, "trade_id": i, "price": 9, "size": 9, "side": 1, "flags": 0}),
)


@given(st.lists(st.lists(mostly_good, min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_quick_ways_and_the_table_of_checks_agree(batches):
    """Once with plain ints, once by the extremes, once by the table alone: the same verdicts and the same ids."""

    def run(few, many_are_good):
        state = SimpleNamespace(trade_ids=TradeIds())
        validator = DataValidator(KINDS, MAX_SKEW_NS)
        verdicts = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(validation, "FEW_TRADES", few)
            if not many_are_good:
                patch.setattr(validation, "_many_are_good", lambda *_: False)
            for batch in batches:
                records = np.zeros(len(batch), dtype=BY_NAME["trade"].dtype)
                for index, values in enumerate(batch):
                    for name, value in values.items():
                        records[name][index] = value
                verdicts.append(validator.validate(BY_NAME["trade"], records, INSTRUMENT, NOW, state).refused)
        return verdicts, state.trade_ids.state(), validator.statistics()

    assert run(32, True) == run(0, True) == run(0, False)


def test_a_batch_of_bad_records_tells_the_details_of_the_first_ones_only():
    trades = good("trade", 1_500)
    trades["price"] = 0
    trades["size"][:700] = 0
    verdict = DataValidator(KINDS, MAX_SKEW_NS).validate(BY_NAME["trade"], trades, INSTRUMENT, NOW)
    assert len(verdict.refused) == 1_500
    assert sum(bool(refused.detail) for refused in verdict.refused) == validation.MAX_DETAILS


def test_refusals_are_counted_by_rule():
    validator = DataValidator(KINDS, MAX_SKEW_NS)
    trades = good("trade", 3)
    trades["price"][:2] = 0
    trades["side"][2] = 5
    validator.validate(BY_NAME["trade"], trades, INSTRUMENT, NOW)
    assert validator.statistics() == {"positive_price": 2, "side": 1}


def test_every_rule_that_is_used_has_its_sentence():
    used = {check.rule for kind in KINDS for check in checks_of(kind)}
    used |= {error.rule for error in (PrecisionError, RangeError, NotFiniteError)}
    assert used | {"duplicate", "naive", "levels"} == set(RULES)
