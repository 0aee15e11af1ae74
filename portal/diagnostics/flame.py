"""A profile as text and as a picture. PURE: counted stacks in, text out.

A stack is a tuple of places, outermost first; the count is how often a sampler found the program there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

Stacks = Mapping[tuple[str, ...], int]

_WIDTH = 1200
_ROW = 17
_LETTER = 6.6  # pixels, of a 11 px monospaced letter
_NARROWEST = 0.3  # pixels; what is narrower cannot be seen


def folded(stacks: Stacks) -> str:
    """The collapsed form that flame-graph tools read: `outer;inner count`, a line each, most frequent first."""
    lines = sorted(stacks.items(), key=lambda one: (-one[1], one[0]))
    return "".join(f"{';'.join(stack)} {count}\n" for stack, count in lines)


@dataclass
class _Node:
    count: int = 0
    inner: dict[str, _Node] = field(default_factory=dict)

    def depth(self) -> int:
        return 1 + max((node.depth() for node in self.inner.values()), default=0)


def svg(stacks: Stacks, title: str) -> str:
    """A flame graph, whole in one file and without scripts: width is time, the innermost places are on top."""
    root = _Node()
    for stack, count in stacks.items():
        root.count += count
        node = root
        for place in stack:
            node = node.inner.setdefault(place, _Node())
            node.count += count
    height = root.depth() * _ROW + 2 * _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        ' font-family="monospace" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="4" y="12">{escape(title)}</text>',
    ]
    _draw(parts, root, "all", 0.0, height - _ROW, _WIDTH / max(root.count, 1), root.count)
    return "\n".join([*parts, "</svg>", ""])


def _draw(parts: list[str], node: _Node, name: str, x: float, y: int, scale: float, total: int) -> None:
    width = node.count * scale
    if width < _NARROWEST:
        return
    share = 100 * node.count / max(total, 1)
    letters = int((width - 4) / _LETTER)
    label = name if len(name) <= letters else name[: letters - 1] + "…" if letters > 3 else ""
    # The colour is the place's own, so that it is found again in another picture.
    hue = 20 + sum(name.encode()) % 40
    parts.append(
        f"<g><title>{escape(name)}: {node.count} samples, {share:.1f} %</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 1}" fill="hsl({hue},85%,65%)"/>'
        f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(label)}</text></g>'
    )
    for inner_name, inner in sorted(node.inner.items()):
        _draw(parts, inner, inner_name, x, y - _ROW, scale, total)
        x += inner.count * scale
