"""What producers call, defined once: `Ingestion` turns each call into an `Offer` and hands it to `_take`.

The four producers (`DataIngestionPipeline`, its asyncio twin, and the buffers of both) differ only in what they do with
an offer and in what they return: a result, something to await, a future.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from marketd.client.calls import Plan
from marketd.client.catalogue import Catalogue
from marketd.client.encode import Encoded, encode
from marketd.client.encode_books import encode_book_rows
from marketd.ipc.protocol import Outcome, Refusal
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, Source
from marketd.market.times import parse_timeframe, type_time

R = TypeVar("R", covariant=True)
_SOURCES = {"venue": int(Source.VENUE), "import": int(Source.IMPORT)}


class Offer(NamedTuple):
    """Rows of one kind of one instrument, encoded."""

    instrument: Instrument
    kind: Kind
    encoded: Encoded


class IngestResult(NamedTuple):
    """What became of the rows of one call."""

    accepted: int
    refused: tuple[Refusal, ...] = ()  # (index, rule, detail), the index being the caller's
    durable: bool = True  # on disk in the journal; False: kept live only, because the journal is full
    ts_known: int | None = None  # ns; of the last batch that the rows went in, None when nothing was sent
    seq: int | None = None  # of the first accepted record
    repeated: bool = False  # the daemon had it already and repeated its first answer

    @property
    def ok(self) -> bool:
        """Whether every row was accepted, and is on disk."""
        return self.durable and not self.refused


def result_of(encoded: Encoded, outcomes: Iterable[tuple[int, Outcome]]) -> IngestResult:
    """The result of rows that went in batches, given as (index of the first record, outcome)."""
    result = IngestResult(0, encoded.refused)
    refused = list(encoded.refused)
    for start, outcome in outcomes:
        refused += [_as_the_caller_counts(encoded, start, refusal) for refusal in outcome.refused]
        result = IngestResult(
            accepted=result.accepted + outcome.accepted,
            refused=(),
            durable=result.durable and outcome.durable,
            ts_known=outcome.ts_known or result.ts_known,
            seq=result.seq if result.seq is not None else (outcome.seq if outcome.accepted else None),
            repeated=result.repeated or outcome.repeated,
        )
    return result._replace(refused=tuple(sorted(refused, key=lambda refusal: refusal.index)))


def _as_the_caller_counts(encoded: Encoded, start: int, refusal: Refusal) -> Refusal:
    place = start + refusal.index
    index = place if encoded.places is None else int(encoded.places[place])
    return Refusal(index, refusal.rule, refusal.detail)


def plan_offer(
    catalogue: Catalogue, stream: str, symbol: str | None, rows: Any, constants: dict[str, Any] | None = None
) -> Plan[Offer]:
    """Plan: the rows, encoded for the instrument that the daemon knows."""
    kind = yield from catalogue.kind(stream)
    instrument = yield from catalogue.instrument(symbol)
    if kind.name == "book":
        return Offer(instrument, kind, encode_book_rows(kind, instrument, rows))
    return Offer(instrument, kind, encode(kind, instrument, rows, constants or {}))


class Ingestion(ABC, Generic[R]):
    """The calls of a producer.

    Numbers may be text, int, float or Decimal, in real units; times an aware datetime, ISO text with offset
    or int ns. A value that does not fit (too many decimal places, out of range, not finite, a naive time)
    refuses its own row only. Rows in bulk are a dict of columns, a DataFrame (its index is the time), a
    `Frame`, or raw records of the kind's dtype.
    """

    _catalogue: Catalogue

    @abstractmethod
    def _take(self, plan: Plan[Offer]) -> R:
        """What this producer does with an offer."""

    def ingest_trade(
        self,
        symbol: str,
        ts: type_time,
        price: Any,
        size: Any,
        side: Any = None,
        trade_id: int | str | None = None,
    ) -> R:
        """One trade. side: the aggressor's, `"buy"`, `"sell"` or None. An id that is no integer is kept as its hash;
        without one nothing tells the trade from an equal one, so give it when there is one."""
        rows = {"time": [ts], "price": [price], "size": [size], "side": [side], "trade_id": [trade_id]}
        return self.ingest_trades(symbol, rows)

    def ingest_trades(self, symbol: str, rows: Any) -> R:
        """Trades: columns time, price, size; may have side, trade_id, flags."""
        return self.ingest("trade", symbol, rows)

    def ingest_ohlcv_candle(
        self,
        symbol: str,
        timeframe: str | int,
        ts: type_time,
        open: Any,
        high: Any,
        low: Any,
        close: Any,
        volume: Any,
        *,
        quote_volume: Any = None,
        buy_volume: Any = None,
        trade_count: int | None = None,
        source: str = "venue",
    ) -> R:
        """One closed bar of somebody else's (`source` is `"venue"` or `"import"`); ts is its open time."""
        row = {"time": ts, "open": open, "high": high, "low": low, "close": close, "volume": volume}
        further = {"quote_volume": quote_volume, "buy_volume": buy_volume, "trade_count": trade_count}
        rows = {name: [value] for name, value in (row | further).items()}
        return self.ingest_ohlcv_candles(symbol, timeframe, rows, source=source)

    def ingest_ohlcv_candles(self, symbol: str, timeframe: str | int, rows: Any, *, source: str = "venue") -> R:
        """Closed bars: columns time, open, high, low, close, volume; may have quote_volume, buy_volume, trade_count."""
        if source not in _SOURCES:
            raise InvalidArgument(
                f"source: {source!r} is none of {', '.join(_SOURCES)}; own bars are made by marketd from trades",
                field="source",
            )
        constants = {"timeframe": parse_timeframe(timeframe), "source": _SOURCES[source]}
        return self._take(plan_offer(self._catalogue, "candle", symbol, rows, constants))

    def ingest_orderbook_snapshot(
        self, symbol: str, ts: type_time, bids: Any, asks: Any, sequence: int | None = None
    ) -> R:
        """One whole book: lists of (price, size), the best level first. sequence: the source's number of this state.

        The daemon keeps the best `book.depth` levels of each side, and makes the imbalance of such books itself.
        """
        rows = {"time": [ts], "bids": [bids], "asks": [asks], "sequence": [sequence]}
        return self.ingest_orderbook_snapshots(symbol, rows)

    def ingest_orderbook_snapshots(self, symbol: str, rows: Any) -> R:
        """Books: columns time, bids, asks; may have sequence. Or an `OrderBookDataFrame`, or records."""
        return self.ingest("book", symbol, rows)

    def ingest(self, stream: str, symbol: str | None, rows: Any = None, /, **fields: Any) -> R:
        """Records of a stream (`trade`, `book` or a declared series; symbol None: a global one).

        Either `rows` in bulk, or one record's fields by name: `ingest("funding", "BTC/USDT", time=t, rate=0.1)`.
        """
        if stream == "candle":
            raise InvalidArgument("stream: bars are ingested with ingest_ohlcv_candles", field="stream")
        if (rows is None) == (not fields):
            raise InvalidArgument("rows: pass either rows or the fields of one record", field="rows")
        if rows is None:
            rows = {name: [value] for name, value in fields.items()}
        return self._take(plan_offer(self._catalogue, stream, symbol, rows))
