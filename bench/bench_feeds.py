"""Messages a second on one core: each adapter of `daemon/feeds/venues.py` beside cryptofeed's parser of the same venue.

cryptofeed does what its exchange's class does: decode, keep the book at full depth, and call callbacks that do nothing.
marketd is measured three times: doing the same (`parser`), and all that a feed does between socket and sink (the
order of trades and their repair, records of the book, imbalance, buckets), with many messages a call, as a feed that is
behind takes them, and with one. All are given the same messages in memory, each in a process of its own, in turns;
processor seconds are counted. After the first round trades and the best ten levels of the books are compared. What a
feed holds in memory for an instrument in the end is told beside it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from cryptofeed_environment import Environments
from duel import Contestant, Round, Traffic, contestant, rate
from options import Options
from recorded_traffic import CAPTURES, Capture, prepared
from report import Goal, Report
from rewritten_traffic import REWRITTEN, rewritten

from marketd.market import compiled

HERE = Path(__file__).parent
MESSAGES = 10_000  # of a capture, at most
ROUNDS = 5
IN_BULK = "100"  # messages a call
PARSER, FEED, ONE_BY_ONE, THEIRS = "parser", "feed", "feed, one by one", "cryptofeed"
OURS = {PARSER: ("parser", IN_BULK), FEED: ("feed", IN_BULK), ONE_BY_ONE: ("feed", "1")}
WANTED = 5.0  # times cryptofeed


def run(options: Options) -> Report:
    report = Report("feeds", "messages a second of one core, of each adapter, beside cryptofeed on the same messages")
    most, rounds = (2_000, 2) if options.quick else (MESSAGES, ROUNDS)
    ratios = []
    with Environments() as environments, tempfile.TemporaryDirectory() as place:
        for capture in (*CAPTURES, *REWRITTEN):
            if not capture.is_there:
                report.rows.append(_row(capture, note="skipped: its files are not in shared/data"))
                continue
            traffic = rewritten(capture, most) if capture in REWRITTEN else prepared(capture, most)
            path = Path(place) / "traffic.json"
            path.write_bytes(msgspec.json.encode(traffic))
            python = environments.python(capture.release) if capture.exchange else "cryptofeed has no such venue"
            row = _measured(capture, traffic, path, python, rounds)
            report.rows.append(row)
            if row[f"{PARSER}: times"]:
                ratios.append((capture, row[f"{PARSER}: times"]))
    report.facts = {
        "measured": "messages a second of processor time, one thread; median of the rounds, and of their ratios",
        "rounds": rounds,
        "messages a call of parser and feed": IN_BULK,
        "compiled part": compiled.STANDING,
    }
    report.goals = [
        Goal(f"{capture.venue}, {capture.name}, parser", WANTED, ratio, False, " times") for capture, ratio in ratios
    ]
    return report


def _measured(capture: Capture, traffic: Traffic, path: Path, python: Path | str, rounds: int) -> dict[str, Any]:
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(contestant([sys.executable, HERE / "contestant_marketd.py", path, *words]))
            for name, words in OURS.items()
        }
        if isinstance(python, Path):
            command = [python, HERE / "contestant_cryptofeed.py", path]
            sides[THEIRS] = stack.enter_context(contestant(command, {"PYTHONPATH": ""}))
        first = {name: side.round() for name, side in sides.items()}  # warms up, and is compared
        taken = _in_turns(sides, rounds)
    with contestant([sys.executable, HERE / "contestant_marketd.py", path, "memory", IN_BULK]) as watched:
        held = watched.round().held_bytes / len(traffic.symbols)
    row = _row(capture, messages=len(traffic.frames), **{name: rate(played) for name, played in taken.items()})
    row["KiB an instrument"] = held / 1024
    if THEIRS not in taken:
        return row | {"note": python}
    row |= {f"{name}: times": _ratio(taken[name], taken[THEIRS]) for name in OURS}
    return row | {"note": _differences(first)}


def _in_turns(sides: dict[str, Contestant], rounds: int) -> dict[str, list[Round]]:
    taken: dict[str, list[Round]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(sides):
            taken[name].append(sides[name].round())
    return taken


def _ratio(ours: list[Round], theirs: list[Round]) -> float:
    return statistics.median(b.cpu_seconds / a.cpu_seconds for a, b in zip(ours, theirs, strict=True))


def _differences(first: dict[str, Round]) -> str:
    """Whether all did the same work; what differs is told once where it is the same for all of ours."""
    theirs, found = first[THEIRS], dict[str, list[str]]()
    for name in OURS:
        ours, said = first[name], []
        if (ours.trades, ours.candles) != (theirs.trades, theirs.candles):
            said.append(f"{ours.trades} trades, {ours.candles} bars, not {theirs.trades}, {theirs.candles}")
        others = sorted(wire for wire, book in theirs.books.items() if ours.books.get(wire) != book)
        if others:
            said.append(f"{len(others)} of {len(theirs.books)} books differ ({', '.join(others[:3])})")
        found.setdefault("; ".join(said), []).append(name)
    faults = {name: played.faults for name, played in first.items() if played.faults}
    told = [text if len(names) == len(OURS) else f"{', '.join(names)}: {text}" for text, names in found.items() if text]
    if faults:
        told.append(f"refused or warned of: {faults}")
    return "; ".join(told) or f"same {theirs.trades} trades, {len(theirs.books)} books"


def _row(capture: Capture, **known: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"venue": capture.venue, "capture": capture.name, "messages": ""}
    row |= dict.fromkeys((*OURS, THEIRS, *(f"{name}: times" for name in OURS)), "")
    row |= {"KiB an instrument": "", "release": capture.release if capture.exchange else "", "note": ""}
    return row | known
