"""A few trades as plain ints: read from the bytes that they came as, stamped, and made the body of a frame. Pure.

The live case of `daemon.kernel`, where a message has one trade: `struct` does in a fraction of the time what numpy does
for many, with the same bytes.
"""

from __future__ import annotations

from struct import Struct

from marketd.daemon.stamps import stamp
from marketd.ipc.frames import SECTION_BYTES, Body, Buffer, SectionInput, body_of
from marketd.market.records import BY_NAME, CANDLE, PRODUCER, TRADE, Kind, Records
from marketd.market.times import NS_PER_US

TRADE_BYTES, PRODUCER_BYTES = TRADE.itemsize, PRODUCER.itemsize
PRODUCER_ROW = Struct("<16sqii")
_TRADE_ROW = Struct("<6q2i")
_TRADE_KIND, _CANDLE_KIND = BY_NAME["trade"], BY_NAME["candle"]
_PRODUCER_ID = BY_NAME["producer"].id

# the body of one trade that closes nothing, and its number: two entries of the table, two records, no padding
_ONE_BODY = Struct("<HHIHHI6q2i16sqii")
_ONE_TABLE = (_TRADE_KIND.id, TRADE_BYTES, 1, _PRODUCER_ID, PRODUCER_BYTES, 1)
_TRADE_AT = 2 * SECTION_BYTES
_TRADE_END = _TRADE_AT + TRADE_BYTES
assert (_TRADE_ROW.size, PRODUCER_ROW.size) == (TRADE_BYTES, PRODUCER_BYTES)
assert _ONE_BODY.size == _TRADE_END + PRODUCER_BYTES and _ONE_BODY.size % 8 == 0

Trade = tuple[int, ...]  # a row of TRADE


def read_few(trades: bytes) -> list[Trade]:
    """The rows of TRADE records."""
    return [*_TRADE_ROW.iter_unpack(trades)]


def stamp_few(trades: list[Trade], ts_known: int, seq: int) -> list[Trade]:
    """As `stamps.stamp`: whole microseconds, `ts_known`, and numbers from `seq` on."""
    stamped: list[Trade] = []
    for ts, _, _, trade_id, price, size, side, flags in trades:
        stamped.append((ts - ts % NS_PER_US, ts_known, seq, trade_id, price, size, side, flags))
        seq += 1
    return stamped


def pack_few(
    stamped: list[Trade], closed: Records, ts_known: int, producer: bytes, batch: int
) -> tuple[Body, list[tuple[Kind, Buffer]]]:
    """The body of their frame, with the bars that they closed and the number of their batch; and what it shows."""
    count = len(stamped)
    if count == 1 and producer and not len(closed):
        data = _ONE_BODY.pack(*_ONE_TABLE, *stamped[0], producer, batch, 1, 1)
        return Body(2, data), [(_TRADE_KIND, data[_TRADE_AT:_TRADE_END])]
    rows = b"".join([_TRADE_ROW.pack(*row) for row in stamped])
    sections: list[SectionInput] = [(_TRADE_KIND.id, TRADE_BYTES, count, rows)]
    shown: list[tuple[Kind, Buffer]] = [(_TRADE_KIND, rows)]
    if len(closed):
        bars, _ = stamp(_CANDLE_KIND, closed, ts_known, stamped[-1][2] + 1)
        sections.append((_CANDLE_KIND.id, CANDLE.itemsize, len(closed), bars))
        shown.append((_CANDLE_KIND, bars))
    if producer:
        sections.append((_PRODUCER_ID, PRODUCER_BYTES, 1, PRODUCER_ROW.pack(producer, batch, count, count)))
    return body_of(sections), shown
