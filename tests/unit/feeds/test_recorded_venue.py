"""Whose traffic a recording is: told by the recording, never guessed against it."""

from pathlib import Path

import pytest

from marketd.daemon.feeds.captures import CaptureUnreadable
from marketd.daemon.feeds.recorded_venue import recorded_venue
from marketd.daemon.feeds.survey import require_instruments, survey
from marketd.market.errors import InvalidArgument


def recording(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "recording"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("url", "venue"),
    [
        ("wss://ws.kraken.com", "KRAKEN"),
        ("wss://fstream.binance.com/stream?streams=a@depth", "BINANCE_FUTURES"),
        ("wss://stream.binance.com:9443/stream", "BINANCE"),
        ("wss://ws-feed.pro.coinbase.com", "COINBASE"),
        ("wss://ws.bitstamp.net/", "BITSTAMP"),
    ],
)
def test_the_address_tells_the_venue(tmp_path: Path, url: str, venue: str) -> None:
    path = recording(tmp_path, f"{url} <-> 1618678132.38")
    assert recorded_venue([path], None) == venue
    assert recorded_venue([path], venue) == venue


def test_an_address_of_several_markets_needs_a_word(tmp_path: Path) -> None:
    path = recording(tmp_path, "wss://stream.bybit.com/realtime_public <-> 1618677785.48")
    with pytest.raises(CaptureUnreadable, match="--venue"):
        recorded_venue([path], None)
    assert recorded_venue([path], "BYBIT_LINEAR") == "BYBIT_LINEAR"


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
