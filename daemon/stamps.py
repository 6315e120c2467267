"""The stamps of knowledge: accepted records get `ts_known` and numbers, and their times whole microseconds. Pure."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from marketd.market.records import COVERAGE, Kind, Records
from marketd.market.times import ABSENT, NS_PER_US

SMALL_BATCH = 8  # up to here stamping with struct beats numpy
_TIMES = struct.Struct("<q")
_STAMPS = struct.Struct("<qqq")  # every kind begins with its time, ts_known and seq


def stamp(kind: Kind, records: Records, ts_known: int, seq: int) -> tuple[Any, Records]:
    """Copies of the records with their times floored to µs, `ts_known` and `seq` set: as a buffer and as an array."""
    if kind.dtype is COVERAGE:
        records = _floored_spans(records)
    count = len(records)
    if count <= SMALL_BATCH:
        data = bytearray(records.tobytes())
        size = kind.dtype.itemsize
        for index in range(count):
            at = index * size
            ts = _TIMES.unpack_from(data, at)[0]
            _STAMPS.pack_into(data, at, ts - ts % NS_PER_US, ts_known, seq + index)
        return data, np.frombuffer(data, dtype=kind.dtype)
    stamped = records.copy()
    stamped[kind.time] -= stamped[kind.time] % NS_PER_US
    stamped["ts_known"] = ts_known
    stamped["seq"] = np.arange(seq, seq + count)
    return stamped.view(np.uint8).data, stamped


def _floored_spans(events: Records) -> Records:
    """The ledger's events have two times more, which the database keeps to the microsecond too."""
    floored = events.copy()
    for name in ("ts_start", "ts_end"):
        times = floored[name]
        floored[name] = np.where(times == ABSENT, ABSENT, times - times % NS_PER_US)
    return floored
