"""A feed's line to ingest: what is too long for a frame of the journal goes in pieces, in order; nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
import zmq.asyncio

from lane import BTC, trades
from marketd.daemon.ingest_link import MAX_BATCH_BYTES, IngestLink
from marketd.daemon.rules import MIN_SEGMENT_BYTES
from marketd.ipc import protocol
from marketd.ipc.journal_settings import Settings
from marketd.ipc.paths import socket_url
from marketd.market.records import BOOK_DELTA, Records

COUNTS = [1, MAX_BATCH_BYTES // BOOK_DELTA.itemsize, 20_000, 250_000]


def changes(count: int) -> Records:
    records = np.zeros(count, dtype=BOOK_DELTA)
    records["price"] = np.arange(count)
    return records


async def received(runtime: Path, parts: list[tuple[str, Records]]) -> list[tuple[protocol.Ingest, list[bytes]]]:
    """What ingest gets of one `send`; each batch is answered."""
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(socket_url(runtime, "ingest"))
    link = IngestLink(context, socket_url(runtime, "ingest"), source="feed:TEST")
    link.open()
    decoder, found = protocol.Decoder(protocol.ToIngest), []

    async def answer() -> None:
        while True:
            peer, header, *payloads = await router.recv_multipart()
            message = decoder.decode(header)
            if isinstance(message, protocol.Alive):
                continue
            found.append((message, payloads))
            accepted = sum(part.count for part in message.parts)
            outcome = protocol.Outcome(id=message.id, batch=message.batch, accepted=accepted)
            await router.send_multipart([peer, protocol.encode(outcome)])

    answering = asyncio.create_task(answer())
    try:
        await link.send(BTC, parts)
        await link.flush()
        assert link.statistics().accepted == sum(len(records) for _, records in parts)
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        await link.close()
        router.close(0)
        context.term()
    return found


@pytest.mark.parametrize("count", COUNTS)
async def test_a_long_part_arrives_whole_and_in_order_in_pieces_that_fit(runtime_dir: Path, count: int) -> None:
    found = await received(runtime_dir, [("book_delta", changes(count))])
    assert [message.batch for message, _ in found] == list(range(1, len(found) + 1))
    assert all(len(payload) <= MAX_BATCH_BYTES for _, payloads in found for payload in payloads)
    joined = b"".join(payload for _, payloads in found for payload in payloads)
    assert joined == changes(count).tobytes()
    assert (len(found) > 1) == (count * BOOK_DELTA.itemsize > MAX_BATCH_BYTES)


async def test_parts_stay_together_as_far_as_they_fit(runtime_dir: Path) -> None:
    rows = trades([(0, number, 1, 1) for number in range(1, 4)])
    parts: list[tuple[str, Any]] = [("trade", rows), ("book_delta", changes(3))]
    ((message, _),) = await received(runtime_dir, parts)
    assert [(part.kind, part.count) for part in message.parts] == [("trade", 3), ("book_delta", 3)]
    found = await received(runtime_dir, [*parts, ("book_delta", changes(20_000))])
    assert [part.kind for message, _ in found for part in message.parts][:2] == ["trade", "book_delta"]
    assert sum(len(payload) for _, payloads in found for payload in payloads) == rows.nbytes + 20_003 * 56


def test_a_piece_is_at_most_half_of_what_a_frame_of_the_smallest_journal_holds() -> None:
    smallest = Settings(MIN_SEGMENT_BYTES, MIN_SEGMENT_BYTES, 3 * MIN_SEGMENT_BYTES, "group", 1, 1.0)
    assert smallest.check().max_frame_bytes >= 2 * MAX_BATCH_BYTES
