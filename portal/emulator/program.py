"""The gateway program itself: its client list, its counters, its talk with the auth server. Two programs, one base.

Promises: does on every answer what the C program does, right or wrong, and reports what the C program would report. A
`Program` is one process of it: a restart is a new object, and an ended one touches nothing any more. Never looks at
what the book says; it only writes there.

Not modelled: two stations that use one IP at the same time (the C program then mixes up their counters), IPv6, trusted
and blocked MAC lists, and for apfree everything but its plain HTTP calls.
Sources: wifidog-gateway src/firewall.c (fw_sync_with_authserver), auth.c (authenticate_client, logout_client),
fw_iptables.c (iptables_fw_counters_update), centralserver.c, ping_thread.c, wd_util.c; apfree-wifidog
src/centralserver.c, firewall.c, http.c (ev_http_callback_auth).
"""

import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from portal.emulator import wire
from portal.emulator.lan import PING_BYTES, Access, Book, Bytes, Firewall, HighWater, Lan
from portal.emulator.wire import AuthServer, Dialect, Machine

_UNSIGNED = 2**64


@dataclass(frozen=True, slots=True)
class Settings:
    """The gateway's configuration file. Times in seconds; `client_timeout` in intervals, as in wifidog.conf.

    `patience` bounds each wait for data (classic 30 s, apfree 2 s), `connect_patience` a connect: the C program has no
    limit of its own there, and Linux gives up after about 127 s. `swapped`: apfree's nftables backend reports a
    download as outgoing.
    """

    gw_id: str
    servers: tuple[AuthServer, ...]
    address: str = "127.0.0.1"
    dialect: Dialect = Dialect.CLASSIC
    interval: float = 60.0
    client_timeout: int = 5
    delta_traffic: bool = False
    auth_down_opens: bool = False
    device_id: str = "emulator"
    channel: str = "chan1"
    swapped: bool = False
    patience: float = 30.0
    connect_patience: float = 127.0

    @property
    def idle_limit(self) -> float:
        return self.interval * self.client_timeout


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the auth server and what came of it.

    `stage`: ping, login, counters or logout. `code` is ERROR where no answer could be made out; a ping has 1 for a good
    answer. `growth`: what this request reported beyond all earlier ones of its run.
    """

    at: float
    seconds: float
    stage: str
    ip: str
    mac: str
    token: str
    incoming: int
    outgoing: int
    sent: bool
    code: int
    growth: Bytes


@dataclass(frozen=True, slots=True)
class Eviction:
    """A client that the idle rule threw out. `late`: it had been active, the round of polls itself took too long."""

    at: float
    ip: str
    mac: str
    idle: float
    late: bool


@dataclass(slots=True)
class Box:
    """The router that the program runs on: all that outlives the program."""

    lan: Lan
    book: Book
    clock: Callable[[], float]
    machine: Callable[[], Machine]
    note: Callable[[str], None]
    calls: deque[Call]
    evictions: list[Eviction]


@dataclass(slots=True)
class Client:
    """An entry of the client list, which is kept by IP and MAC. Counters as the program names them, in bytes.

    `history` is what an earlier process handed over; `delta` the growth at the last look that found any.
    """

    id: int
    ip: str
    mac: str
    token: str
    last_updated: float
    access: Access = Access.NONE
    incoming: int = 0
    outgoing: int = 0
    incoming_history: int = 0
    outgoing_history: int = 0
    incoming_delta: int = 0
    outgoing_delta: int = 0
    incoming_rate: int = 0
    outgoing_rate: int = 0
    first_login: int = 0
    is_online: bool = False
    wired: bool | None = None
    ip6: str = "N/A"
    mark: HighWater = field(default_factory=HighWater)


def read_machine() -> Machine:
    """This machine's uptime, free memory and load, as a router reads them from /proc; zeros where there is none."""
    try:
        with open("/proc/uptime", encoding="ascii") as uptime:
            seconds = int(float(uptime.read().split()[0]))
        with open("/proc/meminfo", encoding="ascii") as memory:
            free = next((int(line.split()[1]) for line in memory if line.startswith("MemFree:")), 0)
        return Machine(seconds, free, os.getloadavg()[0])
    except OSError:
        return Machine(0, 0, 0.0)


