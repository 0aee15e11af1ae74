"""The wire between WiFiDog gateways and us: bytes in, one of a closed set of byte answers out.

A gateway calls us for each guest (`parse_auth`), for itself (`parse_ping`) and, in apfree's dialect, for all its
guests at once (`parse_counters_v2`); it reads one of the constants of `Answer`, or the JSON of `answer_v2`. The other
half of the wire goes through the guest's browser, which carries parameters from the gateway to our pages
(`parse_arrival`, `parse_message`, `parse_portal`) and a token back to it (`return_url`).

Promises: every function is pure and works on what it is given alone; whatever the bytes, a parser returns its
dataclass or raises `Malformed`, nothing else; no answer repeats anything a gateway or a guest sent, except the
`gw_id` of `answer_v2`, in which the words a gateway looks for cannot occur. Never decides who may stay online (that
is `access`), never looks at a database, a clock or a header, and never logs.

One rule holds for every query: **a protocol parameter that occurs twice makes the request malformed.** apfree pastes
the guest's token unescaped in front of its own parameters, so a guest can write `T&gw_id=other`, and whichever of the
two a parser prefers, somebody gains by it.

Names used for sources: *classic* is wifidog/wifidog-gateway (1.1.5 to 1.3.0), *apfree* is liudf0716/apfree-wifidog
(9.07), *wifidog-ng* is zhaojh329/wifidog-ng; a source file without a project is classic's. What was seen on running
gateways is kept as bytes in `tests/vectors/`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Annotated, Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import msgspec

LONGEST_ID: Final = 64
"""Characters in a gw_id or device_id. The default is a MAC address; hand-made ones are names."""

LARGEST_COUNTER: Final = 2**63 - 1
"""Bytes. Gateways count in 64 bits unsigned; what does not fit a PostgreSQL bigint is no honest figure."""

DEFAULT_GATEWAY_PORT: Final = 2060
"""The port of a gateway's own web server when nobody says otherwise (src/conf.h)."""

LONGEST_ONWARD_URL: Final = 2048

MOST_GATEWAYS: Final = 100
"""Gateways of one device in a `counters_v2` call: one for each of its networks, rarely more than two."""

MOST_CLIENTS: Final = 4_000
"""Clients of one device in a `counters_v2` call. While they are read nobody else is heard."""


class Stage(StrEnum):
    """Why a gateway asks about a guest. apfree's `counters_v2` is `COUNTERS` for every client it lists."""

    LOGIN = "login"
    COUNTERS = "counters"
    LOGOUT = "logout"


class Dialect(StrEnum):
    """Which program's habits a call shows: the names of its counters, or a heartbeat under a device_id."""

    CLASSIC = "classic"
    APFREE = "apfree"


class Route(StrEnum):
    """What a path asks for. The first three are a gateway's calls, the others a guest's browser."""

    AUTH = "auth"
    COUNTERS_V2 = "counters_v2"
    PING = "ping"
    LOGIN = "login"
    PORTAL = "portal"
    MESSAGE = "message"


class Malformed(ValueError):
    """A request that does not follow the protocol; carries names of parameters, never what was sent in them.

    `field` is the parameter, `expected` says what it should have been. `logout` tells that the request was a logout
    all the same, which is answered DENY in every case (see `Answer`); every other malformed auth request is answered
    NEUTRAL. A malformed heartbeat is still answered PONG: the server is up, and that is all a Pong says.
    """

    def __init__(self, field: str, expected: str, *, logout: bool = False) -> None:
        super().__init__(f"{field}: expected {expected}")
        self.field = field
        self.expected = expected
        self.logout = logout


