"""Gateways at the desk: how one gets in, what its router is told, what is wrong with it."""

from __future__ import annotations

from datetime import timedelta

import gevent
import pytest

from portal import gateways, operators, wifidog
from portal.config import Settings
from portal.gateways import Gateway, Ping
from portal.networks import Network
from portal.store import sql
from tests.web.desk.offices import Browser, Office

HOME = "/desk/networks/hotel-linde"
FORM = {"gw_id": "linde-lobby", "name": "Lobby", "dialect": "classic", "address": "", "interval": "60", "link": "1000"}


def one(office: Office, gw_id: str = "linde-lobby") -> Gateway:
    with office.store.read() as db:
        found = gateways.by_gw_id(db, gw_id)
    assert found is not None
    return found


def key(office: Office, gateway: Gateway) -> str:
    with office.store.read() as db:
        found = gateways.newest_key(db, office.keyring, gateway.id, office.now())
    assert found is not None
    return found


def hears(office: Office, gw_id: str, *, with_key: str = "", uptime: int = 900, source: str = "198.51.100.7") -> None:
    """A ping of that gateway, as its door takes it."""
    query = f"gw_id={gw_id}&sys_uptime=90000&sys_memfree=18400&sys_load=0.42&wifidog_uptime={uptime}&k={with_key}"
    office.portal.gateways.refresh()
    office.portal.gateways.hear([Ping(wifidog.parse_ping(query.encode()), source, "WiFiDog 1.3.0")], office.now())


@pytest.mark.usefixtures("linde")
def test_a_gateway_added_by_hand_shows_the_lines_for_its_router(office: Office, ana: Browser) -> None:
    page = ana.fills_in(f"{HOME}/gateways/new", FORM)
    gateway = one(office)
    assert "Added. Paste the lines below" in page
    for line in (
        "GatewayID linde-lobby",
        "CheckInterval 60",
        "Path /wifidog/",
        f"AuthScriptPathFragment auth/?k={key(office, gateway)}&",
        f"PingScriptPathFragment ping/?k={key(office, gateway)}&",
    ):
        assert line in page
    assert "No ping has come from this gateway" in page
    assert 'class="lines" tabindex="0"' in page.html


def test_the_lines_are_there_for_the_other_firmware_too(office: Office, ana: Browser, linde: Network) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    page = ana.opens(f"{HOME}/gateways/{gateway.id}?lines=apfree")
    assert "DisablePortalAuth 0" in page
    assert "/etc/wifidogx.conf" in page
    assert ana.gets(f"{HOME}/gateways/{gateway.id}?lines=openwrt").status == 404


def test_the_key_is_for_managers_and_not_for_the_desk(office: Office, linde: Network) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    browser = office.browser(office.operator("ben@linde.example", operators.Role.DESK, linde))
    page = browser.opens(f"{HOME}/gateways/{gateway.id}")
    assert page.status == 200
    assert key(office, gateway) not in page.html


def test_a_gateway_that_calls_by_itself_is_adopted_with_a_key(office: Office, ana: Browser, linde: Network) -> None:
    hears(office, "02000000A71C", source="203.0.113.40")
    page = ana.opens(f"{HOME}/gateways")
    assert "02000000A71C WiFiDog 1.x" in page
    assert "asks to join" in ana.opens(f"{HOME}/")
    waiting = one(office, "02000000A71C")
    ana.opens(f"{HOME}/gateways")
    page = ana.sends(f"{HOME}/gateways/{waiting.id}/adopt")
    assert "is part of Hotel Linde" in page
    assert one(office, "02000000A71C").network_id == linde.id
    assert key(office, waiting) in page.html


@pytest.mark.usefixtures("linde")
def test_who_adopts_second_is_told_so(office: Office, ana: Browser) -> None:
    hears(office, "02000000A71C")
    waiting = one(office, "02000000A71C")
    ana.opens(f"{HOME}/gateways")
    ana.sends(f"{HOME}/gateways/{waiting.id}/adopt")
    assert "Somebody else was quicker" in ana.sends(f"{HOME}/gateways/{waiting.id}/adopt")


