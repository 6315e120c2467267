"""Plans of queries, driven without sockets: pages, encodings, grids, and what is refused before it is sent."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_daemon import BTC, CANDLE, COVERAGE, FUNDING, MINUTE_NS, TRADE, FakeDaemon, candles, trades
from marketd.client import requests
from marketd.client.calls import Call, Plan, Reply
from marketd.client.catalogue import Catalogue
from marketd.ipc import protocol
from marketd.market.errors import InvalidArgument, ProtocolError, UnknownInstrument, UnknownStream
from marketd.market.records import CandleFlag, Coverage, Source, series_kind


@pytest.fixture
def daemon(tmp_path: Any) -> FakeDaemon:
    return FakeDaemon(tmp_path)  # answers without being started


def run(daemon: FakeDaemon, plan: Plan[Any]) -> Any:
    reply = None
    try:
        while True:
            call = next(plan) if reply is None else plan.send(reply)
            assert isinstance(call, Call)
            daemon.received.append(call.message)
            handler = daemon.reply or daemon._handle
            message, frames = handler(call.message, list(call.frames))
            reply = Reply(message, frames, 1_000)
    except StopIteration as end:
        return end.value


def test_an_answer_in_postgresqls_encoding_equals_one_in_records(daemon: FakeDaemon) -> None:
    daemon.store("trade", trades(range(10)))
    copied = run(daemon, requests.rows(Catalogue(), "trade", "BTC/USDT"))
    daemon.encoding = "records"
    plain = run(daemon, requests.rows(Catalogue(), "trade", "BTC/USDT"))
    assert plain.digest == copied.digest and len(plain) == 10
    assert plain.meta.served_from == "database" and plain.meta.latency_ns == 1_000


def test_start_is_inclusive_and_end_is_not_and_both_are_ceiled(daemon: FakeDaemon) -> None:
    daemon.store("trade", trades(range(10), ts=0))
    frame = run(daemon, requests.rows(Catalogue(), "trade", "BTCUSDT.BINANCE", 2_999_001, 5_000_000))
    assert frame["trade_id"].tolist() == [3, 4]
    assert (daemon.received[-1].start, daemon.received[-1].end) == (3_000_000, 5_000_000)


@given(st.integers(1, 40), st.integers(1, 7), st.one_of(st.none(), st.integers(1, 45)), st.integers(1, 3))
def test_pages_join_to_what_one_answer_would_have_been(
    tmp_path_factory: Any, count: int, page: int, limit: int | None, same: int
) -> None:
    daemon = FakeDaemon(tmp_path_factory.getbasetemp())
    records = trades(range(count))
    records["ts_event"] = 1_000_000 * (np.arange(count) // same)  # several at one time, across a page's edge
    daemon.store("trade", records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "PAGE_RECORDS", page + same)
        frame = run(daemon, requests.rows(Catalogue(), "trade", "BTCUSDT", None, None, limit))
    expected = records if limit is None else records[-limit:]
    assert (frame.records == expected).all() and len(frame) == len(expected)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(2, 9), st.one_of(st.none(), st.integers(1, 33)))
def test_pages_of_several_timeframes_join_too(
    tmp_path_factory: Any, seconds: int, minutes: int, page: int, limit: int | None
) -> None:
    daemon = FakeDaemon(tmp_path_factory.getbasetemp())
    daemon.store("candle", candles(range(seconds), timeframe=1))
    daemon.store("candle", candles(range(minutes), timeframe=60, first_seq=1_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "PAGE_RECORDS", page)
        frames = run(daemon, requests.bars(Catalogue(), "BTCUSDT", ["1s", "1m"], None, None, limit))
    for name, count in (("1s", seconds), ("1m", minutes)):
        expected = count if limit is None else min(limit, count)
        assert frames[name].records["seq"].tolist() == sorted(frames[name].records["seq"])
        assert len(frames[name]) == expected
    assert frames["1m"].timeframe == 60


@pytest.mark.parametrize("encoding", ["copy", "packed", "records"])
def test_of_several_sources_the_best_bar_is_chosen_here(daemon: FakeDaemon, encoding: Any) -> None:
    daemon.encoding = encoding
    daemon.store("candle", candles([1], flags=int(CandleFlag.PARTIAL)))
    daemon.store("candle", candles([2, 3]))
    for source in (Source.VENUE, Source.IMPORT):
        daemon.store("candle", candles(range(5), source=source))
    frame = run(daemon, requests.ohlcv(Catalogue(), "BTCUSDT", "1m", None, None, 4))
    assert frame["source"].tolist() == [2, 1, 1, 2]
    imported = run(daemon, requests.ohlcv(Catalogue(), "BTCUSDT", "1m", None, None, 4, "import"))
    assert imported["source"].tolist() == [3] * 4


def test_a_page_of_any_kind_fits_into_a_message() -> None:
    fields = {f"field_{n}": "f8" for n in range(60)}
    for kind in (TRADE, CANDLE, COVERAGE, series_kind(70, "wide", fields)):
        copies = 3 if kind is CANDLE else 1
        row_bytes = 2 + 8 + sum(4 + kind.dtype[name].itemsize for name in kind.dtype.names or ())
        assert requests.page_of(kind) * copies * row_bytes <= protocol.MAX_PAYLOAD_BYTES
    assert requests.page_of(CANDLE) >= 86_400  # a day of seconds is one answer


def test_a_filled_answer_takes_the_ledger_and_the_price_before(daemon: FakeDaemon) -> None:
    daemon.store("candle", candles([1, 5]))
    ledger = np.zeros(1, dtype=COVERAGE.dtype)
    ledger["ts_start"], ledger["ts_end"], ledger["state"] = 0, 100 * MINUTE_NS, Coverage.OBSERVED
    ledger["stream"], ledger["seq"] = TRADE.id, 1
    daemon.store("coverage", ledger)
    daemon.watermark = 50 * MINUTE_NS
    plan = requests.ohlcv(Catalogue(), "BTCUSDT", "1m", 3 * MINUTE_NS, 7 * MINUTE_NS, None, "best", "quiet")
    frame = run(daemon, plan)
    assert frame["close"].tolist() == [100.01, 100.01, 100.05, 100.05]
    assert frame["is_filled"].tolist() == [True, True, False, True]


def test_nothing_is_filled_beyond_what_the_daemon_has_settled(daemon: FakeDaemon) -> None:
    daemon.store("candle", candles([1]))
    ledger = np.zeros(1, dtype=COVERAGE.dtype)
    ledger["ts_end"], ledger["state"] = 100 * MINUTE_NS, Coverage.OBSERVED
    ledger["stream"] = TRADE.id
    daemon.store("coverage", ledger)
    daemon.watermark = 4 * MINUTE_NS
    plan = requests.ohlcv(Catalogue(), "BTCUSDT", "1m", MINUTE_NS, 6 * MINUTE_NS, None, "best", "quiet")
    assert np.isnan(run(daemon, plan)["close"]).tolist() == [False, False, True, True, True]


def test_a_limited_grid_ends_at_the_newest_bar(daemon: FakeDaemon) -> None:
    daemon.store("candle", candles([1, 9]))
    frame = run(daemon, requests.ohlcv(Catalogue(), "BTCUSDT", "1m", None, None, 3, "best", "nan"))
    assert (frame["time"] // MINUTE_NS).tolist() == [7, 8, 9]


def test_a_stream_that_was_declared_meanwhile_is_found(daemon: FakeDaemon) -> None:
    catalogue = Catalogue()
    frame = run(daemon, requests.rows(catalogue, "funding", "bitcoin"))
    assert frame.kind.fields == FUNDING.fields
    with pytest.raises(UnknownStream, match="funding"):
        run(daemon, requests.rows(catalogue, "fundung", "BTCUSDT"))


def test_an_instrument_that_was_added_meanwhile_is_found_and_an_unknown_one_is_not(daemon: FakeDaemon) -> None:
    catalogue = Catalogue()
    assert run(daemon, catalogue.instrument("bitcoin")) == BTC
    added = protocol.Instrument(id=9, symbol="ETHUSDT", venue="BINANCE", price_scale=2, size_scale=4, quote_scale=6)
    daemon.instruments.append(added)
    assert run(daemon, catalogue.instrument("ETHUSDT")) == added
    asked = len(daemon.received)
    assert run(daemon, catalogue.instrument("ETHUSDT")) == added and len(daemon.received) == asked
    with pytest.raises(UnknownInstrument, match="DOGE"):
        run(daemon, catalogue.instrument("DOGE"))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"start": 2_000_000, "end": 1_000_000}, "end"),
        ({"start": "2024-08-08"}, "start"),
        ({"bar_source": "mine"}, "bar_source"),
        ({"timeframes": []}, "timeframes"),
        ({"timeframes": "1m"}, "timeframes"),
        ({"timeframes": ["7 moons"]}, "timeframes"),
    ],
)
def test_arguments_are_checked_before_anything_is_sent(
    daemon: FakeDaemon, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        run(daemon, requests.bars(Catalogue(), "BTCUSDT", **({"timeframes": ["1m"]} | arguments)))
    assert caught.value.field == field and not daemon.received


def test_bars_are_no_rows(daemon: FakeDaemon) -> None:
    with pytest.raises(InvalidArgument, match="query_ohlcv_data"):
        run(daemon, requests.rows(Catalogue(), "candle", "BTCUSDT"))


@pytest.mark.parametrize("damage", ["missing", "renamed", "short", "arrow"])
def test_an_answer_that_contradicts_itself_is_a_protocol_error(daemon: FakeDaemon, damage: str) -> None:
    part = protocol.ResultPart(name="trade", kind="trade", count=2, encoding="records")
    payload = trades(range(2)).tobytes()
    parts, frames = [part], [payload]
    if damage == "missing":
        frames = []
    elif damage == "short":
        frames = [payload[:-1]]
    elif damage == "renamed":
        parts = [protocol.ResultPart(name="x", kind="trade", count=2, encoding="records")]
    else:
        parts = [protocol.ResultPart(name="trade", kind="trade", count=2, encoding="arrow")]
    answer = protocol.Answer(instrument=BTC, parts=parts, meta=protocol.Meta())
    daemon.reply = lambda message, payloads: (answer, frames)
    with pytest.raises(ProtocolError, match="parts"):
        run(daemon, requests.rows(Catalogue(), "trade", "BTCUSDT"))


@pytest.mark.parametrize("symbol", [None, "", 17])
def test_a_symbol_that_is_none_is_refused_before_anything_is_sent(daemon: FakeDaemon, symbol: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"symbol: .* is none") as raised:
        run(daemon, requests.ohlcv(Catalogue(), symbol, "1m", limit=1))
    assert raised.value.field == "symbol" and not daemon.received
