"""The two pages for machines: `/metrics` (Prometheus) and `/health` (JSON; 200 for ok and degraded, 503 for
failed).

A threading WSGI server of prometheus_client and the standard library in a thread of its own, so that a slow
scraper delays nobody. `metrics` and `health` are called from its threads and must only read.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import ThreadingWSGIServer

from marketd.market.errors import ConfigError

logger = logging.getLogger(__name__)

SILENT_PEER_SECONDS = 10  # a connection that says nothing holds a thread no longer
NOTICE_CLOSE_SECONDS = 0.1
MAX_CONNECTIONS = 64
Health = Mapping[str, Any]


class _Handler(WSGIRequestHandler):
    timeout = SILENT_PEER_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("http: %s", format % args, extra={"action": "http_request"})


class _Server(ThreadingWSGIServer):
    """A thread a connection, and no more than `MAX_CONNECTIONS`: the next is closed at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # a peer that says nothing, or leaves: its own business, and no traceback for the operator
        logger.debug("http: a connection broke off", exc_info=True, extra={"action": "http_broken"})


class _Server6(_Server):
    address_family = socket.AF_INET6


class HttpServer:
    """Serves from construction until `close`."""

    def __init__(self, address: tuple[str, int], metrics: Callable[[], bytes], health: Callable[[], Health]) -> None:
        """`health` returns the JSON with `status` ok | degraded | failed. ConfigError when the address cannot
        be had."""
        self._metrics = metrics
        self._health = health
        try:
            self._server: WSGIServer = make_server(*address, self._serve, _server_class(address[0]), _Handler)
        except OSError as error:
            raise ConfigError(
                f"http.listen: {address[0]}:{address[1]} cannot be opened ({error.strerror}); choose another "
                "one, or '' for no pages at all",
                field="http.listen",
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(NOTICE_CLOSE_SECONDS,), name="http", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, content_type, body = self._answer(environment["REQUEST_METHOD"], environment["PATH_INFO"])
        start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, method: str, path: str) -> tuple[str, str, bytes]:
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "text/plain; charset=utf-8", b"only GET is served here\n"
        if path == "/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, self._metrics()
        if path == "/health":
            health = self._health()
            status = "503 Service Unavailable" if health["status"] == "failed" else "200 OK"
            return status, "application/json", json.dumps(health, default=str).encode()
        return "404 Not Found", "text/plain; charset=utf-8", b"there are /metrics and /health\n"


def _server_class(host: str) -> type[WSGIServer]:
    return _Server6 if ":" in host else _Server
