"""What must hold between settings, beyond the type of each. Pure; called when a Config is made.

Every rule that is broken is a ConfigError whose message begins with the path of the setting, and says the way
out.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from marketd.market.activity_specs import EVERY, MAX_SPECS, read_spec
from marketd.market.errors import ConfigError, InvalidArgument
from marketd.market.instruments import CONSOLIDATED_VENUE
from marketd.market.records import FIRST_SERIES_ID, Kind, series_kind
from marketd.market.times import NS_PER_SECOND, parse_timeframe
from marketd.sql.server_settings import merge_settings, parse_listen
from marketd.sql.widths import WIDTHS

if TYPE_CHECKING:
    from marketd.daemon.feeds.adapter import Venue as VenueRow
    from marketd.daemon.settings import Config, Venue

MIN_SEGMENT_BYTES = 1 << 20
PAGE_BYTES = 4096
MIN_BOOK_INTERVAL_NS = 1_000_000
MAX_BAND_BPS = 5_000
BARS = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d")  # what venues may have
DAY_NS = 86_400 * NS_PER_SECOND
MIN_RETENTION_NS = DAY_NS
MIN_SECONDS_NS = 5 * DAY_NS  # a refresh of bars of a day looks two whole days back, from a day ago, and one to spare
MIN_COMPRESS_AFTER_NS = 3600 * NS_PER_SECOND
MIN_PACK_AFTER_NS = 3600 * NS_PER_SECOND  # as in sql/packed_tables.py, where readers and the writer rely on it
MIN_BLOCK_ROWS = 1000
LAST_SERIES_ID = 0x7FFF  # a kind's number is 16 bits wide in the journal, and a smallint in the ledger
MAX_SERIES = 1000
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_WIDTH = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")
MEANT = 0.8  # how like two names are, by difflib, when one is taken for a slip in the other


def check(config: Config) -> None:
    """Raise ConfigError for the first rule that is broken."""
    if not _INSTANCE.fullmatch(config.instance):
        fail(
            "instance",
            f"{config.instance!r} becomes part of paths; write a-z, 0-9, _ and -, at most 32 of them",
        )
    _check_timeframes(config)
    for name, venue in config.venues.items():
        _check_venue(name, venue)
    if config.default_venue is not None:
        _check_venue_name("default_venue", config.default_venue, [*_feed_venues(), CONSOLIDATED_VENUE])
    for alias, target in config.aliases.items():
        if not alias or not target:
            fail(f"aliases.{alias or repr(alias)}", "an alias maps one symbol to another, and neither is empty")
        if target in config.aliases:
            fail(
                f"aliases.{alias}",
                f"{target!r} is an alias itself, and aliases are not followed; name the instrument that is meant, "
                "such as 'BTCUSDT.BINANCE'",
            )
    series({name: stream.fields for name, stream in config.streams.items()})
    _check_activity_bars(config)
    _check_book(config)
    for name in ("url", "read_url", "replica_url"):
        _check_url(f"database.{name}", getattr(config.database, name), ("postgresql://", "postgres://"))
    _check_journal(config)
    _check_database(config)
    _check_retention(config)
    _check_storage(config)
    _check_bounds(config)
    _check_listen("http.listen", config.http.listen)
    parse_listen(config.embedded.listen)
    merge_settings({}, config.embedded.settings)


def series(streams: Mapping[str, Mapping[str, str]]) -> list[Kind]:
    """The kinds of declared streams.

    A kind's number stands in every journal frame, so it must not depend on which other streams are declared:
    it is a hash of name and fields. Declaring one differently makes it another kind, never a misreading of
    old bytes.
    """
    if len(streams) > MAX_SERIES:
        fail("streams", f"{len(streams)} streams are declared; at most {MAX_SERIES} are served by one daemon")
    kinds: dict[int, Kind] = {}
    for name, fields in streams.items():
        declaration = " ".join([name, *(f"{field}:{type_name}" for field, type_name in fields.items())])
        number = FIRST_SERIES_ID + zlib.crc32(declaration.encode()) % (LAST_SERIES_ID + 1 - FIRST_SERIES_ID)
        if number in kinds:
            fail(
                f"streams.{name}",
                f"its number collides with that of streams.{kinds[number].name}; rename one of them",
            )
        kinds[number] = series_kind(number, name, fields)
    return list(kinds.values())


def host_and_port(text: str) -> tuple[str, int]:
    """`"127.0.0.1:9464"` or `"[::1]:9464"` in its two parts; ValueError when it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is no address; write HOST:PORT, such as '127.0.0.1:9464'")
    return host.removeprefix("[").removesuffix("]"), int(port)


