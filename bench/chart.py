# bench/chart.py: bar charts
"""Horizontal bars as SVG, for README and the documents: a group of bars for each row, one bar for
each peer, and a line at 1.

    redis-get   ███████▌▏ 0.87
                ████████▏███▎ 1.58
                        ▏
                   1 = nutcracker

The colours suit a light and a dark page; text follows the page's own scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, MARGIN = 520, 60  # px: the bars, and what a figure behind a bar needs
CHARACTER = 6.8  # px, of a name in front of the bars
BAR, GAP, HEAD = 11, 12, 64

COLOURS = ["#2f81f7", "#d29922", "#8b949e", "#3fb950", "#a371f7"]

STYLE = """\
text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.figure { font-size: 10px; fill: #59636e }
line { stroke: #59636e; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .figure { fill: #9198a1 }
  line { stroke: #9198a1 }
}"""


def bars(
    title: str,
    unit: str,
    series: Sequence[str],
    groups: Sequence[tuple[str, Sequence[float | None]]],
) -> str:
    """`groups` are rows: a name, and a value for each of `series`, None where there is none. `unit`
    says what the line at 1 is. A bar longer than three times that is cut; its figure is not."""
    greatest = max((value for _, values in groups for value in values if value), default=1.0)
    scale = WIDTH / min(max(greatest, 1.0), 3.0)
    label = max((len(name) for name, _ in groups), default=0) * CHARACTER + 16
    parts, y = [], float(HEAD)
    for name, values in groups:
        shown = [(n, value) for n, value in enumerate(values) if value is not None]
        height = BAR * len(shown)
        parts.append(text(label - 8, y + height / 2 + 4, name, 'text-anchor="end"'))
        for number, value in shown:
            length = min(value * scale, WIDTH)
            parts.append(
                f'<rect x="{label:.0f}" y="{y:.0f}" width="{length:.1f}" height="{BAR - 2}" rx="2"'
                f' fill="{COLOURS[number % len(COLOURS)]}"/>'
            )
            parts.append(text(label + length + 5, y + BAR - 2.5, f"{value:.2f}", 'class="figure"'))
            y += BAR
        y += GAP
    width, bottom = round(label) + WIDTH + MARGIN, y + 18
    one = label + scale
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom:.0f}"'
            f' width="{width}" height="{bottom:.0f}" role="img" aria-label="{escape(title)}">',
            f"<style>\n{STYLE}\n</style>",
            text(label, 20, title, 'class="title"'),
            *legend(series, label),
            text(one, y + 8, unit, 'text-anchor="middle" class="figure"'),
            *parts,
            f'<line x1="{one:.1f}" y1="{HEAD - 6}" x2="{one:.1f}" y2="{y - GAP + 4:.0f}"/>',
            "</svg>\n",
        ]
    )


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
