"""The front door: gevent's WSGIServer, made fit to stand on the open Internet.

gevent supplies the accept loop. What a client sends is read, checked and answered here, because the stock handler waits
for ever, has no lid on what a client may send, and takes requests that can be read in two ways.

Promises:
- Every wait for a client has a deadline: the whole head 5 s (not each byte), idle between requests 15 s, a body 10 s
  and then 16 KiB/s, each 64 KiB of an answer 10 s (waiting).
- Memory is bounded: 10,000 sockets, 24 KiB of head each, 1,000 bodies of 64 KiB being gathered. At a lid, whoever has
  kept us waiting longest goes: a newcomer is never refused for the sake of a silent socket (waiting).
- Nothing that can be read in two ways reaches the application (framing).
- Limits on work count parsed requests, per class of caller, so half-open sockets cannot use them up and no class
  starves another. What is over is answered at once with a constant.
- An answer whose end is in sight leaves in one send. HEAD never has a body (answer).
- What the door itself says is constant; it repeats nothing that a client sent, and logs none of it.

Never: it knows no routes, users or database. It starts no greenlet but one for each connection.
"""

import errno
import io
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from greenlet import GreenletExit, greenlet

from portal.frontdoor.answer import BUSY, FAILED, GATHER_BYTES, MALFORMED, REFUSALS, Raw, Response
from portal.frontdoor.client import Client, Gone
from portal.frontdoor.framing import Reason, Refused, Request, is_host, parse_head
from portal.frontdoor.waiting import Rules, Waiting

__all__ = ["BUSY", "CALLER", "FAILED", "FrontDoor", "Limit", "Raw", "Reason", "Rules", "listen"]

log = logging.getLogger(__name__)

CALLER = "gatepost.caller"
"""Where an application finds its caller's class in the environ."""

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_OTHER_DESCRIPTORS = 128  # the database's, files, children
_DRAIN_HEAD_SECONDS = 1.0
_FORWARDED = (
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_X_FORWARDED_PREFIX",
    "HTTP_X_FORWARDED_SERVER",
    "HTTP_X_REAL_IP",
    "HTTP_FORWARDED",
)

Environ = dict[str, Any]
Application = Callable[[Environ, Any], Iterable[bytes] | Raw]


@dataclass(frozen=True, slots=True)
class Limit:
    """What one class of caller may use at once, and what it hears when that is not enough or something fails.

    A body of up to 64 KiB is gathered before the application runs. A larger one the application reads as it arrives,
    and holds a place meanwhile; at most half of the places, so that slow uploads cannot use them up.
    """

    at_once: int
    body_bytes: int = GATHER_BYTES
    busy: Raw = BUSY
    failed: Raw = FAILED


class _AcceptLater(GreenletExit):
    """No socket can be accepted just now. gevent takes a breath, and prints nothing for a GreenletExit."""


