"""A bare "ok" on the product's own front door: `python -m gevent.monkey --module loadtests.bench.ok PORT`.

The least that a poll can cost on this server: the same sockets, deadlines, limits and framing, and a constant answer in
the door's quickest form, from a process that looks for garbage as seldom as the product's. What the product takes
beyond this is what it does.
"""

from __future__ import annotations

import sys

from gevent.event import Event

from portal.frontdoor import FrontDoor, Limit, Raw, listen
from serve import calm_collector

OK = Raw("200 OK", b"Auth: 1\n", ("Content-Type", "text/plain"), ("Cache-Control", "no-store"))


def main(port: int) -> None:
    """Serves until the process is ended."""
    limits = {"polls": Limit(at_once=2000)}
    FrontDoor(listen("127.0.0.1", port), lambda _environ, _start: OK, lambda _path: "polls", limits).start()
    calm_collector()
    Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
