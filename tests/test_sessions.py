"""Stories of guests online: who is let in, what is charged, who is cut off, and what nobody can spend twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta

import gevent
import gevent.event
import pytest

from portal import sessions
from portal.access import Answer, Reason
from portal.config import Database
from portal.keys import Keyring
from portal.ledger import roll_usage
from portal.store import Store, limits_from, sql
from tests.worlds import Cafe, Call

ALLOW, DENY, NEUTRAL = Answer.ALLOW, Answer.DENY, Answer.NO_OPINION


@pytest.fixture
def cafe(store: Store, keyring: Keyring) -> Iterator[Cafe]:
    cafe = Cafe(store, keyring)
    yield cafe
    cafe.close()


def test_a_guest_signs_in_is_counted_and_logs_out(cafe: Cafe) -> None:
    grant = cafe.grant(bytes=1_000_000)
    phone = cafe.phone()
    assert phone.comes_online(grant).answer is ALLOW
    assert phone.polls(1000, 100).answer is ALLOW
    assert phone.polls(5000, 300).answer is ALLOW
    assert phone.logs_out(5000, 300).answer is DENY
    assert cafe.used(grant) == (5000, 300)
    assert cafe.session_of(phone.token).end_reason == "logout"
    assert phone.polls(5000, 300) == phone.polls(5000, 300)
    assert phone.polls(5000, 300).reason is Reason.LOGOUT


def test_a_sign_in_that_never_reaches_the_gateway_spends_nothing(cafe: Cafe) -> None:
    grant = cafe.grant(seconds=3600)
    cafe.phone().signs_in(grant)
    started = cafe.one('SELECT started_at FROM "grant" WHERE id = :id', id=grant.id)
    assert started == (None,)


def test_a_poll_activates_a_token_whose_login_was_lost(cafe: Cafe) -> None:
    grant = cafe.grant(seconds=3600)
    phone = cafe.phone()
    phone.signs_in(grant)
    assert phone.polls(0, 0).answer is ALLOW
    assert phone.polls(700, 70).answer is ALLOW
    assert cafe.used(grant) == (700, 70)


def test_a_made_up_token_gets_0_at_every_stage(cafe: Cafe) -> None:
    phone = cafe.phone()
    for token in ("", "GHOST", "a" * 40, "'; DROP TABLE session; --"):
        phone.token = token
        for answer in (phone.logs_in(), phone.polls(1, 1), phone.logs_out(1, 1)):
            assert (answer.answer, answer.reason) == (DENY, Reason.FORGED)


def test_a_token_is_worth_nothing_at_another_gateway_or_on_another_device(cafe: Cafe) -> None:
    grant = cafe.grant()
    phone, thief = cafe.phone(1), cafe.phone(2)
    thief.token = phone.signs_in(grant)
    assert thief.logs_in().reason is Reason.FOREIGN_STATION
    assert thief.polls(10).reason is Reason.FOREIGN_STATION
    other = cafe.new_router("gw-2")
    assert phone.moves_to(other).logs_in().reason is Reason.FOREIGN_GATEWAY
    assert phone.logs_out(10).answer is DENY
    assert phone.moves_to(cafe.router).logs_in().answer is ALLOW, "the others changed nothing"


def test_a_token_that_no_gateway_shows_in_time_is_refused(cafe: Cafe) -> None:
    phone = cafe.phone()
    phone.signs_in(cafe.grant())
    cafe.pass_time(11 * 60)
    assert phone.logs_in().reason is Reason.STALE_TOKEN


def test_a_guest_is_cut_off_at_the_poll_that_reaches_the_quota(cafe: Cafe) -> None:
    grant = cafe.grant(bytes=10_000)
    phone = cafe.phone()
    phone.comes_online(grant)
    assert phone.polls(9_000, 999).answer is ALLOW
    verdict = phone.polls(9_000, 1_000)
    assert (verdict.answer, verdict.reason) == (DENY, Reason.DATA_OVER)
    ended = cafe.session_of(phone.token)
    assert ended.end_reason == "data_over"
    assert ended.verdict_facts is not None
    assert ended.verdict_facts["used_down"] == 9_000
    assert ended.verdict_facts["bytes"] == 10_000
    with pytest.raises(sessions.Refused) as refused:
        phone.signs_in(grant)
    assert refused.value.reason is Reason.DATA_OVER
    assert refused.value.grant is not None
    assert refused.value.grant.over_reason == "data_over"


def test_only_the_direction_that_the_plan_counts_is_counted(cafe: Cafe) -> None:
    grant = cafe.grant(bytes=1_000, counts="down")
    phone = cafe.phone()
    phone.comes_online(grant)
    assert phone.polls(999, 50_000).answer is ALLOW
    assert phone.polls(1_000, 50_000).reason is Reason.DATA_OVER


def test_wall_clock_time_runs_from_the_first_activation(cafe: Cafe) -> None:
    grant = cafe.grant(seconds=3600)
    phone = cafe.phone()
    phone.comes_online(grant)
    cafe.pass_time(3590)
    phone.comes_online(grant)
    assert phone.polls(1).answer is ALLOW, "a second sign-in neither restarts nor loses the time"
    cafe.pass_time(10)
    assert phone.polls(2).reason is Reason.TIME_OVER


def test_online_time_adds_the_gaps_between_reports_and_no_more_than_three_intervals_each(cafe: Cafe) -> None:
    grant = cafe.grant(seconds=600, clock="online")
    phone = cafe.phone()
    phone.comes_online(grant)
    cafe.pass_time(60)
    assert phone.polls(100).answer is ALLOW
    cafe.pass_time(1000)
    assert phone.polls(200).answer is ALLOW
    (used,) = cafe.one('SELECT used_seconds FROM "grant" WHERE id = :id', id=grant.id)
    assert 240 <= used < 243
    for _ in range(2):
        cafe.pass_time(180)
        phone.polls(300)
    assert phone.polls(300).reason is Reason.TIME_OVER


def test_a_change_of_address_costs_the_time_that_led_up_to_it(cafe: Cafe) -> None:
    grant = cafe.grant(seconds=600, clock="online")
    phone = cafe.phone()
    phone.comes_online(grant)
    for host in range(101, 106):
        cafe.pass_time(60)
        assert phone.polls(0, ip=f"10.0.0.{host}").answer is ALLOW
        assert cafe.session_of(phone.token).ip == f"10.0.0.{host}"
    (used,) = cafe.one('SELECT used_seconds FROM "grant" WHERE id = :id', id=grant.id)
    assert 300 <= used < 303


def test_a_code_whose_validity_is_over_lets_nobody_in(cafe: Cafe) -> None:
    grant = cafe.grant(valid_seconds=86400)
    phone = cafe.phone()
    phone.comes_online(grant)
    cafe.pass_time(2 * 86400)
    assert phone.polls(1).reason is Reason.EXPIRED


def test_a_daily_allowance_is_full_again_the_next_day(cafe: Cafe) -> None:
    grant = cafe.grant(period="day", period_bytes=1000)
    phone = cafe.phone()
    phone.comes_online(grant)
    assert phone.polls(1000).reason is Reason.PERIOD_DATA_OVER
    cafe.change("UPDATE grant_period SET starts = starts - 1")
    phone.comes_online(grant)
    assert phone.polls(10).answer is ALLOW
    assert cafe.used(grant) == (1010, 0)


def test_a_grant_is_over_when_nothing_comes_back_of_it(cafe: Cafe) -> None:
    grant = cafe.grant(period="day", period_bytes=1000, bytes=1500)
    phone = cafe.phone()
    phone.comes_online(grant)
    assert phone.polls(1000).reason is Reason.PERIOD_DATA_OVER
    over = 'SELECT over_reason, over_at FROM "grant" WHERE id = :id'
    assert cafe.one(over, id=grant.id) == (None, None)
    cafe.change("UPDATE grant_period SET starts = starts - 1")
    phone.comes_online(grant)
    assert phone.polls(500).reason is Reason.DATA_OVER
    assert cafe.one(over, id=grant.id).over_reason == "data_over"


def test_an_idle_guest_is_cut_off_and_the_gateways_own_ping_is_no_activity(cafe: Cafe) -> None:
    grant = cafe.grant(idle_seconds=300)
    phone = cafe.phone()
    phone.comes_online(grant)
    phone.polls(5000, 500)
    for cycle in range(1, 5):
        cafe.pass_time(60)
        assert phone.polls(5000 + 48 * cycle, 500 + 48 * cycle).answer is ALLOW
    cafe.pass_time(60)
    assert phone.polls(5240, 740).reason is Reason.IDLE


def test_a_grant_takes_as_many_devices_as_it_says_and_a_signed_out_one_makes_room(cafe: Cafe) -> None:
    grant = cafe.grant(devices=2)
    first, second, third = cafe.phone(1), cafe.phone(2), cafe.phone(3)
    assert first.comes_online(grant).answer is ALLOW
    third.signs_in(grant)
    assert second.comes_online(grant).answer is ALLOW
    assert third.logs_in().reason is Reason.DEVICES_FULL
    assert third.polls(0).reason is Reason.DEVICES_FULL
    with pytest.raises(sessions.Refused):
        third.signs_in(grant)
    first.logs_out(0)
    assert third.comes_online(grant).answer is ALLOW


def test_nobody_is_refused_because_his_own_old_session_still_hangs(cafe: Cafe) -> None:
    grant = cafe.grant(devices=1)
    phone = cafe.phone()
    phone.comes_online(grant)
    phone.polls(5000)
    old = phone.token
    assert phone.comes_online(grant).answer is ALLOW
    assert cafe.session_of(old).end_reason == "superseded"
    other = cafe.new_router("gw-2")
    assert phone.moves_to(other).comes_online(grant).answer is ALLOW, "roaming to another gateway of the network"


def test_sixteen_devices_race_for_one_code_and_one_wins(cafe: Cafe) -> None:
    grant = cafe.grant(devices=1, seconds=3600)
    phones = [cafe.phone(number) for number in range(1, 17)]
    for phone in phones:
        phone.signs_in(grant)
    racers = [gevent.spawn(phone.logs_in) for phone in phones]
    gevent.joinall(racers, raise_error=True)
    won = [racer.value for racer in racers if racer.value.answer is ALLOW]
    lost = [racer.value.reason for racer in racers if racer.value.answer is not ALLOW]
    assert len(won) == 1
    assert set(lost) <= {Reason.DEVICES_FULL, Reason.UNAVAILABLE}
    assert cafe.one("SELECT count(*) FROM session WHERE state = 'active'") == (1,)


def test_two_sign_ins_of_one_device_shown_at_two_gateways_at_once_leave_the_later_one_online(cafe: Cafe) -> None:
    first, second = cafe.phone(), cafe.phone(1, cafe.new_router("gw-2"))
    for phone in (first, second):
        phone.signs_in(cafe.grant())
    token_hash = cafe.keyring.token_hash(first.token)
    with cafe.store.transaction() as db:
        judged = sessions.activate(db, first.router, first.mac, first.ip, token_hash)
        assert judged is not None
        assert judged[0].answer is ALLOW
        login = gevent.spawn(second.logs_in)
        with gevent.Timeout(5):
            while cafe.one("SELECT count(*) FROM pg_locks WHERE NOT granted") == (0,):
                gevent.sleep(0.001)
    assert login.get(timeout=10).answer is ALLOW
    assert cafe.session_of(first.token).end_reason == "superseded"
    assert cafe.session_of(second.token).state == "active"


def test_a_kick_is_obeyed_at_the_next_poll_and_the_last_bytes_are_charged(cafe: Cafe) -> None:
    grant = cafe.grant()
    phone = cafe.phone()
    phone.comes_online(grant)
    phone.polls(1000)
    session = cafe.session_of(phone.token)
    with cafe.store.transaction() as db:
        assert sessions.end(db, session.id, session.grant_id, Reason.KICKED, cafe.store.database_now())
    verdict = phone.polls(1700, 20)
    assert (verdict.answer, verdict.reason) == (DENY, Reason.KICKED)
    assert cafe.used(grant) == (1700, 20)
    assert phone.comes_online(grant).answer is ALLOW, "a kick is no block"
    assert phone.polls(300).answer is ALLOW
    assert cafe.used(grant) == (2000, 20), "after our 0 the gateway's list entry is a new one"


def test_a_blocked_station_is_refused_until_the_block_is_over(cafe: Cafe) -> None:
    grant = cafe.grant()
    phone = cafe.phone()
    phone.comes_online(grant)
    session = cafe.session_of(phone.token)
    with cafe.store.transaction() as db:
        now = cafe.store.database_now()
        sessions.end(db, session.id, session.grant_id, Reason.KICKED, now, block=timedelta(minutes=30))
    with pytest.raises(sessions.Refused) as refused:
        phone.signs_in(grant)
    assert refused.value.reason is Reason.BLOCKED
    cafe.change("UPDATE station SET blocked_until = now() - INTERVAL '1 second'")
    assert phone.comes_online(grant).answer is ALLOW


def test_at_an_opening_hour_a_login_waits_for_its_turn(database_url: str, keyring: Keyring) -> None:
    store = Store(database_url, limits=limits_from(Database(), answer_seconds=5.0))
    cafe = Cafe(store, keyring, deadline_s=4.75)
    phone = cafe.phone()
    phone.signs_in(cafe.grant())
    over = gevent.event.Event()

    def somebody_else() -> None:
        with store.read("polls", caller="test"):
            over.wait()

    others = [gevent.spawn(somebody_else) for _ in range(Database().polls)]
    login = gevent.spawn(phone.logs_in)
    gevent.sleep(0.5)
    over.set()
    assert login.get().answer is ALLOW
    gevent.joinall(others, raise_error=True)
    cafe.close()
    store.dispose()


def test_silence_ends_a_session_and_a_later_poll_opens_it_again(cafe: Cafe) -> None:
    grant = cafe.grant(devices=1)
    phone = cafe.phone()
    phone.comes_online(grant)
    phone.polls(1000)
    cafe.pass_time(241)
    assert cafe.puts_the_silent_away() == 1
    assert cafe.session_of(phone.token).end_reason == "silent"
    assert phone.polls(1500).answer is ALLOW
    assert cafe.session_of(phone.token).state == "active"
    assert cafe.used(grant) == (1500, 0)


def test_a_venue_that_lost_its_power_is_put_away_in_small_steps(cafe: Cafe) -> None:
    for number in range(1, 6):
        cafe.phone(number).comes_online(cafe.grant())
    cafe.pass_time(241)
    cafe.phone(6).comes_online(cafe.grant())
    assert [cafe.puts_the_silent_away(most=2) for _ in range(4)] == [2, 2, 1, 0]


def test_nobody_is_silent_by_what_we_were_not_there_to_hear(cafe: Cafe) -> None:
    phone, other = cafe.phone(1), cafe.phone(2)
    phone.comes_online(cafe.grant())
    other.comes_online(cafe.grant())
    cafe.pass_time(3600)
    other.polls(1)
    back = cafe.store.database_now() - timedelta(seconds=239)
    assert cafe.puts_the_silent_away(since=back) == 0
    assert cafe.puts_the_silent_away(since=back - timedelta(seconds=2)) == 1
    assert [cafe.session_of(each.token).state for each in (phone, other)] == ["ended", "active"]
    ended = cafe.session_of(phone.token)
    assert ended.ended_at == ended.reported_at, "the end is when it was mentioned last"


def test_a_silent_session_stays_closed_when_its_device_slot_is_taken(cafe: Cafe) -> None:
    grant = cafe.grant(devices=1)
    phone, other = cafe.phone(1), cafe.phone(2)
    phone.comes_online(grant)
    cafe.pass_time(241)
    assert cafe.puts_the_silent_away() == 1
    other.comes_online(grant)
    assert phone.polls(1).reason is Reason.DEVICES_FULL


def test_a_gateway_that_comes_back_takes_nobody_from_where_he_signed_in_since(cafe: Cafe) -> None:
    grant, other = cafe.grant(), cafe.new_router("gw-2")
    phone = cafe.phone()
    phone.comes_online(grant)
    left = phone.token
    cafe.pass_time(241)
    assert cafe.puts_the_silent_away() == 1
    assert phone.moves_to(other).comes_online(grant).answer is ALLOW
    assert phone.moves_to(cafe.router).polls(1, token=left).reason is Reason.SUPERSEDED
    assert phone.moves_to(other).polls(1).answer is ALLOW
    assert phone.moves_to(cafe.router).logs_in(token=left).answer is ALLOW, "he is there, and shows it himself"


def test_a_genuine_token_without_a_row_is_neutral_for_ten_minutes(cafe: Cafe) -> None:
    phone = cafe.phone()
    phone.token = cafe.keyring.mint_token()
    assert phone.polls(1).answer is NEUTRAL
    assert phone.logs_in().answer is NEUTRAL
    cafe.sessions._unknown = {token: at - timedelta(minutes=11) for token, at in cafe.sessions._unknown.items()}
    assert phone.polls(1).answer is DENY


def test_a_logout_is_answered_0_also_where_nothing_is_known(cafe: Cafe) -> None:
    stranger, phone = cafe.phone(1), cafe.phone(2)
    stranger.token = cafe.keyring.mint_token()
    assert stranger.logs_out(1).answer is DENY
    phone.comes_online(cafe.grant())
    assert phone.logs_out(1, mac="").answer is DENY
    assert cafe.session_of(phone.token).state == "active", "nobody can tell whose logout that was"
    cafe.ledger.broken = True
    assert phone.polls(1).answer is ALLOW
    assert phone.logs_out(1).answer is DENY


def test_while_the_database_is_away_old_limits_refuse_nobody(cafe: Cafe) -> None:
    grant = cafe.grant(bytes=1000)
    phone, kicked = cafe.phone(1), cafe.phone(2)
    phone.comes_online(grant)
    with cafe.store.transaction() as db:
        session = cafe.session_of(phone.token)
        sessions.end(db, session.id, grant.id, Reason.SILENT, cafe.store.database_now())
        db.execute(sql("test.spend", 'UPDATE "grant" SET used_down = 1000 WHERE id = :id'), {"id": grant.id})
    kicked.comes_online(other := cafe.grant())
    with cafe.store.transaction() as db:
        session = cafe.session_of(kicked.token)
        sessions.end(db, session.id, other.id, Reason.KICKED, cafe.store.database_now())
    assert (phone.polls(1).reason, kicked.polls(1).reason) == (Reason.DATA_OVER, Reason.KICKED)
    cafe.ledger.broken = True
    assert (phone.polls(2).answer, kicked.polls(2).answer) == (NEUTRAL, DENY)


def test_a_login_again_with_an_active_token_resets_nothing(cafe: Cafe) -> None:
    grant = cafe.grant()
    phone = cafe.phone()
    phone.comes_online(grant)
    phone.polls(4000)
    assert phone.logs_in().answer is ALLOW
    assert phone.polls(4500).answer is ALLOW
    assert cafe.used(grant) == (4500, 0)


class TestCounterLines:
    """Where reported growth goes: charged equals reported, to the byte."""

    def test_a_new_token_on_the_same_list_entry_is_charged_from_where_the_entry_stood(self, cafe: Cafe) -> None:
        first, second = cafe.grant(), cafe.grant()
        phone = cafe.phone()
        phone.comes_online(first)
        phone.polls(155_103, 3212)
        phone.comes_online(second)
        phone.polls(155_103, 3212)
        phone.polls(155_203, 3213)
        assert cafe.used(first) == (155_103, 3212)
        assert cafe.used(second) == (100, 1)

    def test_after_a_logout_the_entry_starts_at_zero(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000)
        phone.logs_out(1000)
        phone.comes_online(grant)
        phone.polls(5000)
        assert cafe.used(grant) == (6000, 0)

    def test_a_denial_that_was_lost_leaves_the_line_as_it_was(self, cafe: Cafe) -> None:
        grant = cafe.grant(bytes=1000)
        phone = cafe.phone()
        phone.comes_online(grant)
        assert phone.polls(1000).answer is DENY
        assert phone.polls(1300).answer is DENY
        cafe.change('UPDATE "grant" SET bytes = NULL')
        phone.comes_online(grant)
        phone.polls(50)
        assert cafe.used(grant) == (1350, 0)

    def test_a_restarted_gateway_starts_its_entries_anew(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        cafe.heartbeat(1000)
        phone.comes_online(grant)
        phone.polls(5000, 100)
        cafe.heartbeat(5)
        phone.comes_online(grant)
        phone.polls(9000, 200)
        assert cafe.used(grant) == (14_000, 300)

    def test_totals_carried_over_a_restart_go_on(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        cafe.heartbeat(1000)
        phone.comes_online(grant)
        phone.polls(5000, 100)
        cafe.heartbeat(5)
        phone.polls(5200, 110)
        assert cafe.used(grant) == (5200, 110)

    def test_a_lower_value_after_a_restart_is_a_new_start(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        cafe.heartbeat(1000)
        phone.comes_online(grant)
        phone.polls(5000, 100)
        cafe.heartbeat(5)
        phone.polls(200, 10)
        assert cafe.used(grant) == (5200, 110)

    def test_an_unannounced_decrease_is_held_until_the_next_report_confirms_it(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(5000, 100)
        phone.polls(300, 10)
        assert cafe.used(grant) == (5000, 100)
        phone.polls(400, 12)
        assert cafe.used(grant) == (5400, 112)

    def test_a_late_or_repeated_old_report_is_never_charged(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000, 10)
        phone.polls(5000, 100)
        phone.polls(1000, 10)
        phone.polls(1000, 10)
        phone.polls(5000, 100)
        phone.polls(5100, 110)
        assert cafe.used(grant) == (5100, 110)

    def test_a_logout_confirms_a_held_decrease(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(5000, 100)
        phone.polls(300, 10)
        phone.logs_out(300, 10)
        assert cafe.used(grant) == (5300, 110)

    def test_a_second_address_is_a_second_line_and_its_logout_ends_only_itself(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000)
        phone.polls(70, ip="10.0.0.99")
        phone.logs_out(1000)
        assert cafe.session_of(phone.token).state == "active"
        phone.polls(90, ip="10.0.0.99")
        assert cafe.used(grant) == (1090, 0)
        phone.logs_out(90, ip="10.0.0.99")
        assert cafe.session_of(phone.token).end_reason == "logout"

    def test_a_logout_from_an_address_never_reported_ends_a_session_whose_other_one_is_quiet(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000)
        cafe.pass_time(241)
        phone.logs_out(300, ip="10.0.0.99")
        assert cafe.session_of(phone.token).end_reason == "logout"
        assert cafe.used(grant) == (1300, 0)

    def test_growth_faster_than_the_link_is_charged_when_it_has_had_the_time(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        slow = cafe.new_router("gw-slow", link_bytes_per_second=1_000_000)
        phone = cafe.phone(1, slow)
        phone.comes_online(grant)
        phone.polls(10**12)
        charged = cafe.used(grant)[0]
        assert 64 * 2**20 <= charged < 64 * 2**20 + 60_000_000
        cafe.pass_time(1000)
        phone.polls(10**12)
        assert cafe.used(grant)[0] >= charged + 1_000_000_000

    def test_a_report_written_before_ours_by_a_later_transaction_takes_nothing_back(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000, 10)
        cafe.change("UPDATE counter_line SET at = now() + INTERVAL '1 second'")
        phone.polls(1500, 15)
        assert cafe.used(grant) == (1500, 15)

    def test_a_report_of_an_ended_session_during_a_login_on_its_entry_is_charged_once(self, cafe: Cafe) -> None:
        first, second = cafe.grant(), cafe.grant()
        phone = cafe.phone()
        phone.comes_online(first)
        phone.polls(100)
        old = cafe.session_of(phone.token)
        with cafe.store.transaction() as db:
            sessions.end(db, old.id, old.grant_id, Reason.KICKED, cafe.store.database_now())
        old_token, new_token = phone.token, phone.signs_in(second)
        with cafe.store.transaction() as db:
            assert sessions.activate(db, phone.router, phone.mac, phone.ip, cafe.keyring.token_hash(new_token))
            late = gevent.spawn(phone.polls, 150, token=old_token)
            gevent.sleep(0.1)
        assert late.get(timeout=10).reason is Reason.KICKED
        phone.polls(200)
        assert cafe.used(first)[0] + cafe.used(second)[0] == 200

    def test_a_made_up_token_on_a_guests_entry_neither_hides_nor_doubles_its_traffic(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000)
        assert phone.polls(1800, token="GHOST").reason is Reason.FORGED
        phone.comes_online(grant)
        phone.polls(2500)
        assert cafe.used(grant) == (4300, 0)

    def test_a_logout_under_a_made_up_token_is_charged_and_ends_the_life_of_the_entry(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000)
        assert phone.logs_out(1200, token="GHOST").answer is DENY
        assert cafe.session_of(phone.token).state == "active", "nobody ends another's session with a made-up token"
        phone.comes_online(grant)
        phone.polls(5000)
        assert cafe.used(grant) == (6200, 0)

    def test_what_flows_under_a_token_that_is_not_ours_to_charge_is_charged_to_the_owner_of_the_entry(
        self, cafe: Cafe
    ) -> None:
        grant = cafe.grant()
        phone, other = cafe.phone(), cafe.phone(2)
        elsewhere = cafe.phone(3, cafe.new_router("gw-2"))
        other.comes_online(cafe.grant())
        elsewhere.comes_online(cafe.grant())
        phone.comes_online(grant)
        charged, total = 0, 0
        for foreign, reason in ((other.token, Reason.FOREIGN_STATION), (elsewhere.token, Reason.FOREIGN_GATEWAY)):
            total += 1000
            phone.polls(total)
            total += 500
            assert phone.polls(total, token=foreign).reason is reason
            charged, total = charged + total, 0
            phone.comes_online(grant)
        assert cafe.used(grant) == (charged, 0)

    def test_an_old_token_buys_no_free_traffic_while_its_record_is_sought(self, cafe: Cafe) -> None:
        grant = cafe.grant(bytes=10_000)
        phone = cafe.phone()
        old = phone.signs_in(cafe.grant())
        cafe.change("DELETE FROM session")
        phone.comes_online(grant)
        phone.polls(100)
        assert phone.logs_in(token=old).answer is NEUTRAL
        for total in (1000, 50_000, 200_000):
            assert phone.polls(total, token=old).answer is NEUTRAL
        assert cafe.used(grant) == (200_000, 0)
        assert phone.polls(200_000).reason is Reason.DATA_OVER

    def test_a_logout_without_counters_ends_the_life_of_the_entry_all_the_same(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000)
        phone.logs_out(None, None)
        phone.comes_online(grant)
        phone.polls(5000)
        assert cafe.used(grant) == (6000, 0)

    def test_a_guest_who_returns_to_an_address_he_left_is_charged_each_byte_once(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000)
        phone.logs_in(ip="10.0.0.99")
        phone.polls(100, ip="10.0.0.99")
        phone.logs_out(1000)
        phone.logs_in()
        for total in (500, 600, 5000):
            phone.polls(total)
        phone.comes_online(grant)
        phone.polls(5100)
        assert cafe.used(grant) == (1000 + 100 + 5100, 0)

    def test_growth_on_an_entry_that_was_left_opens_it_again_also_when_the_login_was_lost(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000)
        phone.polls(100, ip="10.0.0.99")
        phone.logs_out(1000)
        for total in (500, 600, 5000):
            phone.polls(total)
        phone.comes_online(grant)
        phone.polls(5100)
        assert cafe.used(grant) == (1000 + 100 + 5100, 0)

    def test_an_active_token_at_an_address_of_an_earlier_session_is_charged_to_its_own_grant(self, cafe: Cafe) -> None:
        first, second = cafe.grant(), cafe.grant(bytes=5000)
        phone = cafe.phone()
        phone.comes_online(first)
        phone.polls(1000)
        phone.logs_out(1000)
        phone.moves_to(ip="10.0.0.99")
        phone.comes_online(second)
        phone.polls(100)
        phone.moves_to(ip="10.0.0.1")
        assert phone.logs_in().answer is ALLOW
        assert phone.polls(4000).answer is ALLOW
        assert phone.polls(5000).reason is Reason.DATA_OVER
        assert (cafe.used(first), cafe.used(second)) == ((1000, 0), (5100, 0))

    def test_missing_counters_change_nothing_and_the_verdict_is_given_all_the_same(self, cafe: Cafe) -> None:
        grant = cafe.grant()
        phone = cafe.phone()
        phone.comes_online(grant)
        phone.polls(1000)
        assert phone.polls(None, None).answer is ALLOW
        assert cafe.used(grant) == (1000, 0)

    def test_apfree_repeats_the_old_token_and_the_fresh_sign_in_counts(self, cafe: Cafe) -> None:
        first, second = cafe.grant(bytes=1000), cafe.grant()
        router = cafe.new_router("gw-ap", dialect="apfree", swapped=True)
        phone = cafe.phone(1, router)
        old = phone.signs_in(first)
        phone.logs_in()
        assert phone.polls(1000).reason is Reason.DATA_OVER
        phone.signs_in(second)
        assert phone.logs_in(token=old).answer is ALLOW
        assert phone.polls(1400, token=old).answer is ALLOW
        down, up = cafe.used(second)
        assert (down, up) == (1400, 0)

    def test_an_old_token_that_is_repeated_past_the_end_of_the_new_ones_session_is_refused_each_time(
        self, cafe: Cafe
    ) -> None:
        first, second = cafe.grant(bytes=1000), cafe.grant(bytes=500)
        phone = cafe.phone(1, cafe.new_router("gw-ap", dialect="apfree", swapped=True))
        old = phone.signs_in(first)
        phone.logs_in()
        assert phone.polls(1000).reason is Reason.DATA_OVER
        phone.signs_in(second)
        assert phone.logs_in(token=old).answer is ALLOW
        for _ in range(3):
            answer = phone.polls(1600, token=old)
            assert (answer.answer, answer.reason) == (DENY, Reason.DATA_OVER)

    def test_an_ended_token_of_another_station_is_refused_also_where_gateways_repeat_old_ones(self, cafe: Cafe) -> None:
        router = cafe.new_router("gw-ap", dialect="apfree", swapped=True)
        grant = cafe.grant(bytes=5000)
        gone, guest = cafe.phone(1, router), cafe.phone(2, router)
        gone.comes_online(cafe.grant())
        gone.logs_out(100)
        guest.comes_online(grant)
        assert guest.polls(3000, token=gone.token).reason is Reason.FOREIGN_STATION
        assert cafe.used(grant) == (3000, 0)


def test_a_call_about_many_guests_is_answered_in_time_and_goes_on_the_next_time(cafe: Cafe) -> None:
    cafe.ledger.deadline_s = 0.5
    phones = [cafe.phone(number) for number in range(1, 31)]
    grants = [cafe.grant(bytes=1000) for _ in phones]
    for phone, grant in zip(phones, grants, strict=True):
        phone.comes_online(grant)
    reports = [Call("counters", phone.token, phone.mac, phone.ip, 2000, 0) for phone in phones]
    with contextlib.ExitStack() as stack:
        for _ in range(limits_from(Database())["polls"].connections):
            stack.enter_context(cafe.store.transaction("polls", caller="test"))
        began = time.monotonic()
        verdicts = cafe.sessions.answer_all(cafe.router, reports)
        took = time.monotonic() - began
    assert {verdict.answer for verdict in verdicts} == {NEUTRAL}
    assert took < 2.0, "apfree waits no longer"
    cafe.ledger.deadline_s = 8.0
    assert {verdict.reason for verdict in cafe.sessions.answer_all(cafe.router, reports)} == {Reason.DATA_OVER}


class TestUpkeep:
    def test_what_is_booked_by_the_hour_is_what_was_charged_and_only_once(self, cafe: Cafe) -> None:
        phone = cafe.phone()
        phone.comes_online(cafe.grant())
        phone.polls(1000, 10)
        self.book(cafe)
        phone.polls(1700, 17)
        self.book(cafe)
        self.book(cafe)
        assert cafe.one("SELECT SUM(down), SUM(up) FROM usage_hour") == (1700, 17)

    def test_a_session_over_for_a_day_moves_out_with_its_lines_and_its_token_is_unknown(self, cafe: Cafe) -> None:
        phone = cafe.phone()
        phone.comes_online(cafe.grant())
        phone.polls(1000, 10)
        phone.logs_out(1200, 12)
        cafe.pass_time(86_500)
        self.move(cafe)
        assert cafe.one("SELECT count(*) FROM session") == (1,), "not before its bytes are booked"
        self.book(cafe)
        self.move(cafe)
        assert cafe.one("SELECT count(*) FROM session") == (0,)
        kept = cafe.one("SELECT used_down, used_up, end_reason, lines FROM ended_session")
        assert kept[:3] == (1200, 12, "logout")
        assert kept[3] == [{"ip": phone.ip, "down": 1200, "up": 12}]
        assert phone.polls(1300, 13).answer is NEUTRAL

    def test_a_token_that_was_never_shown_is_forgotten_after_a_day(self, cafe: Cafe) -> None:
        cafe.phone().signs_in(cafe.grant())
        cafe.pass_time(86_500)
        with cafe.store.transaction() as db:
            assert sessions.forget_minted(db, cafe.store.database_now()) == 1

    def book(self, cafe: Cafe) -> None:
        with cafe.store.transaction() as db:
            roll_usage(db, cafe.store.database_now())

    def move(self, cafe: Cafe) -> None:
        with cafe.store.transaction() as db:
            sessions.archive(db, cafe.store.database_now())