class Report(NamedTuple):
    """One call of a gateway about one guest.

    `token` is what was sent, unescaped, and may be any text (`is_token` tells ours by their shape); `mac` is in lower
    case with colons, `ip` a literal address; either is "" when the gateway did not say. `incoming` and `outgoing` are
    bytes since the gateway listed the station, as the gateway named them (which of them is download depends on the
    gateway), IPv6 traffic included; None is "missing or not a number": nothing is charged, the verdict is given all
    the same. They are read at every stage; those of a login mean nothing (src/auth.c sends zeros) and it is the
    ledger that ignores them. The delta fields of `DeltaTraffic yes` are not here: they are sent again unchanged while
    nothing grows, so summing them counts twice. `key` is the `k` of the router's configured path, "" if there is
    none. `client_id` is apfree's own number for the client in `counters_v2`.
    """

    stage: Stage
    gw_id: str
    token: str
    mac: str
    ip: str
    incoming: int | None
    outgoing: int | None
    key: str = ""
    device_id: str = ""
    client_id: int | None = None
    dialect: Dialect = Dialect.CLASSIC


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One ping. At least one of `gw_id` (classic) and `device_id` (apfree: one ping for all its gateways) is given.

    Uptimes in seconds, `sys_memfree` in kB, `cpu_usage` in percent; None is "not said, or not a number". A
    `wifidog_uptime` below the last one is the only sign of a restart that a gateway gives. The fields from
    `cpu_usage` on come from apfree alone; its words for "unknown" (`null`, `N/A`) are read as "".
    """

    gw_id: str
    device_id: str
    key: str
    sys_uptime: int | None
    sys_memfree: int | None
    sys_load: float | None
    wifidog_uptime: int | None
    dialect: Dialect = Dialect.CLASSIC
    cpu_usage: float | None = None
    connections: int | None = None
    online_clients: int | None = None
    offline_clients: int | None = None
    ssid: str = ""
    name: str = ""
    model: str = ""
    firmware: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """One entry of a `counters_v2` list. `report` is None when its values cannot be read: such a one is answered
    NEUTRAL."""

    id: int
    report: Report | None


@dataclass(frozen=True, slots=True)
class Fleet:
    """The clients of one gateway in a `counters_v2` call, in the order sent; often none, and the call comes all the
    same."""

    gw_id: str
    device_id: str
    key: str
    clients: tuple[Client, ...]


# --- what we answer -------------------------------------------------------------------------------------------------


def _headers(content_type: str, body: bytes) -> tuple[tuple[str, str], ...]:
    return (
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        ("Cache-Control", "no-store"),
    )


class Answer(Enum):
    """Every answer there is, whole: `status` and `headers` for the door, `body` for the gateway, `code` inside JSON.

    Gateways search the reply for the first `Auth: ` (classic even in the status line and headers, apfree in the first
    4095 bytes of the body; wifidog-ng wants it followed by a digit) and for `Pong`, and read to the end of the
    connection; none looks at the status, none understands chunks. So: a body of nothing else, no header with these
    words, a length, and a close (src/centralserver.c, src/simple_http.c, src/ping_thread.c).

    NEUTRAL is "no opinion": every gateway leaves a guest that is online as he is. It is the only answer to trouble of
    our own, as DENY cannot be taken back: the gateway forgets the client. apfree needs the word `Auth: ` even then,
    since a reply without it counts as a dead server. A logout is always answered DENY: apfree keeps the guest online
    and repeats the logout until it gets it (apfree src/centralserver.c, process_auth_server_logout), and the others
    do not read it. PROBATION and PROBATION_OVER are WiFiDog's "validation" and "validation failed" (src/auth.h).
    """

    ALLOW = (1, "200 OK", b"Auth: 1\n")
    DENY = (0, "200 OK", b"Auth: 0\n")
    PROBATION = (5, "200 OK", b"Auth: 5\n")
    PROBATION_OVER = (6, "200 OK", b"Auth: 6\n")
    NEUTRAL = (-1, "503 Service Unavailable", b"Auth: -1\n")
    PONG = (None, "200 OK", b"Pong")

    code: int | None
    status: str
    body: bytes
    headers: tuple[tuple[str, str], ...]

    def __init__(self, code: int | None, status: str, body: bytes) -> None:
        self.code = code
        self.status = status
        self.body = body
        self.headers = _headers("text/plain", body)


SEARCHED: Final = ("Auth: ", "Pong")
"""What gateways search a whole reply for. Text of other people's that holds it is spelt otherwise before it is sent."""


def answer_v2(answers: Iterable[tuple[Fleet, Sequence[Answer]]]) -> bytes:
    """The JSON reply to `counters_v2`: each fleet with one answer for each of its clients, in the fleet's order.

    ValueError if a client is left without an answer: apfree checks only the clients named in the reply for idleness,
    so one left out would never time out (apfree src/centralserver.c, client_counter_request_reply_v2). Codes are
    always numbers, since json-c reads any other word as 0, which denies.
    """
    result = []
    for fleet, verdicts in answers:
        operations = []
        for client, answer in zip(fleet.clients, verdicts, strict=True):
            if answer.code is None:
                raise ValueError(f"{answer.name} is no answer about a client")
            operations.append({"id": client.id, "auth_code": answer.code})
        result.append({"gw_id": fleet.gw_id, "auth_op": operations})
    body = msgspec.json.encode({"result": result})
    # The gateway's own name is the one thing ever repeated; spelt with an escape it means the same to a JSON reader and
    # holds nothing for a reader that searches for words.
    return body.replace(b"Auth: ", rb"\u0041uth: ").replace(b"Pong", rb"\u0050ong")


