"""The feed process of one venue: its records to ingest, its faults to the quarantine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from marketd.daemon import metrics
from marketd.daemon.actor import AsyncActor
from marketd.daemon.api_keys import api_key_of
from marketd.daemon.feeds.adapter import Rejected
from marketd.daemon.feeds.adapter import Venue as VenueRow
from marketd.daemon.feeds.capture_writer import CaptureWriter
from marketd.daemon.feeds.connection import Timing
from marketd.daemon.feeds.feed import Feed, FeedSettings
from marketd.daemon.feeds.feed_model import book_settings
from marketd.daemon.feeds.venues import venue_of
from marketd.daemon.ingest_link import IngestLink
from marketd.daemon.plan import which_of
from marketd.daemon.settings import Config, Venue
from marketd.ipc import paths
from marketd.ipc.protocol import Rejection, Resume
from marketd.market.errors import ConfigError
from marketd.market.instruments import Instrument, global_instrument
from marketd.market.records import Records


class IngestSink:
    """What `Feed` sees of ingest."""

    def __init__(self, link: IngestLink, daemon_no: int) -> None:
        self._link = link
        self._known: dict[str, Instrument] = {}
        self._nobody = global_instrument(daemon_no)

    async def declare(self, instruments: list[Instrument]) -> list[tuple[Instrument, Resume]]:
        declared = await self._link.declare(instruments)
        self._known |= {instrument.symbol: instrument for instrument, _ in declared}
        return declared

    async def recall(self, names: list[str]) -> list[tuple[Instrument, Resume]]:
        return await self._link.recall(names)

    async def send(self, instrument: Instrument, parts: list[tuple[str, Records]], observed: bool = True) -> None:
        await self._link.send(instrument, parts)

    async def reject(self, rejected: Rejected) -> None:
        """Into the quarantine, with the instrument's name if it can be told."""
        instrument = self._known.get(rejected.symbol or "", self._nobody)
        rejection = Rejection("message", rejected.rule, rejected.detail, rejected.payload)
        await self._link.send(instrument, [], [rejection])


class FeedActor(AsyncActor):
    async def start(self) -> None:
        config, name = self.config, which_of(self.name)
        settings = config.venues[name]
        venue = venue_of(name, settings.ws_url)
        self._link = IngestLink(
            self.context, paths.socket_url(config.runtime_path, "ingest"), source=f"feed:{name}", venue=name
        )
        self._link.open()
        capture = CaptureWriter(config.capture_path, name) if config.capture.raw else None
        sink = IngestSink(self._link, config.daemon_no)
        self._feed = Feed(
            venue,
            settings.symbols,
            sink,
            feed_settings(venue, settings, config)._replace(api_key=api_key_of(name, settings)),
            capture=capture,
            on_rejected=sink.reject,
        )
        metrics.publish("feed", self._feed.statistics)
        metrics.publish("feed_link", self._link.statistics)

    async def run(self) -> None:
        feed = asyncio.create_task(self._feed.run(), name=f"feed {self.name}")
        stop = asyncio.create_task(self.stopping.wait(), name="stop")
        await asyncio.wait({feed, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        await self._feed.stop()
        await feed

    async def drain(self) -> None:
        await self._link.flush()

    async def end(self) -> None:
        await self._link.close()

    async def reload(self, config: Config) -> None:
        refused = await self._feed.reload(config.venues[which_of(self.name)].symbols)
        if refused:
            reasons = "; ".join(f"{symbol}: {reason}" for symbol, reason in refused.items())
            raise ConfigError(f"venues.{which_of(self.name)}.symbols: {reasons}", field="venues")

    def statistics(self) -> Mapping[str, Any]:
        if not hasattr(self, "_feed"):
            return {}
        return {"feed": self._feed.statistics(), "link": self._link.statistics()}


def feed_settings(row: VenueRow, venue: Venue, config: Config) -> FeedSettings:
    """What the configuration says, within what the venue allows."""
    allowed = Timing.of(row.limits)
    return FeedSettings(
        trades=venue.trades,
        candles=venue.candles,
        book=venue.book,
        books=book_settings(config.book),
        series=tuple(config.series()),
        ws_url=venue.ws_url,
        rest_url=venue.rest_url,
        weight_per_minute=min(venue.request_weight, row.limits.weight_per_minute),
        timing=allowed._replace(
            dead_after_seconds=venue.dead_after.seconds,
            roll_after_seconds=min(venue.roll_after.seconds, allowed.roll_after_seconds),
            backoff_first_seconds=venue.reconnect_min.seconds,
            backoff_cap_seconds=venue.reconnect_max.seconds,
        ),
    )
