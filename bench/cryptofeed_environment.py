"""An environment with a release of cryptofeed, from the package index, in a directory that is removed afterwards.

marketd's own environment has nothing of it. `MARKETD_BENCH_CRYPTOFEED` names a directory in which environments are kept
from run to run, and taken from.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

INSTALL_SECONDS = 600.0  # older releases are compiled


class Environments:
    """Made when asked for, once each; `with` removes them."""

    def __init__(self) -> None:
        kept = os.environ.get("MARKETD_BENCH_CRYPTOFEED")
        self._is_kept = kept is not None
        self._home = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="marketd-cryptofeed-"))
        self._found: dict[str, Path | str] = {}

    def __enter__(self) -> Environments:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._is_kept:
            shutil.rmtree(self._home, ignore_errors=True)

    def python(self, release: str) -> Path | str:
        """The interpreter that has this release; what went wrong, in words, where there is none."""
        if release not in self._found:
            self._found[release] = self._made(release)
        return self._found[release]

    def _made(self, release: str) -> Path | str:
        place = self._home / release
        python = place / "bin" / "python"
        try:
            if not _has_cryptofeed(python):
                _run(sys.executable, "-m", "venv", "--clear", place)
                _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"cryptofeed=={release}")
        except (subprocess.SubprocessError, OSError) as error:
            said = getattr(error, "stderr", b"") or str(error).encode()
            return f"cryptofeed {release} cannot be installed: {said.decode(errors='replace').strip()[-200:]}"
        return python


def _has_cryptofeed(python: Path) -> bool:
    if not python.exists():
        return False
    return subprocess.run([python, "-c", "import cryptofeed"], check=False, capture_output=True).returncode == 0


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=INSTALL_SECONDS)
