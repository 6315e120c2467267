"""Filling an arena that is new: from PostgreSQL up to what it has committed, then from the journal.

The arena outlives ingest, so this happens after a reboot, for a changed layout, or for an instrument that came
back. Until it is over the state is WARMING and nothing is served from it. A database that does not answer in time
costs the rings' past, nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import zmq

from marketd.daemon.kernel import Kernel, Lot
from marketd.daemon.publisher import Board
from marketd.daemon.query_link import QueryLink
from marketd.daemon.recovery import lot_of
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.protocol import Answer, Bars, Failure, Request, Rows
from marketd.market.records import BY_NAME, Kind, Records
from marketd.market.times import parse_timeframe

_log = logging.getLogger(__name__)

READ_BYTES = 8 << 20
PATIENCE_SECONDS = 20.0  # for the query actor to come up and the database to answer
ASK_AGAIN_SECONDS = 0.25
_NONE = -(2**63)  # below every seq

Turn = Callable[[], bool]  # what else must go on meanwhile; False: stop


class Warmer:
    """Fills `boards`, whose arenas are new. `run` returns when they are full, or when patience ends."""

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
        for board in self._boards:
            for request, ring, kind in self._requests(board):
                records = self._ask(request, kind, deadline, turn)
                if records is None:
                    _log.warning(
                        "the rings are not filled from the database: it did not answer in time",
                        extra={"action": "warming_cut"},
                    )
                    self._follow_journal()
                    return
                rows += self._fill(board, ring, kind, records)
        self._follow_journal()
        _log.info(
            "filled %d arenas with %d rows of the database",
            len(self._boards),
            rows,
            extra={"action": "warmed", "rows": rows},
        )

    def _requests(self, board: Board) -> Iterator[tuple[Request, str, Kind]]:
        name = board.state.instrument.name
        for ring, capacity in board.rings.items():
            if not ring.startswith("candle."):
                yield Rows(symbol=name, stream=ring, limit=capacity), ring, self._kernel.kinds.by_name(ring)
                continue
            _, frame, source = ring.split(".")
            request = Bars(
                symbol=name,
                timeframes=[parse_timeframe(frame)],
                limit=capacity,
                bar_source="own" if source == "own" else "venue",
            )
            yield request, ring, BY_NAME["candle"]

    def _ask(self, request: Request, kind: Kind, deadline: float, turn: Turn) -> Records | None:
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
            if isinstance(answer, Failure):
                if answer.code == "unknown_instrument":
                    return np.empty(0, kind.dtype)  # the database has never heard of it
                time.sleep(ASK_AGAIN_SECONDS)
                continue
            return self._read(answer, payloads, kind)
        return None

    def _read(self, answer: Answer, payloads: list[bytes], kind: Kind) -> Records:
        # what is committed between two answers may come twice: from the database and from the journal
        offset = answer.meta.committed_offset or 0
        self._committed = offset if self._committed is None else min(self._committed, offset)
        return np.frombuffer(payloads[0], dtype=kind.dtype)

    def _fill(self, board: Board, ring: str, kind: Kind, records: Records) -> int:
        # an import's rows have sequence numbers of their own; a ring's order is that of the live lane after them
        if len(records):
            board.fill(ring, records, complete=len(records) < board.rings[ring])
            self._newest[board.state.instrument.id, ring] = int(records["seq"].max())
        return len(records)

    def _follow_journal(self) -> None:
        """What the database has not: the journal's frames from its offset on."""
        boards = {board.state.instrument.id: board for board in self._boards}
        with JournalReader(self._journal_directory) as reader:
            offset = max(self._committed or 0, reader.oldest)
            while frames := reader.read(offset, None, READ_BYTES):
                offset = frames[-1].end
                for frame in frames:
                    board = boards.get(frame.instrument)
                    if board is not None and not frame.is_checkpoint:
                        board.show(self._unseen(board, lot_of(frame, self._kernel, board.state)), frame.end)
        for board in self._boards:
            board.publish_as_is(offset)

    def _unseen(self, board: Board, lot: Lot) -> Lot:
        """The lot without what its rings have from the database."""
        rows = []
        for kind, records in lot.rows:
            newest = [
                self._newest.get((lot.state.instrument.id, ring), _NONE) for ring in board.rings_of(kind, records)
            ]
            unseen = records[records["seq"] > np.array(newest, dtype=np.int64)]
            if len(unseen):
                rows.append((kind, unseen))
        return lot._replace(rows=rows)
