"""One ORM transaction per poll: Flask and SQLAlchemy as their manuals show them, on the product's own session table.

Under our front door: `python -m gevent.monkey --module loadtests.bench.orm PORT`; under Gunicorn: `create`. It looks
the session up by its token and updates that one row: neither counter line nor grant, which the product writes as well.
"""

from __future__ import annotations

import hashlib
import os
import sys
from datetime import UTC, datetime

from flask import Flask, Response, request
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from portal.store import models


def create() -> Flask:
    """The application, with its own pool of connections."""
    url = os.environ["BENCH_DATABASE"].replace("postgresql://", "postgresql+psycopg2://", 1)
    engine = create_engine(url, pool_size=int(os.environ["BENCH_POOL"]), max_overflow=0)
    app = Flask("portal")

    @app.get("/alive")
    def alive() -> str:
        return "yes"

    @app.get("/auth/")
    def poll() -> Response:
        report = request.args
        token_hash = hashlib.sha256(report["token"].encode()).digest()
        incoming, outgoing = int(report["incoming"]), int(report["outgoing"])
        with Session(engine) as db, db.begin():
            found = db.scalars(select(models.Session).where(models.Session.token_hash == token_hash)).one_or_none()
            if found is None or found.state != "active":
                return Response("Auth: 0\n", mimetype="text/plain")
            found.used_down = max(found.used_down, incoming)
            found.used_up = max(found.used_up, outgoing)
            found.ip = report["ip"]
            found.reported_at = datetime.now(UTC)
        return Response("Auth: 1\n", mimetype="text/plain")

    return app


def main(port: int) -> None:
    """Serves on our front door until the process is ended."""
    from gevent.event import Event
    from psycogreen.gevent import patch_psycopg

    from portal.frontdoor import FrontDoor, Limit, listen

    patch_psycopg()
    FrontDoor(listen("127.0.0.1", port), create(), lambda _path: "polls", {"polls": Limit(at_once=2000)}).start()
    Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
