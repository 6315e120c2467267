"""What each producer was told: the memory that makes a retry safe.

A producer numbers its batches; the outcome of the last `KEPT_OUTCOMES` batches of each producer is kept (and stands
in the journal and its checkpoints), so that a repeated number gets its first outcome, across restarts too. The
producers that were silent longest are forgotten first, beyond `MAX_PRODUCERS`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from marketd.ipc.protocol import Outcome, Refusal

KEPT_OUTCOMES = 256  # more than any producer of ours has in flight
MAX_PRODUCERS = 4_096
UNFRAMED = 2**62  # the offset of an outcome whose frame is not in the journal yet
NO_NUMBER = 0  # a batch that asks for no protection


class Remembered(NamedTuple):
    accepted: int
    refused: list[Refusal]
    seq: int
    ts_known: int
    offset: int  # the end of its frame in the journal: durable once this is


class Producers:
    def __init__(self) -> None:
        self._outcomes: OrderedDict[bytes, OrderedDict[int, Remembered]] = OrderedDict()

    def find(self, producer: bytes, batch: int) -> Remembered | None:
        outcomes = self._outcomes.get(producer)
        return outcomes.get(batch) if outcomes is not None else None

    def remember(self, producer: bytes, batch: int, outcome: Remembered) -> None:
        if batch == NO_NUMBER:
            return
        outcomes = self._outcomes.get(producer)
        if outcomes is None:
            outcomes = self._outcomes[producer] = OrderedDict()
            if len(self._outcomes) > MAX_PRODUCERS:
                self._outcomes.popitem(last=False)
        else:
            self._outcomes.move_to_end(producer)
        outcomes[batch] = outcome
        if len(outcomes) > KEPT_OUTCOMES:
            outcomes.popitem(last=False)

    def state(self) -> list[Any]:
        return [
            [producer, [[batch, *kept] for batch, kept in known.items()]] for producer, known in self._outcomes.items()
        ]

    def restore(self, state: list[Any]) -> None:
        for producer, outcomes in state:
            for batch, accepted, refused, seq, ts_known, _ in outcomes:
                # whatever a restored journal holds is durable
                kept = Remembered(accepted, [Refusal(*r) for r in refused], seq, ts_known, 0)
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
        repeated=True,
    )
