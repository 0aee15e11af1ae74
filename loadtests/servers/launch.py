"""Starts the Flask application under servers without a command line: `python -m loadtests.servers.launch dev PORT`."""

from __future__ import annotations

import logging
import sys

from cheroot.wsgi import Server
from flask import Flask

from loadtests.servers.app import create


def dev(app: Flask, port: int) -> None:
    """Flask's development server, which starts a thread per connection; without its line per request."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app.run("127.0.0.1", port, threaded=True)


def cheroot(app: Flask, port: int) -> None:
    """CherryPy's server with fifty threads. Its default backlog of 5 would measure the kernel's retries instead."""
    server = Server(("127.0.0.1", port), app, numthreads=50, request_queue_size=1024)
    try:
        server.start()
    finally:
        server.stop()


if __name__ == "__main__":
    {"dev": dev, "cheroot": cheroot}[sys.argv[1]](create(), int(sys.argv[2]))
