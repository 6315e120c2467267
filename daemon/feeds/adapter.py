"""What a venue's adapter is: bytes in, events out. Pure; sockets are in `connection`, `rest` and `feed`.

An adapter knows one venue's messages, streams and REST paths, and nothing of time, tasks or sockets. Every message that
comes in is accounted for: by records in `Trades`, `Candles` or `Series`, by a `BookSnapshot` or `BookDelta`, or by
`Ignored`, `Rejected`, `VenueError` or `VenueClosing`; nothing falls through unnamed. An answer to a subscription is
`Subscribed` beside that, or a `VenueError` that names the streams. `VenueTime` comes beside them, for
any message that bears a time. A message that holds several rows gives several records, in its order.

Order within one answer of `decode_many`, per symbol: the book's events as their messages came; trades as they came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from msgspec import Struct

from marketd.market.book_sync import BookDelta, BookRule, BookSnapshot, Fit, Levels
from marketd.market.errors import MarketdError
from marketd.market.instruments import Instrument
from marketd.market.records import Records

MAX_NAME_CHARS = 48  # of an ignored message: names come from the venue and become metric labels
MAX_PAYLOAD_BYTES = 16_384  # of a rejected message that is kept

Found = TypeVar("Found")


class Trades(Struct, gc=False):
    """TRADE records of one symbol, in the order of their messages."""

    symbol: str
    records: Records


class Candles(Struct, gc=False):
    """CANDLE records (source VENUE) of closed bars of one symbol."""

    symbol: str
    records: Records


class Series(Struct, gc=False):
    """Records of a declared series of one symbol (funding, mark_price, open_interest, liquidation)."""

    symbol: str
    stream: str
    records: Records


class VenueTime(Struct, gc=False):
    """The newest time of the venue in the messages of one symbol; "" is the venue as a whole."""

    symbol: str
    ts_ns: int


class Ignored(Struct, gc=False):
    """`messages` of one name that were understood and are of no use here."""

    name: str
    messages: int = 1


class Rejected(NamedTuple):
    """One message that broke a rule; `trade_id` when it was a trade whose id could be read."""

    symbol: str | None
    rule: str
    detail: str
    payload: bytes
    trade_id: int | None = None
    book: bool = False  # a message of the book: without numbers or checksums nothing else would tell that it is missing


class MessagesLost(NamedTuple):
    """The connection lost messages, as its numbers show: books on it that nothing numbers begin anew. It stands among
    the books' events where the loss was seen, beside what the message itself is."""

    words: str


class Subscribed(NamedTuple):
    """The venue delivers these streams from now on."""

    streams: tuple[str, ...]


class VenueError(NamedTuple):
    """The venue refused something that was asked of it; a subscription of `streams`, if it told of which.

    `text` is its message, `words` what that says.
    """

    text: str
    words: str = ""
    streams: tuple[str, ...] = ()


class VenueClosing(NamedTuple):
    """The venue is about to close the connection."""

    text: str


Event = (
    Trades
    | Candles
    | Series
    | BookSnapshot
    | BookDelta
    | MessagesLost
    | VenueTime
    | Ignored
    | Rejected
    | Subscribed
    | VenueError
    | VenueClosing
)


class RestRequest(NamedTuple):
    """A GET: path with query, and its weight in the venue's budget."""

    target: str
    weight: int


class Page(NamedTuple):
    """One REST answer of trades or bars, ascending.

    `rows` counts what the venue sent, rejected ones included; `at_present` says that the venue had no more.
    """

    records: Records
    rejected: list[Rejected]
    rows: int
    at_present: bool


class VenueRefused(MarketdError):
    """The venue refused a request."""


class UnknownSymbol(VenueRefused):
    """The venue does not trade that symbol."""


def as_asked(venue: str, found: Mapping[str, Found], symbols: Sequence[str]) -> list[Found]:
    """What was found of each symbol, in the order asked for. Raises UnknownSymbol naming all that were not."""
    missing = [symbol for symbol in symbols if symbol not in found]
    if missing:
        raise UnknownSymbol(f"{venue} has no symbol {', '.join(missing)}", field="symbols")
    return [found[symbol] for symbol in symbols]


