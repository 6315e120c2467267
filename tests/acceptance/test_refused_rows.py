"""Rows that a producer's own client refuses, and those that the daemon refuses: all lie in the quarantine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from acceptance.daemon_under_test import DaemonUnderTest, Place
from marketd.client.pipeline import DataIngestionPipeline
from support import eventually

TIME_NS = 1_700_000_000_000_000_000
NAME = "COPPER.TEST"


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place('[streams.risk]\nfields = { level = "f8" }\nscope = "global"\n')
    yield place
    place.remove()


def test_every_refused_row_is_in_the_quarantine_with_what_was_sent(place: Place) -> None:
    with DaemonUnderTest(place) as daemon:
        daemon.until_live()
        with DataIngestionPipeline(str(place.runtime), name="desk") as pipeline:
            pipeline.declare(NAME, price_scale=2, size_scale=2)
            rows = {
                "time": [TIME_NS, TIME_NS, "2024-08-08T12:00:00", TIME_NS],
                "price": ["1.5", "1.555", "2", "-1"],
                "size": ["1"] * 4,
                "trade_id": [1, 2, 3, 4],
            }
            result = pipeline.ingest_trades(NAME, rows)
            assert [(r.index, r.rule) for r in result.refused] == [
                (1, "precision"),
                (2, "naive"),
                (3, "positive_price"),
            ]
            assert pipeline.ingest_trade(NAME, "2024-08-08T12:00:00", "1", "1").refused  # nothing of it is good
            assert pipeline.ingest("risk", None, time=TIME_NS, level=0.5).ok
            wrong = pipeline.ingest("risk", NAME, time=TIME_NS, level=0.5)
            assert [refusal.rule for refusal in wrong.refused] == ["scope"]
        eventually(lambda: daemon.count("quarantine") == 5)
        found = daemon.rows("SELECT rule, kind, source, payload FROM quarantine")
        assert {(kind, source) for _, kind, source, _ in found} == {("trade", "desk"), ("risk", "desk")}
        assert sorted(rule for rule, *_ in found) == ["naive", "naive", "positive_price", "precision", "scope"]
        (payload,) = [payload for rule, *_, payload in found if rule == "precision"]
        assert json.loads(payload) == {
            "index": 1, "time": str(TIME_NS), "price": "1.555", "size": "1", "trade_id": "2"
        }  # fmt: skip
        assert daemon.count("trades") == 1
        shown = place.json("quarantine", "list")
        assert len(shown) == 5
