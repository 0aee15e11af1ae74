"""Polls as fast as a server takes them, from a process of its own: a closed loop over raw sockets.

So many gateways poll at once, each sending its next poll when it has read the answer to its last one. Requests are made
from parts that were prepared before; one epoll loop; nothing of the product is imported. With HTTP/1.0 an answer is
what has come when the server closes, as routers read it; with keep-alive it is measured by its Content-Length.

Reads an `Order` as JSON from standard input, writes a `Yield` as JSON to standard output.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.workload import Latencies

RIGHT = b"Auth: 1\n"
MOST = 65536
QUIET_SECONDS = 10.0
"""Without a single answer for so long, the server is taken to be stuck."""
DOWN, UP = 1000, 100
"""Bytes by which a guest's counters grow from one poll to the next."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to send. `guests` is a file (a line each: token, MAC, IP, gw_id, key), of which the first `live` poll in
    turn; `round` is how often each of them has polled before, at most, since counters only grow. The first `warm`
    seconds are not measured. `right` is what a right answer contains."""

    port: int
    guests: str
    live: int
    at_once: int
    warm: float
    seconds: float
    keep_alive: bool
    round: int
    right: str = RIGHT.decode()


@dataclass(slots=True)
class Yield:
    """What came back. `polls` is the number of right answers within the measured `seconds`, `sent` that of all
    requests ever sent, the errors by their word; `cpu` what the generator itself used, as a share of a core."""

    polls: int
    seconds: float
    sent: int
    errors: dict[str, int]
    latencies: Latencies
    cpu: float

    @property
    def rate(self) -> float:
        """Polls a second."""
        return self.polls / self.seconds

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Yield:
        """From what the generator's process has written."""
        return cls(**{**value, "latencies": Latencies.from_json(value["latencies"])})


def parts(order: Order) -> list[tuple[bytes, bytes]]:
    """For each guest, the request before and after its counters."""
    if order.keep_alive:
        tail = " HTTP/1.1\r\nHost: portal.test\r\nUser-Agent: WiFiDog 1.3.0\r\n\r\n"
    else:
        tail = " HTTP/1.0\r\nUser-Agent: WiFiDog 1.3.0\r\nHost: portal.test\r\n\r\n"
    made = []
    with Path(order.guests).open() as file:
        for _, line in zip(range(order.live), file, strict=False):
            token, mac, ip, gw_id, key = line.rstrip("\n").split("\t")
            head = f"GET /auth/?k={key}&stage=counters&ip={ip}&mac={mac}&token={token}&incoming="
            made.append((head.encode(), f"&gw_id={gw_id}{tail}".encode()))
    return made


class Polls:
    """One run of an order."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.parts = parts(order)
        self.right = order.right.encode()
        self.sent = 0
        self.errors: Counter[str] = Counter()
        self.seconds: list[float] = []  # that each right answer took

    def request(self) -> bytes:
        """The next guest's poll, its counters grown."""
        turn, guest = divmod(self.sent, len(self.parts))
        self.sent += 1
        head, tail = self.parts[guest]
        turn += self.order.round + 1
        return b"%b%d&outgoing=%d%b" % (head, turn * DOWN, turn * UP, tail)

    def run(self) -> Yield:
        """Sends until the time is over, then waits for the last answers."""
        loop = self._kept if self.order.keep_alive else self._closing
        begin = time.monotonic() + self.order.warm
        end = begin + self.order.seconds
        used = resource.getrusage(resource.RUSAGE_SELF)
        started = time.monotonic()
        loop(begin, end)
        now = resource.getrusage(resource.RUSAGE_SELF)
        cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        took = time.monotonic() - started
        latencies = Latencies()
        for seconds in self.seconds:
            latencies.add(seconds)
        return Yield(
            len(self.seconds), self.order.seconds, self.sent, dict(self.errors), latencies, round(cpu / took, 3)
        )

    def _judge(self, answer: bytes, sent: float, now: float, *, counts: bool) -> None:
        if self.right not in answer:
            self.errors[answer[9:12].decode("latin-1") if answer else "closed without an answer"] += 1
        elif counts:
            self.seconds.append(now - sent)

    def _wait(self, poll: select.epoll) -> list[tuple[int, int]]:
        events = poll.poll(QUIET_SECONDS)
        if not events:
            raise SystemExit(f"no answer for {QUIET_SECONDS:g} s, {len(self.seconds)} polls after the warm-up")
        return events

    def _closing(self, begin: float, end: float) -> None:
        """A connection each. The kernel tells when the server has closed; then the whole answer is there."""
        address = ("127.0.0.1", self.order.port)
        poll = select.epoll()
        waiting: dict[int, tuple[socket.SocketType, float]] = {}

        def send() -> None:
            # The plain one: a poll is measured, not what a library makes of a socket.
            connection = socket.SocketType()
            sent = time.monotonic()
            connection.connect(address)
            connection.send(self.request())
            number = connection.fileno()
            poll.register(number, select.EPOLLRDHUP)
            waiting[number] = (connection, sent)

        for _ in range(self.order.at_once):
            send()
        while waiting:
            for number, _ in self._wait(poll):
                connection, sent = waiting.pop(number)
                try:
                    answer = connection.recv(MOST)
                except ConnectionResetError:
                    answer = b""
                connection.close()
                now = time.monotonic()
                self._judge(answer, sent, now, counts=begin <= now < end)
                if now < end:
                    send()

    def _kept(self, begin: float, end: float) -> None:
        """One connection for each gateway; the answer is short, and comes in one piece or is put together."""
        address = ("127.0.0.1", self.order.port)
        poll = select.epoll()
        waiting: dict[int, tuple[socket.socket, float, bytes]] = {}
        for _ in range(self.order.at_once):
            connection = socket.create_connection(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(connection.fileno(), select.EPOLLIN)
            waiting[connection.fileno()] = (connection, time.monotonic(), b"")
            connection.send(self.request())
        while waiting:
            for number, _ in self._wait(poll):
                connection, sent, before = waiting[number]
                piece = connection.recv(MOST)
                answer = before + piece
                if piece and not complete(answer):
                    waiting[number] = (connection, sent, answer)
                    continue
                now = time.monotonic()
                self._judge(answer, sent, now, counts=begin <= now < end)
                if now < end and piece:
                    waiting[number] = (connection, now, b"")
                    connection.send(self.request())
                else:
                    del waiting[number]
                    connection.close()


def complete(answer: bytes) -> bool:
    """Whether this is a whole answer, by its Content-Length."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    place = head.lower().find(b"content-length:")
    return place >= 0 and len(body) >= int(head[place + 15 :].split(b"\r\n", 1)[0])


def main() -> None:
    """Standard input: an order. Standard output: its yield."""
    polls = Polls(Order(**json.load(sys.stdin)))
    sys.stderr.write("sending\n")
    sys.stderr.flush()
    found = polls.run()
    value = {name: getattr(found, name) for name in ("polls", "seconds", "sent", "errors", "cpu")}
    json.dump({**value, "latencies": found.latencies.as_json()}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # a hundred thousand prepared requests need not be given back one by one


if __name__ == "__main__":
    main()
