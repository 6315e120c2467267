"""A configuration that a feed would die of is refused when it is read, by the path of the setting."""

from __future__ import annotations

import pytest

from marketd.daemon.config import convert
from marketd.daemon.rules import unsent_candles
from marketd.daemon.settings import Config
from marketd.market.errors import ConfigError


def config_of(**venue: object) -> Config:
    return convert({"venues": {"KRAKEN": {"symbols": ["BTC/USD"], **venue}}})


def test_candles_that_a_venue_does_not_have_are_refused_by_path() -> None:
    with pytest.raises(ConfigError) as raised:
        config_of(candles=["1m", "7m"])
    assert raised.value.field == "venues.KRAKEN.candles[1]"


def test_a_malformed_symbol_is_refused_by_path() -> None:
    with pytest.raises(ConfigError) as raised:
        config_of(symbols=["BTC/USD", "BTC/"])
    assert raised.value.field == "venues.KRAKEN.symbols[1]"


def test_what_a_venue_has_passes() -> None:
    assert config_of(candles=["1m", "1h"]).venues["KRAKEN"].candles == ("1m", "1h")


def test_a_database_that_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"database.url: 'foo' does not begin with postgresql://"):
        convert({"database": {"url": "foo"}})


@pytest.mark.parametrize(
    ("name", "candles", "has"),
    [("COINBASE", ["1m", "5m"], "5m"), ("BITSTAMP", ["1h"], "none")],
)
def test_candles_that_are_not_on_the_stream_are_refused_with_those_that_are(
    name: str, candles: list[str], has: str
) -> None:
    with pytest.raises(ConfigError, match=rf"has no bars of '{candles[0]}', but {has}; `marketd backfill") as raised:
        convert({"venues": {name: {"symbols": ["BTC/USD"], "candles": candles}}})
    assert raised.value.field == f"venues.{name}.candles[0]"


def test_the_default_candles_are_for_all_venues_and_mean_those_that_have_them() -> None:
    config = convert({"venues": {"BITSTAMP": {"symbols": ["BTC/USD"]}, "COINBASE": {"symbols": ["BTC/USD"]}}})
    assert [len(unsent_candles(name, venue)) for name, venue in config.venues.items()] == [1, 1]
    assert unsent_candles("KRAKEN", config_of().venues["KRAKEN"]) == []


def test_futures_of_binance_have_no_bars_of_a_second() -> None:
    with pytest.raises(ConfigError, match="BINANCE_FUTURES has no klines of '1s'"):
        convert({"venues": {"BINANCE_FUTURES": {"symbols": ["BTCUSDT"], "candles": ["1s"]}}})
