"""Refused records offered once more: `marketd quarantine replay`.

They go to the daemon as a producer's, under the kind and instrument that they bore, with the `ts_known` of now. A row
leaves the quarantine only after the daemon has answered for it from disk: what passes now is stored, and what is
refused again is in the quarantine anew, under the rule of today. So an interrupted replay is simply run again; trades
that passed before are then refused as `duplicate`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np

from marketd.client.calls import Plan
from marketd.client.encode import encode
from marketd.client.encode_books import encode_book_rows
from marketd.client.offers import Offer
from marketd.client.pipeline import DataIngestionPipeline
from marketd.market.book_rows import depth_of_bytes
from marketd.market.errors import InvalidArgument, MarketdError, UnknownStream
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, Records, book_kind

SOURCE = "quarantine replay"
_NUMBER = re.compile(r"-?\d+")
_CONSTANTS = ("timeframe", "source")  # of a bar that a producer's client refused
Row = Mapping[str, Any]  # as `sql.quarantine.show_quarantine` gives it


class Replayed(NamedTuple):
    """What became of some rows."""

    accepted: int
    refused: Counter[str]  # by rule; those are in the quarantine anew
    kept: Counter[str]  # by reason; they stay where they are
    done: tuple[int, ...]  # ids of the rows that the daemon has answered for


def replay(pipeline: DataIngestionPipeline, rows: Iterable[Row]) -> Iterable[Replayed]:
    """Offer the rows, in their order, and tell what became of each stretch of the same instrument and kind."""
    for _, group in groupby(rows, key=_likeness):
        yield _replay_alike(pipeline, list(group))


def _likeness(row: Row) -> tuple[Any, ...]:
    return row["instrument_id"], row["kind"], len(row["payload"]), _is_text(row)


def _replay_alike(pipeline: DataIngestionPipeline, rows: list[Row]) -> Replayed:
    if _is_text(rows[0]) and len(rows) > 1:
        return _joined([_replay_alike(pipeline, [row]) for row in rows])  # each has columns of its own
    try:
        offer = pipeline.run(_offer(pipeline, rows))
    except (InvalidArgument, UnknownStream, msgspec.MsgspecError, ValueError) as error:
        return Replayed(0, Counter(), Counter({str(error): len(rows)}), ())
    flaws = offer.encoded.refused  # rows that are no records now either: they are not sent
    result = pipeline.run(pipeline.delivering(offer._replace(encoded=offer.encoded._replace(rejected=()))))
    if not result.durable:
        raise MarketdError(
            "the journal is full, nothing is stored: replay again when there is room; see `marketd status`"
        )
    unsent = {refusal.index for refusal in flaws}
    refused = Counter(refusal.rule for refusal in result.refused if refusal.index not in unsent)
    kept = Counter(f"{refusal.rule}: {refusal.detail}" for refusal in flaws)
    done = tuple(row["id"] for index, row in enumerate(rows) if index not in unsent)
    return Replayed(result.accepted, refused, kept, done)


def _joined(found: Sequence[Replayed]) -> Replayed:
    return Replayed(
        sum(each.accepted for each in found),
        sum((each.refused for each in found), Counter[str]()),
        sum((each.kept for each in found), Counter[str]()),
        tuple(number for each in found for number in each.done),
    )


def _is_text(row: Row) -> bool:
    """A row that a producer's client refused: JSON of its columns."""
    return bytes(row["payload"][:1]) == b"{"


def _offer(pipeline: DataIngestionPipeline, rows: list[Row]) -> Plan[Offer]:
    """Plan: rows of one instrument and kind, encoded as a producer's."""
    row = rows[0]
    if not row["instrument"]:
        raise InvalidArgument(f"{row['kind']}: what a venue sent and was no record cannot be replayed")
    kind = yield from pipeline.catalogue.kind(row["kind"])
    instrument = yield from pipeline.catalogue.instrument(row["instrument"])
    if _is_text(row):
        return _text_offer(kind, instrument, bytes(row["payload"]))
    if instrument.id != row["instrument_id"]:
        raise InvalidArgument(f"the precision of {instrument.name} has changed since, these numbers mean others now")
    records = _records(kind, [bytes(each["payload"]) for each in rows])
    encoded = (
        encode_book_rows(kind, instrument, records) if kind.name == "book" else encode(kind, instrument, records, {})
    )
    return Offer(instrument, kind, encoded)


def _records(kind: Kind, payloads: Sequence[bytes]) -> Records:
    dtype = book_kind(depth_of_bytes(len(payloads[0]))).dtype if kind.name == "book" else kind.dtype
    if len(payloads[0]) != dtype.itemsize:
        raise InvalidArgument(f"{kind.name}: {len(payloads[0])} bytes are no record of it")
    return np.frombuffer(b"".join(payloads), dtype=dtype)


def _text_offer(kind: Kind, instrument: Instrument, payload: bytes) -> Offer:
    """Numbers are text there, times in ns too."""
    try:
        row = msgspec.json.decode(payload, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{kind.name}: the row was too long to be kept whole ({error})") from None
    row.pop("index", None)
    constants = {name: int(row.pop(name)) for name in _CONSTANTS if kind.name == "candle" and name in row}
    columns = {name: [_value(name, value)] for name, value in row.items()}
    if kind.name == "book":
        return Offer(instrument, kind, encode_book_rows(kind, instrument, columns))
    return Offer(instrument, kind, encode(kind, instrument, columns, constants))


def _value(name: str, value: Any) -> Any:
    is_whole = isinstance(value, str) and name not in ("price", "size") and _NUMBER.fullmatch(value)
    return int(value) if is_whole else value
