"""The load generator: a process of its own that sends streams of requests over raw sockets and counts what comes back.

Reads a list of streams as JSON from standard input, writes the outcomes as JSON to standard output. One greenlet per
request in flight; nothing of the product is imported, so that the generator cannot share its faults or its loop. An
answer is read the way routers and browsers do: to the end of the connection, or by its Content-Length when the
connection is kept. Started as `python -m gevent.monkey --module loadtests.generator`, which patches before all else.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import time
from collections import deque

import gevent
import gevent.pool

from loadtests.workload import Outcome, Stream

LEAD_SECONDS = 0.3
BLOCK = 1 << 20


def upload_block() -> bytes:
    """A mebibyte of which half compresses and half does not, the same in every run."""
    noise = b"".join(hashlib.sha256(n.to_bytes(4)).digest() for n in range(BLOCK // 64))
    text = b"station 02:00:00:00:00:01 incoming 1048576 outgoing 65536 verdict allow\n"
    return noise + (text * (BLOCK // 2 // len(text) + 1))[: BLOCK - len(noise)]


class Refused(Exception):
    """An answer that is not the right one; its text is the word under which it is counted."""


class Sender:
    """Sends one stream: keeps its schedule, its line of what is due and not yet sent, its idle connections."""

    def __init__(self, stream: Stream, start: float) -> None:
        self.stream = stream
        self.start = start
        self.outcome = Outcome(stream.name, stream.seconds)
        self.flying = 0
        self.line: deque[tuple[int, float]] = deque()
        self.idle: list[socket.socket] = []
        self.block = upload_block() if stream.body else b""
        self.digest = self._digest() if stream.expect_digest else ""
        self.heads = [self._head(path) for path in stream.paths]

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for offset in range(0, self.stream.body, BLOCK):
            digest.update(self.block[: self.stream.body - offset])
        return digest.hexdigest()

    def _head(self, path: str) -> bytes:
        stream, form = self.stream, self.stream.form.encode()
        lines = [f"{stream.method} {path} HTTP/{stream.version}", "Host: portal.test", "User-Agent: loadtests"]
        if stream.method == "POST":
            kind = "application/octet-stream" if stream.body else "application/x-www-form-urlencoded"
            lines += [f"Content-Type: {kind}", f"Content-Length: {stream.body or len(form)}"]
        if stream.version != "1.0" and not stream.keep_alive:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode() + form

    def run(self) -> None:
        """Sends everything, and returns when the last request has its answer or its time is over."""
        workers = gevent.pool.Group()
        if self.stream.closed:
            for number in range(self.stream.lid):
                workers.spawn(self._ask_on_and_on, number)
            workers.join()
            return
        for number, moment in enumerate(self.stream.schedule()):
            due = self.start + moment
            pause = due - time.monotonic()
            if pause > 0:
                gevent.sleep(pause)
            self.outcome.offered += 1
            if self.flying < self.stream.lid:
                self.flying += 1
                workers.spawn(self._work, number, due)
            else:
                self.line.append((number, due))
        workers.join()
        for connection in self.idle:
            connection.close()

    def _ask_on_and_on(self, number: int) -> None:
        """One client of a closed workload."""
        begin = self.start + self.stream.begin
        end = begin + self.stream.seconds
        gevent.sleep(max(0.0, begin - time.monotonic()))
        while (now := time.monotonic()) < end:
            self.outcome.offered += 1
            problem = self._timed(number, self.stream.patience)
            self._record(now, problem)
            number += self.stream.lid

    def _record(self, due: float, problem: str) -> None:
        end = self.stream.begin + self.stream.seconds
        self.outcome.record(due - self.start, time.monotonic() - self.start, problem, self.stream.late, end)

    def _work(self, number: int, due: float) -> None:
        """One request, and after it those that had to wait for a place under the lid."""
        waited = False
        while True:
            now = time.monotonic()
            if not waited:
                self.outcome.lag.add(max(0.0, now - due))
            problem = "never sent"
            left = due + self.stream.patience - now
            if left > 0:
                problem = self._timed(number, left)
            self._record(due, problem)
            if not self.line:
                self.flying -= 1
                return
            (number, due), waited = self.line.popleft(), True

    def _timed(self, number: int, left: float) -> str:
        """The word for what went wrong with one request; empty when its answer was right."""
        deadline = gevent.Timeout.start_new(left)
        try:
            self._ask(number)
        except gevent.Timeout as timeout:
            if timeout is not deadline:
                raise
            return "no answer"
        except Refused as wrong:
            return str(wrong)
        except ConnectionRefusedError:
            return "refused"
        except OSError as broken:
            return type(broken).__name__
        finally:
            deadline.close()
        return ""

    def _ask(self, number: int) -> None:
        kept = self.stream.keep_alive
        if kept and self.idle:
            connection = self.idle.pop()
        else:
            connection = socket.create_connection((self.stream.host, self.stream.port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        good = False
        try:
            connection.sendall(self.heads[number % len(self.heads)])
            for offset in range(0, self.stream.body, BLOCK):
                connection.sendall(self.block[: self.stream.body - offset])
            answer = read_kept(connection) if kept else read_to_end(connection)
            self._judge(answer)
            good = True
        finally:
            if kept and good:
                self.idle.append(connection)
            else:
                connection.close()

    def _judge(self, answer: bytes) -> None:
        status = answer[9:12]
        if status[:1] not in (b"2", b"3"):
            raise Refused(f"status {status.decode('latin-1')}" if status.isdigit() else "not HTTP")
        if self.stream.expect.encode() not in answer:
            raise Refused("other answer")
        if self.digest.encode() not in answer:
            raise Refused("wrong digest")


def read_to_end(connection: socket.socket) -> bytes:
    """Everything until the server closes. An empty answer is counted as such."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    if not parts:
        raise Refused("closed without an answer")
    return b"".join(parts)


def read_kept(connection: socket.socket) -> bytes:
    """One answer on a connection that stays open, measured by its Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            raise Refused("closed without an answer")
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    lengths = [value.strip() for name, _, value in fields if name.lower() == b"content-length"]
    if not lengths:
        raise Refused("no length")
    while len(body) < int(lengths[0]):
        part = connection.recv(65536)
        if not part:
            raise Refused("cut short")
        body += part
    return head + b"\r\n\r\n" + body


def main() -> None:
    """Standard input: a list of streams. Standard output: a list of outcomes, in the same order."""
    streams = [Stream(**{**value, "paths": tuple(value["paths"])}) for value in json.load(sys.stdin)]
    preparing = time.monotonic()
    senders = [Sender(stream, preparing) for stream in streams]
    start = time.monotonic() + LEAD_SECONDS
    for sender in senders:
        sender.start = start
    sys.stderr.write("sending\n")
    sys.stderr.flush()
    gevent.joinall([gevent.spawn(sender.run) for sender in senders], raise_error=True)
    json.dump([sender.outcome.as_json() for sender in senders], sys.stdout)


if __name__ == "__main__":
    main()
