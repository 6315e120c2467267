"""How offers reach ingest exactly once: numbered batches, on lanes.

A lane is a producer id (16 bytes) with a counter; on one lane one batch is under way at a time, so that the numbers
arrive in order. Threads that send at once use lanes of their own. A batch is sent again under the same number
while no answer comes (`RESEND_SECONDS`, then twice as long each time): the daemon repeats its first answer to one
that it has.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from marketd.client.calls import Call, Plan, ask, pause
from marketd.client.encode import chunks
from marketd.client.offers import IngestResult, Offer, result_of
from marketd.client.rejected import batches
from marketd.ipc.protocol import Ingest, Outcome, Part, Rejection
from marketd.ipc.sockets import Payload
from marketd.market.errors import (
    Busy,
    InvalidArgument,
    JournalFull,
    MarketdError,
    NotRunning,
    Timeout,
    UnknownInstrument,
    UnknownStream,
)
from marketd.market.records import Records

log = logging.getLogger("marketd.client")
BATCH_RECORDS = 20_000  # of one message; two megabytes of bars, well inside one frame of the journal
BATCH_BYTES = 2 << 20
RESEND_SECONDS = 1.0
TOO_MANY = "parts"  # the field that such a refusal names
# Answers that say for certain that a batch was not taken, so that its number is free.
REFUSED_AS_A_WHOLE = (JournalFull, UnknownInstrument, UnknownStream, InvalidArgument)


class Batch(NamedTuple):
    """One numbered batch, as it is sent, and sent again.

    It goes to the id whose scales its numbers have: by name they would be misread once a finer precision has given the
    name another one.
    """

    instrument: str
    kind: str
    rows: int
    payload: bytes
    producer: bytes
    number: int
    source: str
    rejected: tuple[Rejection, ...] = ()  # for the quarantine; then there are no rows
    instrument_id: int | None = None


class Unconfirmed(Timeout):
    """No answer to a batch came before the deadline: it may or may not have been accepted.

    `retry(error.batch)` sends it again under the same number, which never stores it twice. `before` is what became of
    the batches of the same call that went before it.
    """

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.batch: Batch | None = None
        self.before: Sequence[Outcome] = ()


class _Lane:
    """A producer id and the number of its next batch."""

    __slots__ = ("number", "producer")

    def __init__(self, producer: bytes, number: int = 1) -> None:
        self.producer = producer
        self.number = number


class Lanes:
    """The lanes of one process. With a given producer id there is one lane, which calls take in turn."""

    def __init__(self, producer: bytes | uuid.UUID | None, first_batch: int) -> None:
        given = producer.bytes if isinstance(producer, uuid.UUID) else producer
        if given is not None and len(given) != 16:
            raise InvalidArgument("producer: a UUID or 16 bytes are needed", field="producer")
        if first_batch < 1:
            raise InvalidArgument("first_batch: batches are numbered from 1 on", field="first_batch")
        self.given = given
        self._pid = os.getpid()
        self._free = [] if given is None else [_Lane(given, first_batch)]

    def take(self) -> Plan[_Lane]:
        """Plan: a lane that is nobody else's until it is given back."""
        if self._pid != os.getpid():
            self._enter_child()
        attempt = 0
        while True:
            try:
                return self._free.pop()  # atomic, as is append: no lock for a fork to leave locked
            except IndexError:
                if self.given is None:
                    return _Lane(uuid.uuid4().bytes)
            yield from pause(attempt)
            attempt += 1

    def give_back(self, lane: _Lane) -> None:
        self._free.append(lane)

    def abandon(self, lane: _Lane) -> None:
        """The lane's last number is in doubt and is not used again: the daemon may have an answer to it already.

        A lane of our own goes with it; with a given producer id the next number is used.
        """
        if self.given is not None:
            lane.number += 1
            self._free.append(lane)

    def _enter_child(self) -> None:
        if self.given is not None:
            raise MarketdError("a pipeline with a producer id belongs to one process: make another one in the child")
        self._pid, self._free = os.getpid(), []


def deliver(lanes: Lanes, offer: Offer, source: str) -> Plan[IngestResult]:
    """Plan: the offer's records, batch by batch. Raises Unconfirmed, JournalFull, UnknownInstrument, Busy, …

    An error after some batches were accepted says how many records that were.
    """
    outcomes: list[tuple[int, Outcome]] = []
    try:
        for start, records in chunks(offer.encoded.records, BATCH_RECORDS, BATCH_BYTES):
            yield from _deliver_records(lanes, offer, start, records, source, outcomes)
    except MarketdError as error:
        if outcomes:
            done = sum(outcome.accepted for _, outcome in outcomes)
            error.add_note(f"{done} of {len(offer.encoded.records)} records had been accepted before")
        if isinstance(error, Unconfirmed):
            error.before = [outcome for _, outcome in outcomes]
        raise
    yield from _deliver_rejected(lanes, offer, source)
    return result_of(offer.encoded, outcomes)


