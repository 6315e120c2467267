"""A configuration that a feed would die of is refused when it is read, by the path of the setting."""

from __future__ import annotations

import pytest

from marketd.daemon.config import convert
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
