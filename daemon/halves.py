"""A batch that is too long for one frame of the journal, as two that are shorter. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marketd.ipc.protocol import Rejection
from marketd.market.records import Records

Parts = Sequence[tuple[Any, Records]]  # each with its kind, or the kind's name
Batch = tuple[Parts, Sequence[Rejection]]
MAX_KEPT_BYTES = 1_024  # of a message that could not be read and is too long even by itself
_CUT = "; only its beginning is kept"


def halves(parts: Parts, rejected: Sequence[Rejection]) -> list[Batch]:
    """The batch in the same order as two, or one with less in it; empty when there is nothing to be taken from it.

    Records come before what was rejected. A single rejected message that is too long keeps its beginning.
    """
    count = sum(len(records) for _, records in parts)
    if count and rejected:
        return [(parts, ()), ((), rejected)]
    if count > 1:
        return [(_sliced(parts, 0, count // 2), ()), (_sliced(parts, count // 2, count), ())]
    if len(rejected) > 1:
        middle = len(rejected) // 2
        return [((), rejected[:middle]), ((), rejected[middle:])]
    if rejected and not rejected[0].detail.endswith(_CUT):
        one = rejected[0]
        return [((), (Rejection(one.kind, one.rule, one.detail + _CUT, one.payload[:MAX_KEPT_BYTES]),))]
    return []


def _sliced(parts: Parts, start: int, stop: int) -> Parts:
    """Records number `start` to `stop` of all parts, each in its part."""
    found, at = [], 0
    for kind, records in parts:
        taken = records[max(0, start - at) : max(0, stop - at)]
        at += len(records)
        if len(taken):
            found.append((kind, taken))
    return found
