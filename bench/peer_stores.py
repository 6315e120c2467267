"""The same rows in what people use for such data: how many bytes each takes. Runs in an environment of its own.

    python peer_stores.py DIRECTORY      DIRECTORY/<number>.npy: the records of one instrument each, oldest first

Prints a line of JSON: {peer: {"bytes": …, "seconds": …}}. Each gets what suits it: columns of its own types (times in
µs), rows in the order of instrument and time, levels of books as lists (ArcticDB, which has no lists: a column a
level), its own defaults; and Parquet also with its best encodings, found column by column.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

STRONG = 9  # zstd's level of the tuned Parquet; higher ones take minutes and gain a per cent
ROW_GROUP = 1_000_000


def main(place: Path) -> None:
    parts = [np.load(path) for path in sorted(place.glob("*.npy"), key=lambda path: int(path.stem))]
    table = pa.concat_tables([_arrow(number, records) for number, records in enumerate(parts)]).combine_chunks()
    stores: dict[str, Callable[[Path], None]] = {
        "Parquet, zstd": lambda path: pq.write_table(table, path, compression="zstd"),
        "Parquet, zstd, tuned": lambda path: _tuned(table, path),
        "DuckDB": lambda path: _duckdb(table, path),
        "ArcticDB": lambda path: _arcticdb(parts, path),
    }
    told = {}
    for name, store in stores.items():
        path = place / name.replace(", ", "-").lower()
        began = time.perf_counter()
        store(path)
        told[name] = {"bytes": _bytes(path), "seconds": round(time.perf_counter() - began, 1)}
    print(json.dumps(told))


def _arrow(number: int, records: np.ndarray) -> pa.Table:
    columns = {"instrument_id": pa.array(np.full(len(records), number, dtype=np.int32))}
    for name in records.dtype.names or ():
        values = records[name]
        if name.startswith("ts"):
            columns[name] = pa.array(values // 1000, type=pa.timestamp("us", "UTC"))
        elif values.ndim == 2:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            columns[name] = pa.array(np.ascontiguousarray(values))
    return pa.table(columns)


def _tuned(table: pa.Table, path: Path) -> None:
    """With the smallest of Parquet's encodings for each column."""
    best: dict[str, str] = {}
    dictionary = []
    sample = table.slice(0, ROW_GROUP)
    for name in table.column_names:
        if pa.types.is_fixed_size_list(table.schema.field(name).type):
            continue
        sizes = {
            encoding: _column_bytes(sample.select([name]), path, encoding)
            for encoding in ("PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", "RLE_DICTIONARY")
        }
        smallest = min(sizes, key=lambda encoding: sizes[encoding])
        if smallest == "RLE_DICTIONARY":
            dictionary.append(name)
        else:
            best[name] = smallest
    lists = [f"{field.name}.list.element" for field in table.schema if pa.types.is_fixed_size_list(field.type)]
    best |= dict.fromkeys(lists, "DELTA_BINARY_PACKED")
    options = {"compression": "zstd", "compression_level": STRONG, "row_group_size": ROW_GROUP}
    pq.write_table(table, path, column_encoding=best, use_dictionary=dictionary or False, **options)


def _column_bytes(column: pa.Table, path: Path, encoding: str) -> int:
    name = column.column_names[0]
    ways = {"use_dictionary": True} if encoding == "RLE_DICTIONARY" else {"use_dictionary": False}
    if encoding != "RLE_DICTIONARY":
        ways["column_encoding"] = {name: encoding}
    pq.write_table(column, path, compression="zstd", compression_level=STRONG, **ways)
    return path.stat().st_size


def _duckdb(table: pa.Table, path: Path) -> None:
    import duckdb

    connection = duckdb.connect(str(path))
    connection.register("rows", table)
    connection.execute("CREATE TABLE stored AS SELECT * FROM rows")
    connection.execute("CHECKPOINT")
    connection.close()


def _arcticdb(parts: list[np.ndarray], path: Path) -> None:
    import arcticdb
    import pandas as pd

    path.mkdir()
    store = arcticdb.Arctic(f"lmdb://{path}?map_size=64GB")
    library = store.create_library("rows")
    for number, records in enumerate(parts):
        columns = dict(_flat_columns(records))
        time_name = "ts_event" if "ts_event" in columns else "ts"
        index = pd.DatetimeIndex(pd.to_datetime(columns.pop(time_name), unit="ns", utc=True), name=time_name)
        library.write(str(number), pd.DataFrame(columns, index=index))


def _flat_columns(records: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for name in records.dtype.names or ():
        values = records[name]
        if values.ndim == 2:
            for level in range(values.shape[1]):
                yield f"{name}_{level}", np.ascontiguousarray(values[:, level])
        else:
            yield name, np.ascontiguousarray(values)


def _bytes(path: Path) -> int:
    """On disk: a memory-mapped store's file has holes."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(min(each.stat().st_size, each.stat().st_blocks * 512) for each in files)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
