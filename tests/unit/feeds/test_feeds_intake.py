"""What a feed's messages become where they are no records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from marketd.daemon.feeds.adapter import MessagesLost
from marketd.daemon.feeds.intake import Intake


async def test_a_connection_that_lost_messages_is_told_where_no_books_are_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    books: Any = SimpleNamespace(are_kept=False)
    sink: Any = None  # nothing goes there
    intake = Intake({}, books, sink, {}, on_rejected=None, refresh=lambda symbols: None)
    await intake.take([MessagesLost("BTCUSD: 2 trades are missing")], ["BTCUSD"], 0, 0.0, list)
    told = [record for record in caplog.records if record.__dict__.get("action") == "messages_lost"]
    assert [record.getMessage() for record in told] == ["the connection lost messages: BTCUSD: 2 trades are missing"]
