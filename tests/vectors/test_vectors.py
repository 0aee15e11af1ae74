"""Everything recorded from real gateways, put through our own reading and writing of the wire.

Each file of the folders beside this one is claimed by exactly one reader below, chosen by its name; the last test fails
when a file is claimed by none. Reading functions named `as_…_reads` stand for the gateways: written from the recorded
replies and the gateways' sources, they take nothing from the product.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from portal import wifidog
from portal.wifidog import Answer, Dialect, Heartbeat, MessageKind, Report, Route, Stage

HERE = Path(__file__).parent
CLASSIC = HERE / "wifidog-1.3.0"
APFREE = HERE / "apfree-9.07.2907"
FILES = sorted(path for folder in (CLASSIC, APFREE) for path in folder.iterdir())

MAC = "02:00:00:00:77:02"
IP = "10.77.0.2"
HEX_DIGITS = "0123456789abcdef0123456789abcdef"


# --- the recordings -------------------------------------------------------------------------------------------------


def request(path: Path) -> tuple[str, bytes, bytes, dict[bytes, bytes], bytes]:
    """A recorded request: method, path, query, headers in lower case, body."""
    head, _, body = path.read_bytes().partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    method, target, _ = line.split(b" ")
    where, _, query = target.partition(b"?")
    named = dict(header.lower().split(b": ", 1) for header in headers)
    return method.decode(), where, query, named, body


def redirects(path: Path) -> list[bytes]:
    """The addresses a recorded gateway reply sends the browser to: Location, or apfree's script and link."""
    data = path.read_bytes()
    found = re.findall(rb"(?m)^Location: (.*?)\r?$", data) + re.findall(rb"href ?= ?'([^']*)'", data)
    assert found, f"{path.name} holds no redirect"
    return found


def split(url: bytes) -> tuple[bytes, bytes]:
    """Path and query as a server sees them when a browser follows the redirect."""
    parts = urlsplit(url)
    return parts.path, parts.query


# --- how gateways read ----------------------------------------------------------------------------------------------


def as_classic_reads(reply: bytes) -> int | None:
    """The code that wifidog 1.3.0 takes from a whole reply, None where it finds none (src/centralserver.c).

    A string function of C sees nothing behind a NUL; the first `Auth: ` anywhere counts, and the number behind it is
    read as scanf reads %d: blanks, a sign, digits, whatever follows.
    """
    seen = reply.split(b"\0", 1)[0]
    at = seen.find(b"Auth: ")
    number = re.match(rb"[ \t\n\v\f\r]*([+-]?[0-9]+)", seen[at + len(b"Auth: ") :]) if at >= 0 else None
    return int(number[1]) if number else None


def as_apfree_reads(reply: bytes) -> int | None:
    """The same for apfree, which looks at the first 4095 bytes of the body alone."""
    return as_classic_reads(reply.partition(b"\r\n\r\n")[2][:4095])


def as_wifidog_ng_reads(reply: bytes) -> str | None:
    """wifidog-ng matches one digit behind `Auth: ` in the body, and lets nobody in without the digit 1."""
    found = re.search(rb"Auth: ([0-9])", reply.partition(b"\r\n\r\n")[2])
    return found[1].decode() if found else None


