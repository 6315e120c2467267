"""The tasks of a feed: named, in one group, so that the failure of one ends the feed and none outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """`async with` it; outside of that, and once it is `stopping`, nothing begins."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = asyncio.Event()

    @property
    def is_running(self) -> bool:
        return self._group is not None

    async def __aenter__(self) -> Tasks:
        group = asyncio.TaskGroup()
        self._group = await group.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        group, self._group = self._group, None
        assert group is not None
        await group.__aexit__(*error)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        if self._group is None or self.stopping.is_set():
            work.close()
            return None
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        for task in list(self._tasks):
            task.cancel()
