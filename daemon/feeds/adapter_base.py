"""What the adapters of venues with named markets share: instruments by both of their names, and the loop over messages.

An instrument has two names: the `symbol` that marketd uses (BTCUSDT) and the venue's own (`BTC-USDT`, `btcusdt`), here
its *wire name*. A subclass says how one comes from the other (`wire_name`) and reads one message (`_read`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from marketd.daemon.feeds.adapter import (
    BookRule,
    BookSnapshot,
    Event,
    Rejected,
    RestRequest,
    VenueRefused,
)
from marketd.daemon.feeds.asked import Asked
from marketd.daemon.feeds.levels import LevelReader, Sides, quick_reader
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_records import UNREADABLE, pack_trade, rejected, trade_records
from marketd.market.errors import InvalidArgument, RuleViolation
from marketd.market.instruments import Instrument
from marketd.market.records import Records, TradeFlag
from marketd.market.trade_ids import hashed_id

if TYPE_CHECKING:
    from marketd.market._compiled import Reader

MAX_DIGITS = 19  # an id of more does not fit into 64 bits
_BEYOND_64_BITS = 2**63
_HASHED_ID = int(TradeFlag.HASHED_ID)

Row = TypeVar("Row")


class AdapterBase:
    """Names, instruments and the loop; every REST call is one that the venue does not have."""

    venue = ""
    book_rule: BookRule | None = None
    numbered_trades = False
    has_key = needs_key = False
    unnumbered_books = False  # nothing but `Rejected.book` tells that a message of a book is missing
    ping: tuple[str, float] | None = None

    def __init__(self, *, book: bool, series: Sequence[str]) -> None:
        self._book = book
        self._series = frozenset(series)
        self._instruments: dict[str, Instrument] = {}  # by symbol
        self._readers: dict[str, LevelReader] = {}  # by symbol
        self._symbols: dict[str, str] = {}  # by wire name
        self._wire_names: dict[str, str] = {}  # by symbol
        self._quick: dict[str, Reader] = {}  # by the keys of messages that are read in C; empty: none are
        self._requests = Asked()

    # ---- names --------------------------------------------------------------------------------

    def wire_name(self, instrument: Instrument) -> str:
        """The venue's own name."""
        raise NotImplementedError

    def adopt(self, instrument: Instrument) -> None:
        symbol, wire = instrument.symbol, self.wire_name(instrument)
        self._instruments[symbol] = instrument
        self._readers[symbol] = LevelReader(instrument)
        self._symbols[wire] = symbol
        self._wire_names[symbol] = wire
        for key, told in self.keys(symbol, wire).items():
            self._quick.pop(key, None)
            if (quick := quick_reader(instrument, told)) is not None:
                self._quick[key] = quick

    def keys(self, symbol: str, wire: str) -> Mapping[str, Any]:
        """By what messages that are read at one go (`forms`) name an instrument, and what is told of each."""
        return {wire: symbol}

    def forget(self, symbol: str) -> None:
        self._instruments.pop(symbol, None)
        self._readers.pop(symbol, None)
        wire = self._wire_names.pop(symbol, None)
        if wire is not None:
            self._symbols.pop(wire, None)
            for key in self.keys(symbol, wire):
                self._quick.pop(key, None)

    def _wire(self, symbol: str) -> str:
        return self._wire_names.get(symbol, symbol)

    def _symbol(self, batch: Batch, wire: str) -> str | None:
        """The symbol of a wire name; None (and counted) when it was not subscribed."""
        symbol = self._symbols.get(wire)
        if symbol is None:
            batch.ignore("not subscribed")
        return symbol

    def cadences(self, symbol: str) -> dict[str, float]:
        return {}

    # ---- messages -----------------------------------------------------------------------------

    def decode_many(self, frames: Sequence[bytes]) -> list[Event]:
        batch, read, read_at_once, is_quick = Batch(), self._read, self._read_at_once, bool(self._quick)
        for frame in frames:
            try:
                if not (is_quick and read_at_once(batch, frame)):
                    read(batch, frame)
            except UNREADABLE as error:
                # who knows what it was: a message of any book perhaps
                lost = self.unnumbered_books and self._book
                batch.reject(None, "undecodable", f"{type(error).__name__}: {error}", frame, book=lost)
        return batch.events()

    def _read_at_once(self, batch: Batch, frame: bytes) -> bool:
        """Nearly all that comes, in one call where that was compiled (`forms`).

        False: it is something else, or not plain throughout, and was not touched.
        """
        return False

    def _read(self, batch: Batch, frame: bytes) -> None:
        """One message. What it raises (UNREADABLE) rejects it whole."""
        raise NotImplementedError

    def _trade(
        self, symbol: str, ts_ns: int, trade_id: str | int, price: str, size: str, side: int, flags: int = 0
    ) -> bytes:
        """One TRADE row; RuleViolation when a number does not fit the instrument's scales."""
        reader = self._readers[symbol]
        number, hashed = (trade_id, 0) if isinstance(trade_id, int) else id_of(trade_id)
        return pack_trade(ts_ns, 0, 0, number, reader.prices[price], reader.sizes[size], side, flags | hashed)

    def _pairs(self, batch: Batch, symbol: str, bids: msgspec.Raw, asks: msgspec.Raw, frame: bytes) -> Sides | None:
        """Both sides of a message of the book, arrays of `[price, size]`; None when it was rejected."""
        try:
            return self._readers[symbol].pairs(bids, asks)
        except RuleViolation as violation:
            batch.reject(symbol, violation.rule, violation, frame, book=True)
        except UNREADABLE as error:
            batch.reject(symbol, "undecodable", error, frame, book=True)
        return None

    # ---- REST ---------------------------------------------------------------------------------

    def time_request(self) -> RestRequest | None:
        return None

    def decode_time(self, body: bytes) -> int:
        raise VenueRefused(f"{self.venue} does not tell its time")

    def trades_since_request(self, symbol: str, ts_ns: int) -> RestRequest | None:
        return None

    def newest_trade_request(self, symbol: str) -> RestRequest | None:
        return None

    def snapshot_request(self, symbol: str) -> RestRequest | None:
        return None

    def decode_snapshot(self, symbol: str, body: bytes) -> BookSnapshot:
        raise VenueRefused(f"{self.venue} sends the snapshots of its books on the stream")

    def polls(self, symbol: str) -> list[tuple[RestRequest, float]]:
        return []

    def survey_texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        try:
            return self._texts(frame)
        except (*UNREADABLE, IndexError):
            return []

    def surveyed_pair(self, symbol: str) -> tuple[str, str]:
        return "", ""

    def _texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        raise NotImplementedError


