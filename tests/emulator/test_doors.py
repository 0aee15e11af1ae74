"""What browsers see: the captured pages, who is who on loopback, and the links for real browsers."""

from __future__ import annotations

import re
import socket
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from portal.emulator import Bytes, Gateway
from tests.emulator.conftest import CLASSIC, AuthServer, Make, without_date

IP = "10.77.0.2"
MAC = "02:00:00:00:77:02"


def head_of(answer: bytes) -> bytes:
    return without_date(answer.partition(b"\n\n")[0] + b"\n\n")


def recorded_head(name: str, server: AuthServer) -> bytes:
    data = (CLASSIC / f"{name}.head").read_bytes()
    return without_date(data.replace(b"10.88.0.2:8080", f"127.0.0.1:{server.port}".encode()))


@pytest.fixture
def bench(make: Make) -> Gateway:
    """The gateway of the recordings, with the recorded guest."""
    gateway = make(start=False, gw_id="gw-test-1", address="10.77.0.1", port=2060)
    gateway.ping()
    gateway.guest("phone", ip=IP, mac=MAC)
    return gateway


def ask(gateway: Gateway, target: str, host: str = "10.77.0.1:2060") -> bytes:
    return gateway.answer(gateway.guest("phone").station, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


def test_a_caught_page_leads_to_the_login_page_as_recorded(bench: Gateway, server: AuthServer) -> None:
    answer = ask(bench, "/some/page?a=b&c=d+e%20f", "www.example.org")
    assert head_of(answer) == recorded_head("gw-302-login", server)


def test_a_long_address_is_cut(bench: Gateway) -> None:
    line = re.search(rb"Location: [^\n]*", ask(bench, "/?q=a" + "%20a" * 200, "1.2.3.4"))
    assert line is not None
    assert len(line[0]) == 978


def test_a_guest_whom_arp_does_not_know_is_sent_on_without_a_mac(make: Make) -> None:
    gateway = make()
    guest = gateway.guest("ghost", mac=None)
    url = guest.browse().url
    assert "mac=" not in url
    assert "&ip=" in url
    assert "Failed to retrieve your MAC address" in guest.present("T").text


@pytest.mark.parametrize(
    ("code", "recording", "token"),
    [
        (1, "gw-302-portal", "0123456789abcdef0123456789abcdef"),
        (0, "gw-302-message-denied", "T0"),
        (5, "gw-302-message-activate", "T5"),
        (6, "gw-302-message-failed_validation", "T6"),
        (-1, "gw-200-error-page", "T"),
    ],
)
def test_the_way_back_is_the_recorded_one(
    bench: Gateway, server: AuthServer, code: int, recording: str, token: str
) -> None:
    server.codes["login"] = code
    assert head_of(ask(bench, f"/wifidog/auth?token={token}")) == recorded_head(recording, server)


def test_other_pages_have_the_recorded_heads(make: Make, server: AuthServer, bench: Gateway) -> None:
    assert head_of(ask(bench, "/wifidog/about")) == recorded_head("gw-200-about", server)
    never_online = make(start=False)
    assert head_of(never_online.answer(never_online.guest().station, b"GET / HTTP/1.1\r\n\r\n")) == recorded_head(
        "gw-200-auth-server-down", server
    )


def test_a_token_comes_back_raw_in_the_redirect_and_escaped_at_the_server(bench: Gateway, server: AuthServer) -> None:
    answer = ask(bench, "/wifidog/auth?token=x%26y%3D1%20z")
    assert b"token=x&y=1 z\n" in answer
    assert "&token=x%26y%3D1%20z&" in server.lines[-1]


def test_disconnect_answers_as_recorded(bench: Gateway, server: AuthServer) -> None:
    def texts(name: str) -> tuple[bytes, bytes]:
        head, _, body = without_date((CLASSIC / name).read_bytes()).partition(b"\n\n")
        return head + b"\n\n", body

    ask(bench, "/wifidog/auth?token=T")
    without, wrong = ask(bench, "/wifidog/disconnect"), ask(bench, f"/wifidog/disconnect?token=X&mac={MAC}")
    assert (head_of(without), without.partition(b"\n\n")[2]) == texts("gw-disconnect-noargs.resp")
    assert (head_of(wrong), wrong.partition(b"\n\n")[2]) == texts("gw-disconnect-badtoken.resp")
    assert server.seen("logout") == []
    assert ask(bench, f"/wifidog/disconnect?token=T&mac={MAC}") == b""
    assert ask(bench, "/wifidog/auth?token=T") != b""
    assert ask(bench, "/wifidog/auth?token=anything&logout=1") == b""
    assert len(server.seen("logout")) == 2


def test_auth_without_a_token_says_so(bench: Gateway, server: AuthServer) -> None:
    assert b"Invalid token" in ask(bench, "/wifidog/auth")
    assert server.lines == []


def test_methods_other_than_get_and_post_get_bare_text(bench: Gateway) -> None:
    answer = bench.answer(bench.guest("phone").station, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP/1" not in answer
    assert answer.endswith(b"HEAD")


def test_the_status_page_holds_the_programs_text_and_the_book(bench: Gateway) -> None:
    ask(bench, "/wifidog/auth?token=0123456789abcdef0123456789abcdef")
    phone = bench.guest("phone")
    phone.download(52976)
    phone.upload(1178)
    bench.cycle()
    phone.download(1024)
    shown = ask(bench, "/wifidog/status").decode()
    text = shown.partition("<pre>")[2].partition("</pre>")[0]
    recorded = (CLASSIC / "gw-status-text.txt").read_text().replace("10.88.0.2", "127.0.0.1")
    assert re.sub("Uptime: .*", "", text) == re.sub("Uptime: .*", "", recorded)
    assert "54,000 / 1,178" in shown  # transferred
    assert "52,976 / 1,178" in shown  # reported


# --- real sockets ---


def fetch(source: str, gateway: Gateway, method: str = "GET", path: str = "/", body: bytes | None = None) -> str:
    """Where a browser at a loopback address is sent."""
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=5, source_address=(source, 0))
    connection.request(method, path, body, {"Host": "www.example.org"})
    location = connection.getresponse().headers.get("Location", "")
    connection.close()
    return location


def test_browsers_are_told_apart_by_the_address_they_come_from(make: Make) -> None:
    gateway = make()
    first, second = gateway.guest(), gateway.guest("second")
    assert f"mac={second.mac}" in fetch(second.station.source, gateway)
    assert f"mac={first.mac}" in fetch("127.0.0.1", gateway)
    assert f"mac={first.mac}" in fetch("127.9.9.9", gateway)  # nobody's: the first guest's


def test_a_form_sent_to_a_caught_address_gets_its_redirect_whole(make: Make) -> None:
    gateway = make()
    assert "/login/?" in fetch("127.0.0.1", gateway, "POST", "/", b"x" * 100_000)


def test_a_browser_that_says_nothing_gets_nothing(make: Make) -> None:
    gateway = make()
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert gateway.alarms == []


def through(link: str, url: str) -> tuple[int, str, bytes]:
    """A page asked for through a link: status, Location, body."""
    proxy = urlsplit(link)
    connection = HTTPConnection(proxy.hostname or "", proxy.port, timeout=5)
    connection.request("GET", url)
    response = connection.getresponse()
    found = response.status, response.headers.get("Location", ""), response.read()
    connection.close()
    return found


def test_a_browser_on_a_link_is_that_guest_everywhere(make: Make) -> None:
    gateway = make()
    phone, laptop = gateway.guest("phone"), gateway.guest("laptop")
    status, location, _ = through(phone.link, "http://www.example.org/page")
    assert status == 302
    assert f"mac={phone.mac}" in location
    assert location.endswith("url=http%3A%2F%2Fwww.example.org%2Fpage")
    assert b"name=code" in through(phone.link, location)[2]  # the server can be reached before sign-in
    assert through(phone.link, gateway.own_url("/wifidog/auth?token=T"))[0] == 302
    assert phone.online
    assert not laptop.online
    before = phone.account.transferred
    assert b"You are on the Internet" in through(phone.link, "http://www.example.org/page")[2]
    assert phone.account.transferred.down > before.down
    assert through(phone.link, "http://connectivitycheck.gstatic.com/generate_204")[0] == 204
    assert through(laptop.link, "http://www.example.org/page")[0] == 302
    assert gateway.alarms == []


def test_a_link_tunnels_to_the_server_and_nowhere_else(make: Make, server: AuthServer) -> None:
    gateway = make()
    link = urlsplit(gateway.guest("phone").link)

    def tunnel(host: str, port: int) -> bytes:
        with socket.create_connection((link.hostname or "", link.port or 0), timeout=5) as connection:
            connection.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = connection.recv(1000)
            if b" 200 " not in answer:
                return answer
            connection.sendall(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
            while piece := connection.recv(1000):
                answer += piece
            return answer

    assert b"name=code" in tunnel("127.0.0.1", server.port)
    assert b" 502 " in tunnel("www.example.org", 443)


def test_what_is_no_proxy_request_is_told_so(make: Make) -> None:
    gateway = make()
    link = urlsplit(gateway.guest("phone").link)
    with socket.create_connection((link.hostname or "", link.port or 0), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


# --- the guests' browser ---


def test_a_guest_signs_in_by_the_form_it_is_shown(make: Make, server: AuthServer) -> None:
    gateway = make()
    guest = gateway.guest("phone", language="ar")
    server.raw["page"] = (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
        b"<form method=get action='/lang'><select name=lang><option value=en><option value=ar selected></select></form>"
        b"<form method=post action=''><input type=hidden name=nonce value='a&amp;b'><input name=code>"
        b"<input type=checkbox name=terms checked><input type=checkbox name=news><button name=go value=1>In</button>"
        b"<button name=out value=1>Out</button><textarea name=note>hi</textarea></form>"
    )
    guest.sign_in(code="AB CD")
    posted = next(request for request in server.requests if request.startswith(b"POST"))
    assert posted.partition(b"\r\n\r\n")[2] == b"nonce=a%26b&code=AB+CD&terms=on&go=1&note=hi"
    assert b"Accept-Language: ar\r\n" in posted
    assert posted.split(b" ")[1].startswith(b"/wifidog/login/?gw_address=")


def test_a_form_that_is_not_there_is_named(make: Make) -> None:
    guest = make().guest("phone")
    with pytest.raises(LookupError, match="a form with username"):
        guest.sign_in(username="x")


def test_a_guest_out_of_range_reaches_nothing(make: Make) -> None:
    guest = make().guest("phone")
    guest.leave()
    with pytest.raises(ConnectionError, match="out of range"):
        guest.browse()
    assert guest.download(1) == 0


def test_a_browser_gives_up_on_endless_redirects(make: Make, server: AuthServer) -> None:
    server.raw["page"] = b"HTTP/1.1 302 Found\r\nLocation: /wifidog/login/?again\r\nConnection: close\r\n\r\n"
    with pytest.raises(RecursionError, match="more than 10 redirects"):
        make().guest("phone").browse()


def test_a_server_that_speaks_no_http_is_named(make: Make, server: AuthServer) -> None:
    server.raw["page"] = b"what?"
    with pytest.raises(ConnectionError, match="is not HTTP"):
        make().guest("phone").browse()


def test_https_is_never_caught(make: Make) -> None:
    page = make().guest("phone").browse("https://www.example.org/")
    assert (page.status, page.body) == (0, b"")


def test_a_browse_while_online_reaches_the_internet_and_is_counted(make: Make) -> None:
    guest = make().guest("phone")
    guest.present("T")
    assert guest.account.transferred == Bytes()  # neither the gateway nor the server is beyond the firewall
    assert "You are on the Internet" in guest.browse().text
    assert guest.account.transferred.down > 0
