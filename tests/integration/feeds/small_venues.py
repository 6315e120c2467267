"""Small exchanges of the tests' own on real sockets, that speak as OKX, Bybit and Bitstamp document it.

One instrument, one clock of steps: each step is a trade and a change of the book. Every state of the book is kept, so
that a test can tell what was right at a number. A test may cut connections and leave out messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

STEP_SECONDS = 0.01
Side = dict[str, str]


class SmallVenue:
    """`steps` counts; a trade's number is its step's."""

    venue: ClassVar[str]
    symbol: ClassVar[str]

    def __init__(self) -> None:
        self.steps = 0
        self.begun_ns = time.time_ns()
        self.sockets: dict[ServerConnection, set[str]] = {}  # and the streams of each
        self.paths: dict[ServerConnection, str] = {}
        self.pings = 0
        self.lose = 0  # messages of the book that will not be sent
        self.bids: Side = {"100.0": "1"}
        self.asks: Side = {"101.0": "1"}
        self.truth: dict[int, tuple[Side, Side]] = {}
        self.asked: defaultdict[str, int] = defaultdict(int)  # REST requests by their last path
        self._keep()

    # ---- what a venue of its own says -----------------------------------------------------------

    def number(self, step: int) -> int:
        """Of the book's state at a step."""
        raise NotImplementedError

    def trade(self, step: int) -> tuple[str, Any]:
        """The stream and the message of a step's trade."""
        raise NotImplementedError

    def change(self, bids: Side, asks: Side) -> tuple[str, Any]:
        raise NotImplementedError

    def on_command(self, command: dict[str, Any], streams: set[str]) -> list[Any]:
        """Change what is subscribed; the answers."""
        raise NotImplementedError

    def rest(self, path: str, query: dict[str, str]) -> Any:
        raise NotImplementedError

    # ---- the market -----------------------------------------------------------------------------

    def ms(self, step: int) -> int:
        return (self.begun_ns + int(step * STEP_SECONDS * 1e9)) // 10**6

    def _keep(self) -> None:
        self.truth[self.number(self.steps)] = dict(self.bids), dict(self.asks)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(STEP_SECONDS)
            self.steps += 1
            step = self.steps
            bids = {f"{100 - step % 7}.0": str(step % 5)}
            asks = {f"{101 + step % 5}.0": str(1 + step % 3)}
            for side, changes in ((self.bids, bids), (self.asks, asks)):
                side.update(changes)
                for price in [price for price, size in side.items() if size == "0"]:
                    del side[price]
            told = [self.trade(step), self.change(bids, asks)]
            self._keep()
            if self.lose:
                self.lose -= 1
                del told[1]
            for stream, message in told:
                await self._tell(stream, message)

    async def _tell(self, stream: str, message: Any) -> None:
        for socket, streams in list(self.sockets.items()):
            if stream in streams:
                with contextlib.suppress(ConnectionClosed):
                    await socket.send(json.dumps(message))

    # ---- sockets --------------------------------------------------------------------------------

    async def _serve(self, socket: ServerConnection) -> None:
        streams: set[str] = set()
        self.sockets[socket] = streams
        self.paths[socket] = socket.request.path if socket.request else ""
        try:
            async for text in socket:
                for answer in self._answers(text, streams):
                    await socket.send(answer if isinstance(answer, str) else json.dumps(answer))
        except ConnectionClosed:
            pass
        finally:
            del self.sockets[socket], self.paths[socket]

    def _answers(self, text: str | bytes, streams: set[str]) -> list[Any]:
        if text == "ping":
            self.pings += 1
            return ["pong"]
        return self.on_command(json.loads(text), streams)

    def _http(self, connection: ServerConnection, request: Request) -> Response | None:
        parts = urlsplit(request.path)
        if "Upgrade" in request.headers:
            return None
        self.asked[parts.path.rstrip("/").rpartition("/")[2]] += 1
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        body = json.dumps(self.rest(parts.path, query)).encode()
        headers = Headers([("Content-Length", str(len(body))), ("Connection", "close")])
        return Response(HTTPStatus.OK.value, "OK", headers, body)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Serving; yields host and port."""
        async with serve(
            self._serve, "127.0.0.1", 0, process_request=self._http, ping_interval=None, close_timeout=0.1
        ) as server:
            market = asyncio.create_task(self._run())
            try:
                yield f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            finally:
                market.cancel()
                await asyncio.gather(market, return_exceptions=True)

    async def cut(self, path: str = "") -> int:
        """Close the connections to a path; how many there were."""
        found = [socket for socket, at in self.paths.items() if path in at]
        for socket in found:
            socket.transport.abort()
        return len(found)


class SmallOkx(SmallVenue):
    venue, symbol = "OKX", "BTCUSDT"

    def number(self, step: int) -> int:
        return 1000 + 3 * step

    def trade(self, step: int) -> tuple[str, Any]:
        return "trades-all", {"arg": {"channel": "trades-all", "instId": "BTC-USDT"}, "data": [self._trade(step)]}

    def _trade(self, step: int) -> dict[str, str]:
        at = {"instId": "BTC-USDT", "tradeId": str(step), "ts": str(self.ms(step))}
        return {**at, "px": "100.5", "sz": "2", "side": "buy" if step % 2 else "sell"}

    def change(self, bids: Side, asks: Side) -> tuple[str, Any]:
        return "books", self._book("update", bids, asks, self.number(self.steps - 1))

    def _book(self, action: str, bids: Side, asks: Side, previous: int) -> Any:
        row: dict[str, Any] = {"bids": [[p, s, "0", "1"] for p, s in bids.items()], "checksum": 0}
        row |= {"asks": [[p, s, "0", "1"] for p, s in asks.items()], "ts": str(self.ms(self.steps))}
        row |= {"prevSeqId": previous, "seqId": self.number(self.steps)}
        return {"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": action, "data": [row]}

    def on_command(self, command: dict[str, Any], streams: set[str]) -> list[Any]:
        answers: list[Any] = []
        for arg in command["args"]:
            answers.append({"event": command["op"], "arg": arg, "connId": "a4d3ae55"})
            if command["op"] == "unsubscribe":
                streams.discard(arg["channel"])
                continue
            streams.add(arg["channel"])
            if arg["channel"] == "books":
                answers.append(self._book("snapshot", self.bids, self.asks, -1))
        return answers

    def rest(self, path: str, query: dict[str, str]) -> Any:
        rows: list[Any] = []
        if path.endswith("instruments"):
            at = {"instId": "BTC-USDT", "instType": "SPOT", "baseCcy": "BTC", "quoteCcy": "USDT"}
            rows = [{**at, "tickSz": "0.1", "lotSz": "0.001"}]
        elif path.endswith("time"):
            rows = [{"ts": str(self.ms(self.steps))}]
        elif path.endswith("history-trades"):
            last = min(self.steps, int(query.get("after", "1000000")) - 1)
            first = max(1, int(query.get("before", "0")) + 1, last - int(query["limit"]) + 1)
            rows = [self._trade(step) for step in range(last, first - 1, -1)]
        return {"code": "0", "msg": "", "data": rows}


class SmallBybit(SmallVenue):
    venue, symbol = "BYBIT_LINEAR", "BTCUSDT"

    def number(self, step: int) -> int:
        return 1000 + step

    def trade(self, step: int) -> tuple[str, Any]:
        row = {
            "T": self.ms(step),
            "s": "BTCUSDT",
            "S": "Buy",
            "v": "2",
            "p": "100.5",
            "i": self.uuid(step),
            "BT": False,
        }
        return "publicTrade.BTCUSDT", self._topic("publicTrade.BTCUSDT", "snapshot", [row])

    @staticmethod
    def uuid(step: int) -> str:
        return f"20f43950-d8dd-5b31-9112-{step:012d}"

    def _topic(self, topic: str, kind: str, data: Any) -> Any:
        return {"topic": topic, "type": kind, "ts": self.ms(self.steps), "data": data}

    def change(self, bids: Side, asks: Side) -> tuple[str, Any]:
        return "orderbook.1000.BTCUSDT", self._book("delta", bids, asks)

    def _book(self, kind: str, bids: Side, asks: Side) -> Any:
        data = {
            "s": "BTCUSDT",
            "b": list(bids.items()),
            "a": list(asks.items()),
            "u": self.number(self.steps),
            "seq": 1,
        }
        return self._topic("orderbook.1000.BTCUSDT", kind, data)

    def on_command(self, command: dict[str, Any], streams: set[str]) -> list[Any]:
        if command["op"] == "ping":
            self.pings += 1
            return [{"success": True, "ret_msg": "pong", "conn_id": "x", "op": "ping"}]
        answers: list[Any] = [{"success": True, "ret_msg": "", "conn_id": "x", "op": command["op"]}]
        if command["op"] == "unsubscribe":
            streams -= set(command["args"])
        else:
            streams |= set(command["args"])
            if "orderbook.1000.BTCUSDT" in command["args"]:
                answers.append(self._book("snapshot", self.bids, self.asks))
        return answers

    def rest(self, path: str, query: dict[str, str]) -> Any:
        rows: list[Any] = []
        if path.endswith("instruments-info"):
            at = {"symbol": "BTCUSDT", "contractType": "LinearPerpetual", "baseCoin": "BTC", "quoteCoin": "USDT"}
            rows = [{**at, "priceFilter": {"tickSize": "0.1"}, "lotSizeFilter": {"qtyStep": "0.001"}}]
        elif path.endswith("recent-trade"):
            for step in range(self.steps, max(0, self.steps - int(query["limit"])), -1):
                at = {"execId": self.uuid(step), "symbol": "BTCUSDT", "time": str(self.ms(step))}
                rows.append({**at, "price": "100.5", "size": "2", "side": "Buy"})
        return {"retCode": 0, "retMsg": "OK", "result": {"list": rows}, "time": self.ms(self.steps)}


class SmallBitstamp(SmallVenue):
    venue, symbol = "BITSTAMP", "BTCUSD"

    def number(self, step: int) -> int:
        return self.ms(step) * 1000

    def trade(self, step: int) -> tuple[str, Any]:
        data = {"id": 7 * step, "price_str": "100.5", "amount_str": "2", "type": step % 2}
        data |= {"microtimestamp": str(self.number(step))}
        return "live_trades_btcusd", {"event": "trade", "channel": "live_trades_btcusd", "data": data}

    def change(self, bids: Side, asks: Side) -> tuple[str, Any]:
        return "diff_order_book_btcusd", {
            "event": "data",
            "channel": "diff_order_book_btcusd",
            "data": self._book(bids, asks),
        }

    def _book(self, bids: Side, asks: Side) -> Any:
        return {"microtimestamp": str(self.number(self.steps)), "bids": list(bids.items()), "asks": list(asks.items())}

    def on_command(self, command: dict[str, Any], streams: set[str]) -> list[Any]:
        event = command["event"]
        if event == "bts:heartbeat":
            self.pings += 1
            return [{"event": event, "channel": "", "data": {"status": "success"}}]
        channel = command["data"]["channel"]
        (streams.add if event == "bts:subscribe" else streams.discard)(channel)
        return [{"event": f"{event.replace('scribe', 'scription')}_succeeded", "channel": channel, "data": {}}]

    def rest(self, path: str, query: dict[str, str]) -> Any:
        if "/markets" in path:
            return [{"name": "BTC/USD", "market_symbol": "btcusd", "base_decimals": 3, "counter_decimals": 1}]
        if "/order_book/" in path:
            return self._book(self.bids, self.asks)
        newest = range(self.steps, max(0, self.steps - 500), -1)
        rows = [{"date": str(self.ms(step) // 1000), "tid": str(7 * step), "type": str(step % 2)} for step in newest]
        return [{**row, "amount": "2", "price": "100.5"} for row in rows]
