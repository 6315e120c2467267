"""Which trade ids an instrument has had, in bounded memory, to tell a repeated trade from a new one.

Venues count their trades, so the ids seen are a few intervals, mostly one that grows at its end. Ids that are no
integers come as 64-bit hashes (TradeFlag.HASHED_ID); of these the newest `MAX_HASHED` are known.

What is forgotten is not "seen": the oldest intervals go when there are too many, and an id older than what is
kept passes as new (a repair). The database's unique key has the last word on it.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from itertools import islice

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.market.errors import InvalidArgument
from marketd.market.records import Records, TradeFlag

MAX_INTERVALS = 10_000
MAX_HASHED = 100_000
_SURPLUS = 2  # intervals are cut when there are so many times too many: cutting costs a move of them all

_HASHED = int(TradeFlag.HASHED_ID)
_VERSION = 1
_unpack = struct.Struct("<q").unpack

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def hashed_id(text: str | bytes) -> int:
    """The 64-bit hash (BLAKE2b) of a venue's trade id that is no integer."""
    digest = hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=8).digest()
    number: int = _unpack(digest)[0]
    return number | 1  # odd: never ABSENT


class _State(msgspec.Struct, array_like=True):
    version: int
    starts: bytes
    ends: bytes
    hashed: bytes


_decoder = msgspec.msgpack.Decoder(_State)


