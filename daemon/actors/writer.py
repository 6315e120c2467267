"""The writer's process: told by ingest what is durable, tells it what is committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import zmq
import zmq.asyncio

from marketd.daemon import metrics
from marketd.daemon.actor import AsyncActor
from marketd.daemon.settings import Config
from marketd.daemon.writer import Writer, show_trouble
from marketd.ipc import paths, protocol, sockets
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.protocol import Committed, Durable, Follow
from marketd.market.errors import MarketdError
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.schema_runner import schema_gate

_log = logging.getLogger(__name__)

LIVE = "live"
FOLLOW_AGAIN_SECONDS = 1.0  # ingest forgets its follower when it is restarted; asking again is cheap
CONNECT_SECONDS = 24 * 3600.0  # a database that is away at the start is waited for
LAST_WORD_MS = 100
LOOK_SECONDS = 0.1
WATCH_SECONDS = 1.0  # how often is looked whether the database keeps up
AWAY_SECONDS = 2.0  # a server that is only started again is waited for, when we end
BYTES_PER_ROW = 80  # of a trade's frame, for turning writer.batch_rows into a stretch of journal


class WriterActor(AsyncActor):
    async def start(self) -> None:
        config = self.config
        self._database = DatabaseConnectionManager(
            config.database.url,
            actor="writer",
            min_size=1,
            max_size=2,
            statement_timeout_seconds=0,  # a merge may take its time; what hangs is seen as lag
            gate=schema_gate(),
        )
        metrics.publish("writer_database", self._database.statistics)
        self._is_ready = False
        self.become("warming")
        if not await self._opened():
            return  # asked to stop before the database ever answered
        self._reader = JournalReader(config.state_path / "journal")
        self._writer = Writer(
            self._database,
            self._reader,
            config.kinds(),
            lane=LIVE,
            batch_bytes=config.writer.batch_rows * BYTES_PER_ROW,
            batch_age_seconds=config.writer.batch_age.seconds,
            committed=self._tell_committed,
        )
        metrics.publish("writer", self._writer.statistics)
        await self._writer.start()
        self._socket = self.context.socket(zmq.DEALER)
        sockets.configure(self._socket)
        self._socket.connect(paths.socket_url(config.runtime_path, "ingest"))
        self._decoder = protocol.Decoder(protocol.FromIngest)
        self._is_ready = True
        self.become("live")

    async def _opened(self) -> bool:
        opening = asyncio.create_task(
            self._database.open(CONNECT_SECONDS, patient=True, told=show_trouble), name="connect to the database"
        )
        stop = asyncio.create_task(self.stopping.wait(), name="stop")
        try:
            await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                opening.result()
            return opening.done()
        finally:
            opening.cancel()
            stop.cancel()
            await asyncio.gather(opening, stop, return_exceptions=True)

    async def run(self) -> None:
        if not self._is_ready:
            return
        tasks = [
            asyncio.create_task(self._writer.run(), name="commit"),
            asyncio.create_task(self._listen(), name="listen to ingest"),
            asyncio.create_task(self._follow(), name="follow ingest"),
            asyncio.create_task(self._watch(), name="watch the lag"),
        ]
        stop = asyncio.create_task(self.stopping.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({*tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            # a transaction under way is either committed or not: the database knows, and the next start asks it
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(*tasks, stop, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            self._say(Follow(committed=self._writer.offset))
            await asyncio.sleep(FOLLOW_AGAIN_SECONDS)

    async def _watch(self) -> None:
        while True:
            self._writer.tell_if_slow()
            await asyncio.sleep(WATCH_SECONDS)

    async def _listen(self) -> None:
        while True:
            self._hear(await self._socket.recv_multipart())

    def _hear(self, frames: list[bytes]) -> None:
        try:
            message, _ = sockets.unpack(frames, self._decoder)
        except MarketdError as error:
            _log.warning("ingest said what cannot be read: %s", error, extra={"action": "writer_unreadable"})
            return
        if isinstance(message, Durable) and message.journal == self._reader.uuid:
            self._writer.on_durable(message.offset)

    async def _tell_committed(self, offset: int) -> None:
        self._say(Committed(journal=self._reader.uuid, offset=offset))

    def _say(self, message: protocol.Message) -> None:
        # ingest that is away hears it with the next Follow
        sending: Any = self._socket.send(protocol.encode(message), zmq.NOBLOCK)
        sending.add_done_callback(_ignore_full_queue)

    async def drain(self) -> None:
        if not self._is_ready:
            return
        # ingest ended before us, and its last word may still lie in the socket
        while await self._socket.poll(LAST_WORD_MS):
            self._hear(await self._socket.recv_multipart())
        drained = asyncio.create_task(self._writer.drain(), name="commit the rest")
        away = asyncio.create_task(self._until_away(), name="look after the database")
        try:
            await asyncio.wait({drained, away}, return_when=asyncio.FIRST_COMPLETED)
            if drained.done():
                drained.result()
            else:
                _log.warning(
                    "PostgreSQL is away: %d bytes of the journal are left for the next start",
                    self._writer.statistics().lag_bytes,
                    extra={"action": "drain_left"},
                )
        finally:
            drained.cancel()
            away.cancel()
            await asyncio.gather(drained, away, return_exceptions=True)
        self._say(Committed(journal=self._reader.uuid, offset=self._writer.offset))

    async def _until_away(self) -> None:
        """Until the database has been away for so long: what is not committed is safe in the journal."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._database.statistics().state == "down" and not await self._database.wait_until_up(AWAY_SECONDS):
                return

    async def reload(self, config: Config) -> None:
        self._writer.set_batch(config.writer.batch_rows * BYTES_PER_ROW, config.writer.batch_age.seconds)

    async def end(self) -> None:
        await self._database.close()

    def statistics(self) -> Mapping[str, Any]:
        if not hasattr(self, "_database"):
            return {}
        if not hasattr(self, "_writer"):
            return {"database": self._database.statistics()}
        return {"writer": self._writer.statistics(), "database": self._database.statistics()}


def _ignore_full_queue(sending: asyncio.Future[Any]) -> None:
    if not sending.cancelled():
        sending.exception()
