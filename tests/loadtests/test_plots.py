"""Plots that a browser can draw and that say what they show."""

from __future__ import annotations

import re
from html import unescape

from loadtests.plots import Panel, bars, lines


def texts(svg: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_lines_name_their_panels_their_series_and_their_axis():
    panel = Panel("p99, ms", {"threads & all": [(1, 3), (1000, 9000)], "ours": [(1, 3), (1000, 3)]}, logarithmic=True)
    found = texts(lines([panel], across="rows", across_logarithmic=True))
    assert {"p99, ms", "threads & all", "ours", "rows", "10k", "1k"} <= set(found)


def test_a_larger_value_is_drawn_higher():
    svg = lines([Panel("CPU", {"one": [(0, 10), (1, 20)]})], across="s")
    (points,) = re.findall(r'<polyline points="([^"]*)"', svg)
    first, second = (float(point.split(",")[1]) for point in points.split())
    assert second < first


def test_bars_say_none_where_there_is_no_figure():
    assert "none" in texts(bars([("p99", [3.0, None])], ["Waitress", "sync"], logarithmic=[0]))


def test_a_plot_without_points_is_still_a_plot():
    assert "s" in texts(lines([Panel("empty", {"nothing": []})], across="s"))


def test_a_plot_has_the_ink_of_its_surroundings_and_a_style_only_when_it_stands_alone():
    panels = [Panel("CPU", {"one": [(0, 10), (1, 20)]})]
    assert "prefers-color-scheme" in lines(panels, across="s")
    assert "<style>" not in lines(panels, across="s", alone=False)
