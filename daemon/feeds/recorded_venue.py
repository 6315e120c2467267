"""Whose traffic a recording is: what it says of itself, and what the caller says; they must not disagree.

Read as another venue's, a recording is a heap of unreadable messages, or, between the markets of one venue, of records
that look right and bear the wrong name. Pure but for reading the files' first lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from marketd.daemon.feeds.captures import CaptureLine, CaptureReader, CaptureUnreadable
from marketd.daemon.feeds.venue_signs import Told, told_by_address, told_by_message
from marketd.daemon.feeds.venues import VENUES
from marketd.market.errors import InvalidArgument

DEFAULT_VENUE = "BINANCE"  # of Binance's markets, where messages that are alike in all of them do not tell
LOOKED_AT = 2_000  # lines of a file; by then a book's changes have come, which tell futures from spot


def recorded_venue(paths: Sequence[Path | str], given: str | None) -> str:
    """The venue of a recording. InvalidArgument when `given` is another one, CaptureUnreadable when nobody says."""
    found, url = _told_by(paths)
    if given is None:
        if found is not None and (found.venue or DEFAULT_VENUE in found.others):
            return found.venue or DEFAULT_VENUE
        raise CaptureUnreadable(f"{paths[0]}: {_reason(found, url)}")
    if found is not None and given not in (found.venue, *found.others):
        told = found.venue or " or ".join(found.others)
        raise InvalidArgument(
            f"--venue: {paths[0]} is a recording of {told}, not of {given}; leave --venue out, or say {told}",
            field="venue",
        )
    return given


def _reason(found: Told | None, url: str) -> str:
    """Why nobody can say whose it is, and what to do."""
    if found is not None:
        return f"it is one of {', '.join(found.others)}, and does not tell which; say it with --venue"
    known = ", ".join(VENUES)
    if url:
        return (
            f"{url.partition('?')[0]} is of no venue that marketd has an adapter for ({known}); if the messages are in "
            "one's format, say whose with --venue"
        )
    return f"nothing in it is of a venue that marketd has an adapter for; say whose it is with --venue ({known})"


def _told_by(paths: Sequence[Path | str]) -> tuple[Told | None, str]:
    """What the recording says, and the first address in it. What an address says counts before any message."""
    doubtful: Told | None = None
    url = ""
    for path in paths:
        reader = CaptureReader(path)
        if reader.venue:
            return Told(reader.venue), reader.url
        for line in islice(reader, LOOKED_AT):
            told = _told_by_line(line, url)
            if told is not None and told.venue is not None:
                return told, url
            doubtful = doubtful or told
            if "://" in line.url:
                url = url or line.url
    return doubtful, url


def _told_by_line(line: CaptureLine, url: str) -> Told | None:
    if "://" in line.url:
        return told_by_address(line.url)
    return None if url else told_by_message(line.payload)
