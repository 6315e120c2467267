"""The settings of a daemon as structs: one table of the TOML file is one struct, one name everywhere.

`journal.budget` in the file is `MARKETD_JOURNAL__BUDGET` in the environment, `config.journal.budget` in code,
and "journal.budget" in an error. Sizes are `Bytes`, durations `Nanoseconds` (both ints; `.seconds` for
asyncio). Every default is explained, with its unit and reason, in `ops/marketd.toml`, which a test holds
equal to this file.

`marketd.daemon.config.load` is the way to a `Config`; constructing one checks what holds between settings
(`marketd.daemon.rules`), so that no process ever sees a Config that cannot be used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from marketd.daemon import rules
from marketd.daemon.quantities import Bytes, Nanoseconds
from marketd.ipc import paths
from marketd.market.records import BOOK_DEPTH, MAX_BOOK_DEPTH, Kind, KindTable
from marketd.market.times import parse_timeframe, timeframe_name

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Setting = str | int | float | bool  # the value of a setting that is handed on to PostgreSQL

_duration = Nanoseconds.parse
_size = Bytes.parse
_FOR_EVER = Nanoseconds(0)

DEFAULT_TIMEFRAMES = ("1s", "1m", "5m", "15m", "1h", "4h", "1d")
DEFAULT_BARS = {"1s": 3600, "1m": 1500, "5m": 600, "15m": 600, "1h": 800, "4h": 600, "1d": 500}
BARS_OF_OTHER_TIMEFRAMES = 600


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file."""


class Venue(Table, frozen=True, kw_only=True):
    """`[venues.BINANCE]`: one feed actor."""

    enabled: bool = True
    symbols: tuple[str, ...] = ()
    trades: Literal["trade", "aggTrade"] = "trade"
    candles: tuple[str, ...] = ("1m",)
    book: bool = True
    ws_url: str = ""
    rest_url: str = ""
    roll_after: Nanoseconds = _duration("23h")
    dead_after: Nanoseconds = _duration("30s")
    reconnect_min: Nanoseconds = _duration("250ms")
    reconnect_max: Nanoseconds = _duration("30s")
    request_weight: Positive = 3000
    api_key_file: str = ""


class Stream(Table, frozen=True, kw_only=True):
    """`[streams.funding]`: a declared series."""

    fields: dict[str, str]
    scope: Literal["instrument", "global"] = "instrument"


class Book(Table, frozen=True, kw_only=True):
    """Order books, and what is computed from them."""

    depth: Annotated[int, Meta(ge=1, le=MAX_BOOK_DEPTH)] = BOOK_DEPTH
    interval: Nanoseconds = _duration("100ms")
    jump_bps: NotNegative = 1.0
    band_bps: NotNegative = 10.0
    deltas: bool = False
    consolidated: bool = True
    buckets: dict[str, str] = {}

    @property
    def jump(self) -> float:
        """The move of a best price that is sent at once, as a ratio of the price."""
        return self.jump_bps / 10_000


class Cache(Table, frozen=True, kw_only=True):
    window: Nanoseconds = _duration("5min")
    trades_per_second: Positive = 200
    bars: dict[str, Positive] = {}

    @property
    def trades(self) -> int:
        """Capacity of an instrument's ring of trades, in records."""
        return max(1, round(self.window.seconds * self.trades_per_second))

    def books(self, interval_ns: int) -> int:
        """Capacity of an instrument's ring of books, one each `interval_ns`, in records."""
        return max(1, round(self.window / interval_ns))

    @property
    def seconds(self) -> int:
        """Capacity of a ring with one record a second that is kept for `window`."""
        return max(1, round(self.window.seconds))

    def bars_of(self, timeframe: int) -> int:
        """Capacity of the ring of closed bars of a timeframe (s), in records."""
        name = timeframe_name(timeframe)
        asked = {timeframe_name(parse_timeframe(key)): count for key, count in self.bars.items()}
        return asked.get(name) or DEFAULT_BARS.get(name) or BARS_OF_OTHER_TIMEFRAMES


class Journal(Table, frozen=True, kw_only=True):
    segment: Bytes = _size("64MiB")
    budget: Bytes = _size("16GiB")
    keep: Nanoseconds = _duration("1h")
    durability: Literal["group", "interval", "none"] = "group"
    interval: Nanoseconds = _duration("50ms")
    when_full: Literal["live_only", "refuse"] = "live_only"
    front: Bytes = _size("64MiB")


class Database(Table, frozen=True, kw_only=True):
    url: str = ""
    read_url: str = ""
    pool_min: Annotated[int, Meta(ge=0)] = 1
    pool_max: Positive = 4
    statement_timeout: Nanoseconds = _duration("30s")
    replica_url: str = ""
    replica_max_lag: Nanoseconds = _duration("2s")

    @property
    def url_for_reading(self) -> str:
        return self.read_url or self.url


class Embedded(Table, frozen=True, kw_only=True):
    user: str = ""
    listen: str = ""
    settings: dict[str, Setting] = {}


class Writer(Table, frozen=True, kw_only=True):
    batch_rows: Positive = 100_000
    batch_age: Nanoseconds = _duration("100ms")


