"""Messages read in one call by the compiled part: they say what they say where Python reads them, however damaged."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.daemon.feeds import forms
from marketd.daemon.feeds.adapter import Trades, VenueAdapter
from marketd.daemon.feeds.venues import venue_of
from marketd.market import compiled
from marketd.market.book import Levels
from marketd.market.instruments import Instrument
from support import requires

pytestmark = requires("compiled")

_TIME = "2024-08-08T23:54:15.408123Z"
_UUID = "5c3d72e1-1111-4c4e-9c5f-0a0b0c0d0e0f"

# venue, address, symbol, base, quote, options, messages in the shapes that the venue documents
VENUES: dict[str, tuple[str, str, str, str, dict[str, Any], list[str]]] = {
    "BINANCE": (
        "BINANCE",
        "",
        "USDT",
        "spot",
        {"trades": "aggTrade"},
        [
            '{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1723161255343,"s":"BTCUSDT","p":"61837.63","q":"0.02",'
            '"T":1723161255342,"m":true,"M":true,"a":37,"f":40,"l":41}}',
            '{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1723161255208,"s":"BTCUSDT","U":5,"u":7,'
            '"b":[["61737.63","0.00"],["61730.17","1.5"]],"a":[["61800.01","2"]]}}',
        ],
    ),
    "BINANCE_FUTURES": (
        "BINANCE_FUTURES",
        "",
        "USDT",
        "swap",
        {},
        [
            '{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"T":1723161255342,"s":"BTCUSDT","t":7,'
            '"p":"63943.90","q":"0.003","X":"MARKET","m":false}}',
            '{"stream":"btcusdt@depth","data":{"e":"depthUpdate","E":1721347022504123,"T":1721347022504122,"s":"BTCUSDT",'
            '"U":8,"u":9,"pu":7,"b":[],"a":[["63950.1","0"]]}}',
        ],
    ),
    "BYBIT": (
        "BYBIT",
        "",
        "USDT",
        "spot",
        {},
        [
            '{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,"s":"BTCUSDT",'
            f'"S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick","i":"{_UUID}","BT":false}},{{"T":1672304486866,'
            '"s":"BTCUSDT","S":"Sell","v":"2","p":"16578","i":"2290000000012","BT":true}]}',
            '{"topic":"orderbook.200.BTCUSDT","type":"delta","ts":1672304486868,"cts":1672304486866,'
            '"data":{"s":"BTCUSDT","b":[["16493.50","0.006"]],"a":[["16611.00","0"],["16612","1.5"]],"u":77,"seq":9}}',
        ],
    ),
    "BYBIT v2": (
        "BYBIT_LINEAR",
        "wss://stream.bybit.com/realtime_public",
        "USDT",
        "swap",
        {},
        [
            '{"topic":"orderBookL2_25.BTCUSDT","type":"delta","data":{"delete":[{"price":"3001.00","symbol":"BTCUSDT",'
            '"id":30010000,"side":"Sell"}],"update":[{"price":"2999.00","side":"Buy","size":8.5}],"insert":[]},'
            '"cross_seq":"11519","timestamp_e6":"1555647221331673"}',
        ],
    ),
    "OKX": (
        "OKX",
        "",
        "USDT",
        "spot",
        {},
        [
            '{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
            '"px":"42219.9","sz":"0.12","side":"buy","ts":"1630048897897"}]}',
            '{"arg":{"channel":"books","instId":"BTC-USDT"},"action":"update","data":[{"asks":[["8476.98","415","0","13"]],'
            '"bids":[["8475.55","0","0","0"]],"ts":"1597026383085","checksum":0,"seqId":123456,"prevSeqId":123455}]}',
        ],
    ),
    "COINBASE": (
        "COINBASE",
        "",
        "USD",
        "spot",
        {},
        [
            f'{{"channel":"market_trades","client_id":"","timestamp":"{_TIME}","sequence_num":4,"events":[{{"type":"update",'
            f'"trades":[{{"trade_id":"12","product_id":"BTC-USD","price":"1260.01","size":"0.3","side":"BUY","time":"{_TIME}"}},'
            f'{{"trade_id":"11","product_id":"BTC-USD","price":"1260","size":"3","side":"SELL","time":"{_TIME}"}}]}}]}}',
            f'{{"channel":"l2_data","client_id":"","timestamp":"{_TIME}","sequence_num":5,"events":[{{"type":"update",'
            f'"product_id":"BTC-USD","updates":[{{"side":"bid","event_time":"{_TIME}","price_level":"21921.73",'
            '"new_quantity":"0.06"},{"side":"offer","price_level":"21950","new_quantity":"0"}]}]}',
        ],
    ),
    "COINBASE Exchange": (
        "COINBASE",
        "wss://ws-feed.exchange.coinbase.com",
        "USD",
        "spot",
        {},
        [
            '{"type":"match","trade_id":10,"sequence":50,"maker_order_id":"ac928c66","side":"sell","size":"5.23512",'
            f'"price":"400.23","product_id":"BTC-USD","time":"{_TIME}"}}',
            f'{{"type":"l2update","product_id":"BTC-USD","changes":[["buy","8950.01","0"],["sell","8951","2.5"]],"time":"{_TIME}"}}',
        ],
    ),
    "KRAKEN": (
        "KRAKEN",
        "",
        "USD",
        "spot",
        {},
        [
            '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":4136.4,"qty":0.23,'
            f'"ord_type":"market","trade_id":94,"timestamp":"{_TIME}"}}]}}',
            '{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":45283.5,"qty":0.10000000}],'
            f'"asks":[],"checksum":3310070434,"timestamp":"{_TIME}"}}]}}',
        ],
    ),
    "KRAKEN v1": (
        "KRAKEN",
        "wss://ws.kraken.com",
        "USD",
        "spot",
        {},
        [
            '[336,{"a":[["5541.30","2.507","1534614248.456738"]],"c":"974942666"},"book-1000","XBT/USD"]',
            '[336,{"a":[["5541.3","2.5","1534614248.456738","r"]]},{"b":[["5541.2","0.0","1534614248.456739"]],'
            '"c":"974942666"},"book-1000","XBT/USD"]',
        ],
    ),
    "BITSTAMP": (
        "BITSTAMP",
        "",
        "USD",
        "spot",
        {},
        [
            '{"data":{"timestamp":"1641343699","microtimestamp":"1641343699596000","bids":[["3805.4","0"]],"asks":'
            '[["3806.44","0.5"]]},"channel":"diff_order_book_btcusd","event":"data"}',
        ],
    ),
}
NAMES = list(VENUES)
READERS = ("_quick", "_quick_books", "_quick_old")


def adapter_of(name: str) -> VenueAdapter:
    venue, url, quote, market, options, _ = VENUES[name]
    adapter: VenueAdapter = venue_of(venue, url).adapter(book=True, **options)
    symbol = "BTC" + quote
    adapter.adopt(
        Instrument(
            id=1,
            symbol=symbol,
            venue=venue,
            price_scale=2,
            size_scale=8,
            quote_scale=8,
            base="BTC",
            quote=quote,
            market=market,
        )
    )
    return adapter


def without_forms(adapter: Any) -> VenueAdapter:
    for held in READERS:
        getattr(adapter, held, {}).clear()
    made: VenueAdapter = adapter
    return made


def said(adapter: VenueAdapter, frames: list[bytes]) -> list[Any]:
    """What the messages say, comparable."""
    return [shown(event) for event in adapter.decode_many(frames)]


def shown(event: Any) -> Any:
    if isinstance(event, Trades):
        return event.symbol, event.records.tolist()
    if isinstance(event, msgspec.Struct):
        values = [getattr(event, field) for field in event.__struct_fields__]
        return [type(event), *([v.prices, v.sizes] if isinstance(v, Levels) else v for v in values)]
    return event


def assert_same(name: str, frames: list[bytes]) -> None:
    assert said(adapter_of(name), frames) == said(without_forms(adapter_of(name)), frames)


@pytest.mark.parametrize("name", NAMES)
def test_plain_messages_are_read_without_python(name: str) -> None:
    """Else the comparisons would compare nothing."""
    adapter: Any = adapter_of(name)
    read, calls = adapter._read_at_once, list[bool]()
    adapter._read_at_once = lambda batch, frame: calls.append(read(batch, frame)) or calls[-1]
    frames = [frame.encode() for frame in VENUES[name][-1]]
    adapter.decode_many(frames)
    assert calls == [True] * len(frames)
    assert_same(name, frames)
    assert_same(name, [*frames, *reversed(frames)])


ODD_TEXTS = (
    *["", "0", "00", "007", "-1", "+1", "1e3", "1.001", ".5", "1.", "nan", "é", "\U0001f600", '"', "\\", "\0", "buy"],
    *["9" * 18, "9" * 19, "9223372036854775807", "9223372036854775808", "92233720368547758.08", "1." + "0" * 60],
    *[
        "BTCUSDT",
        "ETHUSDT",
        "MARKET",
        "ADL",
        "snapshot",
        _TIME,
        "2024-13-08T23:54:15.4Z",
        "1534614248.456738",
        "book-10",
    ],
)
GONE = object()
ODD_VALUES = (
    *ODD_TEXTS,
    *[None, True, False, [], {}, [[]], [{}], [["1", "2"]], [[["1"]]], 0, -1, 1, 1.5, 1e300, -0.0, 4294967296, 10**17],
    *[2**63 - 1, 2**63, 2**64, 10**14, 10**14 - 1, 9_223_372_036_854, 9_223_372_036_855, 9_223_372_036_854_776, 10**18],
)
# a value that is changed later must not be the next one
odd_values = (st.sampled_from(ODD_VALUES) | st.integers(-(2**70), 2**70)).map(deepcopy)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, each in inner for found in paths_of(each, (*path, key)))]


def changed(draw: Callable[[Any], Any], message: Any) -> Any:
    """One place of a message is another, gone, twice, or has a neighbour."""
    path = draw(st.sampled_from(paths_of(message)))
    if not path:
        return draw(st.sampled_from([message, [message], {"data": message}]))
    *way, last = path
    place = message
    for key in way:
        place = place[key]
    how = draw(st.sampled_from(["other", "other", "other", "gone", "neighbour", "twice"]))
    if how == "other":
        place[last] = draw(odd_values)
    elif how == "gone":
        del place[last]
    elif isinstance(place, list):
        place.insert(last, draw(odd_values) if how == "neighbour" else place[last])
    elif how == "neighbour":
        place[draw(st.sampled_from(["x", "as", "bs", "event", "E", "T", "X", "id", "cts"]))] = draw(odd_values)
    else:
        place[Twice(last)] = draw(odd_values)
    return message


class Twice(str):
    """A field's name beside an equal one."""

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def json_of(value: Any, gap: str = "") -> str:
    """As msgspec would not write it: fields twice, blanks, integers of any size."""
    if isinstance(value, dict):
        fields = (f"{json_of(str(name))}:{gap}{json_of(each, gap)}" for name, each in value.items())
        return "{" + gap + f",{gap}".join(fields) + "}"
    if isinstance(value, list):
        return "[" + f",{gap}".join(json_of(each, gap) for each in value) + gap + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return msgspec.json.encode(value).decode()