class VenueAdapter(Protocol):
    """One venue: `adapter(trades=…, candles=…, book=…, series=…)`; `series` are names of `feeds.series.STREAMS`.

    `adopt` an instrument before its messages are decoded: its scales are needed. A method that gives a `RestRequest`
    gives None where the venue has no such call.
    """

    venue: str
    book_rule: BookRule | None  # None: no books are kept of this venue, or none were asked for
    numbered_trades: bool
    """Trade ids are consecutive integers per symbol, so that a hole is a loss and can be fetched by its ids. If not,
    recent trades are fetched after a reconnect and told apart by their ids."""
    has_key: bool
    """Set by who makes REST requests: an API key goes with them."""
    ping: tuple[str, float] | None
    """A text to send every so many seconds, beside WebSocket's own pings; None: the venue wants none."""

    def venue_symbol(self, symbol: str) -> str:
        """`BTC/USDT`, `BTCUSDT`, `BTCUSDT.BINANCE` as the venue writes it; InvalidArgument if it is none of its own."""

    def adopt(self, instrument: Instrument) -> None:
        """From now on decode this instrument's messages at its scales."""

    def forget(self, symbol: str) -> None: ...

    @property
    def timeframes(self) -> tuple[int, ...]:
        """Timeframes (s) of the venue's own bars that are subscribed."""

    @property
    def needs_key(self) -> bool:
        """Old trades are only given to who has a key; without one `trades_request` asks for the newest."""

    # streams
    def streams(self, symbol: str) -> list[str]:
        """The first of them are its trades."""

    def book_streams(self, symbol: str) -> list[str]:
        """Those of `streams` that carry the book; where snapshots come on the stream, subscribing them gives one."""

    def cadences(self, symbol: str) -> dict[str, float]:
        """Of the wanted series those that the venue sends of a symbol, whatever happens, and how often (s) at least."""

    def connect_url(self, base: str, streams: Sequence[str]) -> tuple[str, list[str]]:
        """The address of a connection, and those of the streams that must be subscribed by message."""

    def commands(self, verb: str, streams: Sequence[str], first_id: int) -> list[str]:
        """Messages that "SUBSCRIBE" or "UNSUBSCRIBE" the streams, numbered from `first_id` where the venue has numbers.

        What is subscribed is remembered by its number, for the answer.
        """

    def decode_many(self, frames: Sequence[bytes]) -> list[Event]:
        """What the messages say, grouped by symbol. Never raises, whatever the bytes are."""

    # REST; each decoder raises VenueRefused for an answer that is not what was asked for
    def instruments_request(self, symbols: Sequence[str]) -> RestRequest: ...

    def decode_instruments(self, body: bytes, symbols: Sequence[str]) -> list[Instrument]: ...

    def time_request(self) -> RestRequest | None: ...

    def decode_time(self, body: bytes) -> int: ...

    def trades_request(self, symbol: str, first_id: int) -> RestRequest | None:
        """Trades from an id on; without numbered trades `first_id` is 0, and the most recent ones are meant."""

    def trades_since_request(self, symbol: str, ts_ns: int) -> RestRequest | None:
        """Numbered trades from a time on, the oldest first; None where the venue can be asked by ids alone."""

    def newest_trade_request(self, symbol: str) -> RestRequest | None:
        """The newest trade alone: where a stream begins. None without numbered trades."""

    def decode_trades(self, symbol: str, body: bytes) -> Page: ...

    def snapshot_request(self, symbol: str) -> RestRequest | None:
        """The book, where `book_rule.snapshot` is "rest"."""

    def decode_snapshot(self, symbol: str, body: bytes) -> BookSnapshot: ...

    def bars_request(self, symbol: str, timeframe: int, start_ns: int) -> RestRequest | None: ...

    def decode_bars(self, symbol: str, timeframe: int, body: bytes, now_ns: int) -> Page:
        """Only bars that had ended at `now_ns` of the venue's time."""

    def polls(self, symbol: str) -> list[tuple[RestRequest, float]]:
        """What is asked every so many seconds; the answers go through `decode_rest`."""

    def decode_rest(self, url: str, body: bytes) -> list[Event]:
        """The events of a REST answer, by its url: of a recorded one, or of a poll."""

    # recordings
    def survey_texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        """Symbol, price and size of all that a message tells, as texts and whatever instruments are adopted.

        A recording bears no list of instruments: how many decimal places one has is learned from these. A text may be
        "" (nothing said). Never raises.
        """

    def surveyed_pair(self, symbol: str) -> tuple[str, str]:
        """Base and quote of a symbol that `survey_texts` gave; ("", "") where the venue's messages do not part them."""


