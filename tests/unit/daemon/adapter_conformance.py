"""What every venue's adapter must keep, as functions that raise AssertionError; `test_adapter_conformance.py` runs them
for each row of the table of venues. A new venue adds its `Sample`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from adapter_samples import SAMPLES, Sample

from marketd.daemon.feeds.adapter import (
    MAX_NAME_CHARS,
    BookDelta,
    BookSnapshot,
    Candles,
    Event,
    Ignored,
    Rejected,
    Series,
    Trades,
    Venue,
    VenueAdapter,
    VenueClosing,
    VenueError,
    VenueRefused,
    VenueTime,
)
from marketd.daemon.feeds.venues import VENUES, venue_of
from marketd.market.errors import InvalidArgument
from marketd.market.records import CANDLE, TRADE, Source

NO_SYMBOLS = ("", "/", "BTC/", "/USD", "BTC/USD/EUR", "B T C", "日本", "BTC\nUSD", "A" * 60)
MAX_COMMAND_BYTES = 16_384
MAX_STREAM_CHARS = 100


class Case(NamedTuple):
    """One venue at one of its addresses."""

    name: str
    venue: Venue
    sample: Sample

    def adapter(self, *, book: bool = True, adopted: bool = True) -> VenueAdapter:
        adapter = self.venue.adapter(trades="trade", candles=self.sample.candles, book=book, series=self.venue.series)
        if adopted:
            for instrument in self.sample.instruments:
                adapter.adopt(instrument)
        return adapter


def cases() -> list[Case]:
    """One for each row of the table, and for each older protocol; that none lacks its sample is a test of its own."""
    rows = [(name, venue) for name, venue in VENUES.items()]
    older = [(f"{name} at {url}", venue_of(name, url)) for name, url in OLDER]
    return [Case(name, venue, SAMPLES[name]) for name, venue in rows + older if name in SAMPLES]


OLDER = (("COINBASE", "wss://ws-feed.exchange.coinbase.com"), ("KRAKEN", "wss://ws.kraken.com"))


# ---- names and streams ----------------------------------------------------------------------------


def names_go_both_ways(case: Case) -> None:
    adapter = case.adapter()
    for instrument in case.sample.instruments:
        symbol = instrument.symbol
        assert adapter.venue_symbol(symbol) == symbol
        assert adapter.venue_symbol(f"{symbol}.{adapter.venue}") == symbol
        assert symbol.isascii() and symbol == symbol.upper()
        assert instrument.venue == adapter.venue
    for text in case.sample.spellings:
        assert adapter.venue_symbol(text) == case.sample.instruments[0].symbol, text


def what_is_no_symbol_is_refused(case: Case) -> None:
    adapter = case.adapter()
    for text in NO_SYMBOLS:
        with pytest.raises(InvalidArgument):
            adapter.venue_symbol(text)


def streams_are_named_once(case: Case) -> None:
    adapter = case.adapter()
    every = [stream for instrument in case.sample.instruments for stream in adapter.streams(instrument.symbol)]
    assert len(set(every)) == len(every)
    assert all(stream and len(stream) <= MAX_STREAM_CHARS for stream in every)
    assert adapter.streams("X"), "the feed asks for an unknown symbol's streams to count them"
    for instrument in case.sample.instruments:
        book = adapter.book_streams(instrument.symbol)
        assert book
        assert set(book) < set(adapter.streams(instrument.symbol))
        without = case.adapter(book=False)
        assert not set(without.streams(instrument.symbol)) & set(book)


def every_stream_is_asked_for(case: Case) -> None:
    """In the address of the connection or in a command; and can be given back."""
    adapter = case.adapter()
    streams = [stream for instrument in case.sample.instruments for stream in adapter.streams(instrument.symbol)]
    url, left = adapter.connect_url(case.venue.ws_url, streams)
    assert url.startswith(case.venue.ws_url.split("/stream")[0])
    assert set(left) <= set(streams)
    asked = adapter.commands("SUBSCRIBE", left, 1)
    given_back = adapter.commands("UNSUBSCRIBE", streams, 100)
    for wire in case.sample.wires:
        assert any(wire in text for text in (url, *asked)), f"{wire} is nowhere asked for"
        assert any(wire in text for text in given_back)
    for text in asked + given_back:
        assert isinstance(json.loads(text), dict)
        assert len(text.encode()) <= MAX_COMMAND_BYTES
    assert len(set(asked)) == len(asked)


def a_book_alone_can_be_asked_for_anew(case: Case) -> None:
    adapter = case.adapter()
    for instrument in case.sample.instruments:
        streams = adapter.book_streams(instrument.symbol)
        assert adapter.commands("UNSUBSCRIBE", streams, 1)
        assert adapter.commands("SUBSCRIBE", streams, 2)


# ---- messages -------------------------------------------------------------------------------------


def uses(events: Sequence[Event]) -> list[str]:
    """The names of the events, apart from times."""
    return [type(event).__name__ for event in events if not isinstance(event, VenueTime)]


def each_example_gives_what_it_should(case: Case) -> None:
    adapter = case.adapter()
    for wanted, frame in case.sample.frames:
        found = uses(adapter.decode_many([frame]))
        assert wanted in found, f"{frame[:200]!r} gives {found}, not {wanted}"
        assert "Rejected" not in found or wanted == "Rejected"


def frames_together_say_what_they_say_alone(case: Case) -> None:
    frames = [frame for _, frame in case.sample.frames]
    one_by_one, together = case.adapter(), case.adapter()
    alone = [event for frame in frames for event in one_by_one.decode_many([frame])]
    at_once = together.decode_many(frames)
    for kind in (BookSnapshot, BookDelta, VenueError, VenueClosing, Rejected):
        assert [e for e in alone if isinstance(e, kind)] == [e for e in at_once if isinstance(e, kind)]
    for grouped in (Trades, Candles):
        assert _rows(alone, grouped) == _rows(at_once, grouped)
    assert _ignored(alone) == _ignored(at_once)


def _rows(events: Sequence[Event], kind: Any) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {}
    for event in events:
        if isinstance(event, kind):
            rows.setdefault(event.symbol, []).extend(event.records.tolist())
    return rows


def _ignored(events: Sequence[Event]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for event in events:
        if isinstance(event, Ignored):
            counts[event.name] = counts.get(event.name, 0) + event.messages
    return counts


def every_message_is_accounted_for(case: Case, frames: Sequence[bytes]) -> None:
    """Whatever the bytes are: nothing raises, and each message gives at least one event that names it."""
    adapter = case.adapter()
    for frame in frames:
        events = adapter.decode_many([frame])
        assert uses(events), f"{frame[:200]!r} is not accounted for"
        for event in events:
            _is_sound(event)


def _is_sound(event: Event) -> None:
    if isinstance(event, Trades):
        assert event.records.dtype == TRADE
        assert len(event.records)
    elif isinstance(event, Candles):
        assert event.records.dtype == CANDLE
        assert (event.records["source"] == Source.VENUE).all()
    elif isinstance(event, (BookSnapshot, BookDelta)):
        for levels in (event.bids, event.asks):
            assert len(levels.prices) == len(levels.sizes)
            assert all(price > 0 for price in levels.prices)
            assert all(size >= 0 for size in levels.sizes)
    elif isinstance(event, Ignored):
        assert event.name
        assert len(event.name) <= MAX_NAME_CHARS
        assert event.name.isprintable()
        assert event.messages > 0


def symbols_that_are_not_adopted_are_ignored(case: Case) -> None:
    never = case.adapter(adopted=False)
    forgotten = case.adapter()
    for instrument in case.sample.instruments:
        forgotten.forget(instrument.symbol)
        forgotten.forget(instrument.symbol)  # twice is once
    for adapter in (never, forgotten):
        for _, frame in case.sample.frames:
            events = adapter.decode_many([frame])
            assert not [e for e in events if isinstance(e, (Trades, Candles, Series, BookSnapshot, BookDelta))]
            assert uses(events)


def without_books_their_messages_are_ignored(case: Case) -> None:
    adapter = case.adapter(book=False)
    for _, frame in case.sample.frames:
        events = adapter.decode_many([frame])
        assert not [event for event in events if isinstance(event, (BookSnapshot, BookDelta))]
        assert uses(events)


def texts_of_recordings_are_told(case: Case) -> None:
    adapter = case.adapter(adopted=False)
    symbols = {instrument.symbol for instrument in case.sample.instruments}
    told = [text for _, frame in case.sample.frames for text in adapter.survey_texts(frame)]
    assert all(isinstance(part, str) for row in told for part in row)
    assert symbols & {symbol for symbol, _, _ in told} or not case.sample.frames


# ---- rules, limits, REST --------------------------------------------------------------------------


def a_book_rule_is_there(case: Case) -> None:
    adapter = case.adapter()
    rule = adapter.book_rule
    assert rule is not None
    assert rule.depth >= 0
    symbol = case.sample.instruments[0].symbol
    assert (adapter.snapshot_request(symbol) is not None) == (rule.snapshot == "rest")


def limits_are_sane(case: Case) -> None:
    limits = case.venue.limits
    adapter = case.adapter()
    assert limits.streams_per_connection >= len(adapter.streams(case.sample.instruments[0].symbol))
    assert 0 < limits.commands_per_second <= 100
    assert limits.commands_per_hour >= 0
    assert 0 < limits.ping_interval_seconds <= 300
    assert limits.session_seconds > 3600
    assert limits.weight_per_minute > 0
    assert limits.page_rows >= 1
    assert case.venue.ws_url.startswith("wss://")
    assert case.venue.rest_url.startswith("https://")
    assert case.venue.name == adapter.venue
    assert all(timeframe > 0 and 86_400 % timeframe == 0 for timeframe in adapter.timeframes)
    if adapter.ping is not None:
        text, seconds = adapter.ping
        assert text
        assert 1.0 <= seconds <= 60.0


def rest_calls_fit_the_budget(case: Case) -> None:
    adapter = case.adapter()
    for instrument in case.sample.instruments:
        symbol = instrument.symbol
        requests = [
            adapter.instruments_request([symbol]),
            adapter.time_request(),
            adapter.trades_request(symbol, 1),
            adapter.newest_trade_request(symbol),
            adapter.snapshot_request(symbol),
            *(adapter.bars_request(symbol, timeframe, 0) for timeframe in adapter.timeframes),
            *(request for request, _ in adapter.polls(symbol)),
        ]
        for request in requests:
            if request is not None:
                assert request.target.startswith("/")
                assert request.target.isascii()
                assert not set(request.target) & set(" \n")
                assert 0 < request.weight <= case.venue.limits.weight_per_minute / 2


def an_answer_that_is_none_is_refused(case: Case, body: bytes) -> None:
    """Each decoder of a REST answer gives what it was asked for, or raises VenueRefused."""
    adapter = case.adapter()
    symbol = case.sample.instruments[0].symbol
    decoders: list[Callable[[], Any]] = [
        lambda: adapter.decode_instruments(body, [symbol]),
        lambda: adapter.decode_time(body),
        lambda: adapter.decode_trades(symbol, body),
        lambda: adapter.decode_snapshot(symbol, body),
        *(lambda t=timeframe: adapter.decode_bars(symbol, t, body, 2**62) for timeframe in adapter.timeframes),
    ]
    for decode in decoders:
        try:
            decode()
        except VenueRefused as refused:
            assert str(refused)
    for event in adapter.decode_rest("/nothing/of/that/kind?symbol=X", body):
        assert isinstance(event, Ignored)
