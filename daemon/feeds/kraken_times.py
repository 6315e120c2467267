"""When a trade of a given id was: for a venue whose trades can be fetched from a time on, but not from an id on. Pure.

Trades that were seen are marks: their ids and times. From the nearest mark before an id the venue is asked exactly.
Where there is none near (after a restart), a time is guessed from the marks around; an answer that begins too late
shows that the guess was one, and makes the next one better.
"""

from __future__ import annotations

from bisect import bisect_left

from marketd.market.times import NS_PER_SECOND, NS_PER_US

KEPT_MARKS = 512
MARK_EVERY = 100  # ids; a page of 1000 that begins at the mark before holds 900 that were wanted
NEAR = 5000  # ids from a mark to what is wanted: a few pages
DEFAULT_SPACING_NS = NS_PER_SECOND  # between two trades, before anything is known
_EARLY = 0.9  # of the way to where a trade should be: too early costs a page, too late another guess


class TradeTimes:
    """The marks of one symbol."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._times: list[int] = []
        self._guessed = False
        self._guesses = 0  # one after the other
        self._misses = 0
        self._asked_ns = 0
        self._bound = (0, 0)  # an id, and a time after which it is the first: what is before it is before that time
        self._spacing_ns = DEFAULT_SPACING_NS

    def see(self, trade_id: int, ts_ns: int) -> None:
        """A trade, of the stream or of an answer."""
        place = bisect_left(self._ids, trade_id)
        if place and trade_id - self._ids[place - 1] < MARK_EVERY:
            return
        if place < len(self._ids) and self._ids[place] == trade_id:
            return
        self._ids.insert(place, trade_id)
        self._times.insert(place, ts_ns)
        if len(self._ids) > KEPT_MARKS:
            del self._ids[0], self._times[0]

    def since(self, first_id: int) -> int | None:
        """The time (ns) from which to ask for trade `first_id`; None: for the newest ones."""
        place = bisect_left(self._ids, first_id)
        is_near = place > 0 and (place == len(self._ids) or first_id - self._ids[place - 1] <= NEAR)
        self._guessed = not is_near
        self._guesses = self._guesses + 1 if self._guessed else 0
        if is_near:
            return self._times[place - 1] - NS_PER_US  # the venue rounds its times
        if not self._ids:
            return None
        self._asked_ns = self._guess(first_id, place)
        return self._asked_ns

    def _guess(self, first_id: int, place: int) -> int:
        above_id, above_ns = self._ids[place], self._times[place]
        if self._bound[0] == above_id:
            above_ns = min(above_ns, self._bound[1])
        if place:
            below_id, below_ns = self._ids[place - 1], self._times[place - 1]
            # by the mean rhythm and by halves in turn: a market that was quiet and then busy has no mean rhythm
            share = (first_id - below_id) / (above_id - below_id) * _EARLY if self._guesses % 2 else 0.5
            return below_ns + int((above_ns - below_ns) * share) - NS_PER_US
        back_ns = (above_id - first_id + MARK_EVERY) * self._spacing_ns << min(self._misses, 40)
        return max(0, above_ns - back_ns)

    def begins_too_late(self, first_id: int, ids: list[int], times: list[int]) -> bool:
        """Whether an answer (ascending) was guessed wrong: what was wanted lies before it, and may well exist."""
        if not ids:
            return False
        self.see(ids[0], times[0])
        self.see(ids[-1], times[-1])
        if not self._guessed or ids[0] <= first_id:
            self._misses = 0
            return False
        self._misses += 1
        self._bound = ids[0], self._asked_ns or times[0]
        if len(ids) > 1:
            self._spacing_ns = max(1, (times[-1] - times[0]) // (ids[-1] - ids[0]))
        return self._misses <= 64  # then the venue has none before
