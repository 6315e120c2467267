"""The socket of a feed's line to ingest: order, a full queue, and answers that come while something is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import zmq

from marketd.daemon.link_socket import LinkSocket
from marketd.ipc.paths import socket_url
from support import eventually_async


@asynccontextmanager
async def linked(runtime: Path, heard: list[list[bytes]], high_water: int = 100) -> AsyncIterator[tuple[Any, Any]]:
    """A link and the ROUTER at its other end, which this test reads and writes by hand."""
    context: zmq.Context[Any] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.set(zmq.RCVHWM, 1)
    router.bind(socket_url(runtime, "ingest"))
    link = LinkSocket(context, heard.append, high_water)
    link.open(socket_url(runtime, "ingest"))
    try:
        yield link, router
    finally:
        link.close()
        router.close(0)
        context.term()


def received(router: Any) -> list[bytes]:
    assert router.poll(5000), "nothing came"
    frames: list[bytes] = router.recv_multipart()
    return frames


async def test_all_answers_are_heard_also_those_that_come_while_something_is_sent(runtime_dir: Path) -> None:
    heard: list[list[bytes]] = []
    async with linked(runtime_dir, heard) as (link, router):
        await link.send([b"hello", b"payload"])
        peer, *frames = received(router)
        assert frames == [b"hello", b"payload"]
        for number in range(20):
            router.send_multipart([peer, b"answer", b"%d" % number])
            assert link._socket.poll(5000)  # while the loop stands still, ZeroMQ's word that it is there is taken,
            await link.send([b"next"])  # and the send looks nevertheless
            received(router)
        await eventually_async(lambda: len(heard) == 20)
        assert heard == [[b"answer", b"%d" % number] for number in range(20)]


async def test_a_full_queue_is_waited_for_and_the_order_stays(runtime_dir: Path) -> None:
    async with linked(runtime_dir, [], high_water=2) as (link, router):
        count, size = 60, 100_000  # the kernel's buffers hold a few of them
        sending = [asyncio.create_task(link.send([b"%d" % n, bytes(size)])) for n in range(count)]
        tries: list[bool] = []
        await eventually_async(lambda: tries.append(link.try_send([b"not now"])) or not tries[-1])
        assert not sending[-1].done()
        found = []
        for _ in range(count + sum(tries)):
            await eventually_async(lambda: router.poll(0) != 0)
            found.append(received(router)[1])
        await asyncio.gather(*sending)
        assert [each for each in found if each != b"not now"] == [b"%d" % n for n in range(count)]
