"""Courses over time as an SVG: panels below each other with one axis of seconds, and stretches that are shaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 900, 150, 64, 16, 40, 44
COLOURS = ("#c0392b", "#2c6fbb", "#2e8b57")
TICKS = 4


class Series(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]  # (seconds, value)


class Span(NamedTuple):
    name: str
    start: float
    end: float


class Panel(NamedTuple):
    title: str
    series: Sequence[Series]
    spans: Sequence[Span]
    end: float  # of the axis, seconds


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The whole picture, white behind it: it is looked at on dark pages too."""
    height = TOP + len(panels) * (HEIGHT + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        lines.append(f'<g transform="translate({LEFT},{TOP + number * (HEIGHT + GAP)})">')
        lines += _panel(panel)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: Panel) -> Iterator[str]:
    width = WIDTH - LEFT - RIGHT
    top = _round_up(max((value for series in panel.series for _, value in series.points), default=1.0))
    for span in panel.spans:
        left, right = span.start / panel.end * width, span.end / panel.end * width
        yield f'<rect x="{left:.1f}" width="{max(1.0, right - left):.1f}" height="{HEIGHT}" fill="#eee"/>'
        yield f'<text x="{left + 2:.1f}" y="11" fill="#777">{escape(span.name)}</text>'
    yield f'<text y="-8" font-weight="bold">{escape(panel.title)}</text>'
    for tick in range(TICKS + 1):
        y = HEIGHT * (1 - tick / TICKS)
        yield f'<path d="M0 {y:.1f}H{width}" stroke="#ddd"/>'
        yield f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{top * tick / TICKS:.3g}</text>'
        x = width * tick / TICKS
        yield f'<text x="{x:.1f}" y="{HEIGHT + 14}" text-anchor="middle">{panel.end * tick / TICKS:.0f} s</text>'
    for number, series in enumerate(panel.series):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x / panel.end * width:.1f},{HEIGHT * (1 - y / top):.1f}" for x, y in _thinned(series))
        yield f'<polyline points="{points}" fill="none" stroke="{colour}"/>'
        x = width - 70 * (len(panel.series) - number)
        yield f'<text x="{x}" y="-8" fill="{colour}">{escape(series.name)}</text>'


def _thinned(series: Series) -> Sequence[tuple[float, float]]:
    """No more points than can be seen; of those that fall together the highest, because it is what matters."""
    step = max(1, len(series.points) // WIDTH)
    return [max(series.points[at : at + step], key=lambda point: point[1]) for at in range(0, len(series.points), step)]


def _round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten."""
    power = 1e-3
    while power < 1e12:
        for step in (1, 2, 5):
            if value <= step * power:
                return step * power
        power *= 10
    return value
