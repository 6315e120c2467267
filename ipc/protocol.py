"""The words of the wire: every message between processes, as msgspec structs.

A message is a list of frames: one msgpack header (a tagged union, field `type`), then record arrays as raw
frames, one for each entry of `parts`. Pure: bytes in, structs out; sockets are in `marketd.ipc.sockets`.

Every request bears the protocol version, an id that its reply repeats, and how long the caller will wait. A header
that cannot be read is answered with `Failure(code="protocol_error")`, naming the field; nothing that arrives
here may end an actor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from marketd.market.errors import ProtocolError
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, Records

VERSION = 1
OLDEST_VERSION = 1
MAX_HEADER_BYTES = 4 << 20  # an Outcome that refuses each of MAX_BATCH_RECORDS by name fits
MAX_PAYLOAD_BYTES = 64 << 20  # of one message; a larger batch is two batches
MAX_RECORDS = 1_000_000  # in one message
MAX_BATCH_RECORDS = 100_000  # in one batch for ingest
DEFAULT_TIMEOUT_MS = 10_000

Format = Literal["records", "copy", "packed", "arrow", "json"]
# What goes into a 64-bit field of journal, arena or database: a number that does not fit ends at the border.
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
TimeNs = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]  # a timeframe
Name = Annotated[str, msgspec.Meta(max_length=256)]
Sentence = Annotated[str, msgspec.Meta(max_length=4096)]


class Message(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """What every message bears."""

    v: int = VERSION
    id: int = 0


class Request(Message, kw_only=True):
    timeout_ms: int = DEFAULT_TIMEOUT_MS


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One raw frame that follows the header: `count` records of stream `kind`."""

    kind: str
    count: Whole


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """One record that was refused: its index in its part, the rule's name, and what was wrong."""

    index: int
    rule: str
    detail: str = ""
    part: int = 0


class Rejection(msgspec.Struct, frozen=True, array_like=True):
    """A message or row that the sender could not turn into a record: the rule it broke, why, and itself."""

    kind: Name
    rule: Name
    detail: Sentence
    payload: bytes


# ---- producers and feeds -> ingest --------------------------------------------------------------


class Declare(Request, kw_only=True):
    """Instruments a producer or feed will send; their ids are assigned (the `id` of each is ignored)."""

    instruments: list[Instrument]


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """What ingest already has of an instrument, so that a feed can fetch what is missing."""

    last_trade_id: int | None = None
    last_trade_ts: int | None = None
    venue_bars: dict[int, int] = {}  # timeframe in seconds -> ts of the newest venue bar
    book_lost_ts: int | None = None  # since when its book is not LIVE; None: it was, or there was none
    # kinds' numbers: of these the ledger says since when they are observed, or ingest will once they are heard again
    observed: list[int] = []
    ended: list[int] = []  # … of which that has ended by now
    down: dict[int, int] = {}  # by kinds' numbers, the streams that are VENUE_DOWN: since when
    heard_ts: int | None = None  # the newest event time that was told of it


class Recall(Request, kw_only=True):
    """A feed whose venue does not say what its instruments are: which of these names are known from before? Answered
    with Declared, of those that are."""

    names: list[Name]


class Declared(Message, kw_only=True):
    instruments: list[Instrument]
    resume: list[Resume]


class Ingest(Request, kw_only=True):
    """One batch of one instrument. `(producer, batch)` is its number: a repeated one gets its first outcome.

    `source` says who made it (`feed:BINANCE`, a producer's own name) and stands in the quarantine.
    Batch numbers of a producer rise by one; 0 asks for no protection against repetition. With `oldest` they are taken
    in their order only: one that came before its predecessors is Busy.
    """

    instrument: str | int  # the canonical name or the id
    producer: bytes  # 16 bytes
    batch: Whole
    parts: list[Part]
    source: Name = ""
    live: bool = (
        False  # a feed: with `journal.when_full = "live_only"` its records are shown though they cannot be stored
    )
    rejected: list[Rejection] = []  # what the sender could not read as records: for the quarantine
    oldest: Whole = 0  # number of the sender's oldest batch without an answer; 0: batches may overtake each other


class Alive(Message, kw_only=True):
    """A feed lives, also while it has nothing to say: its books are as it said last. Not answered."""

    producer: bytes
    pid: Whole
    venue: Name = ""  # whose feed it is


class Outcome(Message, kw_only=True):
    """The first answer to a batch, given once it is durable (`durable=False`: kept live only)."""

    batch: int
    accepted: int
    refused: list[Refusal] = []
    seq: int = 0  # of the first accepted record
    ts_known: int = 0
    durable: bool = True
    repeated: bool = False


