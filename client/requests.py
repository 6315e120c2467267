"""What is asked of the query actor, as plans; how its answers become frames. No sockets here.

The daemon passes rows on as PostgreSQL copied them out, or packed blocks as they are (`format="packed"`): newest first
or in no order, of bars every source; unpacking, cutting, choosing and ordering is done here, off its back. A long
answer is fetched in pages (`page_of`), newest first, so that no message is larger than the protocol allows and a
caller's limit is the only one he meets. Within one page the answer is one consistent picture; over several, records
that came meanwhile may be in the newest only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from marketd.client.arguments import BarSource, Span, check_limit, check_source, check_symbol, named_timeframes
from marketd.client.books import frame_of
from marketd.client.calls import Call, Plan, ask
from marketd.client.catalogue import Catalogue
from marketd.client.frames import Frame
from marketd.client.grid import SETTLE_NS, Fill, observed_intervals
from marketd.ipc import protocol
from marketd.ipc.protocol import Answer, Bars, Health, HealthReport, Meta, ResultPart, Rows
from marketd.ipc.sockets import Payload
from marketd.market import book_rows
from marketd.market.bars import SOURCES_PER_BAR, finish_bars
from marketd.market.block_stretch import Within, unpacked_stretch
from marketd.market.book_means import KIND_NAME as MEANS
from marketd.market.book_means import means_kind
from marketd.market.errors import AnswerTooLarge, BlockDamaged, Busy, InvalidArgument, ProtocolError
from marketd.market.instruments import GLOBAL_NAME, Instrument
from marketd.market.ordering import by_time
from marketd.market.records import BOOK_DEPTH, BY_NAME, Kind, Records, book_kind
from marketd.market.rows import codec
from marketd.market.times import NS_PER_SECOND, NS_PER_US, timeframe_name, type_time
from marketd.market.worth import worse

PAGE_RECORDS = 250_000
PAGE_BYTES = 60 << 20  # inside the protocol's MAX_PAYLOAD_BYTES
COPY_FACTOR = 2  # PostgreSQL's encoding puts a length before each field

_CANDLE = BY_NAME["candle"]


def page_of(kind: Kind) -> int:
    """Records of a page: of a bar there may be one row for each source in the answer."""
    copies = SOURCES_PER_BAR if kind.name == _CANDLE.name else 1
    return min(PAGE_RECORDS, PAGE_BYTES // (kind.dtype.itemsize * COPY_FACTOR * copies))


# ---- answers ------------------------------------------------------------------------------------


def decode_part(kind: Kind, part: ResultPart, payload: Payload) -> Records:
    """The records of one raw frame of an answer; ProtocolError when they are not what the header says."""
    if part.encoding == "records":
        return protocol.read_part(kind, part.count, payload)
    if part.encoding == "packed":
        return _unpacked(kind, part, payload)
    if part.encoding != "copy" or part.table is None:
        raise ProtocolError(f"parts: {part.name} comes as {part.encoding}, which was not asked for", field="parts")
    _, records = codec(part.table, kind).decode(payload)
    if len(records) != part.count:
        raise ProtocolError(f"parts: {part.name} has {len(records)} rows, its header says {part.count}", field="parts")
    return records


def _unpacked(kind: Kind, part: ResultPart, payload: Payload) -> Records:
    view = memoryview(payload)
    lengths = part.blocks or [len(view)]  # a daemon that knows of one block only tells no length
    if sum(lengths) != len(view):
        raise ProtocolError(f"parts: {part.name} has {len(view)} bytes, its header says {sum(lengths)}", field="parts")
    ends = np.cumsum(lengths).tolist()
    blocks = [view[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    try:
        return unpacked_stretch(blocks, kind, Within(part.start, part.end), count=part.count)
    except BlockDamaged as error:
        raise ProtocolError(f"parts: {part.name}: {error}", field="parts") from error


def decode_answer(catalogue: Catalogue, answer: Answer, payloads: Sequence[Payload]) -> Plan[dict[str, Records]]:
    """Plan: the records of each part by its name."""
    if len(payloads) != len(answer.parts):
        raise ProtocolError(f"parts: {len(answer.parts)} are announced, {len(payloads)} came", field="parts")
    found = {}
    for part, payload in zip(answer.parts, payloads, strict=True):
        kind = yield from _kind_of(catalogue, part)
        found[part.name] = decode_part(kind, part, payload)
    return found


def _kind_of(catalogue: Catalogue, part: ResultPart) -> Plan[Kind]:
    """Plan: the kind of a part; books tell how deep they are."""
    if part.kind == MEANS:
        return means_kind(part.depth or BOOK_DEPTH)
    if part.kind == "book" and part.depth is not None:
        return book_kind(part.depth)
    return (yield from catalogue.kind(part.kind))


def joined(parts: Sequence[Records]) -> Records:
    """Records of one kind in their order; books at the depth of the deepest."""
    if len(parts) == 1:
        return parts[0]
    deep = "bid_price" in (parts[0].dtype.names or ())
    return book_rows.join(parts) if deep else np.concatenate(parts)


# ---- pages --------------------------------------------------------------------------------------


class _Pages:
    """One series of records that is fetched from its newest end, page by page.

    A page ends after the oldest time of the one before, because more records may bear that time; those that came
    already (`_edge`) come again, are asked for on top, and are left out. So every page brings something new.
    """

    def __init__(self, limit: int | None, kind: Kind) -> None:
        self.done = False
        self._missing = limit  # records still wanted; None: all
        self._pages: list[Records] = []
        self._time = kind.time
        self._edge: Records = np.zeros(0, dtype=kind.dtype)

    def want(self, page: int) -> int:
        """How many records to ask for next."""
        return len(self._edge) + (page if self._missing is None else min(page, self._missing))

    def add(self, records: Records, asked: int) -> None:
        """A page: the answer to a request for `asked` records."""
        self.done = len(records) < asked
        if len(self._edge):
            records = records[~np.isin(identities(records), identities(self._edge))]
        if self._missing is not None:
            records = records[max(0, len(records) - self._missing) :]
            self._missing -= len(records)
            self.done = self.done or not self._missing
        self.done = self.done or not len(records)
        self._pages.append(records)
        if not self.done:
            oldest = records[self._time].min()
            candidates = joined((self._edge, records)) if len(self._edge) else records
            self._edge = candidates[candidates[self._time] == oldest]

    def next_end(self) -> int | None:
        """Where the next page ends; None when there is none."""
        return None if self.done else int(self._edge[self._time][0]) + NS_PER_US

    def records(self) -> Records:
        return joined(self._pages[::-1])


def identities(records: Records) -> Records:
    """What tells two records of one instrument and stream apart: time and number."""
    names = records.dtype.names or ()
    found = np.empty(len(records), dtype=[("time", "<i8"), ("seq", "<i8")])
    found["time"] = records[names[0]]
    found["seq"] = records["seq"]
    return found


class _Progress:
    """Where the plan's records come from, and of what instrument they are."""

    def __init__(self) -> None:
        self.instrument: Instrument | None = None
        self.meta = Meta()

    def add(self, answer: Answer, latency_ns: int) -> None:
        """The first answer is the newest page: its instrument and watermark are the whole's."""
        if self.instrument is None:
            self.instrument, self.meta = answer.instrument, answer.meta
            self.meta.latency_ns = latency_ns
            return
        if answer.instrument.id != self.instrument.id:
            name = answer.instrument.name
            raise Busy(f"symbol: {name} got a finer precision, and with it another id, in the middle; ask again")
        self.meta.latency_ns = (self.meta.latency_ns or 0) + latency_ns
        self.meta.gaps = sorted({*self.meta.gaps, *answer.meta.gaps})
        self.meta.coverage = worse(self.meta.coverage, answer.meta.coverage)
        if answer.meta.served_from != self.meta.served_from:
            self.meta.served_from = "database+arena"