def fail(path: str, sentence: str) -> None:
    raise ConfigError(f"{path}: {sentence}", field=path)


def _check_timeframes(config: Config) -> None:
    seconds = [_timeframe(f"timeframes[{i}]", text) for i, text in enumerate(config.timeframes)]
    if not seconds:
        fail("timeframes", "name at least one, such as '1m'")
    smallest = min(seconds)
    for i, value in enumerate(seconds):
        path = f"timeframes[{i}]"
        if value in seconds[:i]:
            fail(path, f"{config.timeframes[i]!r} stands there twice")
        if value % smallest:
            fail(
                path,
                f"{config.timeframes[i]!r} is no multiple of the smallest one, from which it is folded",
            )
    for name in config.cache.bars:
        _timeframe(f"cache.bars.{name}", name)


def _timeframe(path: str, text: str) -> int:
    try:
        return parse_timeframe(text, field=path)
    except InvalidArgument as error:
        raise ConfigError(str(error), field=path) from None


def _check_venue(name: str, venue: Venue) -> None:
    where = f"venues.{name}"
    _check_venue_name(where, name, _feed_venues())
    if venue.enabled and not venue.symbols:
        fail(f"{where}.symbols", "name at least one symbol, such as 'BTC/USDT', or set enabled = false")
    for symbol, count in _counted(venue.symbols):
        if not symbol.strip() or count > 1:
            fail(f"{where}.symbols", f"{symbol!r} " + ("stands there twice" if count > 1 else "is no symbol"))
    for i, text in enumerate(venue.candles):
        _timeframe(f"{where}.candles[{i}]", text)
    _check_what_the_venue_has(where, name, venue)
    _check_url(f"{where}.ws_url", venue.ws_url, ("ws://", "wss://"))
    _check_url(f"{where}.rest_url", venue.rest_url, ("http://", "https://"))
    _check_positive(where, {"roll_after": venue.roll_after, "dead_after": venue.dead_after})
    _check_order(where, "reconnect_min", venue.reconnect_min, "reconnect_max", venue.reconnect_max)


def _check_what_the_venue_has(where: str, name: str, venue: Venue) -> None:
    """What its adapter would refuse: a feed that cannot even start is a mistake of the file."""
    from marketd.daemon.feeds.venues import venue_of  # adapters read settings, which are made by these rules

    row = venue_of(name, venue.ws_url)
    _check_api_key_file(f"{where}.api_key_file", venue.api_key_file, row.api_key_header)
    adapter = row.adapter(trades=venue.trades, candles=())
    for i, text in enumerate(venue.candles):
        try:
            row.adapter(trades=venue.trades, candles=(text,))
        except ConfigError as error:
            fail(f"{where}.candles[{i}]", str(error).removeprefix(f"{error.field}: "))
    if venue.candles != type(venue)().candles:  # the default is for all venues, and means those that have it
        for i, why in unsent_candles(name, venue):
            fail(f"{where}.candles[{i}]", why)
    for i, symbol in enumerate(venue.symbols):
        try:
            adapter.venue_symbol(symbol)
        except InvalidArgument as error:
            fail(f"{where}.symbols[{i}]", str(error).removeprefix(f"{error.field}: "))


def unsent_candles(name: str, venue: Venue) -> list[tuple[int, str]]:
    """Which of the candles the venue has not on its stream, and what it has instead."""
    from marketd.daemon.feeds.venues import venue_of

    row = venue_of(name, venue.ws_url)
    unsent = [(i, text) for i, text in enumerate(venue.candles) if not _streams(row, text)]
    has = ", ".join(text for text in BARS if _streams(row, text)) or "none" if unsent else ""
    way = "`marketd backfill --candles` fetches bars over REST"
    return [(i, f"the stream of {name} has no bars of {text!r}, but {has}; {way}") for i, text in unsent]


def _streams(row: VenueRow, timeframe: str) -> bool:
    try:
        return bool(row.adapter(candles=(timeframe,)).timeframes)
    except ConfigError:
        return False


def _check_api_key_file(path: str, name: str, header: str) -> None:
    if name and not header:
        fail(path, "nothing that is asked of this venue needs a key; leave it out")
    if name and not name.startswith("/") and "/" in name:
        fail(path, f"{name!r} is neither an absolute path nor the name of a credential of systemd's")


