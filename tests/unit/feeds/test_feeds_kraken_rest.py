"""Kraken over REST: pairs, trades that the venue knows by their times alone, bars, refusals."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.daemon.feeds.adapter import RestRequest, UnknownSymbol, VenueRefused
from marketd.daemon.feeds.backfill import Backfill, Stretch
from marketd.daemon.feeds.kraken import KrakenAdapter
from marketd.daemon.feeds.kraken_v1 import KrakenV1Adapter
from marketd.market.errors import ConfigError
from marketd.market.instruments import Instrument
from marketd.market.times import NS_PER_SECOND, isoformat_ns

BTC = Instrument(
    id=1, symbol="BTCUSD", venue="KRAKEN", price_scale=1, size_scale=8, quote_scale=8, base="BTC", quote="USD"
)
SENT = "2023-10-06T17:35:55.440295Z"
SENT_NS = 1696613755_440295000


def v2(**options: Any) -> KrakenAdapter:
    made = KrakenAdapter(**options)
    made.adopt(BTC)
    return made


def pairs(**entries: dict[str, Any]) -> bytes:
    return json.dumps({"error": [], "result": entries}).encode()


def test_pairs_tell_their_names_and_scales() -> None:
    body = pairs(
        XXBTZUSD={
            "altname": "XBTUSD",
            "wsname": "XBT/USD",
            "base": "XXBT",
            "quote": "ZUSD",
            "pair_decimals": 1,
            "lot_decimals": 8,
            "tick_size": "0.1",
        },
        AAPLxUSD={"wsname": "AAPLx/USD", "pair_decimals": 3, "lot_decimals": 8, "tick_size": "0.05"},
        dark={"altname": "XBTUSD.d", "pair_decimals": 1},
        broken={"wsname": 7},
    )
    btc, apple = v2().decode_instruments(body, ["BTCUSD", "AAPLXUSD"])
    assert (btc.base, btc.quote, btc.price_scale, btc.size_scale, btc.tick_size) == ("BTC", "USD", 1, 8, 1)
    assert (apple.base, apple.price_scale, apple.tick_size) == ("AAPLx", 3, 50)
    adapter = KrakenV1Adapter()
    adapter.adopt(apple)
    assert "trade:AAPLx/USD" in adapter.streams("AAPLXUSD")
    with pytest.raises(UnknownSymbol, match="NOPEUSD"):
        v2().decode_instruments(body, ["NOPEUSD"])


def rest_trades(*rows: tuple[int, str]) -> bytes:
    found = ",".join(f'["100.00000","0.5",{at},"b","m","",{number}]' for number, at in rows)
    return f'{{"error":[],"result":{{"XXBTZUSD":[{found}],"last":"1"}}}}'.encode()


def test_trades_are_asked_for_from_the_newest_known_one_before_them() -> None:
    adapter = v2()
    newest = adapter.newest_trade_request("BTCUSD")
    assert newest is not None
    assert newest.target == "/0/public/Trades?pair=XBTUSD&count=1"
    page = adapter.decode_trades("BTCUSD", rest_trades((98, "1688669597.8277369")))
    assert page.records[["trade_id", "ts_event"]].tolist() == [(98, 1688669597_827736900)]
    assert page.at_present
    asked = adapter.trades_request("BTCUSD", 100)
    assert asked is not None
    assert asked.target == "/0/public/Trades?pair=XBTUSD&count=1000&since=1688669597827735900"
    row = {"symbol": "BTC/USD", "side": "buy", "price": 100.0, "qty": 1, "timestamp": SENT, "trade_id": 200}
    adapter.decode_many([json.dumps({"channel": "trade", "data": [row]}).encode()])
    later, earlier = adapter.trades_request("BTCUSD", 201), adapter.trades_request("BTCUSD", 200)
    assert later is not None
    assert later.target.endswith(f"&since={SENT_NS - 1000}")
    assert earlier == asked


class Venue:
    """Kraken's trades: `ids` from 1 on, each at its time."""

    def __init__(self, gaps_ms: list[int]) -> None:
        self.times = np.cumsum(gaps_ms) * 10**6 + 1_600_000_000 * NS_PER_SECOND

    def answer(self, target: str) -> bytes:
        query = {name: value[-1] for name, value in parse_qs(urlsplit(target).query).items()}
        first = max(0, len(self.times) - int(query["count"]))
        if "since" in query:
            first = int(np.searchsorted(self.times, int(query["since"]), "right"))
        rows = range(first, min(first + 1000, len(self.times)))
        return rest_trades(*((n + 1, f"{self.times[n] // 10**9}.{self.times[n] % 10**9:09}") for n in rows))

    async def get(self, request: RestRequest, deadline: float) -> bytes:
        return self.answer(request.target)


