"""Draw what was observed and what is missing, from the ledger of the running daemon.

    marketd coverage                                the last day of every instrument
    marketd coverage BTC/USDT --start 7d
    marketd coverage BTC/USDT --stream trade --list every stretch, with its reason
    marketd coverage --json

One line a stream. A place of it is as bad as the worst moment in it, so that the shortest gap shows:

    #  observed               -  gap: records are missing
    +  fetched afterwards     x  the venue did not answer
    .  not observed           u  live only, not stored: the journal was full
    e  expired: dropped for its age

The daemon must run. Exit code 4 when something in the span is missing.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from marketd.client.provider import UnifiedDataProvider
from marketd.market.errors import InvalidArgument, UnknownInstrument
from marketd.market.instruments import GLOBAL_NAME
from marketd.market.records import Coverage
from marketd.market.timeline import Seen, Stretch, streams_of, timeline, worst_in_cells
from marketd.market.times import NS_PER_SECOND
from marketd.ops import words
from marketd.ops.cli import EXIT_NOT_WELL
from marketd.ops.daemons import add_daemon_options, open_provider
from marketd.ops.moments import add_span_options
from marketd.ops.options import add_json_option, count, print_json
from marketd.ops.tables import Page

SIGNS = {
    Seen.OBSERVED: "#",
    Seen.BACKFILLED: "+",
    Seen.UNOBSERVED: ".",
    Seen.GAP: "-",
    Seen.VENUE_DOWN: "x",
    Seen.UNSTORED: "u",
    Seen.EXPIRED: "e",
}
SPAN_NS = 86_400 * NS_PER_SECOND
MIN_CELLS, MAX_CELLS = 10, 400
LISTED = 20  # stretches under a drawing; --list shows all


class Line(NamedTuple):
    """One stream of one instrument."""

    instrument: str
    stream: str
    stretches: list[Stretch]

    @property
    def missing(self) -> list[Stretch]:
        return [stretch for stretch in self.stretches if not stretch.state.is_whole]

    @property
    def observed_share(self) -> float:
        total = sum(stretch.ns for stretch in self.stretches)
        return sum(stretch.ns for stretch in self.stretches if stretch.state.is_whole) / total if total else 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("symbols", nargs="*", metavar="SYMBOL", help="such as BTC/USDT; none: every instrument")
    parser.add_argument("--stream", metavar="KIND", help="only trade, candle, book …")
    parser.add_argument("--list", action="store_true", dest="listed", help="every stretch that is missing")
    parser.add_argument("--width", type=count, metavar="N", help="places of a line (default: as the terminal is wide)")
    add_span_options(parser)
    add_json_option(parser)
    add_daemon_options(parser)


def run(args: argparse.Namespace) -> int:
    now = time.time_ns()
    end = now if args.end is None else min(args.end, now)  # of what is to come nothing was observed
    start = end - SPAN_NS if args.start is None else args.start
    if start >= end:
        raise InvalidArgument("--start: it is not before --end", field="start")
    with open_provider(args) as provider:
        streams = provider.streams()
        if args.stream not in (None, *streams):
            raise InvalidArgument(f"--stream: {args.stream!r} is none of {', '.join(streams)}", field="stream")
        names = {number: name for name, number in streams.items()}
        lines = [
            line
            for symbol in _names(provider, args.symbols)
            for line in _lines(provider, symbol, names, args, start, end)
        ]
        steps = _clock_steps(provider, start, end)
    if args.json:
        print_json(_plain(lines, steps, start, end))
    else:
        _draw(lines, steps, args, start, end)
    return EXIT_NOT_WELL if any(line.missing for line in lines) else 0


# ---- the ledger -------------------------------------------------------------------------------------


def _names(provider: UnifiedDataProvider, symbols: Sequence[str]) -> list[str]:
    return list(symbols) or [i.name for i in provider.instruments() if i.name != GLOBAL_NAME and not i.removed]


def _lines(
    provider: UnifiedDataProvider, symbol: str, names: Mapping[int, str], args: argparse.Namespace, start: int, end: int
) -> Iterator[Line]:
    frame = provider.query("coverage", symbol, None, end)
    # nothing is known of what comes after the newest record that the answer could have
    end = min(end, frame.meta.watermark or end)
    for number in streams_of(frame.records):
        name = names.get(number, f"stream {number}") if number else "all"
        if args.stream in (None, name) and start < end:
            yield Line(frame.instrument.name, name, timeline(frame.records, number, start, end))


def _clock_steps(provider: UnifiedDataProvider, start: int, end: int) -> list[tuple[int, int]]:
    """The steps of the clock in the span, (when, by how many ns); they are the daemon's own, not an instrument's."""
    with suppress(UnknownInstrument):  # nothing was ever said of it
        records = provider.query("coverage", None, start, end).records
        steps = records[records["state"] == Coverage.CLOCK_STEP]
        return list(zip(steps["ts_end"].tolist(), steps["detail"].tolist(), strict=True))
    return []


# ---- what is shown ----------------------------------------------------------------------------------


def _plain(lines: Sequence[Line], steps: Sequence[tuple[int, int]], start: int, end: int) -> dict[str, Any]:
    return {
        "start": start,
        "end": end,
        "lines": [
            {
                "instrument": line.instrument,
                "stream": line.stream,
                "observed_share": line.observed_share,
                "stretches": [stretch._asdict() for stretch in line.stretches],
            }
            for line in lines
        ],
        "clock_steps": [{"at": at, "step_ns": step_ns} for at, step_ns in steps],
    }


def _draw(
    lines: Sequence[Line], steps: Sequence[tuple[int, int]], args: argparse.Namespace, start: int, end: int
) -> None:
    page = Page()
    if not lines:
        page.line("the ledger says nothing of that")
    labels = [f"{line.instrument} {line.stream}" for line in lines]
    width = max((len(label) for label in labels), default=0)
    cells = args.width or shutil.get_terminal_size().columns - width - 9
    cells = min(max(cells, MIN_CELLS), MAX_CELLS)
    if lines:
        page.line(f"{'':<{width}}  {words.moment(start)} … {words.moment(end)}")
    for label, line in zip(labels, lines, strict=True):
        drawn = "".join(SIGNS[state] for state in worst_in_cells(line.stretches, cells))
        page.line(f"{label:<{width}}  {drawn}  {_share(line)}")
    _list_missing(page, lines, None if args.listed else LISTED)
    for at, step_ns in steps:
        page.line(f"the clock stepped by {words.duration(step_ns / NS_PER_SECOND)} at {words.moment(at)}")
    page.show()


def _share(line: Line) -> str:
    """In percent, rounded down: 100 is only said when nothing is missing."""
    return f"{int(line.observed_share * 1000) / 10:g} %" if line.missing else "100 %"


def _list_missing(page: Page, lines: Sequence[Line], limit: int | None) -> None:
    rows = [
        (
            line.instrument,
            line.stream,
            stretch.state.value,
            words.moment(stretch.start),
            words.duration(stretch.ns / NS_PER_SECOND),
            stretch.detail or None,
            stretch.reason,
        )
        for line in lines
        for stretch in line.missing
    ]
    if not rows:
        return
    page.line()
    if limit is not None and len(rows) > limit:
        page.line(f"the newest {limit} of {len(rows):,} stretches that are missing (--list: all)")
        rows = sorted(rows, key=lambda row: row[3])[-limit:]
    page.table(("INSTRUMENT", "STREAM", "STATE", "FROM", "FOR", "RECORDS", "REASON"), rows)
