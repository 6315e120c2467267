"""Write a commented configuration for the venues and symbols named, and say what comes next.

    marketd init --venue BINANCE --symbols BTC/USDT,ETH/USDT
    marketd init --venue BINANCE --symbols BTC/USDT --trades aggTrade --candles 1m,1h --output lab.toml --instance lab

With several --venue, each takes the --symbols behind it. The file is loaded before it gets its name, so that what is
there can be used; one that is there already stays, unless --force.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from marketd.daemon import config as configuration
from marketd.daemon.rules import fail, unsent_candles
from marketd.daemon.settings import Config, Venue
from marketd.market.errors import InvalidArgument, MarketdError
from marketd.ops.options import add_json_option, print_json
from marketd.ops.tables import Page

DEFAULT_OUTPUT = "marketd.toml"
_HEAD = """\
# marketd.toml, written by `marketd init`. What is not named here has its default; `marketd config default` explains
# all of them, `marketd config check` tells whether this file is right, `marketd reload` takes over what may change in a
# running daemon: symbols, venues, aliases, limits, the level of logs.

"""
_INSTANCE = """\
# Several daemons may run on one host, each an instance of its own. Part of the paths below.
instance = {instance}
# The number of this daemon in its database; never change it once there are records.
daemon_no = {daemon_no}

# What must survive a reboot: journal, instrument ids, the embedded database. Without it: {state}
#state_dir = "/var/lib/marketd/{name}"
# Sockets and shared memory, on a tmpfs. Without it: {runtime}
#runtime_dir = "/dev/shm/marketd-{name}"

# Where several venues have a symbol, BTC/USDT alone means this venue's.
default_venue = {venue}
"""
_VENUE = """
[venues.{name}]
# The venue's own spelling (BTCUSDT) or ccxt's (BTC/USDT); add and remove with `marketd reload`.
symbols = {symbols}
# "trade": each fill. "aggTrade": one record for the fills of one order at one price. Never change it for instruments
# that are stored already: their ids are of different spaces.
trades = {trades}
# The venue's own bars that are stored beside ours.
candles = {candles}
# Empty: the venue's public addresses. `marketd emulate` prints others for here.
ws_url = ""
rest_url = ""
"""
_TAIL = """
[database]
# Empty: marketd runs a PostgreSQL of its own in state_dir. Or a running one, TimescaleDB preferred:
#url = "postgresql://marketd:secret@db.example/marketd"
url = ""

[journal]
# What may wait on disk while the database is away; what happens when it is used up is journal.when_full.
budget = "16GiB"

