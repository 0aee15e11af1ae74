"""A whole emulated gateway: router, program, doors and guests in one object.

Promises: two jobs at the same time, as the real thing does them: a web server that catches guests, and loops that ping
the auth server and report counters on the gateway's interval. The book of what was transferred and reported is exact
and survives restarts of the program. A loop that fails is named by `failing`.

Made of plain threads and the standard library: a gateway has three loops and a thread for each browser connection, so
that threads cost nothing; and where a process is patched by gevent the same code runs as greenlets, thousands of
gateways in one load test.
"""

import hashlib
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from urllib.parse import urlsplit

from portal.emulator import door, web, wire
from portal.emulator.browser import ask, split_answer
from portal.emulator.guests import Guest
from portal.emulator.lan import Access, Account, Book, Bytes, Lan, Station
from portal.emulator.loops import Loop
from portal.emulator.program import Apfree, Box, Call, Classic, Client, Eviction, Settings, read_machine
from portal.emulator.wire import AuthServer, Dialect, Machine

log = logging.getLogger("portal.emulator")

_LOOPBACK = ("127.0.0.1", "localhost")
_NO_CONTENT = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
_ONLINE = b"<!DOCTYPE html><title>The Internet</title><h1>You are on the Internet</h1>\n"


class Gateway:
    """One gateway. `server` is a URL, an AuthServer, or several of them in the order of the configuration file.

    Times in seconds; `client_timeout` in intervals. `port` 0 takes any free port when it starts. `address` is the
    gw_address that guests are sent back to. `patience` defaults to the program's own (classic 30, apfree 2 seconds a
    wait). `clock` is monotonic seconds, for tests without waiting. `on_event` and `on_alarm` get one line of text each
    that never holds a token.
    """

    def __init__(
        self,
        server: str | AuthServer | Sequence[str | AuthServer],
        gw_id: str,
        *,
        interval: float = 60.0,
        client_timeout: int = 5,
        address: str = "127.0.0.1",
        port: int = 0,
        path: str | None = None,
        key: str = "",
        dialect: Dialect = Dialect.CLASSIC,
        delta_traffic: bool = False,
        auth_down_opens: bool = False,
        device_id: str = "",
        swapped: bool | None = None,
        patience: float | None = None,
        connect_patience: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[str], None] | None = None,
        on_alarm: Callable[[str], None] | None = None,
        machine: Callable[[], Machine] = read_machine,
        calls_kept: int = 10_000,
        backoff: float = 1.0,
    ) -> None:
        """Raises ValueError, naming value and expectation, for a configuration no gateway could have."""
        if not gw_id or any(character.isspace() for character in gw_id):
            raise ValueError(f"gw_id {gw_id!r}: expected a name without blanks")
        if interval <= 0 or client_timeout < 1:
            raise ValueError("interval and client timeout: expected more than 0")
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port}: expected 0 to 65535")
        given = [server] if isinstance(server, str | AuthServer) else list(server)
        if not given:
            raise ValueError("server: expected at least one")
        apfree = dialect is Dialect.APFREE
        self.settings = Settings(
            gw_id=gw_id,
            servers=tuple(
                item if isinstance(item, AuthServer) else wire.auth_server(item, path=path, key=key, dialect=dialect)
                for item in given
            ),
            address=address,
            dialect=dialect,
            interval=interval,
            client_timeout=client_timeout,
            delta_traffic=delta_traffic,
            auth_down_opens=auth_down_opens,
            device_id=device_id or f"dev-{gw_id}",
            swapped=apfree if swapped is None else swapped,
            patience=patience if patience is not None else 2.0 if apfree else 30.0,
            connect_patience=connect_patience if connect_patience is not None else 2.0 if apfree else 127.0,
        )
        self.port = port
        self.calls: deque[Call] = deque(maxlen=calls_kept)
        self.evictions: list[Eviction] = []
        self.alarms: list[str] = []
        self.failure = threading.Event()
        self._on_event = on_event
        self._on_alarm = on_alarm
        self._backoff = backoff
        self._lan = Lan()
        self._book = Book()
        self._box = Box(self._lan, self._book, clock, machine, self._note, self.calls, self.evictions)
        self._web = door.Door("web", self._serve, self._alarm)
        self._links: dict[str, door.Door] = {}
        self._lasting: list[Loop] = []
        self._loops: list[Loop] = []
        self._looping = False
        self._numbers = 0
        self._default = self._add_station("browser", None, "", None)
        self._program = self._fresh()

    # --- life ---

    def start(self, *, loops: bool = True, listen: str = "127.0.0.1") -> None:
        """Opens the web server and pings. With `loops` goes on pinging and polling on the interval; without, the
        caller does it by `ping()` and `cycle()`. Raises OSError when the port is taken."""
        self.port = self._web.open(listen, self.port)
        self._open_door(self._web)
        self._note(f"gateway {self.settings.gw_id} listens on {listen}:{self.port}")
        self._looping = loops
        self._begin()

    def run_beside(self, name: str, work: Callable[[], None], *, pause: float) -> None:
        """Runs more work in a loop that is watched like the gateway's own, until the gateway stops."""
        loop = Loop(name, work, pause=pause, alarm=self._loop_alarm, backoff=self._backoff)
        self._lasting.append(loop)
        loop.start()

    def stop(self) -> None:
        """Ends at once, sending nothing, as SIGTERM ends the real one. May be called twice."""
        for loop in [*self._loops, *self._lasting]:
            loop.stop()
        self._program.end()
        for opened in [self._web, *self._links.values()]:
            opened.close()
        for loop in [*self._loops, *self._lasting]:
            loop.join(2.0)

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def restart(self) -> None:
        """The router is switched off and on: list and firewall are lost, nothing is sent, the uptime falls.

        apfree's clients survive, from a snapshot file: with their tokens, and counters from 0.
        """
        survivors: list[Client] = []
        if self.settings.dialect is Dialect.APFREE:
            for client in reversed(self._program.clients()):
                survivors.append(
                    Client(
                        id=0,
                        ip=client.ip,
                        mac=client.mac,
                        token=client.token,
                        last_updated=self._box.clock(),
                        access=client.access,
                        first_login=client.first_login,
                        ip6="",
                    )
                )
        self._replace(self._fresh(survivors), "restarted")

    def wdctl_restart(self) -> None:
        """`wdctl restart`: a new process that gets the list with its totals from the old one; classic only."""
        if self.settings.dialect is not Dialect.CLASSIC:
            raise ValueError("wdctl restart hands clients over in the classic program only")
        inherited = []
        # The child reads them one by one and puts each at the head: the order turns round.
        for client in self._program.clients():
            client.incoming_history, client.outgoing_history = client.incoming, client.outgoing
            client.incoming_delta = client.outgoing_delta = 0
            inherited.append(client)
        self._replace(self._fresh(inherited, os.getpid()), "restarted by wdctl")

    def ping(self) -> bool:
        """One heartbeat; whether the server answered it as it should."""
        return self._program.ping()

    def cycle(self) -> None:
        """One round of polls, now. Returns when each client's answer has been acted on."""
        self._program.cycle()

    def reset(self, mac: str) -> bool:
        """`wdctl reset MAC`: logs a client out; whether there was one."""
        client = self._program.find_by_mac(mac)
        if client is not None:
            self._program.logout(client)
        return client is not None

    # --- guests ---

    def guest(
        self, name: str | None = None, *, ip: str | None = None, mac: str | None = "", language: str = ""
    ) -> Guest:
        """A guest on this LAN, new or, by its name, known. Without a name the first one, which is also what every
        browser is that cannot be told apart. `mac` None: a device that the router's ARP table does not know."""
        if name is None:
            return Guest(self, self._default, language)
        station = self._lan.named(name) or self._add_station(name, ip, mac, None)
        return Guest(self, station, language)

    def link(self, station: Station) -> str:
        """The URL of an HTTP proxy; a browser that uses it is this station. Opened when first asked for."""
        if station.name not in self._links:
            proxy = door.Door("link", lambda connection, _: self._serve_link(connection, station), self._alarm)
            proxy.open("127.0.0.1", 0)
            self._links[station.name] = proxy
            self._open_door(proxy)
        return f"http://127.0.0.1:{self._links[station.name].port}"

    def carry(self, station: Station, load: Bytes) -> bool:
        """Moves a station's bytes through the firewall; False, and nothing counted, when it is shut."""
        passed = station.present and self._program.firewall.carry(station.ip, station.mac, load)
        self._book.transferred(station.mac, load, passed=passed)
        return passed

    def browse(
        self, station: Station, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """One request of a station's browser: (status, headers in lower case, body), status 0 for an empty answer.

        What is not the gateway or the auth server is the Internet: caught while the firewall is shut.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        where = self._whither(station, host, port)
        if where == "server":
            return ask(method, url, headers, body)
        if parts.scheme == "https":
            # Port 443 is never caught; and there is no real Internet behind this router.
            return 0, {}, b""
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        shown = host if parts.port is None else f"{host}:{port}"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = wire.to_bytes(f"{method} {target} HTTP/1.1\r\nHost: {shown}\r\n{lines}\r\n")
        if where == "internet":
            return split_answer(self._internet(station, head))
        return split_answer(self.answer(station, head))

    def answer(self, station: Station, head: bytes) -> bytes:
        """What the gateway's own web server says to a station's request head; no bytes: it just closes."""
        sight = web.Sight(self.port, self._lan.stations(), self._book.account)
        return web.answer(self._program, sight, station, head)

    # --- what it knows ---

    @property
    def stations(self) -> list[Station]:
        return self._lan.stations()

    @property
    def clients(self) -> list[Client]:
        """The program's list, newest first, as copies."""
        return self._program.clients()

    def client(self, mac: str | None) -> Client | None:
        return self._program.find_by_mac(mac or "")

    def access(self, station: Station) -> Access:
        return self._program.firewall.access(station.ip, station.mac)

    @property
    def firewall(self) -> dict[tuple[str, str], Access]:
        """Who may pass, by (IP, MAC)."""
        return {key: rule.access for key, rule in self._program.firewall.rules().items()}

    def account(self, mac: str | None) -> Account:
        """The truth about one MAC: transferred, reported and more."""
        return self._book.account(mac)

    @property
    def accounts(self) -> dict[str, Account]:
        return self._book.accounts()

    @property
    def is_auth_online(self) -> bool:
        """Whether the program believes in its server; while it does not, guests get its own page."""
        return self._program.is_auth_online()

    def own_url(self, path: str) -> str:
        """An address on the gateway's own web server."""
        return f"http://{self.settings.address}:{self.port}{path}"

    @property
    def uptime(self) -> int:
        return self._program.uptime()

    @property
    def server(self) -> AuthServer:
        """The server at the head of the program's list."""
        return self._program.servers()[0]

    def failing(self) -> list[str]:
        """The names of loops whose last run failed, or that have ended; empty when all is well."""
        return [loop.name for loop in [*self._loops, *self._lasting] if not loop.healthy]

    # --- inside ---

    def _fresh(self, inherited: Sequence[Client] = (), parent: int | None = None) -> Classic | Apfree:
        kind = Apfree if self.settings.dialect is Dialect.APFREE else Classic
        return kind(self.settings, self._box, inherited=inherited, parent=parent)

    def _replace(self, program: Classic | Apfree, how: str) -> None:
        old, self._program = self._program, program
        old.end()
        self._note(f"gateway {self.settings.gw_id} {how}")
        for loop in self._loops:
            loop.stop()
        self._begin()

    def _begin(self) -> None:
        if not self._looping:
            self._program.ping()
            if self.settings.dialect is Dialect.APFREE:
                self._program.cycle()
            return
        # Bound to this process: a loop that belongs to an ended one can do nothing to its successor.
        program = self._program
        # apfree reports at once; the classic program first waits an interval.
        first = 0.0 if self.settings.dialect is Dialect.APFREE else self.settings.interval
        self._loops = [self._loop("ping", lambda: self._heartbeat(program)), self._loop("poll", program.cycle, first)]
        for loop in self._loops:
            loop.start()

    def _loop(self, name: str, work: Callable[[], None], delay: float = 0.0) -> Loop:
        return Loop(
            name, work, pause=self.settings.interval, alarm=self._loop_alarm, delay=delay, backoff=self._backoff
        )

    @staticmethod
    def _heartbeat(program: Classic | Apfree) -> None:
        program.ping()

    def _open_door(self, opened: door.Door) -> None:
        self.run_beside(opened.name, opened.accept, pause=0.0)

    def _add_station(self, name: str, ip: str | None, mac: str | None, source: str | None) -> Station:
        self._numbers += 1
        number = self._numbers
        high, low = divmod(number + 9, 250)
        digest = hashlib.sha256(f"{self.settings.gw_id} {number}".encode("utf-8", "surrogateescape")).hexdigest()
        station = Station(
            name=name,
            ip=ip or f"10.77.{high}.{low + 1}",
            mac=mac if mac is None or mac else "02:" + ":".join(digest[i : i + 2] for i in range(0, 10, 2)),
            source=source or f"127.0.{number // 250}.{number % 250 + 1}",
        )
        self._lan.add(station)
        return station

    def _note(self, text: str) -> None:
        if self._on_event is not None:
            self._on_event(text)

    def _alarm(self, text: str) -> None:
        self.alarms.append(text)
        log.error("emulator: %s", text)
        if self._on_alarm is not None:
            self._on_alarm(text)

    def _loop_alarm(self, text: str) -> None:
        self._alarm(text)
        if any(loop.dead for loop in [*self._loops, *self._lasting]):
            self.failure.set()

    def _serve(self, connection: socket.socket, source: str) -> None:
        head, _ = door.read_head(connection)
        if head:
            connection.sendall(self.answer(self._lan.at(source), head))

    def _serve_link(self, connection: socket.socket, station: Station) -> None:
        head, body = door.read_head(connection)
        request = door.proxied(head)
        if request is None:
            connection.sendall(b"HTTP/1.1 400 This is a proxy\r\nConnection: close\r\n\r\n")
            return
        method, host, port, origin = request
        where = self._whither(station, host, port)
        if where == "server":
            if method == "CONNECT":
                connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            door.forward(connection, host, port, origin + body)
        elif method == "CONNECT":
            # Port 443 is never caught; and there is no real Internet behind this router.
            connection.sendall(b"HTTP/1.1 502 No way through\r\nConnection: close\r\n\r\n")
        elif where == "internet":
            connection.sendall(self._internet(station, origin))
        else:
            connection.sendall(self.answer(station, origin))

    def _whither(self, station: Station, host: str, port: int) -> str:
        """What a station reaches at an address: "gateway", "server" (never caught), "internet", or "caught"."""

        def same(other: str) -> bool:
            return other == host or (other in _LOOPBACK and host in _LOOPBACK)

        if port == self.port and same(self.settings.address):
            return "gateway"
        if any(port in (server.port, server.ssl_port) and same(server.host) for server in self.settings.servers):
            return "server"
        passes = self._program.firewall.open_to_all or self.access(station) is not Access.NONE
        return "internet" if passes else "caught"

    def _internet(self, station: Station, head: bytes) -> bytes:
        """The emulated Internet: a page for everything, the probes of phones included."""
        path = wire.first_line(head)[1]
        head_only = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
        whole = head_only + f"Content-Length: {len(_ONLINE)}\r\n\r\n".encode("ascii") + _ONLINE
        answer = _NO_CONTENT if path.endswith((b"/generate_204", b"/gen_204")) else whole
        self.carry(station, Bytes(len(answer), len(head)))
        return answer
