"""A market whose every record follows from its number, so that one cut of an arena can be judged alone.

Step s of the market is publication s. It appends a batch of trades, closes the bars that these fill, brings a late
bar into its place now and then, and every few steps gives the newest bars new versions. Everything in a
cut follows from its number: heads, open bars, and each word of each record. `flaw` says what does not.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.ipc import arena_words as word
from marketd.ipc.arena import ArenaState, RingSpec
from marketd.ipc.arena_cut import Cut
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.arena_writer import ArenaWriter
from marketd.market.instruments import Instrument
from marketd.market.records import CANDLE, TRADE, Records
from marketd.market.times import ABSENT

Ints = npt.NDArray[np.int64]
Call = tuple[str, tuple[Any, ...]]  # a method of ArenaWriter, its arguments

INSTRUMENT = Instrument(id=65_537, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=7)
OPEN_SLOTS = 4
SPECS = (
    RingSpec("trade", 1, TRADE, 500),
    RingSpec("candle.1s.own", 2, CANDLE, 300),
    RingSpec("candle.1m.own", 2, CANDLE, 100),
)
TRADES = "trade"
_BURST = 100  # steps that a writer process has ready before it makes them

_BATCHES = (1, 1, 2, 1, 3, 1, 1, 9, 1, 1, 1, 40, 1, 1, 2, 1)  # trades of a step, over and over
_CYCLE = len(_BATCHES)
_PREFIX = np.concatenate([[0], np.cumsum(_BATCHES)])
_PER_CYCLE = int(_PREFIX[-1])
_STEP_OF = np.repeat(np.arange(_CYCLE), _BATCHES)  # of each trade of a cycle
_PREFIX_LIST = _PREFIX.tolist()
_STEP_LIST = _STEP_OF.tolist()

# Word j of trade n is n * TRADE_WORDS[j], but for ts_known: the step that brought it.
_TRADE_WORDS = np.array([1000, 0, 1, 7919, 104_729, 1299, 15_485], dtype=np.int64)
_TRADE_LIST = _TRADE_WORDS.tolist()
# Word j of bar b in version v is (b + 1) * _BAR[j] + v * _VERSION[j]; ts and ts_known are b's start and v.
_BAR = np.array([0, 0, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31], dtype=np.int64)
_VERSION = np.array([0, 1, 2, 41, 43, 47, 53, 59, 61, 67, 71, 73], dtype=np.int64)

_BAR_LIST = list(zip(_BAR.tolist(), _VERSION.tolist(), strict=True))
_TRADE_BYTES, _BAR_BYTES = struct.Struct("<7q"), struct.Struct("<12q")
_NO_BAR = _BAR_BYTES.pack(ABSENT, *[0] * 11)

REWRITE_EVERY = 5  # steps
_WIDEST_REWRITE = 60
_LATE_EVERY = 50  # bars; the last of these comes
_LATE_BY = 3  # bars late


class Bars(NamedTuple):
    """One of the two rings of bars."""

    index: int
    name: str
    trades: int  # that fill a bar
    late: bool  # some come late, into the middle


SECONDS = Bars(1, "candle.1s.own", 10, late=True)
MINUTES = Bars(2, "candle.1m.own", 70, late=False)
BARS = (SECONDS, MINUTES)


# ---- what follows from a step -------------------------------------------------------------------


def trades_after(step: int) -> int:
    cycles, rest = divmod(step, _CYCLE)
    return cycles * _PER_CYCLE + _PREFIX_LIST[rest]


def step_of(trade: int) -> int:
    cycles, rest = divmod(trade - 1, _PER_CYCLE)
    return cycles * _CYCLE + _STEP_LIST[rest] + 1


def _steps_of(trades: Ints) -> Ints:
    cycles, rest = np.divmod(trades - 1, _PER_CYCLE)
    steps: Ints = cycles * _CYCLE + _STEP_OF[rest] + 1
    return steps


def closed_after(bars: Bars, step: int) -> int:
    return trades_after(step) // bars.trades


def _missing(bars: Bars, closed: int) -> int | None:
    """The late bar that is due and not there yet when `closed` bars were closed."""
    late = closed - closed % _LATE_EVERY - 1
    return late if bars.late and late >= 0 and closed <= late + _LATE_BY else None


def head_after(bars: Bars, closed: int) -> int:
    return closed - (_missing(bars, closed) is not None)


def newest_bars(bars: Bars, closed: int, count: int) -> Ints:
    """The newest `count` bars that are there when `closed` were closed."""
    missing = _missing(bars, closed)
    if missing is None:
        return np.arange(max(0, closed - count), closed)
    found = np.arange(max(0, closed - count - 1), closed)
    return found[found != missing][-count:] if count else found[:0]


def rewrite_of(bars: Bars, step: int) -> Ints:
    """The bars that the newest rewrite up to `step` gave a new version, which is that rewrite's step."""
    rewrite = step - step % REWRITE_EVERY
    if not rewrite:
        return np.arange(0)
    width = 1 + rewrite * 7919 % _WIDEST_REWRITE
    return newest_bars(bars, closed_after(bars, rewrite - _before_appends(rewrite)), width)


