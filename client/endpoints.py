"""How a client finds its daemon: an argument, `MARKETD_URL`, else the local daemon of the default instance.

/run/marketd  or  ipc:///run/marketd   the runtime directory of a daemon on this host
tcp://host:port                        a daemon elsewhere: `port` answers requests, `port + 1` takes producers,
                                       `port + 2` is the stream
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import NamedTuple

from marketd.ipc import paths
from marketd.ipc.presence import process_is_alive, read_presence
from marketd.ipc.sockets import somebody_listens
from marketd.market.errors import InvalidArgument, NotRunning

URL_VARIABLE = "MARKETD_URL"
Url = str | os.PathLike[str] | None
_TCP = re.compile(r"tcp://(?P<host>\[[^\]]+\]|[^:/]+):(?P<port>\d{1,5})/?")


class Endpoints(NamedTuple):
    """Where a daemon's sockets are; `directory` is its runtime directory when it runs on this host."""

    query: str
    ingest: str
    stream: str
    directory: Path | None

    def url(self, address: str) -> str:
        """The socket of `query`, `ingest` or `stream`; of several query processes, any one."""
        if address == "query" and self.directory is not None:
            others = [f"ipc://{path}" for path in self.directory.glob("query-*.sock") if somebody_listens(path)]
            return random.choice([self.query, *others])
        return str(getattr(self, address))


def locate(url: Url = None) -> Endpoints:
    """The endpoints behind `url`; InvalidArgument when it is none."""
    text = os.fspath(url) if url is not None else os.environ.get(URL_VARIABLE, "")
    if not text:
        return _local(paths.runtime_dir())
    if text.startswith("tcp://"):
        return _remote(text)
    if "://" in text and not text.startswith("ipc://"):
        raise InvalidArgument(
            f"url: {text!r} is neither a runtime directory, nor ipc:///path/to/it, nor tcp://host:port",
            field="url",
        )
    return _local(Path(text.removeprefix("ipc://")))


def _local(directory: Path) -> Endpoints:
    directory = directory.absolute()
    query, ingest, stream = (paths.socket_url(directory, name) for name in ("query", "ingest", "stream"))
    return Endpoints(query, ingest, stream, directory)


def _remote(text: str) -> Endpoints:
    match = _TCP.fullmatch(text)
    if match is None or not 0 < int(match["port"]) <= 65_533:
        raise InvalidArgument(f"url: {text!r} is not tcp://host:port with a port of 1 to 65533", field="url")
    host, port = match["host"], int(match["port"])
    return Endpoints(f"tcp://{host}:{port}", f"tcp://{host}:{port + 1}", f"tcp://{host}:{port + 2}", None)


def require_running(endpoints: Endpoints, address: str) -> None:
    """Raises NotRunning at once when it is certain that nobody will answer; a daemon elsewhere is not judged.

    An actor that is being replaced has no listener for a moment while its supervisor lives: that is waited for.
    """
    directory = endpoints.directory
    if directory is None:
        return
    presence = read_presence(directory)
    if presence is None:
        raise NotRunning(_not_running(directory, "it left no daemon.json there"))
    if not process_is_alive(presence.pid) and not listens(endpoints, address):
        raise NotRunning(_not_running(directory, f"its process {presence.pid} is gone"))


def listens(endpoints: Endpoints, address: str) -> bool:
    """Whether somebody accepts connections at a local address; True for a daemon elsewhere."""
    if endpoints.directory is None:
        return True
    return somebody_listens(Path(endpoints.url(address).removeprefix("ipc://")))


def _not_running(directory: Path, reason: str) -> str:
    return (
        f"no marketd daemon runs in {directory} ({reason}); start one with `marketd run`, "
        f"or name another with an argument or {URL_VARIABLE}"
    )
