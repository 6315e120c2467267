"""py-spy on the actors while a benchmark runs: where each process spends its time, as a table of functions.

Sampling costs a few per cent and stops the process for moments, so a profiled run gives no figures. Only what runs is
counted: a thread that waits is idle, and left out.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from options import Options
from report import RESULTS

SHOWN = 22
PER_SECOND = 250


@contextmanager
def profiled(options: Options, benchmark: str, pids: Mapping[str, int]) -> Iterator[None]:
    """With `--profile`: sample these processes meanwhile, write `results/<benchmark>.<process>.profile`."""
    if not options.profile:
        yield
        return
    py_spy = Path(sys.executable).parent / "py-spy"
    program = str(py_spy) if py_spy.exists() else shutil.which("py-spy")
    if program is None:
        raise SystemExit("--profile needs py-spy: pip install 'marketd[bench]'")
    RESULTS.mkdir(exist_ok=True)
    running = {name: _start(program, RESULTS / f"{benchmark}.{name}.raw", pid) for name, pid in pids.items()}
    try:
        yield
    finally:
        for name, process in running.items():
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
            raw = RESULTS / f"{benchmark}.{name}.raw"
            if raw.exists():
                (RESULTS / f"{benchmark}.{name}.profile").write_text(summary(raw.read_text()))
                raw.unlink()


def _start(program: str, output: Path, pid: int) -> subprocess.Popen[bytes]:
    command = [program, "record", "--format", "raw", "--rate", str(PER_SECOND), "--duration", "3600"]
    command += ["--threads", "--function", "--pid", str(pid), "--output", str(output)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def summary(collapsed: str) -> str:
    """Collapsed stacks (`a;b;c count`) as two tables: by the function itself, and with what it calls."""
    own, inclusive, total = Counter[str](), Counter[str](), 0
    for line in collapsed.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            inclusive[frame] += int(count)
    text = [f"{total} samples, {PER_SECOND} a second"]
    for title, counts in (("itself", own), ("with what it calls", inclusive)):
        text += ["", title]
        text += [
            f"  {count / total:6.1%}  {name}"
            for name, count in counts.most_common(SHOWN if title == "itself" else 2 * SHOWN)
        ]
    return "\n".join(text) + "\n"
