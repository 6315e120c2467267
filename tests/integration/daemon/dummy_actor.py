"""A real actor process that does nothing, for the supervisor's tests: `dummy_actor.py NAME --config FILE [--set …]`.

MARKETD_TESTS_DUMMY names its behaviour as JSON, by actor's name; what happens to it is appended to the file
`events` in the runtime directory, one `NAME EVENT` a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from marketd.daemon import metrics
from marketd.daemon.actor import AsyncActor, PollActor, run_and_exit
from marketd.daemon.config import load
from marketd.daemon.settings import Config

STARTS = metrics.counter("dummy_starts_total", "Starts of a dummy")


class Numbers(NamedTuple):
    symbols: int
    url: str


class Dummy:
    """What both flavours do."""

    name: str
    config: Config

    @property
    def behaviour(self) -> str:
        behaviours: dict[str, str] = json.loads(os.environ.get("MARKETD_TESTS_DUMMY", "{}"))
        return behaviours.get(self.name, "")

    def note(self, event: str) -> None:
        with (self.config.runtime_path / "events").open("a") as file:
            file.write(f"{self.name} {event}\n")

    def begin(self) -> None:
        self.note("started")
        STARTS.inc()
        if self.behaviour == "crash":
            raise RuntimeError("this dummy was told to crash")
        if self.behaviour == "hang in start":
            time.sleep(3600)

    def take_over(self, new: Config) -> None:
        if self.behaviour == "refuse":
            raise RuntimeError("this dummy takes over nothing")
        self.note(f"reloaded {sum(len(venue.symbols) for venue in new.venues.values())}")

    def statistics(self) -> Mapping[str, Any]:
        return {"numbers": Numbers(len(self.config.venues), self.config.database.url)}


class AsyncDummy(Dummy, AsyncActor):
    async def start(self) -> None:
        self.begin()
        if self.behaviour == "warm":
            self.become("warming")

    async def run(self) -> None:
        await self.stopping.wait()
        if self.behaviour == "hang":
            time.sleep(3600)

    async def drain(self) -> None:
        self.note("drained")
        if self.behaviour == "drain for ever":
            await asyncio.Event().wait()

    async def end(self) -> None:
        self.note("ended")

    async def reload(self, config: Config) -> None:
        self.take_over(config)


class PollDummy(Dummy, PollActor):
    def start(self) -> None:
        self.begin()

    def drain(self, deadline: float) -> None:
        self.note("drained")

    def end(self) -> None:
        self.note("ended")

    def reload(self, config: Config) -> None:
        self.take_over(config)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()

    def read() -> Config:
        return load(arguments.config, overrides=arguments.set)

    flavour = PollDummy if arguments.name == "ingest" else AsyncDummy
    run_and_exit(flavour(arguments.name, read(), load_again=read))
