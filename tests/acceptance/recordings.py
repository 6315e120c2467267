"""Recordings that the tests make themselves, of the synthetic market, so that the suite is whole without the shared
data.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from marketd.daemon.feeds.capture_writer import CaptureWriter
from marketd.daemon.feeds.emulator import SyntheticMarket

MIDNIGHT_MS = int(datetime(2025, 3, 2, tzinfo=UTC).timestamp() * 1000)
STREAMS = ("trade", "kline_1m")
_STEP_MS = 50


def record(
    directory: Path,
    *,
    begin_ms: int = MIDNIGHT_MS - 75_000,
    end_ms: int = MIDNIGHT_MS + 75_000,
    symbols: Sequence[str] = ("BTCUSDT", "ETHUSDT"),
    rate: float = 30.0,
    streams: Sequence[str] = STREAMS,
    seed: int = 7,
) -> list[Path]:
    """Trades and klines of a stretch that (by default) goes across midnight; the file that holds them."""
    market = SyntheticMarket(seed, symbols, rate, clock=lambda: end_ms * 1_000_000)
    writer = CaptureWriter(directory, "BINANCE")
    wanted = {f"{symbol.lower()}@{stream}" for symbol in symbols for stream in streams}
    for at in range(begin_ms, end_ms, _STEP_MS):
        frames = [message.frame for message in market.messages(at, at + _STEP_MS, wanted.__contains__)]
        if frames:
            writer.frames((at + _STEP_MS) * 1_000_000, frames)
    writer.close()
    return sorted(directory.glob("BINANCE-*.gz"))
