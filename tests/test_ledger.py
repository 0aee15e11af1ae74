"""The ledger's waiting: nobody for longer than the deadline, no report forgotten because nobody waits for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import gevent
import pytest

from portal.access import Answer, Reason
from portal.keys import Keyring
from portal.ledger import Entry, Late, Overloaded, Slot, arrays, settle
from portal.store import Store, sql
from tests.worlds import Cafe, Phone

DEADLINE = 0.3
LOCK_ALL = sql("test.lock_all", "SELECT id FROM session FOR UPDATE")


@pytest.fixture
def cafe(store: Store, keyring: Keyring) -> Iterator[Cafe]:
    cafe = Cafe(store, keyring, deadline_s=DEADLINE)
    yield cafe
    cafe.close()


@pytest.fixture
def phone(cafe: Cafe) -> Phone:
    phone = cafe.phone()
    phone.comes_online(cafe.grant())
    return phone


@contextlib.contextmanager
def somebody_in_the_way(cafe: Cafe) -> Iterator[None]:
    with cafe.store.transaction("operators", caller="test") as db:
        db.execute(LOCK_ALL)
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
