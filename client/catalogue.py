"""What a client knows of its daemon.

Instruments, streams, timeframes; asked once, and again when something is missing.
"""

from __future__ import annotations

from marketd.client.calls import Call, Plan, ask
from marketd.ipc.protocol import Describe, Description
from marketd.market.errors import UnknownInstrument, UnknownStream
from marketd.market.instruments import GLOBAL_NAME, Instrument, resolve
from marketd.market.records import Kind, KindTable, series_kind


class Catalogue:
    """The daemon's own description of itself, and instruments that were declared since."""

    def __init__(self) -> None:
        self._description: Description | None = None
        self._kinds = KindTable()
        self._instruments: dict[str, Instrument] = {}
        self._resolved: dict[str, Instrument] = {}

    def describe(self, *, fresh: bool = False) -> Plan[Description]:
        """Plan: the description, asked for when there is none or `fresh`."""
        if self._description is None or fresh:
            description, _ = yield from ask(Call("query", Describe()), Description)
            self._learn(description)
            return description
        return self._description

    def instrument(self, symbol: str | None) -> Plan[Instrument]:
        """Plan: the instrument that `symbol` means (None: the one of streams that belong to none).

        An unknown symbol is looked for once more in a fresh description: it may have been added since.
        """
        name = GLOBAL_NAME if symbol is None else symbol
        found = self._resolved.get(name)
        if found is not None:
            return found
        known = self._description is not None or bool(self._instruments)
        try:
            if not known:
                yield from self.describe()
            return self._resolve(name)
        except UnknownInstrument:
            if not known:
                raise
        yield from self.describe(fresh=True)
        return self._resolve(name)

    def kind(self, name: str) -> Plan[Kind]:
        """Plan: a built-in kind or declared stream by name."""
        try:
            return self._kinds.by_name(name)
        except UnknownStream:
            yield from self.describe(fresh=True)
            return self._kinds.by_name(name)

    def declared(self, instruments: list[Instrument]) -> None:
        """Instruments that the daemon has just accepted."""
        self._instruments |= {instrument.name: instrument for instrument in instruments}
        self._resolved.clear()

    def _learn(self, description: Description) -> None:
        self._description = description
        series = [series_kind(stream.id, stream.name, stream.fields) for stream in description.streams]
        self._kinds = KindTable(series)  # how deep its books are, each answer tells (`ResultPart.depth`)
        self.declared(description.instruments)

    def _resolve(self, symbol: str) -> Instrument:
        description = self._description
        found = resolve(
            symbol,
            self._instruments.values(),
            aliases=description.aliases if description else None,
            default_venue=description.default_venue if description else None,
        )
        self._resolved[symbol] = found
        return found
