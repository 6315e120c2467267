"""Whose traffic a recording is: told by the recording, never guessed against it."""

from pathlib import Path

import pytest

from marketd.daemon.feeds.captures import CaptureUnreadable
from marketd.daemon.feeds.recorded_venue import recorded_venue
from marketd.daemon.feeds.survey import require_instruments, require_messages, survey
from marketd.market.errors import InvalidArgument

RECEIVED = "1618678132000000000"


def recording(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "recording"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("url", "venue"),
    [
        ("wss://ws.kraken.com", "KRAKEN"),
        ("wss://fstream.binance.com/stream?streams=a@depth", "BINANCE_FUTURES"),
        ("wss://fstream.binance.com/public/stream?streams=a@depth", "BINANCE_FUTURES"),
        ("wss://fstream.binance.com/market/ws/a@aggTrade", "BINANCE_FUTURES"),
        ("wss://demo-fstream.binance.com/market/stream?streams=a@kline_1m", "BINANCE_FUTURES"),
        ("wss://fstream.binancefuture.com/public/stream?streams=a@depth", "BINANCE_FUTURES"),
        ("wss://stream.binance.com:9443/stream", "BINANCE"),
        ("wss://ws-feed.pro.coinbase.com", "COINBASE"),
        ("wss://ws.bitstamp.net/", "BITSTAMP"),
    ],
)
def test_the_address_tells_the_venue(tmp_path: Path, url: str, venue: str) -> None:
    path = recording(tmp_path, f"{url} <-> 1618678132.38")
    assert recorded_venue([path], None) == venue
    assert recorded_venue([path], venue) == venue


def test_an_older_address_of_bybit_tells_a_contract_and_takes_another_word(tmp_path: Path) -> None:
    path = recording(tmp_path, "wss://stream.bybit.com/realtime_public <-> 1618677785.48")
    assert recorded_venue([path], None) == "BYBIT_LINEAR"
    assert recorded_venue([path], "BYBIT") == "BYBIT"
    with pytest.raises(InvalidArgument, match="not of OKX"):
        recorded_venue([path], "OKX")
    undecided = recording(tmp_path, "https://api.bybit.com/v2/public/symbols -> 1618677785.48: {}")
    with pytest.raises(CaptureUnreadable, match="one of BYBIT, BYBIT_LINEAR, BYBIT_INVERSE"):
        recorded_venue([undecided], None)


@pytest.mark.parametrize(
    "url",
    [
        "wss://stream.binance.us:9443/stream?streams=a@trade",
        "wss://stream-cloud.trbinance.com/stream",
        "wss://futures.kraken.com/ws/v1",
        "wss://ws-md.international.coinbase.com",
        "wss://real.okcoin.com:8443/ws/v5/public",
        "wss://www.deribit.com/ws/api/v2",
        "wss://evil.example/stream.binance.com",
    ],
)
def test_a_venue_without_an_adapter_is_refused_by_name_unless_somebody_says_that_it_speaks_like_one(
    tmp_path: Path, url: str
) -> None:
    path = recording(tmp_path, f"{url} <-> 1618677785.48", '1618677786.1: {"stream":"a@trade","data":{}}')
    with pytest.raises(CaptureUnreadable, match="of no venue that marketd has an adapter for"):
        recorded_venue([path], None)
    assert recorded_venue([path], "BINANCE") == "BINANCE"


@pytest.mark.parametrize(
    ("url", "venue"),
    [
        ("https://dapi.binance.com/dapi/v1/depth?symbol=BCHUSD_PERP", "BINANCE_DELIVERY"),
        ("https://www.binance.com/api/v1/depth?symbol=BTCUSDT", "BINANCE"),
        ("https://www.bitstamp.net/api/v2/order_book/sgbeur", "BITSTAMP"),
        ("https://api.pro.coinbase.com/products", "COINBASE"),
    ],
)
def test_the_address_of_an_answer_tells_the_venue_too(tmp_path: Path, url: str, venue: str) -> None:
    assert recorded_venue([recording(tmp_path, f"{url} -> 1633998512.32: {{}}")], None) == venue


