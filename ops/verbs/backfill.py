"""Fetch trades and candles of a past stretch from the venue, over REST and within its limits.

    marketd backfill BTC/USDT --start 2024-08-08 --end 2024-08-09
    marketd backfill BTC/USDT ETH/USDT --start 7d --candles 1m,1h --no-trades
    marketd backfill SOL/USDT.BINANCE --start 1d         a symbol that is not fed, too

Only what is missing is fetched: trades where the ledger says neither observed nor fetched (see `marketd coverage`), and
candles that are not stored. So an interrupted backfill is simply run again, and goes on where it stopped. Records
become known now, bars are computed anew, and the ledger says BACKFILLED. The daemon must run.

Exit code 4 when the venue does not give a part of it any more.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import zmq.asyncio

from marketd.client.async_provider import AsyncUnifiedDataProvider
from marketd.daemon.api_keys import api_key_of
from marketd.daemon.feeds.adapter import Rejected, UnknownSymbol, VenueAdapter
from marketd.daemon.feeds.backfill import Backfill, Fetched, Progress, Stretch
from marketd.daemon.feeds.rest import RestClient
from marketd.daemon.feeds.symbol_state import Part
from marketd.daemon.feeds.venues import venue_of
from marketd.daemon.ingest_link import IngestLink
from marketd.daemon.settings import Config, Venue
from marketd.ipc import paths
from marketd.ipc.protocol import Rejection
from marketd.market.errors import InvalidArgument, MarketdError, UnknownInstrument
from marketd.market.instruments import GLOBAL_NAME, Instrument
from marketd.market.records import BY_NAME
from marketd.market.timeline import timeline
from marketd.market.times import NS_PER_MS, NS_PER_SECOND, parse_timeframe, timeframe_name
from marketd.ops import words
from marketd.ops.cli import EXIT_NOT_WELL
from marketd.ops.moments import add_span_options
from marketd.ops.options import add_config_options, add_json_option, count, load_config, print_json
from marketd.ops.tables import Page

PROGRESS_SECONDS = 1.0
REQUEST_SECONDS = 60.0
LOOK_SECONDS = 0.2
SETTLE_NS = 3 * NS_PER_SECOND  # younger trades may not be in the venue's REST answers yet


class Report(NamedTuple):
    """What came of one symbol."""

    instrument: str
    trades: int
    candles: int
    rejected: int
    unreachable: list[tuple[str, int, int]]  # (what, from, to) that the venue does not give


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("symbols", nargs="+", metavar="SYMBOL", help="such as BTC/USDT or BTCUSDT.BINANCE")
    parser.add_argument("--no-trades", dest="trades", action="store_false", help="only candles")
    parser.add_argument(
        "--candles", metavar="1m,1h", help="the venue's bars (default: those of its configuration; none: '')"
    )
    parser.add_argument(
        "--weight", type=count, metavar="N", help="weight of requests a minute (default: half of the feed's)"
    )
    add_span_options(parser)
    add_json_option(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    if args.start is None:
        raise InvalidArgument("--start: from when on?", field="start")
    now = time.time_ns()
    stretch = Stretch(args.start, min(now if args.end is None else args.end, now))
    if stretch.start >= stretch.end:
        raise InvalidArgument("--start: it is not before --end", field="start")
    reports = asyncio.run(_backfill(args, load_config(args), stretch))
    if args.json:
        print_json([report._asdict() for report in reports])
    else:
        _print(reports)
    return EXIT_NOT_WELL if any(report.unreachable for report in reports) else 0


async def _backfill(args: argparse.Namespace, config: Config, stretch: Stretch) -> list[Report]:
    runtime = config.runtime_path
    async with AsyncExitStack() as stack:
        provider = AsyncUnifiedDataProvider(str(runtime), timeout=REQUEST_SECONDS)
        await stack.enter_async_context(provider)
        await provider.instruments()  # NotRunning, before anything else is begun
        context: zmq.asyncio.Context = zmq.asyncio.Context()
        stack.callback(context.destroy, linger=0)
        link = IngestLink(context, paths.socket_url(runtime, "ingest"), source="backfill", live=False)
        link.open()
        stack.push_async_callback(link.close)
        job = Job(args, config, provider, link)
        reports = [await job.symbol(symbol, stretch) for symbol in args.symbols]
        await link.flush()
        if link.statistics().dropped:
            raise MarketdError("ingest refused some of the batches, see above; run it again to go on")
        return reports


class Job:
    """The work of one command: symbol by symbol, so that a venue is asked one thing at a time."""

    def __init__(
        self, args: argparse.Namespace, config: Config, provider: AsyncUnifiedDataProvider, link: IngestLink
    ) -> None:
        self._args = args
        self._config = config
        self._provider = provider
        self._link = link
        self._show = ProgressLine()

    async def symbol(self, symbol: str, stretch: Stretch) -> Report:
        async with self._venue(symbol) as (instrument, adapter, rest, timeframes):
            backfill = Backfill(adapter, rest, self._send, self._show)
            trades = await self._trades(backfill, instrument, stretch) if self._args.trades else Fetched()
            candles = {each: await self._candles(backfill, instrument, each, stretch) for each in timeframes}
        unreachable = [("trades", *lost) for lost in trades.unreachable]
        for timeframe, fetched in candles.items():
            unreachable += [(f"candles {timeframe_name(timeframe)}", *lost) for lost in fetched.unreachable]
        return Report(
            instrument.name,
            trades.records,
            sum(fetched.records for fetched in candles.values()),
            trades.rejected + sum(fetched.rejected for fetched in candles.values()),
            unreachable,
        )

    async def _trades(self, backfill: Backfill, instrument: Instrument, stretch: Stretch) -> Fetched:
        ledger = await self._provider.query("coverage", instrument.name)
        line = timeline(ledger.records, BY_NAME["trade"].id, *stretch)
        found = Fetched()
        for start, end in joined([Stretch(each.start, each.end) for each in line if not each.state.is_whole]):
            until = fetched_until(end, stretch, time.time_ns())
            await asyncio.sleep((until + SETTLE_NS - time.time_ns()) / NS_PER_SECOND)
            if start < until:
                # at its ends, and where only some are missing
                stored = await self._provider.query_trades(instrument.name, start, until)
                known = stored.records["trade_id"].tolist()
                found = found.plus(await backfill.trades(instrument, Stretch(start, until), known))
        return found

    async def _candles(self, backfill: Backfill, instrument: Instrument, timeframe: int, stretch: Stretch) -> Fetched:
        stored = await self._provider.query_ohlcv_data(
            instrument.name, timeframe, stretch.start, stretch.end, None, "venue"
        )
        return await backfill.bars(instrument, timeframe, stretch, stored.records["ts"].tolist())

    async def _send(self, instrument: Instrument, parts: Sequence[Part], rejected: Sequence[Rejected]) -> None:
        refused = [Rejection("message", each.rule, each.detail, each.payload) for each in rejected]
        await self._link.send(instrument, parts, refused)
        await self._link.flush()  # one chunk at a time: live batches get their turn between two

    @asynccontextmanager
    async def _venue(self, symbol: str) -> AsyncIterator[tuple[Instrument, VenueAdapter, RestClient, list[int]]]:
        """The instrument, its venue's adapter, the way to its REST interface, and the timeframes of the bars (s): a
        venue may give some over REST that are not on its stream."""
        try:
            known = (await self._provider.query("coverage", symbol, limit=1)).instrument
        except UnknownInstrument:
            known = None
        name = known.venue if known is not None else venue_in(symbol, self._config)
        settings = self._config.venues.get(name) or Venue()
        venue = venue_of(name, settings.ws_url)
        candles = settings.candles if self._args.candles is None else frames_of(self._args.candles)
        adapter = venue.adapter(trades=settings.trades, candles=candles, book=False, series=())
        key = api_key_of(name, settings)
        adapter.has_key = bool(key)
        if self._args.trades and adapter.needs_key and not key:
            print(
                f"! {name} gives single trades of the past only to who has an API key: name its file in "
                f"venues.{name}.api_key_file",
                file=sys.stderr,
            )
        allowed = min(settings.request_weight, venue.limits.weight_per_minute)
        rest = RestClient(
            settings.rest_url or venue.rest_url,
            weight_per_minute=self._args.weight or max(1, allowed // 2),
            headers=venue.headers_with(key),
        )
        try:
            instrument = known or await self._declared(adapter, rest, symbol)
            adapter.adopt(instrument)
            yield instrument, adapter, rest, [parse_timeframe(each) for each in candles]
        finally:
            rest.close()

    async def _declared(self, adapter: VenueAdapter, rest: RestClient, symbol: str) -> Instrument:
        """An instrument that this daemon has never had, as the venue describes it."""
        symbols = [adapter.venue_symbol(symbol)]
        request = adapter.instruments_request(symbols)
        body = await rest.get_even_refused(request, time.monotonic() + REQUEST_SECONDS)
        try:
            described = adapter.decode_instruments(body, symbols)
        except UnknownSymbol as error:
            names = {each.name for each in await self._provider.instruments()} - {GLOBAL_NAME}
            raise UnknownInstrument(
                f"symbol: {symbol!r} is not among the instruments of this daemon "
                f"({', '.join(sorted(names)) or 'none yet'}), and {adapter.venue} does not have it: {error}",
                field="symbol",
            ) from None
        ((instrument, _),) = await self._link.declare(described)
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:  # who answers questions looks for new ones now and then
            if instrument.id in {each.id for each in await self._provider.instruments()}:
                return instrument
            if time.monotonic() > deadline:
                raise MarketdError(f"{instrument.name} was declared, and the query actor does not know it")
            await asyncio.sleep(LOOK_SECONDS)


def fetched_until(end: int, stretch: Stretch, now_ns: int) -> int:
    """Up to where trades are asked for of what is missing up to `end`, within the stretch that is wanted. What nobody
    observes on goes only as far as the venue's answers are whole; else it goes on into the millisecond in which it was
    heard first, of which some trades came before.
    """
    return min(end, now_ns - SETTLE_NS) if end == stretch.end else end + NS_PER_MS


def venue_in(symbol: str, config: Config) -> str:
    """The venue that a symbol of no known instrument names, or the only one there is."""
    _, dot, venue = symbol.rpartition(".")
    if dot:
        return venue
    if config.default_venue or len(config.active_venues) == 1:
        return config.default_venue or next(iter(config.active_venues))
    raise InvalidArgument(f"{symbol}: of which venue? Write it as {symbol}.BINANCE", field="symbol")


def frames_of(text: str) -> tuple[str, ...]:
    """`1m,1h` as names of timeframes; InvalidArgument for what is none."""
    return tuple(timeframe_name(parse_timeframe(part.strip())) for part in text.split(",") if part.strip())


def joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Neighbours as one."""
    found: list[Stretch] = []
    for stretch in stretches:
        if found and found[-1].end == stretch.start:
            found[-1] = Stretch(found[-1].start, stretch.end)
        else:
            found.append(stretch)
    return found


