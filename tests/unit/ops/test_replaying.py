"""Rows that a producer's client refused, offered again out of the quarantine."""

from __future__ import annotations

import msgspec
import pytest

from lane import BTC
from marketd.client.encode_books import encode_book_rows
from marketd.market.errors import InvalidArgument
from marketd.market.records import book_kind
from marketd.ops.replaying import _text_offer

T0 = 1_723_075_200_000_000_000


def payload(levels: int = 1) -> bytes:
    rows = {"time": [T0], "bids": [[("1.5555555", "1")] * levels], "asks": [[("2", "0.5")]]}
    (found,) = encode_book_rows(book_kind(20), BTC, rows).rejected
    return found.payload


def test_a_book_with_too_many_places_is_taken_once_the_instrument_has_them() -> None:
    finer = msgspec.structs.replace(BTC, price_scale=8)
    offer = _text_offer(book_kind(20), finer, payload())
    assert not offer.encoded.refused
    assert offer.encoded.records["bid_price"][0].tolist() == [155_555_550]
    assert offer.encoded.records["ts_event"].tolist() == [T0]


def test_a_row_that_was_cut_when_it_was_kept_says_so() -> None:
    with pytest.raises(InvalidArgument, match="too long to be kept whole"):
        _text_offer(book_kind(20), BTC, payload(5_000))