class TradeIds:
    """The trade ids of one instrument. Nothing here judges the other fields of a trade."""

    def __init__(self, *, max_intervals: int = MAX_INTERVALS, max_hashed: int = MAX_HASHED) -> None:
        self._max_intervals = max_intervals
        self._max_hashed = max_hashed
        # [start, end] inclusive, ascending, never touching
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._hashed: dict[int, None] = {}  # in the order of arrival

    @property
    def last(self) -> int | None:
        """The greatest integer id, or None."""
        return self._ends[-1] if self._ends else None

    def seen(self, trade_id: int, flags: int = 0) -> bool:
        if flags & _HASHED:
            return trade_id in self._hashed
        if not self._ends or trade_id > self._ends[-1]:
            return False
        index = bisect_right(self._starts, trade_id) - 1
        return index >= 0 and trade_id <= self._ends[index]

    def add_one(self, trade_id: int, flags: int = 0) -> None:
        """Remember an id; one that is known stays known."""
        if flags & _HASHED:
            self._add_hashed([trade_id])
        elif self._ends and trade_id == self._ends[-1] + 1:
            self._ends[-1] = trade_id
        else:
            self._add_interval(trade_id, trade_id)

    def add_new(self, trade_id: int, flags: int = 0) -> bool:
        """As `add_one`; False, and nothing has changed, when the id is known."""
        ends = self._ends
        if not flags & _HASHED and ends and trade_id == ends[-1] + 1:
            ends[-1] = trade_id  # the way of nearly all trades
            return True
        if self.seen(trade_id, flags):
            return False
        self.add_one(trade_id, flags)
        return True

    def repeated(self, trades: Records) -> Mask | None:
        """Which TRADE records repeat an id, of an earlier batch or of this one, shape (n,); None when none does."""
        hashed = (trades["flags"] & _HASHED) != 0
        ids = trades["trade_id"]
        if not hashed.any():
            return self._repeated_integers(ids)
        mask = np.zeros(len(trades), dtype=bool)
        integers = self._repeated_integers(ids[~hashed])
        if integers is not None:
            mask[~hashed] = integers
        mask[hashed] = self._repeated_hashes(ids[hashed])
        return mask if mask.any() else None

    def add(self, trades: Records) -> None:
        """Remember the ids of TRADE records."""
        if len(trades) == 1:
            self.add_one(int(trades["trade_id"][0]), int(trades["flags"][0]))
            return
        hashed = (trades["flags"] & _HASHED) != 0
        ids = trades["trade_id"]
        if hashed.any():
            self._add_hashed(ids[hashed].tolist())
            ids = ids[~hashed]
        if len(ids):
            if (ids[1:] < ids[:-1]).any():
                ids = np.sort(ids)
            # no difference is taken: that of two far ids leaves 64 bits
            breaks = np.flatnonzero(ids[1:] - 1 > ids[:-1])
            starts = ids[np.concatenate(([0], breaks + 1))].tolist()
            ends = ids[np.concatenate((breaks, [len(ids) - 1]))].tolist()
            for start, end in zip(starts, ends, strict=True):
                self._add_interval(start, end)

    def remove(self, trades: Records) -> None:
        """Forget the ids of TRADE records that were added but could not be kept after all."""
        for trade_id, flags in zip(trades["trade_id"].tolist(), trades["flags"].tolist(), strict=True):
            if flags & _HASHED:
                self._hashed.pop(trade_id, None)
            elif self.seen(trade_id):
                index = bisect_right(self._starts, trade_id) - 1
                start, end = self._starts[index], self._ends[index]
                left = [(a, b) for a, b in ((start, trade_id - 1), (trade_id + 1, end)) if a <= b]
                self._starts[index : index + 1] = [a for a, _ in left]
                self._ends[index : index + 1] = [b for _, b in left]

    def _repeated_integers(self, ids: Ints) -> Mask | None:
        if not len(ids):
            return None
        rising = bool((ids[1:] > ids[:-1]).all())
        if rising and (not self._ends or int(ids[0]) > self._ends[-1]):
            return None  # the usual batch: new ids in order
        mask = self._known(ids)
        if not rising:
            _, first = np.unique(ids, return_index=True)
            again = np.ones(len(ids), dtype=bool)
            again[first] = False
            mask |= again
        return mask if mask.any() else None

    def _known(self, ids: Ints) -> Mask:
        if not self._ends:
            return np.zeros(len(ids), dtype=bool)
        index = np.searchsorted(np.array(self._starts), ids, "right") - 1
        known: Mask = (index >= 0) & (ids <= np.array(self._ends)[index])
        return known

    def _repeated_hashes(self, ids: Ints) -> Mask:
        here: set[int] = set()
        mask = np.zeros(len(ids), dtype=bool)
        for index, trade_id in enumerate(ids.tolist()):
            mask[index] = trade_id in self._hashed or trade_id in here
            here.add(trade_id)
        return mask

    def _add_interval(self, start: int, end: int) -> None:
        # every interval that overlaps or touches [start, end] becomes one with it
        low = bisect_right(self._ends, start - 2)
        high = bisect_right(self._starts, end + 1)
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        if len(self._starts) > self._max_intervals * _SURPLUS:
            del self._starts[: -self._max_intervals]
            del self._ends[: -self._max_intervals]

    def _add_hashed(self, ids: list[int]) -> None:
        self._hashed.update(dict.fromkeys(ids))
        surplus = len(self._hashed) - self._max_hashed
        if surplus > 0:
            for trade_id in list(islice(self._hashed, surplus)):
                del self._hashed[trade_id]

    # ---- the checkpoint -------------------------------------------------------------------------

    def state(self) -> bytes:
        # fromiter: a third of the time of array() on a list, and this is done while the market waits
        parts = (self._starts, self._ends, self._hashed)
        packed = (np.fromiter(part, dtype="<i8", count=len(part)).tobytes() for part in parts)
        return msgspec.msgpack.encode(_State(_VERSION, *packed))

    def restore(self, state: bytes | memoryview) -> None:
        """Take over what another had seen. InvalidArgument if these bytes are no such state."""
        try:
            other = _decoder.decode(state)
        except msgspec.MsgspecError as error:
            raise InvalidArgument(f"state: these bytes are no state of trade ids ({error})", field="state") from None
        if other.version != _VERSION:
            raise InvalidArgument(f"state: version {other.version} cannot be read, {_VERSION} can", field="state")
        self._starts = np.frombuffer(other.starts, dtype="<i8").tolist()
        self._ends = np.frombuffer(other.ends, dtype="<i8").tolist()
        self._hashed = dict.fromkeys(np.frombuffer(other.hashed, dtype="<i8").tolist())
