"""A venue is added by one file and one row in the table of venues, and nothing else: shown by one that is made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import adapter_conformance as conformance
import pytest
from adapter_conformance import Case
from adapter_samples import SAMPLES
from made_up_venue import ROW, SAMPLE
from test_adapter_conformance import PROMISES

from marketd.daemon.config import convert
from marketd.daemon.feeds.emulator import Playback
from marketd.daemon.feeds.recorded_venue import recorded_venue
from marketd.daemon.feeds.survey import survey
from marketd.daemon.feeds.venue_signs import is_of, told_by_address, told_by_message
from marketd.daemon.feeds.venues import VENUES
from marketd.market.errors import ConfigError


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of what is changed."""
    is_of.cache_clear()
    monkeypatch.setitem(VENUES, ROW.name, ROW)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_its_adapter_keeps_every_promise(promise: Callable[[Case], None]) -> None:
    promise(Case(ROW.name, ROW, SAMPLE))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"on":7}', b'{"on":"deal","pair":"BTC-USD","price":"x"}'])
def test_it_accounts_for_what_cannot_be_read(damage: bytes) -> None:
    conformance.every_message_is_accounted_for(Case(ROW.name, ROW, SAMPLE), [damage])


def test_it_can_be_configured() -> None:
    config = convert({"default_venue": "TOY", "venues": {"TOY": {"symbols": ["BTC/USD"], "candles": []}}})
    assert config.venues["TOY"].symbols == ("BTC/USD",)
    with pytest.raises(ConfigError, match="did you mean TOY"):
        convert({"venues": {"TOYS": {"symbols": ["BTC/USD"]}}})


def test_its_recordings_are_known_and_played(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(b"".join(b"1700000000000000000 %b\n" % frame for _, frame in SAMPLE.frames))
    assert recorded_venue([path], None) == "TOY"
    assert [found.name for found in survey([path], "TOY").instruments] == ["BTCUSD.TOY"]
    pairs = Playback([path], "TOY").answer("/pairs")
    assert json.loads(pairs or b"") == [{"pair": "BTC-USD", "price_places": 1, "size_places": 0}]
    path.write_bytes(b"wss://stream.toy.example/v1 <-> 1700000000.5\n")
    assert recorded_venue([path], None) == "TOY"


# ---- signs ----------------------------------------------------------------------------------------


def test_no_address_is_of_two_venues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order of the rows is."""
    urls = [url for venue in VENUES.values() for url in (venue.ws_url, venue.rest_url)]
    urls += [f"{VENUES['BYBIT'].ws_url}{path}" for path in ("/v5/public/spot", "/realtime_public", "/realtime", "/x")]
    urls += [f"https://www.binance.com/{path}" for path in ("api/v3/depth", "fapi/v1/depth", "dapi/v1/depth")]
    forth = [told_by_address(url) for url in urls]
    assert None not in forth
    turned = dict(reversed(VENUES.items()))
    monkeypatch.setattr("marketd.daemon.feeds.venue_signs.VENUES", turned)
    assert [told_by_address(url) for url in urls] == forth


def test_no_message_is_of_two_venues(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [frame for sample in (*SAMPLES.values(), SAMPLE) for _, frame in sample.frames]
    forth = [told_by_message(frame) for frame in frames]
    turned = dict(reversed(VENUES.items()))
    monkeypatch.setattr("marketd.daemon.feeds.venue_signs.VENUES", turned)
    assert [told_by_message(frame) for frame in frames] == forth


@pytest.mark.parametrize("name", [name for name in (*SAMPLES, "TOY") if not name.startswith("BINANCE")])
def test_a_venue_knows_its_own_messages(name: str) -> None:
    """Binance's samples are alike in all of its markets."""
    frames = SAMPLE.frames if name == "TOY" else SAMPLES[name].frames
    told = [told for _, frame in frames if (told := told_by_message(frame)) is not None]
    assert told
    assert all(name.partition(" at ")[0] in (each.venue, *each.others) for each in told)