@pytest.mark.usefixtures("linde")
def test_an_id_that_another_network_has_is_refused_without_saying_whose(office: Office, ana: Browser) -> None:
    office.gateway(office.network("mirador", "Café Mirador"), "linde-lobby")
    page = ana.fills_in(f"{HOME}/gateways/new", FORM)
    assert page.status == 400
    assert "There is a gateway with this id already" in page
    assert "mirador" not in page.text.split("Add a gateway")[-1]


def test_settings_are_changed_and_the_change_is_recorded(office: Office, ana: Browser, linde: Network) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    form = {**FORM, "address": "10.20.4.1:2061", "interval": "30", "link": "50", "swapped": "yes", "dialect": "apfree"}
    ana.fills_in(f"{HOME}/gateways/{gateway.id}/edit", form)
    changed = one(office)
    assert (changed.address, changed.port, changed.interval_seconds) == ("10.20.4.1", 2061, 30)
    assert (changed.swapped, changed.dialect, changed.link_bytes_per_second) == (True, "apfree", 6_250_000)
    with office.store.read() as db:
        entry = operators.record(db, [linde.id])[0]
    assert entry.action == "gateway.edit"
    assert entry.detail["address"] == "10.20.4.1"
    page = ana.opens(f"{HOME}/gateways/{gateway.id}/edit")
    assert 'value="10.20.4.1:2061"' in page.html


def test_an_address_that_is_none_is_refused_in_words(office: Office, ana: Browser, linde: Network) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    page = ana.fills_in(f"{HOME}/gateways/{gateway.id}/edit", {**FORM, "address": "the lobby"})
    assert page.status == 400
    assert "Expected an IP address or a host name" in page
    assert one(office).address is None


def test_the_address_guests_came_with_is_suggested_and_recorded_with_one_click(
    office: Office, ana: Browser, linde: Network
) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    with office.store.transaction() as db:
        gateways.see_address(db, gateway.id, "192.168.1.1", 2060)
    page = ana.opens(f"{HOME}/gateways/{gateway.id}")
    assert "Guests came with 192.168.1.1:2060" in page
    page = ana.sends(f"{HOME}/gateways/{gateway.id}/address", {"address": "192.168.1.1:2060"})
    assert "Guests return to 192.168.1.1:2060 from now on" in page
    assert one(office).address == "192.168.1.1"
    assert "Record this address" not in page


def test_a_new_key_comes_only_when_asked_and_the_old_one_goes_on_for_a_while(
    office: Office, ana: Browser, linde: Network
) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    old = key(office, gateway)
    assert "stays good for 7 days" in ana.opens(f"{HOME}/gateways/{gateway.id}/key")
    assert key(office, gateway) == old
    page = ana.sends(f"{HOME}/gateways/{gateway.id}/key")
    assert key(office, gateway) != old
    assert key(office, gateway) in page.html
    assert "Keys valid 2" in page


def test_a_retired_gateway_is_gone_from_the_list_and_its_page(office: Office, ana: Browser, linde: Network) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    ana.opens(f"{HOME}/gateways/{gateway.id}/retire")
    page = ana.sends(f"{HOME}/gateways/{gateway.id}/retire")
    assert "linde-lobby is retired" in page
    assert one(office).state == "retired"
    assert ana.gets(f"{HOME}/gateways/{gateway.id}").status == 404


# The doctor


def test_a_gateway_that_is_well_is_told_to_be(office: Office, ana: Browser, linde: Network) -> None:
    gateway = office.gateway(linde, "linde-lobby", address="10.20.4.1")
    hears(office, "linde-lobby", with_key=key(office, gateway))
    page = ana.opens(f"{HOME}/gateways/{gateway.id}")
    for finding in ("It pings", "It proves itself", "Guests come back to 10.20.4.1:2060, as recorded"):
        assert finding in page
    assert "is-bad" not in page.html
    assert "is-warn" not in page.html
    assert "Load 0.42 Memory free 18.4 MB Router up 1 day 1 h WiFiDog up 15 min Software WiFiDog 1.3.0" in page


