"""Gateways as an operator meets them: adopted or in the inbox, with an address, keys, and lines for the router."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection

from portal import gateways, networks
from portal.fields import Invalid
from portal.keys import Keyring
from portal.store import sql
from portal.wifidog import Heartbeat

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def linde(db: Connection) -> networks.Network:
    return networks.add(db, "linde", "Café Linde", NOW)


@pytest.fixture
def lobby(db: Connection, linde: networks.Network) -> gateways.Gateway:
    return gateways.add(db, linde.id, "lobby", NOW)


def facts_of(gateway: gateways.Gateway, **changed: object) -> gateways.GatewayFacts:
    values = {
        "id": gateway.id, "network_id": gateway.network_id, "gw_id": gateway.gw_id, "device_id": gateway.device_id,
        "state": gateway.state, "dialect": gateway.dialect, "swapped": gateway.swapped, "address": gateway.address,
        "port": gateway.port, "interval_seconds": gateway.interval_seconds,
        "link_bytes_per_second": gateway.link_bytes_per_second, "keys": (), "keyed": False,
    }  # fmt: skip
    return gateways.GatewayFacts(**{**values, **changed})  # type: ignore[arg-type]


def pings(
    db: Connection,
    gateway: gateways.Gateway,
    now: datetime,
    *,
    uptime: int | None = 60,
    source: str = "198.51.100.7",
    trust: gateways.Trust = gateways.Trust.ADOPTED,
    **changed: object,
) -> gateways.Health:
    beat = Heartbeat(gateway.gw_id, "", "", 1000, 70_000, 0.5, uptime)
    gateways.heartbeats(db, [(facts_of(gateway, **changed), trust, gateways.Ping(beat, source, "WiFiDog 1.3.0"))], now)
    found = gateways.health(db, gateway.id, now)
    assert found is not None
    return found


# Adding and adopting


def test_a_gateway_is_known_by_its_id_in_any_case(db: Connection, lobby: gateways.Gateway) -> None:
    assert gateways.by_gw_id(db, "LOBBY") == gateways.get(db, lobby.id) == lobby
    assert (lobby.state, lobby.dialect, lobby.swapped, lobby.address, lobby.port) == (
        "adopted", "classic", False, None, 2060,
    )  # fmt: skip


def test_an_id_belongs_to_one_gateway_of_one_network(
    db: Connection, linde: networks.Network, lobby: gateways.Gateway
) -> None:
    other = networks.add(db, "ana", "ana's", NOW)
    for network in (linde, other):
        with pytest.raises(Invalid, match="^gw_id: there is a gateway with this id already"):
            gateways.add(db, network.id, "Lobby", NOW)
    assert gateways.get(db, lobby.id) == lobby


@pytest.mark.parametrize("wrong", ["", "two words", "a#b", "x" * 65, "a\x00b", "a\nb"])
def test_an_id_that_no_router_could_be_given_is_refused(db: Connection, linde: networks.Network, wrong: str) -> None:
    with pytest.raises(Invalid, match="^gw_id: expected"):
        gateways.add(db, linde.id, wrong, NOW)


def test_apfrees_counters_are_swapped_unless_told_otherwise(db: Connection, linde: networks.Network) -> None:
    gateway = gateways.add(db, linde.id, "ap", NOW, dialect="apfree")
    assert gateway.swapped
    assert not gateways.edit(db, gateway.id, swapped=False).swapped


def test_a_gateway_that_calls_before_it_is_known_waits_in_the_inbox_until_it_is_adopted(
    db: Connection, linde: networks.Network
) -> None:
    assert gateways.note_unknown(db, "Sauna", NOW)
    assert not gateways.note_unknown(db, "sauna", NOW)
    waiting = gateways.inbox(db, NOW)
    assert [entry.gateway.gw_id for entry in waiting] == ["Sauna"]
    adopted = gateways.adopt(db, waiting[0].gateway.id, linde.id, NOW, name="Sauna, 2nd floor")
    assert (adopted.state, adopted.network_id, adopted.name) == ("adopted", linde.id, "Sauna, 2nd floor")
    assert gateways.inbox(db, NOW) == []
    with pytest.raises(Invalid):
        gateways.adopt(db, adopted.id, linde.id, NOW)


def test_adding_a_gateway_that_waits_in_the_inbox_adopts_it(db: Connection, linde: networks.Network) -> None:
    gateways.note_unknown(db, "SAUNA", NOW)
    waiting = gateways.inbox(db, NOW)[0].gateway
    added = gateways.add(db, linde.id, "sauna", NOW, address="10.0.0.1")
    assert (added.id, added.gw_id, added.state, added.address) == (waiting.id, "sauna", "adopted", "10.0.0.1")


def test_a_flood_of_invented_ids_does_not_grow_the_inbox_and_gives_way_after_a_while(db: Connection) -> None:
    for number in range(gateways.LARGEST_INBOX + 20):
        gateways.note_unknown(db, f"invented-{number}", NOW)
    assert len(gateways.inbox(db, NOW)) == gateways.LARGEST_INBOX
    assert not gateways.note_unknown(db, "real", NOW + 5 * MINUTE)
    assert gateways.note_unknown(db, "real", NOW + 11 * MINUTE)
    assert len(gateways.inbox(db, NOW)) == gateways.LARGEST_INBOX


def test_who_goes_on_pinging_keeps_its_place_in_the_inbox(db: Connection) -> None:
    gateways.note_unknown(db, "real", NOW)
    real = gateways.inbox(db, NOW)[0].gateway
    for number in range(gateways.LARGEST_INBOX):
        gateways.note_unknown(db, f"invented-{number}", NOW + MINUTE)
    pings(db, real, NOW + 20 * MINUTE)
    for number in range(5):
        assert gateways.note_unknown(db, f"newer-{number}", NOW + 21 * MINUTE)
    assert real in [entry.gateway for entry in gateways.inbox(db, NOW)]


@pytest.mark.parametrize("wrong", ["", "x" * 65, "a\0b"])
def test_what_cannot_be_an_id_never_gets_into_the_inbox(db: Connection, wrong: str) -> None:
    assert not gateways.note_unknown(db, wrong, NOW)
    assert gateways.inbox(db, NOW) == []


def test_an_entry_of_the_inbox_can_be_dismissed_and_an_adopted_gateway_cannot(
    db: Connection, lobby: gateways.Gateway
) -> None:
    gateways.note_unknown(db, "noise", NOW)
    for entry in gateways.inbox(db, NOW):
        gateways.dismiss(db, entry.gateway.id)
    gateways.dismiss(db, lobby.id)
    assert gateways.inbox(db, NOW) == []
    assert gateways.get(db, lobby.id) == lobby


# Addresses


def test_the_recorded_address_is_a_host_with_a_port(db: Connection, lobby: gateways.Gateway) -> None:
    recorded = gateways.record_address(db, lobby.id, "Router.Lan:8060")
    assert (recorded.address, recorded.port) == ("router.lan", 8060)
    forgotten = gateways.record_address(db, lobby.id, None)
    assert (forgotten.address, forgotten.port) == (None, 2060)
    with pytest.raises(Invalid, match="^address"):
        gateways.record_address(db, lobby.id, "http://evil.example/")


def test_what_a_browser_says_of_the_address_is_shown_and_never_recorded(
    db: Connection, lobby: gateways.Gateway
) -> None:
    gateways.see_address(db, lobby.id, "192.168.1.1", 2060)
    gateways.see_address(db, lobby.id, "evil.example", 80)
    gateways.see_address(db, lobby.id, "203.0.113.5", 80)
    seen = gateways.get(db, lobby.id)
    assert seen is not None
    assert (seen.address, seen.seen_address, seen.seen_port) == (None, "192.168.1.1", 2060)


def test_the_address_guests_came_with_is_told_only_where_it_differs(db: Connection, lobby: gateways.Gateway) -> None:
    gateways.see_address(db, lobby.id, "192.168.1.1", 2060)
    for recorded, told in (
        (None, ("192.168.1.1", 2060)),
        ("192.168.1.1", None),
        ("192.168.1.1:2061", ("192.168.1.1", 2060)),
        ("router.linde.example", None),
    ):
        assert gateways.record_address(db, lobby.id, recorded).came_with == told, recorded


# Keys


def test_a_key_has_32_letters_and_digits_and_is_not_stored_in_clear(
    db: Connection, keyring: Keyring, lobby: gateways.Gateway
) -> None:
    key = gateways.make_key(db, keyring, lobby.id, NOW)
    assert re.fullmatch("[a-z0-9]{32}", key)
    assert gateways.newest_key(db, keyring, lobby.id, NOW) == key
    stored = db.execute(sql("test.keys", "SELECT CAST(k.* AS text) FROM gateway_key k")).scalar_one()
    assert key not in stored
    assert key.encode().hex() not in stored


def test_after_a_rotation_two_keys_are_valid_and_older_ones_are_not(
    db: Connection, keyring: Keyring, lobby: gateways.Gateway
) -> None:
    def valid(now: datetime) -> int:
        found = gateways.health(db, lobby.id, now)
        assert found is not None
        return found.keys

    for minute in range(3):
        newest = gateways.make_key(db, keyring, lobby.id, NOW + minute * MINUTE)
    assert valid(NOW + 2 * MINUTE) == 2
    assert valid(NOW + 2 * MINUTE + gateways.KEY_GRACE) == 1
    assert gateways.newest_key(db, keyring, lobby.id, NOW + timedelta(days=365)) == newest


def test_a_gateway_that_comes_back_from_retirement_has_none_of_its_old_keys(
    db: Connection, keyring: Keyring, lobby: gateways.Gateway
) -> None:
    gateways.make_key(db, keyring, lobby.id, NOW)
    gateways.retire(db, lobby.id)
    other = networks.add(db, "ana", "ana's", NOW)
    back = gateways.add(db, other.id, "lobby", NOW)
    assert (back.id, back.network_id) == (lobby.id, other.id)
    assert gateways.newest_key(db, keyring, lobby.id, NOW) is None


def test_the_routers_lines_are_a_whole_configuration_with_the_key_where_only_the_router_shows_it(
    lobby: gateways.Gateway,
) -> None:
    assert gateways.router_lines("wifi.linde.example", 80, lobby, "k" * 32) == (
        "GatewayID lobby\n"
        "# The interface that guests' devices are on: br-lan on OpenWrt.\n"
        "GatewayInterface br-lan\n"
        "CheckInterval 60\n"
        "ClientTimeout 5\n"
        "AuthServer {\n"
        "    Hostname wifi.linde.example\n"
        "    SSLAvailable no\n"
        "    HTTPPort 80\n"
        "    Path /wifidog/\n"
        f"    AuthScriptPathFragment auth/?k={'k' * 32}&\n"
        f"    PingScriptPathFragment ping/?k={'k' * 32}&\n"
        "}\n"
        "FirewallRuleSet global {\n"
        "}\n"
        "FirewallRuleSet validating-users {\n"
        "    FirewallRule allow to 0.0.0.0/0\n"
        "}\n"
        "FirewallRuleSet known-users {\n"
        "    FirewallRule allow to 0.0.0.0/0\n"
        "}\n"
        "FirewallRuleSet unknown-users {\n"
        "    FirewallRule allow udp port 53\n"
        "    FirewallRule allow tcp port 53\n"
        "    FirewallRule allow udp port 67\n"
        "    FirewallRule allow tcp port 67\n"
        "}\n"
        "FirewallRuleSet locked-users {\n"
        "    FirewallRule block to 0.0.0.0/0\n"
        "}\n"
    )


@pytest.mark.parametrize(
    ("address", "subnet"),
    [(None, "192.168.1.1/24"), ("10.88.0.1:8060", "10.88.0.1/24"), ("router.lan", "192.168.1.1/24")],
)
def test_apfrees_lines_have_all_that_it_insists_on_and_switch_its_portal_on(
    db: Connection, linde: networks.Network, address: str | None, subnet: str
) -> None:
    gateway = gateways.add(db, linde.id, "ap-1", NOW, dialect="apfree", address=address)
    gateways.learn_device(db, gateway.id, "dev-0001")
    learned = gateways.get(db, gateway.id)
    assert learned is not None
    text = gateways.router_lines("10.88.0.2", 8080, learned, "k" * 32)
    lines = text.splitlines()
    assert lines[0] == "DeviceID dev-0001"
    begin = lines.index("GatewaySetting {")
    assert lines[begin + 1 : begin + 6] == [
        "    GatewayInterface br-lan",
        "    GatewayChannel gatepost",
        "    GatewayID ap-1",
        f"    GatewaySubnetV4 {subnet}",
        "}",
    ]
    assert f"    PingScriptPathFragment ping/?k={'k' * 32}&" in lines
    assert "    SSLAvailable no" in lines
    assert "DisablePortalAuth 0" in lines
    assert "WiredPassed 0" in lines
    assert "FirewallRule" not in text


@pytest.mark.parametrize("dialect", ["classic", "apfree"])
def test_remarks_in_the_lines_stand_where_every_program_passes_over_them(lobby: gateways.Gateway, dialect: str) -> None:
    lines = gateways.router_lines("10.88.0.2", 80, dataclasses.replace(lobby, dialect=dialect), "k" * 32).splitlines()
    inside = False
    for line in lines:
        assert "#" not in line or (line.startswith("# ") and not inside), line
        inside = (inside or line.endswith("{")) and line != "}"
    assert not inside
    assert any(line.startswith("# ") for line in lines)


# Heartbeats


def test_a_heartbeat_says_how_the_gateway_is(db: Connection, lobby: gateways.Gateway) -> None:
    health = pings(db, lobby, NOW)
    assert (health.at, health.steady_since, health.restarted_at) == (NOW, NOW, None)
    assert (health.wifidog_uptime, health.sys_uptime, health.sys_memfree, health.sys_load) == (60, 1000, 70_000, 0.5)
    assert (health.software, health.source, health.source_changed_at) == ("WiFiDog 1.3.0", "198.51.100.7", None)


def test_a_restart_is_an_uptime_that_fell(db: Connection, lobby: gateways.Gateway) -> None:
    assert pings(db, lobby, NOW, uptime=600).restarted_at is None
    assert pings(db, lobby, NOW + MINUTE, uptime=660).restarted_at is None
    assert pings(db, lobby, NOW + 2 * MINUTE, uptime=660).restarted_at is None
    assert pings(db, lobby, NOW + 3 * MINUTE, uptime=None).restarted_at is None
    restarted = pings(db, lobby, NOW + 4 * MINUTE, uptime=659)
    assert restarted.restarted_at == NOW + 4 * MINUTE
    assert pings(db, lobby, NOW + 5 * MINUTE, uptime=719).restarted_at == NOW + 4 * MINUTE


def test_a_gap_of_more_than_silence_ends_steadiness(db: Connection, lobby: gateways.Gateway) -> None:
    pings(db, lobby, NOW)
    assert pings(db, lobby, NOW + 4 * MINUTE).steady_since == NOW
    late = NOW + 8 * MINUTE + timedelta(seconds=1)
    assert pings(db, lobby, late).steady_since == late


def test_a_gateway_is_silent_after_three_intervals_and_a_minute(
    db: Connection, linde: networks.Network, lobby: gateways.Gateway
) -> None:
    quick = gateways.add(db, linde.id, "quick", NOW, interval_seconds=10)
    gateways.add(db, linde.id, "never-heard", NOW)
    for gateway in (lobby, quick):
        pings(db, gateway, NOW)

    gateways.note_unknown(db, "in-the-inbox", NOW)

    def silent(after: timedelta) -> list[str]:
        found = [health.gateway.gw_id for health in gateways.adopted(db, NOW + after) if health.silent(NOW + after)]
        roll = gateways.roll_call(db, NOW + after)
        assert roll == {"up": 2 - len(found), "silent": len(found), "unheard": 1}, "as the desk counts them"
        return found

    assert silent(timedelta(seconds=90)) == []
    assert silent(timedelta(seconds=91)) == ["quick"]
    assert silent(timedelta(seconds=241)) == ["lobby", "quick"]


def test_a_changed_source_is_told_with_its_time(db: Connection, lobby: gateways.Gateway) -> None:
    pings(db, lobby, NOW, source="198.51.100.7")
    moved = pings(db, lobby, NOW + MINUTE, source="203.0.113.9")
    assert (moved.source, moved.source_changed_at) == ("203.0.113.9", NOW + MINUTE)
    stays = pings(db, lobby, NOW + 2 * MINUTE, source="203.0.113.9")
    assert stays.source_changed_at == NOW + MINUTE


def test_a_ping_that_lacks_the_key_of_a_keyed_gateway_changes_nothing_but_the_note(
    db: Connection, keyring: Keyring, lobby: gateways.Gateway
) -> None:
    gateways.make_key(db, keyring, lobby.id, NOW)
    known = pings(db, lobby, NOW, uptime=600, trust=gateways.Trust.KEYED)
    assert known.keyed
    assert not known.key_missing
    forged = pings(
        db, lobby, NOW + MINUTE, uptime=1, source="203.0.113.9", trust=gateways.Trust.KEY_MISSING,
        keyed=True, keys=((b"x", None),),
    )  # fmt: skip
    assert (forged.at, forged.wifidog_uptime, forged.source, forged.restarted_at) == (NOW, 600, "198.51.100.7", None)
    assert forged.key_missing_at == NOW + MINUTE
    assert forged.key_missing
    assert not pings(db, lobby, NOW + 2 * MINUTE, uptime=720, trust=gateways.Trust.KEYED).key_missing


def test_a_gateway_whose_lines_are_not_pasted_yet_is_heard_and_noted(
    db: Connection, keyring: Keyring, lobby: gateways.Gateway
) -> None:
    gateways.make_key(db, keyring, lobby.id, NOW)
    health = pings(db, lobby, NOW, keys=((b"x", None),))
    assert (health.at, health.keys, health.key_missing_at) == (NOW, 1, NOW)
    assert (health.keyed, health.key_missing) == (False, False)


def test_of_two_pings_of_one_gateway_in_one_batch_the_later_is_kept(db: Connection, lobby: gateways.Gateway) -> None:
    def ping(uptime: int) -> gateways.Ping:
        return gateways.Ping(Heartbeat("lobby", "", "", None, None, None, uptime), "198.51.100.7", "")

    facts, adopted = facts_of(lobby), gateways.Trust.ADOPTED
    gateways.heartbeats(db, [(facts, adopted, ping(600))], NOW)
    gateways.heartbeats(db, [(facts, adopted, ping(700)), (facts, adopted, ping(5))], NOW)
    health = gateways.health(db, lobby.id, NOW)
    assert health is not None
    assert (health.wifidog_uptime, health.restarted_at) == (5, NOW)


def test_a_ping_of_a_gateway_that_is_gone_by_now_is_dropped(db: Connection) -> None:
    gateways.note_unknown(db, "noise", NOW)
    noise = gateways.inbox(db, NOW)[0].gateway
    gateways.dismiss(db, noise.id)
    beat = gateways.Ping(Heartbeat("noise", "", "", 1, 1, 0.1, 1), "198.51.100.7", "")
    gateways.heartbeats(db, [(facts_of(noise), gateways.Trust.ADOPTED, beat)], NOW)
    assert gateways.health(db, noise.id, NOW) is None


# Replacing


def test_a_replaced_gateway_keeps_its_record_and_starts_anew(
    db: Connection, keyring: Keyring, lobby: gateways.Gateway
) -> None:
    gateways.make_key(db, keyring, lobby.id, NOW)
    pings(db, lobby, NOW, uptime=600, trust=gateways.Trust.KEYED)
    gateways.note_unknown(db, "LOBBY-2", NOW)
    replaced = gateways.replace(db, "Lobby", "lobby-2", NOW + MINUTE)
    assert (replaced.id, replaced.gw_id) == (lobby.id, "lobby-2")
    assert gateways.inbox(db, NOW) == []
    health = gateways.health(db, lobby.id, NOW)
    assert health is not None
    assert (health.restarted_at, health.wifidog_uptime, health.keyed) == (NOW + MINUTE, None, False)
    moved = pings(db, replaced, NOW + 2 * MINUTE, uptime=9999, source="203.0.113.9")
    assert (moved.restarted_at, moved.source_changed_at) == (NOW + MINUTE, None)


def test_a_gateway_cannot_be_replaced_by_one_in_use_or_when_it_is_not_there(
    db: Connection, linde: networks.Network
) -> None:
    for gw_id in ("lobby", "bar"):
        gateways.add(db, linde.id, gw_id, NOW)
    gateways.note_unknown(db, "noise", NOW)
    with pytest.raises(Invalid, match="^new: another gateway"):
        gateways.replace(db, "lobby", "BAR", NOW)
    for missing in ("nowhere", "noise"):
        with pytest.raises(Invalid, match="^old: there is no adopted gateway"):
            gateways.replace(db, missing, "lobby-2", NOW)
    assert gateways.replace(db, "lobby", "Lobby", NOW).gw_id == "Lobby"
