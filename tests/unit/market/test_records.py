"""The table of kinds: packed layouts, declared series, lookups."""

from __future__ import annotations

import numpy as np
import pytest

from marketd.market.errors import ConfigError, UnknownStream
from marketd.market.records import BY_NAME, CANDLE, KINDS, TRADE, KindTable, empty, series_kind
from marketd.market.times import ABSENT


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_records_are_little_endian_and_without_hidden_padding(kind):
    fields = kind.dtype.fields
    if fields is None:
        return
    assert sum(dtype.itemsize for dtype, _ in fields.values()) == kind.dtype.itemsize
    for dtype, offset in fields.values():
        if dtype.kind in "if":
            assert dtype == dtype.newbyteorder("<")
            assert offset % dtype.itemsize == 0
    assert set(kind.scales) <= set(fields)
    assert set(kind.key) <= set(fields)


def test_trades_and_bars_have_their_promised_sizes():
    assert (TRADE.itemsize, CANDLE.itemsize) == (56, 96)


def test_ids_and_names_of_kinds_are_unique():
    assert len({kind.id for kind in KINDS}) == len({kind.name for kind in KINDS}) == len(KINDS)


def test_a_declared_series_is_a_kind_like_the_others():
    funding = series_kind(64, "funding", {"rate": "f8", "mark": "price", "n": "i8"})
    kinds = KindTable([funding])
    assert kinds.by_name("funding") is kinds.by_id(64) is funding
    assert kinds.series == [funding]
    assert funding.table == "series_funding"
    assert funding.scales == {"mark": "price"}
    assert funding.declared
    assert not BY_NAME["trade"].declared
    assert list(kinds) == [*KINDS, funding]


@pytest.mark.parametrize(
    ("name", "fields", "where"),
    [
        ("trade", {"a": "f8"}, "streams.trade"),
        ("Upper", {"a": "f8"}, "streams.Upper"),
        ("drop table", {"a": "f8"}, "streams.drop table"),
        ("x" * 41, {"a": "f8"}, "streams.x"),
        ("fine", {}, "streams.fine.fields"),
        ("fine", {"seq": "f8"}, "streams.fine.fields.seq"),
        ("fine", {"instrument_id": "i8"}, "streams.fine.fields.instrument_id"),
        ("fine", {"é": "f8"}, "streams.fine.fields.é"),
        ("fine", {"a": "f4"}, "streams.fine.fields.a"),
    ],
)
def test_a_series_that_cannot_be_is_refused_and_the_field_named(name, fields, where):
    with pytest.raises(ConfigError) as refusal:
        series_kind(64, name, fields)
    assert refusal.value.field is not None
    assert refusal.value.field.startswith(where)


def test_an_unknown_kind_names_those_there_are():
    with pytest.raises(UnknownStream, match=r"nothing.*candle.*trade"):
        KindTable().by_name("nothing")
    with pytest.raises(UnknownStream, match="99"):
        KindTable().by_id(99)


def test_empty_records_have_every_field_absent():
    record = empty(series_kind(64, "funding", {"rate": "f8", "mark": "price"}), 2)
    assert record["seq"].tolist() == record["mark"].tolist() == [ABSENT, ABSENT]
    assert np.isnan(record["rate"]).all()
    assert empty(BY_NAME["candle"], 1)["flags"][0] == -(2**15)