class Program:
    """What both programs share: list, servers, connections."""

    def __init__(self, settings: Settings, box: Box, *, inherited: Iterable[Client] = (), parent: int | None = None):
        """Starts with an empty firewall table. `inherited` clients get their rules back, with counts from 0."""
        self.settings = settings
        self.box = box
        self.firewall = Firewall()
        self.parent = parent
        self.started = box.clock()
        self.served = 0
        self.ended = False
        self._lock = threading.RLock()
        self._config_lock = threading.Lock()
        self._servers = list(settings.servers)
        self._next_id = 1
        # By id, oldest first; the program walks its list from the newest.
        self._clients: dict[int, Client] = {}
        self._connections: set[socket.socket] = set()
        self._good_at: float | None = None
        self._bad_at: float | None = None
        for client in inherited:
            self._insert(replace(client))
            if client.access is not Access.NONE:
                self.firewall.allow(client.ip, client.mac, client.access)

    # --- what others may ask ---

    def clients(self) -> list[Client]:
        """Copies of the list's entries, newest first, as the program walks it."""
        with self._lock:
            return [replace(client) for client in self._newest_first()]

    def find(self, ip: str, mac: str) -> Client | None:
        with self._lock:
            return next((c for c in self._newest_first() if c.ip == ip and c.mac == mac), None)

    def find_by_mac(self, mac: str) -> Client | None:
        with self._lock:
            return next((c for c in self._newest_first() if c.mac == mac), None)

    def is_online(self) -> bool:
        """Whether a server was ever reached: before that the program believes there is no Internet at all."""
        return self._good_at is not None

    def is_auth_online(self) -> bool:
        """False once the last failure is two intervals younger than the last success."""
        if self._good_at is None:
            return False
        return self._bad_at is None or self._bad_at - self._good_at < 2 * self.settings.interval

    def servers(self) -> list[AuthServer]:
        return list(self._servers)

    def uptime(self) -> int:
        return int(self.box.clock() - self.started)

    def end(self) -> None:
        """As a SIGTERM ends it: at once, in the middle of anything, telling nobody."""
        self.ended = True
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    # --- the list ---

    def _newest_first(self) -> Iterator[Client]:
        return reversed(self._clients.values())

    def _insert(self, client: Client) -> Client:
        client.id = self._next_id
        self._next_id += 1
        self._clients[client.id] = client
        return client

    def _add(self, ip: str, mac: str, token: str) -> Client:
        client = Client(id=0, ip=ip, mac=mac, token=token, last_updated=self.box.clock())
        client.first_login = int(time.time())
        return self._insert(client)

    def _live(self, client: Client) -> Client | None:
        return self._clients.get(client.id)

    def _remove(self, client: Client) -> None:
        self._clients.pop(client.id, None)

    def _deny(self, client: Client) -> None:
        client.access = Access.NONE
        self.firewall.deny(client.ip, client.mac)

    def _allow(self, client: Client, access: Access) -> None:
        """The new rule replaces the old one: the kernel's count begins at 0 again."""
        client.access = access
        self.firewall.allow(client.ip, client.mac, access)

    def _name(self, client: Client) -> str:
        station = self.box.lan.with_mac(client.mac)
        return station.name if station is not None else client.ip

    # --- the talk ---

    def _mark_good(self) -> None:
        self._good_at = self.box.clock()

    def _mark_bad(self) -> None:
        self._bad_at = self.box.clock()

    def _connect(self) -> socket.socket | None:
        """A connection to the first server that takes one; each that does not moves to the end of the list, for good.

        Under the configuration's lock, so that everyone waits behind a server that swallows connection requests.
        """
        with self._config_lock:
            for _ in self.settings.servers:
                server = self._servers[0]
                port = server.ssl_port if server.tls and server.ssl_port is not None else server.port
                try:
                    return socket.create_connection((server.host, port), timeout=self.settings.connect_patience)
                except OSError:
                    self._servers.append(self._servers.pop(0))
        return None

    def _exchange(
        self, request: Callable[[AuthServer], bytes], read: Callable[[socket.socket], bytes | None]
    ) -> tuple[bool, bytes | None]:
        """(request sent whole, reply). The request is made for the server that was first before the connect, so the
        first request after a failover reaches the new server with the old one's name and path."""
        server = self._servers[0]
        data = request(server)
        connection = self._connect()
        if connection is None:
            self._unreachable()
            return False, None
        self._reachable()
        try:
            if server.tls:
                connection = ssl.create_default_context().wrap_socket(connection, server_hostname=server.host)
            self._connections.add(connection)
            if self.ended:
                return False, None
            connection.settimeout(self.settings.patience)
            connection.sendall(data)
            reply = read(connection)
            return True, None if self.ended else reply
        except OSError:
            return False, None
        finally:
            self._connections.discard(connection)
            connection.close()

    def _reachable(self) -> None:
        """A server took the connection."""

    def _unreachable(self) -> None:
        """No server took a connection."""
        self._mark_bad()

    def _record(
        self,
        stage: str,
        client: Client | None,
        *,
        began: float,
        sent: bool,
        code: int,
        counters: tuple[int, int] = (0, 0),
        token: str | None = None,
    ) -> None:
        """Writes a call down, and in the book what it reported."""
        growth = Bytes()
        if client is not None and stage in ("counters", "logout") and sent:
            with self._lock:
                growth = self._grow(client, counters, answered=code != wire.ERROR)
        self.box.calls.append(
            Call(
                at=began,
                seconds=self.box.clock() - began,
                stage=stage,
                ip=client.ip if client is not None else "",
                mac=client.mac if client is not None else "",
                token=token if token is not None else client.token if client is not None else "",
                incoming=counters[0],
                outgoing=counters[1],
                sent=sent,
                code=code,
                growth=growth,
            )
        )

    def _grow(self, client: Client, counters: tuple[int, int], *, answered: bool) -> Bytes:
        now = Bytes(counters[1], counters[0]) if self.settings.swapped else Bytes(counters[0], counters[1])
        mark = client.mark
        growth = Bytes(max(0, now.down - mark.sent.down), max(0, now.up - mark.sent.up))
        mark.sent = mark.sent + growth
        self.box.book.reported(client.mac, growth)
        if answered:
            heard = Bytes(max(0, now.down - mark.answered.down), max(0, now.up - mark.answered.up))
            mark.answered = mark.answered + heard
            self.box.book.answered(client.mac, heard)
        return growth

    def _evict(self, client: Client, now: float, round_began: float) -> None:
        """Notes that the idle rule applies to a client."""
        idle = now - client.last_updated
        late = client.last_updated >= round_began
        self.box.evictions.append(Eviction(now, client.ip, client.mac, idle, late))
        why = "the round of polls took too long" if late else f"nothing sent for {idle:.0f} s"
        self.box.note(f"{self._name(client)}: logged out, {why}")


