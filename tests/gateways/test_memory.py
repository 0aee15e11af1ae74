"""The gateways a process keeps in memory: complete, fresh, and cheap under a flood of invented names."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from portal import gateways, networks
from portal.gateways import Gateways, Ping, Trust
from portal.keys import Keyring
from portal.store import Limits, Store
from portal.wifidog import Dialect, Heartbeat


class Hotel:
    """A network's operator at work in one process, while `memory` serves calls in another."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self.store, self.keyring = store, keyring
        self.now = store.database_now()
        self.seconds = 0.0
        with store.transaction() as db:
            self.network = networks.add(db, "linde", "Linde", self.now)
        self.memory = Gateways(store, clock=lambda: self.seconds)

    def adds(self, gw_id: str, device_id: str = "") -> gateways.Gateway:
        with self.store.transaction() as db:
            gateway = gateways.add(db, self.network.id, gw_id, self.now)
            if device_id:
                gateways.learn_device(db, gateway.id, device_id)
        return gateway

    def makes_key(self, gateway: gateways.Gateway) -> str:
        with self.store.transaction() as db:
            return gateways.make_key(db, self.keyring, gateway.id, self.now)

    def pings(self, key: str = "", gw_id: str = "lobby", device_id: str = "", uptime: int = 60) -> None:
        beat = Heartbeat(gw_id, device_id, key, None, None, None, uptime)
        self.memory.hear([Ping(beat, "198.51.100.7", "WiFiDog 1.3.0")], self.now)

    def trust(self, key: str, gw_id: str = "lobby") -> Trust:
        facts = self.memory.find(gw_id)
        assert facts is not None
        return self.memory.trust(facts, key)

    def health(self, gateway: gateways.Gateway) -> gateways.Health:
        with self.store.read() as db:
            found = gateways.health(db, gateway.id, self.now)
        assert found is not None
        return found

    def inbox(self) -> list[str]:
        with self.store.read() as db:
            return [entry.gateway.gw_id for entry in gateways.inbox(db, self.now)]


@pytest.fixture
def hotel(store: Store, keyring: Keyring) -> Hotel:
    return Hotel(store, keyring)


@pytest.fixture
def statements(database_url: str, keyring: Keyring) -> Iterator[tuple[Hotel, list[str]]]:
    """A hotel that counts what it asks its database."""
    sent: list[str] = []
    store = Store(database_url, on_statement=sent.append)
    yield Hotel(store, keyring), sent
    store.dispose()


def test_every_gateway_is_in_memory_after_the_first_refresh(statements: tuple[Hotel, list[str]]) -> None:
    hotel, sent = statements
    hotel.adds("lobby")
    hotel.adds("bar")
    hotel.memory.refresh()
    assert len(hotel.memory) == 2
    sent.clear()
    found = hotel.memory.find("LOBBY")
    assert found is not None
    assert (found.gw_id, found.network_id, found.state) == ("lobby", hotel.network.id, "adopted")
    assert sent == []


def test_a_gateway_added_a_moment_ago_elsewhere_is_found_without_waiting(hotel: Hotel) -> None:
    hotel.memory.refresh()
    hotel.adds("lobby")
    assert hotel.memory.find("lobby") is not None


def test_a_gateway_that_was_just_unknown_is_found_after_the_next_refresh(hotel: Hotel) -> None:
    hotel.memory.refresh()
    assert hotel.memory.find("lobby") is None
    hotel.adds("lobby")
    assert hotel.memory.find("lobby") is None
    hotel.memory.refresh()
    assert hotel.memory.find("lobby") is not None


def test_a_gateway_adopted_a_moment_ago_elsewhere_is_known_as_adopted_without_waiting(hotel: Hotel) -> None:
    hotel.memory.refresh()
    assert hotel.memory.find("attic") is None
    hotel.pings(gw_id="attic")
    hotel.memory.refresh()
    asking = hotel.memory.find("attic")
    assert asking is not None
    assert hotel.memory.adopted("attic") is None
    with hotel.store.transaction() as db:
        gateways.adopt(db, asking.id, hotel.network.id, hotel.now)
    adopted = hotel.memory.adopted("ATTIC")
    assert adopted is not None
    assert adopted.network_id == hotel.network.id
    assert hotel.memory.find("attic") == adopted, "its calls are believed from then on, too"


