"""The pages about venues tell every venue, every member of an adapter, every event and every promise of the suite."""

from __future__ import annotations

import ast
import re
import typing

import pytest

from marketd.daemon.feeds import adapter
from marketd.daemon.feeds.series import STREAMS
from marketd.daemon.feeds.venues import VENUES
from marketd.market.book_messages import BookRule
from support import REPOSITORY

VENUES_PAGE = (REPOSITORY / "docs" / "venues.md").read_text()
ADDING_PAGE = (REPOSITORY / "docs" / "adding-a-venue.md").read_text()
CONFORMANCE = REPOSITORY / "tests" / "unit" / "daemon" / "test_adapter_conformance.py"
ROW = re.compile(r"^\| `(?P<name>[A-Z][\w.-]+)`[^|]*(?:\|[^|]*){5}\| \d+ \|$", re.MULTILINE)


def members() -> list[str]:
    """Of `VenueAdapter`: attributes and methods."""
    protocol = adapter.VenueAdapter
    names = set(typing.get_type_hints(protocol)) | {name for name in vars(protocol) if not name.startswith("_")}
    return sorted(names)


def promises() -> list[str]:
    names = re.search(r"^PROMISES = \((.*?)^\)", CONFORMANCE.read_text(), re.DOTALL | re.MULTILINE)
    assert names is not None
    found = ast.parse(f"({names[1]})", mode="eval").body
    assert isinstance(found, ast.Tuple)
    return [each.attr for each in found.elts if isinstance(each, ast.Attribute)]


def is_told(name: str, text: str) -> bool:
    return re.search(rf"`{re.escape(name)}[`(]", text) is not None


@pytest.mark.parametrize("venue", VENUES)
def test_every_venue_is_in_the_table(venue: str) -> None:
    assert is_told(venue, VENUES_PAGE.partition("*Numbered*")[0])


@pytest.mark.parametrize("stream", STREAMS)
def test_every_series_that_a_venue_can_bring_is_told(stream: str) -> None:
    assert is_told(stream, VENUES_PAGE)


@pytest.mark.parametrize("name", members())
def test_every_member_of_an_adapter_is_told(name: str) -> None:
    assert is_told(name, ADDING_PAGE)


@pytest.mark.parametrize("field", [*adapter.Venue._fields, *adapter.Limits._fields, *BookRule._fields])
def test_every_field_of_a_row_and_of_a_rule_is_told(field: str) -> None:
    assert re.search(rf"[`(, ]{field}[`:,)]", ADDING_PAGE) is not None


@pytest.mark.parametrize("event", [event.__name__ for event in typing.get_args(adapter.Event)])
def test_every_event_is_told(event: str) -> None:
    assert is_told(event, ADDING_PAGE)


def test_every_promise_of_the_suite_is_told_and_no_other() -> None:
    table = ADDING_PAGE.partition("| promise |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == promises()


def test_the_counts_of_each_recording_add_up() -> None:
    rows = [match[0] for match in ROW.finditer(VENUES_PAGE.partition("## Recorded traffic")[2])]
    assert len(rows) >= 4
    for row in rows:
        _, _, messages, *kinds, ignored, refused, _ = [cell.strip() for cell in row.split("|")]
        firsts = [int(re.sub(r"[,(].*| .*", "", kind.replace(",", ""))) for kind in kinds if kind]
        names = [int(number.replace(",", "")) for number in re.findall(r"`[^`]+` ([\d,]*\d)", ignored)]
        assert sum(firsts) + sum(names) + int(refused.replace(",", "")) == int(messages.replace(",", "")), row