def _before_appends(step: int) -> bool:
    return step // REWRITE_EVERY % 2 == 0


def trade_words(first: int, end: int) -> Ints:
    """Trades [first, end), shape (count, 7)."""
    trades = np.arange(first, end, dtype=np.int64)
    words: Ints = trades[:, None] * _TRADE_WORDS
    words[:, 1] = _steps_of(trades)
    return words


def bar_words(bars: Bars, numbers: Ints, versions: Ints | int) -> Ints:
    """Bars in versions, shape (count, 12)."""
    words: Ints = (numbers[:, None] + 1) * _BAR + np.broadcast_to(versions, numbers.shape)[:, None] * _VERSION
    words[:, 0] = numbers * bars.trades * 1000
    return words


# One trade, one bar, the open bars of a step: in plain integers, so that the writer's speed is the arena's.


def trade_bytes(first: int, end: int) -> bytes:
    return b"".join([_TRADE_BYTES.pack(*_one_trade(trade)) for trade in range(first, end)])


def _one_trade(trade: int) -> list[int]:
    words = [trade * factor for factor in _TRADE_LIST]
    words[1] = step_of(trade)
    return words


def bar_bytes(bars: Bars, number: int, version: int) -> bytes:
    words = [(number + 1) * factor + version * step for factor, step in _BAR_LIST]
    words[0] = number * bars.trades * 1000
    return _BAR_BYTES.pack(*words)


def open_table(step: int) -> bytes:
    """The open bar of each ring: so many trades of it have come."""
    trades = trades_after(step)
    slots = [_NO_BAR] * OPEN_SLOTS
    for bars in BARS:
        number, count = divmod(trades, bars.trades)
        if count:
            slots[bars.index] = bar_bytes(bars, number, count)
    return b"".join(slots)


# ---- the writer ---------------------------------------------------------------------------------


def create(path: Path) -> ArenaWriter:
    return ArenaWriter.create(path, instance="test", instrument=INSTRUMENT, rings=SPECS, open_slots=OPEN_SLOTS)


def attach(path: Path) -> ArenaWriter:
    return ArenaWriter.attach(path, instance="test", instrument=INSTRUMENT, rings=SPECS, open_slots=OPEN_SLOTS)


def calls_of(step: int) -> Iterator[Call]:
    """The writer's calls that make publication `step` out of the one before."""
    rewrites = step % REWRITE_EVERY == 0
    if rewrites and _before_appends(step):
        yield from _rewrites(step)
    yield "append", (0, trade_bytes(trades_after(step - 1) + 1, trades_after(step) + 1))
    for bars in BARS:
        for number in range(closed_after(bars, step - 1), closed_after(bars, step)):
            yield from _closes(bars, number, step)
    if rewrites and not _before_appends(step):
        yield from _rewrites(step)
    trades = trades_after(step)
    yield "publish", (step, trades * 1000, trades, step * 64, open_table(step))


def _closes(bars: Bars, number: int, step: int) -> Iterator[Call]:
    if number != _missing(bars, number + 1):
        yield "put", (bars.index, bar_bytes(bars, number, step))
    late = number - _LATE_BY
    if bars.late and late >= 0 and late % _LATE_EVERY == _LATE_EVERY - 1:
        yield "put", (bars.index, bar_bytes(bars, late, step))


