"""The bytes of an HTTP/1 request: where it ends, and what it says, or that it is beyond understanding.

PURE: bytes in, a Request or Refused out. Promises that what is returned can be read in one way only: whatever RFC 9112
calls ambiguous, two parsers in a row disagree about, or nobody sends honestly, is refused. Never repairs, with one
exception that changes no framing: blanks in the query of a GET, because routers paste names into it as they are.

Normal for a router, and therefore taken: HTTP/1.0 without Host, Host without a port, no Connection header, bytes above
127 and `%` without digits in the query.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

LINE_BYTES = 8 * 1024  # the request line
HEAD_BYTES = 16 * 1024  # all header fields together
HEAD_FIELDS = 64
CHUNK_LINE_BYTES = 256  # a chunk's size with its extensions
END = b"\r\n\r\n"

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^\x00-\x20\x7f]++(?: [^\x00-\x1f\x7f]*)?) HTTP/([0-9]\.[0-9])")
# One field a line, no blank before the colon, no folded line, no control character in a value: a bare CR, a bare LF and
# a NUL all fail here.
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb":[^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+")
_LENGTH = re.compile(r"[0-9]{1,15}")
_HOST = re.compile(r"(?:[A-Za-z0-9._~%!$&'()*+,;=-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE"))
# Two of one of these can be read in two ways.
_ONCE = frozenset(("HTTP_HOST", "HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_CONTENT_TYPE", "HTTP_EXPECT"))


class Reason(StrEnum):
    """Why a request went no further: the closed set that is counted."""

    REQUEST_LINE = "request line"
    LONG_LINE = "long line"
    VERSION = "version"
    METHOD = "method"
    TARGET = "target"
    HOST = "host"
    FIELD = "header field"
    LARGE_HEAD = "large head"
    DUPLICATE = "duplicate header"
    TRANSFER_ENCODING = "transfer-encoding"
    CONTENT_LENGTH = "content-length"
    EXPECTATION = "expectation"
    CHUNK = "chunk"
    LARGE_BODY = "large body"
    SLOW = "slow"
    BUSY = "busy"


class Refused(OSError):
    """This request goes no further. Names the reason, never what was sent.

    An application meets it only while it reads a body that is still arriving; it need not catch it.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(slots=True)
class Request:
    """A head that is beyond doubt."""

    method: str
    target: str  # as it was sent, without scheme and authority
    path: str  # percent-decoded into Latin-1, as PEP 3333 wants it
    query: str  # not decoded
    minor: int  # of the HTTP version, 0 or 1
    fields: dict[str, str]  # by WSGI name (HTTP_…); repeated ones are joined, names with an underscore left out
    length: int | None = None  # Content-Length
    chunked: bool = False
    lasting: bool = False  # the client would use the connection again
    expects: bool = False  # it waits for 100 Continue before it sends the body

    @property
    def has_body(self) -> bool:
        """Whether bytes of this request follow its head."""
        return self.chunked or bool(self.length)


def parse_head(head: bytes) -> Request:
    """The request whose lines these are, each with its CR LF, the empty one left out. Raises Refused."""
    line, _, block = head.partition(b"\r\n")
    method, target, minor = parse_request_line(line)
    if len(block) > HEAD_BYTES:
        raise Refused(Reason.LARGE_HEAD)
    if _FIELDS.fullmatch(block) is None:
        raise Refused(Reason.FIELD)
    fields = _fields(block)
    if not target.startswith("/"):
        target = _origin_form(target, fields)
    host = fields.get("HTTP_HOST")
    if minor == 1 if host is None else not is_host(host):
        raise Refused(Reason.HOST)
    path, _, query = target.partition("?")
    request = Request(method, target, unquote(path, "latin-1") if "%" in path else path, query, minor, fields)
    _frame(request)
    return request


