"""The bytes between a WiFiDog gateway, its auth server and a guest's browser, as the C programs write and read them.

Promises: requests are the captured bytes; a reply is understood exactly as the gateways understand it, wrong and odd
ones included. Pure but for `read_reply` and `read_apfree_reply`, which read one socket. Decides nothing.

Text that came from a browser is kept as `str` with undecodable bytes escaped (`to_text`, `to_bytes`), so that what goes
out is byte for byte what came in.
Sources: wifidog-gateway src/centralserver.c, ping_thread.c, simple_http.c, http.c, libhttpd/protocol.c and api.c;
apfree-wifidog src/wd_client.c, centralserver.c, ping_thread.c, firewall.c.
"""

import http.client
import json
import re
import socket
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

VERSION = "1.3.0"
APFREE_VERSION = "9.07.2907"

# The codes of src/auth.h. LOCKED (254) and all others are known to no one.
ERROR = -1
DENIED = 0
ALLOWED = 1
VALIDATION = 5
VALIDATION_FAILED = 6

REQUEST_LIMIT = 4094  # a 4096 byte buffer, written with snprintf(buf, sizeof(buf) - 1)
READ_SIZE = 4095
LOCATION_LIMIT = 978  # what a 1024 byte header buffer leaves after the Server line
PATH_LIMIT = 1023

_AUTH_MARK = b"Auth: "
_PING_MARK = b"Pong"
_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?[0-9]+)")
_BARE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!\"$'()*+,-.@_")


class Dialect(StrEnum):
    """Which program the emulator is."""

    CLASSIC = "classic"
    APFREE = "apfree"


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def to_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def escape(text: str) -> str:
    """What httpdUrlEncode makes of a value: a plus stays bare, slash, colon and tilde do not."""
    return "".join(chr(byte) if byte in _BARE else f"%{byte:02X}" for byte in to_bytes(text))


@dataclass(frozen=True, slots=True)
class AuthServer:
    """One AuthServer block of a gateway's configuration file.

    `port` is where the gateway itself talks HTTP. `ssl_port` is where browsers are sent by https (SSLAvailable yes);
    the gateway goes there too when `tls`, as a build with TLS does, and stays on plain HTTP otherwise.
    """

    host: str
    port: int = 80
    path: str = "/wifidog/"
    login_fragment: str = "login/?"
    portal_fragment: str = "portal/?"
    message_fragment: str = "gw_message.php?"
    ping_fragment: str = "ping/?"
    auth_fragment: str = "auth/?"
    ssl_port: int | None = None
    tls: bool = False

    def browser_url(self, fragment: str) -> str:
        """Where a browser is redirected; the port is always written out."""
        if self.ssl_port is not None:
            return f"https://{self.host}:{self.ssl_port}{self.path}{fragment}"
        return f"http://{self.host}:{self.port}{self.path}{fragment}"


