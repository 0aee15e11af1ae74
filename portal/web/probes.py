"""What machines ask about us: /healthz, /readyz, /metrics.

Promises: /healthz says that the process answers, and nothing else; /readyz says whether it can do its work, naming what
is wrong with it; /metrics is read by whom the settings allow. None of them needs a free database connection to answer.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping

from flask import Blueprint, Response, abort, request

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def blueprint(exposition: Callable[[], bytes], ready: Callable[[], Mapping[str, str]], token: str) -> Blueprint:
    """The probes. `exposition` is what /metrics shows, `ready` returns what is wrong, by part.

    `token` opens /metrics; "" opens it to this machine only.
    """
    probes = Blueprint("probes", __name__)

    @probes.get("/healthz")
    def health() -> Response:
        return _text("alive")

    @probes.get("/readyz")
    def readiness() -> Response:
        wrong = ready()
        if not wrong:
            return _text("ready")
        return _text("\n".join(f"{part}: {what}" for part, what in sorted(wrong.items())), 503)

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