def _rewrites(step: int) -> Iterator[Call]:
    """In two pieces, so that the range of the before-images has to grow: downwards, or upwards."""
    for bars in BARS:
        numbers = rewrite_of(bars, step)
        data = bar_words(bars, numbers, step)
        position = head_after(bars, closed_after(bars, step - _before_appends(step))) - len(numbers)
        middle = len(numbers) // 2
        pieces = [(position + middle, data[middle:]), (position, data[:middle])]
        for start, piece in pieces if step % 2 else reversed(pieces):
            if len(piece):
                yield "rewrite", (bars.index, start, piece.tobytes())


def write_step(writer: ArenaWriter) -> None:
    """The step after the writer's last publication."""
    _make(writer, calls_of(writer.number + 1))


def _make(writer: ArenaWriter, calls: Iterable[Call]) -> None:
    for name, arguments in calls:
        getattr(writer, name)(*arguments)


def write_for_ever(path: str, broken: str | None) -> None:
    """A writer process: in bursts as fast as an arena can be written, until it is killed."""
    writer = attach(Path(path))
    if broken is not None:
        break_order(writer, broken)
    writer.set_state(ArenaState.LIVE)
    while True:
        writer.heartbeat(time.monotonic_ns(), time.time_ns(), writer.number, writer.number)
        first = writer.number + 1
        for calls in [list(calls_of(step)) for step in range(first, first + _BURST)]:
            _make(writer, calls)


# ---- what is wrong with a cut -------------------------------------------------------------------


def cut_flaw(cut: Cut) -> str | None:
    step = cut.number
    trades = trades_after(step)
    stamps = (cut.ts_known, cut.ts_event, cut.seq, cut.journal_offset)
    if stamps != (step, trades * 1000, trades, step * 64):
        return f"stamps {stamps} in publication {step}"
    heads = {TRADES: trades, **{bars.name: head_after(bars, closed_after(bars, step)) for bars in BARS}}
    if cut.heads != heads:
        return f"heads {cut.heads}, not {heads}, in publication {step}"
    expected = np.frombuffer(open_table(step), CANDLE)
    if cut.open_bars.tobytes() != expected[expected["ts"] != ABSENT].tobytes():
        return f"open bars {cut.open_bars} in publication {step}"
    return None


def trades_flaw(records: Records, cut: Cut, count: int) -> str | None:
    """`count`: how many must be there, of those that ever were."""
    step = cut.number
    head = trades_after(step)
    if len(records) != min(count, head):
        return f"{len(records)} trades of {count} in publication {step}"
    if len(records) == 1:  # most cuts of the torture; the arrays of numpy would cost more than the read
        same_trade = records.tobytes() == trade_bytes(head, head + 1)
        return None if same_trade else f"trade {records} in publication {step}, head {head}"
    same = _words(records, TRADE) == trade_words(head - len(records) + 1, head + 1)
    return None if same.all() else f"trades {records[~same.all(axis=1)][:3]} in publication {step}, head {head}"


def bars_flaw(bars: Bars, records: Records, cut: Cut, count: int) -> str | None:
    step = cut.number
    closed = closed_after(bars, step)
    numbers = newest_bars(bars, closed, count)
    if len(records) != len(numbers):
        return f"{len(records)} bars of {count} in publication {step}"
    words = _words(records, CANDLE)
    versions = words[:, 1]
    same = words == bar_words(bars, numbers, versions)
    if not same.all():
        return f"bars {records[~same.all(axis=1)][:3]} in publication {step}"
    if len(numbers) and versions.max() > step:
        return f"version {versions.max()} of a bar in publication {step}: from the future"
    touched = rewrite_of(bars, step)
    rewrite = step - step % REWRITE_EVERY
    due = versions[np.isin(numbers, touched)]
    if (due < rewrite).any():
        return f"versions {due} of bars in publication {step} that has rewrite {rewrite}: half of it"
    return None


