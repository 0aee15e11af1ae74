"""Plots as SVG text: a few kilobytes, the same from the same figures, readable on light and on dark paper.

Text, axes and grid take the colour of the ink around them: inside a page that is the page's `color`; a file on its own
asks the reader's system. A series has a colour that stands out on both papers and a mark that differs as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2f8f6b", "#c7702e", "#6f7fd1", "#b8487f", "#8a8f2a", "#3f93b5")
STYLE = (
    "svg{color:#14201d;font:12px system-ui,sans-serif}"
    "@media(prefers-color-scheme:dark){svg{color:#e9efec}}"
)  # fmt: skip
WIDTH, HEIGHT = 280, 150
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 44, 40

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: its title and, by name, the points of its series. `line` marks a height with a word."""

    title: str
    series: Mapping[str, Sequence[Point]]
    logarithmic: bool = False
    line: tuple[float, str] | None = None


def lines(panels: Sequence[Panel], *, across: str, across_logarithmic: bool = False, alone: bool = True) -> str:
    """Panels side by side over the same axis. With `alone` the text is a file of its own, else it goes into a page."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    step = LEFT + WIDTH + RIGHT
    parts = [_legend(names)]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * step + LEFT},{TOP})">')
        parts.append(_panel(panel, names, across, across_logarithmic=across_logarithmic))
        parts.append("</g>")
    what = "; ".join(panel.title for panel in panels)
    return _svg(parts, step * len(panels), TOP + HEIGHT + BOTTOM, f"{what}, by {across}", alone=alone)


def bars(
    panels: Sequence[tuple[str, Sequence[float | None]]],
    names: Sequence[str],
    *,
    logarithmic: Sequence[int] = (),
    alone: bool = True,
) -> str:
    """Panels side by side of horizontal bars, one per name, with its figure behind it; None has the word `none`."""
    side, width, gap, row = 160, 104, 54, 18
    parts = [
        f'<text x="{side - 8}" y="{TOP + number * row + 13}" text-anchor="end">{escape(name)}</text>'
        for number, name in enumerate(names)
    ]
    for number, (title, values) in enumerate(panels):
        x = side + number * (width + gap)
        known = [value for value in values if value]
        scale = _scale(min(known, default=1) if number in logarithmic else 0, max(known, default=1), width,
                       logarithmic=number in logarithmic)  # fmt: skip
        parts.append(f'<text x="{x}" y="{TOP - 10}" font-weight="600">{escape(title)}</text>')
        for turn, value in enumerate(values):
            y = TOP + turn * row
            long = max(1.0, scale(value)) if value else 0
            parts.append(f'<rect x="{x}" y="{y + 2}" width="{long:.0f}" height="13" fill="{COLOURS[number % 6]}"/>')
            label = "none" if value is None else _short(value)
            parts.append(f'<text x="{x + long + 5:.0f}" y="{y + 13}" font-size="11">{label}</text>')
    what = "; ".join(title for title, _ in panels)
    width_all = side + len(panels) * (width + gap)
    return _svg(parts, width_all, TOP + len(names) * row + 8, f"{what}, by server", alone=alone)


def _svg(parts: Sequence[str], width: float, height: float, label: str, *, alone: bool) -> str:
    style = f"<style>{STYLE}</style>" if alone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(label)}" fill="currentColor">{style}' + "\n".join(parts)
        + "</svg>\n"
    )  # fmt: skip


def _legend(names: Sequence[str]) -> str:
    parts, x = [], LEFT
    for turn, name in enumerate(names):
        parts.append(_mark(turn, x, 10) + f'<text x="{x + 9}" y="14">{escape(name)}</text>')
        x += 28 + round(6.4 * len(name))
    return "".join(parts)


def _panel(panel: Panel, names: Sequence[str], across: str, *, across_logarithmic: bool) -> str:
    points = [point for series in panel.series.values() for point in series]
    xs, ys = [x for x, _ in points] or [1.0], [y for _, y in points] or [1.0]
    if panel.line:
        ys.append(panel.line[0])
    low = min((y for y in ys if y > 0), default=1.0) if panel.logarithmic else 0.0
    right = _scale(min(xs), max(xs), WIDTH, logarithmic=across_logarithmic)
    up = _scale(low, max(*ys, low), HEIGHT, logarithmic=panel.logarithmic)
    parts = [f'<text y="-10" font-weight="600">{escape(panel.title)}</text>']
    for tick in _ticks(low, max(*ys, low), logarithmic=panel.logarithmic):
        y = HEIGHT - up(tick)
        parts.append(f'<path d="M0 {y:.1f}h{WIDTH}" stroke="currentColor" opacity=".15"/>')
        parts.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end" font-size="11">{_short(tick)}</text>')
    for tick in sorted(set(xs)) if len(set(xs)) <= 6 else _ticks(min(xs), max(xs), logarithmic=across_logarithmic):
        x = right(tick)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + 16}" text-anchor="middle" font-size="11">{_short(tick)}</text>')
    parts.append(f'<path d="M0 {HEIGHT}h{WIDTH}" stroke="currentColor" opacity=".6"/>')
    parts.append(f'<text x="{WIDTH}" y="{HEIGHT + 32}" text-anchor="end" font-size="11">{escape(across)}</text>')
    if panel.line:
        y = HEIGHT - up(panel.line[0])
        parts.append(f'<path d="M0 {y:.1f}h{WIDTH}" stroke="currentColor" stroke-dasharray="3 3" opacity=".7"/>')
        parts.append(f'<text x="4" y="{y - 4:.1f}" font-size="11">{escape(panel.line[1])}</text>')
    for name, series in panel.series.items():
        turn = names.index(name)
        at = [(right(x), HEIGHT - up(max(y, low))) for x, y in series]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{COLOURS[turn % 6]}" stroke-width="1.6"/>')
        if len(at) <= 30:
            parts += [_mark(turn, x, y) for x, y in at]
    return "".join(parts)


def _mark(turn: int, x: float, y: float) -> str:
    shape = ("M-3-3h6v6h-6z", "M0-4 4 3h-8z", "M0-4 4 0 0 4-4 0z", "M0 4 4-3h-8z", "M-4-1.5h8v3h-8z")
    where, fill = f'transform="translate({x:.1f},{y:.1f})"', f'fill="{COLOURS[turn % 6]}"'
    if turn % 6 == 0:
        return f'<circle {where} r="3.2" {fill}/>'
    return f'<path {where} d="{shape[turn % 6 - 1]}" {fill}/>'


def _scale(low: float, high: float, length: float, *, logarithmic: bool) -> Callable[[float], float]:
    """From a value to a distance along an axis of that length."""
    if logarithmic:
        first = math.floor(math.log10(low))
        span = max(math.ceil(math.log10(high)) - first, 1)
        return lambda value: (math.log10(max(value, 1e-12)) - first) / span * length
    high = high * 1.05 if high > low else low + 1
    return lambda value: (value - low) / (high - low) * length


def _ticks(low: float, high: float, *, logarithmic: bool) -> list[float]:
    if logarithmic:
        powers = range(
            math.floor(math.log10(low)), max(math.ceil(math.log10(high)), math.floor(math.log10(low)) + 1) + 1
        )
        return [10.0**power for power in powers]
    raw = (high - low) / 4 or 1.0
    power = 10 ** math.floor(math.log10(raw))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= raw)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    """A figure for a small space: 1,200 is 1.2k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