def headers_v2(body: bytes) -> tuple[tuple[str, str], ...]:
    """The headers of an `answer_v2` body; its status is "200 OK"."""
    return _headers("application/json", body)


# --- which call it is -----------------------------------------------------------------------------------------------

PREFIXES: Final = ("/", "/wifidog/")
"""Where our own pages answer: a gateway's `Path` is one of these in every printed configuration."""

LOGIN_PATHS: Final = ("login/", "login")
PORTAL_PATHS: Final = ("portal/", "portal")
MESSAGE_PATHS: Final = ("gw_message.php", "gw_message", "gw_message/", "messages/", "messages")
"""The browser's paths below a prefix. The compiled default of classic is gw_message.php, its newer sample file says
messages/, apfree says gw_message (src/conf.h; apfree src/conf.h)."""

_CALLS: Final = {
    "auth": Route.AUTH,
    "ping": Route.PING,
    "login": Route.LOGIN,
    "portal": Route.PORTAL,
    "gw_message": Route.MESSAGE,
    "messages": Route.MESSAGE,
}
_USUAL: Final = {
    f"{prefix}{name}{slash}": route for name, route in _CALLS.items() for prefix in PREFIXES for slash in ("", "/")
}


def route(path: bytes | str, query: bytes = b"") -> Route | None:
    """What a path asks for under any prefix, or None. Without the `query`, `counters_v2` is told as AUTH.

    Deliberately forgiving, since no gateway follows a redirect: with and without the last slash, doubled slashes (a
    `Path` without its slash is mended by hand in many ways), any case, `auth.php`, and the `auth/index.php` of the
    original PHP server's installations. Whoever mounts pages decides at which prefixes the browser's routes are
    served; the gateway's two are meant for all.
    """
    if isinstance(path, bytes):
        path = path.decode("latin-1")
    found = _USUAL.get(path) or _unusual(path)
    if found is Route.AUTH and b"counters_v2" in query and b"stage=counters_v2" in query.split(b"&"):
        return Route.COUNTERS_V2
    return found


def _unusual(path: str) -> Route | None:
    segments = [segment for segment in path.lower().split("/") if segment]
    if segments and segments[-1] == "index.php":
        segments.pop()
    return _CALLS.get(segments[-1].removesuffix(".php")) if segments else None


# --- reading a query ------------------------------------------------------------------------------------------------

PARAMETERS: Final = frozenset(
    # every call, classic
    b"stage ip mac token incoming outgoing incomingdelta outgoingdelta gw_id"
    b" sys_uptime sys_memfree sys_load wifidog_uptime"
    # the browser
    b" gw_address gw_port url message logout"
    # apfree, and its ancestors' channel_path
    b" incoming_bytes outgoing_bytes incoming_packets outgoing_packets incoming_rate outgoing_rate"
    b" incoming_bytes_v6 outgoing_bytes_v6 incoming_packets_v6 outgoing_packets_v6 incoming_rate_v6 outgoing_rate_v6"
    b" first_login online_time gw_channel channel_path name wired device_id"
    b" nf_conntrack_count cpu_usage online_clients offline_clients ssid fm_version type wired_passed aw_version"
    b" is_ipv6 protocol"
    # ours
    b" k".split()
)
"""Every name the protocol gives a meaning to; what else a query holds is ignored, however often it occurs."""

_ABSENT: Final = frozenset((b"", b"N/A", b"null", b"(null)"))
"""How gateways write "I do not know": apfree's N/A and null, and what printf makes of a null pointer."""

_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_CUT_ESCAPE: Final = re.compile(rb"%[0-9A-Fa-f]?\Z")


def _fields(query: bytes) -> dict[bytes, bytes]:
    """The parameters of a query, undecoded. Malformed if one of `PARAMETERS` occurs twice.

    Names are compared as they stand: gateways never escape them, so an escaped name is an unknown one and means
    nothing.

    A gw_id is never escaped by a gateway (src/centralserver.c, src/http.c), so `Salt&Pepper` arrives as a parameter
    and a bare word. A word without `=` is no parameter of this protocol; right behind the gw_id it is taken back into
    it. That holds wherever the gw_id stands (last in a classic auth call, first in a ping, in the middle of a
    redirect), so all calls of a gateway agree on its name. An id that holds `&` and then `=` comes out cut at the
    `&`, in every call alike, and one that spells a whole protocol parameter makes its calls malformed. `#` stays in
    the id here, but a browser cuts the redirect there: such a gateway is never recognised at the splash page and
    wants another name.
    """
    fields: dict[bytes, bytes] = {}
    last = b""
    for piece in query.split(b"&"):
        name, equals, value = piece.partition(b"=")
        if not equals:
            if name and last == b"gw_id":
                fields[last] += b"&" + name
            continue
        if name in fields and name in PARAMETERS:
            raise Malformed(name.decode("ascii"), "at most one value")
        fields[name] = value
        last = name
    return fields