@pytest.mark.parametrize(
    ("payload", "venue"),
    [
        ('{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","X":"MARKET"}}', "BINANCE_FUTURES"),
        ('{"e": "trade", "s": "BTCUSDT", "m": true, "M": true}', "BINANCE"),
        ('{"stream":"x@kline_1m","data":{"e":"kline","s":"BTCUSDT"}}', "BINANCE"),
        ('{"stream":"btcusd_240927@trade","data":{"e":"trade","s":"BTCUSD_240927"}}', "BINANCE_DELIVERY"),
        ('{"stream":"btcusdt_240927@depth","data":{"s":"BTCUSDT_240927","pu":4}}', "BINANCE_FUTURES"),
        ('{"channel":"l2_data","timestamp":"","sequence_num":0,"events":[]}', "COINBASE"),
        ('{"type":"l2update","product_id":"BTC-USD","changes":[]}', "COINBASE"),
        ('[0,["5698.4","5700.0","1542057299.5"],"spread","XBT/USD"]', "KRAKEN"),
        ('{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","checksum":1}]}', "KRAKEN"),
        ('{"arg":{"channel":"books","instId":"BTC-USDT"},"data":[]}', "OKX"),
        ('{"event":"trade","channel":"live_trades_btcusd","data":{}}', "BITSTAMP"),
        ('{"topic":"publicTrade.BTCUSDT","data":[{"i":"20f43950-d8dd-5b31-9112-a178eb6023af"}]}', "BYBIT_LINEAR"),
        ('{"topic":"publicTrade.BTCUSDT","data":[{"i":"2290000000067683805"}]}', "BYBIT"),
        ('{"topic":"orderbook.50.BTCUSD","data":{}}', "BYBIT_INVERSE"),
        ('{"stream":"btcfdusd@trade","data":{"e":"trade","s":"BTCFDUSD"}}', "BINANCE"),
        ('{"stream":"omgbusd@depth","data":{"e":"depthUpdate","s":"OMGBUSD"}}', "BINANCE"),
        ('{"stream":"btcusd_perp@kline_1m","data":{"e":"kline","s":"BTCUSD_PERP"}}', "BINANCE_DELIVERY"),
        ('{"e":"bookTicker","u":1,"s":"X","ps":"DOTUSD"}', "BINANCE_DELIVERY"),
        ('{"arg":{"channel":"liquidation-orders","instType":"SWAP"},"data":[]}', "OKX"),
        ('{"type":"subscriptions","channels":[{"name":"matches","product_ids":["BTC-USD"]}]}', "COINBASE"),
    ],
)
def test_without_an_address_the_messages_tell(tmp_path: Path, payload: str, venue: str) -> None:
    assert recorded_venue([recording(tmp_path, f"1618678132000000000 {payload}")], None) == venue


@pytest.mark.parametrize(
    "payload",
    [
        '{"action":"snapshot","arg":{"instType":"sp","channel":"books","instId":"BTCUSDT"},"data":[]}',
        '{"arg":{"instType":"USDT-FUTURES","channel":"trade","instId":"BTCUSDT"},"data":[]}',
        '{"channel":"spot.order_book_update","result":{"e":"depthUpdate","s":"BTC_USDT","U":1,"u":2}}',
        '{"type":"subscriptions","channels":[{"name":"v2/ticker","symbols":["BTCUSD"]}]}',
        '{"jsonrpc":"2.0","method":"subscription","params":{"channel":"book.BTC-PERPETUAL.raw","data":{}}}',
        '{"feed":"book","product_id":"PI_XBTUSD","side":"sell","seq":3,"price":34981,"qty":0}',
        '{"channel":"trades","data":[{"coin":"BTC","side":"A","px":"1","sz":"2","tid":3}]}',
    ],
)
def test_messages_that_look_like_a_venues_and_are_not_are_taken_for_none(tmp_path: Path, payload: str) -> None:
    path = recording(tmp_path, f"1618678132000000000 {payload}")
    with pytest.raises(CaptureUnreadable, match=r"nothing in it is of a venue .* BITSTAMP"):
        recorded_venue([path], None)


