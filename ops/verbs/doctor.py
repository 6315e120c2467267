"""Look at this machine, the configuration and the daemon, and say what is wrong and the way out.

Changes nothing, starts nothing, and may be run beside a running daemon.

Exit codes: 0 no check failed (warnings may be there), 4 some did.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from marketd.daemon import config as configuration
from marketd.daemon.settings import Config
from marketd.market.errors import ConfigError
from marketd.ops.checks import Finding, host_checks
from marketd.ops.cli import EXIT_NOT_WELL
from marketd.ops.daemon_checks import daemon_checks
from marketd.ops.options import add_config_options, add_json_option, load_config, print_json
from marketd.ops.tables import Page
from marketd.ops.words import plural

_STYLES = {"ok": "", "warn": "yellow", "fail": "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json_option(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    findings = list(look(args))
    failed = sum(finding.level == "fail" for finding in findings)
    if args.json:
        print_json({"ok": not failed, "findings": [finding._asdict() for finding in findings]})
    else:
        _page(findings).show()
    return EXIT_NOT_WELL if failed else 0


def look(args: argparse.Namespace) -> Iterator[Finding]:
    """All checks. With a configuration that cannot be used, the machine is judged by the defaults."""
    try:
        config = load_config(args)
    except ConfigError as error:
        yield Finding("config", "fail", "cannot be used", str(error))
        yield from host_checks(Config())
        return
    file = configuration.find_file(args.config)
    yield Finding("config", "ok", str(file) if file else "no file: defaults, environment and --set")
    if not config.active_venues:
        yield Finding("venues", "warn", "none: only producers of your own will send records", "marketd init --help")
    yield from host_checks(config)
    yield from daemon_checks(config)


def _page(findings: list[Finding]) -> Page:
    page = Page()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        page.line(f"{finding.level:<4}  {finding.name:<{width}}  {finding.text}", _STYLES[finding.level])
        if finding.way_out:
            page.line(f"{'':4}  {'':{width}}  → {finding.way_out}")
    failed, warned = (sum(finding.level == level for finding in findings) for level in ("fail", "warn"))
    page.line()
    page.line(f"{plural(failed, 'failure')}, {plural(warned, 'warning')}", "bold red" if failed else "bold")
    return page
