"""`marketd coverage` beside a ledger made by hand: what it draws, lists and says to programs."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lane import BTC, SECOND, START
from marketd.market.errors import InvalidArgument, UnknownInstrument
from marketd.market.instruments import global_instrument
from marketd.market.records import BY_NAME, COVERAGE, Coverage, Records
from marketd.ops.cli import EXIT_NOT_WELL, build_parser
from marketd.ops.verbs import coverage

TRADE, BOOK = 1, 3
SPAN = ["--start", str(START), "--end", str(START + 100 * SECOND), "--width", "10"]


def ledger(*rows: tuple[int, int, int, int, int, bytes]) -> Records:
    """COVERAGE records of (stream, state, start s, end s, detail, reason)."""
    found = np.zeros(len(rows), COVERAGE)
    for number, (stream, state, start, end, detail, reason) in enumerate(rows):
        first, last = START + start * SECOND, START + end * SECOND
        found[number] = (first, first, number, first, last, detail, stream, state, reason)
    return found


class Provider:
    """What the verb asks of a daemon."""

    def __init__(self, records: Records, steps: Records | None = None, watermark: int = 1000) -> None:
        self._records, self._steps, self._watermark = records, steps, watermark

    def instruments(self) -> list[Any]:
        return [BTC, global_instrument(1)]

    def streams(self) -> dict[str, int]:
        return {name: kind.id for name, kind in BY_NAME.items()} | {"funding": 70}

    def query(self, stream: str, symbol: str | None, start: Any = None, end: Any = None) -> Any:
        assert stream == "coverage"
        records = self._records if symbol else self._steps
        if records is None:
            raise UnknownInstrument("GLOBAL.MARKETD")
        return SimpleNamespace(
            records=records, instrument=BTC, meta=SimpleNamespace(watermark=START + self._watermark * SECOND)
        )


@pytest.fixture
def marketd(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(provider: Provider, *arguments: str) -> int:
        monkeypatch.setattr(coverage, "open_provider", lambda _: nullcontext(provider))
        return coverage.run(build_parser(["coverage"]).parse_args(["coverage", *SPAN, *arguments]))

    return run


WHOLE = (TRADE, Coverage.OBSERVED, -100, -100, 0, b"subscribed")
SHORT_GAP = (TRADE, Coverage.GAP, 41, 42, 7, b"reconnected")


def test_a_stream_without_a_gap_is_well(marketd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert marketd(Provider(ledger(WHOLE))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["2024-08-08T23:59:00.000000Z", "…", "2024-08-09T00:00:40.000000Z"]
    assert lines[1:] == ["BTCUSDT.BINANCE trade  ##########  100 %"]


def test_the_shortest_gap_shows_and_is_told(marketd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    records = ledger(WHOLE, SHORT_GAP, (BOOK, Coverage.OBSERVED, 50, 50, 0, b"in step"))
    assert marketd(Provider(records), "BTC/USDT") == EXIT_NOT_WELL
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "BTCUSDT.BINANCE trade  ####-#####  99 %"
    assert lines[2] == "BTCUSDT.BINANCE book   .....#####  50 %"
    table = [line.split() for line in lines[5:]]
    assert table[0][2:] == ["gap", "2024-08-08T23:59:41.000000Z", "1.0", "s", "7", "reconnected"]
    assert table[1][2:] == ["unobserved", "2024-08-08T23:59:00.000000Z", "50.0", "s"]
    assert marketd(Provider(records), "--stream", "trade") == EXIT_NOT_WELL
    assert "book" not in capsys.readouterr().out


def test_what_was_fetched_afterwards_is_whole_again(marketd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    filled = (TRADE, Coverage.BACKFILLED, 41, 42, 7, b"fetched")
    assert marketd(Provider(ledger(WHOLE, SHORT_GAP, filled))) == 0
    assert "####+#####  100 %" in capsys.readouterr().out


def test_nothing_is_claimed_of_what_comes_after_the_newest_record(
    marketd: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert marketd(Provider(ledger(WHOLE), watermark=50), "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)["lines"]
    assert line["stretches"] == [
        {"start": START, "end": START + 50 * SECOND, "state": "observed", "detail": 0, "reason": "subscribed"}
    ]
    assert line["observed_share"] == 1.0
    assert marketd(Provider(ledger(WHOLE), watermark=-1)) == 0
    assert capsys.readouterr().out == "the ledger says nothing of that\n"


def test_a_long_list_is_cut_unless_all_is_asked_for(marketd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    gaps = [(TRADE, Coverage.GAP, 2 * n, 2 * n + 1, n, b"cut") for n in range(40)]
    provider = Provider(ledger(WHOLE, *gaps))
    marketd(provider)
    shown = capsys.readouterr().out
    assert "the newest 20 of 40 stretches" in shown
    assert shown.count(" gap ") == 20
    marketd(provider, "--list")
    assert capsys.readouterr().out.count(" gap ") == 40


def test_steps_of_the_clock_are_told(marketd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ledger((0, Coverage.CLOCK_STEP, 10, 12, -2 * SECOND, b""), WHOLE)
    assert marketd(Provider(ledger(WHOLE), steps)) == 0
    assert "the clock stepped by -2.0 s at 2024-08-08T23:59:12.000000Z" in capsys.readouterr().out
    marketd(Provider(ledger(WHOLE), steps), "--json")
    assert json.loads(capsys.readouterr().out)["clock_steps"] == [{"at": START + 12 * SECOND, "step_ns": -2 * SECOND}]


def test_a_declared_series_has_a_line_by_its_name(marketd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    observed = (70, Coverage.OBSERVED, 0, 0, 0, "subscribed")
    assert marketd(Provider(ledger(observed, (70, Coverage.VENUE_DOWN, 40, 60, 0, "connection refused")))) != 0
    found = capsys.readouterr().out
    assert "BTCUSDT.BINANCE funding" in found and "x" in found and "connection refused" in found


def test_a_stream_or_span_that_cannot_be_is_refused_by_name(marketd: Any) -> None:
    with pytest.raises(InvalidArgument, match="--stream"):
        marketd(Provider(ledger()), "--stream", "candles")
    with pytest.raises(InvalidArgument, match="--start"):
        marketd(Provider(ledger()), "--start", str(START + 100 * SECOND))