class Classic(Program):
    """WiFiDog 1.3.0."""

    def ping(self) -> bool:
        """Whether the server said what a ping wants to hear."""
        began = self.box.clock()
        sent, reply = self._exchange(
            lambda server: wire.classic_request(
                wire.classic_ping_target(server, self.settings.gw_id, self.box.machine(), self.uptime()), server.host
            ),
            self._read,
        )
        good = wire.says_pong(reply)
        if not self.ended:
            self.firewall.open_to_all = self.settings.auth_down_opens and not good
        self._record("ping", None, began=began, sent=sent, code=wire.ALLOWED if good else wire.ERROR)
        return good

    def cycle(self) -> None:
        """One round of polls: one client after another, each checked against the clock once its answer is in."""
        round_began = self.box.clock()
        self._update_counters()
        for client in self.clients():
            if self.ended:
                return
            self._ping_station(client)
            code = self._ask("counters", client, (client.incoming, client.outgoing))
            now = self.box.clock()
            with self._lock:
                live = self._live(client)
            if live is None or self.ended:
                continue
            # `client` is the copy made when the round began: what was sent since does not save a late one.
            if client.last_updated + self.settings.idle_limit <= now:
                self._evict(client, now, round_began)
                self.logout(live)
            else:
                self._polled(live, code)

    def login(self, ip: str, mac: str, token: str) -> int | None:
        """What a browser at /wifidog/auth?token= sets off; the code, or None when the client was gone meanwhile."""
        with self._lock:
            client = self.find(ip, mac) or self._add(ip, mac, token)
        code = self._ask("login", client, (0, 0), token)
        with self._lock:
            live = self._live(client)
            if live is None or self.ended:
                return None
            live.token = token
            if code == wire.DENIED:
                self._deny(live)
            elif code == wire.VALIDATION:
                self._allow(live, Access.PROBATION)
            elif code == wire.ALLOWED:
                self._allow(live, Access.KNOWN)
                self.served += 1
            access = live.access
        self.box.note(f"{self._name(client)}: login answered {code}, access {access}")
        return code

    def auth(self, ip: str, mac: str, token: str, *, logout: bool) -> int | None:
        """The whole of /wifidog/auth: with `logout` an unknown client is put into the list and nobody is asked."""
        if not logout:
            return self.login(ip, mac, token)
        with self._lock:
            client = self.find(ip, mac)
            if client is None:
                self._add(ip, mac, token)
                return None
        self.logout(client)
        return None

    def logout(self, client: Client) -> None:
        """Shuts the firewall, drops the client, then tells the server, whose answer changes nothing."""
        with self._lock:
            if self._live(client) is None:
                return
            self._deny(client)
            self._remove(client)
        self._ask("logout", client, (client.incoming, client.outgoing))
        self.box.note(f"{self._name(client)}: out of the list")

    def _read(self, connection: socket.socket) -> bytes | None:
        return wire.read_reply(connection, self.settings.patience)

    def _reachable(self) -> None:
        # A server that takes the connection counts as well, whatever it then says.
        self._mark_good()

    def _ask(self, stage: str, client: Client, counters: tuple[int, int], token: str | None = None) -> int:
        began = self.box.clock()
        deltas: tuple[int, int] | None = None
        if self.settings.delta_traffic:
            deltas = (0, 0) if stage == "login" else (client.incoming_delta, client.outgoing_delta)
        asked = token if token is not None else client.token
        sent, reply = self._exchange(
            lambda server: wire.classic_request(
                wire.classic_auth_target(
                    server,
                    stage,
                    ip=client.ip,
                    mac=client.mac,
                    token=asked,
                    incoming=counters[0],
                    outgoing=counters[1],
                    deltas=deltas,
                    gw_id=self.settings.gw_id,
                ),
                server.host,
            ),
            self._read,
        )
        code = wire.auth_code(reply)
        self._record(stage, client, began=began, sent=sent, code=code, counters=counters, token=asked)
        return code

    def _polled(self, client: Client, code: int) -> None:
        before = client.access
        with self._lock:
            if code in (wire.DENIED, wire.VALIDATION_FAILED):
                self._deny(client)
                self._remove(client)
            elif code == wire.ALLOWED and client.access is not Access.KNOWN:
                if client.access is not Access.PROBATION:
                    client.incoming = client.outgoing = client.incoming_delta = client.outgoing_delta = 0
                    client.mark = HighWater()
                self._allow(client, Access.KNOWN)
        if code in (wire.DENIED, wire.VALIDATION_FAILED):
            self.box.note(f"{self._name(client)}: poll answered {code}, cut off")
        elif client.access is not before:
            self.box.note(f"{self._name(client)}: poll answered {code}, access {client.access}")

    def _ping_station(self, client: Client) -> None:
        """The ICMP ping that keeps a silent device alive, as long as it answers and its rule counts the answer."""
        if self.firewall.counted(client.ip, client.mac) is None:
            return
        answered = PING_BYTES if self.box.lan.answers_ping(client.ip, client.mac) else 0
        self.firewall.carry(client.ip, client.mac, Bytes(PING_BYTES, answered))
        self.box.book.pinged(client.mac, Bytes(PING_BYTES, answered))

    def _update_counters(self) -> None:
        """Totals follow the kernel's rule only once it has counted more than they hold: after a re-login they freeze.

        The comparison is unsigned, as in C, where totals set to 0 under a history wrap around.
        """
        now = self.box.clock()
        with self._lock:
            for client in self._clients.values():
                counted = self.firewall.counted(client.ip, client.mac)
                if counted is None:
                    continue
                if (client.outgoing - client.outgoing_history) % _UNSIGNED < counted.up:
                    client.outgoing_delta = client.outgoing_history + counted.up - client.outgoing
                    client.outgoing = client.outgoing_history + counted.up
                    client.last_updated = now
                if (client.incoming - client.incoming_history) % _UNSIGNED < counted.down:
                    client.incoming_delta = client.incoming_history + counted.down - client.incoming
                    client.incoming = client.incoming_history + counted.down