def auth_server(
    url: str,
    *,
    path: str | None = None,
    key: str = "",
    ssl_port: int | None = None,
    dialect: Dialect = Dialect.CLASSIC,
    auth_fragment: str | None = None,
    ping_fragment: str | None = None,
) -> AuthServer:
    """The block for a server given by its URL.

    `path` wins over the URL's own path; without either it is WiFiDog's default, `/wifidog/`. `key` goes into the two
    fragments that guests never see, as a router that has a key is configured; a fragment given outright wins.
    Raises ValueError, naming what was wrong and what was expected.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"server {url!r}: expected http://HOST[:PORT][/PATH/] or https://…")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError(f"server {url!r}: expected no query, fragment or user name")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"server {url!r}: expected a port between 1 and 65535") from None
    chosen = path if path is not None else parts.path or "/wifidog/"
    if not chosen.startswith("/") or not chosen.endswith("/") or re.search(r"[\x00-\x20?#]", chosen):
        raise ValueError(f"path {chosen!r}: expected to begin and end with a slash, for example /wifidog/")
    if key and not re.fullmatch(r"[A-Za-z0-9._-]+", key):
        raise ValueError("key: expected letters, digits, dot, dash and underscore only")
    for name, fragment in (("auth", auth_fragment), ("ping", ping_fragment)):
        if fragment is not None and not re.fullmatch(r"[!-\"$-~]*[?&]", fragment):
            raise ValueError(
                f"{name} path {fragment!r}: expected to end in ? or &, since parameters follow right after"
            )
    secure = parts.scheme == "https"
    query = f"k={key}&" if key else ""
    return AuthServer(
        host=parts.hostname,
        port=port or (443 if secure else 80),
        path=chosen,
        message_fragment="gw_message?" if dialect is Dialect.APFREE else "gw_message.php?",
        ping_fragment=ping_fragment or f"ping/?{query}",
        auth_fragment=auth_fragment or f"auth/?{query}",
        ssl_port=(port or 443) if secure else ssl_port,
        tls=secure,
    )


@dataclass(frozen=True, slots=True)
class Machine:
    """What a ping says about the router: seconds, kB, load of one minute."""

    uptime: int
    memfree: int
    load: float


# --- classic: requests ---------------------------------------------------------------------------------------------


def classic_request(target: str, host: str) -> bytes:
    """The whole request: HTTP/1.0, two headers, never a port in Host; cut like the C buffer."""
    text = f"GET {target} HTTP/1.0\r\nUser-Agent: WiFiDog {VERSION}\r\nHost: {host}\r\n\r\n"
    return to_bytes(text)[:REQUEST_LIMIT]


def classic_ping_target(server: AuthServer, gw_id: str, machine: Machine, uptime: int) -> str:
    return (
        f"{server.path}{server.ping_fragment}gw_id={gw_id}&sys_uptime={machine.uptime}&sys_memfree={machine.memfree}"
        f"&sys_load={machine.load:.2f}&wifidog_uptime={uptime}"
    )


def classic_auth_target(
    server: AuthServer,
    stage: str,
    *,
    ip: str,
    mac: str,
    token: str,
    incoming: int,
    outgoing: int,
    deltas: tuple[int, int] | None,
    gw_id: str,
) -> str:
    """`deltas` (incoming, outgoing) with DeltaTraffic, else None. The gateway id is never escaped."""
    delta = f"&incomingdelta={deltas[0]}&outgoingdelta={deltas[1]}" if deltas is not None else ""
    return (
        f"{server.path}{server.auth_fragment}stage={stage}&ip={ip}&mac={mac}&token={escape(token)}"
        f"&incoming={incoming}&outgoing={outgoing}{delta}&gw_id={gw_id}"
    )


# --- classic: replies ----------------------------------------------------------------------------------------------


def read_reply(connection: socket.socket, patience: float) -> bytes | None:
    """All that comes until the peer closes; None when a wait exceeds `patience` seconds or the connection breaks.

    What was read so far is then lost. There is no Content-Length, no chunk, no keep-alive; a NUL byte hides the rest of
    the read that it came in.
    """
    connection.settimeout(patience)
    whole = bytearray()
    while True:
        try:
            piece = connection.recv(READ_SIZE)
        except OSError:
            return None
        if not piece:
            return bytes(whole)
        whole += piece.partition(b"\0")[0]


def auth_code(reply: bytes | None) -> int:
    """The number after the first mark anywhere in the reply, headers included; ERROR when there is none."""
    if reply is None:
        return ERROR
    _, mark, rest = reply.partition(_AUTH_MARK)
    number = _NUMBER.match(rest) if mark else None
    if number is None:
        return ERROR
    # sscanf's %d: a long that is cut to 32 bits.
    value = max(-(2**63), min(2**63 - 1, int(number[1]))) & 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


def says_pong(reply: bytes | None) -> bool:
    return reply is not None and _PING_MARK in reply


# --- classic: the gateway's own web server -------------------------------------------------------------------------


def first_line(head: bytes) -> tuple[str, bytes, bytes, bytes]:
    """(method, path, query, host) of a request head as libhttpd reads it.

    The target is cut at 1023 bytes, query included, and `//`, `/./` and `/../` are collapsed in both. A byte above 127
    ends a line.
    """
    lines = [line.replace(b"\r", b"") for line in re.split(rb"[\n\x80-\xff]", head)]
    method, _, rest = lines[0].partition(b" ")
    target = rest.lstrip(b" ").partition(b" ")[0][:PATH_LIMIT]
    path, _, query = _sanitise(target).partition(b"?")
    host = b""
    for line in lines[1:]:
        if not line:
            break
        if line[:6].lower() == b"host: ":
            host = line[6:]
    return method.decode("ascii"), path, query, host


def _sanitise(target: bytes) -> bytes:
    single = re.sub(rb"/{2,}", b"/", target)
    parts: list[bytes] = []
    pieces = re.sub(rb"(?:/\.)+(?=/)", b"", single).split(b"/")
    for position, piece in enumerate(pieces):
        if piece == b".." and 0 < position < len(pieces) - 1:
            if len(parts) > 1:
                parts.pop()
        else:
            parts.append(piece)
    return b"/".join(parts)


def variables(query: bytes) -> dict[str, str]:
    """A query as libhttpd takes it apart: the value begins anew at every `=`, the first of two names wins."""
    found: dict[str, str] = {}
    pairs = query.split(b"&")
    for position, pair in enumerate(pairs):
        name, equals, rest = pair.partition(b"=")
        if not equals and position == len(pairs) - 1:
            continue
        found.setdefault(to_text(name.lstrip(b" \t")), to_text(_unescape(rest.rpartition(b"=")[2])))
    return found


def _unescape(raw: bytes) -> bytes:
    plain = raw.replace(b"+", b" ")
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), plain).partition(b"\0")[0]


def login_fragment(
    server: AuthServer, *, address: str, port: int, gw_id: str, ip: str, mac: str | None, url: str
) -> str:
    """`mac` is missing where the router has no ARP entry for the guest. `url` is the page the guest asked for."""
    station = f"&mac={mac}" if mac is not None else ""
    return (
        f"{server.login_fragment}gw_address={address}&gw_port={port}&gw_id={gw_id}&ip={ip}{station}&url={escape(url)}"
    )


def page(status: str, body: str, date: str, location: str | None = None) -> bytes:
    """A whole answer to a browser: HTTP/1.0, lines that end in a bare LF, the Location line cut at 978 bytes."""
    moved = to_bytes(f"Location: {location}")[:LOCATION_LIMIT] + b"\n" if location is not None else b""
    return (
        to_bytes(f"HTTP/1.0 {status}\nServer: Hughes Technologies Embedded Server\n")
        + moved
        + to_bytes(f"Date: {date}\nConnection: close\nContent-Type: text/html\n\n{body}")
    )


# --- apfree --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ApfreeCounts:
    """One family's counters of one client: bytes, packets, bytes a second."""

    incoming: int = 0
    outgoing: int = 0
    incoming_packets: int = 0
    outgoing_packets: int = 0
    incoming_rate: int = 0
    outgoing_rate: int = 0