[http]
# /metrics and /health; empty switches them off. Each daemon of a host needs an address of its own.
listen = "127.0.0.1:{port}"
"""
_FIRST_PORT = 9464


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--venue", action="append", required=True, help="such as BINANCE; may be repeated")
    parser.add_argument(
        "--symbols",
        action="append",
        required=True,
        metavar="A,B",
        help="such as BTC/USDT,ETH/USDT; once for each --venue",
    )
    parser.add_argument("--trades", choices=("trade", "aggTrade"), default="trade", help="which stream (default trade)")
    parser.add_argument(
        "--candles", metavar="A,B", help="the venue's own bars (default 1m, where it sends them; empty: none)"
    )
    parser.add_argument("--instance", default=Config().instance, help="name of this daemon (default: %(default)s)")
    parser.add_argument(
        "--daemon-no", type=int, default=1, metavar="N", help="its number in a database that it shares (default 1)"
    )
    parser.add_argument("--output", default=DEFAULT_OUTPUT, metavar="FILE", help=f"default: {DEFAULT_OUTPUT}")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    venues = _venues(args.venue, args.symbols)
    candles = None if args.candles is None else _split(args.candles)
    text = render(venues, args.trades, candles, args.instance, args.daemon_no)
    config = write_verified(output, text, force=args.force)
    following = _next_commands(output)
    if args.json:
        print_json({"file": output.absolute(), "venues": venues, "instance": config.instance, "next": following})
        return 0
    for name, symbols in venues.items():
        print(f"wrote {output}: {name} {', '.join(symbols)}")
    page = Page()
    page.line("next:")
    page.pairs({f"    {command}": why for command, why in following.items()})
    page.show()
    return 0


def render(
    venues: dict[str, list[str]], trades: str, candles: Sequence[str] | None, instance: str, daemon_no: int
) -> str:
    """The text of the file. Raises ConfigError for an instance that cannot be one, for a venue without a feed, and for
    candles that a venue does not send; None: those of a minute, where it does."""
    _require_feeds(venues)
    # computed, not written: what the paths will be without a setting
    plain = Config(instance=instance)
    head = _INSTANCE.format(
        instance=_toml(instance),
        daemon_no=daemon_no,
        name=instance,
        state=plain.state_path,
        runtime=plain.runtime_path,
        venue=_toml(next(iter(venues))),
    )
    tables = [
        _VENUE.format(name=name, symbols=_toml(symbols), trades=_toml(trades), candles=_toml(_sent(name, candles)))
        for name, symbols in venues.items()
    ]
    return "".join((_HEAD, head, *tables, _TAIL.format(port=_FIRST_PORT + daemon_no - 1)))


def write_verified(output: Path, text: str, *, force: bool = False) -> Config:
    """Write the file once it was loaded; its Config. Raises ConfigError, or MarketdError when it may not be written."""
    if output.exists() and not force:
        raise _is_there(output)
    new = output.with_name(f".{output.name}.{os.getpid()}.new")
    try:
        new.write_text(text, encoding="utf-8")
        # without the environment: the file has to stand by itself
        config = configuration.load(new, environment={})
        if force:
            new.replace(output)
        else:
            os.link(new, output)  # unlike a rename, it fails when somebody else was first
    except FileExistsError:
        raise _is_there(output) from None
    except OSError as error:
        raise MarketdError(f"{output} cannot be written ({error.strerror}); name another with --output") from None
    finally:
        with suppress(OSError):
            new.unlink()
    return config


def _is_there(output: Path) -> MarketdError:
    return MarketdError(f"{output} is there already; name another with --output, or replace it with --force")


def _require_feeds(venues: dict[str, list[str]]) -> None:
    try:
        from marketd.daemon.feeds.venues import venue_of
    except ModuleNotFoundError:
        return  # a host that only writes the file; the daemon says so when it starts
    for name in venues:
        venue_of(name)


def _sent(name: str, candles: Sequence[str] | None) -> list[str]:
    """The candles for a venue; ConfigError for some that were asked for and are not on its stream."""
    wanted = list(Venue().candles if candles is None else candles)
    try:
        unsent = unsent_candles(name, Venue(candles=tuple(wanted)))
    except ModuleNotFoundError:
        return wanted  # a host that only writes the file
    except InvalidArgument:  # no timeframe at all: loading the file says so
        return wanted
    if candles is not None and unsent:
        fail(f"venues.{name}.candles[{unsent[0][0]}]", unsent[0][1])
    return [] if unsent else wanted


def _venues(names: Sequence[str], symbols: Sequence[str]) -> dict[str, list[str]]:
    if len(names) != len(symbols):
        raise InvalidArgument(
            f"--symbols: {len(names)} venues and {len(symbols)} lists of symbols; write one behind each --venue"
        )
    found = {name.upper(): _split(text) for name, text in zip(names, symbols, strict=True)}
    if len(found) != len(names):
        raise InvalidArgument("--venue: one is named twice; put its symbols into one list")
    return found


def _split(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(",")) if part]


def _toml(value: str | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False)  # strings and lists of them are written alike


def _next_commands(output: Path) -> dict[str, str]:
    found = configuration.find_file(None, {})
    where = (
        ""
        if found is not None and found.exists() and found.samefile(output)
        else f" --config {shlex.quote(str(output))}"
    )
    return dict(_commands(where))


def _commands(where: str) -> Iterator[tuple[str, str]]:
    yield f"marketd doctor{where}", "is this machine ready?"
    yield f"marketd run{where}", "start; Ctrl-C ends it cleanly"
    yield f"marketd status{where}", "how it stands, from another terminal"
