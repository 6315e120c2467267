"""Frames as pandas and Arrow, and the words when a library is not there."""

import builtins
from typing import Any

import numpy as np
import pytest

from fake_daemon import BTC, CANDLE, TRADE, candles, trades
from marketd.client.export import MissingExtra
from marketd.client.frames import Frame
from marketd.market.times import ABSENT


def test_a_dataframe_has_a_utc_time_index_and_the_other_columns() -> None:
    pandas = pytest.importorskip("pandas")
    data = Frame(TRADE, BTC, trades(range(3))).to_pandas()
    assert isinstance(data.index, pandas.DatetimeIndex)
    assert str(data.index.tz) == "UTC" and data.index.name == "time"
    assert data.index[1] == pandas.Timestamp("1970-01-01T00:00:01.001+00:00")
    assert data["price"].tolist() == [100.0, 100.01, 100.02] and "time" not in data.columns
    assert str(data["ts_known"].dt.tz) == "UTC"


def test_a_dataframe_is_a_copy() -> None:
    pytest.importorskip("pandas")
    frame = Frame(TRADE, BTC, trades(range(3)))
    data = frame.to_pandas()
    data.loc[:, "price"] = 0.0
    assert frame["price"][0] == 100.0


def test_arrow_has_nulls_where_a_number_is_absent() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    records = candles(range(2))
    records["quote_volume"][1] = ABSENT
    frame = Frame(CANDLE, BTC, records, extras={"is_filled": np.array([False, True])})
    table = pyarrow.table(frame)
    assert table.column_names == list(frame.columns)
    assert table["quote_volume"].null_count == 1 and table["is_filled"].to_pylist() == [False, True]
    assert table.schema.field("time").type == pyarrow.timestamp("ns", tz="UTC")


def test_an_empty_frame_goes_out_too() -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = Frame(TRADE, BTC, trades([]))
    assert isinstance(frame.to_pandas().index, pandas.DatetimeIndex)
    assert pyarrow.table(frame).num_rows == 0


@pytest.mark.parametrize(("library", "extra"), [("pandas", "pandas"), ("pyarrow", "parquet")])
def test_a_missing_library_is_named_with_its_extra(library: str, extra: str, monkeypatch: Any) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == library:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    frame = Frame(TRADE, BTC, trades(range(1)))
    with pytest.raises(MissingExtra, match=rf"marketd\[{extra}\]"):
        frame.to_pandas() if library == "pandas" else frame.__arrow_c_stream__()
