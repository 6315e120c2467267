"""What the supervisor keeps of a child's output, and how it says that one ended."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from marketd.daemon.process import MAX_LINE_BYTES, TAIL_LINES, ActorProcess


async def ended(code: str) -> ActorProcess:
    process = ActorProcess.spawn("child", [sys.executable, "-c", code], os.environ)
    await process.wait()
    return process


async def test_its_last_lines_are_kept_and_all_of_them_are_passed_on(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    process = await ended("for i in range(100): print(i)\nprint('no newline', end='')")
    assert process.tail == [*map(str, range(100 - TAIL_LINES + 1, 100)), "no newline"]
    assert capfdbinary.readouterr().err.splitlines() == [*(str(i).encode() for i in range(100)), b"no newline"]


async def test_an_endless_line_is_cut_in_the_tail() -> None:
    process = await ended(f"print('x' * {MAX_LINE_BYTES * 20})")
    assert all(len(line) <= MAX_LINE_BYTES for line in process.tail)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(3)", "with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "by SIGKILL"),
        ("import os; os.kill(os.getpid(), 35)", "by signal 35"),
    ],
)
async def test_its_end_is_told_in_words(code: str, words: str) -> None:
    process = await ended(code)
    assert process.ending == words
    assert process.memory_bytes() is None
    process.signal(signal.SIGTERM)  # to one that is gone: nothing happens


async def test_a_grandchild_that_holds_the_pipe_delays_nobody_for_long() -> None:
    process = await ended("import subprocess; print(subprocess.Popen(['sleep', '3600']).pid)")
    os.kill(int(process.tail[0]), signal.SIGKILL)  # it lives on, and we did not wait for it
    assert process.exit_code == 0
