"""A scripted auth server on a real socket, and a clock that the tests turn."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from portal.emulator import Gateway, Machine

VECTORS = Path(__file__).parent.parent / "vectors"
CLASSIC = VECTORS / "wifidog-1.3.0"
APFREE = VECTORS / "apfree-9.07.2907"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
SPLASH = b"<form><input name=lang></form><form method=post><input name=code><input type=hidden name=n value=1></form>"


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


class AuthServer:
    """Records every request and answers what it was told to: a code by stage, or whole bytes.

    `before` runs before each answer; `silent` keeps connections open without a word.
    """

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.codes: dict[str, int] = {"login": 1, "counters": 1, "logout": 0}
        self.raw: dict[str, bytes] = {}
        self.client_codes: dict[int, int] | None = None
        self.before: Callable[[], None] | None = None
        self.silent = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        """The request lines of all calls but pings and guests' pages."""
        lines = [request.split(b"\r\n")[0].decode() for request in self.requests]
        return [line for line in lines if "/auth/" in line]

    def seen(self, stage: str) -> list[dict[str, str]]:
        """The parameters of every call of a stage."""
        found = [re.findall(r"[?&]([^=&]*)=([^& ]*)", line) for line in self.lines if f"stage={stage}&" in line]
        return [dict(pairs) for pairs in found]

    def fleets(self) -> list[list[dict[str, object]]]:
        """The clients of every JSON round of counters."""
        bodies = [request.partition(b"\r\n\r\n")[2] for request in self.requests if b"counters_v2" in request]
        return [json.loads(body)["gateway"][0]["clients"] for body in bodies]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._held:
            connection.close()
        self._thread.join(2)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            # A gateway that is ended in the middle of a call resets the connection.
            with contextlib.suppress(OSError):
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        while not _whole(data):
            piece = connection.recv(4096)
            if not piece:
                connection.close()
                return
            data += piece
        self.requests.append(data)
        if self.before is not None:
            self.before()
        if self.silent:
            self._held.append(connection)
            return
        with connection:
            connection.sendall(self._answer(data))

    def _answer(self, request: bytes) -> bytes:
        stage = re.search(rb"stage=(\w+)", request)
        kind = "ping" if b"/ping/" in request else stage[1].decode() if stage else "page"
        if kind in self.raw:
            return self.raw[kind]
        if kind == "ping":
            return OK + b"Pong"
        if kind == "page":
            return OK.replace(b"text/plain", b"text/html") + SPLASH
        if kind == "counters_v2":
            return OK + self._verdicts(request)
        return OK + f"Auth: {self.codes[kind]}\n".encode()

    def _verdicts(self, request: bytes) -> bytes:
        clients = json.loads(request.partition(b"\r\n\r\n")[2])["gateway"][0]["clients"]
        codes = self.client_codes
        named = [
            {"id": client["id"], "auth_code": 1 if codes is None else codes[client["id"]]}
            for client in clients
            if codes is None or client["id"] in codes
        ]
        return json.dumps({"result": [{"gw_id": "gw-1", "auth_op": named}]}).encode()


def _whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


@pytest.fixture
def server() -> Iterator[AuthServer]:
    scripted = AuthServer()
    yield scripted
    scripted.close()


@pytest.fixture
def other() -> Iterator[AuthServer]:
    scripted = AuthServer()
    yield scripted
    scripted.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


Make = Callable[..., Gateway]


@pytest.fixture
def make(server: AuthServer, clock: Clock) -> Iterator[Make]:
    """Builds gateways against the scripted server; started without loops unless told otherwise, stopped at the end."""
    made: list[Gateway] = []

    def build(*, start: bool = True, **options: Any) -> Gateway:
        options.setdefault("clock", clock)
        options.setdefault("machine", lambda: Machine(2800, 23675348, 0.23))
        gateway = Gateway(options.pop("server", server.url), options.pop("gw_id", "gw-1"), **options)
        made.append(gateway)
        if start:
            gateway.start(loops=False)
        return gateway

    yield build
    for gateway in made:
        gateway.stop()


def without_date(head: bytes) -> bytes:
    return re.sub(rb"Date: [^\r\n]*", b"Date: -", head)
