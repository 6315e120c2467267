"""The frame of the command line: every verb explains itself, and its exit codes mean something."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator

import pytest

from marketd.ops.cli import (
    EXIT_FAILED,
    EXIT_NOT_RUNNING,
    EXIT_NOT_WELL,
    EXIT_USAGE,
    VERBS,
    build_parser,
    main,
    verb_module,
)

MINE = ("init", "reload", "stop", "status", "query", "tail", "psql", "emulate")
MINE_WITH_ACTIONS = ("journal", "quarantine", "schema", "config", "doctor")
PRINTS_ITS_OWN = {"psql"}  # what it prints is psql's


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser, or those of its actions."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not actions:
        yield parser
    for action in actions:
        for child in action.choices.values():
            yield from parsers(child)


@pytest.mark.parametrize("verb", (*MINE, *MINE_WITH_ACTIONS))
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert (verb_module(verb).__doc__ or "").strip().splitlines()[0] in shown
    assert f"usage: marketd {verb}" in shown


@pytest.mark.parametrize("verb", sorted({*MINE, *MINE_WITH_ACTIONS} - PRINTS_ITS_OWN))
def test_every_verb_that_prints_can_print_json(verb: str) -> None:
    for parser in parsers(build_parser([verb])):
        if parser.prog != "marketd":
            assert "--json" in parser.format_help(), parser.prog


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("tail", "trade", "BTC/USDT", "--count", "-1"), "--count"),
        (("tail", "book", "BTC/USDT", "--depth", "0"), "--depth"),
        (("query", "trades", "BTC/USDT", "--limit", "-3"), "--limit"),
        (("coverage", "--width", "-5"), "--width"),
        (("backfill", "BTC/USDT", "--start", "1h", "--weight", "-5"), "--weight"),
        (("quarantine", "list", "--limit", "none"), "--limit"),
        (("top", "--every", "-1"), "--every"),
        (("top", "--every", "inf"), "--every"),
        (("status", "--watch", "0"), "--watch"),
        (("query", "health", "--timeout", "nan"), "--timeout"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_number_that_cannot_be_is_refused_by_its_option(
    arguments: tuple[str, ...], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == EXIT_USAGE
    assert f"argument {option}: '{arguments[-1]}' is no " in capsys.readouterr().err


@pytest.mark.parametrize("verb", (*MINE, *MINE_WITH_ACTIONS))
def test_every_option_says_what_it_is(verb: str) -> None:
    for parser in parsers(build_parser([verb])):
        unexplained = [a.dest for a in parser._actions if a.option_strings and not a.help]
        assert not unexplained, (parser.prog, unexplained)


def test_all_verbs_are_known() -> None:
    assert {*MINE, *MINE_WITH_ACTIONS} <= set(VERBS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["reload"],
        ["stop"],
        ["query", "trades", "BTC/USDT"],
        ["query", "health"],
        ["tail", "trade", "BTC/USDT"],
        ["config", "diff"],
    ],
)
def test_without_a_daemon_the_exit_code_is_3(
    arguments: list[str], tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path_factory.mktemp("r")
    code = main([*arguments, "--set", f"runtime_dir={nowhere}", "--set", f"state_dir={nowhere}"])
    assert code == EXIT_NOT_RUNNING
    assert "no " in capsys.readouterr().err


def test_a_flaw_in_the_configuration_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--set", "journal.budgget=8GiB"]) == EXIT_USAGE
    assert "journal.budget" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["stop"], ["schema", "status"], ["quarantine", "list"], ["emulate", "--synthetic"], ["doctor"]],
)
def test_a_client_without_the_daemons_packages_is_told_how_to_get_them(arguments: list[str]) -> None:
    hide = """
import sys
HIDDEN = ("asyncpg", "websockets", "prometheus_client", "uvloop", "rich", "pandas")
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hidden())
from marketd.ops.cli import main
sys.exit(main(sys.argv[1:]))
"""
    settings = [] if arguments[0] == "emulate" else ["--set", "database.url=postgresql://nobody@127.0.0.1:1/none"]
    command = [sys.executable, "-c", hide, *arguments, *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (EXIT_FAILED, EXIT_NOT_WELL)
    assert "pip install 'marketd[daemon]'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
