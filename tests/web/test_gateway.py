"""The gateways' door, where it does more than hand a report on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from portal import gateways, networks
from portal.gateways import Gateways, Ping
from portal.keys import Keyring
from portal.ledger import Ledger
from portal.metrics import Metrics
from portal.sessions import Sessions
from portal.store import Store, Unavailable
from portal.web.gateway import RAW, GatewayDoor, Heard
from portal.wifidog import Answer, Heartbeat


def test_calls_about_guests_without_the_key_are_answered_neutrally_and_raise_an_alarm(
    store: Store, keyring: Keyring
) -> None:
    now = store.database_now()
    with store.transaction() as db:
        network = networks.add(db, "linde", "Linde", now)
        lobby = gateways.add(db, network.id, "lobby", now)
        key = gateways.make_key(db, keyring, lobby.id, now)
    memory = Gateways(store)
    memory.refresh()
    beat = Heartbeat("lobby", "", key, None, None, None, 60)
    memory.hear([Ping(beat, "198.51.100.7", "WiFiDog 1.3.0")], now - timedelta(seconds=5))
    memory.refresh()
    heard = Heard(store, memory, lambda: None)
    door = GatewayDoor(Sessions(store, Ledger(store), keyring), memory, heard, Metrics())

    def asks(query: str) -> Any:
        return door({"PATH_INFO": "/auth/", "QUERY_STRING": query}, lambda *_: None)

    call = "stage=counters&ip=10.0.0.1&mac=02:00:00:00:00:01&token=x&incoming=1&outgoing=1&gw_id=lobby"
    assert asks(f"k={key}&{call}") is RAW[Answer.DENY]
    heard.write()
    with store.read() as db:
        health = gateways.health(db, lobby.id, now)
    assert health is not None
    assert not health.key_missing
    assert asks(call) is RAW[Answer.NEUTRAL]
    assert asks(call.replace("counters", "logout")) is RAW[Answer.DENY]
    heard.write()
    with store.read() as db:
        health = gateways.health(db, lobby.id, now)
    assert health is not None
    assert health.key_missing


def test_a_heartbeat_that_could_not_be_written_is_written_without_another_call(store: Store) -> None:
    calls: list[str] = []
    away = Store("postgresql://nobody@127.0.0.1:1/none")
    heard = Heard(store, Gateways(away), lambda: calls.append("wake"))
    heard.heartbeat(Heartbeat("attic", "", "", None, None, None, 60), "198.51.100.7", "WiFiDog 1.3.0")
    calls.clear()
    with pytest.raises(Unavailable):
        heard.write()
    assert calls == ["wake"], "whoever writes is called again"
