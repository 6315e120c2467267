"""Books of the query actor and of the stream, through both providers; and books that producers send."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from book_records import SECOND, books, buckets, imbalances, not_live
from fake_daemon import BTC, FakeDaemon
from marketd import (
    AsyncUnifiedDataProvider,
    BeyondCache,
    BucketFrame,
    DataIngestionPipeline,
    InvalidArgument,
    OrderBookDataFrame,
    Require,
    RequirementNotMet,
    UnifiedDataProvider,
)
from marketd.market.records import BookFlag, BookState

BASE = 1_700_000_040 * SECOND  # a whole minute


def at(seconds: float) -> int:
    return BASE + int(seconds * SECOND)


def stored(daemon: FakeDaemon, *, depth: int = 20) -> None:
    """30 books of three seconds, the imbalance of each second, buckets."""
    daemon.store("book", books(range(30), depth=depth, ts=at(1)))
    beside = imbalances([1, 2, 3], ts=at(1))  # of the seconds that end at 2, 3 and 4 s
    beside["seq"], beside["ts_known"] = [10, 20, 30], beside["ts_event"] + 1
    daemon.store("imbalance", beside)
    daemon.store("buckets", buckets(range(5), ts=BASE))
    daemon.store("buckets", buckets(range(2), timeframe=60, ts=BASE))


def test_snapshots_of_a_stretch(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    stored(daemon)
    found = provider.query_orderbook_snapshots("BTC/USDT", at(2), at(3), depth=2)
    assert isinstance(found, OrderBookDataFrame) and found.bids.shape == (10, 2, 2)
    assert found.records["seq"].tolist() == list(range(11, 21)) and found.meta.book_state == "LIVE"
    assert len(provider.query_orderbook_snapshots("BTC/USDT", limit=7)) == 7
    with pytest.raises(BeyondCache, match=r"21 levels a side of BTCUSDT.BINANCE are wanted, 20 are kept"):
        provider.query_orderbook_snapshots("BTC/USDT", depth=21)


def test_books_of_a_deeper_daemon_are_as_deep_as_it_says(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    stored(daemon, depth=50)
    assert provider.query_orderbook_snapshots("BTC/USDT", limit=1).depth == 50
    assert provider.query_orderbook_aggregated("BTC/USDT", limit=1).depth == 50


def test_one_row_an_interval_with_means(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    stored(daemon)
    found = provider.query_orderbook_aggregated("BTC/USDT", "1s")
    assert found.timeframe == 1 and found["time"].tolist() == [at(1), at(2), at(3)]
    assert found["count"].tolist() == [10, 10, 10] and found["mean_mid"][0] == pytest.approx(100.055)
    assert found["seq"].tolist() == [10, 20, 30]  # of the last snapshot in each
    assert provider.query("book", "BTC/USDT", timeframe="1s").digest == found.digest


def test_imbalances_and_buckets_of_a_stretch(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    stored(daemon)
    found = provider.query_orderbook_imbalances("BTC/USDT", at(3))
    assert found["book_1s"].tolist() == [0.02, 0.03]
    of_seconds = provider.query("buckets", "BTC/USDT", timeframe="1s", limit=2)
    assert isinstance(of_seconds, BucketFrame) and of_seconds["time"].tolist() == [at(3), at(4)]
    assert provider.query("buckets", "BTC/USDT")["timeframe"].tolist() == [1] * 5
    assert len(provider.query("buckets", "BTC/USDT", timeframe="1m")) == 2


def test_what_shared_memory_does_not_have_is_asked_further(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    stored(daemon)
    assert provider.get_latest_orderbook("BTC/USDT", depth=3)["seq"].tolist() == [30]
    assert provider.get_latest_imbalances("BTC/USDT")["book_1s"].tolist() == [0.03]
    assert provider.get_latest_buckets("BTC/USDT", "1m")["time"].tolist() == [at(60)]
    assert provider.get_latest_orderbook("BTC/USDT").meta.served_from == "database"


def test_what_is_required_holds_for_the_database_too(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    stored(daemon)
    daemon.store("book", not_live(BookState.STALE, ts=at(5), seq=99))
    with pytest.raises(RequirementNotMet, match="the book is STALE, required is LIVE"):
        provider.get_latest_orderbook("BTC/USDT", require=Require(book="LIVE"))
    daemon.watermark = 1
    with pytest.raises(RequirementNotMet, match="s old, required are at most 2 s"):
        provider.get_latest_imbalances("BTC/USDT", require=Require(max_stale="2s"))


# ---- books and the imbalances that were known beside them -------------------------------------------


def test_a_book_as_it_was_known_at_a_moment(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    stored(daemon)
    t = at(2.5)
    found = provider.get_order_book_data("BTC/USDT", t)
    assert found["seq"].tolist() == [15]  # the next was known a microsecond later
    assert found["book_1s"].tolist() == [0.01] and np.isnan(found["volume_60s"][0])
    assert provider.get_order_book_data("BTC/USDT", t, limit=4)["seq"].tolist() == [12, 13, 14, 15]
    assert provider.get_order_book_data("BTC/USDT", 1).records.tobytes() == b""


def test_the_newest_book_comes_with_what_was_known_beside_it(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    stored(daemon)
    found = provider.get_order_book_data("BTC/USDT", depth=2)
    assert found["seq"].tolist() == [30] and found.depth == 2 and found["book_1s"].tolist() == [0.02]


def test_intervals_come_with_the_imbalance_of_their_end(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    stored(daemon)
    found = provider.get_order_book_data("BTC/USDT", aggregation="1s", limit=3)
    assert found["time"].tolist() == [at(1), at(2), at(3)]
    assert found["book_1s"].tolist() == [0.01, 0.02, 0.03] and found["mean_mid"].shape == (3,)
    assert len(provider.get_order_book_data("BTC/USDT", aggregation="1m")) == 1


def test_what_is_asked_for_must_make_sense(provider: UnifiedDataProvider) -> None:
    with pytest.raises(InvalidArgument, match="'2s' is none of raw, 1s, 1m"):
        provider.get_order_book_data("BTC/USDT", aggregation="2s")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="limit"):
        provider.get_order_book_data("BTC/USDT", limit=0)
    with pytest.raises(InvalidArgument, match="depth"):
        provider.get_latest_orderbook("BTC/USDT", depth=-1)
    with pytest.raises(InvalidArgument, match="timestamp"):
        provider.get_order_book_data("BTC/USDT", "2024-08-08T23:54:00")


def test_the_asyncio_twin_answers_the_same(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    stored(daemon)

    async def ask() -> list[str]:
        async with AsyncUnifiedDataProvider(daemon.directory) as md:
            frames = await asyncio.gather(
                md.get_latest_orderbook("BTC/USDT", 3, 2),
                md.get_latest_imbalances("BTC/USDT"),
                md.get_latest_buckets("BTC/USDT", "1m"),
                md.get_order_book_data("BTC/USDT", at(2), limit=3),
                md.query_orderbook_snapshots("BTC/USDT", limit=3),
                md.query_orderbook_aggregated("BTC/USDT", "1m"),
                md.query_orderbook_imbalances("BTC/USDT"),
                md.query("buckets", "BTC/USDT", timeframe="1m"),
            )
            with pytest.raises(InvalidArgument):
                await md.get_latest_orderbook("BTC/USDT", depth=0)
            return [frame.digest for frame in frames]

    md = provider
    assert asyncio.run(ask()) == [
        frame.digest
        for frame in (
            md.get_latest_orderbook("BTC/USDT", 3, 2),
            md.get_latest_imbalances("BTC/USDT"),
            md.get_latest_buckets("BTC/USDT", "1m"),
            md.get_order_book_data("BTC/USDT", at(2), limit=3),
            md.query_orderbook_snapshots("BTC/USDT", limit=3),
            md.query_orderbook_aggregated("BTC/USDT", "1m"),
            md.query_orderbook_imbalances("BTC/USDT"),
            md.query("buckets", "BTC/USDT", timeframe="1m"),
        )
    ]


# ---- the stream -------------------------------------------------------------------------------------


def test_books_come_as_they_are_published_and_what_was_missed_is_fetched(
    daemon: FakeDaemon, provider: UnifiedDataProvider
) -> None:
    with provider.subscribe("book", "BTC/USDT") as stream:
        daemon.publish("book", books([0]))
        first = stream.next(5)
        assert isinstance(first, OrderBookDataFrame) and first.meta.served_from == "stream"
        daemon.store("book", books([1, 2]))
        daemon.publish("book", books([3]), skip=2)
        assert stream.next(5)["seq"].tolist() == [2, 3] and stream.next(5)["seq"].tolist() == [4]
        daemon.publish("book", books([4], depth=7))  # the daemon was started again with another book.depth
        assert stream.next(5).records["bid_price"].shape == (1, 7)
        assert stream.statistics().garbage == 0


def test_imbalances_and_buckets_have_topics_of_their_own(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    with provider.subscribe("imbalance", "BTC/USDT") as stream:
        daemon.publish("imbalance", imbalances([7]))
        assert stream.next(5)["book_1s"].tolist() == [0.07]
    daemon.subscribed.clear()  # the next one is waited for
    with provider.subscribe("buckets", BTC.name, "1m") as stream:
        daemon.publish("buckets", buckets([1], timeframe=60), timeframe="1m")
        found = stream.next(5)
        assert isinstance(found, BucketFrame) and found.timeframe == 60
    for kind, timeframe in (("buckets", None), ("book", "1s")):
        with pytest.raises(InvalidArgument, match="'candle' or 'buckets' needs one"):
            provider.subscribe(kind, "BTC/USDT", timeframe)


# ---- producers --------------------------------------------------------------------------------------

BIDS, ASKS = [("100.00", "1"), ("99.99", 2)], [(100.02, "0.5")]


def test_a_producers_book_is_stored_as_it_was_given(daemon: FakeDaemon, pipeline: DataIngestionPipeline) -> None:
    result = pipeline.ingest_orderbook_snapshot("BTC/USDT", SECOND, BIDS, ASKS, sequence=7)
    assert result.ok and result.accepted == 1
    record = daemon.stored["book"][0]
    assert record["bid_price"].tolist() == [10_000, 9_999] and record["ask_size"][0] == 50_000
    assert (record["sequence"], record["flags"], record["state"]) == (7, BookFlag.OFFERED, BookState.LIVE)


def test_many_books_at_once_with_refusals_by_index(daemon: FakeDaemon, pipeline: DataIngestionPipeline) -> None:
    rows = {"time": [SECOND, SECOND, SECOND], "bids": [BIDS, [("1.001", "1")], BIDS], "asks": [ASKS, ASKS, None]}
    result = pipeline.ingest_orderbook_snapshots("BTC/USDT", rows)
    assert result.accepted == 1
    assert [(refusal.index, refusal.rule) for refusal in result.refused] == [(1, "precision"), (2, "absent")]


def test_deep_books_go_in_batches_that_fit_into_messages(daemon: FakeDaemon, pipeline: DataIngestionPipeline) -> None:
    levels = [(1_000 - n, 1) for n in range(900)]
    rows = {"time": [SECOND] * 200, "bids": [levels] * 200, "asks": [[]] * 200}
    assert pipeline.ingest_orderbook_snapshots("BTC/USDT", rows).accepted == 200
    assert len(daemon.outcomes) > 2 and len(daemon.stored["book"]) == 200


def test_buffered_books_of_several_depths_go_together(daemon: FakeDaemon, pipeline: DataIngestionPipeline) -> None:
    with pipeline.buffered() as buffer:
        futures = [buffer.ingest_orderbook_snapshot("BTC/USDT", SECOND, BIDS[: 1 + n % 2], ASKS) for n in range(10)]
        buffer.flush()
    assert [future.result().accepted for future in futures] == [1] * 10
    assert sorted(daemon.stored["book"]["bid_count"].tolist()) == [1] * 5 + [2] * 5


def test_what_marketd_makes_itself_is_taken_from_nobody(pipeline: DataIngestionPipeline) -> None:
    for stream in ("imbalance", "buckets", "book_delta", "activity_bar"):
        with pytest.raises(InvalidArgument, match="marketd's own"):
            pipeline.ingest(stream, "BTC/USDT", time=SECOND)


def test_a_book_from_a_frame_can_be_sent_on(
    daemon: FakeDaemon, provider: UnifiedDataProvider, pipeline: DataIngestionPipeline, runtime_dir: Path
) -> None:
    stored(daemon)
    found = provider.query_orderbook_snapshots("BTC/USDT", limit=3)
    assert pipeline.ingest_orderbook_snapshots("BTC/USDT", found).accepted == 3
    assert daemon.stored["book"]["flags"].tolist()[-3:] == [BookFlag.OFFERED] * 3
