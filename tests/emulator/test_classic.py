"""The classic gateway: what it does on each answer, what it counts, whom it throws out, how it survives."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from portal.emulator import Access, Bytes, Guest
from tests.emulator.conftest import CLASSIC, OK, AuthServer, Clock, Make

IP = "10.77.0.2"
MAC = "02:00:00:00:77:02"
RECORDED_REPLIES = (CLASSIC / "reply-parsing.txt").read_text().splitlines()[1:]


def as_bytes(recorded: str) -> bytes:
    """A reply as the recording writes it: escapes for line ends, names for what cannot be shown."""
    if recorded == "(empty, closed at once)":
        return b""
    return recorded.replace("<NUL>", "\0").encode().decode("unicode_escape").encode()


def outcome(page_text: str, hops: tuple[str, ...], guest: Guest) -> str:
    if guest.online:
        return "allowed"
    if "message=denied" in hops[-1]:
        return "denied"
    return "unknown code" if "can not validate" in page_text else "error page" if "valid answer" in page_text else "?"


@pytest.mark.parametrize("line", RECORDED_REPLIES)
def test_a_reply_to_a_login_is_taken_as_the_real_gateway_took_it(make: Make, server: AuthServer, line: str) -> None:
    reply, verdict = re.split(r"\s{4,}", line, maxsplit=1)
    gateway = make(patience=0.2)
    guest = gateway.guest("phone")
    held = "left open" in reply
    if held:
        server.silent = True
    else:
        server.raw["login"] = as_bytes(reply)
    page = guest.present("T")
    wanted = "error page" if held else "unknown code" if "unknown code" in verdict else verdict.split(" (")[0].strip()
    assert outcome(page.text, page.hops, guest) == wanted


@pytest.mark.parametrize(
    ("code", "access", "listed", "shown"),
    [
        (-1, Access.NONE, True, "did not get a valid answer"),
        (0, Access.NONE, True, "message=denied"),
        (1, Access.KNOWN, True, "portal/?gw_id=gw-1&token=T"),
        (5, Access.PROBATION, True, "message=activate"),
        (6, Access.NONE, True, "message=failed_validation"),
        (254, Access.NONE, True, "can not validate your request"),
    ],
)
def test_a_login_answered_with_a_code(
    make: Make, server: AuthServer, code: int, access: Access, listed: bool, shown: str
) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    server.codes["login"] = code
    page = guest.present("T")
    assert gateway.access(guest.station) is access
    assert (guest.token == "T") is listed
    assert shown in page.text + page.url


@pytest.mark.parametrize(
    ("code", "access"),
    [
        (-1, Access.KNOWN),
        (0, Access.NONE),
        (1, Access.KNOWN),
        (5, Access.PROBATION),
        (6, Access.KNOWN),
        (254, Access.KNOWN),
    ],
)
def test_a_second_login_of_a_known_guest_answered_with_a_code(
    make: Make, server: AuthServer, code: int, access: Access
) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    guest.present("FIRST")
    server.codes["login"] = code
    guest.present("SECOND")
    assert gateway.access(guest.station) is access
    assert guest.token == "SECOND"  # kept whatever the answer


@pytest.mark.parametrize(
    ("login", "poll", "access", "listed"),
    [
        (0, -1, Access.NONE, True),
        (0, 0, Access.NONE, False),
        (0, 1, Access.KNOWN, True),
        (0, 5, Access.NONE, True),
        (0, 6, Access.NONE, False),
        (0, 254, Access.NONE, True),
        (5, -1, Access.PROBATION, True),
        (5, 0, Access.NONE, False),
        (5, 1, Access.KNOWN, True),
        (5, 5, Access.PROBATION, True),
        (5, 6, Access.NONE, False),
        (5, 254, Access.PROBATION, True),
        (1, -1, Access.KNOWN, True),
        (1, 0, Access.NONE, False),
        (1, 1, Access.KNOWN, True),
        (1, 5, Access.KNOWN, True),  # never put back into probation
        (1, 6, Access.NONE, False),
        (1, 254, Access.KNOWN, True),
    ],
)
def test_a_poll_answered_with_a_code(
    make: Make, server: AuthServer, login: int, poll: int, access: Access, listed: bool
) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    server.codes.update(login=login, counters=poll)
    guest.present("T")
    gateway.cycle()
    assert gateway.access(guest.station) is access
    assert (gateway.client(guest.mac) is not None) is listed
    assert not server.seen("logout")  # a refusal in a poll is not followed by one


def test_a_refused_login_is_polled_and_let_in_by_a_later_yes(make: Make, server: AuthServer) -> None:
    gateway = make()
    guest = gateway.guest("phone", ip=IP, mac=MAC)
    server.codes["login"] = 0
    guest.present("DENY1")
    assert guest.download(1000) == 0
    gateway.cycle()
    assert server.lines[-1] == (
        f"GET /wifidog/auth/?stage=counters&ip={IP}&mac={MAC}&token=DENY1&incoming=0&outgoing=0&gw_id=gw-1 HTTP/1.0"
    )
    assert guest.online


def test_a_logout_by_an_unknown_guest_makes_a_client_the_server_never_saw(make: Make, server: AuthServer) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    page = guest.present("GHOST", logout="1")
    assert page.body == b""
    assert server.lines == []
    gateway.cycle()
    assert [call["token"] for call in server.seen("counters")] == ["GHOST"]
    assert guest.online


def test_counters_are_totals_of_the_list_entry_with_48_bytes_each_way_per_round(make: Make, server: AuthServer) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    guest.present("T")
    guest.download(104028)
    guest.upload(2170)
    for _ in range(3):
        gateway.cycle()
    assert [(call["incoming"], call["outgoing"]) for call in server.seen("counters")] == [
        ("104028", "2170"),
        ("104076", "2218"),
        ("104124", "2266"),
    ]


def test_a_second_login_takes_the_counters_over_and_freezes_them(make: Make, server: AuthServer) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    guest.present("FIRST")
    guest.download(155103)
    guest.upload(3212)
    gateway.cycle()
    guest.present("SECOND")
    guest.download(100_000)
    gateway.cycle()
    guest.download(60_000)
    gateway.cycle()
    calls = [(call["token"], call["incoming"], call["outgoing"]) for call in server.seen("counters")]
    assert calls == [
        ("FIRST", "155103", "3212"),
        ("SECOND", "155103", "3212"),  # the new rule has counted less than the total
        ("SECOND", "160048", "3212"),  # now more: 100,000 + 48 + 60,000, the old total is lost in it
    ]
    assert server.seen("login")[1]["incoming"] == "0"
    assert guest.account.transferred == Bytes(315103, 3212)
    assert guest.account.reported == Bytes(160048, 3212)


def test_probation_that_becomes_access_keeps_its_counters(make: Make, server: AuthServer) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    server.codes["login"] = 5
    guest.present("T")
    guest.download(500)
    gateway.cycle()
    guest.download(100)
    gateway.cycle()
    assert [call["incoming"] for call in server.seen("counters")] == ["500", "500"]  # kept, and frozen by the new rule
    assert gateway.access(guest.station) is Access.KNOWN


def test_a_poll_that_lets_a_guest_in_again_starts_its_counters_at_0(make: Make, server: AuthServer) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    guest.present("T")
    guest.download(1000)
    gateway.cycle()
    server.codes["login"] = 0
    guest.present("T")
    gateway.cycle()
    guest.download(10)
    gateway.cycle()
    assert [call["incoming"] for call in server.seen("counters")] == ["1000", "1000", "10"]
    assert guest.account.reported.down == 1010


def test_a_new_address_is_a_new_client_and_the_old_one_goes_on(make: Make, server: AuthServer) -> None:
    gateway = make()
    guest = gateway.guest("phone", ip="10.77.0.2")
    guest.present("OLD")
    guest.download(100)
    guest.come_back(ip="10.77.0.9")
    assert not guest.online
    guest.present("NEW")
    guest.download(7)
    gateway.cycle()
    assert [(call["ip"], call["token"], call["incoming"]) for call in server.seen("counters")] == [
        ("10.77.0.9", "NEW", "7"),  # the newest is at the head of the list
        ("10.77.0.2", "OLD", "100"),
    ]
    assert guest.account.reported.down == 107


def test_a_logout_ends_the_client_with_the_values_of_the_last_poll(make: Make, server: AuthServer) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    guest.present("T")
    guest.download(100)
    gateway.cycle()
    guest.download(50)
    server.codes["logout"] = 1  # changes nothing
    assert guest.log_out().body == b""
    assert server.seen("logout")[0]["incoming"] == "100"
    assert not guest.online
    assert gateway.clients == []
    guest.present("T2")
    gateway.cycle()
    assert server.seen("counters")[-1]["incoming"] == "0"
    assert guest.account.transferred.down == 150
    assert guest.account.reported.down == 100


def test_wdctl_reset_logs_a_client_out(make: Make, server: AuthServer) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    assert not gateway.reset(guest.mac)
    guest.present("T")
    assert gateway.reset(guest.mac)
    assert len(server.seen("logout")) == 1


# --- who is thrown out ---


def test_a_guest_who_left_is_logged_out_after_the_idle_time_with_a_last_poll(
    make: Make, server: AuthServer, clock: Clock
) -> None:
    """The recorded sequence: polls go on, then counters and logout in the same second, the last delta sent again."""
    gateway = make(interval=5, client_timeout=4, delta_traffic=True, gw_id="020000007701")
    guest = gateway.guest("phone", ip=IP, mac=MAC)
    guest.present("DENY1")
    guest.leave()
    times = []
    server.before = lambda: times.append(clock.now)
    for _ in range(4):
        clock.tick(5)
        gateway.cycle()
    recorded = [
        f"GET /wifidog/auth/?stage={stage}&ip={IP}&mac={MAC}&token=DENY1&incoming={total}&outgoing=0"
        f"&incomingdelta={delta}&outgoingdelta=0&gw_id=020000007701 HTTP/1.0"
        for stage, total, delta in [
            ("counters", 0, 0),
            ("counters", 48, 48),
            ("counters", 96, 48),
            ("counters", 144, 48),
            ("logout", 144, 48),
        ]
    ]
    assert server.lines[1:] == recorded
    assert times[-1] == times[-2]
    assert gateway.clients == []
    assert [(eviction.late, eviction.idle) for eviction in gateway.evictions] == [(False, 20.0)]


def test_a_silent_device_that_answers_pings_stays(make: Make, server: AuthServer, clock: Clock) -> None:
    gateway = make(interval=60, client_timeout=5)
    guest = gateway.guest("phone")
    guest.present("T")
    for _ in range(20):
        clock.tick(60)
        gateway.cycle()
    assert guest.online
    assert not server.seen("logout")


def test_the_idle_rule_comes_before_the_answer(make: Make, server: AuthServer, clock: Clock) -> None:
    gateway = make(interval=60, client_timeout=5)
    guest = gateway.guest("phone")
    guest.present("T")
    guest.leave()
    server.codes["counters"] = 0
    clock.tick(300)
    gateway.cycle()
    assert len(server.seen("logout")) == 1


def test_a_slow_server_throws_out_active_guests_from_the_tenth_on(make: Make, server: AuthServer, clock: Clock) -> None:
    """Twelve active guests, 30 seconds without a reply each: 10 × 30 s is the limit of 5 × 60 s."""
    gateway = make(interval=60, client_timeout=5)
    guests = [gateway.guest(f"guest-{number}") for number in range(12)]
    for guest in guests:
        guest.present(guest.name)
        guest.upload(10)
    server.raw["counters"] = b""
    server.before = lambda: clock.tick(30)
    gateway.cycle()
    # The list is walked from its newest entry.
    assert [guest.name for guest in guests if not guest.online] == ["guest-0", "guest-1", "guest-2"]
    assert [eviction.late for eviction in gateway.evictions] == [True, True, True]


def test_a_server_that_fails_at_once_throws_out_nobody(make: Make, server: AuthServer, clock: Clock) -> None:
    gateway = make(interval=60, client_timeout=5)
    guest = gateway.guest("phone")
    guest.present("T")
    server.raw["counters"] = b"HTTP/1.1 503 Later\r\n\r\n"
    for _ in range(10):
        clock.tick(60)
        guest.upload(1)
        gateway.cycle()
    assert guest.online
    assert gateway.evictions == []


def test_a_login_during_a_late_round_does_not_save_the_client(make: Make, server: AuthServer, clock: Clock) -> None:
    gateway = make(interval=60, client_timeout=1)
    guest = gateway.guest("phone")
    guest.present("T")
    guest.upload(1)
    server.before = lambda: clock.tick(60)
    gateway.cycle()
    assert not guest.online


# --- servers ---


def test_a_delta_is_sent_again_unchanged_when_nothing_grew(make: Make, server: AuthServer) -> None:
    gateway = make(delta_traffic=True)
    guest = gateway.guest("phone")
    guest.present("T")
    guest.upload(700)
    gateway.cycle()
    guest.leave()
    gateway.cycle()
    gateway.cycle()
    guest.come_back()
    guest.log_out()
    deltas = [call["outgoingdelta"] for call in [*server.seen("counters"), *server.seen("logout")]]
    # 700 sent, then the answer to the first round's ping, then nothing new.
    assert deltas == ["700", "48", "48", "48"]


def test_before_the_first_contact_and_after_two_intervals_without_the_gateway_shows_its_own_page(
    make: Make, server: AuthServer, clock: Clock
) -> None:
    gateway = make(start=False, interval=60, port=2060, connect_patience=1)
    guest = gateway.guest("phone")
    assert "Internet access unavailable" in guest.browse().text
    gateway.ping()
    assert "name=code" in guest.browse().text
    port = server.port
    server.close()
    clock.tick(119)
    gateway.ping()
    with pytest.raises(OSError, match="refused"):
        guest.browse()  # still sent there
    clock.tick(1)
    gateway.ping()
    page = guest.browse()
    assert page.status == 200
    assert "Login screen unavailable" in page.text
    assert str(port) not in page.text


def test_a_wrong_answer_neither_counts_as_an_outage_nor_moves_to_the_next_server(
    make: Make, server: AuthServer, other: AuthServer, clock: Clock
) -> None:
    gateway = make(server=[server.url, other.url], interval=60)
    server.raw.update(ping=OK + b"no", login=OK + b"no")
    for _ in range(5):
        clock.tick(60)
        assert not gateway.ping()
    gateway.guest("phone").present("T")
    assert gateway.is_auth_online
    assert other.requests == []


def test_a_refused_connection_moves_to_the_next_server_for_good(
    make: Make, server: AuthServer, other: AuthServer
) -> None:
    gateway = make(server=[f"http://localhost:{server.port}/wifidog/", f"{other.url}/other/"])
    first = server.port
    server.close()
    gateway.ping()
    gateway.ping()
    heads = [request.split(b"\r\n") for request in other.requests]
    # The first call after the move was written for the server that was first before it.
    assert [(head[0].split(b"ping")[0], head[2]) for head in heads] == [
        (b"GET /wifidog/", b"Host: localhost"),
        (b"GET /other/", b"Host: 127.0.0.1"),
    ]
    assert gateway.server.port == other.port != first


def test_no_server_at_all_leaves_guests_as_they_are(make: Make, server: AuthServer) -> None:
    gateway = make(connect_patience=1)
    guest = gateway.guest("phone")
    guest.present("T")
    server.close()
    gateway.cycle()
    assert guest.online
    assert gateway.calls[-1].sent is False


def test_a_key_is_in_every_call_and_in_no_redirect(make: Make, server: AuthServer) -> None:
    gateway = make(key="SECRET")
    guest = gateway.guest("phone")
    pages = [guest.browse(), guest.present("T")]
    gateway.cycle()
    guest.log_out()
    calls = [request for request in server.requests if request.startswith((b"GET /wifidog/auth", b"GET /wifidog/ping"))]
    assert len(calls) == 4
    assert all(b"/?k=SECRET&" in call for call in calls)
    assert not any("SECRET" in hop for page in pages for hop in page.hops)


def test_a_ruleset_for_outages_lets_everyone_pass_uncounted_until_the_next_good_ping(
    make: Make, server: AuthServer
) -> None:
    gateway = make(auth_down_opens=True)
    guest = gateway.guest("phone")
    assert guest.download(10) == 0
    server.raw["ping"] = OK + b"Bad"
    gateway.ping()
    assert guest.download(10) == 10
    del server.raw["ping"]
    gateway.ping()
    assert guest.download(10) == 0


# --- restarts ---


def test_a_restart_loses_the_list_says_nothing_and_falls_in_uptime(
    make: Make, server: AuthServer, clock: Clock
) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    guest.present("T")
    guest.download(1000)
    gateway.cycle()
    clock.tick(500)
    before = len(server.lines)
    gateway.restart()
    assert len(server.lines) == before
    assert server.requests[-1].split(b" ")[1].endswith(b"wifidog_uptime=0")  # pings at once, as at every start
    assert gateway.clients == []
    assert not guest.online
    guest.present("T")
    guest.download(5)
    gateway.cycle()
    assert server.seen("counters")[-1]["incoming"] == "5"
    assert guest.account.reported.down == 1005


def test_wdctl_restart_hands_totals_and_access_over(make: Make, server: AuthServer, clock: Clock) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    guest.present("T")
    guest.download(1000)
    gateway.cycle()
    clock.tick(500)
    gateway.wdctl_restart()
    assert gateway.uptime == 0
    assert guest.download(10) == 10
    gateway.cycle()
    call = server.seen("counters")[-1]
    # The 48 bytes of the last ping came after the last look, and the rule that counted them is gone.
    assert (call["token"], call["incoming"], call["outgoing"]) == ("T", "1010", "0")
    assert guest.account.reported.down == 1010


def test_an_ended_process_does_nothing_more(make: Make, server: AuthServer) -> None:
    gateway = make()
    guests = [gateway.guest("a"), gateway.guest("b")]
    for guest in guests:
        guest.present(guest.name)
    server.before = gateway.restart
    gateway.cycle()
    # The second client of the old list was not polled, and the answer to the first changed nothing.
    assert len(server.seen("counters")) == 1
    assert gateway.clients == []


# --- the book ---


def test_the_book_tells_reported_from_answered(make: Make, server: AuthServer) -> None:
    gateway = make(connect_patience=1)
    guest = gateway.guest("phone")
    guest.present("T")
    guest.download(100)
    server.raw["counters"] = b"HTTP/1.1 503 Later\r\n\r\nAuth: -1\n"
    gateway.cycle()
    assert (guest.account.reported.down, guest.account.answered.down) == (100, 0)
    del server.raw["counters"]
    guest.download(1)
    gateway.cycle()
    assert (guest.account.reported.down, guest.account.answered.down) == (149, 149)
    assert [call.growth.down for call in gateway.calls if call.stage == "counters"] == [100, 49]


def test_what_could_not_be_sent_is_reported_later_and_what_never_could_is_not(make: Make, server: AuthServer) -> None:
    gateway = make(connect_patience=1)
    guest = gateway.guest("phone")
    guest.present("T")
    guest.download(100)
    server.close()
    gateway.cycle()
    assert guest.account.reported == Bytes()
    gateway.restart()
    assert guest.account.transferred == Bytes(100, 0)
    assert guest.account.reported == Bytes()


def test_a_shut_firewall_moves_nothing(make: Make) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    assert (guest.download(500), guest.upload(5)) == (0, 0)
    assert guest.account.transferred == Bytes()
    assert guest.account.refused == Bytes(500, 5)


def test_the_book_equals_what_the_server_can_add_up(make: Make, server: AuthServer) -> None:
    """Over logins, refusals, logouts, restarts and new addresses: growth per run of the list entry, as it was sent."""
    gateway = make()
    guest = gateway.guest("phone")
    for step in range(40):
        server.codes["login"] = (1, 5, 0)[step % 3]
        server.codes["counters"] = (1, 1, -1, 0, 6)[step % 5]
        if step % 4 == 0:
            guest.present(f"T{step}")
        if step % 13 == 12:
            gateway.restart()
        if step % 17 == 16:
            gateway.wdctl_restart()
        guest.download(step * 100)
        gateway.cycle()
        if step % 11 == 10 and guest.token:
            guest.log_out()
    added = sum(call.growth.down for call in gateway.calls)
    assert added == guest.account.reported.down > 0
    account = guest.account
    assert account.reported.total <= account.transferred.total + account.pings.total
    assert account.answered.total <= account.reported.total


# --- TLS ---


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "certificate.pem"
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize("trusted", [True, False])
def test_a_build_with_tls_talks_to_a_server_it_can_check(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    file = certificate(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    listening = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def serve() -> None:
        connection, _ = listening.accept()
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
            seen.append(secure.recv(4096))
            secure.sendall(OK + b"Pong")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    gateway = make(start=False, server=f"https://127.0.0.1:{port}/")
    assert gateway.ping() is trusted
    thread.join(5)
    listening.close()
    assert [request.startswith(b"GET /ping/?gw_id=gw-1&") for request in seen] == [True] * trusted
    assert gateway.is_auth_online  # it could connect, which is all that counts
    assert gateway.server.browser_url("login/?") == f"https://127.0.0.1:{port}/login/?"