# ---- the writer <-> ingest ----------------------------------------------------------------------


class Follow(Request, kw_only=True):
    """The writer asks to be told of durable offsets."""

    committed: Whole


class Durable(Message, kw_only=True):
    journal: bytes
    offset: int


class Committed(Message, kw_only=True):
    journal: bytes
    offset: Whole


# ---- clients -> query ---------------------------------------------------------------------------


class Describe(Request, kw_only=True):
    """What this daemon is: instance, kinds, instruments, aliases."""


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A declared series, enough to rebuild its Kind."""

    id: int
    name: str
    fields: dict[str, str]


class Description(Message, kw_only=True, omit_defaults=True):
    instance: str
    daemon_no: int
    version: str
    runtime_dir: str
    profile: str
    timeframes: list[int]
    streams: list[Stream]
    instruments: list[Instrument]
    aliases: dict[str, str]
    default_venue: str | None = None


class Bars(Request, kw_only=True):
    """Closed bars with start <= ts < end (ns), of each timeframe (s): the newest `limit`, oldest first.

    `known_at` (ns): only records with ts_known <= it, in the newest version known then.
    """

    symbol: str
    timeframes: Annotated[list[Seconds], msgspec.Meta(max_length=64)]
    start: TimeNs | None = None
    end: TimeNs | None = None
    limit: int | None = None
    bar_source: Literal["best", "own", "venue", "import"] = "best"
    known_at: TimeNs | None = None
    format: Format = "records"


class LatestBars(Request, kw_only=True):
    """The newest closed bar of a timeframe (s) of each instrument: of all that are there, or of those named."""

    symbols: Annotated[list[Name], msgspec.Meta(max_length=10_000)] | None = None
    timeframe: Seconds
    bar_source: Literal["best", "own", "venue", "import"] = "best"


class Rows(Request, kw_only=True, omit_defaults=True):
    """Records of a stream (`trade`, `book`, `coverage`, a declared series, …) with start <= time < end (ns).

    `timeframe` (s): of `buckets`, whose (1 or 60; by default 1); of `book`, an answer by intervals of so much time.
    """

    symbol: str
    stream: str
    start: TimeNs | None = None
    end: TimeNs | None = None
    limit: int | None = None
    newest: bool = True  # with a limit: the newest rows (else the oldest); always answered oldest first
    known_at: TimeNs | None = None
    format: Format = "records"
    timeframe: Seconds | None = None


class Health(Request, kw_only=True):
    pass


class HealthReport(Message, kw_only=True):
    status: str  # ok | degraded | failed
    report: dict[str, Any]


class RebuildBars(Request, kw_only=True):
    """Ingest asks for own bars computed anew from the stored trades. The answer has those that have any."""

    instrument: int
    bars: Annotated[list[tuple[Seconds, Whole]], msgspec.Meta(max_length=100)]  # (timeframe s, ts ns)


class Meta(msgspec.Struct, kw_only=True):
    """What an answer is worth."""

    served_from: str = ""  # arena | database | database+arena
    watermark: int | None = None  # ts_known up to which the answer is complete
    committed_offset: int | None = None  # of the live journal, in the database that answered
    stale_ns: int | None = None
    durable: bool | None = None
    coverage: str | None = None
    gaps: list[tuple[int, int]] = []
    book_state: str | None = None
    latency_ns: int | None = None


class ResultPart(msgspec.Struct, frozen=True, kw_only=True):
    """One raw frame of an answer. encoding `records`: the kind's dtype; `copy`: PostgreSQL's binary COPY of `table`;
    `packed`: packed blocks (`market.blocks`) of `blocks` bytes each, one after the other; those of their records with
    start <= time < end are the answer, or with a limit its newest ones, in no order that could be relied on. `count` is
    of all that are in the frame."""

    name: str  # "trade", "candle.1m"
    kind: str
    count: int
    encoding: Format
    table: str | None = None
    depth: int | None = None  # levels a side, of the records of books
    blocks: list[Whole] | None = None
    start: TimeNs | None = None
    end: TimeNs | None = None


class Answer(Message, kw_only=True):
    instrument: Instrument
    parts: list[ResultPart]
    meta: Meta


class LatestAnswer(Message, kw_only=True):
    """To LatestBars: the instruments that have a bar, and one part with a record for each, in their order."""

    instruments: list[Instrument]
    parts: list[ResultPart]
    meta: Meta


# ---- the supervisor <-> actors ------------------------------------------------------------------


class Ping(Request, kw_only=True):
    pass


class Reload(Request, kw_only=True):
    """Read the config again and take over what may change in a running daemon."""


class Stop(Request, kw_only=True):
    """Finish what was accepted and end."""


class Pong(Message, kw_only=True):
    actor: str
    state: str  # starting | warming | live | draining
    metrics: bytes = b""  # Prometheus text exposition; empty: as it was in the last Pong
    statistics: dict[str, Any] = {}


class Done(Message, kw_only=True):
    detail: str = ""


class Failure(Message, kw_only=True):
    """A request was not served: the error's code, what was wrong, and the field that was."""

    code: str
    message: str
    field: str | None = None


