"""A reader in C is small: what it compiles of ours is counted here, so that the promise stays one."""

from __future__ import annotations

import re

from support import REPOSITORY

MAX_LINES = 150
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def code_lines(path: str) -> int:
    """Lines that are neither blank nor comment."""
    text = COMMENT.sub("", (REPOSITORY / path).read_text())
    return sum(bool(line.strip()) for line in text.splitlines())


def test_a_whole_reader_in_c_is_under_150_lines() -> None:
    """The header, which has the way to read an arena, and a program that reads the bars of a ring with it."""
    assert 0 < code_lines("ipc/marketd.h") + code_lines("tests/integration/ipc/read_bars.c") < MAX_LINES