@st.composite
def damaged(draw: Any, name: str) -> bytes:
    message = msgspec.json.decode(draw(st.sampled_from(VENUES[name][-1])))
    for _ in range(draw(st.integers(0, 3))):
        message = changed(draw, message)
    frame = json_of(message, draw(st.sampled_from(["", "", "", " ", "\n\t"]))).encode()
    how = draw(st.sampled_from(["", "", "", "cut", "other byte", "more"]))
    if how == "cut":
        return frame[: draw(st.integers(0, len(frame)))]
    if how == "other byte" and frame:
        place = draw(st.integers(0, len(frame) - 1))
        return (
            frame[:place]
            + draw(st.sampled_from([b"\xff", b"\\", b'"', b"[", b"]", b"{", b",", b"", b"9"]))
            + frame[place + 1 :]
        )
    return frame + draw(st.sampled_from([b" ", b"\n", b",", b"}", b"\0"])) if how == "more" else frame


def own_values(name: str) -> list[Any]:
    """All that stands in a venue's messages, and all by which its adapter knows them."""
    keys = [key for held in READERS for key in getattr(adapter_of(name), held, {})]
    messages = map(msgspec.json.decode, VENUES[name][-1])
    return [*keys, *(value_at(message, path) for message in messages for path in paths_of(message))]


