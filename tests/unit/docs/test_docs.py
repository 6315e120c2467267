"""The manual tells everything there is, and its links and examples hold.

What exists is collected from the code: settings, verbs, metrics, names, rules, errors, tables. It must stand in the
page that is for it, in backticks, so that a name that merely occurs in a sentence does not count.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import typing
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

import marketd
from marketd.client.calls import _tree
from marketd.daemon import metrics
from marketd.daemon.actors.query import QueryStatistics
from marketd.daemon.config import convert, to_plain
from marketd.daemon.feeds.feed import FeedStatistics
from marketd.daemon.ingest import MAX_DECLARED, IngestStatistics
from marketd.daemon.ingest_link import LinkStatistics
from marketd.daemon.pieces import MAX_PIECES
from marketd.daemon.publisher import PublisherStatistics
from marketd.daemon.reload import RELOADABLE
from marketd.daemon.schema import leaf_type, setting_names
from marketd.daemon.settings import Stream, Venue
from marketd.daemon.writer import WriterStatistics
from marketd.ipc import protocol, sockets
from marketd.ipc.journal_settings import JournalStatistics
from marketd.market.records import KINDS, CandleFlag, Coverage, TradeFlag
from marketd.market.rules import RULES
from marketd.ops.cli import VERBS
from marketd.sql.connections import ConnectionStatistics
from marketd.sql.replica import ReplicaStatistics
from support import REPOSITORY, ROOMS

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
MARKDOWN = sorted([*REPOSITORY.glob("*.md"), *PAGES])
MAX_LINES = 250
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

# What `metrics.publish(name, …)` shows under which name; a test holds it equal to the calls in the code.
PUBLISHED = {
    "arena": PublisherStatistics,
    "feed": FeedStatistics,
    "feed_link": LinkStatistics,
    "ingest": IngestStatistics,
    "journal": JournalStatistics,
    "query": QueryStatistics,
    "query_database": ConnectionStatistics,
    "query_replica": ReplicaStatistics,
    "storage_database": ConnectionStatistics,
    "writer": WriterStatistics,
    "writer_database": ConnectionStatistics,
}


def page(*names: str) -> str:
    return "\n".join((DOCS / f"{name}.md").read_text() for name in names)


def is_named(name: str, text: str) -> bool:
    """In backticks, alone or at the begin of a call."""
    return re.search(rf"`{re.escape(name)}[`(]", text) is not None


# ---- links, sizes, examples -------------------------------------------------------------------------


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    broken = []
    for target in LINK.findall(FENCED.sub("", path.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        found = path if not name else path.parent / name
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    # written by the benchmarks
    assert [each for each in broken if each != "docs/performance.md"] == []


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_short_and_in_the_index(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.name == "README.md" or f"]({path.name})" in page("README")


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.name)
def test_every_python_example_compiles(path: Path) -> None:
    for code in PYTHON.findall(path.read_text()):
        compile(code, str(path), "exec")


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.name)
def test_every_command_in_an_example_has_a_verb(path: Path) -> None:
    fenced = "\n".join(FENCED.findall(path.read_text()))
    verbs = re.findall(r"^(?:/opt/marketd/bin/)?marketd ([a-z]+)", fenced, re.MULTILINE)
    assert set(verbs) <= set(VERBS)


# ---- settings ---------------------------------------------------------------------------------------


def settings() -> Iterator[tuple[str, str, str, bool]]:
    """(path, type, default as JSON, may be reloaded) of each; those of a free table under NAME."""
    free: dict[str, Any] = {"venues": ("BINANCE", Venue), "streams": ("name", Stream)}
    raw = {"venues": {"BINANCE": {"symbols": ["BTC/USDT"]}}, "streams": {"name": {"fields": {"field": "f8"}}}}
    plain = to_plain(convert(raw))
    for path in setting_names():
        if path[0] in free:
            key, struct = free[path[0]]
            for field in struct.__struct_fields__:
                yield setting((path[0], key, field), plain, f"{path[0]}.NAME.{field}")
        else:
            yield setting(path, plain, ".".join(path))


def setting(path: tuple[str, ...], plain: Any, name: str) -> tuple[str, str, str, bool]:
    for part in path:
        plain = plain[part]
    required = name in ("venues.NAME.symbols", "streams.NAME.fields")
    default = "required" if required else "—" if plain is None else f"`{json.dumps(plain)}`"
    dotted = ".".join(path)
    may = any(fnmatchcase(dotted, pattern) or fnmatchcase(f"{dotted}.x", pattern) for pattern in RELOADABLE)
    return name, type_name(leaf_type(path)), default, may


def type_name(found: Any) -> str:
    names = {"Nanoseconds": "duration", "Bytes": "size", "int": "integer", "float": "number", "bool": "true or false"}
    origins = {typing.Literal: "choice", tuple: "list of text", dict: "table"}
    return origins.get(typing.get_origin(found)) or names.get(getattr(found, "__name__", ""), "text")


SETTINGS = list(settings())


@pytest.mark.parametrize(("name", "kind", "default", "reload"), SETTINGS, ids=[each[0] for each in SETTINGS])
def test_the_table_of_settings_is_right(name: str, kind: str, default: str, reload: bool) -> None:
    rows = [line.split(" | ") for line in page("configuration").splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1, name
    assert rows[0][1:3] == [kind, default]
    assert rows[0][4].strip() == ("yes" if reload else "")
    unit = rows[0][3].strip()
    assert {"duration": unit == "duration", "size": unit == "bytes", "integer": bool(unit) or name == "daemon_no"}.get(
        kind, True
    )


def test_the_table_of_settings_has_no_others() -> None:
    table = page("configuration").partition("| setting |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE) == [each[0] for each in SETTINGS]


# ---- the command line -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_section(verb: str) -> None:
    assert f"\n## {verb}\n" in page("cli")


# ---- metrics ----------------------------------------------------------------------------------------


def test_the_published_statistics_are_those_that_this_test_knows() -> None:
    found = set()
    for path in (path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "metrics.publish":
                found.add(ast.literal_eval(node.args[0]))
    assert found == set(PUBLISHED)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_is_published_as_a_counter_is_a_field_of_the_statistics(name: str) -> None:
    assert metrics.COUNTERS[name] | metrics.HIDDEN.get(name, frozenset()) <= set(PUBLISHED[name]._fields)


def metric_names() -> set[str]:
    for name in (
        "keeper",
        "control_server",
        "actors.query",
        "actors.ingest",
        "actors.writer",
        "actors.storage",
        "actors.feed",
    ):
        importlib.import_module(f"marketd.daemon.{name}")
    declared = {
        f"{family.name}_total" if family.type == "counter" else family.name for family in metrics.REGISTRY.collect()
    }
    published = {
        sample.name
        for name, statistics in PUBLISHED.items()
        for family in metrics._Statistics(name, lambda kind=statistics: zeros(kind), "").collect()
        for sample in family.samples
    }
    return declared | published


def zeros(statistics: Any) -> Any:
    """An instance whose numbers are 0; the rest is None, which is no metric."""
    hints = typing.get_type_hints(statistics)
    return statistics(*(0 if hints[field] in (int, float) else None for field in statistics._fields))


@pytest.mark.parametrize("name", sorted(metric_names()))
def test_every_metric_is_explained(name: str) -> None:
    assert is_named(name, page("metrics"))


def test_no_metric_is_made_up() -> None:
    told = set(re.findall(r"`(marketd_[a-z_]+)`", page("metrics", "operations")))
    assert told - metric_names() == set()


# ---- names, rules, errors ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", marketd.__all__)
def test_every_public_name_is_explained(name: str) -> None:
    assert is_named(name, page("api"))


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("UnifiedDataProvider", "api"),
        ("AsyncUnifiedDataProvider", "api"),
        ("DataCacheManager", "api"),
        ("DataIngestionPipeline", "api_producer"),
        ("AsyncDataIngestionPipeline", "api_producer"),
        ("Frame", "api_frames"),
        ("OrderBookDataFrame", "api_books"),
        ("BucketFrame", "api_books"),
    ],
)
def test_every_public_method_is_explained(name: str, where: str) -> None:
    found = getattr(marketd, name)
    internal = {"run", "delivering"}  # what the buffered producers stand on
    methods = {
        each for each in dir(found) if not each.startswith("_") and (callable(getattr(found, each)) or each == "digest")
    }
    text = page("api", "api_frames", where) if issubclass(found, marketd.Frame) else page("api", where)
    missing = [each for each in methods - internal if f"{each}(" not in text and not is_named(each, text)]
    assert missing == []


@pytest.mark.parametrize("name", protocol.Meta.__struct_fields__)
def test_every_field_of_meta_is_explained(name: str) -> None:
    assert is_named(name, page("api_frames"))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_explained(rule: str) -> None:
    assert f"\n| `{rule}` |" in page("data")


def public_codes() -> list[str]:
    """Of the common tree: errors of single rooms reach a client as what their messages say."""
    return sorted(
        code for code, kind in _tree(marketd.MarketdError).items() if kind.__module__.endswith("market.errors")
    )


@pytest.mark.parametrize("code", public_codes())
def test_every_error_code_is_explained(code: str) -> None:
    assert is_named(code, page("api", "wire"))


# ---- records, tables, messages ----------------------------------------------------------------------


def tables_and_views() -> list[str]:
    text = "\n".join(path.read_text() for path in (REPOSITORY / "sql" / "schema").glob("*.sql"))
    made = re.findall(r"^CREATE (?:TABLE|VIEW) (?:IF NOT EXISTS )?(?:marketd\.)?(\w+)", text, re.MULTILINE)
    return sorted(set(made))


@pytest.mark.parametrize("name", tables_and_views())
def test_every_table_and_view_is_explained(name: str) -> None:
    assert f"\n| `{name}` |" in page("database")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.dtype.names], ids=lambda kind: kind.name)
def test_every_kind_is_told_with_its_size_and_fields(kind: Any) -> None:
    assert f"| {kind.id} | `{kind.name}` | {kind.dtype.itemsize} bytes" in page("journal")
    if kind.name != "producer":
        text = page("data")
        assert [name for name in kind.dtype.names if not is_named(name, text)] == []


@pytest.mark.parametrize("state", Coverage, ids=lambda state: state.name)
def test_every_state_of_coverage_is_explained(state: Coverage) -> None:
    assert f"\n| {int(state)} | {state.name.lower()} |" in page("data")


@pytest.mark.parametrize(("flags", "dtype"), [(TradeFlag, "i4"), (CandleFlag, "i2")])
def test_every_flag_is_explained(flags: Any, dtype: str) -> None:
    row = re.search(rf"^\| `flags` \| {dtype} \| (.*) \|$", page("data"), re.MULTILINE)
    assert row is not None
    assert [int(number) for number in re.findall(r"(?:^|, )(\d+) ", row[1])] == [int(flag) for flag in flags]


def test_the_limits_of_the_wire_are_the_protocols() -> None:
    text = page("wire")
    assert f"| header | {protocol.MAX_HEADER_BYTES >> 20} MiB |" in text
    assert f"{protocol.MAX_PAYLOAD_BYTES >> 20} MiB in all" in text
    assert f"| records of a payload | {protocol.MAX_RECORDS:,} |" in text
    assert f"| {protocol.MAX_BATCH_RECORDS:,}, on at most {MAX_PIECES} days" in text
    assert f"| frames of a message | {sockets.MAX_FRAMES}:" in text
    assert f"| instruments of a `declare` | {MAX_DECLARED:,} |" in text


def messages() -> list[Any]:
    unions = ("ToIngest", "FromIngest", "ToQuery", "FromQuery", "ToSupervisor", "FromSupervisor", "Control")
    return sorted({each for name in unions for each in typing.get_args(getattr(protocol, name))}, key=str)


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.__name__)
def test_every_message_of_the_wire_is_told_with_its_fields(message: Any) -> None:
    text = page("wire")
    assert is_named(message.__name__.lower(), text)
    assert [field for field in message.__struct_fields__ if not is_named(field, text)] == []


# ---- the runbook ------------------------------------------------------------------------------------

LOUD = ("warning", "error", "critical", "exception", "log")  # the level of the last is an argument


def _loud_actions() -> dict[str, str]:
    """The `action` of every line that a room logs above INFO, and where."""
    found: dict[str, str] = {}
    for path in (file for room in ROOMS for file in (REPOSITORY / room).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LOUD:
                extras = (word.value for word in call.keywords if word.arg == "extra")
                for fields in (extra for extra in extras if isinstance(extra, ast.Dict)):
                    named = dict(zip(map(ast.unparse, filter(None, fields.keys)), fields.values, strict=True))
                    where = f"{path.relative_to(REPOSITORY)}:{call.lineno}"
                    action = named.get("'action'", ast.Constant(f"no action: {where}"))
                    chosen = [action.body, action.orelse] if isinstance(action, ast.IfExp) else [action]
                    found |= {str(each.value): where for each in chosen if isinstance(each, ast.Constant)}
    return found


def test_the_runbook_names_every_line_above_info() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (REPOSITORY / "docs/operations.md").read_text(), re.MULTILINE)
    named = {action for cell in rows for action in re.findall(r"`([a-z_]+)`", cell)}
    actions = _loud_actions()
    assert len(actions) > 60
    assert {action: place for action, place in actions.items() if action not in named} == {}
