"""Names of spot pairs at venues that write them with a separator: `BTCUSD` here, `BTC-USD` or `XBT/USD` there."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

import msgspec

from marketd.daemon.feeds.precision import split_pair
from marketd.market.errors import InvalidArgument

_SYMBOL = re.compile(r"[A-Z0-9.]{2,30}")
_SEPARATORS = re.compile(r"[/-]")


class PairNames:
    """Symbols of one venue both ways.

    `aliases` are other words for a currency that are understood ({"XBT": "BTC"}), `words` those that must be written to
    the venue ({"BTC": "XBT"}).
    """

    def __init__(
        self,
        venue: str,
        separator: str,
        *,
        aliases: Mapping[str, str] | None = None,
        words: Mapping[str, str] | None = None,
    ) -> None:
        self._venue = venue
        self._separator = separator
        self._aliases = dict(aliases or {})
        self._words = dict(words or {})
        self._pairs: dict[str, str] = {}  # symbol -> the venue's text
        self._read: dict[str, tuple[str, str]] = {}  # symbol -> base and quote, as messages had them

    def symbol_of(self, text: str) -> str:
        """`BTC/USD`, `BTC-USD`, `XBT/USD`, `BTCUSD`, `BTCUSD.VENUE` -> `BTCUSD`; InvalidArgument for anything else."""
        name = text.removesuffix(f".{self._venue}").upper()
        if ":" in name:
            raise InvalidArgument(
                f"symbols: {text!r} names a swap or future; {self._venue} is the spot market: "
                f"write {name.split(':')[0]!r}",
                field="symbols",
            )
        parts = _SEPARATORS.split(name)
        symbol = "".join(map(self.currency, parts)) if len(parts) == 2 else self._word(name)
        if len(parts) > 2 or not all(parts) or _SYMBOL.fullmatch(symbol) is None:
            raise InvalidArgument(
                f"symbols: {text!r} is no symbol of {self._venue}; write one such as 'BTC/USD'", field="symbols"
            )
        return symbol

    def _word(self, name: str) -> str:
        """A pair written as one word: a currency's other word can only be told by where it stands."""
        for word, currency in self._aliases.items():
            if name.startswith(word):
                name = currency + name.removeprefix(word)
            if name.endswith(word):
                name = name.removesuffix(word) + currency
        return name

    def currency(self, word: str) -> str:
        """The common name of a currency that the venue calls otherwise."""
        return self._aliases.get(word, word)

    def find(self, text: str, symbols: Container[str]) -> str | None:
        """Which of these symbols a text of the venue means."""
        try:
            symbol = self.symbol_of(text)
        except InvalidArgument:
            return None
        return symbol if symbol in symbols else None

    def read(self, text: str) -> str:
        """The symbol of a text in a message, whose pair is remembered; msgspec.ValidationError for what is none."""
        try:
            symbol = self.symbol_of(text)
        except InvalidArgument as error:
            raise msgspec.ValidationError(str(error)) from None
        if symbol not in self._read:
            base, quote = (*map(self.currency, _SEPARATORS.split(text.upper())), "")[:2]
            self._read[symbol] = (base, quote) if quote else ("", "")
        return symbol

    def read_pair(self, symbol: str) -> tuple[str, str]:
        """Base and quote of a symbol that was read in a message; ("", "") for one that was not, or in one word."""
        return self._read.get(symbol, ("", ""))

    def learn(self, symbol: str, base: str, quote: str) -> None:
        """The pair of a symbol, by the common names of its currencies."""
        self._pairs[symbol] = self._written(base, quote)

    def _written(self, base: str, quote: str) -> str:
        return f"{self._words.get(base, base)}{self._separator}{self._words.get(quote, quote)}"

    def pair(self, symbol: str) -> str:
        """As the venue writes it; a guess by the known quote currencies for one that was never learned."""
        known = self._pairs.get(symbol)
        if known is not None:
            return known
        base, quote = split_pair(symbol, self._venue)
        return self._written(base, quote) if base else symbol
