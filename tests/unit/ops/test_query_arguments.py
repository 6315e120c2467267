"""What `marketd query` refuses before it asks a daemon."""

from __future__ import annotations

import pytest

from marketd.ops.cli import EXIT_USAGE, main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trades", "BTC/USDT", "--start", "1min", "--end", "5min"], "--start: it is after --end"),
        (["stream", "trade"], "symbol: trade belongs to an instrument"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_in_words(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", *arguments]) == EXIT_USAGE
    assert words in capsys.readouterr().err