def test_who_is_not_adopted_costs_the_database_no_more_than_who_is_unknown(
    statements: tuple[Hotel, list[str]],
) -> None:
    hotel, sent = statements
    hotel.pings(gw_id="attic")
    hotel.memory.refresh()
    sent.clear()
    for number in range(30_000):
        hotel.seconds = number / 10_000
        assert hotel.memory.adopted("attic") is None
    assert len(sent) <= Gateways.LOOKUP_BURST + 3 * Gateways.LOOKUPS_PER_SECOND + 1


def test_a_change_is_seen_after_the_next_refresh(hotel: Hotel) -> None:
    gateway = hotel.adds("lobby")
    hotel.memory.refresh()
    with hotel.store.transaction() as db:
        gateways.record_address(db, gateway.id, "10.0.0.1:8060")
        gateways.edit(db, gateway.id, swapped=True)
    hotel.memory.refresh()
    found = hotel.memory.find("lobby")
    assert found is not None
    assert (found.address, found.port, found.swapped) == ("10.0.0.1", 8060, True)


def test_a_change_that_was_committed_after_a_later_refresh_is_not_missed(hotel: Hotel) -> None:
    gateway = hotel.adds("lobby")
    hotel.memory.refresh()
    with hotel.store.transaction() as db:
        gateways.edit(db, gateway.id, swapped=True)
        hotel.memory.refresh()
    hotel.memory.refresh()
    found = hotel.memory.find("lobby")
    assert found is not None
    assert found.swapped


def test_a_replaced_gateway_is_found_by_its_new_name_alone(hotel: Hotel) -> None:
    hotel.adds("lobby")
    hotel.memory.refresh()
    with hotel.store.transaction() as db:
        gateways.replace(db, "lobby", "lobby-2", hotel.now)
    hotel.memory.refresh()
    assert hotel.memory.find("lobby-2") is not None
    assert hotel.memory.find("lobby") is None


def test_a_gateway_that_is_gone_is_forgotten_within_a_minute(hotel: Hotel) -> None:
    hotel.pings(gw_id="noise")
    hotel.memory.refresh()
    noise = hotel.memory.find("noise")
    assert noise is not None
    with hotel.store.transaction() as db:
        gateways.dismiss(db, noise.id)
    for _ in range(Gateways.SWEEP_EVERY):
        hotel.memory.refresh()
    assert hotel.memory.find("noise") is None


def test_a_flood_of_invented_names_asks_the_database_little_and_keeps_little(
    statements: tuple[Hotel, list[str]],
) -> None:
    hotel, sent = statements
    hotel.adds("lobby")
    hotel.memory.refresh()
    sent.clear()
    for number in range(30_000):
        hotel.seconds = number / 10_000
        assert hotel.memory.find(f"invented-{number}") is None
        hotel.memory.find("lobby")
    assert len(sent) <= Gateways.LOOKUP_BURST + 3 * Gateways.LOOKUPS_PER_SECOND + 1


def test_a_flood_of_pings_with_invented_keys_is_one_heartbeat(statements: tuple[Hotel, list[str]]) -> None:
    hotel, sent = statements
    lobby = hotel.adds("lobby")
    key = hotel.makes_key(lobby)
    hotel.memory.refresh()
    sent.clear()
    invented = [Heartbeat("lobby", "", f"{number:032d}", None, None, None, 60) for number in range(500)]
    proved = Heartbeat("lobby", "", key, None, None, None, 90)
    pings = [Ping(beat, "198.51.100.7", "WiFiDog 1.3.0") for beat in (*invented, proved, *invented)]
    hotel.memory.hear(pings, hotel.now)
    assert sum("INSERT INTO heartbeat" in statement for statement in sent) <= 2
    assert hotel.health(lobby).wifidog_uptime == 90
    assert hotel.health(lobby).key_seen_at is not None


def test_names_that_were_not_found_are_remembered_up_to_a_number(hotel: Hotel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gateways, "MOST_MISSES", 50)
    for number in range(200):
        hotel.seconds += 0.05
        assert hotel.memory.find(f"invented-{number}") is None
    assert len(hotel.memory._misses) == 50


