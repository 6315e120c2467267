"""What `marketd import capture` prints when it is done, and what it refuses before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from marketd.daemon.import_lane import ImportReport
from marketd.ops.cli import EXIT_FAILED, EXIT_USAGE, main
from marketd.ops.verbs import import_

NOTHING = ImportReport(
    lines=7, trades=2, candles=0, known=0, refused=0, ignored={}, rules={}, damage=[], forming=0, instruments=[],
    others={}, without_snapshot=[],
)  # fmt: skip


def test_books_that_never_began_are_told_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    import_._print(NOTHING._replace(without_snapshot=["BTCUSDT", "ETHUSDT"], ignored={"line: of another venue": 3}))
    printed = capsys.readouterr().out
    assert "no snapshot of the books of BTCUSDT, ETHUSDT was recorded" in printed
    assert "import both together" in printed
    assert "3 line: of another venue: not used" in printed
    import_._print(NOTHING)
    assert "snapshot" not in capsys.readouterr().out


def test_files_of_two_venues_are_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for name in ("linear", "spot"):
        files.append(tmp_path / name)
        files[-1].write_text(f"wss://stream.bybit.com/v5/public/{name} <-> 1749833471.8\n")
    config = ["--config", str(tmp_path / "none.toml")]
    assert main(["import", "capture", *map(str, files), *config]) == EXIT_FAILED
    assert "files that are read together are of one venue" in capsys.readouterr().err
    assert main(["import", "capture", *map(str, files), "--venue", "BYBIT", *config]) == EXIT_USAGE
    assert f"{files[0]} is a recording of BYBIT_LINEAR, not of BYBIT" in capsys.readouterr().err
