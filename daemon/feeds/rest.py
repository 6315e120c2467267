"""A small REST client for one venue: GET in a thread, within a deadline and the venue's weight budget.

`get` waits for budget and for the end of a ban (429 and 418 with Retry-After) as long as the deadline allows, and
asks once: whether a failed request is worth repeating is the caller's to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.client import HTTPException
from typing import NamedTuple
from urllib.parse import urlsplit

from marketd.daemon.feeds.adapter import RestRequest
from marketd.market.errors import InvalidArgument, MarketdError, Timeout

_log = logging.getLogger(__name__)

THREADS = 4  # requests at once; the weight budget is the narrower limit
MAX_BODY_BYTES = 64 << 20
REQUEST_SECONDS = 10.0  # at most, of one request, whatever the deadline
DEFAULT_BAN_SECONDS = 60.0  # when a 429 or 418 does not say how long
MAX_BAN_SECONDS = 86_400.0
USED_WEIGHT_HEADER = "x-mbx-used-weight-1m"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class RestFailed(MarketdError):
    """The venue's REST interface did not answer as it should."""

    def __init__(self, message: str, *, status: int = 0, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class RestStatistics(NamedTuple):
    requests: int
    failures: int
    bans: int
    received_bytes: int
    weight_left: float
    banned_seconds: float


class WeightBudget:
    """A token bucket that holds one minute's weight; the venue's own count corrects it downwards."""

    def __init__(self, per_minute: int, now: float) -> None:
        self._per_minute = per_minute
        self._left = float(per_minute)
        self._at = now

    def wait_seconds(self, weight: int, now: float, *, spare: float = 0.0) -> float:
        """How long until so much is there, and a share `spare` of the budget beyond it; 0.0 takes it."""
        self._refill(now)
        taken = min(weight, self._per_minute)
        wanted = min(weight + spare * self._per_minute, self._per_minute)
        if self._left >= wanted:
            self._left -= taken
            return 0.0
        return (wanted - self._left) * 60.0 / self._per_minute

    def left(self, now: float) -> float:
        self._refill(now)
        return self._left

    def used(self, weight: int) -> None:
        """The venue says that so much of this minute is used, by everyone on this address."""
        self._left = min(self._left, float(self._per_minute - weight))

    def _refill(self, now: float) -> None:
        elapsed, self._at = now - self._at, now
        self._left = min(float(self._per_minute), self._left + elapsed * self._per_minute / 60.0)


class RestClient:
    def __init__(
        self,
        base_url: str,
        *,
        weight_per_minute: int,
        headers: Mapping[str, str] | None = None,
        record: Callable[[str, bytes], None] | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgument(f"rest_url: {base_url!r} is no http or https address", field="rest_url")
        self._base = base_url.rstrip("/")
        self._headers = dict(headers or {})
        self._record = record  # called with url and body of each answer
        # a proxy of the environment is meant for the world outside, not for this machine
        handlers = [urllib.request.ProxyHandler({})] if parts.hostname in LOOPBACK else []
        self._opener = urllib.request.build_opener(*handlers)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="marketd-rest")
        self._budget = WeightBudget(weight_per_minute, time.monotonic())
        self._banned_until = 0.0
        self._requests = self._failures = self._bans = self._received = 0

    async def get_even_refused(self, request: RestRequest, deadline: float) -> bytes:
        """As `get`, but the venue's own refusal is a body too, which an adapter can read (not one for haste)."""
        try:
            return await self.get(request, deadline)
        except RestFailed as error:
            if not 400 <= error.status < 500 or error.status in (418, 429):
                raise
            return error.body

    async def get(self, request: RestRequest, deadline: float, *, spare: float = 0.0) -> bytes:
        """The body of the answer. Raises RestFailed, or Timeout when `deadline` (monotonic s) leaves no room.

        What can wait leaves a share of the venue's budget (`spare`) to what cannot.
        """
        await self._wait_for_room(request, deadline, spare)
        self._requests += 1
        seconds = min(REQUEST_SECONDS, max(0.05, deadline - time.monotonic()))
        url = self._base + request.target
        try:
            async with asyncio.timeout(seconds + 1.0):  # the socket's own timeout counts from each read
                body, headers = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._fetch, url, seconds
                )
        except urllib.error.HTTPError as error:
            raise self._refused(error, request) from None
        except (OSError, HTTPException, TimeoutError, ValueError) as error:
            self._failures += 1
            raise RestFailed(f"GET {url} failed: {type(error).__name__}: {error}") from error
        self._received += len(body)
        self._heed(headers)
        if self._record is not None:
            self._record(url, body)
        return body

    async def _wait_for_room(self, request: RestRequest, deadline: float, spare: float) -> None:
        while True:
            now = time.monotonic()
            wait = max(self._banned_until - now, 0.0) or self._budget.wait_seconds(request.weight, now, spare=spare)
            if not wait:
                return
            if now + wait > deadline:
                raise Timeout(
                    f"GET {request.target}: the venue's budget has room only in {wait:.1f} s, after the deadline"
                )
            await asyncio.sleep(wait)

    def _fetch(self, url: str, seconds: float) -> tuple[bytes, Message]:
        request = urllib.request.Request(url, headers=self._headers)
        with self._opener.open(request, timeout=seconds) as response:
            body: bytes = response.read(MAX_BODY_BYTES + 1)
            if len(body) > MAX_BODY_BYTES:
                raise ValueError(f"the answer is longer than {MAX_BODY_BYTES} bytes")
            return body, response.headers

    def _refused(self, error: urllib.error.HTTPError, request: RestRequest) -> RestFailed:
        self._failures += 1
        with error:
            try:
                body = error.read(65_536)
            except (OSError, HTTPException):
                body = b""
        self._heed(error.headers)
        if error.code in (418, 429):
            seconds = _seconds(error.headers.get("Retry-After"))
            self._bans += 1
            self._banned_until = time.monotonic() + seconds
            _log.warning(
                "the venue answered %d: no request for %.0f s",
                error.code,
                seconds,
                extra={"action": "rest_banned", "status": error.code, "seconds": seconds},
            )
        said = body[:300].decode("utf-8", "replace")
        return RestFailed(
            f"GET {self._base}{request.target}: status {error.code}: {said}", status=error.code, body=body
        )

    def _heed(self, headers: Message) -> None:
        used = headers.get(USED_WEIGHT_HEADER, "")
        if used.isascii() and used.isdigit():
            self._budget.used(int(used))

    def statistics(self) -> RestStatistics:
        now = time.monotonic()
        return RestStatistics(
            requests=self._requests,
            failures=self._failures,
            bans=self._bans,
            received_bytes=self._received,
            weight_left=self._budget.left(now),
            banned_seconds=max(0.0, self._banned_until - now),
        )

    def close(self) -> None:
        """Let no further request begin; one that runs ends by itself within its timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _seconds(retry_after: str | None) -> float:
    try:
        # a day is longer than any venue bans; NaN fails both comparisons and becomes the least
        return min(max(1.0, float(retry_after or "")), MAX_BAN_SECONDS)
    except ValueError:
        return DEFAULT_BAN_SECONDS
