"""What goes back to a client: constants rendered once, and what an application says by PEP 3333, framed for HTTP/1.

Promises: an answer whose end is in sight is one piece of bytes; HEAD, 204 and 304 have no body; a header with a line
break in it never leaves; an answer that does not keep its Content-Length is an error here, not a riddle for the client.
"""

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from portal.frontdoor.framing import Reason, Request

GATHER_BYTES = 64 * 1024  # an answer that declares no more than this is gathered from its parts

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Raw:
    """A whole answer, rendered once. An application may return one instead of calling start_response.

    Only `Date` and `Connection` are added when it is sent. Measured: 8 % fewer CPU seconds for a router's poll.
    """

    __slots__ = ("body", "head")

    def __init__(self, status: str, body: bytes = b"", *headers: tuple[str, str]) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers), f"Content-Length: {len(body)}"]
        self.head = ("\r\n".join(lines) + "\r\n").encode("latin-1")
        self.body = body


def _plain(status: str, text: bytes, *headers: tuple[str, str]) -> Raw:
    return Raw(status, text + b"\n", ("Content-Type", "text/plain"), ("Cache-Control", "no-store"), *headers)


BUSY = _plain("503 Service Unavailable", b"Too busy at the moment. Please try again.", ("Retry-After", "5"))
FAILED = _plain("500 Internal Server Error", b"Something went wrong here. Please try again.")
MALFORMED = _plain("400 Bad Request", b"This request is malformed.")
REFUSALS = {
    Reason.SLOW: _plain("408 Request Timeout", b"The request did not arrive in time."),
    Reason.LARGE_BODY: _plain("413 Content Too Large", b"This is more than may be sent here."),
    Reason.LONG_LINE: _plain("414 URI Too Long", b"This address is too long."),
    Reason.EXPECTATION: _plain("417 Expectation Failed", b"This expectation is not supported."),
    Reason.LARGE_HEAD: _plain("431 Request Header Fields Too Large", b"The headers are too large."),
    Reason.METHOD: _plain("501 Not Implemented", b"This method is not supported."),
    Reason.VERSION: _plain("505 HTTP Version Not Supported", b"HTTP/1.0 and HTTP/1.1 are spoken here."),
}


class Response:
    """The application's answer to one request. `start` is its start_response."""

    def __init__(
        self, request: Request, send: Callable[[bytes], None], last_lines: Callable[[int, bool], bytes]
    ) -> None:
        """`last_lines(minor version, closing)` ends a head, and knows whether the connection ends too."""
        self._request, self._send, self._last_lines = request, send, last_lines
        self._text: str | None = None  # status and headers
        self._left: int | None = None  # of the application's own Content-Length
        self._bodyless = self._unframed = self._chunked = self._closing = False
        self.begun = False  # something has been sent, so that nothing else can be said

    def start(
        self, status: str, headers: Sequence[tuple[str, str]], exc_info: _ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """PEP 3333's start_response. Raises ValueError for a status or header that would be more than one line."""
        if exc_info is not None and exc_info[1] is not None and self.begun:
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self._text is not None:
            raise AssertionError("start_response was called twice")
        self._left, self._closing = None, False
        lines = [f"HTTP/1.1 {status}"]
        for name, value in headers:
            low = name.lower()
            if low == "connection":
                self._closing = value.lower() == "close"
            elif low not in ("transfer-encoding", "keep-alive", "date"):  # the door says these
                if low == "content-length":
                    self._left = int(value)
                lines.append(f"{name}: {value}")
        text = "\r\n".join(lines) + "\r\n"
        if not len(lines) == text.count("\r") == text.count("\n") or "\0" in text:
            raise ValueError("the status or a header holds a line break or a NUL")
        self._text = text
        self._unframed = status[:3] in ("204", "304")
        self._bodyless = self._unframed or self._request.method == "HEAD"
        return self.write

    def deliver(self, result: Iterable[bytes]) -> bytes | None:
        """The whole answer, to be sent, where its end is in sight; else it is sent as it comes, and this is None."""
        if isinstance(result, list | tuple):
            return self._whole(b"".join(result))
        parts = iter(result)
        first = next(parts, b"")  # a generator calls start_response no sooner than here
        if not self.begun and self._left is not None and self._left <= GATHER_BYTES:
            return self._whole(b"".join((first, *parts)))
        self.write(first)
        for part in parts:
            self.write(part)
        if not self.begun:
            return self._whole(b"")
        if not self._bodyless:
            if self._left:
                raise AssertionError(f"the answer ended {self._left} bytes short of its Content-Length")
            if self._chunked:
                self._send(b"0\r\n\r\n")
        return None

    def write(self, data: bytes) -> None:
        """Send a part of the answer, with the head if it is the first."""
        if not data:
            return
        head = b"" if self.begun else self._head(None)
        if self._left is not None:
            if len(data) > self._left and not self._bodyless:
                raise AssertionError(f"the answer is {len(data) - self._left} bytes longer than its Content-Length")
            self._left -= len(data)
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.begun = True
        self._send(head if self._bodyless else head + data)

    def _whole(self, body: bytes) -> bytes:
        if self.begun:
            raise AssertionError("write() was used beside a list")
        if self._bodyless:
            return self._head(len(body))
        if self._left is not None and self._left != len(body):
            raise AssertionError(f"the answer has {len(body)} bytes, its Content-Length is {self._left}")
        return self._head(len(body)) + body

    def _head(self, length: int | None) -> bytes:
        """Status, headers, and how the end of the body (`length` bytes, or not known) is to be found."""
        if self._text is None:
            raise AssertionError("start_response was not called")
        head = self._text.encode("latin-1")
        if self._left is None and not self._unframed:
            if length is not None:
                head += b"Content-Length: %d\r\n" % length
            elif self._request.minor == 1:
                self._chunked = True
                head += b"Transfer-Encoding: chunked\r\n"
            else:
                self._closing = True  # which then is the end of the answer
        return head + self._last_lines(self._request.minor, self._closing)