def versions_flaw(bars: Bars, records: Records, cut: Cut) -> str | None:
    """The exact version of every bar: slow, for some of the cuts."""
    step = cut.number
    numbers = newest_bars(bars, closed_after(bars, step), len(records))
    late = np.full(len(numbers), bars.late) & (numbers % _LATE_EVERY == _LATE_EVERY - 1)
    versions = _steps_of((numbers + 1 + late * _LATE_BY) * bars.trades)
    for rewrite in range(max(0, step - step % REWRITE_EVERY - 3000), step + 1, REWRITE_EVERY):
        versions[np.isin(numbers, rewrite_of(bars, rewrite)) & (versions < rewrite)] = rewrite
    same = versions == records["ts_known"]
    return None if same.all() else f"versions {records[~same][:3]}, not {versions[~same][:3]}, in publication {step}"


def _words(records: Records, dtype: np.dtype[Any]) -> Ints:
    words: Ints = np.frombuffer(records, "<i8").reshape(-1, dtype.itemsize // 8)
    return words


def read_flaw(reader: ArenaReader, turn: int) -> tuple[str | None, Cut]:
    """One read, of the kind whose turn it is, and what is wrong with it."""
    kind = turn % 64
    if kind == 0:
        return _snapshot_flaw(reader)
    if kind == 32:
        records, cut = reader.last(TRADES, 500)
        return trades_flaw(records, cut, 500), cut
    if kind % 16 == 8:
        records, cut = reader.last(SECONDS.name, 300)
        return bars_flaw(SECONDS, records, cut, 300), cut
    if kind % 16 == 4:
        records, cut = reader.last(MINUTES.name, 20)
        return bars_flaw(MINUTES, records, cut, 20), cut
    if kind % 8 == 3:
        cut = reader.cut()
        return cut_flaw(cut), cut
    records, cut = reader.last(TRADES, 1)
    return trades_flaw(records, cut, 1), cut


def _snapshot_flaw(reader: ArenaReader) -> tuple[str | None, Cut]:
    shot = reader.snapshot({TRADES: 500, SECONDS.name: 300, MINUTES.name: 100})
    cut, records = shot.cut, shot.records
    flaws = [
        cut_flaw(cut),
        trades_flaw(records[TRADES], cut, 500),
        bars_flaw(SECONDS, records[SECONDS.name], cut, 300),
        bars_flaw(MINUTES, records[MINUTES.name], cut, 100),
    ]
    return next(filter(None, flaws), None), cut


# ---- breaking the order -------------------------------------------------------------------------


class _Wrong:
    """Memory or words whose stores, those of `which`, happen only at `flush`: too late, or never."""

    def __init__(self, real: Any, which: Callable[[Any], bool] = lambda _: True) -> None:
        self._real, self._which, self._waiting = real, which, list[tuple[Any, Any]]()

    def __getitem__(self, key: Any) -> Any:
        return self._real[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._which(key):
            self._waiting.append((key, bytes(value) if isinstance(key, slice) else value))
        else:
            self._real[key] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def flush(self) -> None:
        for key, value in self._waiting:
            self._real[key] = value
        self._waiting.clear()


BREAKS = {
    "A1": "slots, and never an intent",
    "A2": "publish before the slots",
    "A3": "publish before the descriptor",
    "A4": "before-images before begin",
    "A5": "rewrite before the before-images are announced",
}


def break_order(writer: ArenaWriter, point: str) -> None:
    """Let a writer store in the wrong order at one sync point: after the counter what belongs before it."""
    inner: Any = writer
    late = []
    if point == "A3":
        inner._memory = _Wrong(inner._memory)
        late.append(inner._memory)
    for ring in inner.rings:
        live = ring.place.live
        if point == "A2":
            ring._memory = _Wrong(ring._memory)
            late.append(ring._memory)
        elif point != "A3":
            at = live + {"A1": word.INTENT, "A4": word.BEGIN, "A5": word.READY}[point]
            ring._words = _Wrong(ring._words, at.__eq__)
            late += [ring._words] if point != "A1" else []
    publish = inner.publish

    def publish_then_store(*arguments: Any) -> None:
        publish(*arguments)
        for memory in late:
            memory.flush()

    inner.publish = publish_then_store