def _deliver_records(
    lanes: Lanes, offer: Offer, start: int, records: Records, source: str, outcomes: list[tuple[int, Outcome]]
) -> Plan[None]:
    """In halves, and halves of these, where the daemon takes no batch of so many.

    How many it takes depends on what it makes of them: a minute between two books is sixty imbalances.
    """
    unnumbered = _unnumbered(offer, records, source)
    try:
        outcome = yield from _deliver_batch(lanes, unnumbered)
    except InvalidArgument as error:
        if error.field != TOO_MANY or len(records) < 2:
            raise
    else:
        outcomes.append((start, outcome))
        return
    half = len(records) // 2
    yield from _deliver_records(lanes, offer, start, records[:half], source, outcomes)
    yield from _deliver_records(lanes, offer, start + half, records[half:], source, outcomes)


def _deliver_rejected(lanes: Lanes, offer: Offer, source: str) -> Plan[None]:
    """Last, and without failing the call: its rows are stored, and it is told of these ones anyway."""
    left = len(offer.encoded.rejected)
    try:
        for rejected in batches(offer.encoded.rejected):
            unnumbered = _unnumbered(offer, offer.encoded.records[:0], source)
            yield from _deliver_batch(lanes, unnumbered._replace(rejected=rejected))
            left -= len(rejected)
    except MarketdError as error:
        log.warning(
            "%d refused rows of %s for %s did not reach the quarantine: %s",
            left,
            offer.kind.name,
            offer.instrument.name,
            error,
            extra={"action": "rejected_unsent", "instrument": offer.instrument.name, "rows": left},
        )


def _unnumbered(offer: Offer, records: Records, source: str) -> Batch:
    instrument = offer.instrument
    return Batch(
        instrument=instrument.name,
        kind=offer.kind.name,
        rows=len(records),
        payload=records.tobytes(),
        producer=b"",
        number=0,
        source=source,
        instrument_id=instrument.id,
    )


def _deliver_batch(lanes: Lanes, unnumbered: Batch) -> Plan[Outcome]:
    lane = yield from lanes.take()
    batch = unnumbered._replace(producer=lane.producer, number=lane.number)
    in_doubt = True  # also when the caller is interrupted or cancelled in the middle
    try:
        outcome = yield from send(batch)
        lane.number += 1
        in_doubt = False
    except REFUSED_AS_A_WHOLE:
        in_doubt = False  # its number was not used
        raise
    finally:
        if in_doubt:
            lanes.abandon(lane)
        else:
            lanes.give_back(lane)
    return outcome


def send(batch: Batch, *, in_doubt: bool = False) -> Plan[Outcome]:
    """Plan: one batch to its outcome; Busy is waited out, silence ends as Unconfirmed.

    in_doubt: it was sent before, so that whatever keeps it from being answered now leaves it unconfirmed.
    """
    attempt = 0
    while True:
        message = Ingest(
            instrument=batch.instrument if batch.instrument_id is None else batch.instrument_id,
            producer=batch.producer,
            batch=batch.number,
            parts=[] if batch.rejected else [Part(batch.kind, batch.rows)],
            source=batch.source,
            rejected=list(batch.rejected),
        )
        frames: list[Payload] = [] if batch.rejected else [batch.payload]
        call = Call("ingest", message, frames, resend_seconds=RESEND_SECONDS)
        try:
            try:
                outcome, _ = yield from ask(call, Outcome)
                return outcome
            except Busy:
                yield from pause(attempt)
                attempt += 1
                call.id = 0  # that answer was for certain: it was not taken
        except (Timeout, NotRunning) as error:
            if not call.id and not in_doubt:  # it never left this process
                raise
            raise _unconfirmed(batch, error) from error


def _unconfirmed(batch: Batch, error: MarketdError) -> Unconfirmed:
    unconfirmed = Unconfirmed(
        f"batch {batch.number} of {batch.rows} records of {batch.kind} for {batch.instrument} was sent and not "
        f"confirmed ({error}); retry(error.batch) sends it again under the same number"
    )
    unconfirmed.batch = batch
    return unconfirmed
