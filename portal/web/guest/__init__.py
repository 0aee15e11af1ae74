"""The guest's door: splash, status and message pages, under `/` and `/wifidog/`.

Promises: a browser is sent nowhere but back to its gateway, and only with a token; nothing that it brings is believed,
and nothing of it leaves as markup; no page needs a script or a cookie; while our records cannot be reached a guest
reads that, and when to come back. Never decides who may use what: the ways in, grants and sessions do.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Flask, Response
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import HTTPException

from portal import wifidog
from portal.web import languages, look
from portal.web.context import Portal
from portal.web.guest.messages import Messages
from portal.web.guest.pages import compile_templates
from portal.web.guest.reception import Reception
from portal.web.guest.splash import Arrivals
from portal.web.guest.status import Statuses

View = Callable[..., Response]


def blueprint(portal: Portal) -> Blueprint:
    """The guests' routes, each with and without its last slash, since no gateway mends a redirect."""
    reception = Reception(portal)
    arrivals, statuses, messages = Arrivals(reception), Statuses(reception), Messages(reception)
    pages = Blueprint("guest", __name__)
    pages.record(_prepare)
    for prefix in wifidog.PREFIXES:
        _add(pages, "landing", prefix, GET=messages.landing)
        for path in wifidog.LOGIN_PATHS:
            _add(pages, "login", f"{prefix}{path}", GET=arrivals.arrive, POST=arrivals.sign_in)
        for path in wifidog.PORTAL_PATHS:
            _add(pages, "portal", f"{prefix}{path}", GET=statuses.look, POST=statuses.order)
        for path in wifidog.MESSAGE_PATHS:
            _add(pages, "message", f"{prefix}{path}", GET=messages.message)
    _add(pages, "look", f"{look.PREFIX}<name>", GET=messages.look)
    pages.register_error_handler(HTTPException, messages.refused)
    pages.register_error_handler(Exception, messages.failed)
    # Paths that nobody serves belong to no blueprint; whoever types one is most likely a guest.
    for code in (404, 405):
        pages.app_errorhandler(code)(messages.refused)
    return pages


def _prepare(state: BlueprintSetupState) -> None:
    assert isinstance(state.app, Flask)
    languages.install(state.app)
    compile_templates()


def _add(pages: Blueprint, name: str, path: str, **views: View) -> None:
    """Routes `path`. The endpoint is the view's name with the path spelt out, since each needs one of its own."""
    spelt = "".join(sign if sign.isalnum() else "_" for sign in path)
    for method, view in views.items():
        pages.add_url_rule(path, f"{name} {method} {spelt}", view, methods=[method])
