"""Guests' pages as values: what a template is given, and nothing else.

Promises: a page can be rendered from plain values, without a database; every page carries the same headers; no page
sets a cookie, holds a script, or is kept by a browser. Never looks anything up: the views do.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import jinja2
from flask import Response, request
from markupsafe import Markup

from portal.web import languages, look
from portal.web.disarm import disarmed
from portal.web.guest.words import Device, Meter, Notice, default_privacy, default_terms
from portal.web.languages import LANGUAGES, translated

FINE_PRINT: Final = ("terms", "privacy")
LONGEST_INLINE: Final = 3_000

# Hidden fields and links of a page: names with values.
Fields = Sequence[tuple[str, str]]

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_LITERAL_6 = re.compile(r"\[[0-9a-fA-F:.]+\]")


@dataclass(frozen=True, slots=True)
class House:
    """Whose Wi-Fi it is, as its guests see it. Texts are the operator's own, in `language`; "" asks for ours."""

    name: str
    language: str = "en"
    zone: str = "UTC"
    colours: str = ""
    logo: str = ""
    support: str = ""
    code_hint: str = ""
    terms: str = ""
    privacy: str = ""
    keeps_days: int = 365
    # Whether there is anything to accept: not on pages that belong to no network.
    binding: bool = True

    @property
    def time_zone(self) -> ZoneInfo:
        try:
            return ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class Way:
    """One way in. `kind` is its word in forms: "voucher", "account" or "click-through"."""

    kind: str
    title: str
    button: str
    note: str = ""
    error: Markup | str = ""


@dataclass(frozen=True, slots=True)
class Splash:
    """Where a guest signs in. The likeliest way comes first and is open. `another`: his code is none to try again."""

    ways: Sequence[Way]
    hidden: Fields = ()
    notice: Notice | None = None
    another: bool = False
    devices: Sequence[Device] = ()
    typed_code: str = ""
    typed_username: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    url: str
    label: str


@dataclass(frozen=True, slots=True)
class Status:
    """What a guest has left, on which devices, and how he goes on."""

    title: str
    meters: Sequence[Meter]
    as_of: str
    refresh: str
    online: bool = True
    notice: Notice | None = None
    onward: Link | None = None
    again: str = ""
    devices: Sequence[Device] = ()
    devices_title: str = ""
    code: str = ""
    own_end: str = ""
    own_order: str = ""
    hint: str = ""
    hidden: Fields = ()


@dataclass(frozen=True, slots=True)
class Message:
    """Something to be told, and the next thing to try."""

    notice: Notice
    good: bool = False
    link: Link | None = None
    staff: Markup | str = ""
    ask_code: bool = False
    hidden: Fields = ()
    typed_code: str = ""
    error: Markup | str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """What surrounds every page. `query` is what the language menu sends along, so that a change keeps the page."""

    title: str
    query: Fields = ()
    reference: str = ""


@dataclass(frozen=True, slots=True)
class FinePrint:
    """Terms or privacy as paragraphs; `translated` where they are ours. `link` leads to them, wherever they stand."""

    name: str
    title: str
    lines: Sequence[str]
    translated: bool
    link: str

    @property
    def inline(self) -> bool:
        """Whether the text stands on the page that names it; a long one would cost every guest its weight."""
        return self.link.startswith("#")


@dataclass(frozen=True, slots=True)
class _Page:
    title: str
    query: Fields
    reference: str
    language: str = field(default_factory=languages.language)
    direction: str = field(default_factory=languages.direction)

    @property
    def language_name(self) -> str:
        return LANGUAGES[self.language]

    @property
    def languages(self) -> Sequence[tuple[str, str]]:
        return list(LANGUAGES.items())


def splash(house: House, frame: Frame, content: Splash, targets: Sequence[str], code: int = 200) -> Response:
    """The splash page; its forms' answers may redirect to `targets` (see `form_targets`)."""
    return guarded(_rendered("guest/splash.html", house, frame, code, splash=content), targets)


def status(house: House, frame: Frame, content: Status) -> Response:
    """The status page."""
    return guarded(_rendered("guest/status.html", house, frame, 200, status=content))


