"""Whose traffic a recording is: what it says of itself, and what the caller says; they must not disagree.

Read as another venue's, a recording is a heap of unreadable messages, or, between Binance's markets, of records that
look right and bear the wrong name. Pure but for reading the files' first lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from marketd.daemon.feeds.captures import CaptureReader, CaptureUnreadable
from marketd.daemon.feeds.venues import venue_at
from marketd.market.errors import InvalidArgument

DEFAULT_VENUE = "BINANCE"  # whose streams the format without addresses is of
LOOKED_AT = 2_000  # lines; by then a book's changes have come, which tell futures from spot
_DEPTH, _PREVIOUS = b'"e":"depthUpdate"', b'"pu":'  # spot has no number of the previous update
_COIN_M = b"_perp@"


def recorded_venue(paths: Sequence[Path | str], given: str | None) -> str:
    """The venue of a recording. InvalidArgument when `given` is another one, CaptureUnreadable when nobody says."""
    found, url = _told_by(paths)
    if given is None:
        if found is None and url:
            raise CaptureUnreadable(f"{paths[0]}: {url} does not tell whose traffic it is; say it with --venue")
        return found or DEFAULT_VENUE
    if found is not None and found != given:
        raise InvalidArgument(
            f"--venue: {paths[0]} is a recording of {found}, not of {given}; leave --venue out, or say {found}",
            field="venue",
        )
    return given


def _told_by(paths: Sequence[Path | str]) -> tuple[str | None, str]:
    """What the recording says: the venue, and the first address in it."""
    url = ""
    for path in paths:
        reader = CaptureReader(path)
        if reader.venue:
            return reader.venue, reader.url
        for line in islice(reader, LOOKED_AT):
            if line.kind == "connect":
                url = url or line.url
                if (venue := venue_at(line.url)) is not None:
                    return venue, url
            elif line.kind == "ws" and _DEPTH in line.payload and not url:
                return _market_of(line.payload), url
    return None, url


def _market_of(payload: bytes) -> str | None:
    """Of a message of Binance's without an address."""
    if _PREVIOUS not in payload:
        return "BINANCE"
    return "BINANCE_DELIVERY" if _COIN_M in payload else "BINANCE_FUTURES"
