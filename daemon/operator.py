"""What a command line asks of a running supervisor: `marketd status`, `reload`, `stop`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import zmq

from marketd.daemon.control import CONTROL
from marketd.daemon.runtime import is_held
from marketd.ipc import paths, protocol
from marketd.ipc.protocol import Done, Failure, Reload, Status, StatusReport, Stop
from marketd.market import errors
from marketd.market.errors import MarketdError, NotRunning, Timeout

_LOOK_SECONDS = 0.05


def status(runtime_dir: Path, timeout_seconds: float = 5.0) -> StatusReport:
    """How the daemon stands. Raises NotRunning or Timeout."""
    report: StatusReport = ask(runtime_dir, Status(), timeout_seconds)
    return report


def reload(runtime_dir: Path, timeout_seconds: float = 60.0) -> str:
    """Make it take over its configuration file; what it did. ConfigError when it was refused."""
    done: Done = ask(runtime_dir, Reload(), timeout_seconds)
    return done.detail


def stop(runtime_dir: Path, timeout_seconds: float) -> None:
    """Ask it to drain and wait for its end. Timeout when it still drains then."""
    deadline = time.monotonic() + timeout_seconds
    ask(runtime_dir, Stop(), timeout_seconds)
    while is_held(runtime_dir):
        if time.monotonic() >= deadline:
            raise Timeout(f"the daemon in {runtime_dir} still drains after {timeout_seconds:.0f} s")
        time.sleep(_LOOK_SECONDS)


def ask(runtime_dir: Path, request: Status | Reload | Stop, timeout_seconds: float) -> Any:
    """The supervisor's reply to one request. A Failure is raised as the error that it names."""
    if not is_held(runtime_dir):
        raise NotRunning(f"no daemon runs in {runtime_dir}; start one with `marketd run`")
    request.id = 1
    request.timeout_ms = round(timeout_seconds * 1000)
    with zmq.Context() as context:
        reply = _ask(context, runtime_dir, protocol.encode(request), timeout_seconds)
    if isinstance(reply, Failure):
        raise _error(reply)
    return reply


def _ask(context: zmq.Context[Any], runtime_dir: Path, header: bytes, timeout_seconds: float) -> Any:
    with context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(paths.socket_url(runtime_dir, CONTROL))
        dealer.send(header)
        if not dealer.poll(round(timeout_seconds * 1000)):
            raise Timeout(f"the supervisor in {runtime_dir} did not answer within {timeout_seconds:.0f} s")
        return protocol.Decoder(protocol.FromSupervisor).decode(dealer.recv())


def _error(failure: Failure) -> MarketdError:
    classes = [found for found in vars(errors).values() if isinstance(found, type)]
    known = {found.code: found for found in classes if issubclass(found, MarketdError)}
    return known.get(failure.code, MarketdError)(failure.message, field=failure.field)
