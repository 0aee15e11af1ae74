"""The ledger's waiting: nobody for longer than the deadline, no report forgotten because nobody waits for it."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.access import Answer, Reason
from portal.keys import Keyring
from portal.ledger import IN_ORDER, TICK_SECONDS, Entry, Late, Ledger, Overloaded, Slot, arrays, settle
from portal.store import Store, sql
from tests.worlds import Cafe, Phone

DEADLINE = 0.3


@pytest.fixture
def cafe(store: Store, keyring: Keyring) -> Iterator[Cafe]:
    cafe = Cafe(store, keyring, deadline_s=DEADLINE)
    yield cafe
    cafe.close()


@pytest.fixture
def phone(cafe: Cafe) -> Phone:
    phone = cafe.phone()
    with at_leisure(cafe):
        assert phone.comes_online(cafe.grant()).answer is Answer.ALLOW
    return phone


@contextlib.contextmanager
def at_leisure(cafe: Cafe) -> Iterator[None]:
    """Where a slow machine is no reason to fail."""
    cafe.ledger.deadline_s = 8.0
    yield
    cafe.ledger.deadline_s = DEADLINE


@contextlib.contextmanager
def somebody_in_the_way(cafe: Cafe, of: str = "SELECT id FROM session FOR UPDATE") -> Iterator[None]:
    with cafe.store.transaction("operators", caller="test") as db:
        db.execute(sql("test.lock", of))
        yield


def written(cafe: Cafe) -> tuple[int, int]:
    return tuple(cafe.one("SELECT down, up FROM counter_line WHERE current"))


def test_a_report_that_was_answered_early_is_written_all_the_same(cafe: Cafe, phone: Phone) -> None:
    with somebody_in_the_way(cafe):
        begun = time.monotonic()
        assert phone.polls(1000, 10).answer is Answer.ALLOW, "known and entitled"
        assert DEADLINE * 0.9 < time.monotonic() - begun < DEADLINE + 0.2
        assert cafe.ledger.late == 1
    assert cafe.ledger.drain(10) == 0
    assert written(cafe) == (1000, 10)


def test_everybody_who_waits_for_one_report_is_told(cafe: Cafe, phone: Phone) -> None:
    with somebody_in_the_way(cafe):
        asking = [gevent.spawn(phone.polls, 1000 + turn, 10) for turn in range(5)]
        gevent.sleep(0.05)
    gevent.joinall(asking, timeout=DEADLINE + 5, raise_error=True)
    assert {task.value.reason for task in asking} == {Reason.OK}
    cafe.ledger.drain(10)
    assert written(cafe) == (1004, 10)


def test_a_request_that_is_given_up_leaves_its_report_and_the_others_alone(cafe: Cafe, phone: Phone) -> None:
    with somebody_in_the_way(cafe):
        asking = [gevent.spawn(phone.polls, 500 + turn, 10) for turn in range(3)]
        gevent.sleep(0.05)
        asking[1].kill()
    gevent.joinall(asking, timeout=DEADLINE + 5)
    assert [task.value.reason for task in (asking[0], asking[2])] == [Reason.OK, Reason.OK]
    cafe.ledger.drain(10)
    assert written(cafe) == (502, 10)


def test_a_logout_between_reports_that_cannot_be_folded_is_written(cafe: Cafe, phone: Phone) -> None:
    with somebody_in_the_way(cafe):
        asking = [gevent.spawn(phone.polls, 1000)]
        gevent.sleep(0.05)
        asking += [gevent.spawn(phone.polls, 2000), gevent.spawn(phone.logs_out, 50), gevent.spawn(phone.polls, 20)]
        gevent.sleep(0.05)
        assert cafe.ledger.waiting == 4, "one is being written, three follow it"
    gevent.joinall(asking, timeout=DEADLINE + 5)
    assert cafe.ledger.drain(10) == 0
    assert cafe.session_of(phone.token).end_reason == "logout"


@pytest.mark.parametrize("dialect", ["classic", "apfree"])
def test_a_login_is_answered_in_time_whatever_is_in_the_way(cafe: Cafe, dialect: str) -> None:
    phone = cafe.phone(router=cafe.new_router("gw-2", dialect=dialect))
    phone.signs_in(cafe.grant())
    with somebody_in_the_way(cafe):
        begun = time.monotonic()
        assert phone.logs_in().answer is Answer.NO_OPINION
        assert time.monotonic() - begun < DEADLINE + 0.2
    with at_leisure(cafe):
        assert phone.logs_in().answer is Answer.ALLOW


def test_a_poll_is_answered_in_time_also_when_its_verdict_cannot_be_carried_out(cafe: Cafe, phone: Phone) -> None:
    phone.moves_to(ip="10.0.0.99").signs_in(cafe.grant())
    with somebody_in_the_way(cafe, "SELECT id FROM session WHERE state = 'active' FOR UPDATE"):
        begun = time.monotonic()
        assert phone.polls(0).answer is Answer.NO_OPINION
        assert time.monotonic() - begun < DEADLINE + 0.2
    assert cafe.ledger.late == 0, "it was written"
    with at_leisure(cafe):
        assert phone.polls(0).answer is Answer.ALLOW


def test_a_connection_that_forgot_our_statements_costs_no_report(cafe: Cafe, phone: Phone) -> None:
    with at_leisure(cafe):
        phone.polls(500, 5)
        with cafe.store.cursor("ledger") as cursor:
            cursor.execute("DEALLOCATE /* test.forget */ ALL")
        assert phone.polls(1000, 10).answer is Answer.ALLOW
    assert cafe.ledger.drain(10) == 0
    assert (cafe.ledger.rejected, cafe.ledger.failures) == (0, 1)
    assert written(cafe) == (1000, 10)


def test_an_id_that_means_another_session_after_a_restore_charges_nobody(cafe: Cafe, phone: Phone) -> None:
    mine = cafe.one("SELECT token_hash FROM session").token_hash
    rename = "UPDATE session SET token_hash = :token_hash"
    with at_leisure(cafe):
        phone.polls(1000, 10)
        cafe.change("DELETE FROM counter_line")
        cafe.change(rename, token_hash=b"somebody else's".ljust(32))
        assert phone.polls(5000, 50).answer is Answer.NO_OPINION, "genuine, and its session not to be found"
        assert cafe.one("SELECT count(*) FROM counter_line").count == 0
        cafe.change(rename, token_hash=mine)
        assert phone.polls(6000, 60).answer is Answer.ALLOW
    assert written(cafe) == (6000, 60)


def test_reports_that_are_answered_are_not_kept_but_for_the_last_batch(cafe: Cafe, phone: Phone) -> None:
    with at_leisure(cafe):
        for turn in range(5):
            phone.polls(770_000 + turn, 10)
        gevent.sleep(5 * TICK_SECONDS)
    slots = [thing for thing in gc.get_objects() if isinstance(thing, Slot)]
    assert len([slot for slot in slots if (slot.entry.down or 0) in range(770_000, 770_005)]) <= 1


def test_of_more_tokens_than_the_lid_those_known_longest_are_forgotten_and_known_again(cafe: Cafe) -> None:
    phones = [cafe.phone(number) for number in (1, 2, 3)]
    with at_leisure(cafe):
        for phone in phones:
            assert phone.comes_online(cafe.grant()).answer is Answer.ALLOW
        cafe.ledger._lid = 2
        for phone in phones:
            for total in (1000, 2000):
                assert phone.polls(total, total).answer is Answer.ALLOW
                assert len(cafe.ledger._known) <= 2
            assert cafe.ledger.knows(cafe.keyring.token_name(phone.token))


def test_a_line_beyond_all_measure_charges_what_was_reported(cafe: Cafe) -> None:
    phone = cafe.phone(router=cafe.new_router("gw-2", link_bytes_per_second=10**16))
    with at_leisure(cafe):
        assert phone.comes_online(cafe.grant()).answer is Answer.ALLOW
        phone.polls(1000, 10)
        cafe.change("UPDATE counter_line SET at = at - INTERVAL '3 hours'")
        phone.polls(3000, 30)
    assert cafe.ledger.rejected == 0
    assert written(cafe) == (3000, 30)


def test_the_largest_counters_there_are_take_no_other_report_with_them(cafe: Cafe, phone: Phone) -> None:
    with at_leisure(cafe):
        phone.polls(1000, 10)
        for _ in range(2):
            assert phone.polls(2**63 - 1, 2**63 - 1).answer is Answer.ALLOW
    assert cafe.ledger.rejected == 0


def entry(number: int) -> Entry:
    return Entry(f"{number:064x}", number, "02:00:00:00:00:01", "", None, 5, False, True, 60, 10**12)


def test_above_the_lid_a_report_is_not_kept(cafe: Cafe) -> None:
    cafe.close()  # nothing is written
    cafe.ledger._lid = 2
    assert not cafe.ledger.enter(entry(1)).settled
    assert not cafe.ledger.enter(entry(2)).settled
    with pytest.raises(Overloaded):
        cafe.ledger.written(cafe.ledger.enter(entry(3)))
    with pytest.raises(Late):
        cafe.ledger.written(cafe.ledger.enter(entry(1)))


REPORTS = st.tuples(st.integers(1, 2), st.integers(1, 2), st.none() | st.integers(0, 3), st.booleans())
EVENTS = st.lists(REPORTS | st.sampled_from(["taken", "committed", "failed"]), max_size=60)


def covers(written: Entry, reported: Entry) -> bool:
    told = reported.down is None or (written.down is not None and written.down >= reported.down)
    return written.token_hash == reported.token_hash and told


@settings(max_examples=400)
@given(EVENTS, st.integers(1, 12), st.integers(1, 3))
def test_what_is_kept_is_written_in_order(quiet_store: Store, events: list[Any], lid: int, batch: int) -> None:
    """Whatever comes, in whatever order, and however often a write fails: by the list of waiting reports alone."""
    ledger = Ledger(quiet_store, lid=lid, batch=batch)
    flying: list[Slot] = []
    # By list entry: what was kept in its order, with how much had been written by then; logouts, kept at the lid, too,
    # though out of their order; what was written.
    kept: dict[int, list[tuple[int, Entry]]] = {1: [], 2: []}
    logouts: dict[int, list[tuple[int, Entry]]] = {1: [], 2: []}
    written: dict[int, list[Entry]] = {1: [], 2: []}

    def land() -> None:
        for slot in flying:
            written[slot.entry.gateway_id].append(slot.entry)
        settle(flying, None)
        ledger._writing = 0

    for event in [*events, *["committed", "taken"] * 100]:
        if event == "taken" and not flying:
            flying = ledger._take()
        elif event == "committed":
            land()
            flying = []
        elif event == "failed" and flying:
            ledger._requeue(flying)
            flying = []
        elif isinstance(event, tuple):
            gateway, token, total, logout = event
            report = entry(token)._replace(gateway_id=gateway, down=total, logout=logout)
            slot = ledger.enter(report)
            if slot.outcome is not Overloaded:
                so_far = len(written[gateway])
                key = (gateway, report.mac, report.ip)
                if slot is [ledger._queue[key], *ledger._later.get(key, ())][-1]:
                    kept[gateway].append((so_far, report))
                if logout:
                    logouts[gateway].append((so_far, report))
        assert ledger.waiting <= lid
    assert ledger.waiting == 0
    for gateway, log in written.items():
        place = 0
        for so_far, report in kept[gateway]:
            place = max(place, so_far)
            while not covers(log[place], report):
                place += 1
        for so_far, report in logouts[gateway]:
            assert any(each.logout and each.token_hash == report.token_hash for each in log[so_far:])


def test_of_nonsense_about_one_list_entry_little_is_kept_and_no_logout_is_lost(cafe: Cafe) -> None:
    cafe.close()  # nothing is written
    first, second = entry(1), entry(2)._replace(gateway_id=1)
    for _ in range(IN_ORDER // 2):
        cafe.ledger.enter(first)
        cafe.ledger.enter(second)
    assert cafe.ledger.waiting == IN_ORDER
    with pytest.raises(Overloaded):
        cafe.ledger.written(cafe.ledger.enter(first))
    slot = cafe.ledger.enter(first._replace(logout=True))
    assert slot.entry.logout
    assert not slot.settled
    assert cafe.ledger.waiting == IN_ORDER
    assert not cafe.ledger.enter(entry(3)).settled, "others are not concerned"


def test_hundreds_of_requests_go_on_after_one_commit() -> None:
    slots = [Slot(entry(number)) for number in range(300)]
    told: list[int] = []

    class Asker:
        def switch(self, _value: None) -> None:
            told.append(1)

    for slot in slots:
        slot.waiters.append(Asker())  # type: ignore[arg-type]
    settle(slots, None)
    gevent.sleep(0.01)
    assert len(told) == 300
    settle(slots, None)
    gevent.sleep(0.01)
    assert len(told) == 300, "somebody was told twice"


def test_a_batch_is_sent_as_one_array_for_each_column() -> None:
    sent = arrays([entry(7), entry(8)._replace(down=1, ip="10.0.0.1")])
    assert sent["gateway"] == "{7,8}"
    assert (sent["down"], sent["up"]) == ("{NULL,1}", "{5,5}")
    assert sent["ip"] == '{"",10.0.0.1}'
    assert (sent["logout"], sent["repeats"]) == ("{False,False}", "{True,True}")
