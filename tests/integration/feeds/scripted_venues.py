"""Coinbase and Kraken on this machine, as far as a feed needs them: books with changes, numbered trades, and REST.

A `ScriptedVenue` deals and changes its books when it is told to, and can lose messages on their way. What is true is
in `books` and `trades`; a protocol says how it is written.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit
from zlib import crc32

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from marketd.market.times import NS_PER_MS, isoformat_ns

START_NS = 1_700_000_000_000_000_000
PRICE, SIZE = 2, 8  # decimal places
LEVELS = 15


class Dealt(NamedTuple):
    number: int
    ts_ns: int
    price: int
    size: int
    is_buy: bool


class Dialect(Protocol):
    """How a venue writes."""

    name: str

    def subscriptions(self, command: dict[str, Any]) -> list[tuple[str, str, bool]]:
        """Channel ("book", "trade", …), pair, and whether it is subscribed (or given back)."""

    def replies(self, command: dict[str, Any], venue: ScriptedVenue) -> list[str]: ...

    def snapshot(self, pair: str, venue: ScriptedVenue) -> str: ...

    def update(self, pair: str, side: str, price: int, size: int, venue: ScriptedVenue) -> str: ...

    def trade(self, pair: str, dealt: Dealt, venue: ScriptedVenue) -> str: ...

    def rest(self, path: str, query: dict[str, str], venue: ScriptedVenue) -> Any: ...


class ScriptedVenue:
    def __init__(self, dialect: Dialect, pairs: list[str], seed: int = 7) -> None:
        self._dialect = dialect
        self._random = np.random.default_rng(seed)
        self.pairs = pairs
        self.now_ns = START_NS
        self.books: dict[str, dict[str, dict[int, int]]] = {pair: self._first_book() for pair in pairs}
        self.trades: dict[str, list[Dealt]] = {pair: [] for pair in pairs}
        self.number = -1  # of the connection's last message
        self.subscriptions = 0
        self.is_away = False  # nothing is taken, and REST neither
        self.refused: set[tuple[str, str]] = set()  # channel and pair that are not to be had
        self._subscribed: set[tuple[str, str]] = set()
        self._socket: ServerConnection | None = None
        self._server: Server | None = None

    def _first_book(self) -> dict[str, dict[int, int]]:
        sizes = self._random.integers(1, 10**9, 2 * LEVELS).tolist()
        return {
            "bid": {10_000 - i: sizes[i] for i in range(LEVELS)},
            "ask": {10_001 + i: sizes[LEVELS + i] for i in range(LEVELS)},
        }

    async def __aenter__(self) -> ScriptedVenue:
        self._server = await serve(self._serve, "127.0.0.1", 0, process_request=self._rest)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def cut(self) -> None:
        """The connection is gone, and with it its subscriptions."""
        socket, self._socket = self._socket, None
        self._subscribed.clear()
        if socket is not None:
            socket.transport.abort()
            await socket.wait_closed()

    async def go_away(self) -> None:
        self.is_away = True
        await self.cut()

    def is_subscribed(self, channel: str) -> bool:
        wanted = {(channel, pair) for pair in self.pairs} - self.refused
        return self._socket is not None and wanted <= self._subscribed

    # ---- what happens in the market -----------------------------------------------------------

    async def change(self, pair: str, *, lose: bool = False, best: bool = False) -> None:
        """One level changes; `lose`: the message never comes; `best`: it is the best bid."""
        side = "bid" if best or self._random.random() < 0.5 else "ask"
        levels = self.books[pair][side]
        price = max(levels) if best else int(self._random.choice(sorted(levels)))
        size = int(self._random.integers(1, 10**9))
        if not best and len(levels) > 2 and self._random.random() < 0.3:
            size = 0
        elif not best and self._random.random() < 0.3:
            price = min(levels) - 1 if side == "bid" else max(levels) + 1
        self.now_ns += NS_PER_MS
        levels[price] = size
        if not size:
            del levels[price]
        if ("book", pair) in self._subscribed:
            await self._send(self._dialect.update(pair, side, price, size, self), lose=lose)

    async def deal(self, pair: str, *, lose: bool = False) -> None:
        """One trade."""
        self.now_ns += NS_PER_MS
        number = len(self.trades[pair]) + 1
        size = int(self._random.integers(1, 10**9))
        dealt = Dealt(number, self.now_ns, 10_000, size, bool(self._random.random() < 0.5))
        self.trades[pair].append(dealt)
        if ("trade", pair) in self._subscribed:
            await self._send(self._dialect.trade(pair, dealt, self), lose=lose)

    # ---- sockets ------------------------------------------------------------------------------

    async def _serve(self, socket: ServerConnection) -> None:
        self._socket, self.number = socket, -1
        try:
            async for text in socket:
                await self._obey(json.loads(text))
        except ConnectionClosed:
            pass

    async def _obey(self, command: dict[str, Any]) -> None:
        for reply in self._dialect.replies(command, self):
            await self._send(reply)
        for channel, pair, is_wanted in self._dialect.subscriptions(command):
            if (channel, pair) in self.refused:
                continue
            self.subscriptions += is_wanted and channel == "book"
            if is_wanted and channel == "book":
                await self._send(self._dialect.snapshot(pair, self))
            (self._subscribed.add if is_wanted else self._subscribed.discard)((channel, pair))

    async def _send(self, text: str, *, lose: bool = False) -> None:
        if self._socket is not None and not lose:
            try:
                await self._socket.send(text)
            except ConnectionClosed:
                self._socket = None

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def _rest(self, _: ServerConnection, request: Request) -> Response | None:
        parts = urlsplit(request.path)
        if self.is_away:
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, "maintenance", Headers({"Content-Length": "0"}), b"")
        if "Upgrade" in request.headers:
            return None
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        body = json.dumps(self._dialect.rest(parts.path, query, self)).encode()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        return Response(HTTPStatus.OK, "OK", headers, body)


def decimal(value: int, places: int) -> str:
    return f"{value // 10**places}.{value % 10**places:0{places}}"


def rows(levels: dict[int, int], *, falling: bool) -> list[tuple[str, str]]:
    return [(decimal(price, PRICE), decimal(levels[price], SIZE)) for price in sorted(levels, reverse=falling)]


# ---- Coinbase -------------------------------------------------------------------------------------


CHANNELS = {"level2": "book", "market_trades": "trade"}


class Coinbase:
    name = "COINBASE"

    def subscriptions(self, command: dict[str, Any]) -> list[tuple[str, str, bool]]:
        channel = CHANNELS.get(command["channel"], command["channel"])
        return [(channel, pair, command["type"] == "subscribe") for pair in command.get("product_ids", ())]

    def replies(self, command: dict[str, Any], venue: ScriptedVenue) -> list[str]:
        channel, products = command["channel"], command.get("product_ids", [])
        refused = [pair for pair in products if (CHANNELS.get(channel, channel), pair) in venue.refused]
        errors = [json.dumps({"type": "error", "message": f"{pair} is not for sale"}) for pair in refused]
        taken = {channel: [pair for pair in products if pair not in refused]}
        return [*errors, self._frame("subscriptions", venue, {"subscriptions": taken})]

    def _frame(self, channel: str, venue: ScriptedVenue, event: dict[str, Any]) -> str:
        number, timestamp = venue.next_number(), _iso(venue.now_ns)
        return json.dumps({"channel": channel, "timestamp": timestamp, "sequence_num": number, "events": [event]})

    def snapshot(self, pair: str, venue: ScriptedVenue) -> str:
        book = venue.books[pair]
        updates = [("bid", *row) for row in rows(book["bid"], falling=True)]
        updates += [("offer", *row) for row in rows(book["ask"], falling=False)]
        return self._book("snapshot", pair, updates, venue)

    def update(self, pair: str, side: str, price: int, size: int, venue: ScriptedVenue) -> str:
        row = "bid" if side == "bid" else "offer", decimal(price, PRICE), decimal(size, SIZE)
        return self._book("update", pair, [row], venue)

    def _book(self, kind: str, pair: str, updates: list[tuple[str, str, str]], venue: ScriptedVenue) -> str:
        written = [
            {"side": side, "event_time": _iso(venue.now_ns), "price_level": price, "new_quantity": size}
            for side, price, size in updates
        ]
        return self._frame("l2_data", venue, {"type": kind, "product_id": pair, "updates": written})

    def trade(self, pair: str, dealt: Dealt, venue: ScriptedVenue) -> str:
        row = {**self._trade(dealt), "product_id": pair, "trade_id": str(dealt.number)}
        return self._frame("market_trades", venue, {"type": "update", "trades": [row]})

    def _trade(self, dealt: Dealt) -> dict[str, Any]:
        maker = "SELL" if dealt.is_buy else "BUY"
        price, size = decimal(dealt.price, PRICE), decimal(dealt.size, SIZE)
        return {"trade_id": dealt.number, "side": maker, "price": price, "size": size, "time": _iso(dealt.ts_ns)}

    def rest(self, path: str, query: dict[str, str], venue: ScriptedVenue) -> Any:
        if path == "/products":
            increments = {"quote_increment": "0.01", "base_increment": "0.00000001"}
            named = [(pair, *pair.split("-")) for pair in venue.pairs]
            return [{"id": p, "base_currency": b, "quote_currency": q, **increments} for p, b, q in named]
        trades = venue.trades[path.split("/")[2]]
        after, limit = int(query.get("after", 2**62)), int(query["limit"])
        found = [self._trade(dealt) for dealt in reversed(trades) if dealt.number < after][:limit]
        return [{**row, "side": row["side"].lower()} for row in found]


# ---- Kraken ---------------------------------------------------------------------------------------


class Kraken:
    name = "KRAKEN"

    def subscriptions(self, command: dict[str, Any]) -> list[tuple[str, str, bool]]:
        if command["method"] == "ping":
            return []
        params = command["params"]
        return [(params["channel"], pair, command["method"] == "subscribe") for pair in params["symbol"]]

    def replies(self, command: dict[str, Any], venue: ScriptedVenue) -> list[str]:
        if command["method"] == "ping":
            return ['{"method":"pong"}']
        params, head = command["params"], {"method": command["method"], "req_id": command["req_id"]}
        return [
            json.dumps({**head, "success": False, "error": f"{pair} is not for sale", "symbol": pair})
            if (params["channel"], pair) in venue.refused
            else json.dumps({**head, "success": True, "result": {**params, "symbol": pair}})
            for pair in params["symbol"]
        ]

    def snapshot(self, pair: str, venue: ScriptedVenue) -> str:
        book = venue.books[pair]
        return self._book("snapshot", pair, rows(book["bid"], falling=True), rows(book["ask"], falling=False), venue)

    def update(self, pair: str, side: str, price: int, size: int, venue: ScriptedVenue) -> str:
        row = [(decimal(price, PRICE), decimal(size, SIZE))]
        return self._book("update", pair, row if side == "bid" else [], row if side == "ask" else [], venue)

    def _book(
        self, kind: str, pair: str, bids: list[tuple[str, str]], asks: list[tuple[str, str]], venue: ScriptedVenue
    ) -> str:
        book = venue.books[pair]
        best = rows(book["ask"], falling=False)[:10] + rows(book["bid"], falling=True)[:10]
        check = crc32("".join(text.replace(".", "").lstrip("0") for row in best for text in row).encode())
        sides = ",".join(
            f'"{name}":[{",".join(f"""{{"price":{price},"qty":{size}}}""" for price, size in levels)}]'
            for name, levels in (("bids", bids), ("asks", asks))
        )
        data = f'{{"symbol":"{pair}",{sides},"checksum":{check},"timestamp":"{_iso(venue.now_ns)}"}}'
        return f'{{"channel":"book","type":"{kind}","data":[{data}]}}'

    def trade(self, pair: str, dealt: Dealt, venue: ScriptedVenue) -> str:
        side, price, size = "buy" if dealt.is_buy else "sell", decimal(dealt.price, PRICE), decimal(dealt.size, SIZE)
        data = (
            f'{{"symbol":"{pair}","side":"{side}","price":{price},"qty":{size},'
            f'"trade_id":{dealt.number},"timestamp":"{_iso(dealt.ts_ns)}"}}'
        )
        return f'{{"channel":"trade","type":"update","data":[{data}]}}'

    def rest(self, path: str, query: dict[str, str], venue: ScriptedVenue) -> Any:
        if path.endswith("/AssetPairs"):
            scales = {"pair_decimals": PRICE, "lot_decimals": SIZE, "tick_size": "0.01"}
            return {"error": [], "result": {pair: {"wsname": pair, **scales} for pair in venue.pairs}}
        name = query["pair"]
        trades = next(trades for pair, trades in venue.trades.items() if pair.replace("/", "") == name)
        count = int(query["count"])
        if "since" in query:
            found = [dealt for dealt in trades if dealt.ts_ns > int(query["since"])][:count]
        else:
            found = trades[-count:]
        written = [
            [
                decimal(dealt.price, PRICE),
                decimal(dealt.size, SIZE),
                dealt.ts_ns / 10**9,
                "b" if dealt.is_buy else "s",
                "l",
                "",
                dealt.number,
            ]
            for dealt in found
        ]
        return {"error": [], "result": {name: written, "last": "0"}}


def _iso(ts_ns: int) -> str:
    return isoformat_ns(ts_ns).replace("+00:00", "Z")
