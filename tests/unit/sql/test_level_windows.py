"""Which stretches are summed up again, and which bars of which level make up a timeframe."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from marketd.sql.levels import Window, ceil_to, floor_to, joined, level_for, whole_days, without

DAY = timedelta(days=1)
NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)


def moments(*days: int) -> list[Window]:
    return [Window(NEW_YEAR + a * DAY, NEW_YEAR + b * DAY) for a, b in zip(days[::2], days[1::2], strict=True)]


def test_windows_are_joined_and_lose_what_is_kept() -> None:
    assert joined(moments(0, 2, 1, 3, 3, 4, 6, 7)) == moments(0, 4, 6, 7)
    assert without(moments(0, 4, 6, 8), moments(1, 2, 3, 7)) == moments(0, 1, 2, 3, 7, 8)
    assert without(moments(1, 2), moments(0, 3)) == []
    assert without(moments(1, 2), moments(3, 4)) == moments(1, 2)


def test_a_timeframe_is_made_of_the_longest_level_that_divides_it() -> None:
    found = {seconds_: level_for(seconds_) for seconds_ in (1, 30, 60, 120, 1800, 86_400, 604_800)}
    assert {each: level and level.seconds for each, level in found.items()} == {
        1: None, 30: None, 60: 60, 120: 60, 1800: 900, 86_400: 86_400, 604_800: 86_400,
    }  # fmt: skip


def test_windows_are_widened_to_whole_days_and_whole_ones_stay() -> None:
    hour = timedelta(hours=1)
    assert whole_days([Window(NEW_YEAR + 5 * hour, NEW_YEAR + DAY + hour)]) == moments(0, 2)
    assert whole_days(moments(3, 4, 0, 2)) == moments(0, 2, 3, 4)
    assert floor_to(NEW_YEAR + hour, DAY) == NEW_YEAR == ceil_to(NEW_YEAR, DAY)
    assert ceil_to(NEW_YEAR + hour, DAY) == NEW_YEAR + DAY