def _text(value: bytes) -> str:
    """A value as text. Escapes are undone, an incomplete one stays as it is, and a plus is a plus.

    libhttpd leaves `+` bare where it escapes and nothing is escaped as a form would (libhttpd/protocol.c,
    _httpd_escape). Bytes that are not UTF-8 are read as Latin-1, which is what browsers make of them in a redirect.
    """
    if b"%" in value:
        value = unquote_to_bytes(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _words(value: bytes | None) -> str:
    """Free text for people to read: at most `LONGEST_ID` characters, "" for every way of saying nothing."""
    if value is None or value in _ABSENT:
        return ""
    return _CONTROL.sub("", _text(value))[:LONGEST_ID]


def _checked_id(field: str, text: str) -> str:
    # isprintable() is only the quick way through: it also refuses letters that a gateway may well be named with.
    if len(text) > LONGEST_ID or (not text.isprintable() and _CONTROL.search(text)):
        raise Malformed(field, f"at most {LONGEST_ID} characters, no control characters")
    return text


def _id(fields: Mapping[bytes, bytes], field: bytes) -> str:
    value = fields.get(field)
    return "" if value is None else _checked_id(field.decode("ascii"), _text(value))


def _key(fields: Mapping[bytes, bytes]) -> str:
    """The key of a router's path. Of a text longer than any key only the beginning, which is no key either: pings are
    kept until they are written, and anybody may send them."""
    return _text(fields.get(b"k", b""))[:LONGEST_ID]


def _count(value: bytes | None) -> int | None:
    # bytes.isdigit() knows ASCII digits alone; the length keeps a number of thousands of digits from being computed.
    if value is None or len(value) > 20 or not value.isdigit():
        return None
    number = int(value)
    return number if number <= LARGEST_COUNTER else None


def _with_v6(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    """A counter of apfree with its IPv6 part, which may be missing; None if either is sent and is no number."""
    total = _count(fields.get(name))
    v6 = fields.get(name + b"_v6")
    if v6 is None or v6 in _ABSENT:
        return total
    return _sum(total, _count(v6))


def _sum(v4: int | None, v6: int | None) -> int | None:
    if v4 is None or v6 is None or v4 + v6 > LARGEST_COUNTER:
        return None
    return v4 + v6


_DECIMAL: Final = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")


def _decimal(value: bytes | None) -> float | None:
    return float(value) if value is not None and _DECIMAL.fullmatch(value) else None


# --- addresses ------------------------------------------------------------------------------------------------------

_NO_MAC: Final = "00:00:00:00:00:00"
_USUAL_MAC: Final = re.compile(b":".join([b"[0-9a-f]{2}"] * 6))
_MAC: Final = re.compile(
    r"[0-9a-f]{1,2}(?::[0-9a-f]{1,2}){5}|[0-9a-f]{1,2}(?:-[0-9a-f]{1,2}){5}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}|[0-9a-f]{12}"
)
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# Four times the same rather than a group repeated: addresses are most of what it takes to read a poll, and half as much
# so.
_IPV4: Final = re.compile(r"\.".join([_OCTET] * 4))
_USUAL_IP: Final = re.compile(_IPV4.pattern.encode())


def normal_mac(text: str) -> str | None:
    """A MAC address in lower case with colons, or None if the text is none.

    Accepts colons, dashes, Cisco's dotted groups of four and bare digits, in either case; with colons or dashes a
    leading zero may be missing, as BSD's arp prints it. All zeros is None: that is how Linux lists a neighbour that
    never answered.
    """
    text = text.lower()
    if not _MAC.fullmatch(text):
        return None
    if ":" in text or "-" in text:
        digits = "".join(octet.zfill(2) for octet in re.split("[:-]", text))
    else:
        digits = text.replace(".", "")
    mac = ":".join(digits[at : at + 2] for at in range(0, 12, 2))
    return mac if mac != _NO_MAC else None


def _mac(value: bytes) -> str:
    """The reported MAC, "" for none. Malformed for any other text, never a guess: a token is bound to it."""
    if _USUAL_MAC.fullmatch(value):
        mac = value.decode("ascii")
        return mac if mac != _NO_MAC else ""
    if value in _ABSENT:
        return ""
    mac_or_none = normal_mac(_text(value))
    if mac_or_none is None:
        raise Malformed("mac", "six pairs of hexadecimal digits")
    return mac_or_none


def _ip(value: bytes) -> str:
    """The reported address in its canonical spelling; "" for none and for what is no address: it decides nothing."""
    if _USUAL_IP.fullmatch(value):
        return value.decode("ascii")
    return _literal(_text(value)) or ""


def _literal(text: str) -> str | None:
    """An IPv4 or IPv6 address in its canonical spelling; None for every other text, names and clever numbers too."""
    if _IPV4.fullmatch(text):
        return text
    # The length keeps long junk from being taken apart; no literal is longer. A zone (%eth0) names an interface of
    # somebody else's machine.
    if ":" not in text or "%" in text or len(text) > 45:
        return None
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        return None


# --- a gateway's calls ----------------------------------------------------------------------------------------------

_STAGES: Final = {stage.value.encode(): stage for stage in Stage}
_TOKEN: Final = re.compile(r"[a-z2-7]{40}")


# A poll as nearly every one is spelt, so that what is sent most is read in one step: every value in its usual form, in
# which nothing is escaped, nothing occurs twice and nothing needs to be checked any further.
_USUAL_POLL: Final = re.compile(
    rf"(?:k=([a-z0-9]{{1,64}})&)?stage=counters&ip=({_IPV4.pattern})&mac=({_USUAL_MAC.pattern.decode()})"
    rf"&token=({_TOKEN.pattern})&incoming=([0-9]{{1,18}})&outgoing=([0-9]{{1,18}})&gw_id=([A-Za-z0-9_.:-]{{1,64}})"
)


def is_token(text: str) -> bool:
    """Has this text the shape of a token of ours? Says nothing of its being genuine."""
    return _TOKEN.fullmatch(text) is not None


def parse_auth(query: bytes) -> Report:
    """The query of a login, counters or logout call, of classic, apfree or wifidog-ng.

    Malformed if the stage, the gw_id or the token parameter is missing, a value that matters cannot be read, a
    parameter occurs twice, or the counters are there in both dialects' names (the same trick as a parameter sent
    twice). An empty or impossible token is no fault of the request: classic sends an empty one after a guest typed
    nonsense (libhttpd/protocol.c, _httpd_storeData), and such a guest is refused for a token we never made.
    """
    usual = _USUAL_POLL.fullmatch(query.decode("latin-1"))
    if usual is not None:
        key, ip, mac, token, incoming, outgoing, gw_id = usual.groups("")
        if mac != _NO_MAC:
            return Report(Stage.COUNTERS, gw_id, token, mac, ip, int(incoming), int(outgoing), key)
    try:
        return _report(_fields(query))
    except Malformed as malformed:
        raise Malformed(malformed.field, malformed.expected, logout=_is_logout(query)) from None


def _report(fields: Mapping[bytes, bytes]) -> Report:
    stage = _STAGES.get(fields.get(b"stage", b""))
    if stage is None:
        raise Malformed("stage", "login, counters or logout")
    gw_id = _id(fields, b"gw_id")
    if not gw_id:
        raise Malformed("gw_id", "the gateway's name")
    token = fields.get(b"token")
    if token is None:
        raise Malformed("token", "a token, even if empty")
    dialect = Dialect.CLASSIC
    if b"incoming_bytes" in fields or b"outgoing_bytes" in fields:
        if b"incoming" in fields or b"outgoing" in fields:
            raise Malformed("incoming", "counters in one dialect's names")
        dialect = Dialect.APFREE
        incoming, outgoing = _with_v6(fields, b"incoming_bytes"), _with_v6(fields, b"outgoing_bytes")
    else:
        incoming, outgoing = _count(fields.get(b"incoming")), _count(fields.get(b"outgoing"))
    return Report(
        stage,
        gw_id,
        _text(token),
        _mac(fields.get(b"mac", b"")),
        _ip(fields.get(b"ip", b"")),
        incoming,
        outgoing,
        _key(fields),
        _id(fields, b"device_id"),
        None,
        dialect,
    )


def _is_logout(query: bytes) -> bool:
    """Is the first stage named a logout? The gateway writes its own before anything a guest can add."""
    for piece in query.split(b"&"):
        if piece.startswith(b"stage="):
            return piece == b"stage=logout"
    return False


def parse_ping(query: bytes) -> Heartbeat:
    """The query of a heartbeat. Malformed if it names neither a gateway nor a device, or one parameter twice.

    A measurement that cannot be read is None and never a reason to refuse: that the gateway is alive is the news.
    """
    fields = _fields(query)
    gw_id, device_id = _id(fields, b"gw_id"), _id(fields, b"device_id")
    if not gw_id and not device_id:
        raise Malformed("gw_id", "the gateway's name, or a device_id")
    get = fields.get
    return Heartbeat(
        gw_id=gw_id,
        device_id=device_id,
        key=_key(fields),
        sys_uptime=_count(get(b"sys_uptime")),
        sys_memfree=_count(get(b"sys_memfree")),
        sys_load=_decimal(get(b"sys_load")),
        wifidog_uptime=_count(get(b"wifidog_uptime")),
        dialect=Dialect.APFREE if device_id else Dialect.CLASSIC,
        cpu_usage=_decimal(get(b"cpu_usage")),
        connections=_count(get(b"nf_conntrack_count")),
        online_clients=_count(get(b"online_clients")),
        offline_clients=_count(get(b"offline_clients")),
        ssid=_words(get(b"ssid")),
        name=_words(get(b"name")),
        model=_words(get(b"type")),
        firmware=_words(get(b"fm_version")),
        version=_words(get(b"aw_version")),
    )


_Counter = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNTER)]


