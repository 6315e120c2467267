"""Strict configuration: file, environment, --set; every error names the setting and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marketd.daemon.config import convert, find_file, load, to_plain
from marketd.daemon.feeds.venues import VENUES
from marketd.daemon.quantities import Bytes, Nanoseconds
from marketd.daemon.rules import series
from marketd.daemon.settings import Config
from marketd.market.errors import ConfigError
from marketd.market.records import FIRST_SERIES_ID

ALL_VENUES = ", ".join(VENUES)
VENUE = '[venues.BINANCE]\nsymbols = ["BTC/USDT"]\n'


def loaded(tmp_path: Path, text: str = "", *overrides: str, **environment: str) -> Config:
    file = tmp_path / "marketd.toml"
    file.write_text(text)
    return load(file, overrides=overrides, environment=environment)


def refused(tmp_path: Path, text: str = "", *overrides: str, **environment: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, *overrides, **environment)
    return caught.value


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path) == Config()


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    nowhere = {"XDG_CONFIG_HOME": str(tmp_path)}
    if find_file(None, nowhere) is not None:
        pytest.skip("this machine has an /etc/marketd/marketd.toml")
    assert load(environment=nowhere) == Config()


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text("daemon_no = 7")
    assert load(environment={"MARKETD_CONFIG": str(file)}).daemon_no == 7


def test_sizes_and_durations_are_read_and_shown_with_their_units(tmp_path: Path) -> None:
    config = loaded(tmp_path, 'grace = "100ms"\n[journal]\nbudget = "1.5GiB"\nkeep = "90min"\n')
    assert (config.grace, config.journal.budget, config.journal.keep.seconds) == (100_000_000, 3 << 29, 5400.0)
    assert to_plain(config)["journal"]["budget"] == "1536MiB"
    assert to_plain(config)["journal"]["keep"] == "90min"


@pytest.mark.parametrize("text", ["0s", "1ns", "17us", "250ms", "90s", "5min", "23h"])
def test_a_duration_reads_back_from_its_text(text: str) -> None:
    duration = Nanoseconds.parse(text)
    assert Nanoseconds.parse(str(duration)) == duration


@pytest.mark.parametrize("text", ["0B", "1B", "1536MiB", "64KiB", "3TiB"])
def test_a_size_reads_back_from_its_text(text: str) -> None:
    assert str(Bytes.parse(text)) == text


def test_what_to_plain_shows_converts_back_to_the_same(tmp_path: Path) -> None:
    config = loaded(tmp_path, VENUE + '[streams.funding]\nfields = {rate = "f8"}\n[aliases]\nBTC = "BTCUSDT.BINANCE"')
    assert convert(to_plain(config)) == config


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("jornal = 1", "jornal", "did you mean journal?"),
        ("[journal]\nbugdet = 1", "journal.bugdet", "did you mean journal.budget?"),
        ('budget = "1GiB"', "budget", "did you mean journal.budget?"),
        ("[journal]\nxyz = 1", "journal.xyz", "there are segment, budget"),
        ("[venues.BINANCE]\nsymbls = []", "venues.BINANCE.symbls", "did you mean venues.BINANCE.symbols?"),
        ('[venues.BINANC]\nsymbols = ["A"]', "venues.BINANC", "did you mean BINANCE?"),
        ('[venues.COB]\nsymbols = ["A"]', "venues.COB", "no venue"),
        ("[venues.BINANCE]", "venues.BINANCE.symbols", "enabled = false"),
        ('[venues.BINANCE]\nsymbols = ["A", "A"]', "venues.BINANCE.symbols", "twice"),
        ('[venues.BINANCE]\nsymbols = [" "]', "venues.BINANCE.symbols", "no symbol"),
        (VENUE + "[venues.OKX]\nsymbols = [3]", "venues.OKX.symbols[0]", "expected text"),
        (VENUE + 'candles = ["1x"]', "venues.BINANCE.candles[0]", "'1m'"),
        (VENUE + 'ws_url = "http://x"', "venues.BINANCE.ws_url", "wss://"),
        (VENUE + 'rest_url = "x"', "venues.BINANCE.rest_url", "https://"),
        (VENUE + 'dead_after = "0s"', "venues.BINANCE.dead_after", "more than 0"),
        (VENUE + 'reconnect_min = "1h"', "venues.BINANCE.reconnect_min", "reconnect_max"),
        ('[activity_bars]\nBTCUSDT = ["tick:5"]', "activity_bars.BTCUSDT", "'BTCUSDT.BINANCE'"),
        ('[activity_bars]\n"BTC/USDT.BINANCE" = ["tick:5"]', "activity_bars.BTC/USDT.BINANCE", "'BTCUSDT.BINANCE'"),
        ('[book.buckets]\n"BTC/USDT" = "1"', "book.buckets.BTC/USDT", "write 'BTCUSDT.BINANCE'"),
        ('[book.buckets]\n"btc-usd.KRAKEN" = "1"', "book.buckets.btc-usd.KRAKEN", "write 'BTCUSD.KRAKEN'"),
        ('[book.buckets]\n"BTCUSDT.BINANC" = "1"', "book.buckets.BTCUSDT.BINANC", "BINANCE"),
        ('[aliases]\nBTC = "XBT"\nXBT = "BTCUSDT.BINANCE"', "aliases.BTC", "an alias itself"),
        ('[aliases]\nBTC = "BTC"', "aliases.BTC", "an alias itself"),
        ('[activity_bars]\n"BTCUSDT.BINACE" = ["tick:5"]', "activity_bars.BTCUSDT.BINACE", "'BTCUSDT.BINANCE'"),
        ('[activity_bars]\n"BTCUSDT.BINACE" = ["tick:5"]', "activity_bars.BTCUSDT.BINACE", ALL_VENUES),
        ('[activity_bars]\n"BTCUSDT.KRAK" = ["tick:5"]', "activity_bars.BTCUSDT.KRAK", "'BTCUSDT.KRAKEN'"),
        ('[activity_bars]\n"BTCUSDT.COIN" = ["tick:5"]', "activity_bars.BTCUSDT.COIN", "'BTCUSDT.COINBASE'"),
        ('[activity_bars]\n"X.BINANCE_FUT" = ["tick:5"]', "activity_bars.X.BINANCE_FUT", "'. Venues are BIN"),
        ('[activity_bars]\n"BTCUSDT.okx" = ["tick:5"]', "activity_bars.BTCUSDT.okx", "'BTCUSDT.OKX'"),
        ('[activity_bars]\n"BTCUSDT.COB" = ["tick:5"]', "activity_bars.BTCUSDT.COB", "one of its venues"),
        ('[activity_bars]\n"*" = ["tick:5", "range:5"]', "activity_bars.*[1]", "none of tick"),
        ('[activity_bars]\n"*" = ["dollar:1e6", "dollar:1000000"]', "activity_bars.*[1]", "twice"),
        (f'[activity_bars]\n"*" = {[f"tick:{n}" for n in range(1, 18)]}', "activity_bars.*", "16"),
        ('default_venue = "binance"', "default_venue", "did you mean BINANCE?"),
        ("journal = 3", "journal", "expected a table, got a whole number"),
        ("instance = 3", "instance", "expected text"),
        ('instance = "a/b"', "instance", "a-z"),
        ("daemon_no = 0", "daemon_no", ">= 1"),
        ('[query]\nprocesses = "many"', "query.processes", "a whole number"),
        ('[journal]\nbudget = "1GB"', "journal.budget", "'64MiB'"),
        ('[journal]\nbudget = "1MiB"', "journal.budget", "at least 192MiB"),
        ('[journal]\nsegment = "1000KiB"', "journal.segment", "1MiB or more"),
        ('[journal]\nfront = "5000000"', "journal.front", "no size"),
        ("[journal]\nfront = 5000001", "journal.front", "1MiB or more"),
        ('[journal]\ndurability = "always"', "journal.durability", "none of group, interval, none"),
        ('[journal]\ndurability = "interval"\ninterval = "0s"', "journal.interval", "more than 0"),
        ('grace = "soon"', "grace", "'250ms'"),
        ("grace = -1", "grace", "negative"),
        ("grace = inf", "grace", "no duration"),
        ("grace = true", "grace", "no duration"),
        ('grace = "2s"', "grace", "smallest timeframe"),
        ("timeframes = []", "timeframes", "at least one"),
        ('timeframes = ["1y"]', "timeframes[0]", "'1m'"),
        ('timeframes = ["2m", "3m"]', "timeframes[1]", "multiple"),
        ('timeframes = ["1m", "60s"]', "timeframes[1]", "twice"),
        ("[cache.bars]\n1y = 3", "cache.bars.1y", "'1m'"),
        ("[cache.bars]\n1m = 0", "cache.bars.1m", ">= 1"),
        ("[aliases]\nBTC = 3", "aliases.BTC", "expected text"),
        ('[aliases]\nBTC = ""', "aliases.BTC", "neither is empty"),
        ("[streams.x]", "streams.x.fields", "is missing"),
        ('[streams.x]\nfields = {a = "f4"}', "streams.x.fields.a", "f8, i8, price, size"),
        ('[streams.trade]\nfields = {a = "f8"}', "streams.trade", "no built-in kind"),
        ('[embedded]\nlisten = "a:b"', "embedded.listen", "host:port"),
        ("[embedded.settings]\nport = 3", "embedded.settings.port", "marketd sets this itself"),
        ("[embedded.settings]\nwork_mem = [3]", "embedded.settings.work_mem", "got a list"),
        ('[http]\nlisten = "9464"', "http.listen", "HOST:PORT"),
        ('[http]\nlisten = "a:99999"', "http.listen", "HOST:PORT"),
        ("[database]\npool_min = 9", "database.pool_min", "pool_max"),
        ('[database]\nread_url = "postgresql://r@h/d"', "database.read_url", "leave it empty"),
        ('[database]\nurl = "postgresql://h/d"\nread_url = "mysql://h/d"', "database.read_url", "postgresql://"),
        ('[supervisor]\nping_timeout = "1ms"', "supervisor.ping_interval", "ping_timeout"),
        ('[supervisor]\nrestart_backoff = "1h"', "supervisor.restart_backoff", "restart_backoff_max"),
        ('[supervisor]\ndrain_timeout = "0s"', "supervisor.drain_timeout", "more than 0"),
    ],
)
def test_an_error_names_the_file_the_setting_and_the_way_out(tmp_path: Path, text: str, path: str, words: str) -> None:
    error = refused(tmp_path, text)
    assert error.field == path
    assert str(error).startswith(f"{tmp_path / 'marketd.toml'}: {path}: ")
    assert words in str(error)


@pytest.mark.parametrize(
    "venue",
    ["DESK", "COINBASE_PRO", "BINANCE2", "BINANCE_DELIVERY", "BITMEX", "COINEX", "X", "ICE", "BSE", "CFE", "BIT"],
)
def test_bars_of_a_producers_own_venue_may_be_wanted(tmp_path: Path, venue: str) -> None:
    file, name = tmp_path / "marketd.toml", f"BTCUSDT.{venue}"
    file.write_text(f'[activity_bars]\n"{name}" = ["tick:5"]')
    assert list(load(file, environment={}).activity_bars) == [name]


def test_queries_have_a_login_of_their_own_where_one_is_named(tmp_path: Path) -> None:
    (file := tmp_path / "marketd.toml").write_text('[database]\nurl = "postgresql://w@h/d"')
    assert load(file, environment={}).database.url_for_reading == "postgresql://w@h/d"
    config = load(file, environment={"MARKETD_DATABASE__READ_URL": "postgresql://r@h/d"})
    assert (config.database.url, config.database.url_for_reading) == ("postgresql://w@h/d", "postgresql://r@h/d")


def test_a_file_that_is_no_toml_is_named_with_the_line(tmp_path: Path) -> None:
    assert "marketd.toml: not TOML: " in str(error := refused(tmp_path, "x = 1\ny = [")), error
    assert "line 3" in str(refused(tmp_path, "\n\nx y"))


def test_a_file_that_cannot_be_read_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read .*marketd init"):
        load(tmp_path / "none.toml", environment={})


def test_a_file_that_is_not_utf8_or_huge_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "marketd.toml"
    file.write_bytes(b"x = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(file, environment={})
    file.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="larger than"):
        load(file, environment={})


# ---- overrides ----------------------------------------------------------------------------------


def test_variables_override_the_file_and_set_overrides_both(tmp_path: Path) -> None:
    text = "daemon_no = 2\n[query]\nprocesses = 2\nmax_queue = 2"
    config = loaded(tmp_path, text, "query.max_queue=4", MARKETD_QUERY__MAX_QUEUE="3", MARKETD_QUERY__PROCESSES="3")
    assert (config.daemon_no, config.query.processes, config.query.max_queue) == (2, 3, 4)


@pytest.mark.parametrize(
    ("name", "value", "path", "expected"),
    [
        ("MARKETD_INSTANCE", "5", "instance", "5"),
        ("MARKETD_DEFAULT_VENUE", "OKX", "default_venue", "OKX"),
        ("MARKETD_LOG__LEVEL", "DEBUG", "log.level", "DEBUG"),
        ("MARKETD_JOURNAL__BUDGET", "8GiB", "journal.budget", "8GiB"),
        ("MARKETD_JOURNAL__KEEP", "90", "journal.keep", "90s"),
        ("MARKETD_CAPTURE__RAW", "true", "capture.raw", True),
        ("MARKETD_TIMEFRAMES", '["1s", "1m"]', "timeframes", ("1s", "1m")),
        ("MARKETD_VENUES__OKX__SYMBOLS", '["BTC/USDT"]', "venues.OKX.symbols", ("BTC/USDT",)),
        ("MARKETD_CACHE__BARS__1s", "60", "cache.bars.1s", 60),
        ("MARKETD_ALIASES__BTC", "BTCUSDT.BINANCE", "aliases.BTC", "BTCUSDT.BINANCE"),
        ("MARKETD_EMBEDDED__SETTINGS__work_mem", "64MB", "embedded.settings.work_mem", "64MB"),
        ("MARKETD_STREAMS__funding__FIELDS", '{rate = "f8"}', "streams.funding.fields", {"rate": "f8"}),
    ],
)
def test_a_variable_reaches_its_setting(tmp_path: Path, name: str, value: str, path: str, expected: object) -> None:
    found: Any = to_plain(loaded(tmp_path, **{name: value}))
    for part in path.split("."):
        found = found[part]
    assert found == expected


def test_an_override_that_is_wrong_is_named_as_the_culprit(tmp_path: Path) -> None:
    assert str(refused(tmp_path, MARKETD_JOURNAL__BUDGET="1MiB")).startswith("MARKETD_JOURNAL__BUDGET: journal.budget")
    assert str(refused(tmp_path, "", "grace=soon")).startswith("--set grace: grace: 'soon' is no duration")
    assert "PATH=VALUE" in str(refused(tmp_path, "", "grace"))
    assert "is no table" in str(refused(tmp_path, "journal = 3", "journal.budget=8GiB"))
    assert "did you mean journal.budget?" in str(refused(tmp_path, "", "journal.budgt=8GiB"))


@pytest.mark.parametrize("name", ["MARKETD_JOURNAL_BUDGET", "MARKETD_JOURNAL__BUGDET"])
def test_a_misspelt_variable_is_refused_with_the_right_one(tmp_path: Path, name: str) -> None:
    assert "did you mean MARKETD_JOURNAL__BUDGET?" in str(refused(tmp_path, **{name: "8GiB"}))


def test_a_variable_that_no_setting_resembles_is_refused_only_when_it_looks_like_one(tmp_path: Path) -> None:
    assert "ops/marketd.toml" in str(refused(tmp_path, MARKETD_FOO__BAR="1"))


def test_variables_that_others_make_are_left_alone(tmp_path: Path) -> None:
    others = ("MARKETD_URL", "MARKETD_TESTS_REQUIRE", "MARKETD_SERVICE_HOST", "MARKETD_PORT_9464_TCP", "MARKETD_PG_BIN")
    assert loaded(tmp_path, **dict.fromkeys(others, "x")) == Config()


# ---- what is computed ---------------------------------------------------------------------------


def test_the_state_is_in_the_xdg_directory_of_a_user_and_in_var_lib_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/home/x/state")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert Config(instance="a").state_path == Path("/home/x/state/marketd/a")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert Config(instance="a").state_path == Path("/var/lib/marketd/a")
    assert Config(state_dir="/data/x").state_path == Path("/data/x")


def test_the_runtime_directory_bears_the_instance() -> None:
    assert Config(instance="a").runtime_path == Path("/dev/shm/marketd-a")
    assert Config(runtime_dir="/run/x").runtime_path == Path("/run/x")


def test_timeframes_come_in_seconds_the_smallest_first() -> None:
    assert Config(timeframes=("1h", "1m", "5m")).timeframe_seconds == (60, 300, 3600)


def test_the_cache_knows_a_capacity_for_every_timeframe(tmp_path: Path) -> None:
    cache = loaded(tmp_path, "[cache.bars]\n60s = 7").cache
    assert [cache.bars_of(seconds) for seconds in (60, 1, 120)] == [7, 3600, 600]
    assert cache.trades == 60_000


def test_a_declared_series_keeps_its_number_when_others_come_and_go(tmp_path: Path) -> None:
    first = '[streams.funding]\nfields = {rate = "f8"}\n'
    second = '[streams.oracle]\nfields = {mark = "price"}\n'
    alone, both = loaded(tmp_path, first), loaded(tmp_path, second + first)
    funding = alone.kinds().by_name("funding")
    assert both.kinds().by_name("funding") == funding
    assert FIRST_SERIES_ID <= funding.id <= 0x7FFF
    changed = loaded(tmp_path, '[streams.funding]\nfields = {rate = "i8"}\n')
    assert changed.kinds().by_name("funding").id != funding.id


def test_series_whose_numbers_collide_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("marketd.daemon.rules.zlib.crc32", lambda _data: 5)
    text = '[streams.a]\nfields = {x = "f8"}\n[streams.b]\nfields = {x = "f8"}'
    assert "collides" in str(refused(tmp_path, text))


def test_only_enabled_venues_get_a_feed() -> None:
    config = convert({"venues": {"OKX": {"enabled": False}, "BINANCE": {"symbols": ["BTC/USDT"]}}})
    assert list(config.active_venues) == ["BINANCE"]


def test_every_series_has_a_number_that_the_ledger_can_hold() -> None:
    numbers = [series({f"series_{number}": {"value": "f8"}})[0].id for number in range(300)]
    assert min(numbers) >= FIRST_SERIES_ID and max(numbers) <= np.iinfo(np.int16).max  # a smallint of `coverage`
