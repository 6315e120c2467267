"""Import recorded traffic: captures, in the lane of their own, on the recorded clock.

    marketd import capture FILE…     one recording; several files are read in the order given

What is there already is skipped, so that an interrupted import is simply run again. Reads the formats `<ns> <JSON>`,
cryptofeed's, and what marketd itself writes with `capture.raw = true`; gzip or plain.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import zmq.asyncio

from marketd.daemon.feeds.recorded_venue import recorded_venue
from marketd.daemon.import_ids import DaemonIds, Ids, OwnIds
from marketd.daemon.import_lane import CaptureImport, ImportProgress, ImportReport
from marketd.daemon.ingest_link import IngestLink
from marketd.daemon.prepare import reachable_database
from marketd.daemon.registry import REGISTRY_NAME, Registry
from marketd.daemon.runtime import is_held
from marketd.daemon.settings import Config
from marketd.ipc import paths
from marketd.market.errors import NotRunning
from marketd.ops.databases import running_embedded_dsn
from marketd.ops.options import add_config_options, add_json_option, load_config, print_json
from marketd.sql.connections import DatabaseConnectionManager

PROGRESS_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    capture = what.add_parser("capture", help="recorded WebSocket traffic of a venue")
    capture.add_argument("files", nargs="+", type=Path, metavar="FILE")
    capture.add_argument("--venue", help="whose traffic it is (default: what the recording says, else BINANCE)")
    capture.add_argument(
        "--close", action="store_true", help="close the bars that are still forming at the end, as they stand (PARTIAL)"
    )
    add_json_option(capture)
    add_config_options(capture)


def run(args: argparse.Namespace) -> int:
    args.venue = recorded_venue(args.files, args.venue)
    report = asyncio.run(_import(args, load_config(args)))
    if args.json:
        print_json(report._asdict() | {"instruments": [i.name for i in report.instruments]})
    else:
        _print(report)
    return 0


async def _import(args: argparse.Namespace, config: Config) -> ImportReport:
    started = time.monotonic()
    shown = 0.0

    def show(progress: ImportProgress) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PROGRESS_SECONDS:
            shown = time.monotonic()
            rate = progress.lines / max(shown - started, 1e-9)
            print(
                f"{progress.file}: {progress.lines} messages ({rate:.0f}/s), {progress.trades} trades", file=sys.stderr
            )

    async with AsyncExitStack() as stack:
        ids: Ids
        if is_held(config.runtime_path):
            ids, dsn = await _of_daemon(config, stack)
        else:
            registry = Registry(config.state_path / REGISTRY_NAME, config.daemon_no)
            stack.callback(registry.close)
            ids, dsn = OwnIds(registry), await stack.enter_async_context(reachable_database(config))
        database = await stack.enter_async_context(DatabaseConnectionManager(dsn, actor="import"))
        importing = CaptureImport(config, database, ids, venue=args.venue, close=args.close)
        return await importing.run(args.files, show)


async def _of_daemon(config: Config, stack: AsyncExitStack) -> tuple[Ids, str]:
    """A daemon of this configuration runs: its ids, and its database."""
    dsn = config.database.url or running_embedded_dsn(config.state_path)
    if dsn is None:
        raise NotRunning("the daemon runs, but its PostgreSQL does not answer yet; see `marketd status`")
    context: zmq.asyncio.Context = zmq.asyncio.Context()
    stack.callback(context.destroy, linger=0)
    link = IngestLink(context, paths.socket_url(config.runtime_path, "ingest"), source="import")
    link.open()
    stack.push_async_callback(link.close)
    return DaemonIds(link, config), dsn


def _print(report: ImportReport) -> None:
    names = ", ".join(instrument.name for instrument in report.instruments) or "no instrument"
    print(f"imported {report.trades} trades and {report.candles} candles of {names} from {report.lines} messages")
    for name, count in sorted(report.others.items()):
        print(f"  {count} records of {name}")
    if report.without_snapshot:
        names = ", ".join(report.without_snapshot)
        print(
            f"  no snapshot of the books of {names} was recorded, so they were never LIVE; if a file with the REST "
            "answers has it, import both together"
        )
    if report.known:
        print(f"  {report.known} trades were there already")
    if report.refused:
        rules = ", ".join(f"{rule} {count}" for rule, count in sorted(report.rules.items()))
        print(f"  {report.refused} were refused and are in quarantine: {rules}")
    for name, count in sorted(report.ignored.items()):
        print(f"  {count} {name}: not used")
    for damage in report.damage:
        print(f"  {damage}")
    if report.forming:
        print(f"  {report.forming} bars are still forming; a later file goes on with them, or --close ends them")
