"""Records that broke a rule of the validator: kept as they came, never stored as market data.

    marketd quarantine list                             the newest
    marketd quarantine list --summary --start 1d        how many of each rule, instrument and source
    marketd quarantine show 17 18                       with what was sent
    marketd quarantine replay --rule max_skew --start 1d   offers them once more to the running daemon
    marketd quarantine purge --rule max_skew --end 7d   deletes for good, after a question; --yes leaves that out

--start and --end speak of the moment when marketd refused a record.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from marketd.client.pipeline import DataIngestionPipeline
from marketd.market.errors import InvalidArgument, MarketdError, UnknownStream
from marketd.market.records import KindTable
from marketd.market.times import parse_time_ns
from marketd.ops import words
from marketd.ops.databases import database_dsn, run_in_database
from marketd.ops.extras import needs_daemon_extra
from marketd.ops.moments import add_span_options
from marketd.ops.options import add_config_options, add_json_option, count, load_config, print_json
from marketd.ops.replaying import SOURCE, replay
from marketd.ops.tables import Page, print_table

DEFAULT_ROWS = 50
_COLUMNS = ("id", "ts_known", "instrument", "kind", "rule", "detail", "source")
_SUMMARY_COLUMNS = ("rows", "rule", "instrument", "kind", "source", "first", "last")
_NOTHING = "nothing was refused, or nothing that fits"
_HEX_BYTES = 256  # of a payload that is neither text nor a record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the newest, or --summary")
    show = actions.add_parser("show", help="whole rows, with what was sent")
    replay = actions.add_parser("replay", help="offer them to the running daemon once more")
    purge = actions.add_parser("purge", help="delete for good")
    listing.add_argument("--summary", action="store_true", help="count by rule, instrument, kind and source")
    for found in (show, replay, purge):
        found.add_argument("ids", nargs="*", type=int, metavar="ID")
    for found in (listing, show, replay):
        found.add_argument(
            "--limit", type=count, metavar="N", default=DEFAULT_ROWS, help=f"at most N rows (default {DEFAULT_ROWS})"
        )
    purge.add_argument("--dry-run", action="store_true", help="only count what would go")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    for found in (listing, show, replay, purge):
        found.add_argument("--rule", help="such as positive_price, max_skew, duplicate")
        found.add_argument("--instrument", metavar="NAME", help="BTCUSDT.BINANCE, BTCUSDT, BTC/USDT, or its id")
        found.add_argument("--kind", help="such as trade")
        found.add_argument("--source", help="the feed or producer, such as feed:BINANCE")
        add_span_options(found, "refused ")
        add_json_option(found)
        add_config_options(found)


def run(args: argparse.Namespace) -> int:
    actions = {"list": _list, "show": _show, "replay": _replay, "purge": _purge}
    return actions[args.action](args)


def _run(args: argparse.Namespace, work: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    """What `work(connection, filter)` gives."""
    with needs_daemon_extra():
        from marketd.sql.quarantine import Filter
    ids = tuple(getattr(args, "ids", ())) or None
    wanted = Filter(ids, args.rule, args.instrument, args.kind, args.source, args.start, args.end)
    with database_dsn(load_config(args)) as dsn:
        return run_in_database(dsn, lambda connection: work(connection, wanted))


def _list(args: argparse.Namespace) -> int:
    with needs_daemon_extra():
        from marketd.sql.quarantine import list_quarantine, summarise_quarantine
    look = summarise_quarantine if args.summary else list_quarantine
    rows = _run(args, lambda connection, wanted: look(connection, wanted, args.limit))
    if args.json:
        print_json([_plain(row) for row in rows])
        return 0
    columns = _SUMMARY_COLUMNS if args.summary else _COLUMNS
    print_table([name.upper() for name in columns], ([_cell(row[name]) for name in columns] for row in rows))
    if not rows:
        print(_NOTHING, file=sys.stderr)
    return 0


def _show(args: argparse.Namespace) -> int:
    with needs_daemon_extra():
        from marketd.sql.quarantine import show_quarantine
    kinds = load_config(args).kinds()
    rows = _run(args, lambda connection, wanted: show_quarantine(connection, wanted, args.limit))
    found = [{**_plain(row), "payload": readable(kinds, row["kind"], bytes(row["payload"]))} for row in rows]
    if not found and (args.ids or not args.json):
        return _nothing_found(args)
    if args.json:
        print_json(found)
        return 0
    page = Page()
    for row in found:
        page.line(f"{row.pop('id')}: {row.pop('rule')}: {row.pop('detail')}", "bold")
        page.pairs({f"  {name}": value for name, value in row.items() if value not in ("", None)})
        page.line()
    page.show()
    return 0


def _nothing_found(args: argparse.Namespace) -> int:
    """Rows that were asked for by their ids, and are not there, are an error."""
    if args.ids:
        raise MarketdError(f"{args.action}: no row {', '.join(map(str, args.ids))} in the quarantine that fits")
    print(_NOTHING, file=sys.stderr)
    return 0


def _demand_a_filter(args: argparse.Namespace) -> None:
    if not (args.ids or any((args.rule, args.instrument, args.kind, args.source, args.start, args.end))):
        raise InvalidArgument(
            f"{args.action}: say which rows: ids, --rule, --instrument, --kind, --source, --start or --end (everything "
            "until now: --end now)"
        )


def _replay(args: argparse.Namespace) -> int:
    with needs_daemon_extra():
        from marketd.sql.quarantine import Filter, purge_quarantine, show_quarantine
    _demand_a_filter(args)
    rows = _run(args, lambda connection, wanted: show_quarantine(connection, wanted, args.limit))
    if not rows:
        return _nothing_found(args)
    accepted, refused, kept = 0, Counter[str](), Counter[str]()
    config = load_config(args)
    with DataIngestionPipeline(config.runtime_path, name=SOURCE) as pipeline, database_dsn(config) as dsn:
        for part in replay(pipeline, rows):
            accepted, refused, kept = accepted + part.accepted, refused + part.refused, kept + part.kept
            if part.done:  # the daemon has them on disk, here or there
                run_in_database(dsn, partial(purge_quarantine, wanted=Filter(part.done)))
    if args.json:
        print_json({"accepted": accepted, "refused": dict(refused), "kept": dict(kept)})
        return 0
    print(f"{words.plural(accepted, 'row')} accepted")
    for rule, number in sorted(refused.items()):
        print(f"  {number} refused again, in quarantine anew: {rule}")
    for reason, number in sorted(kept.items()):
        print(f"  {number} kept: {reason}")
    return 0


def _purge(args: argparse.Namespace) -> int:
    with needs_daemon_extra():
        from marketd.sql.quarantine import count_quarantine, purge_quarantine
    _demand_a_filter(args)
    if not (args.yes or args.dry_run or sys.stdin.isatty()):
        raise InvalidArgument("purge: nobody is there to be asked; add --yes, or --dry-run to count", field="--yes")
    number = _run(args, count_quarantine)
    if number and not args.dry_run and (args.yes or _is_sure(number)):
        number = _run(args, purge_quarantine)
        purged = True
    else:
        purged = False
    if args.json:
        print_json({"rows": number, "purged": purged})
    else:
        print(f"{words.plural(number, 'row')} {'deleted' if purged else 'found, none deleted'}")
    return 0


def _is_sure(number: int) -> bool:
    answer = input(f"Delete {words.plural(number, 'row')} of the quarantine for good? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def readable(kinds: KindTable, kind: str, payload: bytes) -> str:
    """A payload in words: the fields of a record, the text of a message, else hexadecimal digits."""
    try:
        dtype = kinds.by_name(kind).dtype
    except UnknownStream:
        dtype = None
    if dtype is not None and dtype.names and len(payload) == dtype.itemsize:
        record = np.frombuffer(payload, dtype=dtype)[0]
        return ", ".join(f"{name}={record[name]}" for name in dtype.names)
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and text:
        return text
    rest = len(payload) - _HEX_BYTES
    return payload[:_HEX_BYTES].hex(" ") + (f" … and {rest} bytes more" if rest > 0 else "")


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can have it."""
    return {name: _cell(value) for name, value in row.items() if name != "payload"}


def _cell(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return words.moment(parse_time_ns(value))
    return value if isinstance(value, (int, str)) else str(value)
