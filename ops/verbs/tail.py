"""Print records as they come, one line each, until Ctrl-C.

    marketd tail trade BTC/USDT
    marketd tail candle BTC/USDT --timeframe 1m         own and venue's bars as they close, new versions too
    marketd tail funding BTC/USDT --json                a declared series, one object a line
    marketd tail trade BTC/USDT --since 5min --count 1000
    marketd tail book BTC/USDT --depth 3                the best levels of a book, as often as it is sent
    marketd tail imbalance BTC/USDT
    marketd tail buckets BTC/USDT --timeframe 1m
    marketd tail activity_bar BTC/USDT                  tick, volume and dollar bars as they close

Nothing is left out: what a slow reader missed is fetched before it goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator

from marketd.client.books import OrderBookDataFrame
from marketd.client.frames import Frame
from marketd.ops import words
from marketd.ops.daemons import add_daemon_options, open_provider
from marketd.ops.moments import HELP, moment
from marketd.ops.options import add_json_option, count
from marketd.ops.rows import json_value, shown_columns, table_row
from marketd.ops.screen import until_interrupted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind", help="trade, candle, book, imbalance, buckets, activity_bar, coverage, or a declared series"
    )
    parser.add_argument("symbol", help="such as BTC/USDT or BTCUSDT.BINANCE")
    parser.add_argument("--timeframe", help="of candles (default 1m) and buckets (1s or 1m, default 1s)")
    parser.add_argument("--depth", type=count, metavar="N", help="levels of a book (default 1; all with --json)")
    parser.add_argument(
        "--since", metavar="TIME", type=moment, help=f"begin with what is stored from this time on: {HELP}"
    )
    parser.add_argument("--count", type=count, metavar="N", help="end after N records")
    add_json_option(parser)
    add_daemon_options(parser)


DEFAULT_TIMEFRAMES = {"candle": "1m", "buckets": "1s"}


def run(args: argparse.Namespace) -> int:
    timeframe = args.timeframe or DEFAULT_TIMEFRAMES.get(args.kind)
    depth = args.depth or (None if args.json else 1)
    with open_provider(args) as provider, provider.subscribe(args.kind, args.symbol, timeframe, args.since) as stream:
        with until_interrupted():
            for line in itertools.islice(_lines(stream, depth, as_json=args.json), args.count):
                print(line, flush=True)
        found = stream.statistics()
    print(
        f"{words.plural(found.records, 'record')} in {words.plural(found.messages, 'message')}; "
        f"{found.missed} missed, {found.fetched} records fetched instead",
        file=sys.stderr,
    )
    return 0


def _lines(stream: Iterator[Frame], depth: int | None, *, as_json: bool) -> Iterator[str]:
    for frame in stream:
        if isinstance(frame, OrderBookDataFrame) and depth is not None:
            frame = frame.top(min(depth, frame.depth))
        columns = frame.columns if as_json else shown_columns(frame)
        for values in zip(*(frame[name].tolist() for name in columns), strict=True):
            row = dict(zip(columns, values, strict=True))
            if as_json:
                yield json.dumps({name: json_value(frame, name, value) for name, value in row.items()})
            else:
                yield _text(frame, row)


def _text(frame: Frame, row: dict[str, object]) -> str:
    """`2024-08-08T23:54:00.123000Z  trade_id=1 price=61000.5 size=0.1 side=buy`"""
    time, *others = zip(row, table_row(frame, row), strict=True)
    return "  ".join((time[1], " ".join(f"{name}={value}" for name, value in others if value)))