ToIngest = Declare | Recall | Ingest | Alive | Follow | Committed
FromIngest = Declared | Outcome | Durable | Failure
ToQuery = Describe | Bars | LatestBars | Rows | Health | RebuildBars
FromQuery = Description | Answer | LatestAnswer | HealthReport | Failure
Control = Ping | Reload | Stop
FromControl = Pong | Done | Failure


class StreamHeader(msgspec.Struct, frozen=True, array_like=True):
    """Second frame of a PUB message (first the topic, third the records); `number` rises by 1 per topic."""

    number: int
    kind: str
    count: int
    instrument: int
    ts_known: int
    seq: int


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode


class Decoder:
    """Reads headers of one direction; every flaw is a ProtocolError that names the field."""

    def __init__(self, union: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(union)

    def decode(self, header: bytes | memoryview) -> Any:
        if len(header) > MAX_HEADER_BYTES:
            raise ProtocolError(f"a header of {len(header)} bytes; at most {MAX_HEADER_BYTES} are read", field="header")
        try:
            message = self._decoder.decode(header)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"header: {error}", field=_field_of(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            raise ProtocolError(f"header: no msgpack message ({error})", field="header") from None
        if not OLDEST_VERSION <= message.v <= VERSION:
            raise ProtocolError(
                f"v: protocol version {message.v} is not spoken here ({OLDEST_VERSION} to {VERSION} are)", field="v"
            )
        return message


def request_id(header: bytes | memoryview) -> int:
    """The id of a message that cannot be decoded as a whole, so that its error still reaches the caller; else 0."""
    try:
        fields = msgspec.msgpack.decode(header, type=dict[str, msgspec.Raw])
        return msgspec.msgpack.decode(fields["id"], type=int)
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, RecursionError, OverflowError):
        return 0


def _field_of(error: str) -> str | None:
    """msgspec ends its messages with ``- at `$.field` ``, or names an unknown field in backticks."""
    quoted = error.split("`")[1::2]
    return quoted[-1].removeprefix("$.") if quoted else None


def read_part(kind: Kind, count: int, payload: bytes | memoryview) -> Records:
    """The records of one raw frame, without a copy, shape (count,). ProtocolError if the sizes do not agree."""
    expected = count * kind.dtype.itemsize
    if count < 0 or count > MAX_RECORDS or len(payload) != expected:
        raise ProtocolError(
            f"parts: {count} records of {kind.name} are {expected} bytes, the frame has {len(payload)}", field="parts"
        )
    return np.frombuffer(payload, dtype=kind.dtype)


def total_bytes(frames: Sequence[bytes | memoryview]) -> int:
    return sum(len(frame) for frame in frames)


# ---- operators (marketd status | reload | stop) -> the supervisor ---------------------------------
# On the control socket too: Reload and Stop as above, meant for the whole daemon; Status only here.


class Status(Request, kw_only=True):
    """What runs, and how well."""


class ActorReport(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    state: str  # starting | warming | live | draining | down (waits to be started again) | stopped
    pid: int | None = None
    restarts: int = 0
    uptime_seconds: float | None = None
    heard_seconds: float | None = None  # since its last Pong
    memory_bytes: int | None = None  # resident, without what is shared: arenas, libraries
    statistics: dict[str, Any] = {}


class StatusReport(Message, kw_only=True):
    instance: str
    daemon_no: int
    version: str
    pid: int
    state: str  # starting | live | stopping
    health: str  # ok | degraded | failed
    started_ns: int
    runtime_dir: str
    state_dir: str
    http: str | None
    actors: list[ActorReport]
    problems: list[str] = []  # sentences; why it is not ok


ToSupervisor = FromControl | Status | Reload | Stop
FromSupervisor = StatusReport | Done | Failure
