"""Where an import gets its instruments' ids: from the file of ids, or from the daemon that owns it."""

from __future__ import annotations

from typing import Protocol

from marketd.daemon.ingest_link import IngestLink
from marketd.daemon.registry import REGISTRY_NAME, Registry
from marketd.daemon.settings import Config
from marketd.market.instruments import Instrument


class Ids(Protocol):
    @property
    def registry(self) -> Registry: ...

    async def declare(self, wanted: list[Instrument]) -> list[tuple[Instrument, bool]]:
        """The instruments with their ids, and whether each is new here and must be journaled."""


class OwnIds:
    """No daemon runs: this process owns the file."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    async def declare(self, wanted: list[Instrument]) -> list[tuple[Instrument, bool]]:
        self.registry.check(wanted)
        return [self.registry.declare(each) for each in wanted]


class DaemonIds:
    """A daemon runs: its ingest assigns the ids, and journals what is new."""

    def __init__(self, link: IngestLink, config: Config) -> None:
        self._link = link
        self._config = config

    @property
    def registry(self) -> Registry:
        return Registry(self._config.state_path / REGISTRY_NAME, self._config.daemon_no, read_only=True)

    async def declare(self, wanted: list[Instrument]) -> list[tuple[Instrument, bool]]:
        return [(instrument, False) for instrument, _ in await self._link.declare(wanted)]
