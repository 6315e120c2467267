"""A frame as a pandas DataFrame or an Arrow table. Both libraries are optional and imported when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from marketd.client.columns import TIME, flat_columns
from marketd.market.errors import MarketdError

if TYPE_CHECKING:
    from marketd.client.frames import Frame


class MissingExtra(MarketdError, ImportError):
    """A library that is optional for marketd is not installed."""


def to_pandas(frame: Frame) -> Any:
    """A `pandas.DataFrame`: UTC DatetimeIndex named `time`, one column for each other column of the frame.

    A column with a width becomes as many: `bid_price_0`, `bid_price_1` …
    """
    try:
        import pandas
    except ImportError:
        raise _missing("pandas", "pandas", "to_pandas") from None
    index = pandas.to_datetime(frame[TIME], unit="ns", utc=True).rename(TIME)
    data = {
        flat: _series(pandas, frame, name, values)
        for name in frame.columns
        if name != TIME
        for flat, values in flat_columns(name, frame[name])
    }
    return pandas.DataFrame(data, index=index)


def _series(pandas: Any, frame: Frame, name: str, values: Any) -> Any:
    if name in frame.time_columns:
        return pandas.to_datetime(values, unit="ns", utc=True)  # an absent time is NaT: int64's minimum both
    if values.dtype.kind == "U":
        return values.astype(object)
    return np.array(values)  # a copy: what the caller does with the DataFrame leaves the frame alone


def to_arrow(frame: Frame) -> Any:
    """A `pyarrow.Table`: times as timestamp[ns, UTC], absent values null; a column with a width as lists of that
    length."""
    try:
        import pyarrow
    except ImportError:
        raise _missing("pyarrow", "parquet", "Arrow") from None
    arrays = {}
    for name in frame.columns:
        values = np.ascontiguousarray(frame[name])
        if name in frame.time_columns:
            dates = values.view("datetime64[ns]")  # int64's minimum is NaT, which becomes null
            arrays[name] = pyarrow.array(dates, type=pyarrow.timestamp("ns", tz="UTC"))
        elif values.ndim == 2:
            flat = pyarrow.array(values.reshape(-1), from_pandas=True)
            arrays[name] = pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            arrays[name] = pyarrow.array(values, from_pandas=True)
    return pyarrow.table(arrays)


def _missing(library: str, extra: str, what: str) -> MissingExtra:
    return MissingExtra(f"{what} needs {library}, which is not installed: pip install 'marketd[{extra}]'")