def _spot(symbol: str) -> str:
    return "spot"


class Limits(NamedTuple):
    """What a venue allows, and how it behaves; from its documentation."""

    streams_per_connection: int
    commands_per_second: float
    ping_interval_seconds: float  # the venue's own pings
    session_seconds: float  # after this the venue closes a connection
    weight_per_minute: int  # of REST requests, per address
    page_rows: int  # most rows of one REST answer
    commands_per_hour: int = 0  # (un)subscriptions that one connection may ask for; 0: no limit is told


class Told(NamedTuple):
    """Whose traffic it is: `venue`, or one of `others` if somebody says so; `url` is one at which such messages are
    spoken."""

    venue: str | None
    others: tuple[str, ...] = ()
    url: str = ""


class Signs(NamedTuple):
    """By what a venue's recordings are known. Each sign is of this venue alone, or tells which others it may be of."""

    addresses: tuple[tuple[str, Told], ...] = ()
    """Patterns of host and path, from their beginning, never of a part: `stream.binance.us` is another venue's."""
    messages: tuple[tuple[bytes, Told], ...] = ()
    """Patterns of what stands in messages, where no address is recorded; without blanks after ":" and ","."""
    told: Callable[[bytes], Told | None] | None = None
    """Whose a message is, where a pattern cannot tell: of markets that speak alike."""


Serve = Callable[[Sequence[Instrument], int], Any]  # instruments and the time (ns) -> what becomes JSON


class Venue(NamedTuple):
    """One row of the table of venues (`marketd.daemon.feeds.venues`)."""

    name: str
    adapter: Callable[..., VenueAdapter]  # (trades=…, candles=…, book=…, series=…)
    ws_url: str
    rest_url: str
    limits: Limits
    headers: dict[str, str]
    api_key_header: str = ""
    series: tuple[str, ...] = ()  # of `feeds.series.STREAMS`: what its adapter can bring
    market_of: Callable[[str], str] = _spot
    """A symbol's market (spot, swap, future), where no list of instruments is at hand: in recordings."""
    endpoint_of: Callable[[str], str] | None = None
    """Of a stream, where a venue has several addresses: streams of different endpoints need connections of their own,
    and `connect_url` makes the address by the first of its streams."""
    signs: Signs = Signs()
    answers: Mapping[str, Serve] = {}
    """REST answers in the venue's words, by their paths, that a feed cannot begin without and recordings lack."""

    def headers_with(self, api_key: str) -> dict[str, str]:
        """Of each REST request; a key goes with it where the venue has a header for one."""
        return {**self.headers, self.api_key_header: api_key} if api_key and self.api_key_header else dict(self.headers)


def clip_name(name: Any) -> str:
    """A venue's word as a bounded, printable name."""
    text = str(name)[:MAX_NAME_CHARS]
    return text if text.isprintable() and text else "unnamed"


__all__ = [
    "MAX_NAME_CHARS",
    "MAX_PAYLOAD_BYTES",
    "BookDelta",
    "BookRule",
    "BookSnapshot",
    "Candles",
    "Event",
    "Fit",
    "Ignored",
    "Levels",
    "Limits",
    "MessagesLost",
    "Page",
    "Rejected",
    "RestRequest",
    "Series",
    "Serve",
    "Signs",
    "Subscribed",
    "Told",
    "Trades",
    "UnknownSymbol",
    "Venue",
    "VenueAdapter",
    "VenueClosing",
    "VenueError",
    "VenueRefused",
    "VenueTime",
    "clip_name",
]
