# bench/chart.py: bar charts
"""Horizontal bars as SVG for the README and the documents. Each row has a group of bars, one for
each peer, and there is a line at 1. A bar is solid up to its lowest value and pale up to its
highest value.

    redis-get   ███████▒▒▒ 0.69 - 0.93
                ████████▒▒▏▒▒ 0.80 - 1.20 †
                          ▏
                     1 = nutcracker

The colours work on light and dark pages. The text has the colour scheme of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, MARGIN = 520, 90  # px: the longest bar, and the figure after it
CHARACTER = 6.8  # px: the width of a character of a row's name
BAR, GAP, HEAD = 11, 12, 64

COLOURS = ["#2f81f7", "#d29922", "#8b949e", "#3fb950", "#a371f7"]

STYLE = """\
text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.figure, .note { font-size: 10px; fill: #59636e }
line { stroke: #59636e; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .figure, .note { fill: #9198a1 }
  line { stroke: #9198a1 }
}"""


@dataclass(frozen=True)
class Bar:
    """`doubtful` bars are outlined instead of filled."""

    low: float
    high: float
    figure: str
    doubtful: bool = False


def bars(
    title: str,
    unit: str,
    series: Sequence[str],
    groups: Sequence[tuple[str, Sequence[Bar | None]]],
    notes: Sequence[str] = (),
) -> str:
    """`groups` are rows, each with a name and a bar or None for each of `series`. `unit` labels the
    line at 1. `notes` are printed below. A bar above 3 is cut, but its figure is complete."""
    every = [bar for _, row in groups for bar in row if bar]
    scale = WIDTH / min(max([bar.high for bar in every] + [1.0]), 3.0)
    label = max((len(name) for name, _ in groups), default=0) * CHARACTER + 16
    parts, y = [], float(HEAD)
    for name, row in groups:
        shown = [(COLOURS[n % len(COLOURS)], bar) for n, bar in enumerate(row) if bar is not None]
        height = BAR * len(shown)
        parts.append(text(label - 8, y + height / 2 + 4, name, 'text-anchor="end"'))
        for colour, bar in shown:
            low, high = (min(value * scale, WIDTH) for value in (bar.low, bar.high))
            parts += drawn(bar, label, y, low, high, colour)
            parts.append(text(label + high + 5, y + BAR - 2.5, bar.figure, 'class="figure"'))
            y += BAR
        y += GAP
    one, end = label + scale, y - GAP + 4
    parts.append(text(one, y + 8, unit, 'text-anchor="middle" class="figure"'))
    y += 8
    for note in notes:
        y += 15
        parts.append(text(label, y, note, 'class="note"'))
    width, bottom = round(label) + WIDTH + MARGIN, y + 10
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom:.0f}"'
            f' width="{width}" height="{bottom:.0f}" role="img" aria-label="{escape(title)}">',
            f"<style>\n{STYLE}\n</style>",
            text(label, 20, title, 'class="title"'),
            *legend(series, label),
            *parts,
            f'<line x1="{one:.1f}" y1="{HEAD - 6}" x2="{one:.1f}" y2="{end:.0f}"/>',
            "</svg>\n",
        ]
    )


def drawn(bar: Bar, x: float, y: float, low: float, high: float, colour: str) -> list[str]:
    """A pale bar up to the highest value, and a solid bar up to the lowest value over it."""
    look = f'fill="none" stroke="{colour}"' if bar.doubtful else f'fill="{colour}"'
    form = '<rect x="{:.0f}" y="{:.0f}" width="{:.1f}" height="{}" rx="2" {}/>'
    parts = [form.format(x, y, low, BAR - 2, look)]
    if high > low:
        parts.insert(0, form.format(x, y, high, BAR - 2, f'{look} opacity="0.4"'))
    return parts


def legend(series: Sequence[str], x: float) -> list[str]:
    parts = []
    for number, name in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<rect x="{x:.0f}" y="33" width="10" height="10" rx="2" fill="{colour}"/>')
        parts.append(text(x + 15, 42, name))
        x += 35 + 7 * len(name)
    return parts


def text(x: float, y: float, content: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(content)}</text>'
