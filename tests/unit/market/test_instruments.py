"""Instruments: their records, and how a caller's symbol finds one."""

from __future__ import annotations

import pytest

from marketd.market.errors import AmbiguousSymbol, UnknownInstrument
from marketd.market.instruments import IDS_PER_DAEMON, Instrument, global_instrument, resolve
from marketd.market.records import InstrumentFlag


def instrument(number, symbol, venue, market="spot", quote="USDT", **more):
    return Instrument(
        id=IDS_PER_DAEMON + number,
        **{"symbol": symbol, "venue": venue, "market": market, "base": "BTC", "quote": quote},
        **{"price_scale": 2, "size_scale": 5, "quote_scale": 7, **more},
    )


SPOT = instrument(1, "BTCUSDT", "BINANCE")
KRAKEN = instrument(2, "XBTUSDT", "KRAKEN")
SWAP = instrument(3, "BTCUSDT", "BINANCE_FUTURES", "swap")
INVERSE = instrument(4, "BTCUSD_PERP", "BINANCE_DELIVERY", "swap", quote="USD")
FUTURE = instrument(5, "BTCUSDT_240927", "BINANCE_FUTURES", "future")
GONE = instrument(6, "BTCUSDT", "OKX", flags=int(InstrumentFlag.REMOVED))
OPTION = instrument(7, "BTCUSDT24092760000C", "OKX", "option")
ALL = [SPOT, KRAKEN, SWAP, INVERSE, FUTURE, GONE, OPTION]


@pytest.mark.parametrize("one", [*ALL, global_instrument(3)])
def test_an_instrument_survives_its_record(one):
    (record,) = one.to_record()
    assert Instrument.from_record(record) == one


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("BTCUSDT.BINANCE", SPOT),
        ("BTC/USDT.KRAKEN", KRAKEN),
        ("XBTUSDT", KRAKEN),
        ("BTC/USDT:USDT", SWAP),
        ("BTC/USD:BTC", INVERSE),
        ("BTCUSDT_240927", FUTURE),
        ("BTCUSDT24092760000C", OPTION),
        ("mine", SWAP),
    ],
)
def test_a_symbol_finds_the_instrument_it_means(symbol, expected):
    assert resolve(symbol, ALL, aliases={"mine": "BTCUSDT.BINANCE_FUTURES"}) == expected


def test_an_ambiguous_symbol_names_the_choices_unless_a_venue_is_the_default():
    with pytest.raises(AmbiguousSymbol, match=r"BTCUSDT\.BINANCE, XBTUSDT\.KRAKEN;"):
        resolve("BTC/USDT", ALL)
    assert resolve("BTC/USDT", ALL, default_venue="KRAKEN") == KRAKEN
    with pytest.raises(AmbiguousSymbol):
        resolve("BTC/USDT", ALL, default_venue="OKX")


def test_an_unknown_symbol_and_a_removed_one_tell_what_is_known():
    with pytest.raises(UnknownInstrument, match=r"XBTUSDT\.KRAKEN"):
        resolve("ETH/USDT", iter(ALL))
    with pytest.raises(UnknownInstrument, match="none yet"):
        resolve("BTCUSDT", [GONE])
