"""marketd: the market-data memory of a trading host.

    from marketd import UnifiedDataProvider
    md = UnifiedDataProvider()                              # the local daemon; MARKETD_URL or an argument picks another
    bars = md.get_latest_ohlcv("BTC/USDT", "1m", limit=300)  # from shared memory
    old = md.query_trades("BTC/USDT", "2024-08-08T23:54:00+00:00", "2024-08-09T00:00:00+00:00")

The names below are the public API; each is imported when it is first used, so that `import marketd` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AsyncDataIngestionPipeline": "client.pipeline",
    "AsyncUnifiedDataProvider": "client.async_provider",
    "BucketFrame": "client.books",
    "DataCacheManager": "client.cache",
    "DataIngestionPipeline": "client.pipeline",
    "Frame": "client.frames",
    "IngestResult": "client.offers",
    "Instrument": "market.instruments",
    "Meta": "ipc.protocol",
    "OrderBookDataFrame": "client.books",
    "Refusal": "ipc.protocol",
    "Require": "client.require",
    "Unconfirmed": "client.delivery",
    "UnifiedDataProvider": "client.provider",
    **dict.fromkeys(
        (
            "AmbiguousSymbol",
            "AnswerTooLarge",
            "BeyondCache",
            "Busy",
            "ConfigError",
            "InvalidArgument",
            "JournalFull",
            "MarketdError",
            "NotRunning",
            "NotStored",
            "NotYetStored",
            "RequirementNotMet",
            "Timeout",
            "UnknownInstrument",
            "UnknownStream",
            "Warming",
        ),
        "market.errors",
    ),
}

__all__ = [  # noqa: RUF022 - by what they are for
    "UnifiedDataProvider",
    "AsyncUnifiedDataProvider",
    "DataCacheManager",
    "DataIngestionPipeline",
    "AsyncDataIngestionPipeline",
    "Frame",
    "OrderBookDataFrame",
    "BucketFrame",
    "IngestResult",
    "Instrument",
    "Meta",
    "Require",
    "Refusal",
    "MarketdError",
    "AmbiguousSymbol",
    "AnswerTooLarge",
    "BeyondCache",
    "Busy",
    "ConfigError",
    "InvalidArgument",
    "JournalFull",
    "NotRunning",
    "NotStored",
    "NotYetStored",
    "RequirementNotMet",
    "Timeout",
    "Unconfirmed",
    "UnknownInstrument",
    "UnknownStream",
    "Warming",
    "__version__",
]

if TYPE_CHECKING:
    from marketd.client.async_provider import AsyncUnifiedDataProvider
    from marketd.client.books import BucketFrame, OrderBookDataFrame
    from marketd.client.cache import DataCacheManager
    from marketd.client.delivery import Unconfirmed
    from marketd.client.frames import Frame
    from marketd.client.offers import IngestResult
    from marketd.client.pipeline import AsyncDataIngestionPipeline, DataIngestionPipeline
    from marketd.client.provider import UnifiedDataProvider
    from marketd.client.require import Require
    from marketd.ipc.protocol import Meta, Refusal
    from marketd.market.errors import (
        AmbiguousSymbol,
        AnswerTooLarge,
        BeyondCache,
        Busy,
        ConfigError,
        InvalidArgument,
        JournalFull,
        MarketdError,
        NotRunning,
        NotStored,
        NotYetStored,
        RequirementNotMet,
        Timeout,
        UnknownInstrument,
        UnknownStream,
        Warming,
    )
    from marketd.market.instruments import Instrument


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