def _feed_venues() -> list[str]:
    from marketd.daemon.feeds.venues import VENUES  # adapters read settings, which are made by these rules

    return list(VENUES)


def _check_venue_name(path: str, name: str, venues: Iterable[str]) -> None:
    if name not in venues:
        close = get_close_matches(name.upper(), list(venues), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(venues)}"
        fail(path, f"{name!r} is no venue; {hint}")


def _counted(items: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    return ((item, items.count(item)) for item in items)


def _check_book(config: Config) -> None:
    book = config.book
    if book.interval < MIN_BOOK_INTERVAL_NS:
        fail("book.interval", f"{book.interval} would send a book more often than every ms; write 1ms or more")
    if not 0 < book.band_bps <= MAX_BAND_BPS:
        fail("book.band_bps", f"{book.band_bps:g} is no band around the mid price; write more than 0, at most 5000")
    for name, width in book.buckets.items():
        path = f"book.buckets.{name}"
        if not _WIDTH.fullmatch(width) or not float(width):
            fail(path, f"{width!r} is no price more than 0; write a decimal number in quotes, such as '0.5'")
        _check_instrument_name(path, name)
        _check_venue_name(path, name.rpartition(".")[2], _feed_venues())


def _check_instrument_name(path: str, name: str, or_else: str = "") -> None:
    """What is set for one instrument is looked up by its name alone: an alias, or a pair, would never be found."""
    symbol, _, venue = name.rpartition(".")
    plain = re.sub(r"[/:\s-]", "", symbol or name).upper()
    is_pair = "/" in symbol or (
        venue in (*_feed_venues(), CONSOLIDATED_VENUE) and symbol != plain
    )  # producers name theirs as they like
    if not symbol or not venue or is_pair:
        wanted = f"{plain or 'BTCUSDT'}.{venue if symbol and venue else 'BINANCE'}"
        fail(path, f"{name!r} is no instrument's name, and aliases do not count here; write {or_else}'{wanted}'")


def _check_no_venue_is_meant(path: str, name: str) -> None:
    """A producer's venue may have any name, `COINBASE_TEST` too, but no misspelt or shortened one of ours: that matches
    nothing."""
    symbol, _, venue = name.rpartition(".")
    if venue == CONSOLIDATED_VENUE:
        fail(path, f"{venue} has no trades of its own to make bars of; write '{symbol}.' and one of its venues")
    likely = get_close_matches(venue.upper(), _feed_venues(), n=1, cutoff=MEANT)
    close = next(iter(likely or (known for known in _feed_venues() if _is_short_for(venue.upper(), known))), venue)
    if not venue.startswith(close):
        known = ", ".join(_feed_venues())
        fail(
            path,
            f"{venue!r} is no venue, and too like {close} for a producer's own; write '{symbol}.{close}'. Venues are "
            f"{known}",
        )


def _is_short_for(name: str, venue: str) -> bool:
    """`COIN`, `KRAK`; three letters are a name of somebody's own (`ICE`, `BSE`, `BIT`)."""
    return len(name) > 3 and venue.startswith(name)


def _check_activity_bars(config: Config) -> None:
    for name, texts in config.activity_bars.items():
        path = f"activity_bars.{name}"
        if name != EVERY:
            _check_instrument_name(path, name, or_else=f"'{EVERY}', or ")
            _check_no_venue_is_meant(path, name)
        if len(texts) > MAX_SPECS:
            fail(path, f"{len(texts)} kinds of bars; of one instrument there are {MAX_SPECS} at most")
        specs = [read_spec(text, field=f"{path}[{i}]") for i, text in enumerate(texts)]
        for i, spec in enumerate(specs):
            if spec in specs[:i]:
                fail(f"{path}[{i}]", f"{texts[i]!r} stands there twice")


def _check_journal(config: Config) -> None:
    journal = config.journal
    if journal.segment < MIN_SEGMENT_BYTES or journal.segment % PAGE_BYTES:
        fail("journal.segment", f"{journal.segment} is too small or no multiple of 4KiB; write 1MiB or more")
    if journal.budget < 3 * journal.segment:
        least = type(journal.budget)(3 * journal.segment)
        fail("journal.budget", f"{journal.budget} is less than three segments; write at least {least}")
    if journal.front < MIN_SEGMENT_BYTES or journal.front % PAGE_BYTES:
        fail("journal.front", f"{journal.front} is too small or no multiple of 4KiB; write 1MiB or more")
    if journal.durability == "interval":
        _check_positive("journal", {"interval": journal.interval})


def _check_database(config: Config) -> None:
    database = config.database
    if database.read_url and not database.url:
        fail("database.read_url", "of the embedded PostgreSQL queries are read with the reader's login; leave it empty")
    if database.replica_url and not database.url:
        fail("database.replica_url", "the embedded PostgreSQL has no standby; name its primary in database.url, too")
    _check_positive("database", {"replica_max_lag": database.replica_max_lag})


def _check_retention(config: Config) -> None:
    retention = config.retention
    for name in retention.series:
        if name not in config.streams:
            fail(f"retention.series.{name}", "no stream of this name is declared")
    kept = {name: getattr(retention, name) for name in retention.__struct_fields__ if name != "series"}
    for name, duration in (kept | {f"series.{name}": each for name, each in retention.series.items()}).items():
        if 0 < duration < MIN_RETENTION_NS:
            fail(f"retention.{name}", f"{duration} is too short; rows go by the day: write 1d or more, or 0 for ever")
    if 0 < retention.candles_1s < MIN_SECONDS_NS:
        fail(
            "retention.candles_1s",
            f"{retention.candles_1s} is too short; bars of a day are made of them, days later: write 5d or more, or 0",
        )


def _check_storage(config: Config) -> None:
    storage = config.storage
    tables = {*WIDTHS, *(f"series_{name}" for name in config.streams)}
    for setting, named in (("compress", storage.compress), ("chunks", storage.chunks)):
        for table in named:
            if table not in tables:
                fail(f"storage.{setting}.{table}", f"no such table; there are {', '.join(sorted(tables))}")
    ages = {"compress_after": storage.compress_after}
    for name, age in (ages | {f"compress.{table}": each for table, each in storage.compress.items()}).items():
        if 0 < age < MIN_COMPRESS_AFTER_NS:
            fail(f"storage.{name}", f"{age} is too short; late rows come for hours: write 1h or more, or 0 for never")
    for table, width in storage.chunks.items():
        if width <= 0 or width % DAY_NS:
            fail(f"storage.chunks.{table}", f"{width} is no number of whole days; write 1d, 7d, …")
    if storage.pack_after < MIN_PACK_AFTER_NS:
        fail(
            "storage.pack_after",
            f"{storage.pack_after} is too short; what is so young still changes: write 1h or more",
        )
    if 0 < storage.block_rows < MIN_BLOCK_ROWS:
        fail(
            "storage.block_rows",
            f"{storage.block_rows} is too few, blocks would be as large as rows; write {MIN_BLOCK_ROWS} or more, "
            "or 0 for what suits each table",
        )


def _check_bounds(config: Config) -> None:
    supervisor = config.supervisor
    _check_positive("cache", {"window": config.cache.window})
    _check_positive("database", {"statement_timeout": config.database.statement_timeout})
    names = ("ping_interval", "start_timeout", "crash_window", "drain_timeout")
    _check_positive("supervisor", {name: getattr(supervisor, name) for name in names})
    _check_order("database", "pool_min", config.database.pool_min, "pool_max", config.database.pool_max)
    _check_order("supervisor", "ping_interval", supervisor.ping_interval, "ping_timeout", supervisor.ping_timeout)
    _check_order(
        "supervisor",
        "restart_backoff",
        supervisor.restart_backoff,
        "restart_backoff_max",
        supervisor.restart_backoff_max,
    )
    if config.grace >= min(parse_timeframe(text) for text in config.timeframes) * NS_PER_SECOND:
        fail(
            "grace",
            f"{config.grace} is as long as the smallest timeframe; only two bars of one are open at a time",
        )


def _check_positive(table: str, values: Mapping[str, int]) -> None:
    for name, value in values.items():
        if value <= 0:
            fail(f"{table}.{name}", "must be more than 0")


def _check_order(table: str, low: str, low_value: int, high: str, high_value: int) -> None:
    if low_value > high_value:
        fail(
            f"{table}.{low}",
            f"{low_value} is more than {table}.{high}, {high_value}; lower one or raise the other",
        )


def _check_url(path: str, url: str, schemes: tuple[str, ...]) -> None:
    if url and not url.startswith(schemes):
        fail(path, f"{url!r} does not begin with {' or '.join(schemes)}")


def _check_listen(path: str, text: str) -> None:
    try:
        if text:
            host_and_port(text)
    except ValueError as error:
        fail(path, str(error))
