"""What a running daemon takes over, and what it refuses by name."""

from __future__ import annotations

from typing import Any

import pytest

from marketd.daemon.config import convert
from marketd.daemon.reload import changes
from marketd.daemon.settings import Config

VENUE: dict[str, Any] = {"venues": {"BINANCE": {"symbols": ["BTC/USDT"]}}}


def test_nothing_changed_is_nothing_to_do() -> None:
    assert changes(Config(), Config()) == ([], [])


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"aliases": {"BTC.X": "A"}}, "aliases.BTC.X"),
        ({"default_venue": "OKX"}, "default_venue"),
        ({"journal": {"keep": "2h"}}, "journal.keep"),
        ({"journal": {"budget": "8GiB"}}, "journal.budget"),
        ({"journal": {"when_full": "refuse"}}, "journal.when_full"),
        ({"log": {"level": "DEBUG"}}, "log.level"),
        ({"supervisor": {"crash_limit": 9}}, "supervisor.crash_limit"),
    ],
)
def test_what_may_change_is_reloadable(table: dict[str, Any], path: str) -> None:
    assert changes(Config(), convert(table)) == ([path], [])


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"instance": "b"}, "instance"),
        ({"daemon_no": 2}, "daemon_no"),
        ({"timeframes": ["1m"]}, "timeframes"),
        ({"journal": {"durability": "none"}}, "journal.durability"),
        ({"database": {"url": "postgresql://x"}}, "database.url"),
        ({"streams": {"x": {"fields": {"a": "f8"}}}}, "streams.x.fields.a"),
        ({"log": {"format": "json"}}, "log.format"),
    ],
)
def test_what_needs_a_restart_is_named(table: dict[str, Any], path: str) -> None:
    assert path in changes(Config(), convert(table)).needs_restart


def test_symbols_of_a_venue_may_change_and_its_address_may_not() -> None:
    new = convert({"venues": {"BINANCE": {"symbols": ["BTC/USDT", "ETH/USDT"], "ws_url": "ws://x"}}})
    assert changes(convert(VENUE), new) == (["venues.BINANCE.symbols"], ["venues.BINANCE.ws_url"])


def test_a_whole_venue_may_come_and_go() -> None:
    assert changes(Config(), convert(VENUE)).needs_restart == []
    gone = changes(convert(VENUE), Config())
    assert gone.needs_restart == []
    assert "venues.BINANCE.symbols" in gone.reloadable