def test_findings_come_worst_first(office: Office, ana: Browser, linde: Network) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    hears(office, "linde-lobby")
    office.shift = timedelta(minutes=30)
    page = ana.opens(f"{HOME}/gateways/{gateway.id}")
    told = [
        page.text.index(words) for words in ("It has fallen silent", "Its pings carry no key", "No address to return")
    ]
    assert told == sorted(told)
    assert page.html.index("is-bad") < page.html.index("is-warn")


def test_a_call_without_the_key_of_a_gateway_that_has_shown_it_is_told(
    office: Office, ana: Browser, linde: Network
) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    hears(office, "linde-lobby", with_key=key(office, gateway))
    office.shift = timedelta(seconds=30)
    hears(office, "linde-lobby", with_key="")
    assert "Calls come without the key" in ana.opens(f"{HOME}/gateways/{gateway.id}")
    assert "is called without its key" in ana.opens(f"{HOME}/")


def test_a_restart_and_a_changed_address_are_told(office: Office, ana: Browser, linde: Network) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    hears(office, "linde-lobby", uptime=900_000)
    office.shift = timedelta(seconds=30)
    hears(office, "linde-lobby", uptime=41, source="198.51.100.9")
    page = ana.opens(f"{HOME}/gateways/{gateway.id}")
    assert "WiFiDog was restarted" in page
    assert "it comes from 198.51.100.9" in page


def test_routers_take_the_plain_port_where_browsers_have_tls(office: Office, linde: Network) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    tls = Office(office.store, office.keyring, office.offload, public_url="https://wifi.linde.example")
    browser = tls.browser(tls.operator("cleo@linde.example", operators.Role.OWNER))
    browser.client.environ_base["wsgi.url_scheme"] = "https"
    page = browser.opens(f"{HOME}/gateways/{gateway.id}")
    assert "Hostname wifi.linde.example SSLAvailable no HTTPPort 80 Path" in page


def test_no_router_is_told_to_call_localhost_when_the_desk_was_reached_through_a_tunnel(
    office: Office, ana: Browser, linde: Network
) -> None:
    gateway = office.gateway(linde, "linde-lobby")
    page = ana.opens(f"{HOME}/gateways/{gateway.id}")
    host, port = gateways.reached_at(Settings())
    assert host not in ("localhost", "127.0.0.1")
    assert f"Hostname {host} SSLAvailable no HTTPPort {port} Path" in page
    assert "No router reaches this server" not in page
    alone = Office(office.store, office.keyring, office.offload, public_url="http://127.0.0.1:8080")
    page = alone.browser(alone.operator("eva@linde.example", operators.Role.OWNER)).opens(
        f"{HOME}/gateways/{gateway.id}"
    )
    assert "No router reaches this server as 127.0.0.1" in page


@pytest.mark.usefixtures("linde")
def test_what_a_stranger_writes_into_a_ping_is_text_and_nothing_else(office: Office, ana: Browser) -> None:
    evil = "<script>alert(1)</script>"
    with office.store.transaction() as db:
        db.execute(sql("test.evil", "INSERT INTO gateway (gw_id, state) VALUES (:gw_id, 'inbox')"), {"gw_id": evil})
    page = ana.opens(f"{HOME}/gateways")
    assert evil not in page.html
    assert evil in page


def test_nobody_waits_for_a_page_of_many_gateways(
    office: Office, ana: Browser, linde: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.offload._TURN_SECONDS", 0.0)  # a turn after every piece, however fast the machine
    with office.store.transaction() as db:
        db.execute(sql("test.many", "INSERT INTO gateway (network_id, gw_id, state) "
                       "SELECT :network_id, 'gw-' || n, 'adopted' FROM generate_series(1, 30) n"),
                   {"network_id": linde.id})  # fmt: skip
    turns = 0

    def counts() -> None:
        nonlocal turns
        while True:
            gevent.sleep(0)
            turns += 1

    counting = gevent.spawn(counts)
    page = ana.opens(f"{HOME}/gateways")
    counting.kill()
    assert "30 gateways" in page
    assert turns > 60, "at least once for what is said of a gateway, and once for its line"