SPOT, LINEAR, US = (
    f"wss://{address} <-> 1618677785.48"
    for address in (
        "stream.bybit.com/v5/public/spot",
        "stream.bybit.com/v5/public/linear",
        "stream.binance.us:9443/stream",
    )
)


def test_files_of_two_venues_are_no_recording(tmp_path: Path) -> None:
    """Whose symbols are the same: taken together, one market's book would be the other's."""
    (tmp_path / "2").mkdir()
    first, second = recording(tmp_path, LINEAR), recording(tmp_path / "2", SPOT)
    with pytest.raises(CaptureUnreadable, match=f"{first} is a recording of BYBIT_LINEAR, and {second} one of BYBIT;"):
        recorded_venue([first, second], None)
    with pytest.raises(InvalidArgument, match=f"{second} is a recording of BYBIT, not of BYBIT_LINEAR"):
        recorded_venue([first, second], "BYBIT_LINEAR")


def test_raw_files_of_two_markets_are_no_recording(tmp_path: Path) -> None:
    """Binance's markets speak alike; what a message says for sure counts, unless somebody knows better."""
    (tmp_path / "2").mkdir()
    coins = '1618678132000000000 {"stream":"btcusd_perp@trade","data":{"e":"trade","s":"BTCUSD_PERP"}}'
    spot = '1618678132000000000 {"stream":"ethusdt@depth","data":{"e":"depthUpdate","s":"ETHUSDT"}}'
    open_bar = '1618678132000000000 {"stream":"x@kline_1m","data":{"e":"kline","s":"ETHUSDT"}}'
    first, second = recording(tmp_path, coins), recording(tmp_path / "2", spot)
    for files in ([first, second], [second, first]):
        with pytest.raises(CaptureUnreadable, match="files that are read together are of one venue"):
            recorded_venue(files, None)
    second = recording(tmp_path / "2", open_bar)
    assert recorded_venue([first, second], None) == "BINANCE_DELIVERY"


def test_a_file_of_a_venue_without_an_adapter_is_not_taken_for_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    first = recording(tmp_path, "wss://stream.binance.com:9443/stream <-> 1618677785.48")
    second = recording(tmp_path / "2", US)
    with pytest.raises(CaptureUnreadable, match=f"{second}: wss://stream.binance.us:9443/stream is of no venue"):
        recorded_venue([first, second], None)
    assert recorded_venue([first, second], "BINANCE") == "BINANCE"


def test_a_file_with_connections_to_two_venues_is_of_the_one_that_is_meant(tmp_path: Path) -> None:
    path = recording(tmp_path, LINEAR, SPOT)
    with pytest.raises(CaptureUnreadable, match="a recording of BYBIT_LINEAR and BYBIT; say with --venue"):
        recorded_venue([path], None)
    assert [recorded_venue([path], venue) for venue in ("BYBIT", "BYBIT_LINEAR")] == ["BYBIT", "BYBIT_LINEAR"]
    with pytest.raises(InvalidArgument, match="not of OKX"):
        recorded_venue([path], "OKX")


def test_a_recording_of_answers_alone_says_what_is_missing(tmp_path: Path) -> None:
    url = "https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=1000"
    path = recording(tmp_path, f'{url} -> 1633998512.32: {{"lastUpdateId":1,"bids":[["1","1"]],"asks":[["2","1"]]}}')
    found = survey([path])
    assert [each.symbol for each in found.instruments] == ["BTCUSDT"]
    for require in (require_instruments, require_messages):
        with pytest.raises(CaptureUnreadable, match="only 1 REST answers; name the file that has the messages, too"):
            require(found, [path])


