"""Wrong tries are counted in the database: for a station, for a network, across connections, and forgiven by time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import gevent
import pytest
from sqlalchemy import Connection

from portal import throttle
from portal.store import Store, sql
from portal.throttle import Bucket, Budget

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
TEN = Bucket("ten", Budget(burst=10, per_minute=60.0))


def level(db: Connection, bucket: Bucket, seconds: float = 0) -> float:
    return throttle.levels(db, [bucket], NOW + timedelta(seconds=seconds))[0].tokens


def test_a_bucket_nobody_used_is_full(db: Connection) -> None:
    assert throttle.levels(db, [TEN], NOW) == [throttle.Level(10.0, None)]


def test_what_is_spent_comes_back_with_time_and_never_above_the_brim(db: Connection) -> None:
    for left in (9, 8, 7):
        assert throttle.spend(db, TEN, NOW) == left
    assert level(db, TEN, seconds=1.5) == 8.5
    assert level(db, TEN, seconds=60) == 10
    assert throttle.spend(db, TEN, NOW + timedelta(hours=1)) == 9


def test_what_is_spent_beyond_the_content_is_owed_down_to_a_floor(db: Connection) -> None:
    for _ in range(100):
        throttle.spend(db, TEN, NOW)
    assert level(db, TEN) == -30
    assert level(db, TEN, seconds=31) == 1


def test_a_clock_that_steps_back_refills_nothing(db: Connection) -> None:
    for _ in range(10):
        throttle.spend(db, TEN, NOW)
    assert throttle.spend(db, TEN, NOW - timedelta(hours=1)) == -1
    assert level(db, TEN, seconds=2) == 1


def test_forty_spenders_at_once_spend_forty(store: Store) -> None:
    many = Bucket("many", Budget(burst=100, per_minute=0.0))

    def spend() -> None:
        with store.transaction() as db:
            throttle.spend(db, many, NOW)

    gevent.joinall([gevent.spawn(spend) for _ in range(40)], raise_error=True)
    with store.read() as db:
        assert level(db, many) == 60


def test_refilling_forgives_at_once(db: Connection) -> None:
    throttle.spend(db, TEN, NOW)
    throttle.refill(db, [TEN])
    assert level(db, TEN) == 10


def test_buckets_are_forgotten_when_they_are_full_again_unless_they_are_meant_to_last(db: Connection) -> None:
    lasting = Bucket("lasting tries", Budget(burst=100, per_minute=0.0))
    throttle.spend(db, TEN, NOW)
    throttle.spend(db, lasting, NOW)
    assert throttle.forget(db, NOW + timedelta(minutes=90)) == 0
    assert throttle.forget(db, NOW + timedelta(hours=3)) == 1
    assert level(db, lasting, seconds=1e6) == 99


@pytest.mark.parametrize("bucket", [throttle.NETWORK_FAILURES, throttle.STATION_FAILURES])
def test_a_guests_bucket_is_full_again_before_it_may_be_forgotten(bucket: Budget) -> None:
    owed = bucket.burst * (1 + throttle.DEBT)
    assert timedelta(minutes=owed / bucket.per_minute) < throttle.KEEP


def test_a_guest_with_few_typos_notices_nothing(db: Connection) -> None:
    for _ in range(9):
        throttle.guest_failed(db, 1, 1, "02:00:00:00:00:01", NOW)
    assert throttle.guest_hurdle(db, 1, 1, "02:00:00:00:00:01", NOW) == throttle.Hurdle(0, 0.0)


def test_a_station_that_guesses_is_asked_to_wait_and_its_neighbours_are_not(db: Connection) -> None:
    for _ in range(10):
        throttle.guest_failed(db, 1, 1, "02:00:00:00:00:01", NOW)
    assert throttle.guest_hurdle(db, 1, 1, "02:00:00:00:00:01", NOW) == throttle.Hurdle(30, 0.0)
    assert throttle.guest_hurdle(db, 1, 1, "02:00:00:00:00:02", NOW) == throttle.Hurdle(0, 0.0)
    later = NOW + timedelta(seconds=31)
    assert throttle.guest_hurdle(db, 1, 1, "02:00:00:00:00:01", later).wait_seconds == 0


def test_an_attack_with_many_macs_slows_its_network_and_shuts_nobody_out(db: Connection) -> None:
    for number in range(200):
        throttle.guest_failed(db, 1, 1, f"02:00:00:00:00:{number:02x}", NOW)
    assert throttle.guest_hurdle(db, 1, 1, "06:00:00:00:00:01", NOW) == throttle.Hurdle(0, throttle.SLOWED_SECONDS)
    assert throttle.guest_hurdle(db, 2, 2, "06:00:00:00:00:01", NOW) == throttle.Hurdle(0, 0.0)


def test_an_attack_with_many_macs_does_not_fill_the_table(db: Connection) -> None:
    for number in range(1000):
        throttle.guest_failed(db, 1, 1, f"02:00:00:00:{number // 256:02x}:{number % 256:02x}", NOW)
    assert db.execute(sql("test.count", "SELECT count(*) FROM throttle")).scalar_one() < 150


def test_guests_of_a_gateway_that_tells_no_mac_do_not_share_a_budget_of_ten(db: Connection) -> None:
    for _ in range(20):
        throttle.guest_failed(db, 1, 1, None, NOW)
    assert throttle.guest_hurdle(db, 1, 1, None, NOW) == throttle.Hurdle(0, 0.0)
