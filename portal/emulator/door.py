"""The gateway's doors for browsers: its own web server, and an HTTP proxy for each station that wants its own link.

The web server is what the router's rules lead a caught browser to. On loopback all browsers look alike, so a browser is
told apart by the address it connects from (127.0.0.2, 127.0.0.3, …: `curl --interface 127.0.0.2`), or by its link: a
browser whose proxy is a station's link *is* that station, for every http address it asks for. All others are the first
station.

Promises: one thread for each connection, which never outlives its deadline; what goes wrong in one is logged with its
traceback and raises an alarm. Decides nothing: the gateway answers.
"""

import logging
import re
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from portal.emulator.wire import to_text

log = logging.getLogger("portal.emulator")

_HEAD_LIMIT = 65536
_PATIENCE = 10.0  # libhttpd waits 10 s for each piece of a request


class Door:
    """A listening socket whose connections `serve` answers, each in a thread."""

    def __init__(self, name: str, serve: Callable[[socket.socket, str], None], alarm: Callable[[str], None]) -> None:
        self.name = name
        self.port = 0
        self._serve = serve
        self._alarm = alarm
        self._socket: socket.socket | None = None
        self._closing = False

    def open(self, host: str, port: int) -> int:
        """Listens; port 0 takes any. Returns the port. Raises OSError when it is in use."""
        self._socket = socket.create_server((host, port), backlog=128)
        self.port = int(self._socket.getsockname()[1])
        return self.port

    def accept(self) -> None:
        """Takes one connection; the work of a loop."""
        listening = self._socket
        if listening is None or self._closing:
            return
        try:
            connection, peer = listening.accept()
        except OSError:
            if self._closing:
                return
            raise
        threading.Thread(target=self._answer, args=(connection, peer[0]), daemon=True).start()

    def close(self) -> None:
        self._closing = True
        if self._socket is not None:
            try:
                # Wakes a thread that waits in accept; closing alone does not.
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                log.debug("emulator: the %s door was not listening", self.name)
            self._socket.close()

    def _answer(self, connection: socket.socket, source: str) -> None:
        with connection:
            try:
                connection.settimeout(_PATIENCE)
                self._serve(connection, source)
                connection.shutdown(socket.SHUT_WR)
                # What is left unread would turn the close into a reset, and the answer would be lost.
                connection.settimeout(1.0)
                while connection.recv(65536):
                    continue
            except OSError:
                log.debug("emulator: a browser went away")
            except Exception as error:
                log.exception("emulator: the %s door failed", self.name)
                self._alarm(f"the {self.name} door failed ({type(error).__name__})")


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """(head with its empty line, what came of the body so far). Ends early when the peer does."""
    data = b""
    while len(data) < _HEAD_LIMIT:
        end = re.search(rb"\r?\n\r?\n", data)
        if end:
            return data[: end.end()], data[end.end() :]
        piece = connection.recv(4096)
        if not piece:
            break
        data += piece
    return data, b""


def proxied(head: bytes) -> tuple[str, str, int, bytes] | None:
    """(method, host, port, head in origin form) of a request to a proxy; None when it is not one.

    The head of a CONNECT is empty.
    """
    line, _, rest = head.partition(b"\n")
    words = to_text(line.rstrip(b"\r")).split(" ")
    if len(words) != 3:
        return None
    method, target, version = words
    try:
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname:
        return None
    if method == "CONNECT":
        return method, parts.hostname, port or 443, b""
    if parts.scheme != "http":
        return None
    path = target.split("/", 3)
    origin = "/" + path[3] if len(path) > 3 else "/"
    kept = re.sub(rb"(?im)^(?:proxy-[a-z-]+|connection|keep-alive):[^\n]*\n", b"", rest)
    start = f"{method} {origin} {version}\r\nConnection: close\r\n".encode("utf-8", "surrogateescape")
    return method, parts.hostname, port or 80, start + kept


def forward(connection: socket.socket, host: str, port: int, first: bytes) -> None:
    """Carries a browser's connection to a host and back until one side ends."""
    with socket.create_connection((host, port), timeout=_PATIENCE) as upstream:
        upstream.settimeout(60.0)
        connection.settimeout(60.0)
        upstream.sendall(first)
        sender = threading.Thread(target=_pump, args=(connection, upstream), daemon=True)
        sender.start()
        _pump(upstream, connection)
        connection.shutdown(socket.SHUT_RD)
        sender.join(1.0)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
    except OSError:
        log.debug("emulator: one side of a link went away")
