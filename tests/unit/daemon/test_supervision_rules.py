"""The pure parts of supervision: when to start again, in which order, and what it all says about health."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from marketd.daemon import plan
from marketd.daemon.config import convert
from marketd.daemon.restarts import Restarts
from marketd.daemon.settings import Config, Supervision
from marketd.daemon.verdict import judge
from marketd.ipc.protocol import ActorReport

SETTINGS: Supervision = convert(
    {"supervisor": {"restart_backoff": "1s", "restart_backoff_max": "5s", "crash_limit": 5, "crash_window": "60s"}}
).supervisor


def test_the_backoff_doubles_up_to_its_cap_and_is_jittered() -> None:
    restarts = Restarts(SETTINGS, random.Random(1))
    delays = [restarts.died(now) or 0.0 for now in range(4)]
    for delay, most in zip(delays, (1, 2, 4, 5), strict=True):
        assert most / 2 <= delay <= most
    assert len(set(delays)) == 4


def test_the_death_too_many_within_the_window_gives_up() -> None:
    restarts = Restarts(SETTINGS)
    assert [restarts.died(now) is None for now in (0, 1, 2, 3, 4)] == [False] * 4 + [True]


def test_deaths_outside_of_the_window_are_forgiven() -> None:
    restarts = Restarts(SETTINGS)
    assert all(restarts.died(now * 20.0) is not None for now in range(100))
    assert (restarts.died(10_000.0) or 9) <= 1
    assert restarts.recent == 1


def test_the_plan_has_one_feed_for_each_enabled_venue() -> None:
    venues = {"OKX": {"symbols": ["BTC/USDT"]}, "KRAKEN": {"enabled": False}}
    config = convert({"query": {"processes": 2}, "venues": venues})
    assert plan.actors(config) == ["ingest", "writer", "storage", "query-1", "query-2", "feed-OKX"]


@pytest.mark.parametrize(("name", "role", "which"), [("ingest", "ingest", ""), ("feed-BINANCE", "feed", "BINANCE")])
def test_a_name_is_a_role_and_which_of_them(name: str, role: str, which: str) -> None:
    assert (plan.role_of(name), plan.which_of(name)) == (role, which)


def test_stages_are_groups_of_one_role_in_the_order_wanted() -> None:
    names = ["ingest", "writer", "storage", "query-1", "query-2", "feed-A", "other"]
    assert plan.stages(names, plan.STOP_ORDER) == [
        ["other"],
        ["storage"],
        ["feed-A"],
        ["query-1", "query-2"],
        ["ingest"],
        ["writer"],
    ]
    assert plan.stages([], plan.START_ORDER) == []


def test_an_actor_is_called_as_the_program_that_it_is() -> None:
    command = plan.actor_command("writer", Path("/x.toml"), ["a=1", "b=2"])
    assert " ".join(command[1:]) == "-m marketd.ops actor writer --config /x.toml --set a=1 --set b=2"


def actors(**states: str) -> list[ActorReport]:
    all_live = dict.fromkeys(plan.actors(Config()), "live") | {name.replace("_", "-"): s for name, s in states.items()}
    return [ActorReport(name=name, state=state) for name, state in all_live.items()]


@pytest.mark.parametrize(
    ("reports", "problem", "expected"),
    [
        (actors(), "", "ok"),
        (actors(ingest="warming"), "", "degraded"),
        (actors(writer="down"), "", "degraded"),
        (actors(), "the database is away", "degraded"),
        (actors(ingest="down"), "", "failed"),
        (actors(query_1="starting"), "", "failed"),
        (actors(query_1="down", query_2="live"), "", "degraded"),
    ],
)
def test_the_verdict_follows_from_what_still_serves(reports: list[ActorReport], problem: str, expected: str) -> None:
    health, problems = judge("live", reports, problem)
    assert health == expected
    assert bool(problems) == (expected != "ok")


def test_a_journal_that_has_no_room_is_told_and_degrades() -> None:
    reports = [
        msgspec.structs.replace(each, statistics={"journal": {"blocked": "the disk has no room"}})
        if each.name == "ingest"
        else each
        for each in actors()
    ]
    assert judge("live", reports, "") == ("degraded", ["ingest's journal: the disk has no room"])


def test_what_a_venue_refuses_is_a_problem_that_is_told() -> None:
    statistics = {"feed": {"refused": {"BTCUSD": "no such pair"}}}
    feed = msgspec.structs.replace(actors()[0], name="feed-KRAKEN", statistics=statistics)
    reports = [*actors(), feed]
    assert judge("live", reports, "") == ("degraded", ["feed-KRAKEN is refused BTCUSD: no such pair"])


def test_a_stream_that_was_subscribed_and_does_not_come_is_a_problem() -> None:
    statistics = {"feed": {"silent": {"BTCUSDT": "candle 60s, trade"}}}
    feed = msgspec.structs.replace(actors()[0], name="feed-BINANCE", statistics=statistics)
    said = "feed-BINANCE hears nothing of BTCUSDT: candle 60s, trade"
    assert judge("live", [*actors(), feed], "") == ("degraded", [said])


def test_a_setting_that_an_instrument_does_not_allow_is_a_problem() -> None:
    statistics = {"feed": {"refused_settings": ["book.buckets.BTCUSDT.BINANCE: 0.001 is no multiple"]}}
    feed = msgspec.structs.replace(actors()[0], name="feed-BINANCE", statistics=statistics)
    _, problems = judge("live", [*actors(), feed], "")
    assert problems == ["feed-BINANCE uses the default: book.buckets.BTCUSDT.BINANCE: 0.001 is no multiple"]


def test_a_symbol_that_a_venue_does_not_have_is_a_problem_with_the_way_out() -> None:
    statistics = {"feed": {"unknown_symbols": {"BTCUSX": "Invalid symbol."}}}
    feed = msgspec.structs.replace(actors()[0], name="feed-BINANCE", statistics=statistics)
    health, problems = judge("live", [*actors(), feed], "")
    assert health == "degraded"
    assert problems == [
        "feed-BINANCE has no BTCUSX (Invalid symbol.); correct it in venues.BINANCE.symbols, or remove it, and run "
        "marketd reload"
    ]


@pytest.mark.parametrize(
    ("statistics", "sentence"),
    [
        ({"writer": {"trouble": "disk_full: free space"}}, "writer waits: disk_full: free space"),
        ({"database": {"state": "closed", "trouble": "login_refused: x"}}, "writer has no database: login_refused: x"),
        ({"database": {"state": "down", "last_error": "OSError"}}, "writer has no database: OSError"),
        (
            {"writer": {"running_seconds": 31.0}},
            "writer's transaction runs for 31 s: the database, or its disk, is slow",
        ),
        (
            {"writer": {"lag_seconds": 31.0}},
            "writer is 31 s behind the journal: the database, or its disk, is slow, or catches up",
        ),
        ({"replica": {"state": "behind"}}, "writer's read replica is behind: the primary answers all queries"),
    ],
)
def test_a_trouble_of_the_database_is_told_and_degrades(statistics: dict[str, Any], sentence: str) -> None:
    reports = [
        msgspec.structs.replace(each, statistics=statistics) if each.name == "writer" else each for each in actors()
    ]
    assert judge("live", reports, "") == ("degraded", [sentence])


def test_a_daemon_that_has_not_started_has_failed_to_serve() -> None:
    assert judge("starting", [], "") == ("failed", ["the daemon is starting"])


def test_a_background_work_that_goes_on_failing_is_a_problem_by_name() -> None:
    works = {"jobs": {"state": "waiting", "last_error": "job 7 fails"}, "levels": {"state": "running"}}
    reports = [*actors()[1:], ActorReport(name="storage", state="live", statistics={"works": works})]
    assert judge("live", reports, "")[1] == ["storage's jobs: job 7 fails"]
