"""Logs: one sentence an event on stderr, as text for people or JSON for machines.

    logger.info("took over %d symbols", n, extra={"action": "reloaded", "symbols": n})

The sentence is for people; `action` is stable and what alerts look for, and whatever else stands in `extra`
is structured data. DEBUG for developers, INFO for operators, WARNING = healed itself, ERROR = someone was
refused, CRITICAL = a process ends.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

_STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "actor"}


def setup(actor: str, level: str = "INFO", format: Literal["text", "json"] = "text") -> None:
    """Send every log of this process to stderr under the actor's name. Calling it again replaces the first
    call."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(actor) if format == "json" else TextFormatter(actor))
    logging.raiseExceptions = False  # nobody reads stderr any more: no reason to end, and nowhere to say so
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.captureWarnings(True)
    set_level(level)


def set_level(level: str) -> None:
    """Also used by a reload."""
    logging.getLogger().setLevel(level)
    # asyncio tells at DEBUG which selector it uses; at WARNING what we must know
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, logging.getLogger().level))
    # its pool tells the traceback of each try to reach a server that is away, of which we tell once and in words
    logging.getLogger("asyncpg.pool").setLevel(max(logging.ERROR, logging.getLogger().level))


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


class TextFormatter(logging.Formatter):
    """`2024-08-08T12:00:00.123Z INFO ingest: the journal goes on  action=journal_room`"""

    def __init__(self, actor: str) -> None:
        super().__init__()
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_short(value)}" for name, value in extras(record).items())
        line = f"{utc(record)} {record.levelname} {self._actor}: {record.getMessage()}"
        return "\n".join(part for part in (f"{line}  {fields}" if fields else line, self._trace(record)) if part)

    def _trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class JsonFormatter(logging.Formatter):
    """One object a line; the keys of `extra` stand beside `time`, `level`, `actor`, `logger`, `message`."""

    def __init__(self, actor: str) -> None:
        super().__init__()
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            **extras(record),  # first: a field of ours is never replaced by one of the caller's
            "time": utc(record),
            "level": record.levelname,
            "actor": self._actor,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


def utc(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _short(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n') else text