def message(house: House, frame: Frame, content: Message, code: int = 200) -> Response:
    """A message page."""
    return guarded(_rendered("guest/message.html", house, frame, code, message=content))


def fine_print(house: House, name: str) -> Response | None:
    """A page of its own for the terms or the privacy statement; None where there are none."""
    text = next((text for text in _fine_print(house) if text.name == name), None)
    if text is None:
        return None
    query = [pair for pair in request.args.items() if pair[0] != "show"]
    close = f"?{urlencode(query)}"
    frame = Frame(text.title, [*query, ("show", name)])
    return guarded(_rendered("guest/fine_print.html", house, frame, 200, text=text, close=close))


def sent_on(url: str) -> Response:
    """The browser goes to its gateway."""
    return _redirect(url, 302)


def see(url: str) -> Response:
    """After an order was carried out: a page that can be reloaded without giving it again."""
    return _redirect(url, 303)


def _redirect(url: str, code: int) -> Response:
    response = Response("", code, content_type="text/html; charset=utf-8")
    response.headers["Location"] = url
    return guarded(response)


def _rendered(template: str, house: House, frame: Frame, code: int, /, **content: object) -> Response:
    page = _Page(frame.title, [pair for pair in frame.query if pair[1] and pair[0] != "lang"], frame.reference)
    html = (
        _environment()
        .get_template(template)
        .render(page=page, house=house, sheet=look.sheet_name("guest"), fine_print=_fine_print(house), **content)
    )
    response = Response(disarmed(html), code, content_type="text/html; charset=utf-8")
    response.headers["Content-Language"] = page.language
    response.headers["Vary"] = "Accept-Language"
    return response


@functools.cache
def _environment() -> jinja2.Environment:
    """The templates: everything is escaped, and a name that nobody gave is an error, not an empty space."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent.parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["_"] = languages.say
    return environment


def compile_templates() -> None:
    """Compile every page now: it takes 90 ms, in which the event loop would answer nobody."""
    for name in _environment().list_templates(filter_func=lambda name: name.startswith("guest/")):
        _environment().get_template(name)


def _fine_print(house: House) -> list[FinePrint]:
    """What a guest of this house accepts, and what is kept of him; nothing on pages that belong to no network."""
    if not house.binding:
        return []
    return [
        _text(FINE_PRINT[0], translated("Terms of use"), house.terms, default_terms()),
        _text(
            FINE_PRINT[1], translated("What we keep, and how long"), house.privacy, default_privacy(house.keeps_days)
        ),
    ]


def _text(name: str, title: str, own: str, ours: Sequence[str]) -> FinePrint:
    lines = [line for line in own.splitlines() if line.strip()]
    link = f"#{name}"
    if len(own) > LONGEST_INLINE:
        kept = [pair for pair in request.args.items() if pair[0] not in ("show", "lang")]
        link = f"?{urlencode([*kept, ('lang', languages.language()), ('show', name)])}"
    return FinePrint(name, title, lines or ours, not lines, link)


def guarded(response: Response, targets: Sequence[str] = ()) -> Response:
    """`response` with the headers of a guest's page. `targets` are where its forms are sent on to, besides us.

    Chromium checks every redirect of a form's answer against `form-action` and drops it without a word to the guest
    (seen in 156), so each stop of a sign-in must stand there.
    """
    sources = " ".join(["'self'", *targets])
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; "
        f"form-action {sources}; base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def form_targets(return_url: str, own_host: str) -> list[str]:
    """The stops of a sign-in: the gateway of `return_url`, and then us again, as the gateway calls us.

    A gateway without TLS sends the browser to plain HTTP on any port, also where a proxy in front of us turned the
    splash page itself into HTTPS; 'self' covers neither. CSP has no word for an IPv6 literal: there the scheme stands.
    """
    origin = "/".join(return_url.split("/", 3)[:3])
    found = ["http:" if _LITERAL_6.search(origin) else origin]
    if _HOST.fullmatch(own_host):
        found.append(f"http://{own_host}:*")
    return found