def wire(status: str, headers: tuple[tuple[str, str], ...], body: bytes) -> bytes:
    """An answer as the front door writes it."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def whole(answer: Answer) -> bytes:
    return wire(answer.status, answer.headers, answer.body)


OUTCOMES = {0: "denied", 1: "allowed", 5: "activate", 6: "failed_validation"}


def outcome(code: int | None) -> str:
    """What the classic gateway does at a login with this code, in the words of reply-parsing.txt."""
    if code is None or code == -1:
        return "error page"
    return OUTCOMES.get(code, f'"We can not validate your request" (unknown code {code})')


# --- the readers, one for each kind of file -------------------------------------------------------------------------


def classic_report(stage: Stage, token: str, incoming: int, outgoing: int, gw_id: str) -> Report:
    return Report(stage, gw_id, token, MAC, IP, incoming, outgoing)


def apfree_report(stage: Stage, incoming: int, outgoing: int, client_id: int | None = None) -> Report:
    return Report(stage, "gw-ap-1", "TOKA", MAC, IP, incoming, outgoing, "", "dev-0001", client_id, Dialect.APFREE)


REPORTS = {
    CLASSIC / "auth-login.req": classic_report(Stage.LOGIN, HEX_DIGITS, 0, 0, "gw-test-1"),
    CLASSIC / "auth-counters.req": classic_report(Stage.COUNTERS, HEX_DIGITS, 52928, 1130, "gw-test-1"),
    CLASSIC / "auth-logout.req": classic_report(Stage.LOGOUT, HEX_DIGITS, 52976, 1178, "gw-test-1"),
    # With DeltaTraffic the totals stay totals, and the deltas leave no trace in what we read.
    CLASSIC / "auth-login-delta.req": classic_report(Stage.LOGIN, "LATER", 0, 0, "020000007701"),
    CLASSIC / "auth-counters-delta.req": classic_report(Stage.COUNTERS, "DENY1", 48, 0, "020000007701"),
    CLASSIC / "auth-logout-delta.req": classic_report(Stage.LOGOUT, "DENY1", 96, 0, "020000007701"),
    APFREE / "auth-login.req": apfree_report(Stage.LOGIN, 0, 0),
    APFREE / "auth-logout.req": apfree_report(Stage.LOGOUT, 714, 31407),
}


def check_report(path: Path) -> None:
    method, where, query, headers, body = request(path)
    assert (method, body) == ("GET", b"")
    assert wifidog.route(where, query) is Route.AUTH
    assert wifidog.parse_auth(query) == REPORTS[path]
    assert headers[b"host"] == b"10.88.0.2", "gateways leave the port out, so no address may be built from Host"


HEARTBEATS = {
    CLASSIC / "ping.req": Heartbeat("gw-test-1", "", "", 2800, 23675348, 0.23, 0),
    CLASSIC / "failover-first-ping.req": Heartbeat("gw", "", "", 1127, 22741568, 2.69, 5),
    CLASSIC / "failover-second-ping.req": Heartbeat("gw", "", "", 1132, 22796428, 2.48, 9),
    APFREE / "ping.req": Heartbeat(
        gw_id="",
        device_id="dev-0001",
        key="",
        sys_uptime=2823,
        sys_memfree=23710332,
        sys_load=0.15,
        wifidog_uptime=1,
        dialect=Dialect.APFREE,
        cpu_usage=18.0,
        connections=0,
        online_clients=0,
        offline_clients=0,
        version="9.07.2907",
    ),
}


def check_heartbeat(path: Path) -> None:
    _, where, query, _, _ = request(path)
    assert wifidog.route(where) is Route.PING
    assert wifidog.parse_ping(query) == HEARTBEATS[path]


FLEETS = {
    APFREE / "counters_v2-no-clients.req": (),
    APFREE / "counters_v2-one-client.req": (wifidog.Client(1, apfree_report(Stage.COUNTERS, 714, 31407, 1)),),
}


def check_fleet(path: Path) -> None:
    method, where, query, _, body = request(path)
    assert method == "POST"
    assert wifidog.route(where, query) is Route.COUNTERS_V2
    assert wifidog.parse_counters_v2(query, body) == (wifidog.Fleet("gw-ap-1", "dev-0001", "", FLEETS[path]),)


def check_browser_login(path: Path) -> None:
    _, where, query, _, _ = request(path)
    assert wifidog.route(where) is Route.LOGIN
    assert wifidog.parse_arrival(query) == wifidog.Arrival(
        "gw-test-1", "10.77.0.1", 2060, MAC, IP, "http://1.2.3.4/", "", ""
    )


def check_browser_portal(path: Path) -> None:
    _, where, query, _, _ = request(path)
    assert wifidog.route(where) is Route.PORTAL
    assert wifidog.parse_portal(query) == wifidog.Portal("gw-test-1", "tok-020000007702", "")


def check_auth_reply(path: Path) -> None:
    """The reply that the gateway took and our own ALLOW mean the same to all three readers."""
    for reply in (path.read_bytes(), whole(Answer.ALLOW)):
        assert as_classic_reads(reply) == as_apfree_reads(reply) == 1
        assert as_wifidog_ng_reads(reply) == "1"
    assert path.read_bytes().partition(b"\r\n\r\n")[2] == Answer.ALLOW.body


def check_ping_reply(path: Path) -> None:
    for reply in (path.read_bytes(), whole(Answer.PONG)):
        assert b"Pong" in reply
        assert as_classic_reads(reply) is None


def check_fleet_reply(path: Path) -> None:
    """Our reply to the recorded call is the recorded reply: the same JSON, the same meaning."""
    recorded = json.loads(path.read_bytes().partition(b"\r\n\r\n")[2])
    _, _, query, _, body = request(APFREE / "counters_v2-one-client.req")
    (fleet,) = wifidog.parse_counters_v2(query, body)
    assert json.loads(wifidog.answer_v2([(fleet, [Answer.ALLOW])])) == recorded
    _, _, query, _, body = request(APFREE / "counters_v2-no-clients.req")
    (fleet,) = wifidog.parse_counters_v2(query, body)
    assert json.loads(wifidog.answer_v2([(fleet, [])])) == {"result": [{"gw_id": "gw-ap-1", "auth_op": []}]}


ARRIVALS = {
    CLASSIC / "gw-302-login.head": wifidog.Arrival(
        "gw-test-1", "10.77.0.1", 2060, MAC, IP, "http://www.example.org/some/page?a=b&c=d+e%20f", "", ""
    ),
    CLASSIC / "gw-302-login-long-url.head": wifidog.Arrival(
        # The gateway cut the redirect behind the percent sign of an escape.
        "gw-test-1",
        "10.77.0.1",
        2060,
        MAC,
        IP,
        "http://1.2.3.4/?q=" + 135 * "a%20" + "a",
        "",
        "",
    ),
    APFREE / "gw-200-login-js.resp": wifidog.Arrival(
        "gw-ap-1", "10.77.0.1", 2060, MAC, IP, "https://1.2.3.4/some/page?a=b", "dev-0001", ""
    ),
}


def check_arrival(path: Path) -> None:
    for url in redirects(path):
        where, query = split(url)
        assert wifidog.route(where) is Route.LOGIN
        arrival = wifidog.parse_arrival(query)
        assert arrival == ARRIVALS[path]
        assert wifidog.private_literal(arrival.gw_address) == "10.77.0.1"
        assert wifidog.onward(arrival.url) == arrival.url


MESSAGES = {
    CLASSIC / "gw-302-message-denied.head": (MessageKind.DENIED, "T0"),
    CLASSIC / "gw-302-message-activate.head": (MessageKind.ACTIVATE, "T5"),
    CLASSIC / "gw-302-message-failed_validation.head": (MessageKind.FAILED_VALIDATION, "T6"),
    APFREE / "gw-200-message-denied-js.resp": (MessageKind.DENIED, ""),
}


def check_message(path: Path) -> None:
    for url in redirects(path):
        where, query = split(url)
        assert wifidog.route(where) is Route.MESSAGE
        assert wifidog.parse_message(query) == wifidog.Message(*MESSAGES[path], gw_id="", mac="")


PORTALS = {
    CLASSIC / "gw-302-portal.head": wifidog.Portal("gw-test-1", HEX_DIGITS, ""),
    APFREE / "gw-200-portal-js.resp": wifidog.Portal("gw-ap-1", "", MAC),
}


def check_portal(path: Path) -> None:
    for url in redirects(path):
        where, query = split(url)
        assert wifidog.route(where) is Route.PORTAL
        assert wifidog.parse_portal(query) == PORTALS[path]


def check_own_page(path: Path) -> None:
    """A page the gateway makes itself: nothing for us in it, and above all no redirect and no answer."""
    data = path.read_bytes()
    assert data.startswith(b"HTTP/1.0 200 Output Follows\n")
    assert b"Location" not in data
    assert as_classic_reads(data) is None


def check_logout_notes(path: Path) -> None:
    """A browser that signs out at the gateway gets nothing, so the welcome page must not wait for it to come back."""
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        target, _, effect = line.removeprefix("GET ").partition("->")
        assert "the gateway sends 0 bytes and closes" in effect
        # Our own return address is the first of the two without the logout.
        assert target.startswith(("/wifidog/auth?token=", "/wifidog/disconnect?token="))
    assert wifidog.return_url("10.77.0.1", 2060, "T", "G").startswith("http://10.77.0.1:2060/wifidog/auth?token=")


def check_status_page(path: Path) -> None:
    """wdctl's Downloaded is the report's incoming, Uploaded its outgoing: the classic direction."""
    text = path.read_text()
    (shown,) = re.findall(r"IP: (\S+) MAC: (\S+)\n *Token: (\S+)\n *Downloaded: (\d+)\n *Uploaded: (\d+)", text)
    logout = REPORTS[CLASSIC / "auth-logout.req"]
    assert shown == (logout.ip, logout.mac, logout.token, str(logout.incoming), str(logout.outgoing))


def check_reply_parsing(path: Path) -> None:
    rows = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for row in rows:
        written, made = re.split(r" {3,}", row, maxsplit=1)
        if written.endswith(", left open"):
            # Complete to the letter, and lost: what our headers promise about closing is as much a part of the
            # answer as its number.
            assert "throws the reply away" in made
            assert as_classic_reads(unescaped(written)) == 1
            continue
        assert made.startswith(outcome(as_classic_reads(unescaped(written)))), row
    assert len(rows) == 17


def unescaped(written: str) -> bytes:
    """A reply as reply-parsing.txt writes it, in bytes."""
    if written == "(empty, closed at once)":
        return b""
    written = written.removesuffix(", left open").replace("\\r", "\r").replace("\\n", "\n").replace("<NUL>", "\0")
    return written.encode()


def check_classic_sequences(path: Path) -> None:
    text = path.read_text()
    lines = re.findall(r"(?m)^GET (/\S*)\?(\S*)( HTTP/1.0)(.*)$", text)
    assert len(lines) == 12
    seen: list[tuple[str, str, int, int]] = []
    for where, query, _, _ in lines:
        assert wifidog.route(where, query.encode()) is Route.AUTH
        # Some lines are shortened by their recorder; the dots stand for what all lines have in common.
        query = query.replace("&...&token", f"&ip={IP}&mac={MAC}&token").replace("&...", "&gw_id=020000007701")
        report = wifidog.parse_auth(query.encode())
        assert (report.mac, report.ip) == (MAC, IP)
        assert report.gw_id in ("gw-test-1", "020000007701")
        assert report.incoming is not None
        assert report.outgoing is not None
        seen.append((report.stage, report.token, report.incoming, report.outgoing))
    # Re-login: the new token inherits the totals of the list entry, and they freeze; the login itself says 0.
    assert seen[:5] == [
        ("counters", "tok-020000007702", 155103, 3212),
        ("login", "SECOND", 0, 0),
        ("counters", "SECOND", 155103, 3212),
        ("counters", "SECOND", 155103, 3212),
        ("logout", "SECOND", 155103, 3212),
    ]
    assert seen[5:7] == [("login", "DENY1", 0, 0), ("counters", "DENY1", 0, 0)]
    assert seen[7:9] == [("counters", "GHOST", 0, 0)] * 2
    # The logout repeats the totals of the last poll; its delta, sent a second time, is not read.
    assert seen[9:] == [("counters", "DENY1", 48, 0), ("counters", "DENY1", 96, 0), ("logout", "DENY1", 96, 0)]
    check_token_spellings(text)


def check_token_spellings(text: str) -> None:
    """How a token in the browser's address reaches us, for tokens that are not ours; ours pass unchanged."""
    spelt = dict(re.findall(r"(?m)^/wifidog/auth\?token=(\S+) +-> token=(\S*)", text))
    assert len(spelt) == 4
    for arrived, read in (
        (spelt["a%2Bb%2Fc%3D%3D"], "a+b/c=="),
        (spelt["a+b/c=="], ""),
        (spelt["abc.def-ghi_jkl~"], "abc.def-ghi_jkl~"),
        (spelt["x%26y%3D1%20z"], "x&y=1 z"),
    ):
        report = wifidog.parse_auth(f"stage=login&ip={IP}&mac={MAC}&token={arrived}&gw_id=g".encode())
        assert report.token == read
        assert not wifidog.is_token(report.token)


