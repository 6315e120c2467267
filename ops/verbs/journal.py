"""Look into a journal: is it whole, and what is in it. Reads only, and beside a running daemon too.

    marketd journal list
    marketd journal check                       the live one; every byte is read
    marketd journal check import-journal/…      one of those that list shows, or any directory
    marketd journal show --from 123456 --limit 20 --records

A torn tail is no damage: the next start cuts it. Exit codes: 0 whole, 4 damaged, 1 there is no such journal.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from typing import Any

from marketd.ipc import journal_check
from marketd.ipc.frames import Frame
from marketd.ipc.journal_check import Report
from marketd.market.errors import InvalidArgument
from marketd.ops import journals, words
from marketd.ops.cli import EXIT_NOT_WELL
from marketd.ops.journals import LIVE, Names
from marketd.ops.options import add_config_options, add_json_option, load_config, print_json
from marketd.ops.rows import cell, json_value
from marketd.ops.tables import Page, print_table

SHOWN_FRAMES = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the journals of this daemon")
    check = actions.add_parser("check", help="read every byte; exit code 4 when damaged")
    show = actions.add_parser("show", help="the frames, one line each")
    for found in (check, show):
        found.add_argument(
            "journal", nargs="?", default=LIVE, help=f"a name of `list`, or a directory (default: {LIVE}, the live one)"
        )
    show.add_argument("--from", dest="start", type=int, metavar="OFFSET", help="default: the newest checkpoint")
    show.add_argument(
        "--limit",
        type=int,
        metavar="N",
        default=SHOWN_FRAMES,
        help=f"at most N frames (default {SHOWN_FRAMES}; 0: all)",
    )
    show.add_argument("--instrument", metavar="NAME", help="only frames of this instrument")
    show.add_argument("--records", action="store_true", help="the records of each frame too")
    for found in (listing, check, show):
        add_json_option(found)
        add_config_options(found)


def run(args: argparse.Namespace) -> int:
    actions = {"list": _list, "check": _check, "show": _show}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    found = journals.find_journals(load_config(args).state_path)
    if args.json:
        print_json([line._asdict() for line in found])
        return 0
    print_table(
        ("JOURNAL", "UUID", "SEGMENTS", "OLDEST", "NEWEST SEGMENT", "DISK", "CHANGED"),
        (
            (
                line.name,
                line.uuid,
                line.segments,
                words.count(line.oldest),
                words.count(line.newest),
                words.size(line.disk_bytes),
                words.moment(line.changed_ns),
            )
            for line in found
        ),
    )
    return 0


# ---- check --------------------------------------------------------------------------------------


def _check(args: argparse.Namespace) -> int:
    report = journal_check.check(journals.locate(args.journal, load_config(args)))
    if args.json:
        print_json({"ok": report.ok, **report._asdict(), "segments": [s._asdict() for s in report.segments]})
    else:
        _report_page(report).show()
    return 0 if report.ok else EXIT_NOT_WELL


def _report_page(report: Report) -> Page:
    page = Page()
    page.line(f"journal {report.uuid} in {report.directory}")
    page.line()
    page.table(
        ("SEGMENT", "FIRST", "END", "FRAMES", "FILE", "STATE"),
        (
            (
                segment.name,
                words.count(segment.first),
                words.count(segment.end),
                words.count(segment.frames),
                words.size(segment.file_bytes),
                "damaged" if segment.problem else "ok",
            )
            for segment in report.segments
        ),
    )
    page.line()
    for problem in report.problems:
        page.line(f"! {problem}", "bold red")
    if report.problems:
        page.line(
            "The daemon will not start on it. Keep a copy of the directory; what the database has committed is safe. "
            "`marketd journal show DIRECTORY --from OFFSET` shows what can be read behind the damage."
        )
    else:
        page.line(f"whole: {words.plural(report.frames, 'frame')} up to offset {words.count(report.end)}", "green")
    if report.torn_bytes and report.ok:
        page.line(
            f"{words.size(report.torn_bytes)} behind the end are being written, or torn: the next start cuts them"
        )
    return page


# ---- show ---------------------------------------------------------------------------------------


def _show(args: argparse.Namespace) -> int:
    if args.limit < 0:
        raise InvalidArgument(f"--limit: {args.limit} is no number of frames (0: all)", field="limit")
    config = load_config(args)
    names = Names(config)
    found = _wanted(args, names, journals.locate(args.journal, config))
    for frame in itertools.islice(found, args.limit or None):
        print(json.dumps(_frame_object(frame, names, args.records)) if args.json else _frame_line(frame, names))
        if args.records and not args.json:
            for line in _record_lines(frame, names):
                print(f"    {line}")
    return 0


def _wanted(args: argparse.Namespace, names: Names, directory: Any) -> Iterator[Frame]:
    found = journals.frames(directory, args.start)
    if args.instrument is None:
        return found
    number = names.instrument_id(args.instrument)
    if number is None:
        raise InvalidArgument(
            f"--instrument: {args.instrument!r} is not in the registry of this daemon; write its number",
            field="instrument",
        )
    return (frame for frame in found if frame.instrument == number)


def _frame_line(frame: Frame, names: Names) -> str:
    what = ", ".join(names.section(section.kind, section.count) for section in frame.sections)
    owner = "" if frame.is_checkpoint else f"  {names.instrument(frame.instrument)}  seq {frame.seq}"
    return f"{frame.offset:>12}  {frame.end - frame.offset:>7} B  {words.moment(frame.ts_known)}{owner}  {what}"


def _frame_object(frame: Frame, names: Names, with_records: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "offset": frame.offset,
        "end": frame.end,
        "durable": frame.durable,
        "checkpoint": frame.is_checkpoint,
        "instrument": names.instrument(frame.instrument),
        "seq": frame.seq,
        "ts_known": frame.ts_known,
        "sections": [names.section(section.kind, section.count) for section in frame.sections],
    }
    if with_records:
        found["records"] = [{"kind": kind, **row} for kind, row in _records(frame, names)]
    return found


def _record_lines(frame: Frame, names: Names) -> Iterator[str]:
    for kind, rows in names.rows(frame):
        for row in rows:
            values = ((name, cell(rows, name, value)) for name, value in row.items())
            yield f"{kind.name} " + " ".join(f"{name}={value}" for name, value in values if value)


def _records(frame: Frame, names: Names) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind, rows in names.rows(frame):
        for row in rows:
            yield kind.name, {name: json_value(rows, name, value) for name, value in row.items()}