def test_a_name_that_is_asked_for_again_and_again_costs_one_question_in_a_while(
    statements: tuple[Hotel, list[str]],
) -> None:
    hotel, sent = statements
    hotel.memory.refresh()
    sent.clear()
    for _ in range(100):
        hotel.memory.find("nobody")
    assert len(sent) == 1
    hotel.seconds += 6
    hotel.memory.find("nobody")
    assert len(sent) == 2


def test_without_a_database_what_is_known_stays_and_what_is_not_is_unknown() -> None:
    nowhere = Store("postgresql://nobody@127.0.0.1:1/none", limits={"polls": Limits(1, 1, 0.1, 100, 100, 0.5)})
    assert Gateways(nowhere).find("lobby") is None


# Trust


def test_until_it_shows_its_key_a_gateway_is_believed_without_one(hotel: Hotel) -> None:
    lobby = hotel.adds("lobby")
    assert hotel.trust("") is Trust.ADOPTED
    hotel.makes_key(lobby)
    hotel.memory.refresh()
    assert hotel.trust("") is Trust.ADOPTED


def test_who_has_shown_its_key_is_not_believed_without_it(hotel: Hotel) -> None:
    lobby = hotel.adds("lobby")
    key = hotel.makes_key(lobby)
    hotel.memory.refresh()
    hotel.pings(key)
    hotel.memory.refresh()
    assert hotel.trust(key) is Trust.KEYED
    for wrong in ("", "x", key[:-1], key.upper(), "k" * 32):
        assert hotel.trust(wrong) is Trust.KEY_MISSING


def test_a_key_made_elsewhere_a_moment_ago_is_looked_up_before_it_counts_as_wrong(hotel: Hotel) -> None:
    lobby = hotel.adds("lobby")
    hotel.pings(hotel.makes_key(lobby))
    hotel.memory.refresh()
    newer = hotel.makes_key(lobby)
    assert hotel.trust(newer) is Trust.KEYED


def test_a_wrong_key_costs_one_question_in_a_while(statements: tuple[Hotel, list[str]]) -> None:
    hotel, sent = statements
    lobby = hotel.adds("lobby")
    hotel.pings(hotel.makes_key(lobby))
    hotel.memory.refresh()
    sent.clear()
    for _ in range(100):
        assert hotel.trust("k" * 32) is Trust.KEY_MISSING
    assert len(sent) == 1


def test_a_key_that_was_replaced_long_ago_does_not_fit(hotel: Hotel) -> None:
    lobby = hotel.adds("lobby")
    hotel.now = datetime(2020, 1, 1, tzinfo=UTC)
    old = hotel.makes_key(lobby)
    hotel.now += timedelta(days=1)
    new = hotel.makes_key(lobby)
    hotel.pings(new)
    hotel.memory.refresh()
    assert hotel.trust(new) is Trust.KEYED
    assert hotel.trust(old) is Trust.KEY_MISSING


def test_forgetting_the_keys_believes_a_gateway_as_before(hotel: Hotel) -> None:
    lobby = hotel.adds("lobby")
    hotel.pings(hotel.makes_key(lobby))
    hotel.memory.refresh()
    assert hotel.trust("") is Trust.KEY_MISSING
    with hotel.store.transaction() as db:
        gateways.forget_keys(db, lobby.id)
    hotel.memory.refresh()
    assert hotel.trust("") is Trust.ADOPTED


def test_a_key_that_was_believed_is_not_believed_for_ever(hotel: Hotel) -> None:
    lobby = hotel.adds("lobby")
    key = hotel.makes_key(lobby)
    hotel.pings(key)
    hotel.memory.refresh()
    assert [hotel.trust(key), hotel.trust(key)] == [Trust.KEYED, Trust.KEYED]
    assert hotel.trust("k" * 32) is Trust.KEY_MISSING
    with hotel.store.transaction() as db:
        gateways.forget_keys(db, lobby.id)
    hotel.memory.refresh()
    assert hotel.trust(key) is Trust.ADOPTED


