"""Which id a name means. A finer precision gives an instrument another one, since scales are fixed for an id. Pure.

The newest id is what a name means now; what was known at a moment before it is asked of the id that the name had then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from marketd.market.instruments import IDS_PER_DAEMON, Instrument
from marketd.market.records import InstrumentFlag

_REMOVED = int(InstrumentFlag.REMOVED)


def with_replaced(instruments: Iterable[Instrument]) -> list[Instrument]:
    """By id; of the ids that a name has had in one daemon, all but the newest are REMOVED."""
    ordered = sorted(instruments, key=lambda instrument: instrument.id)
    newest = {_owned_name(instrument): instrument.id for instrument in ordered}
    return [
        each if newest[_owned_name(each)] == each.id else msgspec.structs.replace(each, flags=each.flags | _REMOVED)
        for each in ordered
    ]


def id_at(
    now: Instrument, instruments: Sequence[Instrument], moment: int, live_since: Callable[[int], int]
) -> Instrument:
    """The id that the name of `now` had at `moment` (ts_known). `live_since`: when an id came; 0: unknown."""
    earlier = [each for each in instruments if _owned_name(each) == _owned_name(now) and each.id <= now.id]
    for each in sorted(earlier, key=lambda instrument: instrument.id, reverse=True):
        now = each
        if moment >= live_since(each.id):
            break
    return now


def _owned_name(instrument: Instrument) -> tuple[int, str]:
    return instrument.id // IDS_PER_DAEMON, instrument.name
