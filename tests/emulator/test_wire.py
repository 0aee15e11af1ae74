"""The emulator's bytes against the recorded ones."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from portal.emulator import AuthServer, Dialect, Machine, auth_server, wire
from tests.emulator.conftest import APFREE, CLASSIC

MAC = "02:00:00:00:77:02"
IP = "10.77.0.2"
HEX_DIGITS = "0123456789abcdef0123456789abcdef"
SERVER = AuthServer("10.88.0.2", 8080)


@pytest.mark.parametrize(
    ("recording", "stage", "token", "counters", "deltas", "gw_id"),
    [
        ("auth-login", "login", HEX_DIGITS, (0, 0), None, "gw-test-1"),
        ("auth-counters", "counters", HEX_DIGITS, (52928, 1130), None, "gw-test-1"),
        ("auth-logout", "logout", HEX_DIGITS, (52976, 1178), None, "gw-test-1"),
        ("auth-login-delta", "login", "LATER", (0, 0), (0, 0), "020000007701"),
        ("auth-counters-delta", "counters", "DENY1", (48, 0), (48, 0), "020000007701"),
        ("auth-logout-delta", "logout", "DENY1", (96, 0), (48, 0), "020000007701"),
    ],
)
def test_a_classic_call_is_the_recorded_one(
    recording: str, stage: str, token: str, counters: tuple[int, int], deltas: tuple[int, int] | None, gw_id: str
) -> None:
    target = wire.classic_auth_target(
        SERVER,
        stage,
        ip=IP,
        mac=MAC,
        token=token,
        incoming=counters[0],
        outgoing=counters[1],
        deltas=deltas,
        gw_id=gw_id,
    )
    assert wire.classic_request(target, SERVER.host) == (CLASSIC / f"{recording}.req").read_bytes()


@pytest.mark.parametrize(
    ("recording", "server", "gw_id", "machine", "uptime"),
    [
        ("ping", SERVER, "gw-test-1", Machine(2800, 23675348, 0.23), 0),
        ("failover-first-ping", SERVER, "gw", Machine(1127, 22741568, 2.69), 5),
        ("failover-second-ping", AuthServer("10.88.0.3", path="/other/"), "gw", Machine(1132, 22796428, 2.48), 9),
    ],
)
def test_a_classic_ping_is_the_recorded_one(
    recording: str, server: AuthServer, gw_id: str, machine: Machine, uptime: int
) -> None:
    target = wire.classic_ping_target(server, gw_id, machine, uptime)
    assert wire.classic_request(target, server.host) == (CLASSIC / f"{recording}.req").read_bytes()


def apfree_client(**changes: Any) -> wire.ApfreeClient:
    values: dict[str, Any] = {
        "id": 1,
        "ip": IP,
        "ip6": "N/A",
        "mac": MAC,
        "token": "TOKA",
        "counts": wire.ApfreeCounts(),
        "first_login": 1795250200,
        "online_time": 0,
        "is_online": False,
        "wired": None,
    }
    return wire.ApfreeClient(**{**values, **changes})


@pytest.mark.parametrize(
    ("recording", "stage", "client"),
    [
        ("auth-login", "login", apfree_client()),
        (
            "auth-logout",
            "logout",
            apfree_client(counts=wire.ApfreeCounts(714, 31407, 12, 12, 178, 0), online_time=8, wired=False),
        ),
    ],
)
def test_an_apfree_call_is_the_recorded_one(recording: str, stage: str, client: wire.ApfreeClient) -> None:
    target = wire.apfree_auth_target(SERVER, stage, client, gw_id="gw-ap-1", channel="chan1", device_id="dev-0001")
    assert wire.apfree_get(target, SERVER.host) == (APFREE / f"{recording}.req").read_bytes()


def test_an_apfree_ping_is_the_recorded_one() -> None:
    target = wire.apfree_ping_target(SERVER, "dev-0001", Machine(2823, 23710332, 0.15), 18.0, 1, 0, 0)
    assert wire.apfree_get(target, SERVER.host) == (APFREE / "ping.req").read_bytes()


@pytest.mark.parametrize(
    ("recording", "clients"),
    [
        ("counters_v2-no-clients", []),
        (
            "counters_v2-one-client",
            [apfree_client(counts=wire.ApfreeCounts(714, 31407, 12, 12, 178, 0), is_online=True, wired=False)],
        ),
    ],
)
def test_an_apfree_round_of_counters_is_the_recorded_one(recording: str, clients: list[wire.ApfreeClient]) -> None:
    body = wire.apfree_counters_body(clients, gw_id="gw-ap-1", channel="chan1", device_id="dev-0001")
    request = wire.apfree_post(wire.apfree_counters_target(SERVER), SERVER.host, body)
    assert request == (APFREE / f"{recording}.req").read_bytes()


def test_a_request_longer_than_the_buffer_is_cut() -> None:
    assert len(wire.classic_request("/" + "x" * 5000, "h")) == 4094


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"Auth: 1", 1),
        (b"Auth: -1\n", -1),
        (b"Auth: +6", 6),
        (b"Auth: \n 5", 5),
        (b"Auth: 0x1", 0),
        (b"Auth: 254", 254),
        (b"Auth: 4294967296", 0),  # cut to 32 bits
        (b"Auth: 2147483648", -(2**31)),
        (b"Auth: one, Auth: 1", -1),
        (b"X-Auth: 0\r\n\r\nAuth: 1", 0),
        (b"", -1),
        (None, -1),
    ],
)
def test_the_first_mark_decides(reply: bytes | None, code: int) -> None:
    assert wire.auth_code(reply) == code


@pytest.mark.parametrize(
    ("reply", "good"),
    [
        (b"HTTP/1.0 500 Oh\r\n\r\nPong", True),
        (b"X: PingPong\r\n\r\n", True),
        (b"200 OK\r\n\r\npong", False),
        (None, False),
    ],
)
def test_a_ping_wants_its_word_anywhere(reply: bytes | None, good: bool) -> None:
    assert wire.says_pong(reply) is good


def read(pieces: list[bytes], *, close: bool) -> bytes | None:
    near, far = socket.socketpair()
    with near, far:
        for piece in pieces:
            far.sendall(piece)
        if close:
            far.shutdown(socket.SHUT_WR)
        return wire.read_reply(near, 0.1)


def test_a_reply_ends_when_the_connection_does() -> None:
    assert read([b"Au", b"th: 1"], close=True) == b"Auth: 1"


def test_a_reply_on_a_connection_left_open_is_thrown_away() -> None:
    assert read([b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nAuth: 1\n"], close=False) is None


def test_a_reset_throws_the_reply_away() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, socket.create_connection(listening.getsockname()) as near:
        far, _ = listening.accept()
        near.sendall(b"unread")
        far.sendall(b"Auth: 1")
        far.close()  # over unread data, which resets
        assert wire.read_reply(near, 1.0) is None


@pytest.mark.parametrize(
    ("query", "token"),
    [
        (b"token=a%2Bb%2Fc%3D%3D", "a+b/c=="),
        (b"token=a+b/c==", ""),
        (b"token=abc.def-ghi_jkl~", "abc.def-ghi_jkl~"),
        (b"token=x%26y%3D1%20z", "x&y=1 z"),
        (b"token=one&token=two", "one"),
        (b"token=", ""),
        (b"token=50%", "50%"),
        (b"a&token=b", "b"),
        (b"token", None),
    ],
)
def test_a_query_is_taken_apart_as_libhttpd_does(query: bytes, token: str | None) -> None:
    assert wire.variables(query).get("token") == token


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a+b/c==", "a+b%2Fc%3D%3D"),
        ("abc.def-ghi_jkl~", "abc.def-ghi_jkl%7E"),
        ("x&y=1 z", "x%26y%3D1%20z"),
        ("!\"$'()*,@", "!\"$'()*,@"),
        ("é", "%C3%A9"),
        (wire.to_text(b"\xff"), "%FF"),
    ],
)
def test_values_are_escaped_as_libhttpd_does(text: str, escaped: str) -> None:
    assert wire.escape(text) == escaped


@pytest.mark.parametrize(
    ("line", "path", "query"),
    [
        (b"GET //a///b HTTP/1.1", b"/a/b", b""),
        (b"GET /a/./b?u=http://x//y HTTP/1.1", b"/a/b", b"u=http:/x/y"),
        (b"GET /a/../b HTTP/1.1", b"/b", b""),
        (b"GET /../b HTTP/1.1", b"/b", b""),
        (b"GET /a\xe9b HTTP/1.1", b"/a", b""),
        (b"GET  /a b HTTP/1.1", b"/a", b""),
    ],
)
def test_a_target_is_tidied_as_libhttpd_does(line: bytes, path: bytes, query: bytes) -> None:
    assert wire.first_line(line + b"\r\nhost: h\r\n\r\n")[1:3] == (path, query)


def test_a_target_is_cut_at_1023_bytes() -> None:
    _, path, query, _ = wire.first_line(b"GET /?" + b"q" * 2000 + b" HTTP/1.1\r\n\r\n")
    assert len(path + b"?" + query) == 1023


@pytest.mark.parametrize(
    ("body", "verdicts"),
    [
        (b'{"result":[{"gw_id":"g","auth_op":[{"id":1,"auth_code":1},{"id":2,"auth_code":0}]}]}', [(1, 1), (2, 0)]),
        (b'{"result":[{"auth_op":[{"id":1,"auth_code":0}]}]}', []),  # the gateway id must be there
        (b'{"result":[{"gw_id":"other","auth_op":[{"id":1,"auth_code":0}]}]}', [(1, 0)]),  # and is not compared
        (b'{"result":[{"gw_id":"g","auth_op":[{"id":1,"auth_code":"later"}]}]}', [(1, 0)]),  # no number means deny
        (b'{"result":[{"gw_id":"g","auth_op":[{"id":1},{"auth_code":0},7]}]}', []),
        (b'{"result":7}', []),
        (b'{"results":[]}', None),
        (b"Auth: 0", None),
        (b"", None),
        (None, None),
    ],
)
def test_verdicts_are_read_as_apfree_reads_them(body: bytes | None, verdicts: list[tuple[int, int]] | None) -> None:
    assert wire.apfree_verdicts(body) == verdicts


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"Auth: 0", 0),
        (b"x" * 4090 + b"Auth: 1", None),  # beyond the first 4095 bytes
        (b"Auth: soon", -1),
        (b"", None),
        (None, None),
    ],
)
def test_apfree_reads_its_code_from_the_beginning_of_the_body(body: bytes | None, code: int | None) -> None:
    assert wire.apfree_auth_code(body) == code


def test_a_server_given_by_url_gets_wifidogs_defaults() -> None:
    server = auth_server("http://portal.example:8080")
    assert server == AuthServer("portal.example", 8080, "/wifidog/")
    assert auth_server("http://portal.example/").path == "/"
    assert auth_server("http://portal.example/", path="/x/").path == "/x/"
    assert auth_server("http://portal.example/", dialect=Dialect.APFREE).message_fragment == "gw_message?"


def test_a_key_goes_into_the_two_paths_that_guests_never_see() -> None:
    server = auth_server("http://portal.example/", key="s3cr3t")
    assert (server.auth_fragment, server.ping_fragment) == ("auth/?k=s3cr3t&", "ping/?k=s3cr3t&")
    assert "s3cr3t" not in server.login_fragment + server.portal_fragment + server.message_fragment
    assert auth_server("http://portal.example/", auth_fragment="a?x=1&").auth_fragment == "a?x=1&"


def test_browsers_go_to_the_tls_port_and_the_gateway_only_if_its_build_can() -> None:
    plain = auth_server("http://portal.example:8080/", ssl_port=8443)
    assert plain.browser_url("login/?") == "https://portal.example:8443/login/?"
    assert (plain.port, plain.tls) == (8080, False)
    assert auth_server("https://portal.example/").browser_url("x") == "https://portal.example:443/x"
    assert auth_server("https://portal.example/").tls


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://x/", {}, "expected http"),
        ("portal.example", {}, "expected http"),
        ("http://x:99999/", {}, "expected a port"),
        ("http://x/?a=b", {}, "expected no query"),
        ("http://x/", {"path": "wifidog"}, "expected to begin and end with a slash"),
        ("http://x/", {"key": "a&b"}, "expected letters"),
        ("http://x/", {"ping_fragment": "ping/"}, "expected to end in"),
    ],
)
def test_a_server_that_cannot_be_is_refused_with_what_was_expected(
    url: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        auth_server(url, **options)


def test_a_long_login_redirect_is_the_recorded_one() -> None:
    _, path, query, host = wire.first_line(b"GET /?q=a" + b"%20a" * 300 + b" HTTP/1.1\r\nHost: 1.2.3.4\r\n\r\n")
    url = wire.to_text(b"http://" + host + path + b"?" + query)
    fragment = wire.login_fragment(SERVER, address="10.77.0.1", port=2060, gw_id="gw-test-1", ip=IP, mac=MAC, url=url)
    date = "Sat, 21 Nov 2026 08:04:40 GMT"
    answer = wire.page("302 Redirect to login page", "", date, location=SERVER.browser_url(fragment))
    assert answer == (CLASSIC / "gw-302-login-long-url.head").read_bytes()
