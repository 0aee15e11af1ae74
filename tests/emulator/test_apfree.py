"""The apfree gateway where it differs from the classic one."""

from __future__ import annotations

from typing import Any

import pytest

from portal.emulator import Access, Bytes, Dialect, Gateway
from tests.emulator.conftest import APFREE, OK, AuthServer, Clock, Make, without_date

MAC = "02:00:00:00:77:02"
IP = "10.77.0.2"


@pytest.fixture
def start(make: Make) -> Make:
    def build(**options: Any) -> Gateway:
        return make(dialect=Dialect.APFREE, **options)

    return build


def test_the_first_round_of_counters_goes_out_at_once_and_names_no_one(start: Make, server: AuthServer) -> None:
    start(device_id="dev-0001")
    assert server.fleets() == [[]]
    assert b"device_id=dev-0001" in server.requests[0]
    assert b"gw_id" not in server.requests[0]


def test_a_download_is_reported_as_outgoing(start: Make, server: AuthServer) -> None:
    gateway = start()
    guest = gateway.guest("phone")
    guest.present("T", gw_id="gw-1")
    guest.download(30_000)
    guest.upload(1_000)
    gateway.cycle()
    named = server.fleets()[-1][0]
    assert (named["incoming_bytes"], named["outgoing_bytes"], named["is_online"]) == (1_000, 30_000, True)
    assert guest.account.reported == Bytes(30_000, 1_000)
    assert guest.account.answered == guest.account.reported


def test_a_gateway_whose_backend_is_right_reports_a_download_as_incoming(start: Make, server: AuthServer) -> None:
    gateway = start(swapped=False)
    guest = gateway.guest("phone")
    guest.present("T", gw_id="gw-1")
    guest.download(30_000)
    gateway.cycle()
    assert server.fleets()[-1][0]["incoming_bytes"] == 30_000
    assert guest.account.reported == Bytes(30_000, 0)


@pytest.mark.parametrize(
    ("code", "access", "listed", "shown"),
    [
        (-1, Access.NONE, False, "Unable to validate"),
        (0, Access.NONE, False, "message=denied"),
        (1, Access.KNOWN, True, "portal/?gw_id=gw-1&gw_channel=chan1"),
        (5, Access.PROBATION, True, "message=activate"),
        (6, Access.NONE, False, "message=failed_validation"),
        (254, Access.NONE, False, "Unable to validate"),
    ],
)
def test_a_login_answered_with_a_code(
    start: Make, server: AuthServer, code: int, access: Access, listed: bool, shown: str
) -> None:
    gateway = start()
    guest = gateway.guest("phone")
    server.codes["login"] = code
    page = guest.present("T", gw_id="gw-1")
    assert gateway.access(guest.station) is access
    assert (gateway.client(guest.mac) is not None) is listed
    assert shown in page.text + page.url


@pytest.mark.parametrize("given", [{}, {"gw_id": "another"}])
def test_the_way_back_needs_the_gateways_id(start: Make, server: AuthServer, given: dict[str, str]) -> None:
    gateway = start()
    guest = gateway.guest("phone")
    assert "Invalid gateway id" in guest.present("T", **given).text
    assert server.seen("login") == []


def test_a_login_answered_after_two_seconds_drops_the_client(start: Make, server: AuthServer) -> None:
    gateway = start()
    assert gateway.settings.patience == 2.0
    impatient = start(patience=0.1)
    guest = impatient.guest("phone")
    server.silent = True
    assert "Unable to validate" in guest.present("T", gw_id="gw-1").text
    assert impatient.clients == []


@pytest.mark.parametrize("code", [1, 5, -1, 254])
def test_a_poll_opens_nothing_and_keeps_what_is_open(start: Make, server: AuthServer, code: int) -> None:
    gateway = start()
    guest = gateway.guest("phone")
    server.codes["login"] = 5
    guest.present("T", gw_id="gw-1")
    server.client_codes = {1: code}
    gateway.cycle()
    assert gateway.access(guest.station) is Access.PROBATION


