"""The portal of the matrix as a Flask application, the same bytes under every WSGI server.

`create` is a factory, called by each server's process after its fork; nothing happens at import. The code knows nothing
of threads, processes or greenlets: it calls, it waits, and the server decides what that costs.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import urllib3
from flask import Flask, Response, request
from sqlalchemy import create_engine, text

from loadtests.servers import common

FIND = text(common.FIND)
COUNT = text(common.COUNT)
ADD_SIGN_IN = text(common.ADD_SIGN_IN)
ADD_LINE = text(common.ADD_LINE)
SLEEP_BATCH = text(common.SLEEP_BATCH)
SLEEP_REPORT = text(common.SLEEP_REPORT)


def create() -> Flask:
    """The application, with its own pool of connections and its own pool of connections to the outside services."""
    settings = common.Settings.from_env()
    engine = create_engine(common.sqlalchemy_url(settings.database), pool_size=settings.pool, max_overflow=0)
    outside = urllib3.HTTPConnectionPool("127.0.0.1", settings.outside, maxsize=1000, timeout=30, retries=False)
    app = Flask("portal")

    def wait(milliseconds: str) -> int:
        return outside.request("GET", f"/wait/{milliseconds}").status

    @app.get("/alive")
    def alive() -> str:
        return "yes"

    @app.get("/auth/")
    def poll() -> Response:
        report = request.args
        values = {name: int(report[name]) for name in ("incoming", "outgoing")}
        with engine.begin() as db:
            session = db.execute(FIND, {"token": report["token"]}).one_or_none()
            if session is None:
                return Response(common.DENY, mimetype="text/plain")
            db.execute(COUNT, {"token": session.token, **values})
        return Response(common.ALLOW, mimetype="text/plain")

    @app.get("/proxy")
    def proxy() -> str:
        return str(wait("200-500"))

    @app.post("/batch")
    def batch() -> str:
        with engine.begin() as db:
            db.execute(ADD_LINE)
            db.execute(SLEEP_BATCH)
        return "written"

    @app.post("/upload")
    def upload() -> str:
        digest, packer, packed = hashlib.sha256(), zlib.compressobj(1), 0
        while chunk := request.stream.read(common.UPLOAD_CHUNK):
            digest.update(chunk)
            packed += len(packer.compress(chunk))
            # A fast sender always has more to read, so the read alone never waits, and a greenlet that never waits
            # stops all others. sleep(0) is not enough: gevent runs up to fifty of those before it looks at a socket
            # (polls waited 400 ms); a timer, however short, comes after the sockets.
            time.sleep(0.00001)
        return f"{digest.hexdigest()} {packed + len(packer.flush())}"

    @app.get("/joined")
    def joined() -> str:
        with ThreadPoolExecutor(common.SERVICES) as team:
            return str(list(team.map(wait, ["100"] * common.SERVICES)))

    @app.get("/report")
    def report() -> str:
        with engine.connect() as db:
            db.execute(SLEEP_REPORT)
        return "ready"

    @app.post("/sign-in")
    def sign_in() -> str:
        if wait("200") != 200:
            raise RuntimeError("the third party did not answer with 200")
        with engine.begin() as db:
            db.execute(ADD_SIGN_IN, {"code": request.form["code"]})
        return "welcome"

    @app.get("/hold/<int:milliseconds>")
    def hold(milliseconds: int) -> str:
        return str(wait(str(milliseconds)))

    return app
