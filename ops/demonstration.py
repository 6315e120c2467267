"""The demo behind `marketd demo`: an emulated exchange and a daemon as processes of their own, watched and counted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from marketd.client.cache import DataCacheManager
from marketd.daemon import config as configuration
from marketd.ipc import paths
from marketd.market.errors import MarketdError, NotRunning
from marketd.market.times import isoformat_ns
from marketd.ops.databases import run_in_database, running_embedded_dsn
from marketd.ops.standing import Standing, gather, page
from marketd.ops.tables import Page
from marketd.ops.verbs.emulate import config_lines

START_SECONDS = 180.0  # the first start makes a database
SETTLE_SECONDS = 30.0
STOP_SECONDS = 60.0
ANSWER_SECONDS = 5.0
INSTANCE = "demo"


class Summary(NamedTuple):
    received: int
    acknowledged: int
    refused: int
    trades: int
    stored_trades: int
    stored_bars: int
    problems: list[str]

    @property
    def adds_up(self) -> bool:
        return not self.problems


class Demonstration:
    def __init__(self, directory: Path, symbols: Sequence[str], rate: float) -> None:
        self._directory = _home(directory.absolute())
        self._symbols = list(symbols)
        self._rate = rate
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started_ns = time.time_ns()
        self.log = self._directory / "daemon.log"

    # ---- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Everything up. Raises MarketdError with what the daemon said last."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        exchange = self._start_exchange()
        file = self._directory / "marketd.toml"
        file.write_text(self._config_text(exchange))
        self._config = configuration.load(file)
        self._started_ns = time.time_ns()
        with self.log.open("ab") as log:
            self._spawn(["run", "--config", str(file)], stdout=log, stderr=log)
        self._wait_until_live()

    def _start_exchange(self) -> Mapping[str, Any]:
        arguments = [
            "emulate",
            "--synthetic",
            "--json",
            "--rate",
            str(self._rate),
            "--symbols",
            ",".join(self._symbols),
        ]
        with (self._directory / "exchange.log").open("ab") as log:
            process = self._spawn(arguments, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None  # asked for above
        line = process.stdout.readline()
        if not line:
            raise MarketdError(f"the emulated exchange did not start; see {self._directory / 'exchange.log'}")
        exchange: Mapping[str, Any] = json.loads(line)
        return exchange

    def _config_text(self, exchange: Mapping[str, Any]) -> str:
        return (
            f'# written by `marketd demo`\ninstance = "{INSTANCE}"\n'
            f"state_dir = {json.dumps(str(self._directory / 'state'))}\n"
            f"runtime_dir = {json.dumps(str(_runtime_dir()))}\n"
            f'[http]\nlisten = "127.0.0.1:0"\n' + config_lines(exchange["ws_url"], exchange["rest_url"], self._symbols)
        )

    def _spawn(self, arguments: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "marketd.ops", *arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends its processes in order
            **streams,
        )
        self._processes.append(process)
        return process

    def _wait_until_live(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._daemon.poll() is not None:
                raise MarketdError(f"the daemon ended with code {self._daemon.returncode}: {self._last_words()}")
            with contextlib.suppress(MarketdError):
                standing = gather(self._config.runtime_path, ANSWER_SECONDS)
                if standing.report.state == "live" and standing.is_well:
                    return
            if time.monotonic() >= deadline:
                raise MarketdError(f"the daemon was not up within {START_SECONDS:.0f} s: {self._last_words()}")
            time.sleep(0.2)

    @property
    def _daemon(self) -> subprocess.Popen[bytes]:
        return self._processes[1]

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()
            return lines[-1] if lines else "it said nothing"
        return "it said nothing"

    def stop(self) -> None:
        """End the daemon, then the exchange; each gets time to do it cleanly."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._processes.clear()

    # ---- looking ------------------------------------------------------------------------------

    def page(self) -> Page:
        """How it stands now: the page of `marketd status`, with bars and the addresses of everything."""
        try:
            standing = gather(self._config.runtime_path, ANSWER_SECONDS)
        except MarketdError as error:
            shown = Page()
            shown.line(f"! {error}", "bold red")
            return shown
        shown = page(standing)
        self._add_bars(shown)
        shown.line()
        shown.pairs(self._addresses(standing))
        return shown

    def _add_bars(self, shown: Page) -> None:
        rows = []
        with contextlib.suppress(MarketdError), DataCacheManager(self._config.runtime_path) as cache:
            for symbol in self._symbols:
                bars = cache.get_latest_ohlcv(symbol, "1s", limit=1)
                if len(bars):
                    real = [f"{bars[name][-1]:.10g}" for name in ("open", "high", "low", "close", "volume")]
                    rows.append((symbol, isoformat_ns(int(bars["time"][-1]))[11:19], *real))
        if rows:
            shown.line()
            shown.table(("LAST 1s BAR", "TIME", "OPEN", "HIGH", "LOW", "CLOSE", "VOLUME"), rows)

    def _addresses(self, standing: Standing) -> dict[str, str]:
        return {
            "in Python": f'UnifiedDataProvider("{self._config.runtime_path}")',
            "in a shell": f"marketd tail trade {self._symbols[0]} --config {self._directory / 'marketd.toml'}",
            "in SQL": f"marketd psql --config {self._directory / 'marketd.toml'}",
            "metrics": f"{standing.report.http}/metrics",
            "log": str(self.log),
        }

    # ---- counting -----------------------------------------------------------------------------

    def settle(self) -> Summary:
        """Close the exchange, wait until all that was received is stored, and count."""
        self._processes[0].send_signal(signal.SIGTERM)
        self._processes[0].wait(STOP_SECONDS)
        deadline = time.monotonic() + SETTLE_SECONDS
        before: tuple[Any, ...] = ()
        while True:
            standing = gather(self._config.runtime_path, ANSWER_SECONDS)
            feed, link, writer = (_statistics(standing, *which) for which in _COUNTED)
            now = (link.get("records"), link.get("unanswered"), writer.get("lag_bytes"), writer.get("rows"))
            if now == before and not link.get("unanswered") and not writer.get("lag_bytes"):
                break
            if time.monotonic() >= deadline:
                break
            before = now
            time.sleep(1.5)  # longer than the interval of the supervisor's pings, which bring the numbers
        return self._summary(feed, link, writer)

    def _summary(self, feed: Mapping[str, Any], link: Mapping[str, Any], writer: Mapping[str, Any]) -> Summary:
        trades, bars = self._stored()
        received, acknowledged = int(link.get("records", 0)), int(link.get("accepted", 0))
        refused = int(link.get("refused", 0))
        problems = []
        if not received:
            problems.append("the feed received nothing")
        if received != acknowledged + refused:
            problems.append(f"{received} records were received, {acknowledged} acknowledged and {refused} refused")
        if trades != int(feed.get("trades", 0)) - refused:
            problems.append(f"{feed.get('trades')} trades were handed over, {trades} are stored")
        if writer.get("lag_bytes"):
            problems.append(f"the database is {writer['lag_bytes']} bytes of journal behind")
        return Summary(received, acknowledged, refused, int(feed.get("trades", 0)), trades, bars, problems)

    def _stored(self) -> tuple[int, int]:
        dsn = running_embedded_dsn(self._config.state_path)
        if dsn is None:
            raise NotRunning("the demo's PostgreSQL does not run any more")
        known = isoformat_ns(self._started_ns)

        async def count(connection: Any) -> tuple[int, int]:
            trades = await connection.fetchval(_COUNT_TRADES, known)
            bars = await connection.fetchval(_COUNT_BARS, known)
            return int(trades), int(bars)

        return run_in_database(dsn, count)