@pytest.mark.parametrize("code", [0, 6])
def test_a_poll_ends_a_client_without_a_logout(start: Make, server: AuthServer, code: int) -> None:
    gateway = start()
    guest = gateway.guest("phone")
    guest.present("T", gw_id="gw-1")
    server.client_codes = {1: code}
    gateway.cycle()
    assert not guest.online
    assert gateway.clients == []
    assert server.seen("logout") == []


def test_a_client_that_the_answer_leaves_out_never_times_out(start: Make, server: AuthServer, clock: Clock) -> None:
    gateway = start(interval=60, client_timeout=5)
    guest = gateway.guest("phone")
    guest.present("T", gw_id="gw-1")
    server.client_codes = {}
    for _ in range(10):
        clock.tick(60)
        gateway.cycle()
    assert guest.online
    server.client_codes = None
    gateway.cycle()  # named again: silent all the time, since this program sends no pings
    assert not guest.online


def test_a_logout_not_answered_0_is_sent_again_each_round(start: Make, server: AuthServer, clock: Clock) -> None:
    gateway = start(interval=60, client_timeout=5)
    guest = gateway.guest("phone")
    guest.present("T", gw_id="gw-1")
    guest.leave()
    server.codes["logout"] = 1
    clock.tick(300)
    for _ in range(3):
        gateway.cycle()
        clock.tick(60)
    assert len(server.seen("logout")) == 3
    assert guest.online
    server.codes["logout"] = 0
    gateway.cycle()
    assert not guest.online


def test_a_known_guests_new_token_is_not_the_one_asked_for(start: Make, server: AuthServer) -> None:
    gateway = start()
    guest = gateway.guest("phone")
    guest.present("OLD", gw_id="gw-1")
    guest.present("NEW", gw_id="gw-1")
    assert [call["token"] for call in server.seen("login")] == ["OLD", "OLD"]


def test_a_known_guest_with_a_new_address_is_asked_for_with_the_new_token(start: Make, server: AuthServer) -> None:
    gateway = start()
    guest = gateway.guest("phone", ip=IP)
    guest.present("OLD", gw_id="gw-1")
    guest.come_back(ip="10.77.0.9")
    guest.present("NEW", gw_id="gw-1")
    assert [(call["token"], call["ip"]) for call in server.seen("login")] == [("OLD", IP), ("NEW", "10.77.0.9")]
    assert len(gateway.clients) == 1


def test_anyone_may_speak_for_another_device(start: Make) -> None:
    gateway = start()
    victim, stranger = gateway.guest("victim"), gateway.guest("stranger")
    stranger.present("T", gw_id="gw-1", client_ip=victim.ip, client_mac=victim.mac)
    assert victim.online
    assert not stranger.online


def test_clients_survive_a_restart_with_counters_from_0(start: Make, server: AuthServer) -> None:
    gateway = start()
    guest = gateway.guest("phone")
    guest.present("T", gw_id="gw-1")
    guest.download(500)
    gateway.cycle()
    gateway.restart()
    named = server.fleets()[-1][0]
    assert (named["token"], named["outgoing_bytes"], named["ip6"], named["is_online"]) == ("T", 0, "", False)
    assert guest.download(7) == 7
    gateway.cycle()
    assert guest.account.reported.down == 507


def test_wdctl_restart_is_for_the_classic_program(start: Make) -> None:
    with pytest.raises(ValueError, match="classic"):
        start().wdctl_restart()


def test_a_reply_without_its_word_counts_against_the_server(start: Make, server: AuthServer, clock: Clock) -> None:
    gateway = start(interval=60)
    server.raw["ping"] = OK + b"no"
    clock.tick(119)
    gateway.ping()
    assert gateway.is_auth_online
    clock.tick(1)
    gateway.ping()
    assert not gateway.is_auth_online
    assert "cannot be reached" in gateway.guest("phone").browse().text