@pytest.mark.parametrize(("start_ms", "end_ms"), [(0, 9_000_000), (200_000, 3_300_000), (4_999_500, 5_000_700)])
async def test_a_stretch_is_backfilled_by_its_time(start_ms: int, end_ms: int) -> None:
    venue: Any = Venue([1000] * 8000)
    given: list[Any] = []

    async def send(instrument: Instrument, parts: Any, rejected: Any) -> None:
        given.extend(records["trade_id"].tolist() for kind, records in parts if kind == "trade")

    start_ns, end_ns = (1_600_000_000 * NS_PER_SECOND + ms * 10**6 for ms in (start_ms, end_ms))
    fetched = await Backfill(v2(), venue, send).trades(BTC, Stretch(start_ns, end_ns))
    wanted = (np.flatnonzero((venue.times >= start_ns) & (venue.times < end_ns)) + 1).tolist()
    assert [number for ids in given for number in ids] == wanted
    assert fetched.records == len(wanted)
    assert not fetched.unreachable


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 30_000),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    st.booleans(),
)
def test_trades_are_found_by_their_ids_though_the_venue_knows_only_times(
    first: int, seed: int, quiet: float, is_live: bool
) -> None:
    """Whatever the rhythm of the market: quiet for long, then busy; also when nothing but an id is known."""
    random = np.random.default_rng(seed)
    gaps = np.where(random.random(31_000) < quiet, 1, random.integers(1, 60_000, 31_000))
    gaps[random.integers(0, 31_000, 3)] = 3_600_000
    venue, adapter = Venue(gaps.tolist()), v2()
    if is_live:
        row = {"symbol": "BTC/USD", "side": "buy", "price": 100.0, "qty": 1, "trade_id": 31_000}
        row["timestamp"] = isoformat_ns(int(venue.times[-1]))
        adapter.decode_many([json.dumps({"channel": "trade", "data": [row]}).encode()])
    wanted, requests = first, 0
    while True:
        request = adapter.trades_request("BTCUSD", wanted)
        assert request is not None
        page = adapter.decode_trades("BTCUSD", venue.answer(request.target))
        ids = page.records["trade_id"]
        fresh = ids[ids >= wanted]
        assert not len(fresh) or fresh[0] == wanted, "nothing is passed over"
        wanted += len(fresh)
        requests += 1
        if page.at_present:
            break
        assert requests <= (31_000 - first) // 900 + 20
    assert wanted == 31_001


def test_bars_over_rest_are_without_the_open_one() -> None:
    adapter = v2()
    request = adapter.bars_request("BTCUSD", 60, 600 * NS_PER_SECOND)
    assert request is not None
    assert request.target == "/0/public/OHLC?pair=XBTUSD&interval=1&since=599"
    rows = '[600,"1.0","1.3","0.9","1.2","1.1","5.5",4],[660,"1.0","1.3","0.9","1.2","1.1","0",0]'
    body = f'{{"error":[],"result":{{"XXBTZUSD":[{rows}],"last":600}}}}'.encode()
    page = adapter.decode_bars("BTCUSD", 60, body, 700 * NS_PER_SECOND)
    assert page.records[["ts", "open", "high", "low", "close", "volume", "trade_count"]].tolist() == [
        (600 * NS_PER_SECOND, 10, 13, 9, 12, 55 * 10**7, 4)
    ]
    assert adapter.bars_request("BTCUSD", 120, 0) is None
    with pytest.raises(ConfigError):
        v2(candles=("2m",))


def test_a_refusal_over_rest_is_read() -> None:
    with pytest.raises(UnknownSymbol):
        v2().decode_trades("BTCUSD", b'{"error":["EQuery:Unknown asset pair"]}')
    with pytest.raises(VenueRefused, match="Too many requests"):
        v2().decode_trades("BTCUSD", b'{"error":["EGeneral:Too many requests"]}')
    with pytest.raises(VenueRefused):
        v2().decode_trades("BTCUSD", b'{"error":[],"result":{"last":"1"}}')
    body = b'{"error":[],"result":{"unixtime":1616336594,"rfc1123":"Sun, 21 Mar 21 14:23:14 +0000"}}'
    assert v2().decode_time(body) == 1616336594 * NS_PER_SECOND
