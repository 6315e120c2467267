"""`Frame`: an answer of marketd; raw records, shown as columns in real numbers.

The records are what was stored and sent, in fixed point; a column is made when it is asked for and kept. A frame is
read-only by convention: slices share memory with it. Bars can be laid on a grid (`Frame.grid`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from marketd.client import export, grid
from marketd.client.columns import Column, column_specs, flat_columns, make_column
from marketd.client.grid import Fill, Intervals
from marketd.ipc.protocol import Meta
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, Records
from marketd.market.times import NS_PER_SECOND, parse_time_ns, type_time

_NO_EXTRAS: Mapping[str, Column] = {}


class _Table:
    """What frames of the same records share: all but the stamps."""

    __slots__ = ("columns", "extras", "instrument", "kind", "records", "timeframe")

    def __init__(
        self,
        kind: Kind,
        instrument: Instrument,
        records: Records,
        timeframe: int | None,
        extras: Mapping[str, Column],
    ) -> None:
        self.kind = kind
        self.instrument = instrument
        self.records = records
        self.timeframe = timeframe
        self.extras = extras
        self.columns: dict[str, Column] = {}  # those that were made


class Frame:
    """Records of one kind of one instrument, oldest first.

    `records`: the raw structured array. `frame["price"]`: a column, shape (n,), or (n, width) where a record has many
    values of it (levels of a book, buckets); `frame["time"]` is int64 ns UTC.
    `frame[10:20]`, `frame[mask]`: another frame; `frame[-1]`: one row as a dict. `timeframe`: of bars, in seconds.
    """

    __slots__ = ("_table", "meta")

    def __init__(
        self,
        kind: Kind,
        instrument: Instrument,
        records: Records,
        meta: Meta | None = None,
        *,
        timeframe: int | None = None,
        extras: Mapping[str, Column] = _NO_EXTRAS,
    ) -> None:
        self._table = _Table(kind, instrument, records, timeframe, extras)
        self.meta = Meta() if meta is None else meta

    @property
    def kind(self) -> Kind:
        return self._table.kind

    @property
    def instrument(self) -> Instrument:
        return self._table.instrument

    @property
    def records(self) -> Records:
        """The raw structured array, shape (n,)."""
        return self._table.records

    @property
    def timeframe(self) -> int | None:
        """Of bars, in seconds."""
        return self._table.timeframe

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        what = self.kind.name if self.timeframe is None else f"{self.kind.name} {self.timeframe}s"
        columns = ", ".join(self.columns)
        return f"<{type(self).__name__} {what} of {self.instrument.name}: {len(self)} rows, columns {columns}>"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in the order of `to_numpy`."""
        return (*column_specs(self.kind), *self._table.extras)

    @property
    def extras(self) -> Mapping[str, Column]:
        """Columns that are no field of the records: `is_filled` and `is_observed` of a grid."""
        return self._table.extras

    @property
    def time_columns(self) -> frozenset[str]:
        """The columns that are times, int64 ns UTC."""
        return frozenset(name for name, spec in column_specs(self.kind).items() if spec.form == "time")

    @overload
    def __getitem__(self, key: str) -> Column: ...
    @overload
    def __getitem__(self, key: slice | npt.NDArray[Any]) -> Frame: ...
    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    def __getitem__(self, key: str | slice | npt.NDArray[Any] | int) -> Any:
        if isinstance(key, str):
            return self._column(key)
        if isinstance(key, (slice, np.ndarray)):
            extras = {name: values[key] for name, values in self.extras.items()} if self.extras else _NO_EXTRAS
            return self._with(self.records[key], extras)
        return self._row(key)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Rows as dicts, for people and JSON; numbers are read by the column."""
        columns = {name: self[name].tolist() for name in self.columns}
        return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))

    def _column(self, name: str) -> Column:
        found = self._table.columns.get(name)
        if found is None:
            found = self._table.columns[name] = self._make(name)
        return found

    def _make(self, name: str) -> Column:
        if name in self._table.extras:
            return self._table.extras[name]
        spec = column_specs(self.kind).get(name)
        if spec is None:
            raise InvalidArgument(f"columns: {name!r} is none of {', '.join(self.columns)}", field="columns")
        return make_column(self.kind, self.records, spec, self.instrument)

    def _row(self, index: int) -> dict[str, Any]:
        place = range(len(self))[index]  # IndexError in the usual words
        return next(iter(self[place : place + 1]))

    def _with(self, records: Records, extras: Mapping[str, Column]) -> Frame:
        return type(self)(self.kind, self.instrument, records, self.meta, timeframe=self.timeframe, extras=extras)

    def restamped(self, meta: Meta) -> Frame:
        """The same records under another `meta`; columns that were made once serve both."""
        other = Frame.__new__(Frame)  # on the path of every read of shared memory: a fraction of __init__'s time
        other._table, other.meta = self._table, meta
        return other

    # ---- ways out -------------------------------------------------------------------------------

    def to_numpy(
        self,
        columns: Sequence[str] | None = None,
        dtype: npt.DTypeLike = np.float64,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Columns side by side, shape (n, len(columns)); all numeric ones when none are named.

        A column with a width takes as many places as it has values. `out` is filled and returned when given (its dtype
        counts). A float64 holds a time in ns only to 256 ns.
        Raises InvalidArgument for an unknown column, an `out` of another shape, or reals asked for as integers.
        """
        names = [name for name in self.columns if self._is_numeric(name)] if columns is None else list(columns)
        parts = [(name, values) for name in names for _, values in flat_columns(name, self[name])]
        shape = (len(self), len(parts))
        if out is None:
            out = np.empty(shape, dtype=dtype)
        elif out.shape != shape:
            raise InvalidArgument(f"out: its shape is {out.shape}, the answer's is {shape}", field="out")
        for place, (name, values) in enumerate(parts):
            try:
                np.copyto(out[:, place], values, casting="same_kind")
            except TypeError:
                raise InvalidArgument(
                    f"columns: {name!r} is {values.dtype} and does not fit into {out.dtype}",
                    field="columns",
                ) from None
        return out

    def _is_numeric(self, name: str) -> bool:
        spec = column_specs(self.kind).get(name)
        return spec is None or spec.form != "text"

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a UTC DatetimeIndex named `time`. Needs the extra `marketd[pandas]`."""
        return export.to_pandas(self)

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`; times as timestamp[ns, UTC], absent values null. Needs `marketd[parquet]`."""
        return export.to_arrow(self)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Arrow's PyCapsule protocol.

        `polars.DataFrame(frame)`, `pyarrow.table(frame)`, duckdb. Needs `marketd[parquet]`.
        """
        return export.to_arrow(self).__arrow_c_stream__(requested_schema)

    @property
    def digest(self) -> str:
        """sha256 (hex) over the data: kind, layout, instrument, scales, records, further columns; not over `meta`."""
        i = self.instrument
        scales = f"{i.price_scale} {i.size_scale} {i.quote_scale}"
        state = hashlib.sha256(f"{self.kind.name} {self.kind.dtype.descr} {i.name} {scales} {len(self)}".encode())
        state.update(self.records.tobytes())
        for name, values in self._table.extras.items():
            state.update(f"{name} {values.dtype.str}".encode())
            state.update(values.tobytes())
        return state.hexdigest()

    def to_bytes(self) -> bytes:
        """The whole frame, self-contained and versioned; `Frame.from_bytes` reads it back."""
        from marketd.client import frame_bytes

        return frame_bytes.dump(self)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Frame:
        """The frame that `to_bytes` wrote; InvalidArgument if `data` is none, or is damaged."""
        from marketd.client import frame_bytes

        return frame_bytes.load(data)

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return Frame.from_bytes, (self.to_bytes(),)

    # ---- bars -----------------------------------------------------------------------------------

    def grid(
        self,
        start: type_time = None,
        end: type_time = None,
        fill: Fill = "quiet",
        observed: Intervals | Sequence[tuple[int, int]] | None = None,
    ) -> Frame:
        """The bars at exactly the aligned intervals that lie wholly in [start, end), and which are filled or observed.

        start, end: default to the first bar's open time and the last bar's end.
        observed: stretches [start_ns, end_ns) of event time in which the trades were received throughout (see
        `marketd.client.grid.observed_intervals`); a bar that is not PARTIAL is observed by itself.
        fill: `"quiet"` makes a missing bar flat at the previous close with volume 0 where it was observed,
        and NaN where it was not; `"nan"` leaves every missing bar NaN; None adds no rows. `source` of an
        added row is 0.
        """
        timeframe = self._timeframe()
        step = timeframe * NS_PER_SECOND
        times = self.records["ts"]
        if (start is None or end is None) and not len(times):
            raise InvalidArgument("start: a grid of no bars needs start and end", field="start")
        first = int(times[0]) if start is None else parse_time_ns(start, field="start")
        last = int(times[-1]) + step if end is None else parse_time_ns(end, field="end")
        cells = grid.open_times(first, last, timeframe)
        if fill is None:
            cells = cells[np.isin(cells, times)]
        laid = grid.lay_out(self.records, cells, timeframe, fill=fill or "nan", observed=grid.normalised(observed))
        extras = {"is_filled": laid.is_filled, "is_observed": laid.is_observed}
        return Frame(self.kind, self.instrument, laid.records, self.meta, timeframe=timeframe, extras=extras)

    def _timeframe(self) -> int:
        if self.kind.name != "candle":
            raise InvalidArgument(f"a grid is made of bars; these are records of {self.kind.name}", field="kind")
        found: set[int] = set(np.unique(self.records["timeframe"]).tolist())
        if self.timeframe is not None:
            found.add(self.timeframe)
        if len(found) != 1:
            raise InvalidArgument(f"a grid needs bars of one timeframe; here are {sorted(found)}", field="timeframe")
        return found.pop()
