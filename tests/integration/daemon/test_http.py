"""The two pages for machines, over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from marketd.daemon.http import HttpServer
from marketd.market.errors import ConfigError

HEALTH: dict[str, Any] = {"status": "ok"}


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[HttpServer]:
    try:
        server = HttpServer((request.param, 0), lambda: b"a 1\n", lambda: HEALTH)
    except ConfigError:
        pytest.skip("no IPv6 here")
    yield server
    server.close()
    HEALTH["status"] = "ok"


def ask(server: HttpServer, method: str, path: str) -> tuple[int, str, bytes]:
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request(method, path)
        with connection.getresponse() as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def test_the_pages_are_served(server: HttpServer) -> None:
    status, content_type, body = ask(server, "GET", "/metrics")
    assert (status, body) == (200, b"a 1\n") and content_type.startswith("text/plain")
    assert ask(server, "HEAD", "/metrics")[::2] == (200, b"")
    assert ask(server, "GET", "/nothing")[0] == 404
    assert ask(server, "POST", "/metrics")[0] == 405


@pytest.mark.parametrize(("verdict", "status"), [("ok", 200), ("degraded", 200), ("failed", 503)])
def test_the_status_code_is_the_verdict(server: HttpServer, verdict: str, status: int) -> None:
    HEALTH["status"] = verdict
    code, content_type, body = ask(server, "GET", "/health")
    assert (code, content_type, json.loads(body)) == (status, "application/json", {"status": verdict})


def test_garbage_costs_its_sender_the_connection_alone(server: HttpServer) -> None:
    parts = urlsplit(server.url)
    for junk in (b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b""):
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as peer:
            peer.sendall(junk)
            peer.shutdown(socket.SHUT_WR)
            peer.recv(1000)
    assert ask(server, "GET", "/health")[0] == 200


def test_an_address_that_is_taken_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError, match="choose another") as caught:
        HttpServer(("127.0.0.1", other.getsockname()[1]), bytes, dict)
    assert caught.value.field == "http.listen"
