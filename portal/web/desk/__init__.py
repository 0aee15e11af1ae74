"""The operators' door: the desk under `/desk/`, and the one-time link under `/setup/`.

Promises: every path beneath them is ours, so whatever goes wrong is told in the desk's own pages; a failure of ours
with a reference that stands in the log, and nothing of what went wrong inside. Every page works without a script.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Final

from flask import Blueprint, Response, abort, make_response
from werkzeug.exceptions import HTTPException

from portal.offload import Busy
from portal.store import Unavailable
from portal.web import guards
from portal.web.context import Portal
from portal.web.desk import doors, gateways, guests, networks, overview, pages, people, sessions, vouchers
from portal.web.desk.frame import Link
from portal.web.guards import Route, Visit, Who

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 10

SAID: Final = {
    400: ("That was not understood", "The page may have been open for too long. Go back, reload it, send it again."),
    403: ("This is not yours to do", "Your part in this network does not reach so far. Ask one of its owners."),
    404: ("There is nothing here", "The address may be mistyped, or what stood here is gone."),
    405: ("That was not understood", "This address takes no such order."),
    413: ("That was too large", "A picture may have 5 MB, everything else much less."),
    429: ("Too many tries", "Wait a moment, then try again."),
    500: ("Something went wrong", "It is in the log under the reference below. What you sent may not have been saved."),
    503: ("We cannot reach our records just now", "Nothing was changed. Try again in some seconds."),
}


def nothing(_visit: Visit, rest: str = "") -> Response:  # noqa: ARG001 - the path beneath ours that is no page
    """Answers every other path beneath ours."""
    abort(404)


ROUTES: Final[Sequence[Route]] = (
    *doors.ROUTES,
    *networks.ROUTES,
    *overview.ROUTES,
    *sessions.ROUTES,
    *gateways.ROUTES,
    *vouchers.ROUTES,
    *guests.ROUTES,
    *people.ROUTES,
    Route("/desk/<path:rest>", nothing, Who.ANYONE, "nothing", posts=True),
    Route("/setup/<path:rest>", nothing, Who.ANYONE, "nothing_to_set_up", posts=True),
)


def blueprint(portal: Portal) -> Blueprint:
    """The desk's routes, each behind the gate. The application must have been through guards.install."""
    desk = Blueprint("desk", __name__)
    guards.mount(desk, portal, ROUTES)
    pages.compile_templates()
    desk.register_error_handler(HTTPException, _refused)
    # By number as well: the guests' door answers some numbers for the whole application, and a number goes first.
    for status in SAID:
        desk.register_error_handler(status, _refused)
    desk.register_error_handler(Unavailable, _away)
    desk.register_error_handler(Busy, _away)
    desk.register_error_handler(Exception, _failed)
    return desk


def _refused(error: HTTPException) -> Response:
    if error.response is not None:
        return make_response(error.response)
    return _page(error.code or 500)


def _away(error: Exception) -> Response:
    reference = secrets.token_hex(4)
    log.warning("the desk could not be answered", extra={"reference": reference, "error": str(error)})
    response = _page(503, reference)
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def _failed(error: Exception) -> Response:
    reference = secrets.token_hex(4)
    log.error("a page of the desk failed", extra={"reference": reference}, exc_info=error)
    return _page(500, reference)


def _page(status: int, reference: str = "") -> Response:
    title, says = SAID.get(status, SAID[400 if status < 500 else 500])
    values = {
        "title": title,
        "says": says,
        "status": status,
        "request_id": reference,
        "back": Link("To the desk", pages.url("networks")),
    }
    return guards.dress(pages.html("error.html", values, status))
