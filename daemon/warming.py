"""Filling an arena that is new: from PostgreSQL up to what it has committed, then from the journal.

The arena outlives ingest, so this happens after a reboot, for a changed layout, or for an instrument that came
back. What the arena before it had is taken over (`heritage`), and not asked for. Until it is over the state is WARMING
and nothing is served from it. A database that does not answer in time costs the rings' past, nothing else; a ring
without its past says so to readers.

A ring larger than one answer is asked for in pieces, the newest first, each as the database was at the first one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import zmq

from marketd.daemon.kernel import Kernel, Lot
from marketd.daemon.publisher import Board
from marketd.daemon.query_link import QueryLink
from marketd.daemon.recovery import lot_of
from marketd.ipc import protocol
from marketd.ipc.frames import Buffer
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.protocol import Answer, Bars, Rows
from marketd.market.book_rows import read_books
from marketd.market.records import Kind, Records
from marketd.market.times import parse_timeframe

_log = logging.getLogger(__name__)

READ_BYTES = 8 << 20
PATIENCE_SECONDS = 20.0  # for the query actor to come up and the database to answer
ASK_AGAIN_SECONDS = 0.25
PIECE_BYTES = 32 << 20  # of one answer: MAX_RECORDS records of a deep book would be far beyond a message's limit
# failures that pass by themselves; after any other the same question gets the same answer
PASSING = frozenset({
    "busy", "timeout", "not_running", "warming", "not_yet_stored", "database_error", "database_unavailable",
    "retry_budget_exceeded", "schema_behind", "schema_busy",
})  # fmt: skip
_NONE = -(2**63)  # below every seq

Turn = Callable[[], bool]  # what else must go on meanwhile; False: stop


class Ended(Exception):
    """Patience is over, or somebody wants ingest to stop."""


class Piece(NamedTuple):
    records: Records
    watermark: int | None  # ts_known up to which the database had everything


class Warmer:
    """Fills `boards`, whose arenas are new. `run` returns when they are full, when patience ends, or on the stop."""

    def __init__(self, link: QueryLink, kernel: Kernel, journal_directory: Path, boards: Sequence[Board]) -> None:
        self._link = link
        self._kernel = kernel
        self._journal_directory = journal_directory
        self._boards = list(boards)
        self._committed: int | None = None
        # (instrument, ring) -> greatest seq that the ring has: the writer may commit between two answers, so that one
        # ring has what another lacks
        self._newest: dict[tuple[int, str], int] = {}

    def run(self, turn: Turn) -> None:
        """`turn` is called while answers are awaited."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        rows = 0
        rings = [(board, ring) for board in self._boards for ring in self._lacking(board)]
        for number, (board, ring) in enumerate(rings):
            try:
                rows += self._fill(board, ring, deadline, turn)
            except Ended:
                if not turn():
                    return  # nothing was published: the successor finds the arenas as new as they were
                _log.warning(
                    "the rings are not filled from the database: it did not answer in time",
                    extra={"action": "warming_cut"},
                )
                for lacking, name in rings[number:]:
                    lacking.lacks_past(name)
                self._follow_journal()
                return
        self._follow_journal()
        _log.info(
            "filled %d arenas with %d rows of the database",
            len(self._boards),
            rows,
            extra={"action": "warmed", "rows": rows},
        )

    def _lacking(self, board: Board) -> list[str]:
        """The rings that the arena before this one left nothing to; of the others it has all up to its last moment."""
        if board.heritage is None:
            return list(board.rings)
        for ring in board.heritage.rings:
            self._newest[board.state.instrument.id, ring] = board.heritage.cut.seq
        return [ring for ring in board.rings if ring not in board.heritage.rings]

    def _fill(self, board: Board, ring: str, deadline: float, turn: Turn) -> int:
        """How many rows of the database the ring got. Raises Ended, and then it got none."""
        stream, *rest = ring.split(".")
        kind, capacity = self._kernel.kinds.by_name(stream), board.rings[ring]
        request = _request(board.state.instrument.name, stream, rest)
        pieces: list[Records] = []
        count, is_complete = 0, False
        most = min(protocol.MAX_RECORDS, max(1, PIECE_BYTES // kind.dtype.itemsize))
        while count < capacity and not is_complete:
            request.limit = min(capacity - count, most)
            piece = self._ask(request, kind, deadline, turn)
            if piece is None:
                board.lacks_past(ring)
                return 0
            is_complete = len(piece.records) < request.limit
            records = piece.records
            if not is_complete and request.limit < capacity - count:
                records = _without_oldest_moment(kind, records)
            if not len(records):
                break  # more at one moment than an answer holds: the ring reaches back to there
            pieces.insert(0, records)
            count += len(records)
            # what was committed since the first piece comes from the journal
            request.known_at = piece.watermark if request.known_at is None else request.known_at
            request.end = int(records[kind.time][0])
        if count:
            found = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            # an import's rows have sequence numbers of their own; a ring's order is that of the live lane after them
            board.fill(ring, found, complete=is_complete)
            self._newest[board.state.instrument.id, ring] = int(found["seq"].max())
        return count

    def _ask(self, request: Bars | Rows, kind: Kind, deadline: float, turn: Turn) -> Piece | None:
        """The database's answer; None when it will never give one. Raises Ended."""
        poller = zmq.Poller()
        poller.register(self._link.socket, zmq.POLLIN)
        while time.monotonic() < deadline and turn():
            if not self._link.busy:
                self._link.ask(request)
            poller.poll(round(ASK_AGAIN_SECONDS * 1000))
            taken = self._link.take()
            if taken is None:
                continue
            answer, payloads = taken
            if isinstance(answer, Answer):
                return Piece(self._read(answer, payloads, kind), answer.meta.watermark)
            if answer.code == "unknown_instrument":
                return Piece(np.empty(0, kind.dtype), None)  # the database has never heard of it
            if answer.code not in PASSING:
                _log.error(
                    "%s's %s is not filled from the database: %s",
                    request.symbol,
                    kind.name,
                    answer.message,
                    extra={"action": "warming_refused", "instrument": request.symbol, "code": answer.code},
                )
                return None
            time.sleep(ASK_AGAIN_SECONDS)
        raise Ended

    def _read(self, answer: Answer, payloads: list[bytes], kind: Kind) -> Records:
        # what is committed between two answers may come twice: from the database and from the journal
        offset = answer.meta.committed_offset or 0
        self._committed = offset if self._committed is None else min(self._committed, offset)
        count = answer.parts[0].count
        if kind.name == "book" and count:  # those of a database may be of another depth
            return read_books(kind, len(payloads[0]) // count, payloads[0])
        return np.frombuffer(payloads[0], dtype=kind.dtype)

    def _follow_journal(self) -> None:
        """What the database has not: the journal's frames from its offset on."""
        boards = {board.state.instrument.id: board for board in self._boards}
        with JournalReader(self._journal_directory) as reader:
            offset = max(self._first_unseen(), reader.oldest)
            while frames := reader.read(offset, None, READ_BYTES):
                offset = frames[-1].end
                for frame in frames:
                    board = boards.get(frame.instrument)
                    if board is not None and not frame.is_checkpoint:
                        board.write(self._unseen(board, lot_of(frame, self._kernel, board.state)))
        for board in self._boards:
            board.publish_as_is(offset)

    def _first_unseen(self) -> int:
        """The journal's offset before which no ring lacks anything."""
        return min((self._first_unseen_of(board) for board in self._boards), default=0)

    def _first_unseen_of(self, board: Board) -> int:
        if board.heritage is None or self._lacking(board):
            return self._committed or 0
        return max(0, board.heritage.cut.journal_offset)  # below 0: its newest records are in no journal

    def _unseen(self, board: Board, lot: Lot) -> Lot:
        """The lot without what its rings have from the database."""
        unseen: list[tuple[Kind, Buffer]] = []
        for kind, records in lot.rows:
            newest = [
                self._newest.get((lot.state.instrument.id, ring), _NONE) for ring in board.rings_of(kind, records)
            ]
            later = records[records["seq"] > np.array(newest, dtype=np.int64)]
            if len(later):
                unseen.append((kind, later))
        return msgspec.structs.replace(lot, data=unseen)


def _request(symbol: str, stream: str, rest: Sequence[str]) -> Bars | Rows:
    """What a ring holds, asked of the database. `rest`: a ring's name after its kind: timeframe, a bar's source."""
    if stream != "candle":
        return Rows(symbol=symbol, stream=stream, timeframe=parse_timeframe(rest[0]) if rest else None)
    timeframe, source = rest
    return Bars(
        symbol=symbol, timeframes=[parse_timeframe(timeframe)], bar_source="own" if source == "own" else "venue"
    )


def _without_oldest_moment(kind: Kind, records: Records) -> Records:
    """Of the oldest moment there may be more than came along: it is asked for again, whole."""
    times = records[kind.time]
    later: Records = records[times > times[0]]
    return later
