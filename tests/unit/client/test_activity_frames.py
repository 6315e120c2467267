"""Bars by activity at the edge: real numbers, and a threshold in the unit of its measure, in every way out."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from fake_daemon import BTC
from marketd.client.frames import Frame
from marketd.daemon.answers import Result, render
from marketd.market.records import BY_NAME, Records, empty
from marketd.ops.rows import json_value, shown_columns, table_row

KIND = BY_NAME["activity_bar"]


def bars() -> Records:
    """One of each measure: 10 trades, 0.5 of the base, 10,000 of the quote."""
    records = empty(KIND, 3)
    for name in KIND.dtype.names or ():
        records[name] = 1
    records["measure"], records["threshold"] = [1, 2, 3], [10, 50_000, 10**12]
    records["ts_event"], records["ts_start"] = [3_000, 4_000, 5_000], [1_000, 1_000, 2_000]
    records["open"], records["volume"], records["quote_volume"] = 10_050, 150_000, 3 * 10**8
    return records


def test_columns_are_real_numbers_and_times_are_times() -> None:
    frame = Frame(KIND, BTC, bars())
    assert frame.columns[:3] == ("time", "ts_start", "threshold")
    assert frame["threshold"].tolist() == [10.0, 0.5, 10_000.0]
    assert (frame["open"][0], frame["volume"][0], frame["quote_volume"][0]) == (100.5, 1.5, 3.0)
    assert frame["time"].tolist() == [3_000, 4_000, 5_000]
    assert frame.time_columns >= {"time", "ts_start"}
    assert frame[frame["measure"] == 2]["threshold"].tolist() == [0.5]
    assert frame.to_numpy(["threshold"])[:, 0].tolist() == [10.0, 0.5, 10_000.0]
    assert Frame.from_bytes(frame.to_bytes()).digest == frame.digest


def test_people_and_programs_read_the_measure_as_a_word() -> None:
    frame = Frame(KIND, BTC, bars())
    row = {name: frame[name].tolist()[2] for name in shown_columns(frame)}
    shown = dict(zip(row, table_row(frame, row), strict=True))
    assert (shown["measure"], shown["threshold"], shown["open"]) == ("dollar", "10000", "100.5")
    assert json_value(frame, "measure", 1) == "tick"
    assert json_value(frame, "trade_count", 1.0) == 1


@pytest.mark.parametrize("wanted", ["json", "arrow"])
def test_clients_that_are_not_ours_get_the_same_thresholds(wanted: str) -> None:
    part, data = render(Result(KIND.name, KIND, None, bars()), BTC, wanted)  # type: ignore[arg-type]
    assert part.count == 3
    if wanted == "json":
        assert msgspec.json.decode(data)["threshold"] == [10.0, 0.5, 10_000.0]
    else:
        pa = pytest.importorskip("pyarrow")
        assert pa.ipc.open_stream(data).read_all()["threshold"].to_pylist() == [10.0, 0.5, 10_000.0]


def test_records_are_the_contract_with_readers_in_c() -> None:
    offsets = {name: field[1] for name, field in (KIND.dtype.fields or {}).items()}
    assert KIND.dtype.itemsize == 112
    assert (offsets["threshold"], offsets["trade_count"], offsets["flags"]) == (32, 96, 108)
    assert np.dtype(KIND.dtype).isalignedstruct is False  # packed, with every field at a multiple of its size
    assert all(offset % KIND.dtype[name].itemsize == 0 for name, offset in offsets.items())
