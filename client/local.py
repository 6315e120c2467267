"""What a process on the daemon's host finds out without asking: which instruments have an arena, and their names.

From `daemon.json` (aliases, default venue, streams), ingest's `instruments.json`, and the headers of `arena/*.arena`.
An arena's header knows an instrument's name, id and scales; for one that is in no list yet, what ccxt calls it
(`BTC/USDT`) is compared with the venue's symbol without its separators.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from marketd.client.arguments import check_symbol
from marketd.ipc.arena import ArenaUnreadable, Identity
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.paths import arena_path
from marketd.ipc.presence import Presence, read_instruments, read_presence
from marketd.market.errors import NotRunning, UnknownInstrument
from marketd.market.instruments import Instrument, resolve
from marketd.market.records import Kind, KindTable, series_kind

_UNIFIED = re.compile(r"(?P<base>[^/:.]+)/(?P<quote>[^/:.]+)(?P<settle>:[^/:.]+)?(?:\.\w+)?")
_SEPARATORS = re.compile(r"[-_/]")
_DERIVATIVES = ("_FUTURES", "_DELIVERY")


class LocalDaemon:
    """One runtime directory, read; nothing is kept, so an answer is as new as the files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __repr__(self) -> str:
        return f"<LocalDaemon {self.directory}>"

    def presence(self) -> Presence:
        """Raises NotRunning when no daemon ever left word."""
        presence = read_presence(self.directory)
        if presence is None:
            raise NotRunning(
                f"no marketd daemon runs in {self.directory} (it left no daemon.json there); "
                "start one with `marketd run`"
            )
        return presence

    def instruments(self, presence: Presence, symbol: str = "") -> list[Instrument]:
        """Those with an arena. `symbol` says how a caller spells one, for those that only an arena knows."""
        known = (*presence.instruments, *read_instruments(self.directory))  # ingest's own list is the newer one
        told = {instrument.name: instrument for instrument in known}
        arenas = {identity.instrument: identity for identity in self._identities()}
        # a list may be older than an arena: after a finer precision it has the id, and the scales, of before
        return [
            found
            if (found := told.get(name)) is not None and found.id == identity.instrument_id
            else _from_identity(identity, symbol)
            for name, identity in sorted(arenas.items())
        ]

    def resolve(self, symbol: str) -> Instrument:
        """Raises UnknownInstrument, AmbiguousSymbol, NotRunning, InvalidArgument."""
        check_symbol(symbol)
        presence = self.presence()
        wanted = presence.aliases.get(symbol, symbol)
        return resolve(wanted, self.instruments(presence, wanted), default_venue=presence.default_venue)

    def kinds(self) -> KindTable:
        """The built-in kinds and this daemon's declared series."""
        presence = self.presence()
        return KindTable(kinds_of(presence), presence.book_depth)

    def open_arena(self, instrument: Instrument) -> ArenaReader:
        """Raises UnknownInstrument when there is none, or it is of another id than `instrument`."""
        try:
            reader = ArenaReader.open(arena_path(self.directory, instrument.name))
        except NotRunning as error:
            raise UnknownInstrument(str(error), field="symbol") from None
        if reader.identity.instrument_id != instrument.id:
            reader.close()
            raise UnknownInstrument(f"{instrument.name} has just got another id; ask again", field="symbol")
        return reader

    def _identities(self) -> list[Identity]:
        found = []
        for path in (self.directory / "arena").glob("*.arena"):
            try:
                with ArenaReader.open(path) as reader:
                    found.append(reader.identity)
            except (NotRunning, ArenaUnreadable):
                continue  # removed meanwhile, or of another version: not one that can be read here
        return found


def kinds_of(presence: Presence) -> list[Kind]:
    return [series_kind(stream.id, stream.name, stream.fields) for stream in presence.streams]


def _from_identity(identity: Identity, symbol: str) -> Instrument:
    name, venue = identity.instrument.rsplit(".", 1)
    instrument = Instrument(
        id=identity.instrument_id,
        symbol=name,
        venue=venue,
        price_scale=identity.price_scale,
        size_scale=identity.size_scale,
        quote_scale=identity.quote_scale,
    )
    match = _UNIFIED.fullmatch(symbol)
    if match is None or _SEPARATORS.sub("", name) != match["base"] + match["quote"]:
        return instrument
    market = "swap" if venue.endswith(_DERIVATIVES) else "spot"
    return msgspec.structs.replace(instrument, base=match["base"], quote=match["quote"], market=market)
