"""What machines ask about us: /healthz, /readyz, /metrics.

Promises: /healthz says that the process answers, and nothing else; /readyz says whether it can do its work, and names
what is wrong in one word each: anybody may ask, so what the database or a loop had to say about it goes to the log;
/metrics is read by whom the settings allow. None of them needs a free database connection to answer.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping

from flask import Blueprint, Response, abort, request

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def blueprint(exposition: Callable[[], bytes], ready: Callable[[], Mapping[str, str]], token: str) -> Blueprint:
    """The probes. `exposition` is what /metrics shows, `ready` returns what is wrong: the word for /readyz, and for
    the log what is known about it.

    `token` opens /metrics; "" opens it to this machine only.
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
                abort(403)
        elif request.remote_addr not in LOOPBACK:
            abort(403)
        return Response(exposition(), content_type="text/plain; version=0.0.4; charset=utf-8")

    return probes


def _text(text: str, status: int = 200) -> Response:
    response = Response(text + "\n", status=status, content_type="text/plain; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    return response
