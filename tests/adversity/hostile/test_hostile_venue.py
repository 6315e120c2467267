"""A hostile venue: the adapter accounts for whatever its servers say, and the REST client fails by name."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hostile_inputs import CLAIMS, GARBAGE, MESSAGE_VALUES, NESTED
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.daemon.feeds.adapter import RestRequest
from marketd.daemon.feeds.binance import BinanceAdapter
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.market.errors import MarketdError
from marketd.market.instruments import Instrument

BTC = Instrument(id=65_537, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=8, quote_scale=8)
TRADE = {"e": "trade", "E": 1, "s": "BTCUSDT", "t": 1, "p": "1.0", "q": "1", "T": 1_723_161_240_000, "m": True}
ODD = st.sampled_from(
    ["", "NaN", "1e999", "-1", "0", "9" * 500, 2**63, 2**64, -(2**63), 1e300, None, True, "\0", [], {}]
)


def adapter() -> BinanceAdapter:
    it = BinanceAdapter()
    it.adopt(BTC)
    return it


def as_json(value: object) -> bytes:
    return json.dumps(value, default=lambda raw: raw.decode("latin-1")).encode("utf-8", "replace")


@given(frames=st.lists(st.binary(max_size=80) | MESSAGE_VALUES.map(as_json), max_size=6))
@settings(max_examples=80)
def test_any_frames_become_events(frames: list[bytes]) -> None:
    adapter().decode_many(frames)


@given(fields=st.dictionaries(st.sampled_from([*TRADE, "data", "stream", "k"]), ODD | MESSAGE_VALUES, max_size=4))
@settings(max_examples=150)
def test_trades_with_odd_fields_become_events(fields: dict[str, object]) -> None:
    message = {**TRADE, **fields}
    events = adapter().decode_many([as_json(message), as_json({"stream": "btcusdt@trade", "data": message})])
    assert events


@pytest.mark.parametrize("frame", [*GARBAGE, *CLAIMS, *NESTED, b"[" * 100_000, b'{"a":' * 100_000])
def test_known_garbage_becomes_events(frame: bytes) -> None:
    assert adapter().decode_many([frame])


@given(body=st.binary(max_size=60) | MESSAGE_VALUES.map(as_json) | st.lists(MESSAGE_VALUES, max_size=4).map(as_json))
@settings(max_examples=80)
def test_any_body_is_read_or_refused_by_name(body: bytes) -> None:
    it = adapter()
    readers: list[Callable[[], object]] = [
        lambda: it.decode_time(body),
        lambda: it.decode_instruments(body, ["BTCUSDT"]),
        lambda: it.decode_trades("BTCUSDT", body),
        lambda: it.decode_bars("BTCUSDT", 60, body, 1_723_161_240 * 10**9),
    ]
    for read in readers:
        try:
            read()
        except MarketdError:
            continue


ANSWERS = [
    b"",
    b"\xff" * 500,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
    b"HTTP/1.1 999 \xff\r\n\r\n",
    b"HTTP/1.1 429 Slow\r\nRetry-After: nan\r\nX-MBX-USED-WEIGHT-1M: x\r\n\r\n",
    b"HTTP/1.1 418 Banned\r\nRetry-After: -1e999\r\n\r\n",
    b"HTTP/1.1 302 Away\r\nLocation: file:///etc/passwd\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 300 + b"\r\n",
]


SUPERSCRIPT = b"HTTP/1.1 429 Slow\r\nX-MBX-USED-WEIGHT-1M: \xb2\r\n\r\n"  # a digit to str.isdigit, and none to int
FOR_EVER = b"HTTP/1.1 418 Banned\r\nRetry-After: 1e999\r\n\r\n"


@pytest.fixture(
    params=[*ANSWERS, SUPERSCRIPT, FOR_EVER],
    ids=range(len(ANSWERS) + 2),
)
def hostile_server(request: pytest.FixtureRequest) -> Iterator[int]:
    """Says one thing to the first who asks, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65_536)
                peer.sendall(request.param)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(timeout=20)


async def test_a_hostile_rest_server_costs_its_request_alone(hostile_server: int) -> None:
    client = RestClient(f"http://127.0.0.1:{hostile_server}", weight_per_minute=1200)
    try:
        with pytest.raises(RestFailed):
            await client.get(RestRequest("/api/v3/time", 1), time.monotonic() + 10)
        statistics = client.statistics()
        assert statistics.failures == 1
        assert 0 <= statistics.banned_seconds < 86_400
    finally:
        client.close()
