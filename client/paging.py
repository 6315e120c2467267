"""Long answers in pages, oldest first: any stretch of time in the memory of one page.

A page begins at the time of the last record of the one before, because more records may bear that time; those that came
already are left out by time and `seq`. Nothing is counted from the beginning, so the thousandth page costs what the
first does. A record that becomes known meanwhile, with a time that was passed already, is in no later page.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol

import numpy as np

from marketd.client.arguments import BarSource, Span, check_count
from marketd.client.books import frame_of
from marketd.client.calls import Call, Plan, ask
from marketd.client.catalogue import Catalogue
from marketd.client.frames import Frame
from marketd.client.requests import decode_answer, identities, ohlcv, page_of
from marketd.ipc.protocol import Answer, Rows
from marketd.market.errors import AnswerTooLarge, InvalidArgument, ProtocolError
from marketd.market.instruments import GLOBAL_NAME
from marketd.market.records import Kind, Records
from marketd.market.times import NS_PER_SECOND, parse_timeframe, type_time

DEFAULT_PAGE = 50_000


class Pager(Protocol):
    """`next` is the plan of the next page: a frame, which may be empty, or None after the last one."""

    def next(self) -> Plan[Frame | None]: ...


class RowPager:
    """Records of a stream from `start` (None: from the first) to `end`."""

    def __init__(
        self,
        catalogue: Catalogue,
        stream: str,
        symbol: str | None,
        start: type_time,
        end: type_time,
        page: int,
        timeframe: int | None = None,
    ) -> None:
        if stream == "candle" or (stream == "book" and timeframe is not None):
            raise InvalidArgument(f"stream: {stream} by timeframe does not come in pages of rows", field="stream")
        self._catalogue = catalogue
        self._stream = stream
        self._symbol = GLOBAL_NAME if symbol is None else symbol
        self._span = Span(start, end)
        self._page = check_count(page)
        self._timeframe = (timeframe or 1) if stream == "buckets" else timeframe
        self._edge: Records | None = None  # of the page before: those that bear its last time
        self._done = False

    def next(self) -> Plan[Frame | None]:
        if self._done:
            return None
        kind = yield from self._catalogue.kind(self._stream)
        answer, records, asked, latency_ns = yield from self._ask(kind)
        self._done = len(records) < asked
        if self._edge is not None:
            records = records[~np.isin(identities(records), identities(self._edge))]
        if not len(records):
            self._done = True
        else:
            self._advance(kind, records)
        answer.meta.latency_ns = latency_ns
        return frame_of(kind, answer.instrument, records, answer.meta, timeframe=self._timeframe)

    def _ask(self, kind: Kind) -> Plan[tuple[Answer, Records, int, int]]:
        while True:
            asked = min(self._page, page_of(kind)) + (0 if self._edge is None else len(self._edge))
            request = Rows(
                symbol=self._symbol,
                stream=self._stream,
                start=self._span.start,
                end=self._span.end,
                limit=asked,
                newest=False,
                timeframe=self._timeframe,
            )
            try:
                answer, reply = yield from ask(Call("query", request), Answer)
            except AnswerTooLarge:
                if self._page == 1:
                    raise
                self._page = max(1, min(self._page, asked) // 2)
                continue
            found = yield from decode_answer(self._catalogue, answer, reply.payloads)
            if len(found) != 1:
                raise ProtocolError("parts: one stream was asked for", field="parts")
            records = next(iter(found.values()))
            return answer, records, asked, reply.latency_ns

    def _advance(self, kind: Kind, records: Records) -> None:
        times = records[kind.time]
        last = int(times[-1])
        at_last = records[times == last]
        if self._edge is not None and self._span.start == last:
            at_last = np.concatenate([self._edge, at_last])
        self._edge = at_last
        self._span.start = last


class BarPager:
    """Bars of one timeframe from `start` to `end` (None: now), a stretch of `page` bars at a time."""

    def __init__(
        self,
        catalogue: Catalogue,
        symbol: str,
        timeframe: str | int,
        start: type_time,
        end: type_time,
        page: int,
        bar_source: BarSource,
    ) -> None:
        span = Span(start, end)
        if span.start is None:
            raise InvalidArgument("start: say where to begin", field="start")
        seconds = parse_timeframe(timeframe)
        self._asked = catalogue, symbol, seconds
        self._bar_source: BarSource = bar_source
        self._step_ns = check_count(page) * seconds * NS_PER_SECOND
        self._at = span.start
        self._end = time.time_ns() if span.end is None else span.end

    def next(self) -> Plan[Frame | None]:
        if self._at >= self._end:
            return None
        first, self._at = self._at, min(self._at + self._step_ns, self._end)
        return (yield from ohlcv(*self._asked, first, self._at, None, self._bar_source))


def pages(pager: Pager, run: Callable[[Plan[Frame | None]], Frame | None]) -> Iterator[Frame]:
    """The pages that have something in them."""
    while (frame := run(pager.next())) is not None:
        if len(frame):
            yield frame


async def async_pages(
    pager: Pager, run: Callable[[Plan[Frame | None]], Awaitable[Frame | None]]
) -> AsyncIterator[Frame]:
    """`pages`, in an event loop."""
    while (frame := await run(pager.next())) is not None:
        if len(frame):
            yield frame