class _Connection:
    """The requests of one client, one after the other."""

    def __init__(self, door: "FrontDoor", client: Client) -> None:
        self.door, self.client = door, client
        self.greenlet: greenlet | None = None
        self._head: bytes | None = b""  # of the request at hand; nothing while it arrives
        self._closing = False  # this answer is the last

    def serve(self) -> None:
        """Answer requests until either side has had enough. Never raises."""
        try:
            try:
                first = True
                while self._exchange(first=first):
                    first = False
            except Refused as refusal:
                self._refuse(refusal.reason)
        except OSError:
            self.door.left += 1
        except GreenletExit:
            pass  # cut by a drain whose time was up
        except (Exception, gevent.Timeout):
            log.exception("the front door itself failed")
        finally:
            self.client.close()
            self.door.forget(self)

    def _exchange(self, *, first: bool) -> bool:
        """Read one request and answer it. False: this connection has done its work."""
        door, client = self.door, self.client
        self._head = b""
        head = client.read_head(first=first)
        if head is None:
            return False
        self._head = head
        request = parse_head(head)
        self._closing, client.unread = not request.lasting, request.has_body
        name = door.classify(request.path)
        limit = door.limits[name]
        door.parsed[name] += 1
        environ = self._environ(request)
        environ[CALLER] = name
        streams = request.has_body and (limit.body_bytes if request.length is None else request.length) > GATHER_BYTES
        room = door.has_room(name, streams)
        if room and request.has_body:
            self._open_body(request, limit, environ, streams)
            room = door.has_room(name, streams)
        if room:
            door.streaming[name] += streams
            try:
                answer = self._run(request, name, limit, environ)
            finally:
                door.streaming[name] -= streams
        else:
            door.refused[Reason.BUSY] += 1
            answer = self._render(limit.busy, request, closing=True)
        if answer is not None:
            client.send(answer)
        if client.unread:
            client.linger()
        return not self._closing

    def _open_body(self, request: Request, limit: Limit, environ: Environ, streams: bool) -> None:
        """Gather the body into the environ, or let the application read it as it arrives."""
        length, most = request.length, limit.body_bytes
        if length is not None and length > most:
            raise Refused(Reason.LARGE_BODY)
        if request.expects:
            self.client.expect_body()
        if streams:
            environ["wsgi.input"] = self.client.stream(length, most)
            if length is not None:
                environ["CONTENT_LENGTH"] = str(length)
        else:
            body = b"".join(self.client.body(length, most))
            environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))

    def _run(self, request: Request, name: str, limit: Limit, environ: Environ) -> bytes | None:
        """The application's answer, or the class's own where it fails; None if it has been sent already."""
        door, client = self.door, self.client
        response = Response(request, client.send, self._last_lines)
        door.in_flight[name] += 1
        try:
            result = door.app(environ, response.start)
            if isinstance(result, Raw):
                return self._render(result, request)
            try:
                answer = response.deliver(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
            if client.refusal is not None:
                raise client.refusal  # the application was content with half a body; we are not
            return answer
        except (Exception, gevent.Timeout) as error:
            if client.gone or (client.refusal and response.begun):
                raise Gone from None
            if client.refusal is not None:
                raise client.refusal from None
            untold = door.count_failure(name, error)
            if untold is not None:
                # Without the path: it may hold a code, or a link that works once.
                log.exception("request failed", extra={"caller": name, "untold": untold})
            if response.begun:
                raise Gone from None  # the client sees an answer cut short, never half a one that looks whole
            return self._render(limit.failed, request, closing=True)
        finally:
            door.in_flight[name] -= 1

    def _render(self, raw: Raw, request: Request, *, closing: bool = False) -> bytes:
        head = raw.head + self._last_lines(request.minor, closing)
        return head if request.method == "HEAD" else head + raw.body

    def _last_lines(self, minor: int, closing: bool) -> bytes:
        """Date, Connection and the empty line. Settles whether the connection goes on."""
        if closing or self.client.unread or self.client.overdue or self.door.draining:
            self._closing = True
        if self._closing:
            return self.door.date() + b"Connection: close\r\n\r\n"
        return self.door.date() + (b"\r\n" if minor == 1 else b"Connection: keep-alive\r\n\r\n")

    def _refuse(self, reason: Reason) -> None:
        door, answer = self.door, REFUSALS.get(reason, MALFORMED)
        door.refused[reason] += 1
        if log.isEnabledFor(logging.DEBUG):
            facts = {"reason": reason.value, "peer": self.client.address, "times": door.refused[reason]}
            log.debug("request refused", extra=facts)
        head = answer.head + self._last_lines(1, closing=True)
        bodyless = self._head.startswith(b"HEAD ") if self._head else self.client.began_with(b"HEAD ")
        self.client.send(head if bodyless else head + answer.body)
        self.client.linger()

    def _environ(self, request: Request) -> Environ:
        """The WSGI environ, without a body. Forwarding headers are believed from trusted proxies, and not passed on.

        `gatepost.forwarded` stands in it where there were any: somebody else than the peer asks, whoever that may be.
        """
        fields, peer = request.fields, self.client.address
        environ = {
            **self.door.environ,
            "REQUEST_METHOD": request.method,
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "SERVER_PROTOCOL": "HTTP/1.1" if request.minor == 1 else "HTTP/1.0",
            "REMOTE_ADDR": peer,
            "REMOTE_PORT": str(self.client.port),
            "wsgi.input": io.BytesIO(),
        }
        if "HTTP_CONTENT_TYPE" in fields:
            environ["CONTENT_TYPE"] = fields.pop("HTTP_CONTENT_TYPE")
        forwarded = {name: fields.pop(name) for name in _FORWARDED if name in fields}
        environ.update(fields)
        if forwarded:
            environ["gatepost.forwarded"] = True
        if forwarded and self.door.trusts(peer):
            environ["REMOTE_ADDR"] = self._first_untrusted(forwarded.get("HTTP_X_FORWARDED_FOR", ""))
            scheme = forwarded.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
            host = forwarded.get("HTTP_X_FORWARDED_HOST", "").rpartition(",")[2].strip()
            if host and is_host(host):
                environ["HTTP_HOST"] = host
        return environ

    def _first_untrusted(self, hops: str) -> str:
        """The client as trusted proxies saw it: each has added its own peer on the right."""
        client = self.client.address
        for hop in reversed(hops.split(",")):
            try:
                client = str(ip_address(hop.strip()))
            except ValueError:
                break  # whoever wrote this is not believed, nor is anything to the left of it
            if not self.door.trusts(client):
                break
        return client


class FrontDoor(WSGIServer):
    """Listens, and answers with `application`. `drain` it when the process is to end; there is no serve_forever.

    `classify(path)` names the class of caller that a (decoded) path belongs to, `limits` what each class may use.

    For metrics, to be read at any time: `accepted`, `left` (clients that went away), `open_sockets`; `parsed`,
    `in_flight` (`streaming` of them) and `failed` by class; `refused` by reason; `waiting.overdue` by what was waited
    for, and `waiting.evicted` by the lid that was reached.
    """

    max_accept = 500  # in one turn of the loop, some 8 ms: a fleet that comes back at once is in sooner than with 100
    min_delay = max_delay = 0.05  # seconds without accepting when it has failed

    def __init__(
        self,
        listener: socket.socket,
        application: Application,
        classify: Callable[[str], str],
        limits: Mapping[str, Limit],
        *,
        rules: Rules | None = None,
        trusted_proxies: Iterable[str] = (),
        server_name: str = "gatepost",
    ) -> None:
        fixed = {"SERVER_NAME": server_name, "wsgi.multithread": True, "wsgi.input_terminated": True}
        super().__init__(listener, log=None, environ=fixed)
        self.app, self.classify, self.limits = application, classify, dict(limits)
        self.waiting = Waiting(rules or Rules())
        self.draining = False
        self.sockets = self.waiting.rules.sockets
        self.accepted = self.left = 0
        self.parsed, self.in_flight, self.streaming, self.failed = (dict.fromkeys(self.limits, 0) for _ in range(4))
        self.refused: Counter[Reason] = Counter()
        self._connections: set[_Connection] = set()
        self._emptied = Event()
        self._trusted = [_network(text) for text in trusted_proxies]
        self._date = (0, b"")
        self._told: dict[type[BaseException], tuple[float, int]] = {}
        self._clock = self.loop.timer(self.waiting.tick, self.waiting.tick, ref=False)

    @property
    def open_sockets(self) -> int:
        """Connections of every kind, at this moment."""
        return len(self._connections)

    def start(self) -> None:
        """Open the door. Raises this process's limit on open files as far as it may, and keeps below it."""
        wanted = self.waiting.rules.sockets
        self.sockets = min(wanted, _descriptors(wanted + _OTHER_DESCRIPTORS) - _OTHER_DESCRIPTORS)
        if self.sockets < wanted:
            log.warning("fewer sockets than wanted", extra={"sockets": self.sockets, "wanted": wanted})
        super().start()
        self._clock.start(self.waiting.sweep)

    def stop(self, timeout: float | None = None) -> None:
        """Drain, within 1 s or `timeout`."""
        self.drain(1.0 if timeout is None else timeout)

    def drain(self, timeout: float = 10.0) -> int:
        """Stop listening, finish what has begun, and say how many connections had to be cut after `timeout` seconds.

        Idle connections are closed at once, every answer from now on says `Connection: close`, and a head that has not
        come within a second is not waited for.
        """
        self.draining = True
        if not self.closed:
            self._accept_the_rest()
            self.close()
        self.waiting.hurry(_DRAIN_HEAD_SECONDS)
        if self._connections:
            self._emptied.wait(timeout)
        stuck = [connection.greenlet for connection in self._connections if connection.greenlet is not None]
        for task in stuck:
            gevent.kill(task)
        if stuck:
            self._emptied.wait(1.0)
        self._clock.stop()
        return len(stuck)

    def _accept_the_rest(self) -> None:
        """Take what the kernel has accepted on our behalf: to close the listener would reset it."""
        try:
            while (arrived := self.do_read()) is not None:
                self.do_handle(*arrived)
        except (OSError, _AcceptLater):
            log.warning("connections were lost while draining", exc_info=True)

    # gevent's accept loop calls the next two.

    def do_read(self) -> tuple[socket.socket, Any]:
        try:
            return super().do_read()
        except OSError as error:
            if self.is_fatal_error(error):
                raise
            if error.errno in _OUT_OF_RESOURCES:
                self.waiting.make_room()
            raise _AcceptLater from error

    def do_handle(self, sock: socket.socket, address: Any) -> None:
        self.accepted += 1
        if len(self._connections) >= self.sockets and not self.waiting.make_room():
            self.waiting.evicted["newcomer"] += 1  # every socket is at work: nobody merely waits
            sock.close()
            return
        client = Client(sock, address, self.waiting)
        if self.trusts(client.address):
            client.origin = None
        connection = _Connection(self, client)
        self._connections.add(connection)
        connection.greenlet = gevent.spawn_raw(connection.serve)

    # The connections call the rest.

    def forget(self, connection: _Connection) -> None:
        """This connection is over."""
        self._connections.discard(connection)
        if self.draining and not self._connections:
            self._emptied.set()

    def has_room(self, name: str, streams: bool) -> bool:
        """Whether this class may begin another request, one whose body is still to come or not."""
        at_once = self.limits[name].at_once
        return self.in_flight[name] < at_once and not (streams and self.streaming[name] >= max(1, at_once // 2))

    def trusts(self, address: str) -> bool:
        """Whether this peer may say who is behind it."""
        return bool(self._trusted) and any(ip_address(address) in network for network in self._trusted)

    def date(self) -> bytes:
        """The Date line of this second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, b"Date: %b\r\n" % formatdate(now, usegmt=True).encode("ascii"))
        return self._date[1]

    def count_failure(self, name: str, error: BaseException) -> int | None:
        """How many of this kind went untold since the last, if this one is to be told: one a second, of thousands."""
        self.failed[name] += 1
        now = time.monotonic()
        told_at, untold = self._told.get(type(error), (float("-inf"), 0))
        if now < told_at + 1.0:
            self._told[type(error)] = (told_at, untold + 1)
            return None
        self._told[type(error)] = (now, 0)
        return untold


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"trusted proxy {text!r}: expected an address, or a network such as 10.0.0.0/8") from None


def _descriptors(wanted: int) -> int:
    """How many files this process may have open, after it has asked for so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return wanted if soft == resource.RLIM_INFINITY else soft


def listen(host: str, port: int, backlog: int = 4096, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket. `reuse_port` lets several processes share the port. `::` also takes IPv4.

    The backlog is large because a router whose SYN is dropped stops serving its venue for minutes; the kernel caps it
    at net.core.somaxconn. Raises OSError, naming the address.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Inherited by every connection: without it, a keep-alive answer in two sends is 40 ms late.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((host, port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        taken = "; is another server running? server.port in config.toml sets another port"
        said = f"cannot listen on {host} port {port}: {error.strerror}"
        raise OSError(error.errno, said + (taken if error.errno == errno.EADDRINUSE else "")) from None
    sock.setblocking(False)
    return sock