class _ListedClient(msgspec.Struct):
    id: _Counter
    token: str
    mac: str | None = None
    ip: str | None = None
    ip6: str | None = None
    incoming_bytes: _Counter | None = None
    outgoing_bytes: _Counter | None = None
    incoming_bytes_v6: _Counter | None = None
    outgoing_bytes_v6: _Counter | None = None


class _NamedClient(msgspec.Struct):
    id: _Counter


class _ListedGateway(msgspec.Struct):
    gw_id: str
    clients: list[msgspec.Raw] = []


class _Listing(msgspec.Struct):
    device_id: str | None = None
    gateway: list[_ListedGateway] = []


_LISTING: Final = msgspec.json.Decoder(_Listing)
_LISTED_CLIENT: Final = msgspec.json.Decoder(_ListedClient)
_NAMED_CLIENT: Final = msgspec.json.Decoder(_NamedClient)
_STRAY_BYTES: Final = {0xDC00 + byte: byte for byte in range(0x80, 0x100)}
"""From a byte that is not UTF-8, as Python's surrogateescape marks it, to the letter it is in Latin-1 (see `_text`)."""
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)


def parse_counters_v2(query: bytes, body: bytes) -> tuple[Fleet, ...]:
    """apfree's list of all its clients, one Fleet for each of its gateways; every client that has a number is named.

    A client of whom anything cannot be read (a token that is no text, a counter below 0 or above `LARGEST_COUNTER`)
    costs himself a neutral answer and nobody else anything. A client without a number cannot be answered at all and
    is left out. Members that are missing, and members we do not know, are no fault. Malformed if the query is not
    that of a counters_v2 call, the body is not a JSON object of this shape with readable names, or it lists more than
    `MOST_GATEWAYS` or `MOST_CLIENTS`. The size of the body is the caller's to limit. Source: apfree src/firewall.c,
    get_gw_clients_counter.
    """
    fields = _fields(query)
    if fields.get(b"stage") != b"counters_v2":
        raise Malformed("stage", "counters_v2")
    key = _key(fields)
    try:
        body.decode()
    except UnicodeDecodeError:
        # json-c hands on what it was given: a gw_id as the configuration has it, a client's host name as its DHCP
        # request spelt it, in whatever encoding. Such bytes are read as in a query, and spoil nobody else's report.
        body = body.decode(errors="surrogateescape").translate(_STRAY_BYTES).encode()
    try:
        listing = _LISTING.decode(body)
    except _UNREADABLE:
        raise Malformed("body", "a JSON object with device_id, and gateway as a list") from None
    if len(listing.gateway) > MOST_GATEWAYS or sum(len(each.clients) for each in listing.gateway) > MOST_CLIENTS:
        raise Malformed("body", f"at most {MOST_GATEWAYS} gateways and {MOST_CLIENTS} clients")
    device_id = _checked_id("device_id", listing.device_id or "")
    return tuple(_fleet(listed, device_id, key) for listed in listing.gateway)


