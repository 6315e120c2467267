"""What a new arena takes over from the one that it replaces.

After a change of settings nothing needs to be asked for that shared memory had already; and what was kept live only,
and is in no journal, stays visible. Of an ingest that was killed before the other rings were filled, the successor
finds the new arena with what that had inherited, and fills the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from marketd.ipc.arena import ArenaContended, ArenaState, ArenaUnreadable, Identity, Ring, RingSpec
from marketd.ipc.arena_cut import Cut
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.arena_words import NEVER
from marketd.market.book_rows import is_book_dtype, refit
from marketd.market.errors import NotRunning
from marketd.market.records import Records

_log = logging.getLogger(__name__)


class Heritage(NamedTuple):
    """Rings of one cut of the old arena, as the new one wants them."""

    cut: Cut
    rings: dict[str, Records]
    since: dict[str, int]  # ring -> every record of time >= this (ns) is among them


def read_heritage(path: Path, identity: Identity, specs: Sequence[RingSpec]) -> Heritage | None:
    """What the arena at `path` leaves to one with these rings; None when it is another's, or was never filled."""
    try:
        with ArenaReader.open(path) as reader:
            if reader.identity != identity or reader.state is not ArenaState.LIVE:
                return None
            cut = reader.cut()
            wanted = {spec.name: spec for spec in specs}
            kept = {
                name: ring.capacity
                for name, ring in reader.rings.items()
                if name in wanted and _suffices(ring, wanted[name], cut)
            }
            found = reader.snapshot(kept)
    except (NotRunning, ArenaUnreadable, ArenaContended) as error:
        _log.info("nothing is taken over from the old arena: %s", error, extra={"action": "heritage_none"})
        return None
    since = found.cut.complete_since
    rings = {}
    for name, records in found.records.items():
        rings[name], since[name] = _fitted(records, wanted[name], since[name])
    return Heritage(found.cut, rings, {name: since[name] for name in rings})


def read_begun(path: Path) -> Heritage:
    """What an arena that is still to be filled has: the rings of which something is known."""
    with ArenaReader.open(path) as reader:
        known = {name: since for name, since in reader.cut().complete_since.items() if since != NEVER}
        found = reader.snapshot({name: reader.rings[name].capacity for name in known})
    return Heritage(found.cut, found.records, known)


def _suffices(ring: Ring, spec: RingSpec, cut: Cut) -> bool:
    """Whether the database could not add anything: the old ring was as large, or has lost nothing yet."""
    same = ring.dtype == spec.dtype or (is_book_dtype(ring.dtype) and is_book_dtype(spec.dtype))
    return same and (ring.capacity >= spec.capacity or cut.heads[ring.name] <= ring.capacity)


def _fitted(records: Records, spec: RingSpec, since: int) -> tuple[Records, int]:
    """The newest that fit into the ring, and since when they are complete."""
    left_out = records[: max(0, len(records) - spec.capacity)]
    if len(left_out):
        since = max(since, int(left_out[records.dtype.names[0]].max()) + 1)  # type: ignore[index]
    records = records[len(left_out) :]
    if records.dtype != spec.dtype:
        records = refit(records, spec.dtype["bid_price"].shape[0])
    return records, since
