"""Style sheets and logos, under names that hold a hash of what they contain.

Promises: a name that a page prints is answered with exactly what the page was made for, and may be kept for ever; a
name with an old hash is answered too, with what stands there now, and not kept. A network's colours need no database:
their name holds the colour they are derived from.
"""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

from flask import Response

from portal.web import accent

STATIC = Path(__file__).with_name("static")
PREFIX = "/look/"
FOR_EVER = "public, max-age=31536000, immutable"

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_AROUND = re.compile(r"\s*([{};])\s*")
_SHEET = re.compile(r"/look/([a-z]+)-[0-9a-f]{10}\.css")
_COLOURS = re.compile(r"/look/colours-([0-9a-f]{6})-[0-9a-f]{10}\.css")
_LOGO = re.compile(r"/look/logo-([0-9]{1,18})-[0-9a-f]{12}\.png")


def hashed(content: bytes) -> str:
    """The part of a name that changes with the content."""
    return hashlib.sha256(content).hexdigest()[:10]


@functools.cache
def sheet(name: str) -> bytes:
    """One of our own style sheets, without comments and needless blanks: every guest loads it on a poor connection."""
    text = _COMMENT.sub("", (STATIC / f"{name}.css").read_text(encoding="utf-8"))
    return _AROUND.sub(r"\1", text).replace(";}", "}").strip().encode()


@functools.cache
def sheet_name(name: str) -> str:
    """The address of one of our own style sheets."""
    return f"{PREFIX}{name}-{hashed(sheet(name))}.css"


@functools.lru_cache(maxsize=1_000)
def colours(colour: str) -> bytes:
    """The values that a network's one colour (`#rrggbb`) gives."""
    return accent.css(colour).encode()


def colours_name(colour: str) -> str:
    """The address of a network's colours, to be linked after the style sheet."""
    return f"{PREFIX}colours-{colour[1:]}-{hashed(colours(colour))}.css"


def logo_name(network_id: int, mark: str) -> str:
    """The address of a network's logo. `mark` changes with the logo (networks.Network.logo_mark)."""
    return f"{PREFIX}logo-{network_id}-{mark}.png"


def sheet_in(path: str) -> str | None:
    """Which of our own style sheets an address asks for, or None if it is another sort of address."""
    match = _SHEET.fullmatch(path)
    return match[1] if match and (STATIC / f"{match[1]}.css").is_file() else None


def colour_in(path: str) -> str | None:
    """The colour that the address of a style sheet asks for, or None."""
    match = _COLOURS.fullmatch(path)
    return f"#{match[1]}" if match else None


def network_in(path: str) -> int | None:
    """The network whose logo an address asks for, or None."""
    match = _LOGO.fullmatch(path)
    return int(match[1]) if match else None


def answer(content: bytes, kind: str, *, current: bool) -> Response:
    """`content`, to be kept for ever if what was asked for is its `current` address."""
    response = Response(content, content_type=kind)
    response.headers["X-Content-Type-Options"] = "nosniff"
    # A picture opened by itself is still not a page of ours.
    response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'; sandbox"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cache-Control"] = FOR_EVER if current else "no-cache"
    return response
