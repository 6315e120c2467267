"""What the adapters of several venues share: times, ids, names of pairs, open bars, connections' numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.feeds.pairs import PairNames
from marketd.daemon.feeds.venue_books import ConnectionNumbers
from marketd.daemon.feeds.venue_records import (
    OpenBars,
    candle_records,
    candle_row,
    chunks,
    integer_id,
    number_text,
    rfc3339_ns,
    seconds_ns,
)
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.times import ABSENT

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PAIR = Instrument(id=1, symbol="X", venue="V", price_scale=2, size_scale=3, quote_scale=4)


@given(st.datetimes(datetime(1970, 1, 2), datetime(2250, 1, 1)), st.integers(0, 999), st.integers(0, 9))
def test_times_are_exact_to_the_nanosecond(moment: datetime, ns: int, places: int) -> None:
    fraction = f"{moment.microsecond:06}{ns:03}"[:places]
    text = f"{moment:%Y-%m-%dT%H:%M:%S}" + (f".{fraction}" if fraction else "") + "Z"
    whole = (moment.replace(microsecond=0, tzinfo=UTC) - EPOCH) // timedelta(seconds=1)
    assert rfc3339_ns(text) == whole * 10**9 + int(fraction.ljust(9, "0"))
    assert seconds_ns(f"{whole}.{fraction}") == rfc3339_ns(text)


def test_times_with_an_offset_are_read_too() -> None:
    assert rfc3339_ns("2021-04-17T18:43:37.093357+02:00") == rfc3339_ns("2021-04-17T16:43:37.093357Z")
    assert rfc3339_ns("2021-04-17 16:43:37.5+00:00") == rfc3339_ns("2021-04-17T16:43:37.5Z")


@given(st.text(max_size=30) | st.sampled_from(["2021-04-17T16:43:3xZ", "2021-04-17T16:43:37", "9999-01-01T00:00:00Z"]))
def test_what_is_no_time_is_told_so(text: str) -> None:
    for read in (rfc3339_ns, seconds_ns):
        try:
            assert abs(read(text)) < 2**63
        except msgspec.ValidationError as error:
            assert str(error)


@given(st.text(max_size=25))
def test_an_id_is_64_bits_or_refused(text: str) -> None:
    try:
        assert 0 <= integer_id(text) < 2**63
        assert int(text) == integer_id(text)
    except msgspec.ValidationError as error:
        assert str(error)


def test_a_number_keeps_the_digits_that_were_written() -> None:
    read = msgspec.json.Decoder(list[msgspec.Raw]).decode(b'[0.10, "0.10", 1e-7]')
    assert [number_text(raw) for raw in read] == ["0.10", "0.10", "1e-7"]


def test_a_bar_has_ended_when_a_later_one_came() -> None:
    bars = OpenBars()
    assert bars.update("A", 60, 0, b"a") is None
    assert bars.update("A", 300, 0, b"x") is None
    assert bars.update("A", 60, 0, b"b") is None
    assert bars.update("A", 60, 60, b"c") == b"b"
    assert bars.update("A", 60, 0, b"d") == b"d", "an earlier one, once more"
    bars.forget("A", 60)
    assert bars.update("A", 60, 180, b"e") is None
    assert bars.update("A", 300, 300, b"y") == b"x"
    bars.forget("A")
    assert bars.update("A", 300, 600, b"z") is None


def test_a_bar_leaves_absent_what_the_venue_does_not_tell() -> None:
    row = candle_row(PAIR, 60, 60, ("1.00", "2.00", "0.50", "1.5"), "7.125", quote_volume="1.23456789")
    (record,) = candle_records([row])
    assert record["close"] == 150
    assert record["volume"] == 7125
    assert record["quote_volume"] == 12345, "floored to the quote's scale"
    assert record["buy_volume"] == record["trade_count"] == ABSENT


def test_chunks_hold_all_in_order() -> None:
    assert list(chunks("abcdefg", 3)) == ["abc", "def", "g"]


# ---- names ----------------------------------------------------------------------------------------


def test_a_pair_is_one_symbol_however_it_is_written() -> None:
    names = PairNames("KRAKEN", "/", aliases={"XBT": "BTC", "XDG": "DOGE"}, words={"BTC": "XBT"})
    for text in ("XBT/USD", "XBTUSD", "BTC-USD", "btcusd", "BTCUSD.KRAKEN"):
        assert names.symbol_of(text) == "BTCUSD"
    assert names.symbol_of("ETH/XBT") == names.symbol_of("ETHXBT") == "ETHBTC"
    assert names.symbol_of("XDG/XBT") == "DOGEBTC"
    assert names.pair("BTCUSD") == "XBT/USD", "by the quote currencies that are known"
    names.learn("USDTUSD", "USDT", "USD")
    assert names.pair("USDTUSD") == "USDT/USD"
    assert names.find("XBT/USD", {"BTCUSD"}) == "BTCUSD"
    assert names.find("XBT/USD", set()) is names.find("", {"BTCUSD"}) is None
    with pytest.raises(msgspec.ValidationError):
        names.read("BTC/USD/EUR")
    with pytest.raises(InvalidArgument, match="spot market"):
        names.symbol_of("BTC/USD:USD")


# ---- the numbers of connections -------------------------------------------------------------------


def test_a_hole_in_a_connections_numbers_is_seen_once() -> None:
    numbers = ConnectionNumbers()
    assert [numbers.follows(n) for n in (0, 1, 2, 4, 5, 7)] == [True, True, True, False, True, False]


def test_the_first_message_ever_may_bear_any_number() -> None:
    assert ConnectionNumbers().follows(17)


def test_a_repeated_number_is_no_order_either() -> None:
    numbers = ConnectionNumbers()
    assert [numbers.follows(n) for n in (5, 6, 6, 7)] == [True, True, False, True]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_connections_that_lose_nothing_are_never_blamed(turns: list[int]) -> None:
    numbers = ConnectionNumbers()
    sent = dict.fromkeys(range(4), 0)
    for connection in [0, 1, 2, 3, *turns]:
        assert numbers.follows(sent[connection])
        sent[connection] += 1


@given(st.lists(st.integers(0, 1), max_size=60), st.integers(0, 60), st.integers(1, 3))
def test_a_loss_on_one_of_two_connections_is_seen_at_the_latest_when_both_have_spoken(
    turns: list[int], at: int, lost: int
) -> None:
    numbers = ConnectionNumbers()
    sent = {0: 0, 1: 0}
    turns = [0, 1, *turns[:at], 0, 1, *turns[at:], 0, 1]
    seen = []
    for place, connection in enumerate(turns):
        if place == len(turns[:2]) + min(at, len(turns) - 6):
            sent[connection] += lost
        seen.append(not numbers.follows(sent[connection]))
        sent[connection] += 1
    assert any(seen)
    assert not any(seen[: 2 + min(at, len(turns) - 6)])


def test_a_closed_connection_hides_no_loss_of_the_one_that_followed_it() -> None:
    second = 10**9
    numbers = ConnectionNumbers()
    assert [numbers.follows(n, n * second) for n in range(3)] == [True] * 3  # then it is closed
    assert numbers.follows(0, 100 * second)
    assert numbers.follows(1, 101 * second)
    assert not numbers.follows(3, 102 * second), "number 2 was lost, and 3 was what the closed one had next"
