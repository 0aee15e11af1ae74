"""The outside services that a portal waits for, played on the loopback address: an SMS provider, a directory, an API.

`GET /wait/<ms>` answers after so many milliseconds; `GET /wait/<from>-<to>` after a time between the two that goes
through the range evenly, the same in every run. Keeps connections. Cheap on purpose, so that it is never what is
measured. Started as `python -m loadtests.outside PORT`.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

BODY = b'{"outcome": "accepted"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
GOLDEN = 0.6180339887


class Service(asyncio.Protocol):
    """One connection; one request at a time, as HTTP clients send them."""

    turn = itertools.count()

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: a client has come."""
        self.transport = transport if isinstance(transport, asyncio.Transport) else None

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: answers once the head is complete and its time is over."""
        self.head += data
        if b"\r\n\r\n" not in self.head:
            return
        path, self.head = self.head.split(b" ", 2)[1], b""
        least, _, most = path.rpartition(b"/")[2].decode().partition("-")
        pause = float(least or 0)
        if most:
            pause += (float(most) - pause) * (next(self.turn) * GOLDEN % 1)
        asyncio.get_running_loop().call_later(pause / 1000, self.answer)

    def answer(self) -> None:
        """Says yes."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(ANSWER)


async def serve(port: int) -> None:
    """Listens until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Service, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
