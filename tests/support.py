"""What tests share: waiting without sleeping, tools of the machine, the recorded data.

Plain functions, imported as `from support import eventually, requires`; the hooks and fixtures that use
them are in conftest.py. The tools table is the one place that knows how a tool is found.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("market", "ipc", "sql", "daemon", "client", "ops")

_POLL_SECONDS = 0.01
PATIENCE_SECONDS = 30.0  # a machine that others use stops for seconds; only what never comes takes so long


def eventually(check: Callable[[], T], timeout: float = PATIENCE_SECONDS) -> T:
    """Call `check` until it returns something true, and return that.

    An AssertionError in `check` means "not yet", so it may be a lambda or a few asserts that end with
    `return True`. After `timeout` seconds AssertionError tells the last answer.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer, failure = _attempt(check)
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(_never(check, timeout, answer, failure)) from failure
        time.sleep(_POLL_SECONDS)


async def eventually_async(check: Callable[[], T | Awaitable[T]], timeout: float = PATIENCE_SECONDS) -> T:
    """`eventually` for a running event loop; `check` may be an ordinary function or a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        answer, failure = _attempt(check)
        if inspect.isawaitable(answer):
            try:
                answer = await answer
            except AssertionError as error:
                answer, failure = None, error
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(_never(check, timeout, answer, failure)) from failure
        await asyncio.sleep(_POLL_SECONDS)


def _attempt(check: Callable[[], T]) -> tuple[T | None, AssertionError | None]:
    try:
        return check(), None
    except AssertionError as error:
        return None, error


def _never(check: object, timeout: float, answer: object, failure: AssertionError | None) -> str:
    last = f"it last failed with: {failure}" if failure else f"its last answer was {answer!r}"
    return f"{check!r} did not come true within {timeout:g} s; {last}"


def requires(*tools: str) -> pytest.MarkDecorator:
    """Mark a test (or, as `pytestmark`, a module) that needs tools of the machine.

    Where one is missing the test is skipped; where MARKETD_TESTS_REQUIRE names it, the test fails instead.
    """
    check_tool_names(tools)
    return pytest.mark.requires(*tools)


def find_tool(name: str) -> Path | None:
    """Where a tool is (for PostgreSQL: the folder with initdb and postgres), or None."""
    return _TOOLS[name]()


def required_tools() -> frozenset[str]:
    """The tools that may not be missing here, from MARKETD_TESTS_REQUIRE (comma-separated)."""
    names = [name.strip() for name in os.environ.get("MARKETD_TESTS_REQUIRE", "").split(",")]
    required = [name for name in names if name]
    check_tool_names(required)
    return frozenset(required)


def check_tool_names(names: list[str] | tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in _TOOLS]
    if unknown:
        raise ValueError(f"unknown tool {', '.join(unknown)}: tests/support.py knows {', '.join(_TOOLS)}")


def demand(tool: str) -> Path:
    """The tool's path; without it the running test is skipped, or fails if the tool is required here."""
    found = find_tool(tool)
    if found is not None:
        return found
    if tool in required_tools():
        pytest.fail(f"{tool} is missing, and MARKETD_TESTS_REQUIRE says it must be here", pytrace=False)
    pytest.skip(f"{tool} is missing on this machine")


def _on_path(*programs: str) -> Callable[[], Path | None]:
    def find() -> Path | None:
        found = next(filter(None, map(shutil.which, programs)), None)
        return Path(found) if found else None

    return find


def _postgresql() -> Path | None:
    """The newest server: Debian keeps each major version in a folder of its own, off the PATH."""
    homes = [home for home in Path("/usr/lib/postgresql").glob("*/bin") if (home / "initdb").exists()]
    if homes:
        return max(homes, key=lambda home: int(re.sub(r"\D", "", home.parent.name) or 0))
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def _shared_data() -> Path | None:
    path = Path(os.environ.get("MARKETD_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    return path.resolve() if path.is_dir() else None


def _compiled_part() -> Path | None:
    """Built beside its sources, or wherever marketd is installed; set aside (MARKETD_PURE_PYTHON) it is missing."""
    from marketd.market import compiled

    return Path(str(compiled.part.__file__)) if compiled.part else None


_TOOLS: dict[str, Callable[[], Path | None]] = {
    "postgresql": _postgresql,
    "promtool": _on_path("promtool"),
    "redis": _on_path("redis-server"),
    "cc": _on_path("cc", "gcc", "clang"),
    "compiled": _compiled_part,
    "shared_data": _shared_data,
}
