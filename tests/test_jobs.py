"""Background work never dies in silence."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import gevent
import pytest
from gevent.event import Event

from portal import jobs
from portal.jobs import Jobs, leased
from portal.store import Store, Unavailable


def test_a_loop_that_fails_says_so_and_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    done, tries = Event(), []

    def work() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("broken")
        done.set()

    running = Jobs(on_lost=[].append)
    loop = running.every("sweeping", 60, work)
    assert done.wait(5)
    gevent.sleep(0)
    running.stop()
    assert (loop.failures, loop.failing, loop.runs) == (2, 0, 1)
    said = [record for record in caplog.records if record.message == "background work failed"]
    assert len(said) == 2
    assert all(record.exc_info for record in said)


def test_a_loop_that_keeps_failing_is_reported_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LONGEST_PAUSE_S", 0.001)
    logging.getLogger("portal.jobs").disabled = False
    lost = Event()
    running = Jobs(on_lost=lambda name: lost.set() if name == "ledger" else None)

    def work() -> None:
        raise ValueError("broken")

    running.keep("ledger", work)
    assert lost.wait(5)


def test_an_unexpected_time_out_is_a_failure_like_any_other() -> None:
    done, tries = Event(), []

    def work() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise gevent.Timeout(1)
        done.set()

    running = Jobs(on_lost=[].append)
    loop = running.every("sweeping", 60, work)
    assert done.wait(5)
    gevent.sleep(0)
    running.stop()
    assert (loop.failures, loop.runs) == (1, 1)


def test_a_loop_that_ends_in_any_other_way_is_reported_as_lost_and_one_that_is_stopped_is_not() -> None:
    lost: list[str] = []
    running, begun = Jobs(on_lost=lost.append), Event()

    def leave() -> None:
        raise gevent.GreenletExit

    def wait() -> None:
        begun.set()
        Event().wait()

    running.keep("leaving", leave)
    running.keep("waiting", wait)
    assert begun.wait(5)
    running.stop()
    assert lost == ["leaving"]


def test_endless_work_that_went_on_for_long_is_not_failing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WELL_AFTER_S", 0.02)
    monkeypatch.setattr(jobs, "LOST_AFTER", 3)
    monkeypatch.setattr(jobs, "LONGEST_PAUSE_S", 0.001)
    lost: list[str] = []
    running = Jobs(on_lost=lost.append)
    failed_often, quiet = Event(), Event()

    def work() -> None:
        if running.loops["ledger"].failures > 4:
            failed_often.set()
            quiet.wait()
        gevent.sleep(0.03)
        raise ValueError("now and then")

    running.keep("ledger", work)
    loop = running.loops["ledger"]
    assert failed_often.wait(5)
    gevent.sleep(0.03)
    assert (loop.failures, loop.failing, lost) == (5, 0, [])
    running.stop()


def test_a_loop_outlives_an_outage_of_hours() -> None:
    running, back = Jobs(on_lost=[].append), Event()

    def work() -> None:
        loop = running.loops["gateways"]
        if loop.failures < 1100:
            loop.wake.set()
            raise Unavailable("the database is away")
        back.set()

    running.every("gateways", 60, work)
    assert back.wait(10)
    running.stop()


def test_a_loop_that_should_run_for_ever_and_returns_counts_as_failed() -> None:
    running = Jobs(on_lost=[].append)
    running.keep("ledger", lambda: None)
    gevent.sleep(0.05)
    running.stop()
    assert running.loops["ledger"].failures == 1


def test_work_under_a_lease_is_done_by_one_process_and_not_again_before_its_time(store: Store) -> None:
    ran: list[datetime] = []

    def work(now: datetime) -> str:
        ran.append(now)
        gevent.sleep(0.02)
        return "swept"

    job = leased(store, "sweep", timedelta(minutes=5), work)
    gevent.joinall([gevent.spawn(job) for _ in range(4)], raise_error=True)
    assert len(ran) == 1
    job()
    assert len(ran) == 1, "its time has not come again"