def rows_of(
    decoder: msgspec.json.Decoder[list[Row]], one: type[Row], data: bytes | msgspec.Raw
) -> list[Row | Exception]:
    """A message's rows; where one is of the wrong shape, its error in its place, so that it costs no neighbour."""
    try:
        return list(decoder.decode(data))
    except msgspec.MsgspecError:
        return [_row(one, raw) for raw in msgspec.json.decode(data, type=list[msgspec.Raw])]


def _row(one: type[Row], raw: msgspec.Raw) -> Row | Exception:
    try:
        return msgspec.json.decode(raw, type=one, strict=False)
    except UNREADABLE as error:
        return error


def id_of(text: str) -> tuple[int, int]:
    """A trade id as a number, and the flag that says whether it is a hash of the venue's text."""
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text) < _BEYOND_64_BITS:
        return int(text), 0
    return hashed_id(text), _HASHED_ID


class RestRows:
    """Rows of a REST answer, each taken or rejected by itself."""

    def __init__(self, symbol: str) -> None:
        self._symbol = symbol
        self.rows: list[bytes] = []
        self.rejected: list[Rejected] = []

    def take(
        self,
        raw: msgspec.Raw,
        make: Callable[[msgspec.Raw], bytes | None],
        number: Callable[[msgspec.Raw], int | None] = lambda raw: None,
    ) -> None:
        """`make` a record's row of one raw row (None: it is left out), or reject that with its trade's `number`."""
        try:
            row = make(raw)
        except RuleViolation as violation:
            self.rejected.append(rejected(self._symbol, violation.rule, violation, bytes(raw), number(raw)))
        except UNREADABLE as error:
            self.rejected.append(rejected(self._symbol, "undecodable", error, bytes(raw), number(raw)))
        else:
            if row is not None:
                self.rows.append(row)

    def trades(self, order: str = "ts_event") -> Records:
        """TRADE records, ascending by a field; where it is equal they stay in the order in which they were taken."""
        records = trade_records(self.rows)
        return records[np.argsort(records[order], kind="stable")]


def pair_of(symbol: str, venue: str, example: str) -> tuple[str, str, str, str]:
    """Base, quote, what it settles in and when it ends, of ccxt's spelling; base alone of a name without "/".

    InvalidArgument for what is neither.
    """
    name = symbol.removesuffix(f".{venue}")
    pair, colon, settled = name.partition(":")
    base, slash, quote = pair.partition("/")
    settle, _, end = settled.partition("-")
    if (slash and not (base and quote)) or (colon and not (slash and settle)):
        raise InvalidArgument(f"symbols: {symbol!r} is no pair; write one such as {example!r}", field="symbols")
    return base.upper(), quote.upper(), settle.upper(), end.upper()