def value_at(message: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        message = message[key]
    return message


@pytest.mark.parametrize("name", NAMES)
def test_a_message_says_the_same_whatever_stands_at_any_place_of_it(name: str) -> None:
    quick, slow = adapter_of(name), without_forms(adapter_of(name))
    values = (*ODD_VALUES, *own_values(name), GONE)
    for frame in VENUES[name][-1]:
        for path in paths_of(msgspec.json.decode(frame))[1:]:
            for value in values:
                message = msgspec.json.decode(frame)
                place = message
                for key in path[:-1]:
                    place = place[key]
                if value is GONE:
                    del place[path[-1]]
                else:
                    place[path[-1]] = value
                damaged_frame = json_of(message).encode()
                assert said(quick, [damaged_frame]) == said(slow, [damaged_frame]), damaged_frame


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(data=st.data())
def test_a_message_says_the_same_however_it_is_damaged(name: str, data: st.DataObject) -> None:
    assert_same(name, data.draw(st.lists(damaged(name), min_size=1, max_size=3)))


@pytest.mark.parametrize("name", NAMES)
def test_each_beginning_of_a_message_is_no_message(name: str) -> None:
    for frame in VENUES[name][-1]:
        for length in range(len(frame)):
            assert_same(name, [frame[:length].encode()])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_deep_or_long_does_no_harm(name: str) -> None:
    for frame in VENUES[name][-1]:
        for deep in ("[" * 100_000, "[" * 15 + "]" * 15, '{"x":' * 50 + "1" + "}" * 50):
            assert_same(name, [frame.replace("{", '{"x":' + deep + ",", 1).encode(), (deep + frame).encode()])
        assert_same(name, [frame.replace(":", ":" + " " * 10_000).encode()])


def test_an_instrument_that_is_gone_is_not_read() -> None:
    for name in NAMES:
        adapter: Any = adapter_of(name)
        for symbol in list(adapter._instruments):
            adapter.forget(symbol)
        assert not any(getattr(adapter, held, {}) for held in READERS)


def test_instruments_of_scales_beyond_64_bits_are_read_by_python() -> None:
    adapter: Any = adapter_of("OKX")
    instrument = adapter._instruments["BTCUSDT"]
    adapter.adopt(msgspec.structs.replace(instrument, price_scale=19))
    assert not adapter._quick


slot = st.builds(
    forms.Slot,
    kind=st.integers(-1, 22),
    fallback=st.sampled_from([..., None, 0, -1, 2**70]),
    words=st.lists(st.binary(max_size=8), max_size=6).map(tuple),
    number=st.integers(-1, 9) | st.just(2**62),
    separator=st.integers(-1, 128),
    most=st.integers(-(2**63), 2**63 - 1),
    role=st.integers(-1, 8),
)
form = st.recursive(
    slot | st.sampled_from([None, 7, "x", (), [], {}, {1: 2}]),
    lambda inner: (
        st.dictionaries(st.sampled_from("abcdef"), inner, max_size=5)
        | st.lists(inner, max_size=2)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=20,
)
message = st.recursive(
    st.sampled_from(['"K"', '"x"', "1", "12.50", '"12.5"', "null", '[["1","2"]]', f'"{_TIME}"', '[{"p":1,"s":2}]']),
    lambda inner: (
        st.lists(st.tuples(st.sampled_from("abcdef"), inner), max_size=6).map(
            lambda fields: "{" + ",".join(f'"{name}":{value}' for name, value in fields) + "}"
        )
        | st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
    ),
    max_leaves=20,
)


@settings(max_examples=40)
@given(form, st.lists(message, max_size=4))
def test_any_form_and_any_message_do_no_harm(form: Any, messages: list[str]) -> None:
    part = compiled.part
    assert part is not None
    readers = {"K": part.Reader(2, 8, "K"), "x": part.Reader(0, 0)}
    for make in (part.Message, lambda form: part.TradeMessage(form, 0, 1, 2, hash, False)):
        try:
            read = make(form).read
        except (ValueError, TypeError, OverflowError):
            continue
        for each in messages:
            read(each.encode(), readers)


def test_arguments_of_other_types_are_refused() -> None:
    part = compiled.part
    assert part is not None
    read = part.Message({"k": forms.key(), "a": forms.asks()}).read
    assert read(b'{"k":"K","a":[["1","2"]]}', {"K": part.Reader(0, 0, "told")})[0] == "told"
    for arguments in ((), (b"",), ("", {}), (b"", []), (b"", {}, 1)):
        with pytest.raises(TypeError):
            read(*arguments)
    with pytest.raises(TypeError, match="Reader"):
        read(b'{"k":"K"}', {"K": 7})
    with pytest.raises(ValueError, match="form"):
        part.Message(None)
    with pytest.raises(ValueError, match="a trade has"):
        part.TradeMessage({"k": forms.key()}, 0, 0, 0, hash, False)