def test_a_neutral_answer_keeps_the_server_in_good_standing(start: Make, server: AuthServer, clock: Clock) -> None:
    gateway = start(interval=60)
    clock.tick(500)
    server.raw["login"] = b"HTTP/1.1 503 Later\r\nContent-Length: 9\r\n\r\nAuth: -1\n"
    gateway.guest("phone").present("T", gw_id="gw-1")
    assert gateway.is_auth_online


@pytest.mark.parametrize(("recording", "code"), [("gw-200-portal-js.resp", 1), ("gw-200-message-denied-js.resp", 0)])
def test_what_the_browser_gets_is_the_recorded_script(
    start: Make, server: AuthServer, recording: str, code: int
) -> None:
    gateway = start(gw_id="gw-ap-1")
    guest = gateway.guest("phone", ip=IP, mac=MAC)
    server.codes["login"] = code
    head = f"GET /wifidog/auth?token=T&gw_id=gw-ap-1 HTTP/1.1\r\nHost: {gateway.own_url('')[7:]}\r\n\r\n"
    answer = gateway.answer(guest.station, head.encode())
    recorded = (APFREE / recording).read_bytes().replace(b"10.88.0.2:8080", f"127.0.0.1:{server.port}".encode())
    assert body_and_first_line(answer) == body_and_first_line(recorded)


def test_the_login_page_is_reached_through_the_recorded_script(start: Make, server: AuthServer) -> None:
    gateway = start(start=False, gw_id="gw-ap-1", device_id="dev-0001", address="10.77.0.1", port=2060)
    gateway.ping()
    guest = gateway.guest("phone", ip=IP, mac=MAC)
    answer = gateway.answer(guest.station, b"GET /some/page?a=b HTTP/1.1\r\nHost: 1.2.3.4\r\n\r\n")
    # As recorded, but for the scheme, which that program took from a variable that had gone out of scope.
    recorded = (APFREE / "gw-200-login-js.resp").read_bytes().replace(b"https", b"http")
    recorded = recorded.replace(b"10.88.0.2:8080", f"127.0.0.1:{server.port}".encode())
    assert body_and_first_line(answer) == body_and_first_line(recorded)


def test_a_round_without_any_answer_counts_against_the_server(start: Make, server: AuthServer, clock: Clock) -> None:
    gateway = start(interval=60)
    gateway.guest("phone").present("T", gw_id="gw-1")
    clock.tick(120)
    server.raw["counters_v2"] = b""
    gateway.cycle()
    assert not gateway.is_auth_online
    assert [call.code for call in gateway.calls if call.stage == "counters"] == [-1]


def test_the_gateways_other_pages(start: Make, server: AuthServer) -> None:
    gateway = start()
    guest, other = gateway.guest("phone"), gateway.guest("other")
    guest.present("T", gw_id="gw-1")

    def shown(path: str) -> str:
        return other.browse(gateway.own_url(path)).text

    assert "9.07.2907" in shown("/wifidog/about")
    assert "Token: T" in shown("/wifidog/status")
    assert "Invalid token" in shown("/wifidog/auth")
    assert "Both the token and MAC" in shown("/wifidog/disconnect")
    assert "Invalid token for MAC" in shown(f"/wifidog/disconnect?token=X&mac={guest.mac}")
    assert "from unknown client" in shown("/wifidog/auth?token=X&gw_id=gw-1&logout=1")
    assert server.seen("logout") == []
    assert shown(f"/wifidog/disconnect?token=T&mac={guest.mac}") == ""
    assert len(server.seen("logout")) == 1
    assert not guest.online
    assert "Failed to retrieve your MAC" in gateway.guest("ghost", mac=None).present("T", gw_id="gw-1").text


def body_and_first_line(answer: bytes) -> tuple[bytes, bytes]:
    head, _, body = without_date(answer).partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], body
