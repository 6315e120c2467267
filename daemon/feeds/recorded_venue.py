"""Whose traffic a recording is: what it says of itself, and what the caller says; they must not disagree.

Read as another venue's, a recording is a heap of unreadable messages, or, between the markets of one venue, of records
that look right and bear the wrong name. Each file is asked: one that is of another venue is refused by its name. A file
may have connections to several venues: then the caller says which is meant. Pure but for reading the files' first
lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from marketd.daemon.feeds.adapter import Told
from marketd.daemon.feeds.captures import CaptureReader, CaptureUnreadable
from marketd.daemon.feeds.venue_signs import told_by_address, told_by_message
from marketd.daemon.feeds.venues import VENUES
from marketd.market.errors import InvalidArgument

DEFAULT_VENUE = "BINANCE"  # of Binance's markets, where messages that are alike in all of them do not tell
LOOKED_AT = 2_000  # lines of a file; by then a book's changes have come, which tell futures from spot


class _File(NamedTuple):
    """What a file says of itself."""

    path: Path | str
    found: tuple[Told, ...]  # those that say it for sure; else one that leaves a choice, or none
    url: str  # the first address in it

    @property
    def venues(self) -> list[str]:
        return [told.venue for told in self.found if told.venue is not None]

    def may_be(self, venue: str) -> bool:
        """Nothing in it says that it is another's."""
        return not self.found or any(venue in (told.venue, *told.others) for told in self.found)

    @property
    def words(self) -> str:
        return " and ".join(self.venues) or " or ".join(self.found[0].others)


def recorded_venue(paths: Sequence[Path | str], given: str | None) -> str:
    """The venue of a recording. InvalidArgument when `given`, or a file among others, is another one;
    CaptureUnreadable when nobody says.
    """
    files = [_look_into(path) for path in paths]
    if given is not None:
        for file in files:
            if not file.may_be(given):
                raise InvalidArgument(
                    f"--venue: {file.path} is a recording of {file.words}, not of {given}; leave --venue out, or say "
                    f"{file.words}",
                    field="venue",
                )
        return given
    return _agreed(files)


def _agreed(files: Sequence[_File]) -> str:
    """The one venue of all files."""
    for file in files:
        if len(file.venues) > 1:
            raise CaptureUnreadable(
                f"{file.path}: it is a recording of {file.words}; say with --venue which is meant, and import the "
                "others after it"
            )
    sure = next((file for file in files if file.venues), None)
    if sure is not None:
        [venue] = sure.venues
        for file in files:
            if file.url and not file.found:
                raise CaptureUnreadable(f"{file.path}: {_reason(file)}")
            if file.venues not in ([], [venue]) or not file.may_be(venue):
                raise CaptureUnreadable(
                    f"{sure.path} is a recording of {venue}, and {file.path} one of {file.words}; files that are read "
                    "together are of one venue, and if these are, say of which with --venue"
                )
        return venue
    told = next((file for file in files if file.found), files[0])
    if told.found and DEFAULT_VENUE in told.found[0].others:
        return DEFAULT_VENUE
    raise CaptureUnreadable(f"{told.path}: {_reason(told)}")


def _reason(file: _File) -> str:
    """Why nobody can say whose it is, and what to do."""
    if file.found:
        return f"it is one of {', '.join(file.found[0].others)}, and does not tell which; say it with --venue"
    known = ", ".join(VENUES)
    if file.url:
        return (
            f"{file.url.partition('?')[0]} is of no venue that marketd has an adapter for ({known}); if the messages "
            "are in one's format, say whose with --venue"
        )
    return f"nothing in it is of a venue that marketd has an adapter for; say whose it is with --venue ({known})"


def _look_into(path: Path | str) -> _File:
    """What an address says counts before any message."""
    reader = CaptureReader(path)
    if reader.venue:
        return _File(path, (Told(reader.venue),), reader.url)
    by_address: dict[str | None, Told] = {}
    by_message: dict[str | None, Told] = {}
    url = ""
    for line in islice(reader, LOOKED_AT):
        if "://" in line.url:
            url = url or line.url
            _note(by_address, told_by_address(line.url))
        elif not any(by_message):
            _note(by_message, told_by_message(line.payload))
    found = by_address if url else by_message
    return _File(path, tuple(found[venue] for venue in found if venue) or tuple(found.values()), url)


def _note(found: dict[str | None, Told], told: Told | None) -> None:
    if told is not None:
        found.setdefault(told.venue, told)