def test_a_raw_recording_of_an_older_protocol_is_read_by_its_adapter(tmp_path: Path) -> None:
    trade = '1618678132000000000 [337,[["60000.1","0.5","1618678133.123456","b","l",""]],"trade","XBT/USD"]'
    (instrument,) = survey([recording(tmp_path, trade)], "KRAKEN").instruments
    assert instrument.name == "BTCUSD.KRAKEN"
    match = '{"type":"match","trade_id":1,"side":"sell","size":"1","price":"2","product_id":"BTC-USD","time":""}'
    (instrument,) = survey([recording(tmp_path, f"1618678132000000000 {match}")], "COINBASE").instruments
    assert instrument.name == "BTCUSD.COINBASE"


def test_messages_of_binance_without_their_streams_names_are_surveyed(tmp_path: Path) -> None:
    trade = '{"e":"aggTrade","E":1,"s":"SHIBUSDT","a":7,"p":"0.00001","q":"5","T":1,"m":true,"M":true}'
    kline = '{"e":"kline","E":1,"s":"SHIBUSDT","k":{"t":0,"T":1,"s":"SHIBUSDT","i":"5m","x":false}}'
    found = survey([recording(tmp_path, f"1618678132000000000 {trade}", f"1618678132000000001 {kline}")])
    assert (found.trades, found.candles) == ("aggTrade", ("5m",))
    assert [(each.base, each.quote, each.price_scale) for each in found.instruments] == [("SHIB", "USDT", 5)]


def test_a_symbol_that_no_instrument_can_have_costs_the_others_nothing(tmp_path: Path) -> None:
    lines = [
        f'1618678132000000000 {{"e":"trade","s":"{symbol}","t":1,"p":"1","q":"1","T":1,"m":true,"M":true}}'
        for symbol in ("币安人生USDT", "A" * 40 + "USDT", "X" * 20, "BTCUSDT")
    ]
    found = {each.symbol: each.base for each in survey([recording(tmp_path, *lines)]).instruments}
    assert found == {"币安人生USDT": "币安人生", "X" * 20: "X" * 16, "BTCUSDT": "BTC"}


@pytest.mark.parametrize(
    ("name", "venue"),
    [
        ("usdm_btcusdt_20240718.gz", "BINANCE_FUTURES"),
        ("cm_ethusd_perp_20240808.gz", "BINANCE_DELIVERY"),
        ("spot_btcusdt_20240808.gz", "BINANCE"),
    ],
)
def test_binances_markets_are_told_apart_without_an_address(shared_data: Path, name: str, venue: str) -> None:
    path = shared_data / "ws_binance_raw" / name
    assert recorded_venue([path], None) == venue
    with pytest.raises(InvalidArgument, match=f"is a recording of {venue}, not of KRAKEN"):
        recorded_venue([path], "KRAKEN")


def test_a_recording_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    path = recording(tmp_path, '1618678132000000000 {"hello":"world"}')
    with pytest.raises(CaptureUnreadable, match="say whose with --venue"):
        require_instruments(survey([path]), [path])


def test_a_recording_of_tickers_alone_is_one_of_its_venue(tmp_path: Path) -> None:
    tickers = recording(tmp_path, f'{RECEIVED} [340,{{"a":["5525.4",1,"1.0"]}},"ticker","XBT/USD"]')
    found = survey([tickers], "KRAKEN")
    assert require_messages(found, [tickers]) is found
    with pytest.raises(CaptureUnreadable, match="no trade, bar or book"):
        require_instruments(found, [tickers])
    others = recording(tmp_path, f'{RECEIVED} {{"feed":"book","product_id":"PI_XBTUSD","seq":1}}')
    with pytest.raises(CaptureUnreadable, match="no trade, bar or book"):
        require_messages(survey([others], "KRAKEN"), [others])
