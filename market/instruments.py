"""Instruments: ids, names, scales, and how a caller's symbol finds one.

`id = daemon_no * 65536 + n`; the canonical name is `SYMBOL.VENUE` (`BTCUSDT.BINANCE`). n = 0 is the
daemon's own pseudo-instrument `GLOBAL.MARKETD`, which carries the streams that belong to no instrument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from marketd.market.errors import AmbiguousSymbol, UnknownInstrument
from marketd.market.records import INSTRUMENT, InstrumentFlag, Records

IDS_PER_DAEMON = 65_536
GLOBAL_NAME = "GLOBAL.MARKETD"
MAX_SCALE = 18
CONSOLIDATED_VENUE = "COB"  # marketd's own: the consolidated books

_REMOVED = int(InstrumentFlag.REMOVED)  # flags of an enum are slow to combine


class Instrument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One instrument; `price_scale` … are decimal places, fixed for an id."""

    id: int
    symbol: str  # as the venue writes it: BTCUSDT
    venue: str
    price_scale: int
    size_scale: int
    quote_scale: int
    base: str = ""
    quote: str = ""
    market: str = "spot"  # spot | swap | future | option | global
    tick_size: int = 1  # in units of the price scale
    step_size: int = 1  # in units of the size scale
    flags: int = 0

    @property
    def name(self) -> str:
        return f"{self.symbol}.{self.venue}"

    @property
    def removed(self) -> bool:
        return bool(self.flags & _REMOVED)

    def scale(self, role: str) -> int:
        """Decimal places of a field's role: price, size or quote."""
        return {"price": self.price_scale, "size": self.size_scale, "quote": self.quote_scale}[role]

    def to_record(self) -> Records:
        """The INSTRUMENT record, shape (1,), with unset stamps."""
        record = np.zeros(1, dtype=INSTRUMENT)
        record["instrument"] = self.id
        for field in ("symbol", "venue", "base", "quote", "market"):
            record[field] = getattr(self, field).encode()
        for field in ("tick_size", "step_size", "price_scale", "size_scale", "quote_scale", "flags"):
            record[field] = getattr(self, field)
        return record

    @classmethod
    def from_record(cls, record: Any) -> Instrument:
        texts = {f: bytes(record[f]).decode() for f in ("symbol", "venue", "base", "quote", "market")}
        numbers = ("tick_size", "step_size", "price_scale", "size_scale", "quote_scale", "flags")
        return msgspec.convert({"id": int(record["instrument"]), **texts, **{f: int(record[f]) for f in numbers}}, cls)


def global_instrument(daemon_no: int) -> Instrument:
    """The pseudo-instrument of streams that belong to none."""
    symbol, venue = GLOBAL_NAME.split(".")
    return Instrument(
        id=daemon_no * IDS_PER_DAEMON,
        symbol=symbol,
        venue=venue,
        price_scale=8,
        size_scale=8,
        quote_scale=8,
        market="global",
    )


def symbol_spellings(instrument: Instrument) -> set[str]:
    """What a caller may write for an instrument: its name, the venue's symbol, ccxt's unified one."""
    spellings = {instrument.name, instrument.symbol}
    # what ends has a unified name too, but not from base and quote alone; a bare pair means spot
    if instrument.base and instrument.quote and instrument.market not in ("future", "option"):
        unified = f"{instrument.base}/{instrument.quote}"
        if instrument.market == "swap":
            # ccxt: a linear swap settles in the quote currency, an inverse one in the base currency. Contracts in plain
            # USD are inverse at every venue there is: nothing of theirs settles in it.
            inverse = instrument.quote == "USD"
            unified = f"{unified}:{instrument.base if inverse else instrument.quote}"
        spellings |= {unified, f"{unified}.{instrument.venue}"}
    return spellings


def resolve(
    symbol: str,
    instruments: Iterable[Instrument],
    *,
    aliases: Mapping[str, str] | None = None,
    default_venue: str | None = None,
) -> Instrument:
    """The instrument a caller means: alias, exact name, then `default_venue`, then the only one that has it.

    Raises UnknownInstrument or AmbiguousSymbol, naming the choices.
    """
    instruments = list(instruments)
    wanted = (aliases or {}).get(symbol, symbol)
    matches = [i for i in instruments if not i.removed and wanted in symbol_spellings(i)]
    if len(matches) > 1 and default_venue is not None:
        matches = [i for i in matches if i.venue == default_venue] or matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(sorted(i.name for i in matches))
        raise AmbiguousSymbol(
            f"symbol: {symbol!r} could be {names}; write one of these, or set default_venue", field="symbol"
        )
    known = ", ".join(sorted(i.name for i in instruments if not i.removed)[:20]) or "none yet"
    raise UnknownInstrument(f"symbol: {symbol!r} is not among the instruments of this daemon ({known})", field="symbol")
