"""See it work: an emulated exchange, an embedded PostgreSQL and the daemon, with a live view.

Ends with Ctrl-C or after --duration, with a summary of what was received, acknowledged, stored and refused; the
exit code is 1 when these do not add up. The data stays: a second demo goes on from it. Nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from marketd.market.errors import MarketdError
from marketd.ops.daemons import seconds
from marketd.ops.demonstration import Demonstration, Summary
from marketd.ops.screen import watch
from marketd.ops.tables import Page

LOOK_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--duration", type=seconds, metavar="TIME", help="end after so long, such as 20 or 2min")
    parser.add_argument("--symbols", default="BTCUSDT,ETHUSDT,SOLUSDT", metavar="A,B", help="of the emulated exchange")
    parser.add_argument(
        "--rate", type=float, default=20.0, metavar="N", help="trades a second of each symbol (default 20)"
    )
    parser.add_argument("--dir", type=Path, default=Path(".demo"), help="where the data goes (default ./.demo)")


def run(args: argparse.Namespace) -> int:
    demo = Demonstration(args.dir, args.symbols.upper().replace("/", "").split(","), args.rate)
    print("starting the exchange, PostgreSQL and the daemon …", flush=True)
    try:
        demo.start()
        _show(demo, args.duration)
        print("\nending …", flush=True)
        summary = demo.settle()
    except MarketdError as error:
        print(f"the demo failed: {error}; the daemon's log is {demo.log}", file=sys.stderr)
        return 1
    finally:
        demo.stop()
    _page(summary).show()
    return 0 if summary.adds_up else 1


def _show(demo: Demonstration, duration: float | None) -> None:
    times = None if duration is None else max(1, round(duration / LOOK_SECONDS))
    if sys.stdout.isatty():
        watch(demo.page, LOOK_SECONDS, times=times)
        return
    # no terminal: a page now and then is enough
    ends = None if duration is None else time.monotonic() + duration
    try:
        while ends is None or time.monotonic() < ends:
            demo.page().show()
            time.sleep(5.0 if ends is None else max(0.0, min(5.0, ends - time.monotonic())))
    except KeyboardInterrupt:
        return


def _page(summary: Summary) -> Page:
    page = Page()
    page.line()
    page.table(
        ("", "RECORDS"),
        [
            ("received by the feed", summary.received),
            ("acknowledged by ingest", summary.acknowledged),
            ("  of these trades", summary.trades),
            ("  refused, in quarantine", summary.refused),
            ("trades of this run in the database", summary.stored_trades),
            ("bars of this run in the database", summary.stored_bars),
        ],
    )
    page.line()
    if summary.adds_up:
        page.line(
            "everything adds up: each record received was acknowledged, each trade acknowledged is stored once",
            "bold green",
        )
    for problem in summary.problems:
        page.line(f"! {problem}", "bold red")
    return page
