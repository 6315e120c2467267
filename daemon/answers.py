"""How an answer's records leave: as they are (`records`, `copy`) or for clients that are not ours (`json`, `arrow`).

`records` is the kind's dtype, `copy` PostgreSQL's binary COPY, newest row first and every source, where the rows came
straight from the database's tables (out of packed blocks or compressed batches they are `records`). `packed` is the
same, but where packed blocks have all of the answer they leave as they are: a tenth of the bytes, and the caller
unpacks them and cuts off what he has not asked for. `json` and `arrow` are columns in real numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from marketd.ipc.protocol import MAX_PAYLOAD_BYTES, Format, ResultPart
from marketd.market.activity_specs import real_thresholds
from marketd.market.bars import finish_bars
from marketd.market.errors import AnswerTooLarge, InvalidArgument
from marketd.market.fixed import to_real
from marketd.market.instruments import Instrument
from marketd.market.ordering import by_time
from marketd.market.records import ACTIVITY_BAR, CANDLE, Kind, Records
from marketd.market.rows import codec
from marketd.sql.read import CopiedRows
from marketd.sql.read_packed import WholeBlocks

_AS_THEY_CAME = ("copy", "packed")


class MadeOf(NamedTuple):
    """Of bars that are not stored: those of `timeframe` (s) that they are made of when they are asked for, from `since`
    (ns) on; what is older the database has made before.
    """

    timeframe: int
    since: int


class Result(NamedTuple):
    """Records of one part of an answer: as the database copied them out, or decoded (oldest first)."""

    name: str
    kind: Kind
    copied: CopiedRows | None
    records: Records | None
    bar_source: str = ""
    limit: int | None = None
    made_of: MadeOf | None = None


class Rendered(NamedTuple):
    part: ResultPart
    data: Any


def render(result: Result, instrument: Instrument, wanted: Format) -> Rendered:
    """The result in the format a client asked for. InvalidArgument when this daemon cannot make it."""
    name, kind, copied = result.name, result.kind, result.copied
    if copied is not None and copied.blocks is not None and wanted == "packed":
        return _as_blocks(name, kind, copied.blocks)
    if copied is not None and copied.joined is None and copied.blocks is None and wanted in _AS_THEY_CAME:
        part = ResultPart(
            name=name, kind=kind.name, count=copied.size(), encoding="copy", table=copied.table, depth=_depth(kind)
        )
        return Rendered(part, copied.data)
    records = decoded(result)
    if wanted in ("records", *_AS_THEY_CAME):
        part = ResultPart(name=name, kind=kind.name, count=len(records), encoding="records", depth=_depth(kind))
        return Rendered(part, np.ascontiguousarray(records).view(np.uint8).data)
    columns = real_columns(kind, records, instrument)
    data = _to_json(columns) if wanted == "json" else _to_arrow(columns)
    part = ResultPart(name=name, kind=kind.name, count=len(records), encoding=wanted, depth=_depth(kind))
    return Rendered(part, data)


def _as_blocks(name: str, kind: Kind, blocks: WholeBlocks) -> Rendered:
    part = ResultPart(
        name=name,
        kind=kind.name,
        count=blocks.rows,
        encoding="packed",
        depth=_depth(kind),
        blocks=[len(data) for data in blocks.data],
        start=blocks.within.start,
        end=blocks.within.end,
    )
    return Rendered(part, b"".join(blocks.data))


def time_bounds(result: Result) -> tuple[int, int] | None:
    """The oldest and the newest time of its records, without making all of them; None: there are none."""
    copied, time = result.copied, result.kind.time
    if copied is not None and copied.blocks is not None:
        found = copied.blocks.times(time)
        # of the sources of a bar one counts
        times = np.unique(found) if result.kind.dtype is CANDLE else np.sort(found)
        times = times if result.limit is None else times[-result.limit :]
    # of more rows than are wanted, some are not in the answer: bars of other sources, and what is older
    elif copied is not None and copied.joined is None and (result.limit is None or copied.size() <= result.limit):
        return codec(copied.table, result.kind).time_bounds(copied.data)
    else:
        times = decoded(result)[time]
    return (int(times.min()), int(times.max())) if len(times) else None


def check_size(payloads: Sequence[Any]) -> None:
    """AnswerTooLarge for what is more than one message may carry."""
    size = sum(memoryview(payload).nbytes for payload in payloads)
    if size > MAX_PAYLOAD_BYTES:
        raise AnswerTooLarge(
            f"limit: the answer has {size} bytes, a message at most {MAX_PAYLOAD_BYTES}; ask for a shorter stretch, or "
            "in pages: with a limit, each ending at the oldest time of the one before",
            field="limit",
        )


def _depth(kind: Kind) -> int | None:
    """Levels a side, of records of books."""
    names = kind.dtype.names or ()
    return kind.dtype["bid_price"].shape[0] if "bid_price" in names else None


def decoded(result: Result) -> Records:
    """Its records, as a reader gets them."""
    if result.records is not None:
        return result.records
    assert result.copied is not None  # one of the two is set
    records = result.copied.records()
    if result.kind.dtype is CANDLE:
        return finish_bars(records, result.bar_source, result.limit)
    return finish_rows(records, result.limit)


def finish_rows(records: Records, limit: int | None, *, newest: bool = True) -> Records:
    """Records in the order of time and seq, oldest first; the newest (or oldest) `limit`."""
    time_field = (records.dtype.names or ("ts_event",))[0]
    ordered = by_time(records, time_field)
    if limit is None:
        return ordered
    return ordered[max(0, len(ordered) - limit) :] if newest else ordered[:limit]


def real_columns(kind: Kind, records: Records, instrument: Instrument) -> dict[str, Any]:
    """Columns as numpy arrays, prices and sizes as reals (NaN where absent), times as int ns."""
    columns: dict[str, Any] = {}
    for name in kind.dtype.names or ():
        role = kind.scales.get(name)
        if role is not None:
            columns[name] = to_real(records[name], instrument.scale(role))
        elif kind.dtype[name].kind == "S":
            columns[name] = np.char.decode(records[name], "utf-8", "replace")
        else:
            columns[name] = records[name]
    if kind.dtype is ACTIVITY_BAR:
        columns["threshold"] = real_thresholds(records["measure"], records["threshold"], instrument)
    return columns


def _to_json(columns: dict[str, Any]) -> bytes:
    return msgspec.json.encode({name: _json_values(values) for name, values in columns.items()})


def _json_values(values: Any) -> list[Any]:
    """Numbers, None where they are absent; of a field with many values a list for each record."""
    if values.ndim > 1:
        return [_json_values(row) for row in values]
    absent = np.isnan(values) if values.dtype.kind == "f" else values == _absent(values.dtype)
    return [None if missing else value for value, missing in zip(values.tolist(), absent.tolist(), strict=True)]


def _absent(dtype: np.dtype[Any]) -> Any:
    return np.iinfo(dtype).min if dtype.kind == "i" else None


def _to_arrow(columns: dict[str, Any]) -> bytes:
    try:
        import pyarrow as pa  # an extra: only clients that ask for Arrow need it here
    except ImportError:
        raise InvalidArgument(
            "format: this daemon has no pyarrow; install marketd[parquet] where it runs, or ask for 'records'",
            field="format",
        ) from None
    table = pa.table({name: _arrow_values(pa, values) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _arrow_values(pa: Any, values: Any) -> Any:
    """A column; of a field with many values a list of fixed size for each record."""
    flat = np.ascontiguousarray(values)
    return flat if flat.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat.reshape(-1), flat.shape[1])