class ProgressLine:
    """What is under way, at most once a second, with an estimate of how long the stretch will take."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._what: tuple[str, Stretch] | None = None
        self._began = self._from = 0.0

    def __call__(self, progress: Progress) -> None:
        now, stretch = time.monotonic(), progress.stretch
        done = (progress.ts_ns - stretch.start) / max(1, stretch.end - stretch.start)
        if self._what != progress[:2]:
            self._what, self._began, self._from = (progress.what, stretch), now, done
        if now - self._shown < PROGRESS_SECONDS:
            return
        self._shown = now
        gained = done - self._from
        left = f", {words.duration((now - self._began) * (1 - done) / gained)} left" if gained > 0 else ""
        print(
            f"{progress.what}: {words.plural(progress.records, 'record')} up to {words.moment(progress.ts_ns)}, "
            f"{done:.0%}{left}",
            file=sys.stderr,
        )


def _print(reports: Sequence[Report]) -> None:
    page = Page()
    page.table(
        ("INSTRUMENT", "TRADES", "CANDLES", "REJECTED"),
        [(each.instrument, f"{each.trades:,}", f"{each.candles:,}", f"{each.rejected:,}") for each in reports],
    )
    for report in reports:
        for what, start, end in report.unreachable:
            page.line(
                f"{report.instrument}: the venue does not give {what} of {words.moment(start)} … {words.moment(end)}"
            )
    page.show()