_COUNTED = (("feed-BINANCE", "feed"), ("feed-BINANCE", "link"), ("writer", "writer"))
_COUNT_TRADES = "SELECT count(*) FROM trades WHERE ts_known >= $1::text::timestamptz"
_COUNT_BARS = (
    "SELECT (SELECT count(*) FROM candles_1s WHERE ts_known >= $1::text::timestamptz)"
    " + (SELECT count(*) FROM candles WHERE ts_known >= $1::text::timestamptz)"
)


def _statistics(standing: Standing, actor: str, name: str) -> Mapping[str, Any]:
    return next((found.statistics.get(name, {}) for found in standing.report.actors if found.name == actor), {})


def _runtime_dir() -> Path:
    """Of its own for each user, so that two users' demos do not meet."""
    user = "" if os.geteuid() == 0 else f"-{os.geteuid()}"
    return paths.runtime_dir(INSTANCE + user)


def _home(wanted: Path) -> Path:
    """Where the demo's data can lie. As root the database runs as another user, who must be able to reach it: a
    directory that only root can enter is no place for it."""
    if os.geteuid() != 0:
        return wanted
    closed = [parent for parent in wanted.parents if parent.exists() and not parent.stat().st_mode & 0o001]
    if not closed:
        return wanted
    place = Path("/var/lib/marketd-demo")
    print(f"{closed[0]} is closed to the database's unprivileged user: the demo's data goes to {place}", flush=True)
    return place
