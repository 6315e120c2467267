"""All records that are made of one book, as a feed makes them: every recorder and kernel told each step."""

from __future__ import annotations

from marketd.market.book import Change
from marketd.market.book_deltas import DeltaRecorder
from marketd.market.book_records import BookRecorder
from marketd.market.book_sync import BookSync, Step
from marketd.market.buckets import BucketKernel
from marketd.market.imbalance import ImbalanceKernel
from marketd.market.layouts import BookState
from marketd.market.records import Records


class BookTeller:
    def __init__(self, sync: BookSync, *, depth: int, interval_ns: int = 100_000_000, width: int = 0) -> None:
        self.sync = sync
        self._recorder = BookRecorder(depth, interval_ns, 1.0)
        self._deltas = DeltaRecorder()
        self.imbalance = ImbalanceKernel(10.0)
        self._buckets = BucketKernel(width)

    def step(self, ts_ns: int, step: Step) -> None:
        """A step of the synchronisation, which has effect from `ts_ns` on."""
        if step.began or step.change is not None:
            self._live(ts_ns, step.change)
        elif step.state is not step.before:
            self._leave(ts_ns, step.state)

    def advance(self, newest_ns: int) -> list[tuple[str, Records]]:
        found = [
            ("book", self._recorder.advance(newest_ns)),
            ("imbalance", self.imbalance.advance(newest_ns)),
            ("buckets", self._buckets.advance(newest_ns)),
            ("book_delta", self._deltas.take()),
        ]
        return [(kind, records) for kind, records in found if len(records)]

    def _live(self, ts_ns: int, change: Change | None) -> None:
        book, sequence = self.sync.book, self.sync.sequence
        self._recorder.book(ts_ns, sequence, book)
        self.imbalance.book(ts_ns, book, change)
        self._buckets.book(ts_ns, book, change)
        self._deltas.book(ts_ns, sequence, book, change)

    def _leave(self, ts_ns: int, state: BookState) -> None:
        self._recorder.leave(ts_ns, state)
        self.imbalance.leave(ts_ns, state)
        self._buckets.leave(ts_ns, state)
        self._deltas.leave(ts_ns)
