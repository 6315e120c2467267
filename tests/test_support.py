"""The tests' own helpers: waiting, tools of the machine, and the count of what is left open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import REPOSITORY, eventually, eventually_async, requires

_INNER_TESTS = """
import os
from pathlib import Path
from support import requires

kept = []

def test_leaves_a_file_open():
    kept.append(os.open(os.devnull, os.O_RDONLY))

def test_closes_what_it_opens(runtime_dir):
    os.close(os.open(runtime_dir / "arena", os.O_CREAT | os.O_RDWR))

@requires("promtool")
def test_wants_promtool(): ...
"""


def test_eventually_returns_the_first_true_answer() -> None:
    answers = iter([0, None, "", 7, 8])
    assert eventually(lambda: next(answers)) == 7


def test_eventually_takes_a_failed_assert_for_not_yet() -> None:
    tries: list[int] = []

    def third_time() -> bool:
        tries.append(1)
        assert len(tries) == 3
        return True

    assert eventually(third_time)


def test_eventually_tells_the_budget_and_the_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"within 0.02 s; its last answer was \[\]"):
        eventually(list, timeout=0.02)


async def test_eventually_async_awaits_a_coroutine_function() -> None:
    answers = iter([0, 3])

    async def check() -> int:
        return next(answers)

    assert await eventually_async(check) == 3


async def test_eventually_async_gives_up_too() -> None:
    with pytest.raises(AssertionError, match="its last answer was 0"):
        await eventually_async(int, timeout=0.02)


def test_a_tool_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown tool promtol"):
        requires("promtol")


def inner_run(tmp_path: Path, **environment: str) -> str:
    """Run _INNER_TESTS with this conftest.py in a process of its own, on a PATH that holds no tools."""
    (tmp_path / "test_inner.py").write_text(_INNER_TESTS)
    options = ["-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "conftest"]
    command = [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", str(tmp_path)]
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(REPOSITORY / "tests"), **environment}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def test_a_leak_is_an_error_and_a_missing_tool_is_a_skip(tmp_path: Path) -> None:
    printed = inner_run(tmp_path)
    assert "left open: descriptors [(" in printed
    assert "promtool is missing on this machine" in printed
    assert "2 passed, 1 skipped, 1 error" in printed


def test_a_missing_tool_that_is_required_here_is_a_failure(tmp_path: Path) -> None:
    printed = inner_run(tmp_path, MARKETD_TESTS_REQUIRE="promtool,cc")
    assert "promtool is missing, and MARKETD_TESTS_REQUIRE says it must be here" in printed
    assert "skipped" not in printed


def test_a_misspelt_requirement_stops_the_run(tmp_path: Path) -> None:
    printed = inner_run(tmp_path, MARKETD_TESTS_REQUIRE="postgres")
    assert "MARKETD_TESTS_REQUIRE: unknown tool postgres:" in printed
