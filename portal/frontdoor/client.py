"""One client's socket: heads and bodies as they arrive, answers as they leave, each wait with its deadline.

Promises: what is over a limit is refused while it arrives, not after; what no further byte can mend is refused at once;
only OSErrors come out, and `gone` says whether there is still somebody to answer.
"""

import io
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from gevent import socket

from portal.frontdoor.framing import (
    CHUNK_LINE_BYTES,
    END,
    HEAD_BYTES,
    LINE_BYTES,
    Reason,
    Refused,
    check_trailers,
    parse_chunk_line,
    parse_request_line,
)
from portal.frontdoor.waiting import Waiting

_READ_BYTES = 16 * 1024
_WRITE_BYTES = 64 * 1024  # of an answer, which must be taken within one deadline
_FRAMING_BYTES = 4096  # chunk sizes, extensions and trailers that content need not outweigh


class Gone(OSError):
    """The client is no longer there to be answered."""


class Client:
    """A connected socket and what has been read from it. Used by one greenlet; only `cut` comes from others."""

    def __init__(self, sock: socket.socket, address: Any, waiting: Waiting) -> None:
        self._sock, self._waiting = sock, waiting
        # The client of a Unix socket has no address: it is on this machine.
        host, self.port = address[:2] if isinstance(address, tuple) else ("127.0.0.1", 0)
        self.address: str = host.partition("%")[0].removeprefix("::ffff:")
        self.origin: str | bytes | None = self.address
        if ":" in self.address:
            self.origin = socket.inet_pton(socket.AF_INET6, self.address)[:8]
        self.unread = False  # bytes of the request at hand may still be on their way
        self.gone = False
        self.overdue: str | None = None  # what we stopped waiting for
        self.refusal: Refused | None = None  # what was wrong with the body, whatever became of the exception
        self._buffer = b""
        self._patience = 0.0

    def cut(self, what: str) -> None:
        """End the wait for this client. It interrupts nothing: a request that has just arrived is still answered."""
        self.overdue = what
        with suppress(OSError):  # it may have left by itself
            self._sock.shutdown(socket.SHUT_RDWR if what == "write" else socket.SHUT_RD)

    def close(self) -> None:
        """Give the socket back."""
        self._waiting.forget(self)
        self._sock.close()

    def read_head(self, *, first: bool) -> bytes | None:
        """The lines of the next head, without the empty one; None if the client left or had no more to say.

        Before the `first` request a client has its time for a head; later it may be idle first.
        """
        self.unread = True
        if not first and not self._buffer:
            self._waiting.idle.enter(self)
            self._buffer = self._receive()
            self._waiting.idle.leave(self)
            if not self._buffer:
                return None
        end = self._buffer.find(END)
        if end < 0:
            self._waiting.enter_head(self)
            try:
                end = self._rest_of_head()
            finally:
                self._waiting.leave_head(self)
            if end < 0:
                return None
        head, self._buffer = self._buffer[: end + 2], self._buffer[end + 4 :]
        return head.removeprefix(b"\r\n")  # RFC 9112 §2.2: one empty line left over from the request before

    def began_with(self, text: bytes) -> bool:
        """Whether what has been read of a head that will not be completed begins so."""
        return self._buffer.startswith(text)

    def body(self, length: int | None, most: int) -> Iterator[bytes]:
        """The pieces of a body as they arrive: `length` bytes, or chunks if it is None, at most `most` bytes in all."""
        self._patience = self._waiting.bodies.seconds
        try:
            yield from self._chunks(most) if length is None else self._exactly(length)
        except Refused as refusal:
            self.refusal = refusal
            raise
        self.unread = False

    def stream(self, length: int | None, most: int) -> io.BufferedReader:
        """The same as a file, for an application to read while it arrives."""
        return io.BufferedReader(_Stream(self.body(length, most)))

    def expect_body(self) -> None:
        """Say 100 Continue, if the client waits for it still."""
        if not self._buffer:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def send(self, data: bytes) -> None:
        """Send everything, each 64 KiB within its deadline. Raises Gone."""
        writes, view = self._waiting.writes, memoryview(data)
        try:
            for start in range(0, len(view), _WRITE_BYTES):
                piece = view[start : start + _WRITE_BYTES]
                writes.enter(self)
                while piece:
                    piece = piece[self._sock.send(piece) :]
        except OSError:
            self.gone = True
            raise Gone from None
        finally:
            writes.leave(self)

    def linger(self) -> None:
        """Let the client read the last answer: a socket that is closed on unread input resets the connection."""
        self._sock.shutdown(socket.SHUT_WR)
        self._waiting.lingers.enter(self)
        while self.overdue is None and self._receive():
            pass

    def _receive(self) -> bytes:
        """What has come, or nothing, if the client will send no more or we no longer wait."""
        try:
            return self._sock.recv(_READ_BYTES)
        except OSError:
            if self.overdue:
                return b""  # gevent ends the wait of a socket that is shut with an error
            raise

    def _rest_of_head(self) -> int:
        """Read until the buffer holds a whole head, and say where it ends; -1 if the client left instead."""
        while True:
            if self._buffer:
                self._check_beginning()
            data = self._receive()
            self._buffer += data
            end = self._buffer.find(END)
            if end >= 0:
                return end
            if self.overdue == "head" and self._buffer:
                raise Refused(Reason.SLOW)
            if self.overdue or not data:
                return -1

    def _check_beginning(self) -> None:
        """Refuse at once what no further byte can mend."""
        beginning = self._buffer.removeprefix(b"\r\n")
        line, found, block = beginning.partition(b"\r\n")
        if found or len(line) > LINE_BYTES:
            parse_request_line(line)
        if len(block) > HEAD_BYTES:
            raise Refused(Reason.LARGE_HEAD)
        if b"\n\n" in beginning or not (beginning[:1].isalpha() or beginning in b"\r"):  # TLS begins with a 22
            raise Refused(Reason.REQUEST_LINE)

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            if not self._buffer:
                self._more()
            piece, self._buffer = self._buffer[:length], self._buffer[length:]
            length -= len(piece)
            yield piece

    def _chunks(self, most: int) -> Iterator[bytes]:
        """Sizes, extensions and trailers may weigh no more than the content: byte-sized chunks would stall the loop."""
        content, framing, line = 0, 0, self._line(CHUNK_LINE_BYTES)
        while size := parse_chunk_line(line):
            content, framing = content + size, framing + len(line) + 4
            if content > most:
                raise Refused(Reason.LARGE_BODY)
            if framing > content + _FRAMING_BYTES:
                raise Refused(Reason.CHUNK)
            yield from self._exactly(size)
            if self._line(0):
                raise Refused(Reason.CHUNK)
            line = self._line(CHUNK_LINE_BYTES)
        trailers = b""
        while line := self._line(_FRAMING_BYTES - len(trailers)):
            trailers += line + b"\r\n"
        check_trailers(trailers)

    def _line(self, most: int) -> bytes:
        """The next line of at most `most` bytes, without its CR LF."""
        while (end := self._buffer.find(b"\r\n")) < 0 and len(self._buffer) < most + 2:
            self._more()
        if not 0 <= end <= most:
            raise Refused(Reason.CHUNK)
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _more(self) -> None:
        """Wait for more of the body. Waiting uses patience up, what arrives restores it."""
        start = time.monotonic()
        self._waiting.enter_body(self, self._patience)
        try:
            data = self._receive()
        except OSError:
            data = b""
        self._waiting.bodies.leave(self)
        if self.overdue:
            raise Refused(Reason.SLOW)
        if not data:
            self.gone = True
            raise Gone
        self._buffer += data
        restored = len(data) / self._waiting.rules.body_bytes_per_second
        waited = time.monotonic() - start
        self._patience = min(self._patience - waited + restored, self._waiting.bodies.seconds)


class _Stream(io.RawIOBase):
    """Pieces of a body as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._pieces, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
