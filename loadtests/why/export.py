"""An export as Python computes it, without a pause. As a program it prints the length of the text."""

from __future__ import annotations

import sys

ROWS = 60_000


def render() -> str:
    """Comma-separated lines of a month's sessions."""
    lines = []
    for number in range(ROWS):
        station = ":".join(f"{number * prime % 256:02x}" for prime in (3, 5, 7, 11, 13, 17))
        lines.append(f'{number},"{station}",{number * 7919 % 100_000_000},{number * 104729 % 100_000_000}')
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(str(len(render())))
