"""The actors: one process each, started by the supervisor or by hand (`marketd actor NAME`)."""

from __future__ import annotations

from collections.abc import Callable

from marketd.daemon.actor_base import Startable
from marketd.daemon.plan import FEED, INGEST, QUERY, STORAGE, WRITER, role_of, which_of
from marketd.daemon.settings import Config
from marketd.market.errors import InvalidArgument


def make_actor(name: str, config: Config, load_again: Callable[[], Config]) -> Startable:
    """The actor of a name, not yet started. Only its own modules are loaded."""
    role = role_of(name)
    if role == INGEST:
        from marketd.daemon.actors.ingest import IngestActor

        return IngestActor(name, config, load_again=load_again)
    if role == WRITER:
        from marketd.daemon.actors.writer import WriterActor

        return WriterActor(name, config, load_again=load_again)
    if role == STORAGE:
        from marketd.daemon.actors.storage import StorageActor

        return StorageActor(name, config, load_again=load_again)
    if role == QUERY:
        from marketd.daemon.actors.query import QueryActor

        return QueryActor(name, config, load_again=load_again)
    if role == FEED and which_of(name) in config.venues:
        from marketd.daemon.actors.feed import FeedActor

        return FeedActor(name, config, load_again=load_again)
    raise InvalidArgument(
        f"name: there is no actor {name!r}; there are ingest, writer, storage, query-N, feed-VENUE", field="name"
    )
