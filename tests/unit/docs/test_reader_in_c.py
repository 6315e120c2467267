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


def test_a_reader_in_c_is_under_150_lines() -> None:
    """The program that reads cut, records and open bars of a ring; with the header, which has the names of all fields
    of the arena and the way to read them, it is 205."""
    program = code_lines("tests/integration/ipc/read_arena.c")
    assert 0 < program < MAX_LINES
    assert program + code_lines("ipc/marketd.h") <= 205
