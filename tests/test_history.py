"""What the desk is told about a network: who is online, what was moved when, and nothing of anybody else's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from portal import history
from portal.keys import Keyring
from portal.ledger import roll_usage
from portal.store import Store, models
from tests.worlds import Cafe


@pytest.fixture
def cafe(store: Store, keyring: Keyring) -> Iterator[Cafe]:
    cafe = Cafe(store, keyring)
    yield cafe
    cafe.close()


def midnight_of(now: datetime) -> datetime:
    return now - timedelta(hours=6)


def figures(cafe: Cafe) -> history.Figures:
    now = cafe.store.database_now()
    with cafe.store.read("operators") as db:
        return history.figures(db, cafe.network_id, midnight_of(now), now)


def live(cafe: Cafe, text: str = "", **options: object) -> list[history.Row]:
    now = cafe.store.database_now()
    with cafe.store.read("operators") as db:
        return history.live(db, cafe.network_id, now, text=text, **options)  # type: ignore[arg-type]


def test_a_day_counts_who_is_online_who_came_and_what_was_moved(cafe: Cafe) -> None:
    ana, ben = cafe.phone(1), cafe.phone(2)
    ana.comes_online(cafe.grant())
    ana.polls(7_000, 500)
    ben.comes_online(cafe.grant())
    ben.polls(1_000, 100)
    ben.logs_out(2_000, 100)
    day = figures(cafe)
    assert (day.online, day.came_lately, day.signed_in) == (1, 2, {"voucher": 2})
    assert (day.down, day.up) == (9_000, 600)


def test_traffic_is_the_same_before_and_after_it_is_rolled_up(cafe: Cafe) -> None:
    phone = cafe.phone()
    phone.comes_online(cafe.grant())
    phone.polls(7_000, 500)
    before = figures(cafe)
    with cafe.store.transaction("jobs") as db:
        roll_usage(db, cafe.store.database_now())
    after = figures(cafe)
    phone.polls(8_000, 600)
    assert (before.down, before.up) == (after.down, after.up) == (7_000, 500)
    assert (figures(cafe).down, figures(cafe).up) == (8_000, 600)


def test_an_hour_without_traffic_is_not_listed_and_the_others_come_in_order(cafe: Cafe) -> None:
    phone = cafe.phone()
    phone.comes_online(cafe.grant())
    phone.polls(300, 30)
    now = cafe.store.database_now()
    hour = now.replace(minute=0, second=0, microsecond=0)
    cafe.change(
        """
        INSERT INTO usage_hour (hour, session_id, network_id, gateway_id, down, up)
        VALUES (CAST(:hour AS timestamptz) - INTERVAL '3 hours', 1, :network_id, 1, 40, 4)
        """,
        hour=hour,
        network_id=cafe.network_id,
    )
    with cafe.store.read("operators") as db:
        hours = history.usage(db, cafe.network_id, hour - timedelta(hours=5), hour + timedelta(hours=1))
    assert hours == [history.Hour(hour - timedelta(hours=3), 40, 4), history.Hour(hour, 300, 30)]


def test_a_search_finds_a_device_by_its_mac_its_address_and_its_gateway(cafe: Cafe) -> None:
    ana, ben = cafe.phone(1), cafe.phone(2, router=cafe.new_router("lobby"))
    grant = cafe.grant()
    ana.comes_online(grant)
    ben.comes_online(cafe.grant())
    assert [row.mac for row in live(cafe)] == [ben.mac, ana.mac]
    assert [row.mac for row in live(cafe, "0000:0002")] == [ben.mac]
    assert [row.mac for row in live(cafe, "02-00-00-00-00-01")] == [ana.mac]
    assert [row.mac for row in live(cafe, "10.0.0.2")] == [ben.mac]
    assert [row.mac for row in live(cafe, "LOBBY")] == [ben.mac]
    assert [row.mac for row in live(cafe, "no such thing", grant_ids=[grant.id])] == [ana.mac]
    assert live(cafe, "%") == []


def test_the_list_goes_on_where_the_page_before_ended(cafe: Cafe) -> None:
    for number in range(1, 4):
        cafe.phone(number).comes_online(cafe.grant())
    first = live(cafe, limit=2)
    rest = live(cafe, limit=2, before=first[-1].id)
    assert [row.mac for row in (*first, *rest)] == [cafe.phone(number).mac for number in (3, 2, 1)]


def test_a_sign_in_that_waits_for_its_gateway_is_listed_apart(cafe: Cafe) -> None:
    phone = cafe.phone()
    phone.signs_in(cafe.grant())
    assert live(cafe) == []
    assert [row.mac for row in live(cafe, minted=True)] == [phone.mac]


def test_a_session_goes_from_the_live_list_to_the_ended_one_with_its_reason(cafe: Cafe) -> None:
    phone = cafe.phone()
    phone.comes_online(cafe.grant(bytes=1_000))
    phone.polls(1_500, 0)
    now = cafe.store.database_now()
    with cafe.store.read("operators") as db:
        ended = history.ended(db, cafe.network_id, now, since=now - timedelta(days=1))
        last = ended[0].ended_at, ended[0].id
        assert history.ended(db, cafe.network_id, now, since=now - timedelta(days=1), before=last) == []
    assert live(cafe) == []
    assert [(row.mac, row.end_reason, row.used_down) for row in ended] == [(phone.mac, "data_over", 1_500)]


def test_sessions_that_end_at_the_same_moment_are_all_listed_over_the_pages(cafe: Cafe) -> None:
    for number in range(1, 6):
        cafe.phone(number).comes_online(cafe.grant())
    cafe.change("UPDATE session SET state = 'ended', end_reason = 'silent', ended_at = now()")
    now = cafe.store.database_now()
    seen: list[str | None] = []
    before = None
    with cafe.store.read("operators") as db:
        while page := history.ended(
            db, cafe.network_id, now, since=now - timedelta(days=1), before=before, limit=2, text="gw" if seen else ""
        ):
            seen += [row.mac for row in page]
            assert page[-1].ended_at is not None
            before = page[-1].ended_at, page[-1].id
    assert seen == [cafe.phone(number).mac for number in (5, 4, 3, 2, 1)]


def test_a_sessions_lines_add_up_to_what_it_was_charged(cafe: Cafe) -> None:
    phone = cafe.phone()
    phone.comes_online(cafe.grant())
    phone.polls(1_000, 10)
    phone.logs_out(1_200, 20)
    again = cafe.phone()
    again.comes_online(cafe.grant())
    again.polls(500, 5)
    session_id = cafe.session_of(phone.token).id
    with cafe.store.read("operators") as db:
        past = history.session(db, cafe.network_id, session_id)
        assert past is not None
        lines = history.lines(db, cafe.network_id, past)
    assert (past.used_down, past.used_up, past.end_reason) == (1_200, 20, "logout")
    assert (sum(line.charged_down for line in lines), sum(line.charged_up for line in lines)) == (1_200, 20)


def test_a_session_long_over_is_shown_from_what_was_kept_of_it(cafe: Cafe) -> None:
    grant = cafe.grant()
    now = cafe.store.database_now()
    cafe.change(
        """
        INSERT INTO ended_session (id, ended_at, network_id, gateway_id, grant_id, mac, ip, device, minted_at,
                                   activated_at, end_reason, used_seconds, used_down, used_up, lines)
        VALUES (4711, CAST(:now AS timestamptz) - INTERVAL '2 days', :network_id, :gateway_id, :grant_id,
                '02:00:00:00:00:09', '10.0.0.9', 'phone', CAST(:now AS timestamptz) - INTERVAL '3 days',
                CAST(:now AS timestamptz) - INTERVAL '3 days', 'idle', 60, 900, 90,
                '[{"mac": "02:00:00:00:00:09", "ip": "10.0.0.9", "closed": 2, "down": 900, "up": 90,
                   "charged_down": 900, "charged_up": 90, "at": "2026-01-01T10:00:00+00:00"}]')
        """,
        now=now,
        network_id=cafe.network_id,
        gateway_id=cafe.router.id,
        grant_id=grant.id,
    )
    with cafe.store.read("operators") as db:
        past = history.session(db, cafe.network_id, 4711)
        assert past is not None
        lines = history.lines(db, cafe.network_id, past)
        ended = history.ended(db, cafe.network_id, now, since=now - timedelta(days=30), text="10.0.0.9")
    assert (past.state, past.end_reason) == ("ended", "idle")
    assert [(line.charged_down, line.charged_up) for line in lines] == [(900, 90)]
    assert [row.id for row in ended] == [4711]


def test_another_networks_guests_are_never_told_of(cafe: Cafe) -> None:
    phone = cafe.phone()
    phone.comes_online(cafe.grant())
    phone.polls(5_000, 500)
    session_id = cafe.session_of(phone.token).id
    now = cafe.store.database_now()
    with cafe.store.transaction() as db:
        other = cafe._insert(db, models.Network, slug="other", name="Other")
    with cafe.store.read("operators") as db:
        assert history.figures(db, other, midnight_of(now), now) == history.Figures(0, 0, {}, 0, 0)
        assert history.live(db, other, now) == []
        assert history.ended(db, other, now, since=midnight_of(now)) == []
        assert history.session(db, other, session_id) is None
        assert history.online_by_gateway(db, other) == {}
        assert history.online_by_gateway(db, cafe.network_id) == {cafe.router.id: 1}
        assert history.setup(db, other) == history.Setup(0, 0, 0, 0, False, 0)


def test_what_a_network_still_lacks_is_known_step_by_step(cafe: Cafe) -> None:
    with cafe.store.read("operators") as db:
        assert history.setup(db, cafe.network_id) == history.Setup(0, 1, 0, 0, False, 0)
    cafe.heartbeat(60)
    cafe.phone().comes_online(cafe.grant())
    with cafe.store.read("operators") as db:
        assert history.setup(db, cafe.network_id) == history.Setup(1, 1, 1, 0, False, 1)
