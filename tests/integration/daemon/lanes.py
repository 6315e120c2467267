"""An import over a real database, for tests of its lane."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from marketd.daemon.feeds.capture_writer import CaptureWriter
from marketd.daemon.import_ids import OwnIds
from marketd.daemon.import_lane import CaptureImport, ImportReport
from marketd.daemon.quantities import Bytes
from marketd.daemon.registry import REGISTRY_NAME, Registry
from marketd.daemon.settings import Config, Journal
from marketd.sql.connections import DatabaseConnectionManager

SEGMENT_BYTES = 1 << 20  # the smallest that a configuration may name
Frame = tuple[int, bytes]  # when it was received (ns), and what


class Lane:
    def __init__(self, directory: Path, database: DatabaseConnectionManager) -> None:
        self.directory, self.database = directory, database
        self.config = Config(
            instance="test",
            state_dir=str(directory / "state"),
            timeframes=("1s", "1m"),
            journal=Journal(segment=Bytes(SEGMENT_BYTES), budget=Bytes(64 * SEGMENT_BYTES)),
        )
        self.config.state_path.mkdir(parents=True, exist_ok=True)
        self._files = 0
        self.venue = "BINANCE"

    async def run(self, frames: Iterable[Frame], **options: Any) -> ImportReport:
        self._files += 1
        captures = self.directory / f"capture{self._files}"
        writer = CaptureWriter(captures, self.venue)
        for received_ns, payload in frames:
            writer.frames(received_ns, [payload])
        writer.close()
        return await self.run_files(*sorted(captures.glob("*.gz")), **options)

    async def run_files(self, *files: Path, **options: Any) -> ImportReport:
        registry = Registry(self.config.state_path / REGISTRY_NAME, self.config.daemon_no)
        try:
            lane = CaptureImport(self.config, self.database, OwnIds(registry), venue=self.venue, **options)
            return await lane.run(files)
        finally:
            registry.close()

    async def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        async with self.database.acquire() as conn:
            return [tuple(row) for row in await conn.fetch(statement)]
