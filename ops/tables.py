"""What verbs print: a page of lines, pairs and tables, in plain text, or in colour where rich is installed.

    page = Page()
    page.line("marketd is ok")
    page.pairs({"runtime": directory})
    page.table(("ACTOR", "STATE"), [("ingest", "live")])
    page.show()

rich (`pip install 'marketd[cli]'`) is used on a terminal only: what goes into a file or a pipe is the same everywhere.
A column whose cells are all numbers is aligned to the right.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# Words that mean something wherever they stand alone in a cell, and rich's name of their colour.
COLOURS: Mapping[str, str] = {
    **dict.fromkeys(("ok", "live", "up", "applied", "LIVE"), "green"),
    **dict.fromkeys(
        ("warn", "degraded", "warming", "starting", "draining", "stopping", "pending", "WARMING"), "yellow"
    ),
    **dict.fromkeys(("fail", "failed", "down", "stopped", "damaged"), "red"),
}
_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+( ?(B|KiB|MiB|GiB|TiB|ms|s|%))?|-?|NaN")
_GAP = "  "


class Table(NamedTuple):
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def is_right(self, column: int) -> bool:
        """Whether the column is aligned to the right."""
        cells = [row[column] for row in self.rows]
        return any(cells) and all(_NUMBER.fullmatch(cell) for cell in cells)


class Line(NamedTuple):
    text: str
    style: str


class Page:
    """What is to be printed, in order."""

    def __init__(self) -> None:
        self._blocks: list[Table | Line] = []

    def line(self, text: str = "", style: str = "") -> None:
        """One line; `style` is rich's, such as `bold` or `red`."""
        self._blocks.append(Line(text, style))

    def pairs(self, values: Mapping[str, object]) -> None:
        """Names and values, one line each, the values below each other."""
        width = max((len(name) for name in values), default=0)
        for name, value in values.items():
            self.line(f"{name:<{width}}{_GAP}{value}".rstrip())

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Cells are shown as `str` makes them; None is empty."""
        cells = [tuple("" if cell is None else str(cell) for cell in row) for row in rows]
        self._blocks.append(Table(tuple(columns), cells))

    def text(self, *, rich: bool = False) -> str:
        """The page; with `rich`, in colours."""
        return _rich_text(self._blocks) if rich else "".join(f"{line}\n" for line in _plain_lines(self._blocks))

    def show(self) -> None:
        """Print it."""
        sys.stdout.write(self.text(rich=has_colour()))
        sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A page with one table on it."""
    page = Page()
    page.table(columns, rows)
    page.show()


def has_colour() -> bool:
    """Whether stdout is a terminal that wants colours, and rich is there to make them."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and importlib.util.find_spec("rich") is not None


def _plain_lines(blocks: Iterable[Table | Line]) -> Iterable[str]:
    for block in blocks:
        if isinstance(block, Line):
            yield block.text
        else:
            yield from _table_lines(block)


def _table_lines(table: Table) -> Iterable[str]:
    rows = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    right = [table.is_right(i) for i in range(len(table.columns))]
    for row in rows:
        cells = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        yield _GAP.join(cells).rstrip()


def _rich_text(blocks: Iterable[Table | Line]) -> str:
    from rich.console import Console
    from rich.text import Text

    # written into a string, so that a page that is shown again and again can be put on the screen in one piece
    width = shutil.get_terminal_size().columns
    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    for block in blocks:
        console.print(Text(block.text, block.style) if isinstance(block, Line) else _rich_table(block))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def _rich_table(table: Table) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for i, name in enumerate(table.columns):
        shown.add_column(name, justify="right" if table.is_right(i) else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in row))
    return shown
