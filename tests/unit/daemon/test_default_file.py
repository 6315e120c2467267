"""`ops/marketd.toml` is the manual of the settings: it must be the defaults, and all of them."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from marketd.daemon.config import convert, to_plain
from marketd.daemon.schema import setting_names
from marketd.daemon.settings import Config, Stream, Venue
from support import REPOSITORY

TEXT = (REPOSITORY / "ops" / "marketd.toml").read_text()
EXAMPLES = re.compile(r"^#(?=\w+ = |\[)", re.MULTILINE)  # "#name = value" is a setting, "# Words" is prose


def with_examples() -> dict[str, Any]:
    # a table such as `bars = {}` stands there twice, as the default and as an example
    once = re.sub(r"^(\w+) = \{\}\n(?=#\1 = )", "", TEXT, flags=re.MULTILINE)
    return tomllib.loads(EXAMPLES.sub("", once))


def test_the_file_is_exactly_the_defaults() -> None:
    assert convert(tomllib.loads(TEXT)) == Config()


@pytest.mark.parametrize("path", [".".join(path) for path in setting_names()])
def test_every_setting_that_has_a_default_stands_there_in_force(path: str) -> None:
    default: Any = to_plain(Config())
    written: Any = tomllib.loads(TEXT)
    for part in path.split("."):
        default, written = default[part], written.get(part)
    assert written is not None or default in (None, {})


def test_the_examples_are_valid_settings_too() -> None:
    config = convert(with_examples())
    assert list(config.active_venues) == ["BINANCE"]
    assert config.default_venue == "BINANCE"


@pytest.mark.parametrize("path", [".".join(path) for path in setting_names()])
def test_every_setting_is_named_and_explained(path: str) -> None:
    found: Any = with_examples()
    for part in path.split("."):
        assert part in found, path
        found = found[part]


@pytest.mark.parametrize(("struct", "table"), [(Venue, "venues.BINANCE"), (Stream, "streams.funding")])
def test_every_setting_of_a_free_table_stands_there_with_its_default(struct: type, table: str) -> None:
    found: Any = with_examples()
    for part in table.split("."):
        found = found[part]
    required = {"symbols", "fields"}
    assert set(found) == set(struct.__struct_fields__)  # type: ignore[attr-defined]
    config = convert(with_examples())
    instance: Any = config.venues["BINANCE"] if struct is Venue else config.streams["funding"]
    default: Any = Venue() if struct is Venue else Stream(fields={})
    for name in set(found) - required:
        assert getattr(instance, name) == getattr(default, name), name


def test_every_setting_has_a_comment_above_it() -> None:
    lines = TEXT.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#?\w+ = ", line):
            above = next(each for each in reversed(lines[:number]) if not re.match(r"#?(\w+ = |\[)", each))
            assert above.startswith("# "), line
