"""The query process: requests in, answers out; busy rather than late."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import asyncpg
import zmq
import zmq.asyncio

from marketd.daemon import metrics
from marketd.daemon.actor import AsyncActor
from marketd.daemon.departures import Departures, connection_of
from marketd.daemon.health_report import health_report
from marketd.daemon.plan import which_of
from marketd.daemon.query import QueryService, seconds_for
from marketd.daemon.settings import Config
from marketd.ipc import paths, protocol, sockets
from marketd.ipc.sockets import Received
from marketd.market.errors import Busy, MarketdError, Timeout
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.errors import DatabaseError
from marketd.sql.replica import ReadReplica
from marketd.sql.schema_runner import schema_gate

_log = logging.getLogger(__name__)

_LATENCY = metrics.histogram("query_seconds", "Time from a request's arrival to its answer", ["request"])
_FAILURES = metrics.counter("query_failures_total", "Requests that got an error", ["code"])


LOOK_SECONDS = 0.1  # how long somebody who left is worked for
LOCK_SECONDS = 10.0
# A standby's replay waits for a drop's lock as long as an older answer there has it (max_standby_streaming_delay), and
# new ones wait behind it. The primary had it for a moment, and answers in the standby's place.
REPLICA_LOCK_SECONDS = 0.5
PATIENCE_SECONDS = 24 * 3600.0  # a database that is away at the start is waited for
# At a time: a day of bars takes 20 MB while it is unpacked, and each thread keeps a heap of what it needed at most.
UNPACKERS = 2


class QueryStatistics(NamedTuple):
    requests: int
    failures: int
    in_flight: int
    abandoned: int  # requests whose caller left before the answer


def socket_name(actor: str) -> str:
    """The first query process has the socket that every client knows, the others one of their own name."""
    return "query" if which_of(actor) in ("", "1") else actor


class QueryActor(AsyncActor):
    async def start(self) -> None:
        config = self.config
        threads = ThreadPoolExecutor(UNPACKERS, thread_name_prefix="marketd-unpack")
        asyncio.get_running_loop().set_default_executor(threads)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._requests = self._failures = self._abandoned = 0
        self._max_queue = config.query.max_queue
        self._database = self._connections(config.database.url_for_reading, self.name)
        self._replica = self._replica_of(config)
        self._service = QueryService(self._database, config, config.kinds(), config.runtime_path, self._replica)
        self._socket = self.context.socket(zmq.ROUTER)
        sockets.configure(self._socket)
        self._departures = Departures(self._socket)
        sockets.bind(self._socket, paths.socket_url(config.runtime_path, socket_name(self.name)))
        self._decoder = protocol.Decoder(protocol.ToQuery)
        metrics.publish("query_database", self._database.statistics)
        metrics.publish("query", self._statistics)
        if self._replica is not None:
            metrics.publish("query_replica", self._replica.statistics)
        # whoever asks before the database answers is told so once it was tried, rather than left waiting
        self.become("warming")

    def _replica_of(self, config: Config) -> ReadReplica | None:
        database = config.database
        if not database.replica_url:
            return None
        replica = self._connections(database.replica_url, f"{self.name}-replica", REPLICA_LOCK_SECONDS)
        return ReadReplica(self._database, replica, database.replica_max_lag.seconds)

    def _connections(self, url: str, actor: str, lock_seconds: float = LOCK_SECONDS) -> DatabaseConnectionManager:
        database = self.config.database
        return DatabaseConnectionManager(
            url,
            actor=actor,
            min_size=database.pool_min,
            max_size=database.pool_max,
            statement_timeout_seconds=database.statement_timeout.seconds,
            lock_timeout_seconds=lock_seconds,
            read_only=True,
            gate=schema_gate(),
        )

    async def run(self) -> None:
        serve = asyncio.create_task(self._serve(), name="serve requests")
        tasks = [
            serve,
            asyncio.create_task(self._connect(), name="connect to the database"),
            asyncio.create_task(self._watch_departures(), name="watch who leaves"),
        ]
        if self._replica is not None:
            tasks.append(asyncio.create_task(self._replica.run(PATIENCE_SECONDS), name="look after the replica"))
        stop = asyncio.create_task(self.stopping.wait(), name="stop")
        pending: set[asyncio.Task[Any]] = {*tasks, stop}
        try:
            while serve in pending and stop in pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(*tasks, stop, return_exceptions=True)

    async def _connect(self) -> None:
        await self._database.open(PATIENCE_SECONDS, patient=True)
        self.become("live")

    async def _watch_departures(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._drop_departed()

    def _drop_departed(self) -> None:
        """What nobody waits for any more is not worth the database's time: its statement is cancelled with the task."""
        for task in self._departures.departed():
            self._abandoned += task.cancel()

    async def _serve(self) -> None:
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            self._drop_departed()  # before its connection's number is noted, which may be that of one that has left
            received = sockets.read_routed([frame.bytes for frame in frames], self._decoder)
            self._requests += 1
            if received.error is None and len(self._in_flight) >= self._max_queue:
                received = received._replace(error=Busy())
            if received.error is not None:
                self._refuse(received, received.error)
                continue
            task = asyncio.create_task(self._answer(received), name=f"answer {type(received.message).__name__}")
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
            self._departures.note(connection_of(frames), task)

    async def _answer(self, received: Received) -> None:
        request = received.message
        started = time.monotonic()
        work = asyncio.create_task(self._work_on(received), name=f"work on {type(request).__name__}")
        try:
            await asyncio.wait({work}, timeout=seconds_for(request))
            if not work.done():
                raise TimeoutError
            work.result()
        except MarketdError as error:
            self._refuse(received, error)
        except TimeoutError:
            told = f"PostgreSQL did not answer within the request's {request.timeout_ms} ms; see `marketd status`, or"
            self._refuse(received, Timeout(f"{told} allow a longer timeout"))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            self._refuse(received, DatabaseError(f"PostgreSQL could not answer: {error}"))
        except Exception as error:  # the border of one request: it must not end the actor
            _log.exception("a request failed in a way nobody thought of", extra={"action": "query_bug"})
            self._refuse(received, MarketdError(f"the request failed: {type(error).__name__}: {error}"))
        else:
            _LATENCY.labels(type(request).__name__.lower()).observe(time.monotonic() - started)
        finally:
            if not work.done():  # refused already: a server that stands still lets no statement end
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def _work_on(self, received: Received) -> None:
        """The answer leaves as soon as it is made: whatever else the loop has to do, the end of the transaction too,
        comes behind it."""
        message, frames = await self._reply(received.message)
        await self._deliver(sockets.pack(message, frames, route=received.route))

    async def _reply(self, request: Any) -> tuple[protocol.Message, list[Any]]:
        if isinstance(request, protocol.Health):
            return health_report(request.id, self.config.runtime_path, self._database.statistics()), []
        return await self._service.answer(request)

    def _refuse(self, received: Received, error: MarketdError) -> None:
        self._failures += 1
        _FAILURES.labels(error.code).inc()
        frames = sockets.pack(sockets.failure(error, received.id), route=received.route)
        self._spawn(self._deliver(frames), name="refuse")

    async def _deliver(self, frames: list[Any]) -> None:
        try:
            await self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            # the caller is gone, or does not read what it asked for
            _log.debug("an answer found no taker: %s", error, extra={"action": "answer_unsent"})

    async def drain(self) -> None:
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    async def end(self) -> None:
        self._departures.close()
        self._socket.close()
        self._service.close()
        await self._database.close()
        if self._replica is not None:
            await self._replica.database.close()

    async def reload(self, config: Config) -> None:
        self._max_queue = config.query.max_queue
        self._service.reload(config)

    def _statistics(self) -> QueryStatistics:
        return QueryStatistics(self._requests, self._failures, len(self._in_flight), self._abandoned)

    def statistics(self) -> Mapping[str, Any]:
        if not hasattr(self, "_service"):
            return {}
        found = {"query": self._statistics(), "database": self._database.statistics()}
        return found if self._replica is None else {**found, "replica": self._replica.statistics()}
