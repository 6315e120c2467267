"""Whose traffic it is: what an address says, and what a message does where no address is recorded. Pure.

The signs stand in the rows of the table of venues. An address is told by its host and path, never by a part of its
text: `stream.binance.us` and `futures.kraken.com` are venues of their own, with messages that look alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import urlsplit

from marketd.daemon.feeds.adapter import Told
from marketd.daemon.feeds.venues import VENUES


def told_by_address(url: str) -> Told | None:
    """Of a WebSocket's or a REST request's address; None: of none of marketd's venues."""
    try:
        parts = urlsplit(url)
        place = f"{(parts.hostname or '').lower()}{parts.path or '/'}"
    except ValueError:
        return None
    rows = (row for venue in VENUES.values() for row in venue.signs.addresses)
    return next((told for pattern, told in rows if re.match(pattern, place)), None)


@lru_cache(maxsize=1024)
def is_of(venue: str, url: str) -> bool:
    """Whether what an address sent may be this venue's: nothing tells that it is another's."""
    told = told_by_address(url) if "://" in url else None
    return told is None or told.venue is None or venue in (told.venue, *told.others)


def told_by_message(payload: bytes) -> Told | None:
    """Of a message alone; None where it tells nothing, or not enough."""
    return next(_told(payload), None)


def _told(payload: bytes) -> Iterator[Told]:
    text = payload.replace(b'": ', b'":').replace(b', "', b',"').strip()  # as Python writes it, too
    for venue in VENUES.values():
        if venue.signs.told is not None and (told := venue.signs.told(text)) is not None:
            yield told
        yield from (told for pattern, told in venue.signs.messages if re.search(pattern, text))