def check_apfree_sequences(path: Path) -> None:
    text = path.read_text()
    logouts = re.findall(r"(?m)^\d\d:\d\d:\d\d GET (/\S*)\?(\S*)(?: HTTP/1.1)?$", text)
    assert len(logouts) == 3
    for where, query in logouts:
        assert wifidog.route(where, query.encode()) is Route.AUTH
        if query == "stage=logout&...":
            # As it stands this line is a logout that lacks everything, which is still known to be a logout.
            with pytest.raises(wifidog.Malformed) as malformed:
                wifidog.parse_auth(query.encode())
            assert malformed.value.logout
            continue
        report = wifidog.parse_auth(query.replace("&...", "&gw_id=gw-ap-1&device_id=dev-0001").encode())
        assert report == apfree_report(Stage.LOGOUT, 1053, 31851)
    # Only this answer ends the repetition.
    assert as_apfree_reads(whole(Answer.DENY)) == 0
    (listing,) = re.findall(r"(?m)^\{.*\}$", text)
    (fleet,) = wifidog.parse_counters_v2(b"stage=counters_v2", listing.replace(" ... ", " ").encode())
    (client,) = fleet.clients
    # After a restart the old token comes back, ip6 is "" instead of N/A; the counters were cut out by the recorder.
    assert client.id == 1
    assert client.report == Report(
        Stage.COUNTERS, "gw-ap-1", "HDR", MAC, IP, None, None, "", "dev-0001", 1, Dialect.APFREE
    )
    assert "gw_id" in wifidog.return_url(IP, 2060, "NEW", "gw-ap-1"), "without it apfree says: Invalid gateway id"


