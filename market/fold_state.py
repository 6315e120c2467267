"""The fold's state as bytes, for the journal's checkpoint: `BarFold.state` writes and `restore` reads it."""

from __future__ import annotations

import msgspec
import numpy as np

from marketd.market.bar_rows import WORDS, Rows
from marketd.market.errors import InvalidArgument

VERSION = 1


class OpenState(msgspec.Struct, array_like=True):
    """A forming bar: 14 words, and how many trades its version had that was given out early."""

    timeframe: int
    bar: list[int]
    given: int


class KeptState(msgspec.Struct, array_like=True):
    """The closed bars of one timeframe, as the bytes of their rows."""

    timeframe: int
    complete_from: int | None
    born_ns: int
    rows: bytes


class FoldState(msgspec.Struct, array_like=True):
    version: int
    scales: tuple[int, int, int]
    newest_ns: int
    since_ns: int | None
    gaps: list[tuple[int, int]]
    kept: list[KeptState]
    open: list[OpenState]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FoldState)
encode = _encoder.encode


def decode(state: bytes | memoryview) -> FoldState:
    """InvalidArgument if these bytes are no state of this version."""
    try:
        decoded = _decoder.decode(state)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"state: these bytes are no state of a fold ({error})", field="state") from None
    if decoded.version != VERSION:
        raise InvalidArgument(f"state: version {decoded.version} cannot be read, {VERSION} can", field="state")
    return decoded


def rows_of(kept: KeptState) -> Rows:
    return np.frombuffer(kept.rows, dtype=np.int64).reshape(-1, WORDS)
