"""One colour in, the six that pages need out: a fill, the text on it, lines and text on paper; for light and dark.

Promises: every pair that is read has a contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3), whatever colour an operator
picks; the colour keeps its hue and saturation and changes no more than it must. Pure.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

WHITE: Final = "#ffffff"
INK: Final = "#14201d"
READABLE: Final = 4.5
# Paper and quiet block of the two themes, as guest.css has them.
LIGHT: Final = ("#ffffff", "#e8edeb")
DARK: Final = ("#131a18", "#212b28")
# A brighter fill would glare on a dark page.
DARK_FILL: Final = 0.15
STEPS: Final = 100


@dataclass(frozen=True, slots=True)
class Accent:
    """`fill` is a surface in the network's colour, `on_fill` the text on it, `ink` a line or text on the page."""

    fill: str
    on_fill: str
    ink: str


def derive(colour: str) -> tuple[Accent, Accent]:
    """The light and the dark theme's accent for a colour written as `#rrggbb`."""
    light = _until(colour, 0.0, _takes_text)
    dark = _until(colour, 0.0, lambda shade: luminance(shade) <= DARK_FILL and _takes_text(shade))
    return (
        Accent(light, _text_on(light), _until(colour, 0.0, lambda shade: _reads_on(shade, LIGHT))),
        Accent(dark, _text_on(dark), _until(colour, 1.0, lambda shade: _reads_on(shade, DARK))),
    )


def css(colour: str) -> str:
    """The style sheet that follows guest.css and gives the page its network's colour."""
    light, dark = (
        f":root {{ --accent: {accent.fill}; --on-accent: {accent.on_fill}; --accent-ink: {accent.ink} }}"
        for accent in derive(colour)
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, from 1 to 21 (WCAG 2.2, "contrast ratio")."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """How bright a colour is, from 0 to 1 (WCAG 2.2, "relative luminance")."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in _parts(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _parts(colour: str) -> tuple[float, float, float]:
    return int(colour[1:3], 16) / 255, int(colour[3:5], 16) / 255, int(colour[5:7], 16) / 255


def _shade(colour: str, end: float, share: float) -> str:
    """`colour` with its lightness moved by `share` of the way towards `end`: 0 is black, 1 is white."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*_parts(colour))
    moved = colorsys.hls_to_rgb(hue, lightness + (end - lightness) * share, saturation)
    return "#" + "".join(f"{round(part * 255):02x}" for part in moved)


def _until(colour: str, end: float, good: Callable[[str], bool]) -> str:
    """The first step from `colour` towards `end` that is good. The end itself always is: black on white, say."""
    steps = (_shade(colour, end, step / STEPS) for step in range(STEPS + 1))
    return next(shade for shade in steps if good(shade))


def _takes_text(fill: str) -> bool:
    # On a narrow band of middle greys neither white nor ink reads.
    return max(contrast(fill, WHITE), contrast(fill, INK)) >= READABLE


def _text_on(fill: str) -> str:
    return WHITE if contrast(fill, WHITE) >= READABLE else INK


def _reads_on(shade: str, grounds: tuple[str, str]) -> bool:
    return all(contrast(shade, ground) >= READABLE for ground in grounds)
