"""A Flask application under our own front door: `python -m gevent.monkey --module loadtests.servers.ours PORT MODULE`.

The door's rules are the product's; of its limits, those on guests are wider, so that a thousand may wait at once and
a hundred megabytes may be sent, which the product has no page for.
"""

from __future__ import annotations

import importlib
import sys

from gevent.event import Event
from psycogreen.gevent import patch_psycopg

from portal.frontdoor import FrontDoor, Limit, listen

LIMITS = {"polls": Limit(at_once=2000), "guests": Limit(at_once=2000, body_bytes=1 << 30)}


def classify(path: str) -> str:
    """Routers ask under /auth; everybody else is a guest."""
    return "polls" if path.startswith("/auth") else "guests"


def main(port: int, module: str) -> None:
    """Serves what `create` in that module makes, until the process is ended."""
    patch_psycopg()
    FrontDoor(listen("127.0.0.1", port), importlib.import_module(module).create(), classify, LIMITS).start()
    Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
