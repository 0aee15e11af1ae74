"""What machines ask about us: /healthz, /readyz, /metrics.

Promises: /healthz says that the process answers, and nothing else; /readyz says whether it can do its work, and names
what is wrong in one word each: anybody may ask, so what the database or a loop had to say about it goes to the log;
/metrics is read by whom the settings allow, through a proxy only by whoever shows the token. None of them needs a free
database connection to answer: /readyz waits two seconds for one.
"""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Callable, Mapping

from flask import Blueprint, Response, request

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_OWN_NAME = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])?(:\d+)?", re.IGNORECASE)


def blueprint(
    exposition: Callable[[], bytes],
    ready: Callable[[], Mapping[str, str]],
    token: str,
    *,
    unknown_proxy: bool = False,
) -> Blueprint:
    """The probes. `exposition` is what /metrics shows, `ready` returns what is wrong: the word for /readyz, and for
    the log what is known about it.

    `token` opens /metrics; "" opens it to programs on this machine, unless an `unknown_proxy` stands in front: one
    that the settings do not list, whose callers all seem to be on this machine.
    """
    probes = Blueprint("probes", __name__)
    told: dict[str, str] = {}  # in the log, about what is wrong just now

    @probes.get("/healthz")
    def health() -> Response:
        return _text("alive")

    @probes.get("/readyz")
    def readiness() -> Response:
        wrong = ready()
        for cause, detail in wrong.items():
            # Once, and not each time that a balancer, or a stranger, asks.
            if told.get(cause) != detail:
                log.warning("not ready", extra={"cause": cause, "detail": detail})
        told.clear()
        told.update(wrong)
        return _text("\n".join(sorted(wrong)), 503) if wrong else _text("ready")

    @probes.get("/metrics")
    def measured() -> Response:
        if token:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), token.encode()):
                return _text("This takes the token of metrics.token.", 403)
        elif unknown_proxy or not _from_this_machine():
            return _text("This is for programs on this machine, and not through a proxy; see metrics.access.", 403)
        return Response(exposition(), content_type="text/plain; version=0.0.4; charset=utf-8")

    return probes


def _from_this_machine() -> bool:
    """Whether a program here asks, and not a proxy here for somebody elsewhere.

    A proxy says for whom it asks (X-Forwarded-For, Forwarded, Via), or passes on the name that was asked for; so does a
    browser here that a foreign page sends to us. One that hides both is found by the doctor.
    """
    forwarded = "gatepost.forwarded" in request.environ or "Via" in request.headers
    own_name = _OWN_NAME.fullmatch(request.host) is not None
    return request.remote_addr in LOOPBACK and not forwarded and own_name


def _text(text: str, status: int = 200) -> Response:
    response = Response(text + "\n", status=status, content_type="text/plain; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    return response
