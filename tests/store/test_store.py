"""The store's promises on a real PostgreSQL: bounded pools, deadlines, sorted errors, named statements."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import gevent
import psycopg2
import pytest
from gevent import socket
from gevent.server import StreamServer
from sqlalchemy import Connection, literal, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from portal.store import (
    Conflict,
    DeadlineExceeded,
    Limits,
    Refused,
    Store,
    Unavailable,
    is_named,
    named,
    prepared,
    sql,
)
from portal.store.connect import targets
from tests.conftest import Cluster

BACKEND = sql("test.backend", "SELECT pg_backend_pid()")
SLEEP = sql("test.sleep", "SELECT pg_sleep(:seconds)")
ADD = sql("test.add", "INSERT INTO throttle (key, tokens) VALUES (:key, :tokens)")
COUNT = sql("test.count", "SELECT count(*) FROM throttle")
TOUCH = sql("test.touch", "UPDATE throttle SET tokens = tokens + 1 WHERE key = :key")
SHOW = sql("test.show", "SELECT current_setting(:name)")


def make(url: str, **limits: Any) -> Store:
    """A store with one pool, `guests`, of two connections and short limits."""
    chosen: dict[str, Any] = {
        "connections": 2,
        "waiting": 2,
        "wait_seconds": 0.3,
        "statement_ms": 10_000,
        "lock_ms": 200,
        "deadline_seconds": 1.0,
        **limits,
    }
    return Store(url, limits={"guests": Limits(**chosen)}, connect_seconds=0.5)


@pytest.fixture
def small(database_url: str) -> Iterator[Store]:
    store = make(database_url)
    yield store
    store.dispose()


@contextlib.contextmanager
def held(store: Store, count: int) -> Iterator[None]:
    """`count` connections in use by somebody else."""
    leave = gevent.event.Event()

    def hold() -> None:
        with store.read(caller="holder", seconds=30):
            leave.wait()

    holding = [gevent.spawn(hold) for _ in range(count)]
    until(lambda: store.vitals()[0].held == count)
    yield
    leave.set()
    gevent.joinall(holding, raise_error=True)


def until(true: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def backend_of(db: Connection) -> int:
    return int(db.execute(BACKEND).scalar_one())


def added_and_failed(db: Connection) -> None:
    db.execute(ADD, {"key": "lost", "tokens": 1})
    raise ZeroDivisionError


# -- transactions


def test_a_block_that_ends_well_is_committed_and_one_that_fails_is_not(store: Store) -> None:
    with store.transaction() as db:
        db.execute(ADD, {"key": "kept", "tokens": 1})
    with pytest.raises(ZeroDivisionError), store.transaction() as db:
        added_and_failed(db)
    with store.read() as db:
        assert db.execute(COUNT).scalar_one() == 1


def test_a_reading_block_needs_no_commit(store: Store) -> None:
    with store.read() as db:
        db.execute(ADD, {"key": "kept", "tokens": 1})
        with store.read() as other:
            assert other.execute(COUNT).scalar_one() == 1


def test_a_violated_constraint_passes_through_without_the_values_it_is_about(store: Store) -> None:
    key = secrets.token_hex()  # not in the source, which a traceback quotes
    with store.transaction() as db:
        db.execute(ADD, {"key": key, "tokens": 1})
    with pytest.raises(IntegrityError, match="throttle_pkey") as caught, store.transaction() as db:
        db.execute(ADD, {"key": key, "tokens": 1})
    with pytest.raises(psycopg2.IntegrityError, match="throttle_pkey") as raw, store.cursor() as cursor:
        cursor.execute("INSERT /* test.add */ INTO throttle (key, tokens) VALUES (%s, 1)", (key,))
    for error in (caught.value, raw.value):
        told = "".join(traceback.format_exception(error))
        assert key not in told


def test_a_wrong_statement_passes_through(store: Store) -> None:
    with pytest.raises(ProgrammingError), store.read() as db:
        db.execute(sql("test.wrong", "SELECT nothing FROM nowhere"))


# -- names


def test_every_statement_carries_its_name_to_the_server(store: Store) -> None:
    with store.read() as db:
        assert db.execute(sql("test.self", "SELECT current_query()")).scalar_one().startswith("SELECT /* test.self */")
        built = named("test.built", select(text("current_query()")))
        assert db.execute(built).scalar_one().startswith("SELECT /* test.built */")


def test_slow_statements_can_be_found_by_name(store: Store, cluster: Cluster) -> None:
    once = prepared(sql("test.counted.once", "SELECT CAST(%(number)s AS integer) AS once"))
    with store.read() as db:
        db.execute(sql("test.counted.read", "WITH one AS (SELECT 1) SELECT * FROM one"))
        db.execute(named("test.counted.built", select(literal("built"), text("current_query()"))))
    with store.cursor(statements=[once]) as cursor:
        cursor.execute(f"{once.execute}; SELECT /* test.counted.next */ clock_timestamp()", {"number": 7})
    with (
        contextlib.closing(psycopg2.connect(cluster.url_of("postgres", superuser=True))) as admin,
        admin.cursor() as db,
    ):
        db.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        db.execute("SELECT string_agg(query, ' ') FROM pg_stat_statements")
        (told,) = db.fetchone() or ("",)
    for name in ("read", "built", "once", "next"):
        assert f"test.counted.{name}" in told


def test_a_statement_without_a_name_fails_its_test(store: Store) -> None:
    with pytest.raises(AssertionError, match="without a name"), store.read() as db:
        db.execute(text("SELECT 1"))
    with pytest.raises(AssertionError, match="without a name"), store.transaction() as db:
        db.execute(select(literal(1)))
    with pytest.raises(AssertionError, match="without a name"), store.cursor() as cursor:
        cursor.execute("SELECT 1")


def test_names_have_a_form() -> None:
    for wrong in ("redeem", "Vouchers.redeem", "vouchers.redeem */ DROP", ""):
        with pytest.raises(ValueError, match="module.purpose"):
            sql(wrong, "SELECT 1")
    with pytest.raises(ValueError, match="CAST"):
        sql("test.cast", "SELECT :x::int")
    assert is_named("UPDATE /* vouchers.redeem */ voucher")
    assert not is_named("UPDATE /* anything */ voucher")


# -- the ledger's cursor


def test_several_statements_of_a_cursor_are_one_transaction_in_one_round_trip(store: Store) -> None:
    batch = (
        "INSERT /* test.batch */ INTO throttle (key, tokens) SELECT unnest(%(keys)s), 1; SELECT count(*) FROM throttle"
    )
    with store.cursor() as cursor:
        cursor.execute(batch, {"keys": ["a", "b"]})
        assert cursor.fetchone() == (2,)
    with pytest.raises(psycopg2.IntegrityError), store.cursor() as cursor:
        cursor.execute(batch, {"keys": ["c", "a"]})
    with store.read() as db:
        assert db.execute(COUNT).scalar_one() == 2


def test_a_cursor_s_connection_is_an_ordinary_one_afterwards(small: Store) -> None:
    with small.cursor("guests") as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        first = cursor.fetchone()
    with small.read() as db:
        assert (backend_of(db),) == first
    with pytest.raises(ZeroDivisionError), small.transaction() as db:
        added_and_failed(db)
    with small.read() as db:
        assert db.execute(COUNT).scalar_one() == 0


def test_a_batch_that_leaves_a_transaction_open_is_an_error_and_costs_the_connection(small: Store) -> None:
    with pytest.raises(RuntimeError, match="transaction open"), small.cursor("guests") as cursor:
        cursor.execute("BEGIN; INSERT INTO throttle (key, tokens) VALUES ('lost', 1)")
    assert small.vitals()[0].discarded == 1
    with small.read() as db:
        assert db.execute(COUNT).scalar_one() == 0


def test_a_prepared_statement_is_planned_once_on_each_connection_and_survives_its_loss(small: Store) -> None:
    doubled = prepared(sql("test.doubled", "SELECT CAST(%(n)s AS int) * 2, pg_backend_pid() + 0 * %(n)s"))

    def run(number: int) -> tuple[int, int]:
        with small.cursor("guests", statements=[doubled]) as cursor:
            cursor.execute(f"{doubled.execute}; SELECT prepare_time FROM pg_prepared_statements", {"n": number})
            moments.append(cursor.fetchall())
            cursor.execute(doubled.execute, {"n": number})
            found: tuple[int, int] = cursor.fetchone()
            return found

    moments: list[list[tuple[object]]] = []
    twice, backend = run(21)
    assert (twice, run(4)) == (42, (8, backend))
    assert len(moments[0]) == 1
    assert moments[0] == moments[1], "it was prepared again"
    with pytest.raises(RuntimeError, match="transaction open"), small.cursor("guests") as cursor:
        cursor.execute("BEGIN")
    assert run(5)[0] == 10
    assert moments[2] != moments[0], "the connection was not a new one"


# -- limits


def test_a_statement_that_takes_too_long_is_stopped_by_the_server_and_its_connection_lives_on(
    database_url: str,
) -> None:
    store = make(database_url, statement_ms=100)
    with store.read() as db:
        before = backend_of(db)
    with pytest.raises(DeadlineExceeded, match="statement timeout"), store.transaction() as db:
        db.execute(SLEEP, {"seconds": 5})
    with store.read() as db:
        assert backend_of(db) == before
    store.dispose()


def test_a_block_ends_with_its_deadline_and_the_server_stops_what_nobody_waits_for(small: Store) -> None:
    with small.read() as db:
        before = backend_of(db)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="0.3 s"), small.transaction(seconds=0.3) as db:
        db.execute(SLEEP, {"seconds": 9})
    assert time.monotonic() - began < 1
    assert small.vitals()[0].discarded == 1
    with small.read() as db:
        assert backend_of(db) != before
    until(lambda: not os.path.exists(f"/proc/{before}"))  # client_connection_check_interval


def test_an_outer_deadline_is_not_mistaken_for_an_inner_one(small: Store) -> None:
    def nested() -> None:
        with small.transaction(seconds=5) as db:
            db.execute(SLEEP, {"seconds": 9})

    outer = gevent.Timeout.start_new(0.2)
    with pytest.raises(gevent.Timeout) as caught:
        nested()
    assert caught.value is outer
    outer.close()
    with small.read() as db:
        assert db.execute(COUNT).scalar_one() == 0


@pytest.mark.parametrize("moment", ["in a statement", "between statements", "in the rollback", "in a cursor"])
def test_a_server_that_stands_still_holds_nobody_longer_than_the_deadline(small: Store, moment: str) -> None:
    with small.read() as db:
        backend = backend_of(db)

    def work() -> None:
        if moment == "in a cursor":
            with small.cursor("guests", seconds=0.4) as cursor:
                os.kill(backend, signal.SIGSTOP)
                cursor.execute("SELECT 1")
        with small.transaction(seconds=0.4) as db:
            assert backend_of(db) == backend
            os.kill(backend, signal.SIGSTOP)
            if moment == "in a statement":
                db.execute(COUNT)
            elif moment == "between statements":
                gevent.sleep(5)
            else:
                raise ZeroDivisionError

    began = time.monotonic()
    try:
        with pytest.raises(DeadlineExceeded):
            work()
    finally:
        os.kill(backend, signal.SIGCONT)
    assert time.monotonic() - began < 1.5
    assert small.vitals()[0].held == 0
    with small.read() as db:
        assert backend_of(db) != backend


def test_those_who_wait_get_their_turn_and_a_line_that_is_full_refuses_at_once(small: Store) -> None:
    waiting = []
    with held(small, 2):
        waiting = [gevent.spawn(small.database_now) for _ in range(2)]
        until(lambda: small.vitals()[0].waiting == 2)
        began = time.monotonic()
        with pytest.raises(Refused, match="2 callers wait"), small.read():
            pass
        assert time.monotonic() - began < 0.25
    gevent.joinall(waiting, raise_error=True)
    vitals = small.vitals()[0]
    assert (vitals.held, vitals.waiting, vitals.refused, vitals.waited_out) == (0, 0, 1, 0)


def test_nobody_waits_for_a_connection_longer_than_allowed(small: Store) -> None:
    with held(small, 2):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="no connection of the pool guests"), small.read():
            pass
        assert 0.25 < time.monotonic() - began < 0.8
    assert small.vitals()[0].waited_out == 1


def test_the_one_who_waited_longest_comes_first(small: Store) -> None:
    order: list[int] = []

    def wait(number: int) -> None:
        with small.read():
            order.append(number)

    with held(small, 2):
        waiting = [gevent.spawn(wait, number) for number in range(2)]
        until(lambda: small.vitals()[0].waiting == 2)
    gevent.joinall(waiting)
    assert order == [0, 1]


def test_a_pool_s_trouble_is_not_another_s(store: Store) -> None:
    def hog() -> None:
        with store.read("operators") as db:
            db.execute(SLEEP, {"seconds": 0.5})

    hogs = [gevent.spawn(hog) for _ in range(8)]
    gevent.sleep(0.05)
    began = time.monotonic()
    with store.cursor("polls") as cursor:
        cursor.execute("SELECT /* test.poll */ 1")
    assert time.monotonic() - began < 0.4
    gevent.joinall(hogs, raise_error=True)


def test_who_holds_a_connection_can_be_read(small: Store) -> None:
    with small.read(caller="GET /desk/online"):
        gevent.sleep(0.05)
        (holder,) = small.holders()
        assert (holder.pool, holder.caller) == ("guests", "GET /desk/online")
        assert 0.05 <= holder.seconds < 1
        assert small.vitals()[0].oldest_seconds >= 0.05
    assert small.holders() == []


def test_who_has_held_a_connection_for_long_is_told(small: Store, caplog: pytest.LogCaptureFixture) -> None:
    with small.read(caller="quick"):
        pass
    assert not caplog.records
    with small.read(caller="report", seconds=30):
        gevent.sleep(0.6)
    (told,) = caplog.records
    assert told.getMessage() == "a database connection was held for long"
    assert (told.pool, told.caller) == ("guests", "report")
    assert told.seconds >= 0.6


def test_polls_are_planned_plainly_and_all_think_in_utc(store: Store) -> None:
    with store.read("polls") as db:
        for name in ("jit", "enable_seqscan", "enable_hashjoin", "enable_mergejoin"):
            assert db.execute(SHOW, {"name": name}).scalar_one() == "off"
        assert db.execute(SHOW, {"name": "lock_timeout"}).scalar_one() == "200ms"
    with store.read("guests") as db:
        assert db.execute(SHOW, {"name": "enable_seqscan"}).scalar_one() == "on"
        assert db.execute(SHOW, {"name": "TimeZone"}).scalar_one() == "UTC"
        assert db.execute(SHOW, {"name": "client_connection_check_interval"}).scalar_one() == "1s"
        assert db.execute(sql("test.zone", "SELECT now()")).scalar_one().tzinfo is not None


# -- others in the way


def test_a_row_that_somebody_holds_is_a_conflict(small: Store) -> None:
    with small.transaction() as db:
        db.execute(ADD, {"key": "row", "tokens": 1})
    with small.transaction() as db:
        db.execute(TOUCH, {"key": "row"})
        with pytest.raises(Conflict, match="lock timeout"), small.transaction() as other:
            other.execute(TOUCH, {"key": "row"})


def test_work_that_met_a_conflict_is_tried_again(database_url: str) -> None:
    store = make(database_url, lock_ms=5_000, deadline_seconds=10.0)
    with store.transaction() as db:
        for key in ("one", "two"):
            db.execute(ADD, {"key": key, "tokens": 0})
    tries: list[str] = []

    def crosswise(first: str, second: str) -> None:
        def work(db: Connection) -> None:
            tries.append(first)
            db.execute(TOUCH, {"key": first})
            gevent.sleep(0.05)
            db.execute(TOUCH, {"key": second})

        store.run(work)

    pair = [gevent.spawn(crosswise, "one", "two"), gevent.spawn(crosswise, "two", "one")]
    gevent.joinall(pair, raise_error=True)
    assert len(tries) == 3  # PostgreSQL ended one of the two, which then went through
    with store.read() as db:
        assert db.execute(sql("test.sum", "SELECT sum(tokens) FROM throttle")).scalar_one() == 4
    store.dispose()


# -- a database that is not there


def test_a_connection_that_the_server_closed_while_nobody_used_it_is_noticed(small: Store, cluster: Cluster) -> None:
    with small.read() as db:
        backend = backend_of(db)
    cluster.run(f"SELECT pg_terminate_backend({backend}, 5000)")
    for block in (small.read, small.transaction):
        with block() as db:
            assert backend_of(db) != backend


def test_a_connection_that_breaks_in_use_is_unavailable_and_not_used_again(small: Store, cluster: Cluster) -> None:
    def in_a_transaction() -> None:
        with small.transaction() as db:
            cluster.run(f"SELECT pg_terminate_backend({backend_of(db)}, 5000)")
            db.execute(COUNT)

    def in_a_cursor() -> None:
        with small.cursor("guests") as cursor:
            cluster.run(f"SELECT pg_terminate_backend({cursor.connection.info.backend_pid}, 5000)")
            cursor.execute("SELECT 1")

    for work in (in_a_transaction, in_a_cursor):
        with pytest.raises(Unavailable):
            work()
    with small.read() as db:
        assert db.execute(COUNT).scalar_one() == 0


def test_a_server_that_does_not_exist_is_unavailable_at_once() -> None:
    store = make("postgresql://portal@/portal?host=/nonexistent")
    began = time.monotonic()
    with pytest.raises(Unavailable), store.read() as db:
        db.execute(COUNT)
    assert time.monotonic() - began < 0.5


def test_a_server_that_takes_a_connection_and_says_nothing_costs_the_connect_limit_only() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        store = make(f"postgresql://portal@127.0.0.1:{silent.getsockname()[1]}/portal", deadline_seconds=5.0)
        ticks = 0

        def tick() -> None:
            nonlocal ticks
            while True:
                gevent.sleep(0.01)
                ticks += 1

        ticking = gevent.spawn(tick)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="did not take a connection within 0.5 s"), store.read():
            pass
        assert 0.4 < time.monotonic() - began < 1.5
        assert ticks > 20  # everybody else went on
        ticking.kill()


def test_hosts_are_found_by_name_and_tried_in_turn(database_url: str) -> None:
    (target,) = targets(database_url)

    def relay(client: Any, _address: object) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(f"{target['host']}/.s.PGSQL.{target['port']}")

            def pump(source: Any, sink: Any) -> None:
                while data := source.recv(65536):
                    sink.sendall(data)

            back = gevent.spawn(pump, server, client)
            pump(client, server)
            back.kill()

    door = StreamServer(("127.0.0.1", 0), relay)
    door.start()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        hosts = f"localhost:{silent.getsockname()[1]},localhost:{door.server_port}"
        store = make(
            f"postgresql+psycopg2://{target['user']}:{target['password']}@{hosts}/{target['dbname']}",
            deadline_seconds=5.0,
        )
        for limit in (5.0, 0.4):  # the second time, the host that answered comes first
            with store.read(seconds=limit) as db:
                assert db.execute(COUNT).scalar_one() == 0
            store.dispose()
    door.stop()


@pytest.mark.parametrize(
    ("url", "told"),
    [("mysql://x", "must begin with postgresql://"), ("postgresql://x?nonsense=1", "cannot be read")],
)
def test_a_url_that_cannot_be_read_is_refused_in_a_sentence(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        targets(url)


# -- everything at once


def test_interrupting_at_random_moments_loses_no_connection_and_mixes_no_answers(small: Store) -> None:
    chance = random.Random(7)  # noqa: S311
    stop = time.monotonic() + 2
    wrong = 0

    def work() -> None:
        nonlocal wrong
        while time.monotonic() < stop:
            with contextlib.suppress(Unavailable), small.transaction(seconds=chance.uniform(0.001, 0.1)) as db:
                value = chance.random()
                back = db.execute(sql("test.echo", "SELECT CAST(:value AS float8)"), {"value": value}).scalar_one()
                wrong += back != value
                db.execute(SLEEP, {"seconds": chance.uniform(0, 0.02)})

    workers = [gevent.spawn(work) for _ in range(4)]
    for _ in range(50):
        gevent.sleep(0.03)
        index = chance.randrange(len(workers))
        workers[index].kill(block=False)
        workers[index] = gevent.spawn(work)
    gevent.joinall(workers)
    assert wrong == 0
    assert (small.vitals()[0].held, small.vitals()[0].waiting) == (0, 0)
    with held(small, 2):
        pass  # both can still be had


# -- what is asserted at the start, and what time it is


def test_a_database_that_would_lose_answered_reports_is_refused(database_url: str, cluster: Cluster) -> None:
    store = Store(database_url)
    store.check()
    store.dispose()
    with store.read() as db:
        name = db.execute(sql("test.name", "SELECT current_database()")).scalar_one()
    store.dispose()
    cluster.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with pytest.raises(ValueError, match="synchronous_commit = off"):
        store.check()
    store.dispose()


def test_the_database_s_clock_is_known_without_asking(store: Store) -> None:
    assert abs((store.clock.now() - datetime.now(UTC)).total_seconds()) < 1
    assert not store.clock.known
    told = store.database_now()
    assert store.clock.known
    assert 0 <= (store.clock.now() - told).total_seconds() < 1


def test_a_clock_that_was_moved_is_told_by_how_much(store: Store) -> None:
    at = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
    store.clock.observe(at, 100.0, 100.002)
    assert store.clock.observe(at.replace(second=10), 110.0, 110.002) == 0
    assert store.clock.observe(at.replace(hour=13, second=20), 120.0, 120.002) == pytest.approx(3600)
