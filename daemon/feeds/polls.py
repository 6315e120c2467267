"""What a venue tells only when it is asked: each question of each symbol, again and again at its own pace."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from marketd.daemon.feeds.adapter import RestRequest, VenueAdapter
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.market.errors import Timeout

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # how often it is looked for a question that is due
SPARE = 0.5  # of the venue's budget, which polls leave to all else
REQUEST_SECONDS = 5.0  # an answer that comes later is one that the next will bring

Take = Callable[[str, str, bytes], Awaitable[None]]  # symbol, target, answer
Fail = Callable[[str, str], Awaitable[None]]  # symbol, what was said


class Polls:
    """`run` until it is cancelled. An answer that does not come is counted, and asked for again at the usual time."""

    def __init__(
        self, adapter: VenueAdapter, rest: RestClient, symbols: Callable[[], list[str]], take: Take, fail: Fail
    ) -> None:
        self._adapter = adapter
        self._rest = rest
        self._symbols = symbols
        self._take = take
        self._fail = fail
        self._asked: dict[str, float] = {}  # target -> monotonic s
        self.failed = 0

    async def run(self) -> None:
        while True:
            for symbol in self._symbols():
                if symbol not in self._symbols():
                    continue  # removed while another was asked for
                for request, pause_seconds in self._adapter.polls(symbol):
                    asked = self._asked.get(request.target)
                    if asked is None or time.monotonic() - asked >= pause_seconds:
                        await self._ask(symbol, request)
            await asyncio.sleep(LOOK_SECONDS)

    async def _ask(self, symbol: str, request: RestRequest) -> None:
        self._asked[request.target] = time.monotonic()
        try:
            body = await self._rest.get(request, time.monotonic() + REQUEST_SECONDS, spare=SPARE)
        except (RestFailed, Timeout) as error:
            self.failed += 1
            _log.info("%s of %s: %s", request.target, symbol, error, extra={"action": "poll_failed"})
            await self._fail(symbol, str(error))
            return
        await self._take(symbol, request.target, body)
