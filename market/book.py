"""Order books: the classes that everybody uses, in C where that was built, else in Python (`plain_book.py`).

Both do the same. Of the ones in C an array is behind a `Levels` until somebody asks for its lists, and a book takes
only what fits into 64 bits (`Levels.is_possible` tells). The dicts `OrderBook.bids` and `.asks` are made anew for who
asks: nothing that is done for each message may ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketd.market import compiled
from marketd.market.plain_book import NO_ASK_EDGE, NO_BID_EDGE, BestLevels, Change, Levels, OrderBook

if not TYPE_CHECKING and compiled.part is not None:
    Levels, Change, OrderBook = compiled.part.Levels, compiled.part.Change, compiled.part.OrderBook

__all__ = ["NO_ASK_EDGE", "NO_BID_EDGE", "BestLevels", "Change", "Levels", "OrderBook"]
