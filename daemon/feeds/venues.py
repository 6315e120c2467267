"""The table of venues: all of a venue that is not in its messages. A new venue is a row here and an adapter."""

from __future__ import annotations

from marketd.daemon.feeds.adapter import Limits, Venue
from marketd.daemon.feeds.binance import BinanceAdapter
from marketd.market.errors import ConfigError

VENUES: dict[str, Venue] = {
    "BINANCE": Venue(
        name="BINANCE",
        adapter=BinanceAdapter,
        ws_url="wss://stream.binance.com:9443",
        rest_url="https://api.binance.com",
        limits=Limits(
            streams_per_connection=1024,
            # of the 5 incoming messages a second, pings and pongs included, one is left for those
            commands_per_second=4.0,
            ping_interval_seconds=20.0,
            session_seconds=24 * 3600.0,
            # of 6,000; the rest is for whatever else runs on this address
            weight_per_minute=4800,
            page_rows=1000,
        ),
        headers={"Accept": "application/json"},
        api_key_header="X-MBX-APIKEY",
    ),
}


def venue_of(name: str) -> Venue:
    """The row of a venue; ConfigError naming those that there are."""
    try:
        return VENUES[name]
    except KeyError:
        known = ", ".join(VENUES)
        raise ConfigError(
            f"venues.{name}: marketd has no adapter for this venue; there are: {known}", field=f"venues.{name}"
        ) from None
