"""The declared series that venues' adapters can bring: funding, mark price, open interest, liquidations.

They are stored if, and only if, the configuration declares a stream of that name: `[streams.funding]` with any of the
fields below, each with the type given here. A field that is declared and that a venue does not tell is absent.

    funding         rate: for one interval, as a fraction · next_ns: when it is settled
    mark_price      price: the mark price · index_price (reals: both are means, finer than any tick)
    open_interest   size: what is open, at the instrument's size scale
    liquidation     side: +1 buy, -1 sell (of the order that closes the position) · price: the order's · average: what
                    it was dealt at · size
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from marketd.market.errors import ConfigError
from marketd.market.records import ABSENT, Kind, Records, empty, series_kind

STREAMS: Mapping[str, Mapping[str, str]] = {
    "funding": {"rate": "f8", "next_ns": "i8"},
    "mark_price": {"price": "f8", "index_price": "f8"},
    "open_interest": {"size": "size"},
    "liquidation": {"side": "i8", "price": "price", "average": "f8", "size": "size"},
}
# as the adapters make them; a kind's number comes from the configuration
_KINDS = {name: series_kind(0, name, fields) for name, fields in STREAMS.items()}

Value = int | float | None  # None: the venue does not say


def rows(stream: str, rows: Iterable[tuple[int, Sequence[Value]]]) -> Records:
    """Records of a stream: for each its time (ns) and its fields in the order of `STREAMS`; prices and sizes fixed
    point."""
    made = list(rows)
    records = empty(_KINDS[stream], len(made))
    records["ts_known"] = records["seq"] = 0
    records["ts_event"] = [ts_ns for ts_ns, _ in made]
    for index, name in enumerate(STREAMS[stream]):
        absent = np.nan if records.dtype[name].kind == "f" else ABSENT
        records[name] = [absent if values[index] is None else values[index] for _, values in made]
    return records


def wanted(declared: Iterable[Kind], offered: Iterable[str]) -> dict[str, Kind]:
    """Those of a venue's streams that are declared. ConfigError for a declaration that no venue can fill."""
    offers = set(offered)
    found = {kind.name: kind for kind in declared if kind.name in offers}
    for name, kind in found.items():
        for field, type_name in kind.fields.items():
            if STREAMS[name].get(field) != type_name:
                known = ", ".join(f'{known} = "{kept}"' for known, kept in STREAMS[name].items())
                raise ConfigError(
                    f"streams.{name}.fields.{field}: venues fill this stream; it can have {known}",
                    field=f"streams.{name}.fields.{field}",
                )
    return found


def conform(records: Records, kind: Kind) -> Records:
    """Records of an adapter with the fields that the configuration declares."""
    made = empty(kind, len(records))
    for name in kind.dtype.names or ():
        if name in (records.dtype.names or ()):
            made[name] = records[name]
    return made