def _fleet(listed: _ListedGateway, device_id: str, key: str) -> Fleet:
    gw_id = _checked_id("gw_id", listed.gw_id)
    if not gw_id:
        raise Malformed("gw_id", "the gateway's name")
    clients = (_client(raw, gw_id, device_id, key) for raw in listed.clients)
    return Fleet(gw_id, device_id, key, tuple(client for client in clients if client is not None))


def _client(raw: msgspec.Raw, gw_id: str, device_id: str, key: str) -> Client | None:
    try:
        listed = _LISTED_CLIENT.decode(raw)
        mac = _mac((listed.mac or "").encode())
    except (*_UNREADABLE, Malformed):
        try:
            return Client(_NAMED_CLIENT.decode(raw).id, None)
        except _UNREADABLE:
            return None
    report = Report(
        stage=Stage.COUNTERS,
        gw_id=gw_id,
        token=listed.token,
        mac=mac,
        ip=_literal(listed.ip or "") or _literal(listed.ip6 or "") or "",
        incoming=_sum(listed.incoming_bytes, listed.incoming_bytes_v6 or 0),
        outgoing=_sum(listed.outgoing_bytes, listed.outgoing_bytes_v6 or 0),
        key=key,
        device_id=device_id,
        client_id=listed.id,
        dialect=Dialect.APFREE,
    )
    return Client(listed.id, report)


