"""OKX's book: the rule that joins its messages, and the checksum over its best 25 levels.

`seqId` numbers a state and `prevSeqId` names the one before; after maintenance a message can bear a smaller `seqId`
than its predecessor's, which it names all the same. A quiet book is confirmed once a minute by a message without
levels, `seqId` and `prevSeqId` equal. Recordings from before 2023 have no numbers; their checksums must do.

The checksum is the CRC32, as a signed 32-bit integer, of "bid price:bid size:ask price:ask size:…", the best level
first, 25 levels a side at most; where one side is shorter the other one goes on alone. It is over the texts of the
messages, which have no needless zeros ("8477", "0.5"), so that it follows from the fixed-point numbers. Since 23 June
2026 the venue sends a checksum of 0, which means none; older recordings have it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from marketd.daemon.feeds.adapter import BookDelta, BookRule, Fit
from marketd.market import compiled
from marketd.market.fixed import format_fixed

if TYPE_CHECKING:
    from marketd.market.book import OrderBook
    from marketd.market.instruments import Instrument

DEPTH = 400  # of the channel `books`
# Channels of books and their levels a side. `books` is subscribed; the quick ones, for which the venue wants a login,
# are read where a recording has them.
DEPTHS = {"books": DEPTH, "books-l2-tbt": DEPTH, "books50-l2-tbt": 50}
CHECKSUM_LEVELS = 25

_texts_of_best = None if compiled.part is None else compiled.part.texts_of_best


def fit(sequence: int, delta: BookDelta) -> Fit:
    """Nothing but a repeated message is old: numbers can begin anew, so a smaller one tells nothing of its age."""
    if delta.previous == sequence or delta.previous is None:
        return Fit.NEXT
    return Fit.OLD if delta.last == sequence else Fit.GAP


def checksum(book: OrderBook, instrument: Instrument) -> int:
    """What the venue computes over this book."""
    price_scale, size_scale = instrument.price_scale, instrument.size_scale
    text = None if _texts_of_best is None else _texts_of_best(book, CHECKSUM_LEVELS, price_scale, size_scale)
    number = zlib.crc32(_text_of(book, price_scale, size_scale) if text is None else text)
    return number - 2**32 if number >= 2**31 else number


def _text_of(book: OrderBook, price_scale: int, size_scale: int) -> bytes:
    best = book.top(CHECKSUM_LEVELS)
    bids = [*zip(best.bid_prices, best.bid_sizes, strict=True)]
    asks = [*zip(best.ask_prices, best.ask_sizes, strict=True)]
    texts: list[str] = []
    for index in range(max(len(bids), len(asks))):
        for side in (bids, asks):
            if index < len(side):
                price, size = side[index]
                texts += (shortest(price, price_scale), shortest(size, size_scale))
    return ":".join(texts).encode()


def shortest(value: int, scale: int) -> str:
    """A fixed-point number without needless zeros: 847700 at scale 2 is "8477"."""
    text = format_fixed(value, scale)
    return text.rstrip("0").rstrip(".") if "." in text else text


def is_shortest(levels: Iterable[Any]) -> bool:
    """Whether the texts of levels have no needless zeros: only then can a checksum be computed from their numbers."""
    return not any("." in text and text[-1] in "0." for level in levels for text in (level[0], level[1]))


RULE = BookRule("stream", splice=fit, follows=fit, checksum=checksum, depth=DEPTH)
