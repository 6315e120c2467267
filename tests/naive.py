"""What a store of one instrument must answer, told by lists in plain Python: nothing of the code under test is in here
but the definitions of records.

Every row that was offered and is not dropped for its age lies in a list; a question goes through all of them.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from marketd.market.records import ABSENT, BookState, CandleFlag, Coverage, Records, Source, TradeFlag

SECOND = 1_000_000_000
BARS = {"candles_1s": (1,), "candles": (60,)}  # the tables of bars, and the timeframes in them (s)
VERSIONS = "candle_versions"
LEVEL_SECONDS = 60  # the shortest bar that a database may have made of bars of a second
INHERITED = CandleFlag.PARTIAL | CandleFlag.RECONSTRUCTED | CandleFlag.SNAPPED
MEASURES = ("open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "trade_count")
_VOLUMES = MEASURES[4:]
_SOURCES = {"own": Source.OWN, "venue": Source.VENUE, "import": Source.IMPORT}
# of what the ledger says, the worst first
_STATES = ("gap", "venue_down", "unstored", "expired", "unobserved", "backfilled", "observed")
_NAMES = {
    Coverage.OBSERVED: "observed",
    Coverage.GAP: "gap",
    Coverage.BACKFILLED: "backfilled",
    Coverage.VENUE_DOWN: "venue_down",
}

type_fields = dict[str, Any]


class Row(NamedTuple):
    time: int
    known: int
    seq: int
    fields: type_fields


class Told(NamedTuple):
    """A word of the ledger, about a stream and [start, end) (ABSENT: still going on); of what retention dropped the
    table.
    """

    known: int
    stream: int
    state: str
    start: int
    end: int
    table: str = ""


class Asked(NamedTuple):
    """start <= time < end, None is open; the newest (or oldest) `limit`; as known at `known`, None is final."""

    start: int | None = None
    end: int | None = None
    known: int | None = None
    limit: int | None = None
    newest: bool = True

    def has(self, row: Row) -> bool:
        within = (self.start is None or self.start <= row.time) and (self.end is None or row.time < self.end)
        return within and (self.known is None or row.known <= self.known)

    def cut(self, rows: list[Any]) -> list[Any]:
        if self.limit is None:
            return rows
        return rows[-self.limit :] if self.newest else rows[: self.limit]

    def widened(self, delta_ns: int) -> Asked:
        """Both bounds ceiled to multiples of `delta_ns`."""
        ceiled = (None if at is None else -(-at // delta_ns) * delta_ns for at in self[:2])
        return self._replace(**dict(zip(("start", "end"), ceiled, strict=True)))


def rows_of(records: Records) -> list[Row]:
    names = records.dtype.names or ()
    return [Row(f[names[0]], f["ts_known"], f["seq"], f) for f in fields_of(records)]


def fields_of(records: Records) -> list[type_fields]:
    """Records as dicts of plain numbers; what is no number is None, so that it equals itself."""
    names = records.dtype.names or ()
    columns = [[None if value != value else value for value in records[name].tolist()] for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


class Naive:
    def __init__(self) -> None:
        self.rows: defaultdict[str, dict[Any, Row]] = defaultdict(dict)  # by table and key; the first one counts
        self.bars: defaultdict[Any, list[Row]] = defaultdict(list)  # by timeframe, time, source: every version
        self.ledger: list[Told] = []
        # Bars of a second that are dropped, but live on in the longer ones that the database has made of them; and the
        # stretches for which that is so.
        self.summed: list[Row] = []
        self.kept: list[tuple[int, int]] = []

    # ---- what happens -----------------------------------------------------------------------------

    def store(self, table: str, rows: Iterable[Row]) -> None:
        if table not in BARS:
            for row in sorted(rows, key=lambda r: r.seq):
                self.rows[table].setdefault(_key(table, row), row)
            return
        batch = defaultdict(list)
        for row in rows:
            batch[row.fields["timeframe"], row.time, row.fields["source"]].append(row)
        for key, versions in batch.items():
            self._store_versions(key, versions)

    def _store_versions(self, key: Any, versions: Sequence[Row]) -> None:
        """A bar sent again with the numbers of the version before it, in its lane, is no new version."""
        there = {row.seq for row in self.bars[key]}
        every = sorted([*self.bars[key], *(row for row in versions if row.seq not in there)], key=lambda r: r.seq)
        self.bars[key] = [
            row
            for place, row in enumerate(every)
            if row.seq in there or not place or not _says_the_same(every[place - 1], row)
        ]

    def drop(self, table: str, is_gone: Callable[[int], bool]) -> list[Row]:
        """Forget the rows of these times; which they were."""
        if table in BARS:
            gone = [key for key in self.bars if key[0] in BARS[table] and is_gone(key[1])]
            return [row for key in gone for row in self.bars.pop(key)]
        found = [(key, row) for key, row in self.rows[table].items() if is_gone(row.time)]
        return [self.rows[table].pop(key) for key, _ in found]

    def drop_versions(self, is_gone: Callable[[int], bool]) -> None:
        """Forget what was known of these bars before their newest version."""
        for key, versions in self.bars.items():
            if is_gone(key[1]):
                self.bars[key] = [max(versions, key=lambda r: r.seq)]

    def tell(self, known: int, stream: int, state: Coverage, start: int, end: int) -> None:
        """A word of the ledger; of one that ends where it begins the end is still to come."""
        self.ledger.append(Told(known, stream, _NAMES[state], start, ABSENT if end <= start else end))

    def expire(self, known: int, stream: int, table: str, start: int, end: int) -> None:
        """The ledger's word on what was dropped."""
        self.ledger.append(Told(known, stream, "expired", start, end, table))

    def sum_up(self, start: int, end: int) -> None:
        """The database keeps the longer bars of a stretch, whose bars of a second it is about to drop."""
        self.summed += [
            row for row in self.bars_of(1, "own", Asked(start, end)) if not any(a <= row.time < b for a, b in self.kept)
        ]
        self.kept.append((start, end))

    # ---- what is asked ----------------------------------------------------------------------------

    def rows_of(self, table: str, asked: Asked, *, timeframe: int | None = None, versions: bool = False) -> list[Row]:
        found = [row for row in self.rows[table].values() if asked.has(row)]
        found = sorted((r for r in found if timeframe in (None, r.fields.get("timeframe"))), key=_by_time)
        if versions:  # of each moment the last one
            found = list({row.time: row for row in found}.values())
        return asked.cut(found)

    def bars_of(self, timeframe: int, source: str, asked: Asked) -> list[Row]:
        """Of each bar the newest version, of the wanted source or of the best one."""
        best: dict[int, Row] = {}
        for (seconds, ts, number), versions in self.bars.items():
            known = [row for row in versions if asked.has(row)]
            if seconds != timeframe or not known or (source != "best" and number != _SOURCES[source]):
                continue
            newest = max(known, key=lambda r: r.seq)
            if ts not in best or _rank(newest) < _rank(best[ts]):
                best[ts] = newest
        return asked.cut([best[ts] for ts in sorted(best)])

    def is_summed(self, timeframe: int, source: str, asked: Asked) -> bool:
        """Do longer bars count that the database made of what it dropped since? Of own bars, as they are now."""
        if asked.known is not None or timeframe % LEVEL_SECONDS or source not in ("own", "best") or not self.kept:
            return False
        inside = asked.widened(timeframe * SECOND)
        others = (row for key, rows in self.bars.items() if key[0] == 1 and key[2] != Source.OWN for row in rows)
        return source == "own" or not any(inside.has(row) for row in others)

    def generated(self, timeframe: int, base: int, source: str, asked: Asked) -> list[type_fields]:
        """Bars of a timeframe that is not stored, but for the newest, which may still be forming."""
        delta_ns = timeframe * SECOND
        parts = self.bars_of(base, source, asked.widened(delta_ns)._replace(limit=None))
        newest = self.bars_of(base, source, Asked(known=asked.known, limit=1))
        closed = [row.time + base * SECOND for row in newest]
        if base == 1 and self.is_summed(timeframe, source, asked):
            parts = [row for row in parts if not any(a <= row.time < b for a, b in self.kept)]
            parts = sorted([*parts, *(r for r in self.summed if asked.widened(delta_ns).has(r))], key=_by_time)
            closed += [end for _, end in self.kept]
        groups: dict[int, list[type_fields]] = {}
        for row in parts:
            groups.setdefault(row.time // delta_ns * delta_ns, []).append(row.fields)
        made = [_joined(ts, timeframe, group) for ts, group in groups.items() if ts + delta_ns <= max(closed)]
        return asked.cut(made)

    def means_of(self, timeframe: int, asked: Asked, *, price_unit: float, size_unit: float) -> list[type_fields]:
        """Books by interval: the last LIVE one of each, and means over those that have both sides."""
        delta_ns = timeframe * SECOND
        groups: dict[int, list[type_fields]] = {}
        for row in self.rows_of("book_snapshots", asked.widened(delta_ns)._replace(limit=None)):
            if row.fields["state"] == BookState.LIVE:
                groups.setdefault(row.time // delta_ns * delta_ns, []).append(row.fields)
        made = []
        for ts, books in groups.items():
            both = [book for book in books if book["bid_count"] and book["ask_count"]]
            best = [tuple(b[name][0] for name in ("bid_price", "ask_price", "bid_size", "ask_size")) for b in both]
            means = {
                "mean_mid": _mean([bid + ask for bid, ask, _, _ in best], 2, price_unit),
                "mean_spread": _mean([ask - bid for bid, ask, _, _ in best], 1, price_unit),
                "mean_bid_size": _mean([size for _, _, size, _ in best], 1, size_unit),
                "mean_ask_size": _mean([size for _, _, _, size in best], 1, size_unit),
            }
            made.append({**books[-1], "ts": ts, "timeframe": timeframe, "count": len(both), **means})
        return asked.cut(made)

    def worth(self, stream: int, table: str, start: int, end: int, known: int | None) -> tuple[Any, list[Any]]:
        """The worst that the ledger says of [start, end), and the stretches in which something is missing."""
        if end <= start:
            return None, []
        words = [told for told in self.ledger if _speaks_of(told, stream, table, known)]
        edges = {start, end, *(at for told in words for at in (told.start, told.end) if start < at < end)}
        cuts = sorted(edges)
        worst, gaps = "observed", []
        for first, last in itertools.pairwise(cuts):
            over = [told for told in words if told.start <= first and (told.end == ABSENT or first < told.end)]
            state = over[-1].state if over else "unobserved"
            worst = min(worst, state, key=_STATES.index)
            if state in ("observed", "backfilled"):
                continue
            if gaps and gaps[-1][1] == first:
                first = gaps.pop()[0]
            gaps.append((first, last))
        return worst, gaps


def worst_of(worths: Iterable[tuple[Any, list[Any]]]) -> tuple[Any, list[Any]]:
    """Of several answers in one."""
    found = list(worths)
    states = [state for state, _ in found]
    worst = None if None in states else min(states, key=_STATES.index)
    return worst, sorted({gap for _, gaps in found for gap in gaps})


# ---- the fold -----------------------------------------------------------------------------------------


class NaiveFold:
    """Own bars of all trades so far, each from all its trades, whatever the order in which they came."""

    def __init__(self, timeframes: Sequence[int], *, grace_ns: int, quote_divisor: int) -> None:
        self.timeframes = timeframes
        self._grace_ns, self._divisor = grace_ns, quote_divisor
        self._trades: list[Row] = []

    def add(self, trades: Iterable[Row]) -> None:
        self._trades = sorted([*self._trades, *trades], key=_by_time)

    def closed(self, timeframes: Sequence[int] | None = None) -> dict[tuple[int, int], type_fields]:
        """By timeframe and time, the bars of which the end and the grace are over."""
        newest = max((trade.time for trade in self._trades), default=0)
        found: dict[tuple[int, int], type_fields] = {}
        for timeframe in timeframes or self.timeframes:
            delta_ns = timeframe * SECOND
            groups: dict[int, list[type_fields]] = {}
            for trade in self._trades:
                if not trade.fields["flags"] & TradeFlag.NOT_MARKET:
                    groups.setdefault(trade.time // delta_ns * delta_ns, []).append(trade.fields)
            for ts, trades in groups.items():
                if ts + delta_ns + self._grace_ns <= newest:
                    found[timeframe, ts] = self._bar(ts, timeframe, trades)
        return found

    def _bar(self, ts: int, timeframe: int, trades: list[type_fields]) -> type_fields:
        prices = [trade["price"] for trade in trades]
        return {
            "ts": ts,
            "open": prices[0],
            "high": max(prices),
            "low": min(prices),
            "close": prices[-1],
            "volume": sum(trade["size"] for trade in trades),
            "quote_volume": sum(trade["price"] * trade["size"] // self._divisor for trade in trades),
            "buy_volume": sum(trade["size"] for trade in trades if trade["side"] > 0),
            "trade_count": len(trades),
            "timeframe": timeframe,
            "source": int(Source.OWN),
            "flags": 0,
        }


def _speaks_of(told: Told, stream: int, table: str, known: int | None) -> bool:
    if not told.table:
        return told.stream == stream and (known is None or told.known <= known)
    # who asks what was known before versions were dropped may miss one of them
    versions = table in BARS and told.table == VERSIONS and known is not None and known < told.known
    return versions or told.table == table


def _key(table: str, row: Row) -> Any:
    if table == "trades":
        return row.time, row.fields["trade_id"]
    return row.time, row.seq, row.fields.get("timeframe")


def _by_time(row: Row) -> tuple[int, int]:
    return row.time, row.seq


def _says_the_same(before: Row, row: Row) -> bool:
    def numbers(of: Row) -> list[Any]:
        return [*(of.fields[name] for name in MEASURES), of.fields["flags"] & CandleFlag.PARTIAL, of.seq < 0]

    return numbers(before) == numbers(row) and row.known >= before.known


def _rank(bar: Row) -> int:
    """Own bars that are whole, the venue's, imported ones, own ones in part."""
    source: int = bar.fields["source"]
    return 9 if source == Source.OWN and bar.fields["flags"] & CandleFlag.PARTIAL else source


def _joined(ts: int, timeframe: int, parts: list[type_fields]) -> type_fields:
    """A longer bar of its parts, in the order of time."""
    bar = {
        "ts": ts,
        "ts_known": max(part["ts_known"] for part in parts),
        "seq": max(part["seq"] for part in parts),
        "open": parts[0]["open"],
        "high": max(part["high"] for part in parts),
        "low": min(part["low"] for part in parts),
        "close": parts[-1]["close"],
        "timeframe": timeframe,
        "source": max(part["source"] for part in parts),
        "flags": 0,
    }
    for part in parts:
        bar["flags"] |= part["flags"] & INHERITED
    for name in _VOLUMES:
        values = [part[name] for part in parts]
        bar[name] = ABSENT if ABSENT in values else sum(values)
    return bar


def _mean(values: list[int], weight: int, unit: float) -> float | None:
    return float(sum(values)) / (weight * len(values)) / unit if values else None
