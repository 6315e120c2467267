"""The supervisor with real processes: order, replacement, crash loop, drain, and its own sudden end."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from daemons import VENUE, is_gone, type_start

from marketd.daemon import operator
from marketd.daemon.lifeline import wait_for_orphans
from marketd.daemon.runtime import is_held, read_description
from marketd.ipc.presence import read_presence
from marketd.market.errors import ConfigError, NotRunning
from support import eventually


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_actors_start_in_order_and_drain_in_the_order_of_the_data(start: type_start) -> None:
    daemon = start({}, "--postgres", text=VENUE).until_live()
    assert daemon.stop() == 0, daemon.said
    order = [re.sub(r"started \d+", "started", line) for line in daemon.events]
    assert order == [
        "postgres started",
        "schema applied to postgresql://dummy",
        *(f"{name} started" for name in ("ingest", "writer", "storage", "query-1", "feed-BINANCE")),
        *(
            f"{name} {event}"
            for name in ("storage", "feed-BINANCE", "query-1", "ingest", "writer")
            for event in ("drained", "ended")
        ),
        "postgres stopped",
    ]
    assert "every actor ended by itself" in daemon.said
    assert daemon.description == {}
    assert not is_held(daemon.runtime)


def test_what_runs_can_be_seen_from_outside(start: type_start) -> None:
    daemon = start({}, "--postgres", text=VENUE).until_live()
    report = eventually(lambda: daemon.status() if daemon.status().health == "ok" else None)
    assert report is not None
    assert [(actor.name, actor.state) for actor in report.actors] == [
        (name, "live") for name in ("ingest", "writer", "storage", "query-1", "feed-BINANCE")
    ]
    assert all(actor.memory_bytes is not None and actor.memory_bytes > 1 << 20 for actor in report.actors)
    # the DSN of the embedded server reaches the actors, each with its rights
    roles = {"ingest": "reader", "writer": "writer", "storage": "writer", "query-1": "reader", "feed-BINANCE": "reader"}
    for actor in report.actors:
        url = f"postgresql://marketd_{roles[actor.name]}@dummy"
        assert actor.statistics["numbers"] == {"symbols": 1, "url": url}

    description = daemon.description
    assert (description["pid"], description["instance"]) == (daemon.process.pid, "default")
    assert description["sockets"]["query"] == f"ipc://{daemon.runtime}/query.sock"
    presence = read_presence(daemon.runtime)
    assert presence is not None
    assert (presence.pid, presence.timeframes[0]) == (daemon.process.pid, 1)
    assert stat.S_IMODE(daemon.runtime.stat().st_mode) == 0o750
    assert stat.S_IMODE((daemon.runtime / "control.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((daemon.runtime / "marketd.toml").stat().st_mode) == 0o600

    code, health = fetch(f"{description['http']}/health")
    assert (code, json.loads(health)["status"]) == (200, "ok")
    code, text = fetch(f"{description['http']}/metrics")
    assert code == 200
    for name in ("ingest", "writer", "storage", "query-1", "feed-BINANCE"):
        assert f'marketd_dummy_starts_total{{actor="{name}"}} 1.0' in text
        assert f'marketd_actor_up{{actor="supervisor",child="{name}"}} 1.0' in text
    assert text.count("# TYPE marketd_dummy_starts_total counter") == 1
    assert fetch(f"{description['http']}/other")[0] == 404


def test_a_killed_actor_is_replaced_and_the_others_never_notice(start: type_start) -> None:
    daemon = start().until_live()
    before = {actor.name: actor.pid for actor in daemon.status().actors}
    for name in ("ingest", "writer"):
        os.kill(pid := before[name] or 0, signal.SIGKILL)
        assert daemon.until_replaced(name, pid).restarts == 1
    after = {actor.name: actor.pid for actor in daemon.status().actors}
    assert after["query-1"] == before["query-1"]
    assert "ingest ended by SIGKILL" in daemon.said
    assert daemon.stop() == 0


def test_a_hung_actor_is_killed_and_replaced(start: type_start) -> None:
    daemon = start(MARKETD_SUPERVISOR__PING_TIMEOUT="300ms").until_live()
    pid = daemon.actor("writer").pid or 0
    os.kill(pid, signal.SIGSTOP)
    daemon.until_replaced("writer", pid)
    assert is_gone(pid)
    assert "writer has not answered for 0.3 s and is killed" in daemon.said


def test_an_actor_that_never_answers_is_killed_with_its_stack_in_the_log(start: type_start) -> None:
    limits = {"START_TIMEOUT": "2s", "CRASH_LIMIT": "1"}
    daemon = start({"ingest": "hang in start"}, **{f"MARKETD_SUPERVISOR__{k}": v for k, v in limits.items()})
    assert daemon.ends() == 1
    assert "ingest has not answered for 2.0 s" in daemon.said
    assert "in begin" in daemon.said  # where it hung


def test_a_crash_loop_ends_the_daemon_with_the_actors_last_words(start: type_start) -> None:
    daemon = start({"query-1": "crash"}, MARKETD_SUPERVISOR__CRASH_LIMIT="2")
    assert daemon.ends() == 1
    assert "query-1 died 2 times within 1min, the last time with exit code 1; its last words:" in daemon.said
    assert "RuntimeError: this dummy was told to crash" in daemon.said.rpartition("last words:")[2]
    assert daemon.events.count("query-1 started") == 2
    assert daemon.events[-4:] == ["ingest drained", "ingest ended", "writer drained", "writer ended"]
    assert daemon.description["state"] == "failed"


def test_who_does_not_drain_in_time_is_killed_and_counted(start: type_start) -> None:
    behaviours = {"query-1": "hang", "writer": "drain for ever"}
    daemon = start(behaviours, MARKETD_SUPERVISOR__DRAIN_TIMEOUT="2s").until_live()
    assert daemon.stop() == 0
    assert "1 killed: query-1" in daemon.said
    assert "draining was cut short at the end of its budget" in daemon.said  # the writer, by itself
    assert daemon.events[-1] == "writer ended"


def test_a_stopped_actor_does_not_stop_the_drain(start: type_start) -> None:
    daemon = start(MARKETD_SUPERVISOR__DRAIN_TIMEOUT="1s").until_live()
    os.kill(daemon.actor("ingest").pid or 0, signal.SIGSTOP)
    assert daemon.stop() == 0
    assert "1 killed: ingest" in daemon.said


def test_the_second_signal_ends_everything_at_once(start: type_start) -> None:
    daemon = start({"query-1": "hang"}).until_live()
    daemon.process.send_signal(signal.SIGINT)
    eventually(lambda: "stopping: received SIGINT" in daemon.said)
    assert daemon.stop(signal.SIGINT) == 0
    assert "asked to stop twice" in daemon.said


def test_when_the_supervisor_is_killed_its_actors_end_and_the_next_start_goes_on(start: type_start) -> None:
    first = start().until_live()
    pids = [actor.pid or 0 for actor in first.status().actors]
    os.kill(pids[1], signal.SIGSTOP)  # not even a stopped one survives
    first.process.kill()
    first.process.wait()
    eventually(lambda: all(is_gone(pid) for pid in pids))
    assert first.description["state"] == "live"  # nobody was left to say otherwise
    with pytest.raises(NotRunning):
        operator.status(first.runtime)
    second = start().until_live()
    assert second.description["pid"] == second.process.pid
    assert second.stop() == 0


def test_a_second_supervisor_of_the_same_instance_fails_clearly(start: type_start) -> None:
    first = start().until_live()
    second = start()
    assert second.ends() == 1
    assert f"runs already in {first.runtime} (process {first.process.pid})" in second.said
    assert first.status().health in ("ok", "degraded")


def test_a_dead_postgres_is_started_again(start: type_start) -> None:
    daemon = start({}, "--postgres").until_live()
    pid = next(int(line.split()[-1]) for line in daemon.events if line.startswith("postgres started"))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: sum(line.startswith("postgres started") for line in daemon.events) == 2)
    assert "the embedded PostgreSQL died" in daemon.said
    assert daemon.stop() == 0


def test_a_supervisor_that_was_stopped_itself_does_not_take_its_actors_for_hung(start: type_start) -> None:
    daemon = start(MARKETD_SUPERVISOR__PING_TIMEOUT="1s").until_live()
    before = {actor.name: actor.pid for actor in daemon.status().actors}
    daemon.process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    eventually(lambda: time.monotonic() - stopped > 1.5)
    daemon.process.send_signal(signal.SIGCONT)
    eventually(lambda: all((actor.heard_seconds or 9) < 1 for actor in daemon.status().actors))
    assert {actor.name: actor.pid for actor in daemon.status().actors} == before
    assert "has not answered" not in daemon.said


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(start: type_start, runtime_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(runtime_dir / "notify"))
        manager.settimeout(30)
        daemon = start(NOTIFY_SOCKET=str(runtime_dir / "notify"), WATCHDOG_USEC="300000")
        messages = [""]
        while not messages[-1].startswith("READY=1"):
            messages.append(manager.recv(4096).decode())
        assert "WATCHDOG=1" in messages  # already while it starts
        assert "4 actors" in messages[-1]
        daemon.process.send_signal(signal.SIGTERM)
        while not messages[-1].startswith("STOPPING=1"):
            messages.append(manager.recv(4096).decode())
        assert daemon.ends() == 0


# ---- operators ----------------------------------------------------------------------------------


def test_a_reload_reaches_the_actors_and_starts_and_drains_feeds(start: type_start) -> None:
    daemon = start(text=VENUE).until_live()
    source = daemon.file.read_text()

    daemon.file.write_text(source.replace('"BTC/USDT"', '"BTC/USDT", "ETH/USDT"'))
    assert operator.reload(daemon.runtime) == "venues.BINANCE.symbols"
    assert {f"{name} reloaded 2" for name in ("ingest", "writer", "storage", "query-1", "feed-BINANCE")} <= set(
        daemon.events
    )

    daemon.file.write_text(source.replace("venues.BINANCE", "venues.OKX"))
    assert "venues.OKX.symbols" in operator.reload(daemon.runtime)
    assert "feed-BINANCE ended" in daemon.events
    eventually(lambda: daemon.actor("feed-OKX").state == "live")

    daemon.file.write_text(source + "[database]\nurl = 'postgresql://x'\n")
    with pytest.raises(ConfigError, match=r"database\.url: cannot change in a running daemon"):
        operator.reload(daemon.runtime)
    daemon.file.write_text(source + "[jornal]")
    with pytest.raises(ConfigError, match="did you mean journal"):
        operator.reload(daemon.runtime)
    operator.stop(daemon.runtime, 30.0)
    assert daemon.ends() == 0


def test_a_refused_reload_says_who_refused_and_an_edited_file_means_nothing_before_it(start: type_start) -> None:
    daemon = start({"query-1": "refuse"}, text=VENUE).until_live()
    before = daemon.file.read_text()
    daemon.file.write_text(before + "[aliases]\nBTC = 'BTCUSDT.BINANCE'\n")
    os.kill(pid := daemon.actor("ingest").pid or 0, signal.SIGKILL)
    daemon.until_replaced("ingest", pid)
    assert "aliases" not in (daemon.runtime / "marketd.toml").read_text()
    with pytest.raises(ConfigError, match="nothing has changed, because query-1 refused it: RuntimeError: this dummy"):
        operator.reload(daemon.runtime)
    assert (daemon.runtime / "marketd.toml").read_text() == before


def test_what_one_feed_refuses_the_others_give_back_and_no_venue_comes_or_goes(start: type_start) -> None:
    two = VENUE + "[venues.OKX]\nsymbols = ['BTC/USDT']\n[venues.KRAKEN]\nsymbols = ['BTC/USD']\n"
    daemon = start({"feed-OKX": "refuse"}, text=two).until_live()
    changed = daemon.file.read_text().replace('"BTC/USDT"', '"BTC/USDT", "ETH/USDT"')
    changed = changed.replace("[venues.KRAKEN]\nsymbols = ['BTC/USD']", "[venues.BITSTAMP]\nsymbols = ['BTC/USD']")
    daemon.file.write_text(changed)
    with pytest.raises(ConfigError, match="nothing has changed, because feed-OKX refused it"):
        operator.reload(daemon.runtime)
    told = [event for event in daemon.events if event.startswith("feed-BINANCE reloaded")]
    assert told == ["feed-BINANCE reloaded 4", "feed-BINANCE reloaded 3"]
    assert not [event for event in daemon.events if event.startswith(("feed-BITSTAMP", "feed-KRAKEN ended"))]
    assert daemon.actor("feed-KRAKEN").state == "live"


def test_sighup_reloads(start: type_start) -> None:
    daemon = start().until_live()
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: "ingest reloaded 0" in daemon.events)


def test_a_key_of_a_venue_that_others_may_read_ends_the_start_and_is_not_told(
    start: type_start, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("an-invented-key")
    key.chmod(0o644)
    venue = "MARKETD_VENUES__BINANCE_FUTURES__"
    daemon = start(**{f"{venue}SYMBOLS": '["BTCUSDT"]', f"{venue}API_KEY_FILE": str(key)})
    assert daemon.ends() == 78
    assert "venues.BINANCE_FUTURES.api_key_file: others may read" in daemon.said
    assert "an-invented-key" not in daemon.said


def test_an_unusable_configuration_ends_the_start_with_its_own_exit_code(start: type_start) -> None:
    daemon = start(MARKETD_HTTP__LISTEN="192.0.2.1:1")
    assert daemon.ends() == 78
    assert "http.listen: 192.0.2.1:1 cannot be opened" in daemon.said
    assert daemon.events == []


def test_orphans_are_waited_for_within_a_budget(runtime_dir: Path) -> None:
    assert wait_for_orphans(runtime_dir, 1.0) >= 0.0
    with (runtime_dir / "actors.lock").open() as orphan:
        fcntl.flock(orphan, fcntl.LOCK_SH)
        with pytest.raises(ConfigError, match="fuser"):
            wait_for_orphans(runtime_dir, 0.05)


def test_nobody_is_asked_where_nothing_runs(runtime_dir: Path) -> None:
    assert read_description(runtime_dir) == {}
    with pytest.raises(NotRunning, match="marketd run"):
        operator.reload(runtime_dir)
