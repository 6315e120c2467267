"""What can go wrong with a journal, beside `JournalFull` and `JournalDamaged` of the common tree.

`JournalFull` and `JournalBehind` pass by themselves and leave the journal as it was; after `JournalFailed` nothing
more is accepted by this process; the others are said before anything was touched.
"""

from __future__ import annotations

from pathlib import Path

from marketd.market.errors import JournalDamaged, JournalFull, MarketdError


class FrameError(MarketdError):
    """The bytes are no frame of a journal."""


class FrameTruncated(FrameError):
    """The bytes end inside a frame."""


class FrameCorrupt(FrameError):
    """The bytes were a frame once, or never: a length, checksum or offset does not hold."""


class FrameUnsupported(FrameError):
    """The frame is whole, but of a version that is not read here."""


class JournalBehind(JournalFull):
    """The disk is slower than the records come: the front buffer is full; try again when some are durable."""


class JournalFailed(MarketdError):
    """The disk refused to keep what it was given; this process may acknowledge nothing more."""


class JournalLocked(MarketdError):
    """Another process writes this journal."""


class JournalMissing(MarketdError, LookupError):
    """There is no journal in the directory."""


class JournalMismatch(MarketdError):
    """The offset does not belong to this journal."""


def damaged(directory: Path, segment: str, offset: int, what: str) -> JournalDamaged:
    """JournalDamaged as every part of the journal says it: segment, offset, and the command that inspects it."""
    return JournalDamaged(
        f"journal {directory}: segment {segment} is damaged at offset {offset}: {what}. "
        f"Look with: marketd journal check {directory}"
    )
