"""Records of books in messages: each sender has a depth of its own, so the size of the frame tells it."""

from __future__ import annotations

from marketd.ipc import protocol
from marketd.market.book_rows import depth_of_bytes, read_books
from marketd.market.errors import InvalidArgument, ProtocolError
from marketd.market.records import Kind, Records, book_kind


def read_part(kind: Kind, count: int, payload: bytes | memoryview) -> Records:
    """As `protocol.read_part`; books come at the depth that they were sent with. ProtocolError."""
    if kind.name == "book" and 0 < count <= protocol.MAX_RECORDS and len(payload) != count * kind.dtype.itemsize:
        try:
            kind = book_kind(depth_of_bytes(len(payload) // count))
        except InvalidArgument as error:
            raise ProtocolError(f"parts: {error}", field="parts") from None
    return protocol.read_part(kind, count, payload)


def read_fitting_part(kind: Kind, count: int, payload: bytes | memoryview) -> Records:
    """As `read_part`, brought to the depth of `kind`: deeper levels are cut."""
    records = read_part(kind, count, payload)
    if records.dtype == kind.dtype:
        return records
    return read_books(kind, records.dtype.itemsize, payload)
