"""The state machine of an order book, as one table: state and event give the next state and what goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from marketd.market.errors import MarketdError
from marketd.market.layouts import BookState


class BookEvent(Enum):
    """What can happen to a book. The values are the words of metrics and of coverage records."""

    SUBSCRIBED = "subscribed"
    BUFFERED = "buffered"  # a delta that waits for a snapshot
    JOINED = "joined"  # a snapshot, and the deltas that follow it, are the book
    UNPROVEN = "unproven"  # a snapshot that no delta has joined yet
    APPLIED = "applied"
    OLD = "old"  # a delta or snapshot that the book is already past
    RESUMED = "resumed"  # a delta that follows, after a silence
    REFRESHED = "refreshed"  # a fresh snapshot has widened the book, which stood all the time
    UNSPLICED = "unspliced"  # a fresh snapshot that could not be joined
    BEYOND_EDGE = "beyond_edge"  # the best levels reach beyond what the venue's snapshot told
    RETURNED = "returned"  # they are within it again
    SNAPSHOT_OLD = "snapshot_old"  # the deltas after the snapshot were sent before we listened
    GAP = "gap"
    CROSSED = "crossed"
    CHECKSUM_FAILED = "checksum_failed"
    UNCHANGED = "unchanged"  # a change that changes nothing, of a venue that sends none: one before it was lost
    DAMAGED = "damaged"  # a message that could not be read, or a level that cannot be
    OVERFLOW = "overflow"
    CONTRADICTED = "contradicted"  # a fresh snapshot says that the book is wrong
    DENIED = "denied"  # trades go on that it cannot have
    TICK_CHANGED = "tick_changed"
    SILENT = "silent"
    DISCONNECTED = "disconnected"


class Action(Enum):
    """What goes with a transition. All but KEEP are seen in the `Step`."""

    KEEP = "keep"  # the book stays as the event made it
    ASK = "ask"  # the book is dropped, and a snapshot must be asked for
    RENEW = "renew"  # the book is followed on, and a snapshot must be asked for
    DROP = "drop"  # the book is dropped; a snapshot is asked for once there is a connection


_KEEP, _ASK, _RENEW, _DROP = Action.KEEP, Action.ASK, Action.RENEW, Action.DROP
_EMPTY, _SYNCING, _LIVE, _STALE = BookState.EMPTY, BookState.SYNCING, BookState.LIVE, BookState.STALE

# What makes a book doubtful, wherever it stands: begin again.
_DOUBTS: Mapping[BookEvent, tuple[BookState, Action]] = {
    BookEvent.GAP: (_SYNCING, _ASK),
    BookEvent.CROSSED: (_SYNCING, _ASK),
    BookEvent.CHECKSUM_FAILED: (_SYNCING, _ASK),
    BookEvent.UNCHANGED: (_SYNCING, _ASK),
    BookEvent.DAMAGED: (_SYNCING, _ASK),
    BookEvent.OVERFLOW: (_SYNCING, _ASK),
    BookEvent.CONTRADICTED: (_SYNCING, _ASK),
    BookEvent.DENIED: (_SYNCING, _ASK),
    BookEvent.TICK_CHANGED: (_SYNCING, _ASK),
}

TRANSITIONS: Mapping[BookState, Mapping[BookEvent, tuple[BookState, Action]]] = MappingProxyType(
    {
        _EMPTY: {
            BookEvent.SUBSCRIBED: (_SYNCING, _ASK),
            BookEvent.OLD: (_EMPTY, _KEEP),
            BookEvent.TICK_CHANGED: (_EMPTY, _DROP),
            BookEvent.DAMAGED: (_EMPTY, _KEEP),
            BookEvent.SILENT: (_EMPTY, _KEEP),
            BookEvent.DISCONNECTED: (_EMPTY, _KEEP),
        },
        _SYNCING: {
            **_DOUBTS,
            BookEvent.SUBSCRIBED: (_SYNCING, _ASK),
            BookEvent.BUFFERED: (_SYNCING, _KEEP),
            BookEvent.OLD: (_SYNCING, _KEEP),
            BookEvent.UNPROVEN: (_SYNCING, _KEEP),
            BookEvent.JOINED: (_LIVE, _KEEP),
            # a book of which too little is known goes on, unseen
            BookEvent.BEYOND_EDGE: (_SYNCING, _RENEW),
            BookEvent.UNSPLICED: (_SYNCING, _RENEW),
            BookEvent.APPLIED: (_SYNCING, _KEEP),
            BookEvent.RETURNED: (_LIVE, _KEEP),
            BookEvent.SNAPSHOT_OLD: (_SYNCING, _ASK),
            BookEvent.SILENT: (_SYNCING, _ASK),  # what was asked for got lost
            BookEvent.DISCONNECTED: (_STALE, _DROP),
        },
        _LIVE: {
            **_DOUBTS,
            BookEvent.SUBSCRIBED: (_SYNCING, _ASK),
            BookEvent.APPLIED: (_LIVE, _KEEP),
            BookEvent.OLD: (_LIVE, _KEEP),
            BookEvent.JOINED: (_LIVE, _KEEP),  # the venue began anew on its own account
            BookEvent.REFRESHED: (_LIVE, _KEEP),
            BookEvent.UNPROVEN: (_LIVE, _KEEP),
            BookEvent.UNSPLICED: (_LIVE, _KEEP),
            BookEvent.BEYOND_EDGE: (_SYNCING, _RENEW),
            BookEvent.SILENT: (_STALE, _KEEP),  # not wrong, as far as is known: a delta that follows makes it live
            BookEvent.DISCONNECTED: (_STALE, _DROP),
        },
        _STALE: {
            **_DOUBTS,
            BookEvent.SUBSCRIBED: (_SYNCING, _ASK),
            BookEvent.RESUMED: (_LIVE, _KEEP),
            BookEvent.JOINED: (_LIVE, _KEEP),
            BookEvent.REFRESHED: (_STALE, _KEEP),
            BookEvent.UNPROVEN: (_STALE, _KEEP),
            BookEvent.UNSPLICED: (_STALE, _KEEP),
            BookEvent.BEYOND_EDGE: (_SYNCING, _RENEW),
            BookEvent.OLD: (_STALE, _KEEP),
            BookEvent.SILENT: (_STALE, _KEEP),
            BookEvent.DISCONNECTED: (_STALE, _DROP),
        },
    }
)


class IllegalTransition(MarketdError):
    """A book's state machine was told of an event that its state does not have."""


def transition(state: BookState, event: BookEvent) -> tuple[BookState, Action]:
    """The state after an event, and what goes with it. IllegalTransition names both."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"a book that is {state.name} cannot be told {event.name}") from None
