"""What each producer was told: the memory that makes a retry safe.

A producer numbers its batches; the outcome of the last `KEPT_OUTCOMES` batches of each producer is kept (and stands
in the journal and its checkpoints), so that a repeated number gets its first outcome, across restarts too. The
producers that were silent longest are forgotten first, beyond `MAX_PRODUCERS`, and of the one silent longest the
oldest outcomes, beyond `MAX_REFUSALS`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple

from marketd.ipc.protocol import Outcome, Refusal

KEPT_OUTCOMES = 256  # more than any producer of ours has in flight
MAX_PRODUCERS = 4_096
MAX_REFUSALS = 50_000  # remembered in all: they stand in the journal's checkpoint, whose size is bounded
UNFRAMED = 2**62  # the offset of an outcome whose frame is not in the journal yet
LIVE_ONLY = -1  # the offset of an outcome whose records the journal could not take
NO_NUMBER = 0  # a batch that asks for no protection


class Remembered(Struct, gc=False):
    accepted: int
    refused: list[Refusal]
    seq: int
    ts_known: int
    offset: int  # the end of its frame in the journal: durable once this is


class Producers:
    def __init__(self) -> None:
        self._outcomes: OrderedDict[bytes, OrderedDict[int, Remembered]] = OrderedDict()
        self._refusals = 0

    def find(self, producer: bytes, batch: int) -> Remembered | None:
        outcomes = self._outcomes.get(producer)
        return outcomes.get(batch) if outcomes is not None else None

    def newest(self, producer: bytes) -> int:
        """The number of the batch that was taken last; 0: none is known."""
        outcomes = self._outcomes.get(producer)
        return next(reversed(outcomes)) if outcomes else 0

    def remember(self, producer: bytes, batch: int, outcome: Remembered) -> None:
        if batch == NO_NUMBER:
            return
        outcomes = self._outcomes.get(producer)
        if outcomes is None:
            outcomes = self._outcomes[producer] = OrderedDict()
            if len(self._outcomes) > MAX_PRODUCERS:
                _, forgotten = self._outcomes.popitem(last=False)
                self._refusals -= sum(len(each.refused) for each in forgotten.values())
        else:
            self._outcomes.move_to_end(producer)
        if batch in outcomes or outcome.refused:
            before = outcomes.get(batch)
            self._refusals += len(outcome.refused) - (0 if before is None else len(before.refused))
        outcomes[batch] = outcome
        if len(outcomes) > KEPT_OUTCOMES:
            _, oldest = outcomes.popitem(last=False)
            self._refusals -= len(oldest.refused)
        while self._refusals > MAX_REFUSALS and (len(self._outcomes) > 1 or len(outcomes) > 1):
            self._forget_oldest(next(iter(self._outcomes)))

    def _forget_oldest(self, producer: bytes) -> None:
        outcomes = self._outcomes[producer]
        _, forgotten = outcomes.popitem(last=False)
        self._refusals -= len(forgotten.refused)
        if not outcomes:
            del self._outcomes[producer]

    def state(self) -> list[Any]:
        return [
            [producer, [[batch, *astuple(kept)] for batch, kept in known.items()]]
            for producer, known in self._outcomes.items()
        ]

    def restore(self, state: list[Any]) -> None:
        for producer, outcomes in state:
            for batch, accepted, refused, seq, ts_known, offset in outcomes:
                # whatever a restored journal holds is durable
                offset = LIVE_ONLY if offset == LIVE_ONLY else 0
                kept = Remembered(accepted, [Refusal(*r) for r in refused], seq, ts_known, offset)
                self.remember(producer, batch, kept)


def repeated_outcome(request_id: int, batch: int, known: Remembered) -> Outcome:
    """The first outcome of a batch, as the answer to its repetition."""
    return Outcome(
        id=request_id,
        batch=batch,
        accepted=known.accepted,
        refused=known.refused,
        seq=known.seq,
        ts_known=known.ts_known,
        durable=known.offset != LIVE_ONLY,
        repeated=True,
    )
