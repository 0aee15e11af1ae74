"""Grants: what each day, week or month gives begins anew at the network's midnight, not at ours."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from portal.access import Answer, Reason
from portal.keys import Keyring
from portal.store import Store
from portal.web.guest.words import next_period
from tests.worlds import Cafe

# At any moment at least one of them has another date than UTC.
ZONES = ("Pacific/Kiritimati", "Pacific/Pago_Pago")


@pytest.fixture
def cafe(store: Store, keyring: Keyring) -> Iterator[Cafe]:
    cafe = Cafe(store, keyring)
    yield cafe
    cafe.close()


def began(period: str, zone: str, now: datetime) -> date:
    """The first day of the period that `now` falls in; weeks begin on Mondays."""
    today = now.astimezone(ZoneInfo(zone)).date()
    if period == "day":
        return today
    return today - timedelta(days=today.weekday()) if period == "week" else today.replace(day=1)


@pytest.mark.parametrize("period", ["day", "week", "month"])
def test_an_allowance_begins_anew_at_midnight_where_the_network_is(cafe: Cafe, period: str) -> None:
    for number, zone in enumerate(ZONES, 1):
        cafe.change("UPDATE network SET time_zone = :zone", zone=zone)
        grant = cafe.grant(period=period, period_bytes=1000)
        phone = cafe.phone(number)
        earlier = datetime.now(UTC)
        phone.comes_online(grant)
        assert phone.polls(1000).reason is Reason.PERIOD_DATA_OVER
        starts = cafe.one("SELECT starts FROM grant_period WHERE grant_id = :id", id=grant.id)[0]
        assert starts in {began(period, zone, earlier), began(period, zone, datetime.now(UTC))}, zone

        cafe.change("UPDATE grant_period SET starts = starts - 1 WHERE grant_id = :id", id=grant.id)
        assert phone.comes_online(grant).answer is Answer.ALLOW, "what an earlier period has used is no matter"
        assert phone.polls(1).answer is Answer.ALLOW
        rows = cafe.one("SELECT count(*), sum(used_down) FROM grant_period WHERE grant_id = :id", id=grant.id)
        assert tuple(rows) == (2, 1001)


@pytest.mark.parametrize("zone", ZONES)
def test_a_last_day_is_a_whole_day_where_the_network_is(cafe: Cafe, zone: str) -> None:
    cafe.change("UPDATE network SET time_zone = :zone", zone=zone)
    earlier = datetime.now(ZoneInfo(zone)).date()
    end = cafe.grant(valid_seconds=2 * 86_400).valid_until
    assert end is not None
    local = end.astimezone(ZoneInfo(zone))
    assert local.time() == time()
    assert local.date() - timedelta(days=3) in {earlier, datetime.now(ZoneInfo(zone)).date()}


@pytest.mark.parametrize(
    ("period", "zone", "now", "anew"),
    [
        ("day", "Europe/Berlin", "2026-03-28T22:59:59", "2026-03-28T23:00:00"),
        ("day", "Europe/Berlin", "2026-03-28T23:00:00", "2026-03-29T22:00:00"),  # the clocks change that night
        ("week", "Europe/Berlin", "2026-03-29T12:00:00", "2026-03-29T22:00:00"),  # a Sunday
        ("week", "Europe/Berlin", "2026-03-30T12:00:00", "2026-04-05T22:00:00"),  # a Monday
        ("month", "Pacific/Kiritimati", "2026-12-31T09:59:59", "2026-12-31T10:00:00"),
        ("month", "Pacific/Kiritimati", "2026-12-31T10:00:00", "2027-01-31T10:00:00"),  # January there already
        ("month", "Pacific/Pago_Pago", "2026-02-01T10:59:59", "2026-02-01T11:00:00"),  # still January
    ],
)
def test_a_guest_is_told_when_that_is(period: str, zone: str, now: str, anew: str) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert next_period(period, zone, moment) == datetime.fromisoformat(anew).replace(tzinfo=UTC)
