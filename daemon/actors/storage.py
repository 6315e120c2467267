"""The storage process: looks after the database in the background, beside the writer, which it never holds up.

Nothing waits for it and nothing depends on it: while it is away, old rows stay a little longer and new ones are not
packed yet. So it stops at once when asked, in the middle of whatever it does: its transactions are rolled back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from marketd.daemon import metrics
from marketd.daemon.actor import AsyncActor
from marketd.daemon.background import BackgroundWorks
from marketd.daemon.settings import Config
from marketd.daemon.storage_watch import last_look
from marketd.daemon.upkeep import upkeep
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.schema_runner import schema_gate

PATIENCE_SECONDS = 24 * 3600.0  # a database that is away at the start is waited for
MAX_CONNECTIONS = 4  # works that wait for each other's connection are late, no more


class StorageActor(AsyncActor):
    async def start(self) -> None:
        self._database = DatabaseConnectionManager(
            self.config.database.url,
            actor="storage",
            min_size=1,
            max_size=MAX_CONNECTIONS,
            statement_timeout_seconds=0,  # packing a day takes its time
            gate=schema_gate(),
        )
        self._works = BackgroundWorks(upkeep(self._database, self.config))
        metrics.publish("storage_database", self._database.statistics)
        self.become("warming")

    async def run(self) -> None:
        work = asyncio.create_task(self._work_on(), name="upkeep")
        stop = asyncio.create_task(self.stopping.wait(), name="stop")
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, stop):
                task.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)

    async def _work_on(self) -> None:
        await self._database.open(PATIENCE_SECONDS, patient=True)
        self.become("live")
        await self._works.run()

    async def reload(self, config: Config) -> None:
        self._works.change(config)

    async def end(self) -> None:
        await self._database.close()

    def statistics(self) -> Mapping[str, Any]:
        if not hasattr(self, "_works"):
            return {}
        works = metrics.plain(self._works.statistics())
        sizes = last_look(self.config.runtime_path)
        return {"database": self._database.statistics(), "works": works, "sizes": sizes}
