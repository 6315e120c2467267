"""The pace at which a recording is played: as it was recorded, ten times as fast, or as fast as can be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from marketd.daemon.feeds.emulator.source import Crowd
from marketd.market.errors import InvalidArgument
from marketd.market.times import NS_PER_SECOND

SPEEDS: dict[str, float | None] = {"1": 1.0, "10": 10.0, "max": None}

TURN = 64  # messages between two turns of the event loop at speed "max": REST and pings must be answered meanwhile
_SHORTEST_SECONDS = 0.001  # no wait is made for less


def speed_of(name: str) -> float | None:
    """Times the recorded pace; None: as fast as can be. InvalidArgument for another one."""
    if name not in SPEEDS:
        raise InvalidArgument(f"speed: {name!r} is none of {', '.join(SPEEDS)}", field="speed")
    return SPEEDS[name]


async def in_pace(recv_ns: Sequence[int], speed: float | None, crowd: Crowd) -> AsyncIterator[int]:
    """The place of each message, when its time has come: from the first client on, and without a pace only while there
    is one."""
    await crowd.someone()
    began = time.monotonic()
    for place, at_ns in enumerate(recv_ns):
        if speed is None:
            if not crowd.present:
                await crowd.someone()
            elif place % TURN == 0:
                await asyncio.sleep(0)
        else:
            wait = began + (at_ns - recv_ns[0]) / NS_PER_SECOND / speed - time.monotonic()
            if wait > _SHORTEST_SECONDS or place % TURN == 0:
                await asyncio.sleep(max(wait, 0.0))
        yield place
