"""The desk's pages as HTML: one template environment, and what every page may use.

Promises: everything is escaped; a name that a template uses and nobody gave is an error, not an empty space; a page
prints the icons it uses once; nobody waits for a long one. Never looks anything up: views do.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from flask import Response, get_flashed_messages, url_for
from flask_wtf.csrf import generate_csrf
from markupsafe import Markup

from portal.offload import in_turns
from portal.web import look
from portal.web.desk import words
from portal.web.disarm import disarmed

_SYMBOL = re.compile(r'<symbol id="i-([a-z]+)".*?</symbol>')
_FOLDER = Path(__file__).parent.parent


class Icons:
    """The icons of one page: drawn by name, printed once, at its end."""

    def __init__(self) -> None:
        self._used: dict[str, None] = {}

    def draw(self, name: str) -> Markup:
        self._used[name] = None
        return Markup('<svg class="icon" aria-hidden="true"><use href="#i-{}"/></svg>').format(name)

    def symbols(self) -> Markup:
        every = _symbols()
        return Markup("<svg hidden>{}</svg>").format(Markup("").join(every[name] for name in self._used))


@functools.cache
def _symbols() -> Mapping[str, Markup]:
    sprite = (look.STATIC / "icons.svg").read_text(encoding="utf-8")
    return {match[1]: Markup(match[0]) for match in _SYMBOL.finditer(sprite)}  # noqa: S704 - our own file


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        size=words.size,
        size_parts=words.size_parts,
        grouped=words.grouped,
        many=words.many,
        share=share,
        sheet=look.sheet_name,
        colours=look.colours_name,
        csrf_token=generate_csrf,
        notices=lambda: get_flashed_messages(with_categories=True),
        url=url,
    )
    return environment


def compile_templates() -> None:
    """Compile every page now: it takes 100 ms, in which the event loop would answer nobody."""
    for name in _environment().list_templates(filter_func=lambda name: name.startswith("desk/")):
        _environment().get_template(name)


def url(endpoint: str, **values: Any) -> str:
    """The address of one of the desk's pages."""
    return url_for(f"desk.{endpoint}", **{name: value for name, value in values.items() if value not in (None, "")})


def share(left: int, limit: int) -> int:
    """How much is left of a limit, in whole percent, as the gate draws it."""
    return max(0, min(100, left * 100 // limit)) if limit > 0 else 0


def html(template: str, values: Mapping[str, object], status: int = 200) -> Response:
    """A page of the desk. A list of a thousand takes 50 ms to write: piece by piece, so that routers are answered."""
    pieces = in_turns(_environment().get_template(f"desk/{template}").generate(icons=Icons(), **values))
    return Response(disarmed("".join(pieces)), status=status, content_type="text/html; charset=utf-8")
