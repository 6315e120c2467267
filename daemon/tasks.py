"""Background tasks that must not fail: the first one that does is reported, none is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Tasks:
    """Tasks of one owner, by name; `failed` is called with the error of each that fails."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._running: set[asyncio.Task[None]] = set()  # the loop alone holds tasks weakly

    def run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        self.watch(task)

    def watch(self, task: asyncio.Task[None]) -> None:
        """Report a task's failure; its end stays its owner's business."""
        task.add_done_callback(self._ended)

    async def cancel(self, *, but: str = "") -> None:
        """Cancel all tasks, except the one of that name, and wait for their end."""
        tasks = [task for task in self._running if task.get_name() != but]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed(error)