class Retention(Table, frozen=True, kw_only=True):
    """How long each table keeps its rows; 0: for ever."""

    trades: Nanoseconds = _FOR_EVER
    candles_1s: Nanoseconds = _FOR_EVER
    candles: Nanoseconds = _FOR_EVER
    candle_versions: Nanoseconds = _FOR_EVER
    activity_bars: Nanoseconds = _FOR_EVER
    book_snapshots: Nanoseconds = _duration("30d")
    book_deltas: Nanoseconds = _duration("30d")
    imbalances: Nanoseconds = _FOR_EVER
    book_buckets: Nanoseconds = _FOR_EVER
    series: dict[str, Nanoseconds] = {}

    @property
    def tables(self) -> dict[str, Nanoseconds]:
        """What is kept only for a time, by the table's name."""
        built_in = {name: getattr(self, name) for name in self.__struct_fields__ if name != "series"}
        built_in["book_venues"] = self.book_snapshots  # beside which they stand
        series = {f"series_{name}": kept for name, kept in self.series.items()}
        return {table: kept for table, kept in (built_in | series).items() if kept}


class Storage(Table, frozen=True, kw_only=True):
    """How rows are kept: when they become columns (TimescaleDB) or blocks (elsewhere), and how they are cut."""

    compress_after: Nanoseconds = _duration("3d")
    compress: dict[str, Nanoseconds] = {}
    chunks: dict[str, Nanoseconds] = {}
    pack: bool = True
    pack_after: Nanoseconds = _duration("1d")
    block_rows: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # as suits each table


class Query(Table, frozen=True, kw_only=True):
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    max_queue: Positive = 256


class Http(Table, frozen=True, kw_only=True):
    listen: str = "127.0.0.1:9464"

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port; None when it is switched off."""
        return rules.host_and_port(self.listen) if self.listen else None


class Validation(Table, frozen=True, kw_only=True):
    max_skew: Nanoseconds = _duration("10s")


class Capture(Table, frozen=True, kw_only=True):
    raw: bool = False
    dir: str = ""


class Log(Table, frozen=True, kw_only=True):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    format: Literal["text", "json"] = "text"


class Supervision(Table, frozen=True, kw_only=True):
    """`[supervisor]`"""

    ping_interval: Nanoseconds = _duration("1s")
    ping_timeout: Nanoseconds = _duration("10s")
    start_timeout: Nanoseconds = _duration("60s")
    restart_backoff: Nanoseconds = _duration("100ms")
    restart_backoff_max: Nanoseconds = _duration("10s")
    crash_limit: Positive = 5
    crash_window: Nanoseconds = _duration("60s")
    drain_timeout: Nanoseconds = _duration("30s")


class Config(Table, frozen=True, kw_only=True):
    """Everything a daemon is told. Frozen: a reload makes a new one."""

    instance: str = paths.DEFAULT_INSTANCE
    daemon_no: Annotated[int, Meta(ge=1, le=32_767)] = 1
    state_dir: str = ""
    runtime_dir: str = ""
    default_venue: str | None = None
    timeframes: tuple[str, ...] = DEFAULT_TIMEFRAMES
    grace: Nanoseconds = _duration("250ms")
    aliases: dict[str, str] = {}
    activity_bars: dict[str, tuple[str, ...]] = {}
    venues: dict[str, Venue] = {}
    streams: dict[str, Stream] = {}
    book: Book = Book()
    cache: Cache = Cache()
    journal: Journal = Journal()
    database: Database = Database()
    embedded: Embedded = Embedded()
    writer: Writer = Writer()
    retention: Retention = Retention()
    storage: Storage = Storage()
    query: Query = Query()
    http: Http = Http()
    validation: Validation = Validation()
    capture: Capture = Capture()
    log: Log = Log()
    supervisor: Supervision = Supervision()

    def __post_init__(self) -> None:
        rules.check(self)

    @property
    def timeframe_seconds(self) -> tuple[int, ...]:
        """The timeframes in seconds, the smallest first."""
        return tuple(sorted(parse_timeframe(text) for text in self.timeframes))

    @property
    def state_path(self) -> Path:
        """What must survive a reboot: journal, database, ids. Root: /var/lib; a user: the XDG state
        directory."""
        if self.state_dir:
            return Path(self.state_dir)
        if os.geteuid() == 0:
            return Path("/var/lib/marketd") / self.instance
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(home) / "marketd" / self.instance

    @property
    def runtime_path(self) -> Path:
        """What processes of this host share: sockets, arena, front buffer."""
        return paths.runtime_dir(self.instance, self.runtime_dir)

    @property
    def capture_path(self) -> Path:
        return Path(self.capture.dir) if self.capture.dir else self.state_path / "capture"

    @property
    def active_venues(self) -> dict[str, Venue]:
        """The venues that get a feed."""
        return {name: venue for name, venue in self.venues.items() if venue.enabled}

    def kinds(self) -> KindTable:
        """The built-in kinds, books as deep as they are kept, and the declared series."""
        return KindTable(self.series(), self.book.depth)

    def series(self) -> list[Kind]:
        """The declared series; a kind's number follows from its name and fields alone (`rules.series`)."""
        kinds = rules.series({name: stream.fields for name, stream in self.streams.items()})
        return [kind._replace(is_global=self.streams[kind.name].scope == "global") for kind in kinds]
