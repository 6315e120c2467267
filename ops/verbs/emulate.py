"""An exchange on this machine, from recorded traffic, or Binance from a synthetic market.

    marketd emulate captures/spot_btcusdt_20240808.gz captures/spot_btcusdt_20240809.gz --speed max
    marketd emulate captures/KRAKEN.ws.50.0.gz --venue KRAKEN
    marketd emulate --synthetic --symbols BTCUSDT,ETHUSDT --rate 50 --port 9500
    marketd emulate --synthetic --venue BINANCE_FUTURES

Prints its address and the lines of a configuration that point a daemon to it, then its progress, until Ctrl-C. Files
of one recording are played in the order given, from the moment that the first client subscribes; after the end REST
goes on answering. The synthetic market is the same for a seed, at every moment, over restarts too.

Binance's markets are emulated with their streams, commands and REST. Of other venues a client gets the recorded frames
as they came, whatever it asks for, and over REST what was recorded, the instruments and the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from marketd.market.errors import InvalidArgument, MarketdError
from marketd.ops import words
from marketd.ops.extras import needs_daemon_extra
from marketd.ops.options import add_json_option

if TYPE_CHECKING:
    from marketd.daemon.feeds.emulator import CaptureSource, SyntheticMarket
    from marketd.daemon.feeds.emulator.base import EmulatorBase, EmulatorStatistics

DEFAULT_VENUE = "BINANCE"
DEFAULT_SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT"
DEFAULT_RATE = 10.0
TERMINAL_SECONDS, LOG_SECONDS = 1.0, 10.0  # between two lines of progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "captures", nargs="*", metavar="CAPTURE", help="recorded traffic: raw, cryptofeed's, marketd's own"
    )
    parser.add_argument("--venue", help=f"whose traffic it is (default: what the recording says, else {DEFAULT_VENUE})")
    parser.add_argument(
        "--speed", choices=("1", "10", "max"), default="1", help="of a recording (default 1: as it was)"
    )
    parser.add_argument("--synthetic", action="store_true", help="a market that was never there")
    parser.add_argument("--symbols", metavar="A,B", help=f"of the synthetic market (default {DEFAULT_SYMBOLS})")
    parser.add_argument("--seed", type=int, default=1, help="which synthetic market (default 1)")
    parser.add_argument(
        "--rate",
        type=float,
        default=DEFAULT_RATE,
        metavar="N",
        help=f"trades a second of each symbol (default {DEFAULT_RATE:g})",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    parser.add_argument(
        "--api-key",
        default="",
        metavar="KEY",
        help="Binance's: demanded of who asks for trades of the past",
    )
    parser.add_argument("--expose", action="store_true", help="allow a --host that other machines can reach")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    with needs_daemon_extra():
        import marketd.daemon.feeds.emulator  # noqa: F401
        from marketd.daemon.feeds.venues import venue_of
    if args.venue is not None:
        venue_of(args.venue)
    if not 0 <= args.port <= 65_535:
        raise InvalidArgument(f"--port: {args.port} is none; write 0 (any) to 65535", field="port")
    asyncio.run(_serve(_market_of(args), args.venue, args.json))
    return 0


class _Market(NamedTuple):
    """What is emulated, and what a feed of it must ask for."""

    emulator: EmulatorBase
    symbols: list[str]
    trades: str = "trade"


def _market_of(args: argparse.Namespace) -> _Market:
    from marketd.daemon.feeds.emulator import Emulator, Playback, PlaybackEmulator
    from marketd.daemon.feeds.recorded_venue import recorded_venue

    if args.synthetic == bool(args.captures):
        raise InvalidArgument("emulate: name the files of a recording, or --synthetic")
    if args.symbols and not args.synthetic:
        raise InvalidArgument(
            "--symbols: a recording has the symbols that it has; this is for --synthetic", field="symbols"
        )
    args.venue = recorded_venue(args.captures, args.venue) if args.captures else args.venue or DEFAULT_VENUE
    where = {"host": args.host, "port": args.port, "expose": args.expose}
    if args.venue.startswith("BINANCE"):
        binance = {"venue": args.venue, "api_key": args.api_key, **where}
        if args.synthetic:
            synthetic = _synthetic(args)
            return _Market(Emulator(synthetic, **binance), sorted(synthetic.rules))
        recorded = _recorded(args)
        emulator = Emulator(recorded, **binance)
        return _Market(emulator, sorted(recorded.rules), recorded.recorded_trades)
    if args.synthetic:
        raise InvalidArgument(f"--synthetic: there is none of {args.venue}, only of {DEFAULT_VENUE}", field="venue")
    print(f"reading {words.plural(len(args.captures), 'file')} …", file=sys.stderr)
    playback = Playback(args.captures, args.venue, speed=args.speed)
    for damage in playback.damage:
        print(f"! {damage}", file=sys.stderr)
    return _Market(PlaybackEmulator(playback, **where), playback.symbols, playback.recorded_trades)


def _synthetic(args: argparse.Namespace) -> SyntheticMarket:
    from marketd.daemon.feeds.emulator import SyntheticFutures, SyntheticMarket

    if args.rate <= 0:
        raise InvalidArgument("--rate: trades a second, more than 0", field="rate")
    symbols = [symbol.strip().upper().replace("/", "") for symbol in (args.symbols or DEFAULT_SYMBOLS).split(",")]
    kind = SyntheticMarket if args.venue == DEFAULT_VENUE else SyntheticFutures
    return kind(args.seed, [symbol for symbol in symbols if symbol], args.rate)


def _recorded(args: argparse.Namespace) -> CaptureSource:
    from marketd.daemon.feeds.emulator import CaptureSource

    print(f"reading {words.plural(len(args.captures), 'file')} …", file=sys.stderr)
    capture = CaptureSource(args.captures, args.venue, speed=args.speed)
    for damage in capture.damage:
        print(f"! {damage}", file=sys.stderr)
    return capture


async def _serve(market: _Market, venue: str, as_json: bool) -> None:
    emulator = market.emulator
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    try:
        await emulator.start()
    except OSError as error:
        raise MarketdError(f"the emulator cannot listen: {error.strerror or error}; choose another --port") from None
    try:
        _introduce(market, venue, as_json)
        await _show_progress(emulator, over, as_json)
    finally:
        await emulator.stop()


def _introduce(market: _Market, venue: str, as_json: bool) -> None:
    emulator, symbols, trades = market
    if as_json:
        addresses = {"ws_url": emulator.ws_url, "rest_url": emulator.rest_url}
        print(json.dumps({**addresses, "symbols": symbols, "venue": venue, "trades": trades}), flush=True)
        return
    print(f"{venue} is emulated at {emulator.url} and {emulator.rest_url}; in the configuration of a daemon:\n")
    print(config_lines(emulator.ws_url, emulator.rest_url, symbols, venue, trades) + series_lines(venue))
    print("Ctrl-C ends it.", flush=True)


def config_lines(
    ws_url: str, rest_url: str, symbols: Sequence[str], venue: str = DEFAULT_VENUE, trades: str = "trade"
) -> str:
    """What points a daemon to an emulator, as TOML."""
    values = {"symbols": list(symbols), "ws_url": ws_url, "rest_url": rest_url}
    if trades != "trade":
        values["trades"] = trades
    return "".join([f"[venues.{venue}]\n", *(f"{name} = {json.dumps(value)}\n" for name, value in values.items())])


def series_lines(venue: str) -> str:
    """What declares all series that a venue can bring, as TOML."""
    from marketd.daemon.feeds.series import STREAMS
    from marketd.daemon.feeds.venues import venue_of

    tables = []
    for name in venue_of(venue).series:
        fields = ", ".join(f'{field} = "{type_name}"' for field, type_name in STREAMS[name].items())
        tables.append(f"[streams.{name}]\nfields = {{ {fields} }}\n")
    return "".join(tables)


async def _show_progress(emulator: EmulatorBase, over: asyncio.Event, as_json: bool) -> None:
    in_place = sys.stdout.isatty() and not as_json
    pause = TERMINAL_SECONDS if in_place else LOG_SECONDS
    began, first, before = time.monotonic(), emulator.statistics(), ""
    while not over.is_set():
        try:
            async with asyncio.timeout(pause):
                await over.wait()
        except TimeoutError:
            pass
        now = emulator.statistics()
        line = _json_line(now) if as_json else progress_line(first, now, time.monotonic() - began)
        if line != before or over.is_set():
            print(f"\r{line}\x1b[K" if in_place else line, end="" if in_place else "\n", flush=True)
        before = line
    if in_place:
        print()


def progress_line(first: EmulatorStatistics, now: EmulatorStatistics, seconds: float) -> str:
    """`2 clients, 12,345 messages sent, market at 2024-08-08T23:54:00Z, 41 % (about 12.0 s to go)`"""
    progress = now.progress
    parts = [
        words.plural(now.clients, "client"),
        f"{words.count(now.sent)} messages sent",
        f"market at {words.moment(progress.now_ms * 1_000_000)}",
    ]
    if now.cut_off:
        parts.append(f"{words.plural(now.cut_off, 'client')} cut off for not keeping up")
    if progress.ended:
        parts.append("the recording is over; REST goes on")
    elif progress.total:
        share = f"{100 * progress.position / progress.total:.0f} %"
        played = progress.position - first.progress.position
        left = seconds * (progress.total - progress.position) / played if played else None
        parts.append(share if left is None else f"{share} (about {words.duration(left)} to go)")
    return ", ".join(parts)


def _json_line(now: EmulatorStatistics) -> str:
    return json.dumps({**now._asdict(), "progress": now.progress._asdict()})
