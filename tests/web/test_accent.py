"""Whatever colour an operator picks, his guests can read the page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.web import accent

COLOURS = st.integers(0, 0xFFFFFF).map(lambda number: f"#{number:06x}")


@given(colour=COLOURS)
def test_every_pair_that_is_read_has_enough_contrast(colour: str) -> None:
    for theme, grounds in zip(accent.derive(colour), (accent.LIGHT, accent.DARK), strict=True):
        assert accent.contrast(theme.fill, theme.on_fill) >= 4.5
        assert all(accent.contrast(theme.ink, ground) >= 4.5 for ground in grounds)


@given(colour=COLOURS)
def test_no_fill_glares_in_the_dark(colour: str) -> None:
    assert accent.luminance(accent.derive(colour)[1].fill) <= 0.15


@pytest.mark.parametrize("colour", ["#1f5148", "#24463f", "#000000"])
def test_a_colour_that_reads_already_is_left_as_it_is(colour: str) -> None:
    assert accent.derive(colour)[0] == accent.Accent(colour, "#ffffff", colour)


def test_a_light_colour_takes_ink_and_a_darker_line() -> None:
    light, dark = accent.derive("#f4c430")
    assert (light.fill, light.on_fill) == ("#f4c430", accent.INK)
    assert accent.luminance(light.ink) < accent.luminance("#f4c430")
    assert dark.ink == "#f4c430"


def test_the_contrast_of_black_and_white_is_twenty_one() -> None:
    assert accent.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert accent.contrast("#777777", "#777777") == 1


def test_the_style_sheet_has_both_themes_and_nothing_else() -> None:
    assert accent.css("#1f5148") == (
        ":root { --accent: #1f5148; --on-accent: #ffffff; --accent-ink: #1f5148 }\n"
        "@media (prefers-color-scheme: dark) { :root { --accent: #1f5148; --on-accent: #ffffff; --accent-ink: "
        f"{accent.derive('#1f5148')[1].ink} }} }}\n"
    )
