"""What must hold while things break: nobody thrown off, nothing acknowledged lost, nothing spent twice.

Judged from outside: by what the emulated gateways sent, heard and did, and by the books once all is over.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import gevent
import pytest
from gevent.event import Event
from sqlalchemy import make_url

from portal import grants, networks, sessions
from portal.emulator import Gateway
from tests.conftest import Cluster
from tests.journeys.live import Live
from tests.rig.conftest import Venue

STALL_SECONDS = 60


class Traffic:
    """Guests that move bytes while their gateways report, each in a loop of its own, until told to stop."""

    def __init__(self, venue: Venue) -> None:
        self._over = Event()
        self._tasks = [gevent.spawn(self._report, gateway) for gateway in venue.gateways]
        self._tasks.append(gevent.spawn(self._move, venue))

    def _report(self, gateway: Gateway) -> None:
        for round_number in itertools.count():
            if self._over.wait(0.3):
                return
            if round_number % 5 == 0:
                gateway.ping()
            gateway.cycle()

    def _move(self, venue: Venue) -> None:
        while not self._over.wait(0.05):
            for number, guest in enumerate(venue.guests):
                guest.download(1000 + number)
                guest.upload(100)

    def stop(self) -> None:
        self._over.set()
        gevent.joinall(self._tasks, raise_error=True)


def settled(venue: Venue, seconds: float = 10) -> tuple[int, int]:
    """What is charged once everything that was reported has been written."""
    end = time.monotonic() + seconds
    while venue.live.charged() != venue.reported() and time.monotonic() < end:
        gevent.sleep(0.1)
    return venue.live.charged()


def test_a_minute_without_the_database_throws_nobody_off_and_loses_nothing(venue_on: Callable[..., Venue]) -> None:
    venue = venue_on()
    for name in ("gw-1", "gw-2"):
        gateway = venue.opens(name)
        for _ in range(8):
            venue.comes_online(gateway)
    newcomer = venue.newcomer(venue.gateways[0])
    token = venue.token(venue.gateways[0], newcomer)
    traffic = Traffic(venue)
    gevent.sleep(2)
    begun = time.monotonic()
    with venue.live.stalled_database():
        gevent.sleep(STALL_SECONDS)
    back = time.monotonic()
    while not newcomer.online and time.monotonic() < back + 10:
        newcomer.present(token)
        gevent.sleep(0.05)
    healed = time.monotonic() - back
    gevent.sleep(2)
    traffic.stop()

    during = [call for gateway in venue.gateways for call in gateway.calls if begun <= call.at <= back]
    polls = [call for call in during if call.stage == "counters"]
    assert len(polls) > 500, "the gateways went on asking"
    assert max(call.seconds for call in during) <= 1.0 + 0.25, (
        "an answer within the second, and the machine's own delay"
    )
    assert {call.code for call in polls} <= {1, -1}, "never 0"
    assert all(call.code == 1 for call in during if call.stage == "ping"), "a heartbeat needs no database"
    assert [gateway.evictions for gateway in venue.gateways] == [[], []]
    assert all(guest.online for guest in venue.guests)
    assert healed < 3, f"a new guest was let in only {healed:.1f} s after the database was back"
    for gateway in venue.gateways:
        gateway.cycle()
    assert settled(venue) == venue.reported()
    assert venue.live.stop() == 0


def test_kill_9_of_the_server_under_polls_loses_and_doubles_nothing(venue_on: Callable[..., Venue]) -> None:
    venue = venue_on()
    gateway = venue.opens("gw-1")
    for _ in range(8):
        venue.comes_online(gateway)
    traffic = Traffic(venue)
    for _ in range(3):
        gevent.sleep(1)
        venue.live.kill()
        gevent.sleep(0.3)
        venue.live.start()
    gevent.sleep(1)
    traffic.stop()
    gateway.cycle()
    assert all(guest.online for guest in venue.guests)
    assert settled(venue) == venue.reported()


def test_kill_9_of_postgresql_under_polls_loses_and_doubles_nothing(venue_on: Callable[..., Venue]) -> None:
    venue = venue_on()
    gateway = venue.opens("gw-1")
    for _ in range(8):
        venue.comes_online(gateway)
    traffic = Traffic(venue)
    for _ in range(3):
        gevent.sleep(1)
        os.kill(venue.live.database_processes()[0], signal.SIGKILL)
        gevent.sleep(2)
    traffic.stop()
    assert all(guest.online for guest in venue.guests)
    assert {call.code for call in gateway.calls if call.stage == "counters"} <= {1, -1}
    end = time.monotonic() + 15
    while not all(call.code == 1 for call in itertools.islice(reversed(gateway.calls), 8)):
        assert time.monotonic() < end, "the server does not come back"
        gevent.sleep(0.5)
        gateway.cycle()
    gateway.cycle()
    assert settled(venue) == venue.reported()


def test_after_an_hour_without_the_server_nobody_is_taken_for_silent(
    venue_on: Callable[..., Venue], database_url: str
) -> None:
    venue = venue_on(database_url=database_url)
    gateway = venue.opens("gw-1")
    for _ in range(3):
        venue.comes_online(gateway)
    assert venue.live.stop() == 0
    venue.live.change("UPDATE session SET reported_at = reported_at - INTERVAL '1 hour'")
    venue.live.change("DELETE FROM job")
    venue.live.start()
    end = time.monotonic() + 15
    while venue.live.one("SELECT count(*) FROM job WHERE name = 'silence' AND leased_until IS NULL")[0] == 0:
        assert time.monotonic() < end, "nobody looks for the silent"
        gevent.sleep(0.1)
    assert venue.live.one("SELECT count(*) FROM session WHERE state = 'active'")[0] == 3
    gateway.cycle()
    assert all(guest.online for guest in venue.guests)
    assert venue.live.stop() == 0


def test_sixteen_racers_in_three_processes_spend_a_code_once(venue_on: Callable[..., Venue]) -> None:
    venue = venue_on(server__workers="3")
    gateway = venue.opens("gw-1")
    single: networks.Plan = venue.live.plan(venue.network, "One device", minutes=60, devices=1)
    for _ in range(5):
        racers = [venue.newcomer(gateway) for _ in range(16)]
        first = venue.token(gateway, racers[0], single)
        grant_id = venue.live.one('SELECT max(id) FROM "grant"')[0]
        tokens = [first] + [mint(venue, gateway, racer.mac, grant_id) for racer in racers[1:]]
        runs = [gevent.spawn(racer.present, token) for racer, token in zip(racers, tokens, strict=True)]
        gevent.joinall(runs, raise_error=True)
        gateway.cycle()
        assert sum(racer.online for racer in racers) == 1
        started = venue.live.one("SELECT count(*) FROM session WHERE grant_id = :g AND state = 'active'", g=grant_id)
        assert started == (1,)
        for racer in racers:
            racer.log_out()


def mint(venue: Venue, gateway: Gateway, mac: str, grant_id: int) -> str:
    with venue.live.store.transaction() as db:
        now = venue.live.store.database_now()
        return sessions.open(
            db,
            venue.live.keyring,
            network_id=venue.network.id,
            gateway_id=venue.ids[gateway.settings.gw_id],
            grant=grants.load(db, grant_id, now),
            mac=mac,
            device="phone",
            language="en",
            terms_version=None,
            now=now,
        )


def test_a_worker_that_dies_is_started_again(venue_on: Callable[..., Venue]) -> None:
    venue = venue_on(server__workers="2")
    assert venue.live.process is not None
    leader = venue.live.process.pid
    first = workers_of(leader)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    end = time.monotonic() + 15
    while len(workers_of(leader)) < 2 or first[0] in workers_of(leader):
        assert time.monotonic() < end
        gevent.sleep(0.1)
    gateway = venue.opens("gw-1")
    venue.comes_online(gateway)
    with urlopen(f"{venue.live.url}/metrics", timeout=5) as answer:
        shown = answer.read().decode()
    assert 'worker="1"' in shown, "a scrape of any worker shows them all"
    assert 'worker="2"' in shown
    assert venue.live.stop() == 0, venue.live.said()


def test_a_worker_that_died_just_before_the_stop_does_not_spoil_it(venue_on: Callable[..., Venue]) -> None:
    venue = venue_on(server__workers="2")
    assert venue.live.process is not None
    leader = venue.live.process.pid
    victim = workers_of(leader)[0]
    # The leader stands still meanwhile, so that both have happened when it looks.
    os.kill(leader, signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    end = time.monotonic() + 15
    # Over is a process whose last thread is: the first may be long gone.
    while ") Z " not in Path(f"/proc/{victim}/stat").read_text() or len(os.listdir(f"/proc/{victim}/task")) > 1:
        assert time.monotonic() < end
        gevent.sleep(0.01)
    os.kill(leader, signal.SIGTERM)
    os.kill(leader, signal.SIGCONT)
    assert venue.live.process.wait(30) == 0, venue.live.said()


def test_a_server_whose_workers_cannot_start_says_why_and_ends_with_1(
    directory: Path, database_url: str, cluster: Cluster
) -> None:
    name = make_url(database_url).database
    cluster.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    live = Live(directory, database_url, server__workers="2")
    try:
        with pytest.raises(AssertionError, match=r"serve\.py ended with 1:"):
            live.start()
    finally:
        live.close()
    assert "cannot start: the database has synchronous_commit = off" in live.said()
    assert "Traceback" not in live.said(), live.said()


def test_workers_make_room_when_their_leader_is_gone(venue_on: Callable[..., Venue]) -> None:
    venue = venue_on(server__workers="2")
    assert venue.live.process is not None
    left = workers_of(venue.live.process.pid)
    venue.live.kill()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in left):
        assert time.monotonic() < end, "workers hold the address that their leader's successor needs"
        gevent.sleep(0.05)
    venue.live.start()
    assert venue.live.stop() == 0


def workers_of(leader: int) -> list[int]:
    children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
    return [int(pid) for pid in children if b"--worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
