"""Rows that are no records, on their way to the quarantine: whatever they are, bounded, in order."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_daemon import BTC
from marketd.client.encode import encode
from marketd.client.encode_books import encode_book_rows
from marketd.client.rejected import (
    MAX_BOOK_BYTES,
    MAX_DETAIL_CHARS,
    MAX_KEPT,
    MAX_PAYLOAD_BYTES,
    batches,
    rejected_rows,
)
from marketd.ipc.protocol import Ingest, Rejection
from marketd.ipc.protocol import encode as pack
from marketd.market.records import BY_NAME, book_kind

T0 = 1_723_118_400_000_000_000
TRADE = BY_NAME["trade"]


class Shy:
    def __str__(self) -> str:
        raise RuntimeError("do not look")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("1.555", "1.555"),
        (Decimal("1.555"), "1.555"),
        (float("inf"), "inf"),
        (None, None),
        (b"\xff", "b'\\xff'"),
        ("\ud800", "?"),
        (Shy(), "Shy (RuntimeError)"),
        ([1, "x"], "[1, 'x']"),
    ],
)
def test_a_value_is_kept_as_text_whatever_it_is(value: Any, kept: str | None) -> None:
    (found,) = rejected_rows("trade", {"price": [1, value]}, {}, {1: ("precision", "too many places")})
    assert (found.kind, found.rule, found.detail) == ("trade", "precision", "too many places")
    assert json.loads(found.payload) == {"index": 1, "price": kept}


def test_rows_of_a_data_frame_are_found_by_place_and_not_by_label() -> None:
    frame = pd.DataFrame({"time": [T0, T0], "price": ["1", "2.555"], "size": ["1", "1"]}, index=[7, 3])
    (found,) = encode(TRADE, BTC, frame, {}).rejected
    assert json.loads(found.payload)["price"] == "2.555"


def test_what_is_the_same_in_each_row_is_kept_too() -> None:
    bars = {"time": ["2024-08-08"], "open": [1], "high": [1], "low": [1], "close": [1], "volume": [1]}
    (found,) = encode(BY_NAME["candle"], BTC, bars, {"timeframe": 60, "source": 2}).rejected
    assert (found.kind, found.rule, json.loads(found.payload)["timeframe"]) == ("candle", "naive", "60")


def test_a_book_is_kept_with_its_levels() -> None:
    rows = {"time": [T0, T0], "bids": [[("1", "1")], [("1.555", "1")]], "asks": [[("2", "1")]] * 2}
    (found,) = encode_book_rows(book_kind(20), BTC, rows).rejected
    assert (found.kind, found.rule) == ("book", "precision")
    assert json.loads(found.payload)["bids"] == [["1.555", "1"]]


@pytest.mark.parametrize("bids", ["1.5", b"x", 7, [1, 2], [("1", "x")], np.zeros(3), np.zeros((2, 0)), [[], [1]], {}])
def test_what_is_no_side_of_a_book_is_kept_all_the_same(bids: Any) -> None:
    rows = {"time": [T0], "bids": [bids], "asks": [[("2", "1")]]}
    (found,) = rejected_rows("book", rows, {}, {0: ("levels", "")})
    assert json.loads(found.payload)["asks"] == [["2", "1"]]


def test_of_a_book_with_very_many_levels_the_first_bytes_are_kept() -> None:
    rows = {"time": [T0], "bids": [[(str(price), "1") for price in range(10_000)]], "asks": [[]]}
    (found,) = rejected_rows("book", rows, {}, {0: ("levels", "")})
    assert len(found.payload) == MAX_BOOK_BYTES


def test_good_rows_leave_nothing_to_reject() -> None:
    assert encode(TRADE, BTC, {"time": [T0], "price": ["1"], "size": ["1"]}, {}).rejected == ()


@given(st.lists(st.integers(0, 5_000), max_size=200))
def test_batches_have_all_of_them_in_order_and_fit_into_a_frame_of_the_smallest_journal(sizes: list[int]) -> None:
    texts = ["x" * size for size in sizes]
    flaws = {index: ("range", text) for index, text in enumerate(texts)}
    rejected = rejected_rows("trade", {"price": texts}, {}, flaws)
    pieces = list(batches(rejected))
    assert [each for piece in pieces for each in piece] == rejected
    assert all(len(r.payload) <= MAX_PAYLOAD_BYTES and len(r.detail) <= MAX_DETAIL_CHARS for r in rejected)
    for piece in pieces:
        message = Ingest(instrument=BTC.name, producer=bytes(16), batch=1, parts=[], rejected=list(piece))
        assert len(pack(message)) < 128 << 10


def test_of_very_many_only_the_first_are_kept() -> None:
    flaws = dict.fromkeys(range(MAX_KEPT + 5), ("range", ""))
    assert len(rejected_rows("trade", {"price": np.zeros(MAX_KEPT + 5)}, {}, flaws)) == MAX_KEPT
    assert list(batches(())) == []
    assert list(batches([Rejection("trade", "range", "", b"")])) == [(Rejection("trade", "range", "", b""),)]
