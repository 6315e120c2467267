"""Plan: the newest closed bar of many instruments in one request."""

from __future__ import annotations

from collections.abc import Sequence

from marketd.client.arguments import BarSource, check_source
from marketd.client.calls import Call, Plan, ask
from marketd.client.frames import Frame
from marketd.ipc.protocol import LatestAnswer, LatestBars, read_part
from marketd.market.errors import InvalidArgument, ProtocolError
from marketd.market.records import BY_NAME
from marketd.market.times import parse_timeframe

_CANDLE = BY_NAME["candle"]


def latest_ohlcv(
    symbols: Sequence[str] | None, timeframe: str | int, bar_source: BarSource = "best"
) -> Plan[dict[str, Frame]]:
    """Plan: by canonical name, a frame with the newest bar, of all instruments or of those named, which have one."""
    if isinstance(symbols, str):
        raise InvalidArgument("symbols: a list such as ['BTC/USDT'] is needed, or None for all", field="symbols")
    check_source(bar_source)
    seconds = parse_timeframe(timeframe)
    wanted = None if symbols is None else list(symbols)
    request = LatestBars(symbols=wanted, timeframe=seconds, bar_source=bar_source)
    answer, reply = yield from ask(Call("query", request), LatestAnswer)
    if len(answer.parts) != 1 or len(reply.payloads) != 1 or answer.parts[0].count != len(answer.instruments):
        raise ProtocolError("parts: a bar for each instrument was asked for and is not in the answer", field="parts")
    bars = read_part(_CANDLE, answer.parts[0].count, reply.payloads[0])
    answer.meta.latency_ns = reply.latency_ns
    return {
        instrument.name: Frame(_CANDLE, instrument, bars[i : i + 1], answer.meta, timeframe=seconds)
        for i, instrument in enumerate(answer.instruments)
    }
