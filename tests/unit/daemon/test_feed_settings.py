"""What a feed is told: the configuration, within what its venue allows."""

from __future__ import annotations

from typing import Any

import pytest

from marketd.daemon.actors.feed import feed_settings
from marketd.daemon.config import convert
from marketd.daemon.feeds.feed import FeedSettings
from marketd.daemon.feeds.venues import VENUES


def settings_of(name: str, **table: Any) -> FeedSettings:
    config = convert({"venues": {name: {"symbols": ["BTCUSDT"], **table}}, "book": {"depth": 5, "interval": "1s"}})
    return feed_settings(VENUES[name], config.venues[name], config)


@pytest.mark.parametrize("name", VENUES)
def test_no_venue_is_asked_for_more_than_it_allows(name: str) -> None:
    settings, limits = settings_of(name), VENUES[name].limits
    assert settings.timing is not None
    assert settings.weight_per_minute <= limits.weight_per_minute
    assert settings.timing.commands_per_second == limits.commands_per_second
    assert settings.timing.roll_after_seconds < limits.session_seconds


def test_what_the_configuration_says_is_taken() -> None:
    settings = settings_of("BINANCE", request_weight=100, dead_after="7s", roll_after="1h", reconnect_min="1s")
    assert settings.weight_per_minute == 100
    timing = settings.timing
    assert timing is not None
    assert (timing.dead_after_seconds, timing.roll_after_seconds, timing.backoff_first_seconds) == (7.0, 3600.0, 1.0)
    assert (settings.book, settings.books.depth, settings.books.interval_ns) == (True, 5, 10**9)
