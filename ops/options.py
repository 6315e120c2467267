"""Options that verbs share, and what they mean."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from marketd.daemon import config as configuration
from marketd.daemon.settings import Config


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """`--config FILE` and `--set PATH=VALUE`."""
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration (default: MARKETD_CONFIG, or the usual places)"
    )
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="override one setting, such as journal.budget=8GiB",
    )


def load_config(args: argparse.Namespace) -> Config:
    """The configuration these options name. Raises ConfigError."""
    return configuration.load(args.config, overrides=args.set)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def count(text: str) -> int:
    """A number of things on the command line, at least 1; for argparse."""
    try:
        found = int(text)
    except ValueError:
        found = 0
    if found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, at least 1")
    return found


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, default=str)
    print()