def test_a_key_speaks_for_its_own_gateway_and_those_of_its_device_only(hotel: Hotel) -> None:
    guests = hotel.adds("guests", device_id="dev-1")
    for gw_id, device_id in (("staff", "dev-1"), ("bar", "dev-2"), ("lobby", "")):
        hotel.makes_key(hotel.adds(gw_id, device_id))
    key = hotel.makes_key(guests)
    hotel.memory.refresh()
    assert hotel.trust(key, "guests") is Trust.KEYED
    assert hotel.trust(key, "staff") is Trust.KEYED
    assert hotel.trust(key, "bar") is not Trust.KEYED
    assert hotel.trust(key, "lobby") is not Trust.KEYED


# Pings


def test_a_ping_under_a_device_speaks_for_all_its_gateways(hotel: Hotel) -> None:
    both = [hotel.adds("guests", "dev-1"), hotel.adds("staff", "dev-1")]
    other = hotel.adds("bar", "dev-2")
    hotel.memory.refresh()
    hotel.pings(gw_id="", device_id="dev-1")
    assert [hotel.health(gateway).at for gateway in both] == [hotel.now] * 2
    assert hotel.health(other).at is None


def test_a_device_is_learned_from_a_call_and_known_at_once(hotel: Hotel) -> None:
    lobby = hotel.adds("lobby")
    hotel.memory.refresh()
    facts = hotel.memory.find("lobby")
    assert facts is not None
    hotel.memory.learn(facts, "dev-1")
    hotel.pings(gw_id="", device_id="dev-1")
    assert hotel.health(lobby).at == hotel.now


def test_an_unknown_gateway_that_pings_gets_into_the_inbox_once(hotel: Hotel) -> None:
    hotel.memory.refresh()
    for _ in range(3):
        hotel.pings(gw_id="Sauna")
    assert hotel.inbox() == ["Sauna"]
    hotel.memory.refresh()
    hotel.pings(gw_id="sauna", uptime=120)
    assert hotel.inbox() == ["Sauna"]


def test_a_flood_of_unknown_gateways_writes_a_few_rows_a_second(hotel: Hotel) -> None:
    hotel.memory.refresh()
    for number in range(500):
        hotel.memory.note(f"invented-{number}", "", Dialect.CLASSIC, hotel.now)
    assert len(hotel.inbox()) == Gateways.NOTES_BURST
    hotel.seconds += 3
    for number in range(500):
        hotel.memory.note(f"later-{number}", "", Dialect.CLASSIC, hotel.now)
    assert len(hotel.inbox()) == Gateways.NOTES_BURST + 3


def test_a_ping_of_nobody_known_by_device_leaves_nothing(hotel: Hotel) -> None:
    hotel.pings(gw_id="", device_id="dev-9")
    assert hotel.inbox() == []


def test_a_device_that_another_network_claims_does_not_lend_its_key(hotel: Hotel) -> None:
    lobby = hotel.adds("lobby", device_id="dev-1")
    hotel.pings(hotel.makes_key(lobby))
    with hotel.store.transaction() as db:
        other = networks.add(db, "mallory", "Mallory", hotel.now)
        claims = gateways.add(db, other.id, "claims", hotel.now)
        gateways.learn_device(db, claims.id, "dev-1")
    key = hotel.makes_key(claims)
    hotel.memory.refresh()
    assert hotel.trust(key, "claims") is Trust.KEYED
    assert hotel.trust(key, "lobby") is Trust.KEY_MISSING


def test_a_router_whose_pings_alone_carry_the_key_raises_an_alarm(hotel: Hotel) -> None:
    lobby = hotel.adds("lobby")
    key = hotel.makes_key(lobby)
    hotel.memory.refresh()
    hotel.pings(key)
    hotel.memory.refresh()
    facts = hotel.memory.find("lobby")
    assert facts is not None
    hotel.memory.miss_key([facts], hotel.now)
    assert hotel.health(lobby).key_missing
    hotel.now += timedelta(seconds=50)
    hotel.pings(key)
    assert hotel.health(lobby).key_missing, "a ping with the key says nothing about the other line"
    hotel.now += timedelta(seconds=60)
    hotel.pings(key)
    assert not hotel.health(lobby).key_missing