READERS: dict[Path, Callable[[Path], None]] = {
    **dict.fromkeys(REPORTS, check_report),
    **dict.fromkeys(HEARTBEATS, check_heartbeat),
    **dict.fromkeys(FLEETS, check_fleet),
    **dict.fromkeys(ARRIVALS, check_arrival),
    **dict.fromkeys(MESSAGES, check_message),
    **dict.fromkeys(PORTALS, check_portal),
    CLASSIC / "browser-login-page.req": check_browser_login,
    CLASSIC / "browser-portal.req": check_browser_portal,
    CLASSIC / "auth.resp": check_auth_reply,
    CLASSIC / "ping.resp": check_ping_reply,
    APFREE / "counters_v2.resp": check_fleet_reply,
    CLASSIC / "gw-200-about.head": check_own_page,
    CLASSIC / "gw-200-auth-server-down.head": check_own_page,
    CLASSIC / "gw-200-error-page.head": check_own_page,
    CLASSIC / "gw-disconnect-badtoken.resp": check_own_page,
    CLASSIC / "gw-disconnect-noargs.resp": check_own_page,
    CLASSIC / "gw-logout-and-disconnect.txt": check_logout_notes,
    CLASSIC / "gw-status-text.txt": check_status_page,
    CLASSIC / "reply-parsing.txt": check_reply_parsing,
    CLASSIC / "sequences.txt": check_classic_sequences,
    APFREE / "sequences.txt": check_apfree_sequences,
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_recording_means_to_us_what_it_meant_to_the_gateway(path: Path) -> None:
    READERS[path](path)


def test_every_recording_is_used_and_none_is_missing() -> None:
    assert set(READERS) == set(FILES)
    strays = [path.name for path in HERE.rglob("*") if path.suffix in (".req", ".resp", ".head", ".txt")]
    assert len(strays) == len(FILES), "a recording lies outside the two folders"


# --- our constants, read as the gateways read -----------------------------------------------------------------------

INTENDED = [
    (Answer.ALLOW, 1, "allowed"),
    (Answer.DENY, 0, "denied"),
    (Answer.PROBATION, 5, "activate"),
    (Answer.PROBATION_OVER, 6, "failed_validation"),
    (Answer.NEUTRAL, -1, "error page"),
]


@pytest.mark.parametrize(("answer", "code", "effect"), INTENDED, ids=lambda value: getattr(value, "name", ""))
def test_all_gateways_read_our_answers_as_they_are_meant(answer: Answer, code: int, effect: str) -> None:
    reply = whole(answer)
    assert as_classic_reads(reply) == as_apfree_reads(reply) == code
    assert outcome(code) == effect
    # wifidog-ng finds no digit in the neutral answer and lets nobody in.
    assert as_wifidog_ng_reads(reply) == (str(code) if code >= 0 else None)
    assert len(reply) < 4095, "the one buffer of 1.1.5 and 1.2.0 holds the whole reply"
    assert b"Pong" not in reply


def test_every_answer_is_one_of_the_five_or_the_pong() -> None:
    assert {answer for answer, _, _ in INTENDED} | {Answer.PONG} == set(Answer)
    assert b"Auth: " not in whole(Answer.PONG)


@pytest.mark.parametrize("answer", Answer)
def test_an_answer_says_its_length_and_that_the_connection_ends(answer: Answer) -> None:
    headers = dict(answer.headers)
    assert headers["Content-Length"] == str(len(answer.body))
    assert headers["Connection"] == "close"
    assert headers["Content-Type"] == "text/plain"
    assert "Transfer-Encoding" not in headers
    assert not any(b"Auth: " in f"{name}: {value}".encode() for name, value in answer.headers)