@dataclass(frozen=True, slots=True)
class ApfreeClient:
    """One client as apfree names it; `first_login` in Unix seconds, `wired` None while it is not known yet."""

    id: int
    ip: str
    ip6: str
    mac: str
    token: str
    counts: ApfreeCounts
    first_login: int
    online_time: int
    is_online: bool
    wired: bool | None


_APFREE_COMMON = (
    "Cache-Control: no-store, must-revalidate\r\nExpires: 0\r\nPragma: no-cache\r\nConnection: close\r\n"
    "User-Agent: ApFree-WiFiDog\r\n"
)


def apfree_get(target: str, host: str) -> bytes:
    return to_bytes(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/html\r\n{_APFREE_COMMON}\r\n")


def apfree_post(target: str, host: str, body: bytes) -> bytes:
    head = (
        f"POST {target} HTTP/1.1\r\nHost: {host}\r\n{_APFREE_COMMON}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return to_bytes(head) + body


def apfree_ping_target(
    server: AuthServer, device_id: str, machine: Machine, cpu: float, uptime: int, online: int, offline: int
) -> str:
    """One ping a device: it names no gateway. `cpu` in per cent."""
    return (
        f"{server.path}{server.ping_fragment}device_id={device_id}&sys_uptime={machine.uptime}"
        f"&sys_memfree={machine.memfree}&sys_load={machine.load:.2f}&nf_conntrack_count=0&cpu_usage={cpu:.2f}"
        f"&wifidog_uptime={uptime}&online_clients={online}&offline_clients={offline}&ssid=null&fm_version=null"
        f"&type=null&name=null&wired_passed=0&aw_version={APFREE_VERSION}"
    )


def apfree_auth_target(
    server: AuthServer, stage: str, client: ApfreeClient, *, gw_id: str, channel: str, device_id: str
) -> str:
    """login or logout; nothing is escaped."""
    counts = client.counts
    wired = 2**32 - 1 if client.wired is None else int(client.wired)
    return (
        f"{server.path}{server.auth_fragment}stage={stage}&ip={client.ip}&mac={client.mac}&token={client.token}"
        f"&incoming_bytes={counts.incoming}&outgoing_bytes={counts.outgoing}"
        f"&incoming_packets={counts.incoming_packets}&outgoing_packets={counts.outgoing_packets}"
        "&incoming_bytes_v6=0&outgoing_bytes_v6=0&incoming_packets_v6=0&outgoing_packets_v6=0"
        f"&first_login={client.first_login}&online_time={client.online_time}&gw_id={gw_id}&gw_channel={channel}"
        f"&name=N/A&wired={wired}&device_id={device_id}"
        f"&incoming_rate={counts.incoming_rate}&outgoing_rate={counts.outgoing_rate}"
        "&incoming_rate_v6=0&outgoing_rate_v6=0"
    )


def apfree_counters_target(server: AuthServer) -> str:
    return f"{server.path}{server.auth_fragment}stage=counters_v2"


def apfree_counters_body(clients: list[ApfreeClient], *, gw_id: str, channel: str, device_id: str) -> bytes:
    """The JSON of one round of counters for all clients, spaced as json-c spaces it."""
    named: list[object] = []
    for client in clients:
        counts = client.counts
        named.append(
            {
                "id": client.id,
                "ip": client.ip,
                "ip6": client.ip6,
                "mac": client.mac,
                "token": client.token,
                "name": "N/A",
                "incoming_bytes": counts.incoming,
                "outgoing_bytes": counts.outgoing,
                "incoming_rate": counts.incoming_rate,
                "outgoing_rate": counts.outgoing_rate,
                "incoming_packets": counts.incoming_packets,
                "outgoing_packets": counts.outgoing_packets,
                "incoming_bytes_v6": 0,
                "outgoing_bytes_v6": 0,
                "incoming_rate_v6": 0,
                "outgoing_rate_v6": 0,
                "incoming_packets_v6": 0,
                "outgoing_packets_v6": 0,
                "first_login": client.first_login,
                "is_online": client.is_online,
                "wired": bool(client.wired),
            }
        )
    fleet = {"gw_id": gw_id, "gw_channel": channel, "clients": named}
    return _json_c({"device_id": device_id, "gateway": [fleet]}).encode("utf-8", "surrogateescape")


def _json_c(value: object) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_json_c(name)}: {_json_c(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{ }"
    if isinstance(value, list):
        inner = ", ".join(_json_c(item) for item in value)
        return f"[ {inner} ]" if inner else "[ ]"
    return json.dumps(value, ensure_ascii=False).replace("/", "\\/")


def read_apfree_reply(connection: socket.socket, method: str, patience: float) -> bytes | None:
    """The body of an HTTP reply, whatever its status; None when there is none within `patience` seconds a wait."""
    connection.settimeout(patience)
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        return response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        response.close()


def apfree_auth_code(body: bytes | None) -> int | None:
    """The code in the first 4095 bytes of a body; None without the mark, ERROR when no number follows it."""
    if not body:
        return None
    seen = body[:READ_SIZE].partition(b"\0")[0]
    return auth_code(seen) if _AUTH_MARK in seen else None


def apfree_verdicts(body: bytes | None) -> list[tuple[int, int]] | None:
    """(client id, code) for every client a counters reply names; None when the reply is not one.

    The gateway id must be there but is not compared; a code that is no number counts as 0.
    """
    try:
        results = json.loads(body or b"")["result"]
    except (ValueError, KeyError, TypeError):
        return None
    verdicts: list[tuple[int, int]] = []
    for result in results if isinstance(results, list) else []:
        if not isinstance(result, dict) or result.get("gw_id") is None or not isinstance(result.get("auth_op"), list):
            continue
        operations = [operation for operation in result["auth_op"] if isinstance(operation, dict)]
        for operation in operations:
            number, code = operation.get("id"), operation.get("auth_code")
            if number is not None and code is not None:
                verdicts.append((_json_int(number), _json_int(code)))
    return verdicts


def _json_int(value: object) -> int:
    if isinstance(value, int | float):
        return int(value)
    number = re.match(r"\s*([+-]?\d+)", value) if isinstance(value, str) else None
    return int(number[1]) if number else 0


def apfree_login_url(
    server: AuthServer,
    *,
    address: str,
    port: int,
    device_id: str,
    gw_id: str,
    channel: str,
    ip: str,
    mac: str | None,
    url: str,
) -> str:
    """Where apfree sends a guest; the port is left out where it is the scheme's own."""
    scheme, number = ("https", server.ssl_port) if server.ssl_port is not None else ("http", server.port)
    shown = "" if number == (443 if scheme == "https" else 80) else f":{number}"
    return (
        f"{scheme}://{server.host}{shown}{server.path}{server.login_fragment}gw_address={address}&is_ipv6=0"
        f"&gw_port={port}&device_id={device_id}&gw_id={gw_id}&gw_channel={channel}&ssid=&ip={ip}&mac={mac or ''}"
        f"&protocol={scheme}&url={escape(url)}"
    )


def apfree_page(reason: str, body: str, date: str, *, shared: bool) -> bytes:
    """An answer of apfree to a browser. `shared`: with the CORS lines that the auth and disconnect pages carry."""
    cors = (
        "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: GET,POST,OPTIONS,DELETE,PUT\r\n"
        if shared
        else ""
    )
    content = to_bytes(body)
    head = (
        f"HTTP/1.1 200 {reason}\r\n{cors}Connection: close\r\nDate: {date}\r\nContent-Length: {len(content)}\r\n"
        "Content-Type: text/html; charset=ISO-8859-1\r\n\r\n"
    )
    return to_bytes(head) + content


def apfree_redirect_body(url: str) -> str:
    return (
        '<html><head><script type="text/javascript">setTimeout(function() { window.location.href = '
        f"'{url}'; }}, 100);</script></head><body>Please wait, redirecting... If nothing happens, "
        f"<a href='{url}'>click here</a>.</body></html>"
    )