def parse_request_line(line: bytes) -> tuple[str, str, int]:
    """Method, target and minor version of a request line without its CR LF. Raises Refused."""
    if len(line) > LINE_BYTES:
        raise Refused(Reason.LONG_LINE)
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise Refused(Reason.REQUEST_LINE)
    method, target, version = match.groups()
    if version not in (b"1.0", b"1.1"):
        raise Refused(Reason.VERSION)
    if method not in _METHODS:
        raise Refused(Reason.METHOD)
    if b" " in target:
        path, _, query = target.partition(b"?")
        if b" " in path or method != b"GET":
            raise Refused(Reason.REQUEST_LINE)
        target = path + b"?" + query.replace(b" ", b"%20")
    return method.decode("ascii"), target.decode("latin-1"), version[2] - 48


def _fields(block: bytes) -> dict[str, str]:
    lines = block.decode("latin-1").split("\r\n")
    if len(lines) > HEAD_FIELDS + 1:  # the last one is empty
        raise Refused(Reason.LARGE_HEAD)
    fields: dict[str, str] = {}
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        if "_" in name:
            continue  # as a WSGI name it could not be told from the same one with a dash
        key = "HTTP_" + name.upper().replace("-", "_")
        value = value.strip(" \t")
        if key not in fields:
            fields[key] = value
        elif key in _ONCE:
            raise Refused(Reason.DUPLICATE)
        else:
            fields[key] += ("; " if key == "HTTP_COOKIE" else ",") + value
    return fields


def _origin_form(target: str, fields: dict[str, str]) -> str:
    """An absolute-form target as path and query; its authority takes the place of Host (RFC 9112 §3.2.2)."""
    scheme, mark, rest = target.partition("://")
    authority, slash, path = rest.partition("/")
    if not mark or scheme.lower() not in ("http", "https") or not authority or "?" in authority:
        raise Refused(Reason.TARGET)
    if "HTTP_HOST" in fields:
        fields["HTTP_HOST"] = authority
    return slash + path if slash else "/"


def _frame(request: Request) -> None:
    """Settle where the request ends and whether the connection may go on (RFC 9112 §6, §9; RFC 9110 §10.1.1)."""
    fields = request.fields
    length, coding = fields.pop("HTTP_CONTENT_LENGTH", None), fields.pop("HTTP_TRANSFER_ENCODING", None)
    if coding is not None:
        if length is not None or coding.lower() != "chunked" or request.minor == 0:
            raise Refused(Reason.TRANSFER_ENCODING)
        request.chunked = True
    if length is not None:
        if _LENGTH.fullmatch(length) is None:
            raise Refused(Reason.CONTENT_LENGTH)
        request.length = int(length)
    connection = fields.get("HTTP_CONNECTION")
    if connection is None:
        request.lasting = request.minor == 1
    else:
        options = {option.strip(" \t") for option in connection.lower().split(",")}
        request.lasting = "close" not in options and (request.minor == 1 or "keep-alive" in options)
    expectation = fields.pop("HTTP_EXPECT", None)
    if expectation is not None and request.minor == 1:
        if expectation.lower() != "100-continue":
            raise Refused(Reason.EXPECTATION)
        request.expects = True


def is_host(text: str) -> bool:
    """Whether this is a host with or without a port, as Host may hold it; empty is allowed (RFC 9110 §7.2)."""
    return _HOST.fullmatch(text) is not None


def parse_chunk_line(line: bytes) -> int:
    """The size of the chunk that follows this line (without its CR LF); 0 ends the body. Extensions are passed over."""
    match = _CHUNK.fullmatch(line) if len(line) <= CHUNK_LINE_BYTES else None
    if match is None:
        raise Refused(Reason.CHUNK)
    return int(match[1], 16)


def check_trailers(block: bytes) -> None:
    """Refuse trailers that are not header fields, each with its CR LF. Good ones are dropped (RFC 9112 §7.1.2)."""
    if _FIELDS.fullmatch(block) is None:
        raise Refused(Reason.CHUNK)
