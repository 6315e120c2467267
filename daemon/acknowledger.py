"""Answers that wait for the disk, and the writer, who follows how far it is.

An answer bears the journal's offset up to which everything must be durable before it goes out. They leave in the order
of these offsets, so that one look at the first tells whether any may go.

A producer of one's own waits for its answer, and gets it as soon as the disk has the records. A feed only wants to know
in the end, and each answer by itself would wake four threads that its next records wait behind: so while nobody else
waits, answers go out together, every `PATIENCE_NS`.
"""

from __future__ import annotations

import time
from collections import deque

import zmq

from marketd.daemon.publisher import Publisher
from marketd.ipc import protocol
from marketd.ipc.journal import Journal
from marketd.ipc.protocol import Committed, Durable, Follow
from marketd.market.errors import ProtocolError

TELL_NS = 20_000_000  # between two words to the writer, whom each wakes; it gathers for writer.batch_age anyway
PATIENCE_NS = 10_000_000  # between two answers to those who go on without; a feed may be 256 batches ahead
MANY_ANSWERS = 64  # that wait: then they are told as soon as may be
MAX_UNACKNOWLEDGED = 50_000  # answers that wait for the disk; beyond it nothing more is read
_DONTWAIT = int(zmq.DONTWAIT)
_DONTWAIT_MORE = int(zmq.DONTWAIT | zmq.SNDMORE)


class Acknowledger:
    def __init__(self, journal: Journal, publisher: Publisher, socket: zmq.Socket[bytes]) -> None:
        self._journal = journal
        self._publisher = publisher
        self._socket = socket
        # (offset, peer, answer, whether its peer goes on without it), by offset
        self._waiting: deque[tuple[int, bytes, protocol.Message, bool]] = deque()
        self._awaited = 0  # of these, by peers that do nothing meanwhile
        self._patient_until_ns = 0
        self._follower: bytes | None = None
        self._told = -1  # how far the writer knows that the journal is durable
        self._told_ns = 0  # and when it was told
        self.acknowledged = -1  # the durable offset that was looked at last
        self.committed = 0  # by the database, as the writer says

    def __len__(self) -> int:
        """Answers that wait."""
        return len(self._waiting)

    @property
    def accepting(self) -> bool:
        """False while too many answers wait for the disk: then nothing more is read, and peers wait."""
        return len(self._waiting) < MAX_UNACKNOWLEDGED

    def send(self, peer: bytes, message: protocol.Message) -> None:
        """Now. To a peer that is gone, or reads nothing, not at all: it asks again under the same number."""
        try:
            # two sends cost a fraction of one send_multipart, which combines flags and checks types in Python
            self._socket.send(peer, _DONTWAIT_MORE)
            self._socket.send(protocol.encode(message), _DONTWAIT)
        except zmq.ZMQError:
            return

    def answer(self, peer: bytes, offset: int, answer: protocol.Message, *, patient: bool = False) -> None:
        """Send the answer once the journal is durable up to `offset`. `patient`: its peer goes on without it."""
        waiting = self._waiting
        if offset <= self.acknowledged:
            self.send(peer, answer)
            return
        self._awaited += not patient
        if waiting and offset < waiting[-1][0]:
            # the repetition of a batch that still waits: in front of what came after it
            place = next(i for i, entry in enumerate(waiting) if entry[0] > offset)
            waiting.insert(place, (offset, peer, answer, patient))
        else:
            waiting.append((offset, peer, answer, patient))

    @property
    def patience_ns(self) -> int:
        """For how long nobody misses an answer; 0 while somebody waits for one."""
        if self._awaited or len(self._waiting) >= MANY_ANSWERS:
            return 0
        return max(0, self._patient_until_ns - time.monotonic_ns())

    def acknowledge_if_due(self) -> None:
        if self._journal.durable != self.acknowledged and not self.patience_ns:
            self.acknowledge()

    def acknowledge(self) -> None:
        """Answer what has reached the disk; tell the writer, who gathers rows for longer than it is kept waiting."""
        durable = self._journal.durable
        if durable == self.acknowledged:
            return
        self.acknowledged = durable
        self._patient_until_ns = time.monotonic_ns() + PATIENCE_NS
        self._publisher.mark_durable(durable)
        waiting = self._waiting
        while waiting and waiting[0][0] <= durable:
            _, peer, answer, patient = waiting.popleft()
            self._awaited -= not patient
            self.send(peer, answer)
        if time.monotonic_ns() - self._told_ns >= TELL_NS:
            self.tell_writer()

    # ---- the writer -----------------------------------------------------------------------------

    def tell_writer(self) -> None:
        """How far the journal is durable, where the writer has not heard it yet."""
        if self._follower is not None and self.acknowledged > self._told:
            self._told, self._told_ns = self.acknowledged, time.monotonic_ns()
            self.send(self._follower, Durable(journal=self._journal.uuid, offset=self._told))

    def follow(self, peer: bytes, request: Follow) -> None:
        self._check_committed(request.committed)
        self._follower = peer
        self._told = self._journal.durable
        self.send(peer, Durable(id=request.id, journal=self._journal.uuid, offset=self._told))
        self.committed = max(self.committed, request.committed)

    def on_committed(self, message: Committed) -> None:
        if message.journal == self._journal.uuid:
            self._check_committed(message.offset)
            self.committed = max(self.committed, message.offset)

    def _check_committed(self, offset: int) -> None:
        """What is not on disk here cannot be in the database: believed, it would free records that nobody has."""
        if offset > self._journal.durable:
            raise ProtocolError(
                f"committed: {offset} is beyond the {self._journal.durable} bytes of this journal", field="committed"
            )
