"""Pages: the same words in plain text and in colour."""

from __future__ import annotations

import io
import re
import sys

import pytest

from marketd.ops import screen, tables
from marketd.ops.tables import Page

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def example() -> Page:
    page = Page()
    page.line("two actors", "bold")
    page.pairs({"runtime": "/dev/shm/x", "http": "off"})
    page.table(("ACTOR", "RESTARTS", "SINCE"), [("ingest", 0, None), ("writer", 12, "now")])
    return page


def test_numbers_stand_to_the_right_and_words_to_the_left() -> None:
    assert example().text().splitlines() == [
        "two actors",
        "runtime  /dev/shm/x",
        "http     off",
        "ACTOR   RESTARTS  SINCE",
        "ingest         0",
        "writer        12  now",
    ]


def test_a_table_without_rows_is_its_head() -> None:
    page = Page()
    page.table(("A", "B"), [])
    assert page.text() == "A  B\n"


def test_colour_changes_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "120")
    shown = ANSI.sub("", example().text(rich=True))
    assert re.findall(r"\w+", shown) == re.findall(r"\w+", example().text())


def test_what_is_no_terminal_gets_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not tables.has_colour()


def test_a_terminal_without_rich_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None)
    assert not tables.has_colour()


def test_a_page_is_shown_again_as_often_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    screen.watch(example, 0.0, times=3)
    assert capsys.readouterr().out == f"{example().text()}\n" * 3


def test_ctrl_c_is_the_ordinary_end() -> None:
    calls = []

    def show() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    screen.repeat(show, 0.0)
    assert len(calls) == 2
