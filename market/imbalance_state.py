"""The imbalance kernel's state as bytes, for the journal's checkpoint: `ImbalanceKernel.state` and `restore`."""

from __future__ import annotations

import msgspec

from marketd.market.errors import InvalidArgument

VERSION = 1


class ImbalanceState(msgspec.Struct, array_like=True):
    version: int
    now_ns: int
    closed: list[tuple[int, bytes]]  # ends of seconds that wait for the grace, and their records
    state: int
    figures: list[int]
    ratio: int | None
    weighted: int
    defined_ns: int
    seconds: list[tuple[int, int]]
    volumes: list[tuple[int, str, str]]  # as text: hostile sums may leave the 64 bits that msgpack has
    trades_since_ns: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ImbalanceState)
encode = _encoder.encode


def decode(state: bytes | memoryview) -> ImbalanceState:
    """InvalidArgument if these bytes are no state of this version."""
    try:
        decoded = _decoder.decode(state)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"state: these bytes are no state of an imbalance ({error})", field="state") from None
    if decoded.version != VERSION:
        raise InvalidArgument(f"state: version {decoded.version} cannot be read, {VERSION} can", field="state")
    return decoded
