"""One line an event, for people and for machines."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from marketd.daemon import logs

logger = logging.getLogger("marketd.test")


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def test_text_is_a_sentence_with_its_structure_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("ingest")
    logger.info("took %d records", 3, extra={"action": "taken", "source": "a b", "empty": ""})
    line = capsys.readouterr().err
    assert line.endswith('INFO ingest: took 3 records  action=taken source="a b" empty=""\n')
    assert line[10] == "T" and line[23] == "Z"


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("ingest", format="json")
    logger.warning("x\ny", extra={"action": "a", "level": "mine", "path": {1}})
    text = capsys.readouterr().err
    record = json.loads(text)
    assert record["message"] == "x\ny"
    assert (record["level"], record["actor"], record["action"], record["path"]) == ("WARNING", "ingest", "a", "{1}")
    assert text.count("\n") == 1


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_exception_brings_its_traceback(capsys: pytest.CaptureFixture[str], format: str) -> None:
    logs.setup("ingest", format=format)  # type: ignore[arg-type]
    try:
        raise RuntimeError("boo")
    except RuntimeError:
        logger.exception("it failed", extra={"action": "failed"})
    assert "RuntimeError: boo" in capsys.readouterr().err


def test_the_level_can_change_in_a_running_process(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("ingest", "WARNING")
    logger.info("no")
    logs.set_level("INFO")
    logger.info("yes")
    text = capsys.readouterr().err
    assert "no" not in text and "yes" in text


def test_a_closed_stderr_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", closed)
    logs.setup("ingest")
    closed.close()
    logger.error("nobody hears this")
