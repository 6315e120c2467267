"""What is told of an answer's records without making them."""

from __future__ import annotations

import numpy as np
import pytest

from marketd.daemon.answers import Result, decoded, time_bounds
from marketd.market.records import BY_NAME, CANDLE
from marketd.market.rows import codec
from marketd.sql.read import CopiedRows

KIND = BY_NAME["candle"]


@pytest.mark.parametrize("limit", [None, 1, 2, 3, 5])
def test_times_are_those_of_the_records_that_are_answered(limit: int | None) -> None:
    """Of each bar a row for each source, the newest first, as the database gives them."""
    rows = np.zeros(6, CANDLE)
    rows["ts"] = [3000, 3000, 2000, 2000, 1000, 1000]
    rows["source"] = [1, 2, 1, 2, 1, 2]
    data = codec("candles", KIND).encode(np.ones(6, np.int32), rows)
    result = Result("candle.1m", KIND, CopiedRows("candles", KIND, data), None, "best", limit)
    times = decoded(result)["ts"]
    assert time_bounds(result) == (times.min(), times.max())


def test_of_no_records_there_are_no_times() -> None:
    data = codec("candles", KIND).encode(np.zeros(0, np.int32), np.zeros(0, CANDLE))
    assert time_bounds(Result("candle.1m", KIND, CopiedRows("candles", KIND, data), None, "best", 5)) is None
