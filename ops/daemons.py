"""Which daemon a verb speaks to: `--url`, else what `--config` says, else MARKETD_URL, else the usual configuration."""

from __future__ import annotations

import argparse
import os
import threading

from marketd.client.endpoints import URL_VARIABLE
from marketd.client.provider import DEFAULT_TIMEOUT_SECONDS, UnifiedDataProvider
from marketd.market.errors import InvalidArgument
from marketd.market.times import NS_PER_SECOND, parse_duration_ns
from marketd.ops.options import add_config_options, load_config


def add_daemon_options(parser: argparse.ArgumentParser) -> None:
    """`--url`, `--timeout`, and the options of a configuration."""
    parser.add_argument(
        "--url",
        help="the daemon: its runtime directory, or tcp://host:port (default: the configured one, or MARKETD_URL)",
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=seconds,
        default=DEFAULT_TIMEOUT_SECONDS,
        help=f"how long an answer may take, such as 500ms or 1min (default {DEFAULT_TIMEOUT_SECONDS:g}s)",
    )
    add_config_options(parser)


def daemon_url(args: argparse.Namespace) -> str:
    """The daemon these options name. Raises ConfigError."""
    if args.url:
        return str(args.url)
    named = os.environ.get(URL_VARIABLE)
    if named and not args.config and not args.set:
        return named
    return str(load_config(args).runtime_path)


def open_provider(args: argparse.Namespace) -> UnifiedDataProvider:
    """A provider of that daemon; to be used in a `with`."""
    return UnifiedDataProvider(daemon_url(args), timeout=args.timeout)


def seconds(text: str) -> float:
    """A duration on the command line, longer than nothing: `500ms`, `1min`, or a number of seconds."""
    try:
        found = float(text)
    except ValueError:
        try:
            found = parse_duration_ns(text) / NS_PER_SECOND
        except InvalidArgument as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("duration: ")) from None
    if not 0 < found < threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration that can be waited for")
    return found
