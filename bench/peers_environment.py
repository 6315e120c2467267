"""An environment with what marketd's storage is measured beside (PyArrow, DuckDB, ArcticDB), from the package index.

In a directory that is removed afterwards, unless `MARKETD_BENCH_PEERS` names one, in which it is kept from run to run.
marketd's own environment has nothing of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("pyarrow==26.0.1", "duckdb==2.0.1", "arcticdb==6.28.2", "numpy", "pandas")
INSTALL_SECONDS = 600.0


@contextmanager
def peers_python() -> Iterator[Path]:
    """The interpreter that has them."""
    kept = os.environ.get("MARKETD_BENCH_PEERS")
    home = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="marketd-peers-"))
    python = home / "bin" / "python"
    try:
        if not python.exists():
            _run(sys.executable, "-m", "venv", home)
            _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES)
        yield python
    finally:
        if not kept:
            shutil.rmtree(home, ignore_errors=True)


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command[:4]))} …: {done.stderr[-300:]}")
