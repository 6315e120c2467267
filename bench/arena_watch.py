"""Looks at arenas again and again, and notes when each record of some rings was first seen there."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.ipc import arena_words as word
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.paths import arena_path
from marketd.market.errors import NotRunning
from marketd.market.records import Records

LOOK_SECONDS = 0.0002  # between two looks at all arenas: what is measured is late by up to so much, and the look itself


class Seen(NamedTuple):
    """Records of one ring of one instrument, and when each was first seen (ns since 1970)."""

    records: Records
    seen_ns: npt.NDArray[np.int64]


class ArenaWatch:
    """`with` it: a thread looks until the end, then `seen` has the answer."""

    def __init__(self, runtime_dir: Path, names: Sequence[str], rings: Sequence[str]) -> None:
        self._paths = {name: arena_path(runtime_dir, name) for name in names}
        self._rings = rings
        self._readers: dict[str, ArenaReader] = {}
        self._found: dict[tuple[str, str], list[tuple[int, Records]]] = {}
        self._heads: dict[tuple[str, str], int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="arena watch")
        self.looks = 0

    def __enter__(self) -> ArenaWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        for reader in self._readers.values():
            reader.close()

    def seen(self, name: str, ring: str) -> Seen | None:
        """None: nothing came."""
        parts = self._found.get((name, ring))
        if not parts:
            return None
        times = [np.full(len(records), at, dtype=np.int64) for at, records in parts]
        return Seen(np.concatenate([records for _, records in parts]), np.concatenate(times))

    def _watch(self) -> None:
        published: dict[str, int] = {}
        opened_at = 0.0
        while not self._stop.is_set():
            if len(self._readers) < len(self._paths) and time.monotonic() - opened_at > 0.02:
                self._open()
                opened_at = time.monotonic()
            for name, reader in self._readers.items():
                number = reader.live_words[word.PUBLISHED]
                if number != published.get(name):
                    published[name] = number
                    self._look(name, reader, time.time_ns())
            self.looks += 1
            time.sleep(LOOK_SECONDS)

    def _open(self) -> None:
        for name, path in self._paths.items():
            if name not in self._readers and path.exists():
                try:
                    self._readers[name] = ArenaReader.open(path)
                except NotRunning:
                    continue

    def _look(self, name: str, reader: ArenaReader, now_ns: int) -> None:
        cut = reader.cut()
        for ring in self._rings:
            head, before = cut.word(reader.rings[ring].head), self._heads.get((name, ring), 0)
            if head > before:
                records, cut = reader.last(ring, head - before)
                self._heads[name, ring] = cut.word(reader.rings[ring].head)
                self._found.setdefault((name, ring), []).append((now_ns, records.copy()))
