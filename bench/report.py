"""What a benchmark says: rows of one table, goals with what was reached, and how both are printed and kept."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import machine
import numpy as np
import numpy.typing as npt

RESULTS = Path(__file__).parent / "results"
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


@dataclass
class Goal:
    """Something that was asked for, and what this run reached."""

    what: str
    wanted: float
    reached: float
    at_most: bool  # else at least
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.reached <= self.wanted if self.at_most else self.reached >= self.wanted


@dataclass
class Report:
    """One benchmark's answer. Not every row has all columns; `facts` say what was measured, in words and numbers."""

    name: str
    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    machine: dict[str, Any] = field(default_factory=machine.describe)
    at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "goals": [{**asdict(goal), "met": goal.met} for goal in self.goals]}

    def keep(self) -> Path:
        """Write it to results/; a quick run never replaces a real one."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}{'.quick' if self.quick else ''}.json"
        path.write_text(json.dumps(self.plain(), indent=2) + "\n")
        return path

    def show(self) -> None:
        print(f"\n{self.name}: {self.title}{'  (quick: no figures to quote)' if self.quick else ''}")
        print(f"  {machine.sentence(self.machine)}")
        for what, value in self.facts.items():
            print(f"  {what}: {_text(value)}")
        if self.rows:
            print()
            _show_table(self.rows)
        if self.goals:
            print()
        for goal in self.goals:
            sign = "at most" if goal.at_most else "at least"
            verdict = "met" if goal.met else "NOT met"
            print(
                f"  {verdict}: {goal.what}: {_text(goal.reached)}{goal.unit}, wanted {sign} {goal.wanted:g}{goal.unit}"
            )


def quantiles(nanoseconds: npt.NDArray[np.int64], divisor: float = 1_000.0) -> dict[str, float]:
    """p50, p99 and p99.9, in µs by default."""
    found = np.quantile(nanoseconds, list(QUANTILES.values()))
    return {name: float(value) / divisor for name, value in zip(QUANTILES, found, strict=True)}


def _show_table(rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_text(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(names))]
    for line in lines:
        first, rest = (
            line[0].ljust(widths[0]),
            (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        )
        print("  " + "  ".join((first, *rest)))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
