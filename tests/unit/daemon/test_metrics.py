"""Metrics of one process, and the merge of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from marketd.daemon import metrics


class Statistics(NamedTuple):
    records_total: int
    flush_ns: int
    waited_ns_total: int
    depth: np.int64
    name: str = "not a number"
    ok: bool = True


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "REGISTRY", registry)
    yield registry


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_statistics_become_metrics_by_their_names(registry: CollectorRegistry) -> None:
    metrics.publish("journal", lambda: Statistics(3, 1_500_000_000, 2_000_000_000, np.int64(7)))
    found = {name: value for (name, _), value in samples(metrics.exposition()).items()}
    assert found == {
        "marketd_journal_records_total": 3.0,
        "marketd_journal_flush_seconds": 1.5,
        "marketd_journal_waited_seconds_total": 2.0,
        "marketd_journal_depth": 7.0,
    }


def test_a_published_object_is_only_asked_when_somebody_reads(registry: CollectorRegistry) -> None:
    asked: list[int] = []

    def statistics() -> Statistics:
        asked.append(1)
        return Statistics(0, 0, 0, np.int64(0))

    collector = metrics.publish("a", statistics)
    assert asked == []
    metrics.exposition()
    assert asked == [1]
    registry.unregister(collector)
    assert metrics.exposition() == b""


def test_declared_metrics_bear_the_prefix(registry: CollectorRegistry) -> None:
    metrics.counter("a_total", "A", ["rule"]).labels("x").inc(2)
    metrics.gauge("b", "B").set(1)
    metrics.histogram("c_seconds", "C").observe(0.003)
    text = metrics.exposition().decode()
    assert 'marketd_a_total{rule="x"} 2.0' in text
    assert "marketd_b 1.0" in text
    assert 'marketd_c_seconds_bucket{le="0.005"} 1.0' in text
    assert "_created" not in text


def exposition_of(value: float) -> bytes:
    registry = CollectorRegistry()
    Counter("hits_total", "Hits, by\nkind", ["kind"], registry=registry).labels('a"b\\c}d e').inc(value)
    Gauge("depth", "Depth", registry=registry).set(value)
    Histogram("wait", "Wait", buckets=(1.0,), registry=registry).observe(value)
    return generate_latest(registry)


def test_merging_keeps_every_sample_and_adds_the_actor() -> None:
    merged = metrics.merge({"ingest": exposition_of(1), 'odd"name': exposition_of(2)})
    expected = {
        (name, labels | {("actor", actor)}): value
        for actor, text in (("ingest", exposition_of(1)), ('odd"name', exposition_of(2)))
        for (name, labels), value in samples(text).items()
    }
    assert samples(merged) == expected


def test_a_family_stands_once_and_together_in_the_merge() -> None:
    text = metrics.merge({"a": exposition_of(1), "b": exposition_of(2)}).decode()
    assert text.count("# TYPE hits_total counter") == text.count("# HELP hits_total") == 1
    lines = [line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=lambda name: ("hits", "depth", "wait").index(name.split("_")[0]))


def test_the_merge_of_nothing_is_empty() -> None:
    assert metrics.merge({}) == metrics.merge({"a": b""}) == b""


def test_named_tuples_keep_their_names_on_the_wire() -> None:
    statistics = Statistics(1, 2, 3, np.int64(4))
    assert metrics.plain({"journal": statistics, "n": 1}) == {"journal": statistics._asdict(), "n": 1}


class Commits(NamedTuple):
    rows: int
    transactions: int
    lag_bytes: int


class Answers(NamedTuple):
    requests: int
    failures: int


def test_what_only_rises_is_a_counter_and_what_a_labelled_counter_has_is_not_told_twice(
    registry: CollectorRegistry,
) -> None:
    metrics.publish("writer", lambda: Commits(3, 2, 5))
    metrics.publish("query", lambda: Answers(4, 1))
    families = {family.name: family.type for family in text_string_to_metric_families(metrics.exposition().decode())}
    assert families == {
        "marketd_writer_rows": "counter",
        "marketd_writer_transactions": "counter",
        "marketd_writer_lag_bytes": "gauge",
        "marketd_query_requests": "counter",
    }
    found = {name: value for (name, _), value in samples(metrics.exposition()).items()}
    assert found["marketd_writer_rows_total"] == 3.0
