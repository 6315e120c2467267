"""How long reads took: a fixed set of counters, cheap enough for a path of a few microseconds."""

from __future__ import annotations

_SUBDIVISION_BITS = 2  # four buckets an octave: a quantile is at most 25 % too high, never too low
_BUCKETS = 64 << _SUBDIVISION_BITS


class Histogram:
    """Counts of durations in ns, in buckets that grow with the duration."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS

    def add(self, duration_ns: int) -> None:
        bits = duration_ns.bit_length()
        if bits <= _SUBDIVISION_BITS:
            self.counts[max(duration_ns, 0)] += 1
        else:
            shift = bits - 1 - _SUBDIVISION_BITS
            self.counts[(shift << _SUBDIVISION_BITS) + (duration_ns >> shift)] += 1

    def quantile(self, share: float) -> int | None:
        """An upper bound (ns) of the given share of all durations; None when there are none."""
        total = sum(self.counts)
        if not total:
            return None
        left = share * total
        for index, count in enumerate(self.counts):
            left -= count
            if left <= 0 and count:
                return _upper(index)
        return _upper(_BUCKETS - 1)


def _upper(index: int) -> int:
    """The greatest duration that falls into a bucket."""
    if index < 2 << _SUBDIVISION_BITS:
        return index
    shift = (index >> _SUBDIVISION_BITS) - 1
    return (((index & ((1 << _SUBDIVISION_BITS) - 1)) + (1 << _SUBDIVISION_BITS) + 1) << shift) - 1
