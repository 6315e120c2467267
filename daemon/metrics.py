"""Metrics: one prometheus_client registry a process, merged by the supervisor.

Declare at import, bind children once, count per batch:

    _REFUSED = metrics.counter("ingest_refused_total", "Records refused, by rule", ["rule"])
    refused_precision = _REFUSED.labels("precision")        # bound once
    refused_precision.inc(n)

A class that has `statistics()` (one NamedTuple) is only translated: `publish("journal", journal.statistics)`
makes `marketd_journal_<field>`. Fields that `COUNTERS` names, or that end in `_total`, are counters and end in
`_total`; others are gauges, and `_ns` becomes `_seconds`.

(prometheus_client's multiprocess mode loses custom collectors; each actor's Pong brings its own exposition
instead, and `merge` puts `actor="…"` into every sample.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from marketd.market.times import NS_PER_SECOND

PREFIX = "marketd_"
REGISTRY = CollectorRegistry()
_DATABASE = frozenset({"acquires", "failures", "reconnects"})
# published statistics -> its fields that only rise. A NamedTuple has no room to say so itself.
COUNTERS: Mapping[str, frozenset[str]] = {
    "arena": frozenset({"messages"}),
    "feed": frozenset(
        {
            "messages", "trades", "candles", "ticks", "duplicates", "filled", "gaps", "lost",
            "books", "imbalances", "buckets", "book_deltas", "resyncs", "refreshes",
            "resyncs_failed", "polls_failed", "venue_errors",
        }
    ),
    "feed_link": frozenset({"batches", "records", "accepted", "refused", "resent", "live_only", "dropped"}),
    "ingest": frozenset({"batches", "records", "refused", "rejected", "repeated", "failures", "live_only"}),
    "journal": frozenset(
        {
            "frames", "checkpoints", "syncs", "sync_ns", "refused_full", "refused_behind",
            "segments_removed", "segments_removed_early",
        }
    ),
    "query": frozenset({"requests", "abandoned"}),
    "query_database": _DATABASE,
    "query_replica": frozenset({"answers", "passed_over"}),
    "writer": frozenset({"transactions", "rows", "refused"}),
    "storage_database": _DATABASE,
    "writer_database": _DATABASE,
}  # fmt: skip
HIDDEN: Mapping[str, frozenset[str]] = {"query": frozenset({"failures"})}  # a counter with labels has it
LATENCY_BUCKETS = tuple(m * 10.0**e for e in range(-6, 1) for m in (1, 2.5, 5))  # 1 µs … 5 s
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that nobody asks for


def counter(name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
    """A counter `marketd_<name>`; the name ends in `_total`."""
    return Counter(PREFIX + name, documentation, labels, registry=REGISTRY)


def gauge(name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
    return Gauge(PREFIX + name, documentation, labels, registry=REGISTRY)


def histogram(
    name: str, documentation: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS
) -> Histogram:
    """A histogram `marketd_<name>`; by default of latencies in seconds."""
    return Histogram(PREFIX + name, documentation, labels, buckets=buckets, registry=REGISTRY)


def publish(name: str, statistics: Callable[[], Any], documentation: str = "") -> Collector:
    """Show the numbers of a `statistics()` NamedTuple as metrics; the collector, for
    `REGISTRY.unregister`."""
    collector = _Statistics(name, statistics, documentation)
    REGISTRY.register(collector)
    return collector


def plain(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """NamedTuples in it as dicts, so that they keep their names on the wire."""
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in statistics.items()}


def exposition() -> bytes:
    """This process's metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)


def merge(expositions: Mapping[str, bytes]) -> bytes:
    """One exposition of all actors': each family once, each sample with the label `actor`."""
    families: dict[str, _Family] = {}
    for actor, text in expositions.items():
        label = f'actor="{_escape(actor)}"'
        for family, line in _lines(text.decode()):
            merged = families.setdefault(family, _Family())
            if line.startswith("#"):
                merged.comments.setdefault(line.split(" ", 2)[1], line)
            else:
                merged.samples.append(_labelled(line, label))
    return "".join(family.text() for family in families.values()).encode()


class _Statistics(Collector):
    def __init__(self, name: str, statistics: Callable[[], Any], documentation: str) -> None:
        self._prefix = f"{PREFIX}{name}_"
        self._counters = COUNTERS.get(name, frozenset())
        self._hidden = HIDDEN.get(name, frozenset())
        self._statistics = statistics
        self._documentation = documentation

    def describe(self) -> Iterable[Metric]:
        return []  # told when collected: registering must not ask an object that is still being made

    def collect(self) -> Iterator[Metric]:
        for field, value in self._statistics()._asdict().items():
            if isinstance(value, bool) or not hasattr(value, "__float__") or field in self._hidden:
                continue
            yield self._family(field, float(value))

    def _family(self, field: str, value: float) -> Metric:
        is_counter = field.endswith("_total") or field in self._counters
        stem = field.removesuffix("_total")
        if stem.endswith("_ns"):
            stem, value = f"{stem.removesuffix('_ns')}_seconds", value / NS_PER_SECOND
        documentation = self._documentation or f"{field} of {self._prefix}statistics"
        if is_counter:
            return CounterMetricFamily(self._prefix + stem, documentation, value=value)
        return GaugeMetricFamily(self._prefix + stem, documentation, value=value)


class _Family:
    def __init__(self) -> None:
        self.comments: dict[str, str] = {}  # HELP and TYPE; the first actor's are everybody's
        self.samples: list[str] = []

    def text(self) -> str:
        return "".join(f"{line}\n" for line in (*self.comments.values(), *self.samples))


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Lines with the family they belong to: the one that the last comment named."""
    family = ""
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            family = line.split(" ", 3)[2]
        if line and (not line.startswith("#") or line.startswith(("# HELP ", "# TYPE "))):
            yield family, line


def _labelled(sample: str, label: str) -> str:
    """`name{a="b"} 1` or `name 1` with one more label; a metric's name holds neither a brace nor a blank."""
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label}{'' if rest.startswith('}') else ','}{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
