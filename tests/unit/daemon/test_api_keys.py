"""API keys of venues: who may read their files, what is in them, and that nobody is shown one."""

from __future__ import annotations

from pathlib import Path

import pytest

from marketd.daemon.actors.feed import feed_settings
from marketd.daemon.api_keys import check_api_keys, read_api_key
from marketd.daemon.config import convert, to_plain
from marketd.daemon.feeds.venues import VENUES
from marketd.market.errors import ConfigError

FIELD = "venues.BINANCE_FUTURES.api_key_file"
KEY = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"


def key_file(tmp_path: Path, content: str = KEY, mode: int = 0o600) -> Path:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    return path


def test_a_key_is_read_without_the_end_of_its_line(tmp_path: Path) -> None:
    assert read_api_key(FIELD, str(key_file(tmp_path, f"{KEY}\n"))) == KEY
    assert read_api_key(FIELD, "") == ""


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o644, 0o666])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=r"api_key_file: others may read or change .*chmod 600") as raised:
        read_api_key(FIELD, str(key_file(tmp_path, mode=mode)))
    assert KEY not in str(raised.value)


def test_a_group_may_read_it_as_that_of_a_service_does(tmp_path: Path) -> None:
    assert read_api_key(FIELD, str(key_file(tmp_path, mode=0o440))) == KEY


@pytest.mark.parametrize(
    "content", ["", "\n", "two keys", f"{KEY}\n{KEY}", "k\u00e9y", "a\x00b", "k" * 513, "k" * 9000]
)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match="holds no key") as raised:
        read_api_key(FIELD, str(key_file(tmp_path, content)))
    assert not content.strip() or content not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing cannot be read: No such file"):
        read_api_key(FIELD, str(tmp_path / "missing"))


def test_a_plain_name_is_a_credential_of_systemd(tmp_path: Path) -> None:
    key_file(tmp_path)
    assert read_api_key(FIELD, "key", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == KEY
    with pytest.raises(ConfigError, match="no absolute path"):
        read_api_key(FIELD, "key", {})


def test_a_venue_that_wants_no_key_is_given_none() -> None:
    with pytest.raises(ConfigError, match=r"venues\.KRAKEN\.api_key_file: nothing that is asked"):
        convert({"venues": {"KRAKEN": {"symbols": ["BTC/USD"], "api_key_file": "/etc/key"}}})
    with pytest.raises(ConfigError, match="neither an absolute path"):
        convert({"venues": {"BINANCE_FUTURES": {"symbols": ["BTCUSDT"], "api_key_file": "keys/mine"}}})


def test_a_daemon_is_refused_a_key_that_cannot_be_read_and_its_configuration_never_has_one(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    config = convert({"venues": {"BINANCE_FUTURES": {"symbols": ["BTCUSDT"], "api_key_file": str(path)}}})
    check_api_keys(config)
    assert KEY not in repr(config) and KEY not in str(to_plain(config))
    venue = VENUES["BINANCE_FUTURES"]
    assert feed_settings(venue, config.venues["BINANCE_FUTURES"], config).api_key == ""
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=FIELD):
        check_api_keys(config)


def test_a_key_goes_only_to_venues_that_have_a_header_for_it() -> None:
    assert VENUES["BINANCE_FUTURES"].headers_with(KEY)["X-MBX-APIKEY"] == KEY
    assert KEY not in VENUES["BINANCE_FUTURES"].headers_with("").values()
    assert KEY not in VENUES["KRAKEN"].headers_with(KEY).values()
