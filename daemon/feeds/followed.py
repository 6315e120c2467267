"""Which symbols the configuration wants followed, as instruments have them."""

from __future__ import annotations

from marketd.daemon.feeds.venues import venue_of
from marketd.daemon.settings import Config


def followed_symbols(config: Config) -> dict[str, frozenset[str]]:
    """Those of each venue whose feed is wanted."""
    followed = {}
    for name, venue in config.active_venues.items():
        adapter = venue_of(name, venue.ws_url).adapter()
        followed[name] = frozenset(map(adapter.venue_symbol, venue.symbols))
    return followed
