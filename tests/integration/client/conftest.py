"""A fake daemon in shared memory, started for one test, and clients of it that are closed afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_daemon import FakeDaemon
from marketd.client.pipeline import DataIngestionPipeline
from marketd.client.provider import UnifiedDataProvider


@pytest.fixture
def daemon(runtime_dir: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(runtime_dir) as daemon:
        yield daemon


@pytest.fixture
def provider(daemon: FakeDaemon) -> Iterator[UnifiedDataProvider]:
    with UnifiedDataProvider(daemon.directory) as provider:
        yield provider


@pytest.fixture
def pipeline(daemon: FakeDaemon) -> Iterator[DataIngestionPipeline]:
    with DataIngestionPipeline(daemon.directory, name="test") as pipeline:
        yield pipeline