class Apfree(Program):
    """apfree-wifidog 9.07: its calls over plain HTTP, with its nftables backend."""

    def ping(self) -> bool:
        began = self.box.clock()
        clients = self.clients()
        online = sum(client.is_online for client in clients)
        cpu = min(100.0, 100.0 * self.box.machine().load / (os.cpu_count() or 1))
        sent, body = self._exchange(
            lambda server: wire.apfree_get(
                wire.apfree_ping_target(
                    server,
                    self.settings.device_id,
                    self.box.machine(),
                    cpu,
                    self.uptime(),
                    online,
                    len(clients) - online,
                ),
                server.host,
            ),
            lambda connection: wire.read_apfree_reply(connection, "GET", self.settings.patience),
        )
        good = wire.says_pong(body)
        self._mark(good=good)
        self._record("ping", None, began=began, sent=sent, code=wire.ALLOWED if good else wire.ERROR)
        return good

    def cycle(self) -> None:
        """One request for all clients, also when there are none. A client that the answer leaves out is left alone."""
        round_began = self.box.clock()
        self._update_counters()
        clients = self.clients()
        body = wire.apfree_counters_body(
            [self._named(client) for client in clients],
            gw_id=self.settings.gw_id,
            channel=self.settings.channel,
            device_id=self.settings.device_id,
        )
        sent, reply = self._exchange(
            lambda server: wire.apfree_post(wire.apfree_counters_target(server), server.host, body),
            lambda connection: wire.read_apfree_reply(connection, "POST", self.settings.patience),
        )
        verdicts = wire.apfree_verdicts(reply)
        if reply is None:
            self._mark_bad()
        # The first verdict decides what is recorded; each one is acted on.
        codes = dict(reversed(verdicts or []))
        for client in clients:
            code = codes.get(client.id, wire.ERROR)
            counters = (client.incoming, client.outgoing)
            self._record("counters", client, began=round_began, sent=sent, code=code, counters=counters)
        for number, code in verdicts or []:
            with self._lock:
                live = self._clients.get(number)
            if live is None or self.ended:
                continue
            now = self.box.clock()
            if now - live.last_updated >= self.settings.idle_limit:
                self._evict(live, now, round_began)
                self.logout(live)
            else:
                self._polled(live, code)

    def auth(self, ip: str, mac: str, token: str, *, logout: bool) -> int | None:
        """The whole of /wifidog/auth. A known client is asked for with the token it already has."""
        with self._lock:
            client = self.find(ip, mac)
            if client is None:
                client = self.find_by_mac(mac)
                if client is not None:
                    self._deny(client)
                    client.ip, client.token = ip, token
            if client is None and logout:
                return None
            if client is None:
                client = self._add(ip, mac, token)
        if logout:
            self.logout(client)
            return None
        code = self._ask("login", client)
        with self._lock:
            if self._live(client) is None or self.ended:
                return None
            if code == wire.ALLOWED:
                self._allow(client, Access.KNOWN)
                client.first_login = int(time.time())
                client.is_online = True
                self.served += 1
            elif code == wire.VALIDATION:
                self._allow(client, Access.PROBATION)
            else:
                if code == wire.DENIED:
                    self._deny(client)
                # The other ways to fail drop the entry and leave the rule, if there is one.
                self._remove(client)
        self.box.note(f"{self._name(client)}: login answered {code}, access {client.access}")
        return code

    def logout(self, client: Client) -> None:
        """Asks the server first; only its 0 shuts the firewall. Otherwise the client stays, and is asked for again."""
        if self._ask("logout", client) != wire.DENIED:
            self.box.note(f"{self._name(client)}: logout not confirmed, still online")
            return
        with self._lock:
            self._deny(client)
            self._remove(client)
        self.box.note(f"{self._name(client)}: out of the list")

    def _ask(self, stage: str, client: Client) -> int:
        began = self.box.clock()
        sent, body = self._exchange(
            lambda server: wire.apfree_get(
                wire.apfree_auth_target(
                    server,
                    stage,
                    self._named(client),
                    gw_id=self.settings.gw_id,
                    channel=self.settings.channel,
                    device_id=self.settings.device_id,
                ),
                server.host,
            ),
            lambda connection: wire.read_apfree_reply(connection, "GET", self.settings.patience),
        )
        found = wire.apfree_auth_code(body)
        self._mark(good=found is not None)
        code = wire.ERROR if found is None else found
        counters = (client.incoming, client.outgoing)
        self._record(stage, client, began=began, sent=sent, code=code, counters=counters)
        return code

    def _polled(self, client: Client, code: int) -> None:
        """Unlike the classic program, a 1 opens nothing for a client that has no access."""
        if code not in (wire.DENIED, wire.VALIDATION_FAILED):
            return
        with self._lock:
            self._deny(client)
            self._remove(client)
        self.box.note(f"{self._name(client)}: poll answered {code}, cut off")

    def _allow(self, client: Client, access: Access) -> None:
        # Counters are the rule's own count here, so that a replaced rule begins a new run.
        super()._allow(client, access)
        client.mark = HighWater()

    def _mark(self, *, good: bool) -> None:
        if good:
            self._mark_good()
        else:
            self._mark_bad()

    def _update_counters(self) -> None:
        now = self.box.clock()
        with self._lock:
            for client in self._clients.values():
                client.wired = False
                counted = self.firewall.counted(client.ip, client.mac)
                if counted is None:
                    client.is_online = False
                    continue
                incoming, outgoing = counted.down, counted.up
                if self.settings.swapped:
                    incoming, outgoing = outgoing, incoming
                seconds = max(1.0, now - client.last_updated)
                client.incoming_rate = int(max(0, incoming - client.incoming) / seconds)
                client.outgoing_rate = int(max(0, outgoing - client.outgoing) / seconds)
                client.is_online = (incoming, outgoing) != (client.incoming, client.outgoing)
                if client.is_online:
                    client.last_updated = now
                client.incoming, client.outgoing = incoming, outgoing

    def _named(self, client: Client) -> wire.ApfreeClient:
        # Bytes are all that the emulated kernel counts; a packet holds 1500 of them at most.
        return wire.ApfreeClient(
            id=client.id,
            ip=client.ip,
            ip6=client.ip6,
            mac=client.mac,
            token=client.token,
            counts=wire.ApfreeCounts(
                incoming=client.incoming,
                outgoing=client.outgoing,
                incoming_packets=-(-client.incoming // 1500),
                outgoing_packets=-(-client.outgoing // 1500),
                incoming_rate=client.incoming_rate,
                outgoing_rate=client.outgoing_rate,
            ),
            first_login=client.first_login,
            online_time=max(0, int(time.time()) - client.first_login),
            is_online=client.is_online,
            wired=client.wired,
        )
