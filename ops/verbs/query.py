"""Ask the daemon for what is stored and what is live.

    marketd query ohlcv BTC/USDT --timeframe 1m --limit 5
    marketd query ohlcv BTC/USDT --timeframe 1h --start 2024-08-08 --end 2024-08-09 --csv
    marketd query ohlcv BTC/USDT --known-at 2024-08-08T12:00   as it was known then: no later bar, no later version
    marketd query trades BTC/USDT --start 15min
    marketd query book BTC/USDT --depth 3       order books; with --timeframe 1s the last one of each second, and means
    marketd query book BTC/USDT --at 15min --depth 50   the whole book at a moment, made again from its changes
    marketd query imbalance BTC/USDT --start 5min
    marketd query buckets BTC/USDT --timeframe 1m
    marketd query activity_bar BTC/USDT --limit 5     bars by activity: tick, volume, dollar
    marketd query stream funding BTC/USDT       a declared series; `coverage` is the ledger of what was observed
    marketd query instruments
    marketd query health

Without --start the newest 20 rows, else all of them; --limit keeps the newest. Times are UTC.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import msgspec

from marketd.client.arguments import BarSource
from marketd.client.frames import Frame
from marketd.client.provider import UnifiedDataProvider
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME
from marketd.ops import words
from marketd.ops.cli import EXIT_NOT_WELL
from marketd.ops.daemons import add_daemon_options, open_provider
from marketd.ops.moments import HELP, add_span_options, moment
from marketd.ops.options import count, print_json
from marketd.ops.rows import csv_value, json_value, shown_columns, table_row
from marketd.ops.tables import Page, print_table

DEFAULT_ROWS = 20
_FILLS = ("quiet", "nan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    ohlcv = kinds.add_parser("ohlcv", help="bars")
    ohlcv.add_argument("symbol")
    ohlcv.add_argument("--timeframe", default="1m", help="1s, 1m, 1h … (default 1m)")
    ohlcv.add_argument(
        "--source",
        choices=get_args(BarSource),
        default="best",
        help="whose bars: our own, the venue's, imported (default best)",
    )
    ohlcv.add_argument(
        "--fill", choices=_FILLS, help="lay the bars on their grid; quiet: flat where nothing was traded"
    )
    trades = kinds.add_parser("trades", help="trades")
    trades.add_argument("symbol")
    book = kinds.add_parser("book", help="order books")
    book.add_argument("symbol")
    book.add_argument("--timeframe", help="one row an interval: 1s, 1m … (default: each book)")
    book.add_argument("--depth", type=count, metavar="N", help="levels a side (default 1; all for programs)")
    book.add_argument(
        "--at", metavar="TIME", type=moment, help=f"the book at this moment, made again from its changes: {HELP}"
    )
    imbalance = kinds.add_parser("imbalance", help="imbalance of book and volume, second by second")
    imbalance.add_argument("symbol")
    buckets = kinds.add_parser("buckets", help="what rested in each price bucket")
    buckets.add_argument("symbol")
    buckets.add_argument("--timeframe", default="1s", help="1s or 1m (default 1s)")
    activity = kinds.add_parser("activity_bar", help="bars by activity: tick, volume and dollar bars")
    activity.add_argument("symbol")
    stream = kinds.add_parser("stream", help="records of a declared series, or of coverage")
    stream.add_argument("name", help="as in [streams.NAME], or coverage")
    stream.add_argument("symbol", nargs="?", help="none for a series that belongs to no instrument")
    rows = (ohlcv, trades, book, imbalance, buckets, activity, stream)
    for found in rows:
        add_span_options(found)
        found.add_argument("--limit", type=count, metavar="N", help="the newest N rows")
        found.add_argument("--columns", metavar="A,B", help="only these columns, in this order")
    for found in (ohlcv, trades, imbalance, buckets, activity, stream):
        found.add_argument("--known-at", metavar="TIME", type=moment, help=f"as it was known at this moment: {HELP}")
    instruments = kinds.add_parser("instruments", help="what the daemon knows")
    health = kinds.add_parser("health", help="how the daemon says it is; exit code 4 when it is not well")
    for found in (*rows, instruments, health):
        form = found.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="print JSON, for programs")
        if found is not health:
            form.add_argument("--csv", action="store_true", help="print CSV, for programs")
        add_daemon_options(found)


def run(args: argparse.Namespace) -> int:
    _check(args)
    with open_provider(args) as provider:
        if args.what == "health":
            return _health(provider, args)
        if args.what == "instruments":
            return _instruments(provider, args)
        return _frame(_ask(provider, args), args)


def _check(args: argparse.Namespace) -> None:
    start, end = getattr(args, "start", None), getattr(args, "end", None)
    if start is not None and end is not None and start > end:
        raise InvalidArgument(
            "--start: it is after --end; a duration says how long ago: --start 5min --end 1min", field="start"
        )
    if args.what == "stream" and args.symbol is None and args.name in BY_NAME:
        raise InvalidArgument(f"symbol: {args.name} belongs to an instrument; name one", field="symbol")


def _ask(provider: UnifiedDataProvider, args: argparse.Namespace) -> Frame:
    limit = args.limit if args.limit is not None or args.start is not None else DEFAULT_ROWS
    span = (args.start, args.end, limit)
    if args.what == "book":
        return _books(provider, args, span)
    if args.what == "ohlcv":
        return provider.query_ohlcv_data(args.symbol, args.timeframe, *span, args.source, args.fill, args.known_at)
    stream = {"trades": "trade", "stream": getattr(args, "name", "")}.get(args.what, args.what)
    timeframe = args.timeframe if args.what == "buckets" else None
    return provider.query(stream, args.symbol, *span, timeframe, args.known_at)


def _books(provider: UnifiedDataProvider, args: argparse.Namespace, span: tuple[Any, Any, int | None]) -> Frame:
    depth = args.depth or (None if args.json or args.csv else 1)
    if args.at is not None:
        if args.timeframe or args.start is not None or args.end is not None or args.limit is not None:
            raise InvalidArgument("--at: one moment has no --start, --end, --limit or --timeframe", field="at")
        return provider.rebuild_orderbook(args.symbol, args.at, depth)
    if args.timeframe is None:
        return provider.query_orderbook_snapshots(args.symbol, *span, depth)
    return provider.query_orderbook_aggregated(args.symbol, args.timeframe, *span, depth)


# ---- records ------------------------------------------------------------------------------------


def _frame(frame: Frame, args: argparse.Namespace) -> int:
    columns = _columns(frame, args.columns, all_of_them=args.json or args.csv)
    if args.json:
        rows = [{name: json_value(frame, name, value) for name, value in row.items()} for row in _rows(frame, columns)]
        print_json({"instrument": frame.instrument.name, "meta": msgspec.to_builtins(frame.meta), "rows": rows})
    elif args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(
            [csv_value(frame, name, value) for name, value in row.items()] for row in _rows(frame, columns)
        )
    else:
        print_table([name.upper() for name in columns], (table_row(frame, row) for row in _rows(frame, columns)))
        print(_footnote(frame), file=sys.stderr)
    return 0


def _columns(frame: Frame, wanted: str | None, *, all_of_them: bool) -> tuple[str, ...]:
    if wanted is None:
        return frame.columns if all_of_them else shown_columns(frame)
    names = tuple(name.strip() for name in wanted.split(","))
    for name in names:
        if name not in frame.columns:
            raise InvalidArgument(f"--columns: {name!r} is none of {', '.join(frame.columns)}", field="columns")
    return names


def _rows(frame: Frame, columns: tuple[str, ...]) -> Iterator[dict[str, object]]:
    values = [frame[name].tolist() for name in columns]
    return (dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))


def _footnote(frame: Frame) -> str:
    meta = frame.meta
    parts = [f"{words.plural(len(frame), 'row')} of {frame.instrument.name}", f"from {meta.served_from or 'nowhere'}"]
    if meta.watermark:
        parts.append(
            f"complete up to {words.moment(meta.watermark)} (known {words.age(meta.watermark, time.time_ns())} ago)"
        )
    if meta.durable is False:
        parts.append("not all of it is on disk yet")
    if meta.latency_ns is not None:
        parts.append(f"in {words.duration(meta.latency_ns / 1e9)}")
    return ", ".join(parts)


# ---- the daemon ---------------------------------------------------------------------------------

_INSTRUMENT_CELLS: dict[str, Callable[[Instrument], object]] = {
    "name": lambda i: i.name,
    "id": lambda i: i.id,
    "base": lambda i: i.base,
    "quote": lambda i: i.quote,
    "market": lambda i: i.market,
    "price_scale": lambda i: i.price_scale,
    "size_scale": lambda i: i.size_scale,
    "tick_size": lambda i: words.real(i.tick_size / 10**i.price_scale),
    "step_size": lambda i: words.real(i.step_size / 10**i.size_scale),
}


def _instruments(provider: UnifiedDataProvider, args: argparse.Namespace) -> int:
    found = provider.instruments()
    if args.json:
        print_json([{"name": i.name, **msgspec.to_builtins(i)} for i in found])
        return 0
    rows = [[cell(i) for cell in _INSTRUMENT_CELLS.values()] for i in found]
    if args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows(itertools.chain([list(_INSTRUMENT_CELLS)], rows))
    else:
        print_table([name.upper() for name in _INSTRUMENT_CELLS], rows)
    return 0


def _health(provider: UnifiedDataProvider, args: argparse.Namespace) -> int:
    found = provider.health()
    if args.json:
        print_json({"status": found.status, **found.report})
    else:
        page = Page()
        page.line(found.status, "bold green" if found.status == "ok" else "bold red")
        for problem in found.report.get("problems", []):
            page.line(f"  ! {problem}", "red")
        page.line()
        _health_tables(page, found.report)
        page.show()
    return 0 if found.status == "ok" else EXIT_NOT_WELL


def _health_tables(page: Page, report: dict[str, Any]) -> None:
    """Whatever a daemon tells: one value a line, and a table for what it tells of several things alike."""
    plain = {name: value for name, value in report.items() if not isinstance(value, (dict, list))}
    page.pairs(plain)
    for name, values in report.items():
        if not isinstance(values, dict) or not values:
            continue
        page.line()
        inner = [value for value in values.values() if isinstance(value, dict)]
        if len(inner) == len(values):
            columns = list(dict.fromkeys(column for value in inner for column in value))
            rows = [[key, *(value.get(column) for column in columns)] for key, value in values.items()]
            page.table([name.upper(), *(column.upper() for column in columns)], rows)
        else:
            page.pairs({f"{name}.{key}": value for key, value in values.items()})
