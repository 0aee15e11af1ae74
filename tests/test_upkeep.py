"""What is put away, and when: never by a silence that nobody was there to hear."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from portal.config import Retention
from portal.keys import Keyring
from portal.store import Store
from portal.upkeep import LISTENING_GAP, Listening, tasks
from tests.worlds import Cafe

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def cafe(store: Store, keyring: Keyring) -> Iterator[Cafe]:
    cafe = Cafe(store, keyring)
    yield cafe
    cafe.close()


def test_who_has_not_begun_to_listen_has_heard_nothing() -> None:
    assert Listening().since(at(0)) == at(0)


def test_listening_goes_on_from_sign_to_sign() -> None:
    listening = Listening()
    for seconds in range(0, 1000, 11):
        listening.go_on(at(seconds))
    assert listening.since(at(1000)) == at(0)


def test_a_gap_begins_it_anew_also_before_the_next_sign() -> None:
    listening = Listening()
    listening.go_on(at(0))
    listening.go_on(at(10))
    back = at(10) + LISTENING_GAP + timedelta(seconds=1)
    assert listening.since(back) == back, "whoever asks first after the gap"
    listening.go_on(back)
    assert listening.since(back + timedelta(seconds=5)) == back


def test_a_clock_that_is_moved_makes_nobody_silent() -> None:
    listening = Listening()
    for seconds in (0, 10, 3600, 3610, 600):
        listening.go_on(at(seconds))
    assert listening.since(at(605)) == at(3600), "back: later than the truth, and so safe"


def test_the_task_counts_silence_from_when_we_listened(cafe: Cafe) -> None:
    listening = Listening()
    [silence] = [work for name, _, work in tasks(cafe.store, Retention(), listening) if name == "silence"]
    cafe.phone().comes_online(cafe.grant())
    cafe.pass_time(3600)
    now = cafe.store.database_now()
    assert silence(now) == 0, "we were not there"
    for seconds in range(0, 250, 10):
        listening.go_on(now + timedelta(seconds=seconds))
    assert silence(now + timedelta(seconds=239)) == 0
    assert silence(now + timedelta(seconds=241)) == 1
