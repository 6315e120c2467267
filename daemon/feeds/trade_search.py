"""Finds where the trades of a stretch begin, at a venue that gives them by their numbers and not by their time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np

from marketd.daemon.feeds.adapter import Page
from marketd.market.records import Records

FIRST_STEP = 1_000  # ids back from the newest: a page, for a start


class TradeSearch:
    """`page_from` asks for the trades from an id on; ids are consecutive, and rise with time."""

    def __init__(self, page_from: Callable[[int], Awaitable[Page]]) -> None:
        self._page_from = page_from

    async def first_id(self, start_ns: int, last_id: int) -> int:
        """The id of the first trade at or after a time, at most `last_id`.

        Backwards from the newest in growing steps, then halving. Where the venue gives nothing from an id on although
        newer ones are there, it has forgotten those: the first is looked for behind.
        """
        high, step = last_id, FIRST_STEP
        low = max(0, high - step)
        while low > 0 and await self._is_at_or_after(low, start_ns):
            high, step = low, step * 4
            low = max(0, low - step)
        while low < high:  # it is within [low, high]
            middle = (low + high) // 2
            records = await self._from(middle)
            late = np.flatnonzero(records["ts_event"] >= start_ns)
            if not len(late):
                low = min(max(middle, int(records["trade_id"].max(initial=middle))) + 1, high)
            elif late[0] > 0:
                return int(records["trade_id"][late[0]])
            else:
                high = middle
        return low

    async def has(self, trade_id: int) -> bool:
        """Does the venue still give this one? Then it has not forgotten what follows."""
        return trade_id in ids_of(await self._page_from(trade_id))

    async def _is_at_or_after(self, trade_id: int, start_ns: int) -> bool:
        records = await self._from(trade_id)
        return bool(len(records)) and int(records["ts_event"][0]) >= start_ns

    async def _from(self, trade_id: int) -> Records:
        """The first readable trades from an id on; none where the venue gives none."""
        while True:
            page = await self._page_from(trade_id)
            ids = ids_of(page)
            if len(page.records) or not ids:
                return page.records
            trade_id = max(ids) + 1


def ids_of(page: Page) -> list[int]:
    """Of all trades in a page, those that broke a rule too."""
    ids: list[int] = page.records["trade_id"].tolist()
    return ids + [each.trade_id for each in page.rejected if each.trade_id is not None]


def from_id(page: Page, first_id: int) -> Page:
    """What a page has from an id on: a venue that is asked by time gives a little of what was before."""
    rejected = [each for each in page.rejected if each.trade_id is None or each.trade_id >= first_id]
    return page._replace(records=page.records[page.records["trade_id"] >= first_id], rejected=rejected)


def without_holes(page: Page) -> list[tuple[int, int, Page]]:
    """A page cut where ids are missing: first id, last id, and what is between."""
    ids = np.unique(np.array(ids_of(page), dtype=np.int64))
    if not len(ids):
        return []
    numbers = page.records["trade_id"]
    found = []
    for run in np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1):
        first, last = int(run[0]), int(run[-1])
        rejected = [each for each in page.rejected if each.trade_id is not None and first <= each.trade_id <= last]
        records = page.records[(numbers >= first) & (numbers <= last)]
        found.append((first, last, page._replace(records=records, rejected=rejected)))
    found[0][2].rejected.extend(each for each in page.rejected if each.trade_id is None)
    return found
