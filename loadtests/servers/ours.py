"""The Flask application under our own front door: `python -m gevent.monkey --module loadtests.servers.ours PORT`."""

from __future__ import annotations

import socket
import sys

from gevent.pywsgi import WSGIServer
from psycogreen.gevent import patch_psycopg

from loadtests.servers.app import create


def main(port: int) -> None:
    """Serves until the process is ended."""
    patch_psycopg()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    listener.setblocking(False)
    WSGIServer(listener, create(), log=None, environ={"SERVER_NAME": "portal"}).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