# --- what the browser carries ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a redirected browser brings. Nothing in it is known to be true: the guest can have typed it himself.

    Every field is "" when it was not sent or cannot be read (1.1.5 sends no ip and mac; src/http.c leaves out a mac
    it does not know). `gw_port` is 2060 when not sent and None when what was sent is no port. `gw_address` is as
    sent: only `private_literal` makes an address of it. `url` is where the guest wanted to go: a hint, cut by classic
    at about 978 bytes of redirect, with doubled slashes made single inside; only `onward` makes a link of it.
    """

    gw_id: str
    gw_address: str
    gw_port: int | None
    mac: str
    ip: str
    url: str
    device_id: str
    ssid: str


class MessageKind(StrEnum):
    """What a gateway has to tell its guest. `LOGGED_OUT` was sent by 1.1.5 and 1.2.0 alone."""

    DENIED = "denied"
    ACTIVATE = "activate"
    FAILED_VALIDATION = "failed_validation"
    LOGGED_OUT = "logged-out"


@dataclass(frozen=True, slots=True)
class Message:
    """A guest sent to the message page. `kind` is None for an unknown word or none (wifidog-ng sends none).

    `token` is there from the newest classic alone, `gw_id` and `mac` from wifidog-ng; each is "" if not.
    """

    kind: MessageKind | None
    token: str
    gw_id: str
    mac: str


@dataclass(frozen=True, slots=True)
class Portal:
    """A guest sent on after his login was allowed. `token` comes from the newest classic alone, `mac` from apfree."""

    gw_id: str
    token: str
    mac: str


_KINDS: Final = {kind.value.encode(): kind for kind in MessageKind}
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")


def parse_arrival(query: bytes) -> Arrival:
    """The query of the redirect to the login page. Malformed if a parameter occurs twice or a name cannot be one."""
    fields = _fields(query)
    get = fields.get
    port = get(b"gw_port")
    url = get(b"url", b"")
    return Arrival(
        gw_id=_id(fields, b"gw_id"),
        gw_address=_text(get(b"gw_address", b"")),
        gw_port=DEFAULT_GATEWAY_PORT if port is None else port_number(_text(port)),
        mac=normal_mac(_text(get(b"mac", b""))) or "",
        ip=_ip(get(b"ip", b"")),
        url="" if url in _ABSENT else _text(_CUT_ESCAPE.sub(b"", url)),
        device_id=_id(fields, b"device_id"),
        ssid=_words(get(b"ssid")),
    )


def parse_message(query: bytes) -> Message:
    """The query of the redirect to the message page. Malformed as for `parse_arrival`."""
    fields = _fields(query)
    return Message(
        kind=_KINDS.get(fields.get(b"message", b"")),
        token=_text(fields.get(b"token", b"")),
        gw_id=_id(fields, b"gw_id"),
        mac=normal_mac(_text(fields.get(b"mac", b""))) or "",
    )


def parse_portal(query: bytes) -> Portal:
    """The query of the redirect to the portal page. Malformed as for `parse_arrival`."""
    fields = _fields(query)
    return Portal(
        gw_id=_id(fields, b"gw_id"),
        token=_text(fields.get(b"token", b"")),
        mac=normal_mac(_text(fields.get(b"mac", b""))) or "",
    )


_GUEST_NETWORKS_4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8")
)
_GUEST_NETWORKS_6: Final = tuple(ipaddress.IPv6Network(network) for network in ("fc00::/7", "fe80::/10", "::1/128"))
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def private_literal(address: str) -> str | None:
    """The address, spelt canonically, if it is a literal of a private, carrier-NAT, link-local or loopback range.

    None for everything else: public addresses, names, octal, decimal and short forms, IPv4 inside IPv6, zones,
    brackets, userinfo, a trailing dot, digits of other scripts. Loopback is let in because a gateway under trial runs
    on the browser's own machine, and a token sent there reaches nobody new.
    """
    literal = _literal(address)
    if literal is None:
        return None
    if ":" in literal:
        private = any(ipaddress.IPv6Address(literal) in network for network in _GUEST_NETWORKS_6)
    else:
        private = any(ipaddress.IPv4Address(literal) in network for network in _GUEST_NETWORKS_4)
    return literal if private else None


def port_number(text: str) -> int | None:
    """A TCP port, 1 to 65535, written in plain ASCII digits without leading zeros; else None."""
    return int(text) if _PORT.fullmatch(text) and int(text) <= 65535 else None


def return_url(address: str, port: int, token: str, gw_id: str) -> str:
    """Where the browser takes its token: the gateway's own web server (src/http.c, http_callback_auth).

    `gw_id` is sent because apfree refuses the call without it (apfree src/http.c, ev_http_callback_auth). ValueError
    if the address is neither a literal nor a host name, or the port is none; who chose them is the caller's matter.
    """
    host = _literal(address)
    if host is None and _HOST_NAME.fullmatch(address):
        host = address
    if host is None:
        raise ValueError("address: expected an IP address or a host name")
    if not 1 <= port <= 65535:
        raise ValueError("port: expected a number from 1 to 65535")
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}/wifidog/auth?token={quote(token, safe='')}&gw_id={quote(gw_id, safe='')}"


_PROBE_HOSTS: Final = frozenset(
    (
        # Apple, the newer and the older names
        "captive.apple.com",
        "www.appleiphonecell.com",
        "www.itools.info",
        "www.ibook.info",
        "www.airport.us",
        "www.thinkdifferent.us",
        # Windows 10 and later, 7 and 8
        "www.msftconnecttest.com",
        "ipv6.msftconnecttest.com",
        "www.msftncsi.com",
        "ipv6.msftncsi.com",
        # Firefox
        "detectportal.firefox.com",
        # NetworkManager of GNOME, Debian, Ubuntu, Arch
        "nmcheck.gnome.org",
        "network-test.debian.org",
        "connectivity-check.ubuntu.com",
        "ping.archlinux.org",
    )
)
_PROBE_PAGES: Final = frozenset(
    (
        ("www.apple.com", "/library/test/success.html"),
        ("fedoraproject.org", "/static/hotspot.txt"),
        ("spectrum.s3.amazonaws.com", "/kindle-wifi/wifistub.html"),
    )
)
# Browsers send host names of other scripts as xn-- and escape such letters in a path, so plain ASCII is no loss; what a
# browser would read as another host than a person does (userinfo, a backslash) has no place in it.
_WEB_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?\.?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
    r"(?P<path>/[!-\[\]-~]*)?(?:[?#][!-\[\]-~]*)?",
    re.IGNORECASE | re.ASCII,
)


def probe_url(url: str) -> bool:
    """Is this one of the addresses by which a device finds out whether it is behind a portal?

    Sending a guest there after sign-in shows him an empty page, or closes the window he is reading. Android and the
    many makers' servers are told by their path, `generate_204` or `gen_204`, whatever the host.
    """
    match = _WEB_URL.fullmatch(url)
    if match is None:
        return False
    host = match["host"].lower().rstrip(".")
    path = re.split("[?#]", match["path"] or "/", maxsplit=1)[0].lower()
    return (
        host in _PROBE_HOSTS
        or host.startswith("connectivitycheck.")
        or (host, path) in _PROBE_PAGES
        or path.rstrip("/").endswith(("/generate_204", "/gen_204"))
    )


def onward(url: str) -> str | None:
    """The address the guest wanted, if it may be offered as a link, else None.

    It must be absolute, http or https, in plain ASCII without blanks and backslashes, without userinfo, and no probe.
    At most `LONGEST_ONWARD_URL` characters. It is for a person to click on, with its host in plain sight, never for a
    redirect.
    """
    match = _WEB_URL.fullmatch(url) if len(url) <= LONGEST_ONWARD_URL else None
    if match is None or probe_url(url):
        return None
    if match["host"].startswith("[") and ":" not in (_literal(match["host"][1:-1]) or ""):
        return None
    return url