# ---- plans --------------------------------------------------------------------------------------


def bars(
    catalogue: Catalogue,
    symbol: str,
    timeframes: Sequence[str | int],
    start: type_time = None,
    end: type_time = None,
    limit: int | None = None,
    bar_source: BarSource = "best",
    known_at: int | None = None,
) -> Plan[dict[str, Frame]]:
    """Plan: closed bars with start <= time < end of each timeframe, the newest `limit`, oldest first; with `known_at`
    (ns) in the newest versions that were known then.
    """
    check_symbol(symbol)
    span, wanted = Span(start, end), named_timeframes(timeframes)
    check_limit(limit)
    check_source(bar_source)
    kind = _CANDLE
    progress, page = _Progress(), page_of(kind)
    pages = {seconds: _Pages(limit, kind) for seconds in wanted.values()}
    ends: dict[int, int | None] = dict.fromkeys(pages, span.end)
    while rest := [seconds for seconds in pages if not pages[seconds].done]:
        group = [seconds for seconds in rest if ends[seconds] == ends[rest[0]]]
        asked = max(pages[seconds].want(max(1, page // len(group))) for seconds in group)
        request = Bars(
            symbol=symbol,
            timeframes=group,
            start=span.start,
            end=ends[group[0]],
            limit=asked,
            bar_source=bar_source,
            known_at=known_at,
            format="packed",
        )
        try:
            answer, reply = yield from ask(Call("query", request), Answer)
        except AnswerTooLarge:
            page = _smaller(page)  # bars that are made of many smaller ones
            continue
        progress.add(answer, reply.latency_ns)
        found = yield from decode_answer(catalogue, answer, reply.payloads)
        for seconds in group:
            records = _part(found, f"candle.{timeframe_name(seconds)}")
            pages[seconds].add(finish_bars(records, bar_source, asked), asked)
            ends[seconds] = pages[seconds].next_end()
    assert progress.instrument is not None
    return {
        name: Frame(kind, progress.instrument, pages[seconds].records(), progress.meta, timeframe=seconds)
        for name, seconds in wanted.items()
    }


def _single(catalogue: Catalogue, symbol: str, timeframe: str | int, *rest: Any) -> Plan[Frame]:
    found = yield from bars(catalogue, symbol, [timeframe], *rest)
    return next(iter(found.values()))


def ohlcv(
    catalogue: Catalogue,
    symbol: str,
    timeframe: str | int,
    start: type_time = None,
    end: type_time = None,
    limit: int | None = None,
    bar_source: BarSource = "best",
    fill: Fill = None,
    known_at: int | None = None,
) -> Plan[Frame]:
    """Plan: bars of one timeframe; with `fill`, on their grid (see `Frame.grid`)."""
    frame = yield from _single(catalogue, symbol, timeframe, start, end, limit, bar_source, known_at)
    if fill is None:
        return frame
    return (yield from _on_grid(catalogue, symbol, frame, Span(start, end), limit, bar_source, fill, known_at))


def _on_grid(
    catalogue: Catalogue,
    symbol: str,
    frame: Frame,
    span: Span,
    limit: int | None,
    bar_source: BarSource,
    fill: Fill,
    known_at: int | None,
) -> Plan[Frame]:
    seconds = frame.timeframe or 0
    step = seconds * NS_PER_SECOND
    if not len(frame) and (span.start is None or span.end is None):
        return frame.grid(0, 0, fill)
    first = int(frame.records["ts"][0]) if span.start is None else span.start
    last = int(frame.records["ts"][-1]) + step if span.end is None else span.end
    if limit is not None:
        first = max(first, last // step * step - limit * step)
    before = yield from _single(
        catalogue, symbol, seconds, None, first, 1, bar_source, known_at
    )  # the price until then
    coverage = yield from rows(catalogue, "coverage", symbol, known_at=known_at)
    settled = max(frame.meta.watermark or 0, int(frame.records["ts_known"].max(initial=0)))
    if known_at is not None:
        settled = min(settled, known_at)
    observed = observed_intervals(coverage.records, settled - SETTLE_NS, timeframe=seconds)
    inside = frame.records[frame.records["ts"] >= first]
    joined = np.concatenate((before.records, inside))
    whole = Frame(frame.kind, frame.instrument, joined, frame.meta, timeframe=seconds)
    return whole.grid(first, last, fill, observed)


def rows(
    catalogue: Catalogue,
    stream: str,
    symbol: str | None,
    start: type_time = None,
    end: type_time = None,
    limit: int | None = None,
    *,
    timeframe: int | None = None,
    known_at: int | None = None,
) -> Plan[Frame]:
    """Plan: records of a stream with start <= time < end, the newest `limit`, oldest first.

    timeframe (s): whose buckets; of books, the last LIVE one of each interval. known_at (ns): as it was known then.
    """
    span = Span(start, end)
    kind = yield from catalogue.kind(stream)
    if kind.name == "candle":
        raise InvalidArgument("stream: bars are asked for with query_ohlcv_data", field="stream")
    if kind.name == "book" and timeframe is not None:
        kind = means_kind(kind.dtype["bid_price"].shape[0])
    if kind.name == "buckets":
        timeframe = timeframe or 1
    name = stream if timeframe is None else f"{stream}.{timeframe_name(timeframe)}"
    pages, progress, page_end, page = _Pages(check_limit(limit), kind), _Progress(), span.end, page_of(kind)
    while not pages.done:
        asked = pages.want(page)
        request = Rows(
            symbol=GLOBAL_NAME if symbol is None else symbol,
            stream=stream,
            start=span.start,
            end=page_end,
            limit=asked,
            known_at=known_at,
            format="packed",
            timeframe=timeframe,
        )
        try:
            answer, reply = yield from ask(Call("query", request), Answer)
        except AnswerTooLarge:
            page = _smaller(page)
            continue
        progress.add(answer, reply.latency_ns)
        found = yield from decode_answer(catalogue, answer, reply.payloads)
        records = _part(found, name)
        pages.add(by_time(records, kind.time)[-asked:], asked)
        page_end = pages.next_end()
    assert progress.instrument is not None
    return frame_of(kind, progress.instrument, pages.records(), progress.meta, timeframe=timeframe)


def instruments(catalogue: Catalogue) -> Plan[list[Instrument]]:
    """Plan: the instruments of the daemon that were not removed."""
    description = yield from catalogue.describe(fresh=True)
    return [instrument for instrument in description.instruments if not instrument.removed]


def streams(catalogue: Catalogue) -> Plan[dict[str, int]]:
    """Plan: the kinds' names and numbers, those of the daemon's declared series too."""
    description = yield from catalogue.describe(fresh=True)
    return {name: kind.id for name, kind in BY_NAME.items()} | {
        stream.name: stream.id for stream in description.streams
    }


def health(catalogue: Catalogue) -> Plan[HealthReport]:
    """Plan: what the daemon says of itself."""
    report, _ = yield from ask(Call("query", Health()), HealthReport)
    return report


def _smaller(page: int) -> int:
    """A page of half the size, after one was too large for the daemon; with nothing left to halve, its error again."""
    if page < 2:
        raise AnswerTooLarge
    return page // 2


def _part(found: dict[str, Records], name: str) -> Any:
    if name not in found:
        raise ProtocolError(f"parts: {name} was asked for and is not in the answer", field="parts")
    return found[name]
