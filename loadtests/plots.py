"""Plots as SVG text: small, the same from the same figures, readable on light and on dark paper.

Text, axes and grid take the colour of the ink around them: inside a page that is the page's `color`; a file on its own
asks the reader's system. The series have colours that stand out on both papers, and marks that differ as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#123456"
COLOURS = ("#2f8f6b", "#c7702e", "#6f7fd1", "#b8487f", "#8a8f2a", "#3f93b5")
MARKS = ("o", "s", "^", "D", "v", "P")
STYLE = (
    "<style>svg{color:#14201d}@media(prefers-color-scheme:dark){svg{color:#e9efec}}"
    "text{font-family:system-ui,sans-serif!important}</style>"
)
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loadtests",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def lines(
    panels: Sequence[tuple[str, Mapping[str, Sequence[tuple[float, float]]]]],
    *,
    across: str,
    logarithmic: Sequence[int] = (),
    across_logarithmic: bool = False,
    alone: bool = True,
) -> str:
    """Panels side by side over the same axis, each with a title and named series of (x, y). `logarithmic` names panels.

    With `alone`, the text is a file of its own; else it goes into a page.
    """
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(3.6 * len(panels), 2.7), layout="constrained")
        found = figure.subplots(1, len(panels), squeeze=False)[0]
        for number, (axes, (title, series)) in enumerate(zip(found, panels, strict=True)):
            for turn, (name, points) in enumerate(series.items()):
                xs, ys = zip(*points, strict=True) if points else ((), ())
                axes.plot(
                    xs, ys, label=name, color=COLOURS[turn % 6], marker=MARKS[turn % 6], markersize=3.5, linewidth=1.4
                )
            if across_logarithmic:
                axes.set_xscale("log")
            _finish(axes, title, logarithmic=number in logarithmic)
            axes.set_xlabel(across)
        found[-1].legend(loc="best", fontsize=8)
        return _svg(figure, alone=alone)


def bars(
    panels: Sequence[tuple[str, Sequence[float | None]]],
    names: Sequence[str],
    *,
    logarithmic: Sequence[int] = (),
    alone: bool = True,
) -> str:
    """Panels side by side of horizontal bars, one bar per name in each, with its figure at the end; None has no bar."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(1.5 + 2.3 * len(panels), 0.6 + 0.24 * len(names)), layout="constrained")
        found = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for number, (axes, (title, values)) in enumerate(zip(found, panels, strict=True)):
            drawn = axes.barh(names, [value or 0 for value in values], color=COLOURS[number % 6], height=0.66)
            labels = ["none" if value is None else f"{value:,.0f}" for value in values]
            axes.bar_label(drawn, labels=labels, padding=2, fontsize=7, color=INK)
            _finish(axes, title, logarithmic=False)
            if number in logarithmic and any(values):
                axes.set_xscale("log")
            axes.margins(x=0.22)
            axes.tick_params(axis="y", length=0)
        found[0].invert_yaxis()
        return _svg(figure, alone=alone)


def _finish(axes: Axes, title: str, *, logarithmic: bool) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _svg(figure: Figure, *, alone: bool) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    if alone:
        head = text.index(">") + 1
        text = text[:head] + STYLE + text[head:]
    return text
