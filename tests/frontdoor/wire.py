"""A client of bytes, and an application that remembers what reached it."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent import socket

from portal.frontdoor import FrontDoor, Limit, Raw, Rules, listen

# What the door itself may say, whatever it is asked.
CONSTANT = re.compile(
    rb"HTTP/1\.1 (400 Bad Request|408 Request Timeout|413 Content Too Large|414 URI Too Long|417 Expectation Failed"
    rb"|431 Request Header Fields Too Large|500 Internal Server Error|501 Not Implemented|503 Service Unavailable"
    rb"|505 HTTP Version Not Supported)\r\n"
    rb"Content-Type: text/plain\r\nCache-Control: no-store\r\n(Retry-After: \d+\r\n)?Content-Length: \d+\r\n"
    rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\nConnection: close\r\n\r\n"
    rb"[A-Z][A-Za-z0-9/. ]+\.( Please try again\.)?\n"
)
NEUTRAL = Raw("503 Service Unavailable", b"neutral\n", ("Content-Type", "text/plain"))


@dataclass
class Seen:
    """A request as the application saw it."""

    environ: dict[str, Any]
    body: bytes = b""


@dataclass
class App:
    """Echoes nothing, remembers everything. `answers` replaces what it does for one path."""

    seen: list[Seen] = field(default_factory=list)
    answers: dict[str, Callable[[dict[str, Any], Any], Iterable[bytes] | Raw]] = field(default_factory=dict)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes] | Raw:
        special = self.answers.get(environ["PATH_INFO"])
        if special is not None:
            return special(environ, start_response)
        self.seen.append(Seen(environ, environ["wsgi.input"].read()))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"fine"]

    @property
    def paths(self) -> list[str]:
        return [seen.environ["PATH_INFO"] for seen in self.seen]


def classify(path: str) -> str:
    return "polls" if path.startswith("/poll") else "uploads" if path.startswith("/upload") else "guests"


LIMITS = {"polls": Limit(4, busy=NEUTRAL, failed=NEUTRAL), "guests": Limit(4), "uploads": Limit(4, body_bytes=1 << 20)}


@dataclass
class House:
    """A front door on a free port, and what is behind it."""

    app: App
    door: FrontDoor
    address: Any

    def call(self) -> Wire:
        return Wire(self.address)

    def ask(self, request: bytes) -> bytes:
        """All that comes back on a connection of its own, until the door closes it."""
        with self.call() as wire:
            wire.send(request)
            return wire.rest()


def house(rules: Rules | None = None, limits: dict[str, Limit] | None = None, **more: Any) -> House:
    app = App()
    door = FrontDoor(listen("127.0.0.1", 0), app, classify, limits or LIMITS, rules=rules, **more)
    door.start()
    return House(app, door, door.address)


class Wire:
    """A connected socket. Everything it does gives up after 5 s: a test must not hang."""

    def __init__(self, address: Any) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(5)
        self._read = b""
        try:
            self.sock.connect(address)
        except OSError:
            self.sock.close()
            raise

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        while data := self.sock.recv(65536):
            self._read += data
        read, self._read = self._read, b""
        return read

    def answer(self) -> bytes:
        """One whole answer, head and body, of a known length; the connection may go on."""
        while b"\r\n\r\n" not in self._read:
            data = self.sock.recv(65536)
            assert data, f"closed after {self._read!r}"
            self._read += data
        head, _, rest = self._read.partition(b"\r\n\r\n")
        found = re.search(rb"\r\nContent-Length: (\d+)", head)
        length = int(found[1]) if found else 0
        while len(rest) < length:
            data = self.sock.recv(65536)
            assert data, "closed in the middle of a body"
            rest += data
        self._read = rest[length:]
        return head + b"\r\n\r\n" + rest[:length]

    def is_closed(self, within: float) -> bool:
        """Whether the door closes this connection in time, having said nothing more."""
        self.sock.settimeout(within)
        try:
            return self.sock.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self.sock.settimeout(5)

    def segments(self) -> int:
        """How many TCP segments with data have come in (Linux, tcpi_data_segs_in)."""
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
        return int(struct.unpack_from("I", info, 152)[0])


def until(condition: Callable[[], bool], what: str, within: float = 3.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"still not: {what}"
        gevent.sleep(0.005)


def get(path: str, *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    """A well-formed request without a body."""
    return "\r\n".join((f"{method} {path} HTTP/{version}", "Host: portal", *headers, "", "")).encode("latin-1")


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    """A well-formed request with a body."""
    return get(path, f"Content-Length: {len(body)}", *headers, version=version, method="POST") + body


def status(answer: bytes) -> int:
    return int(answer[9:12])


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]
