"""The benchmark's own parts: what its generator counts, what its ratios say, that the pages it asks for are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest
from psycogreen.gevent import patch_psycopg
from psycopg2.extensions import set_wait_callback

from loadtests import batches, seed
from loadtests.bench import desk
from loadtests.bench.__main__ import Figures, Watched, patched, ratios, seen, shares, size_table, stalls, table, watched
from loadtests.bench.pgbench import Pgbench, Written
from loadtests.bench.pgbench import table as pgbench_table
from loadtests.bench.polls import DOWN, UP, Order, Yield, complete
from loadtests.harness import ROOT, NotReady, Program, answers, free_port, split_cores
from loadtests.soak import Steady
from portal.keys import Keyring
from portal.store import Store
from tests.conftest import Cluster
from tests.loadtests.test_harness import answering

CORES = split_cores()
ONLINE = 40


def generated(order: Order) -> Yield:
    """What the generator's process finds."""
    command = [sys.executable, "-m", "loadtests.bench.polls"]
    done = subprocess.run(
        command, input=json.dumps(asdict(order)), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return Yield.from_json(json.loads(done.stdout))


def order(port: int, guests: Path, *, keep_alive: bool = False, round: int = 0) -> Order:
    return Order(port, str(guests), ONLINE, 8, 0.0, 0.4, keep_alive, round)


@pytest.fixture
def invented(tmp_path: Path) -> Path:
    """Guests whom nobody knows."""
    path = tmp_path / "guests"
    seed.write([seed.Guest("t" * 40, "02:00:00:00:00:01", "10.0.0.1", "gw-0", "k" * 32)] * ONLINE, path)
    return path


@contextmanager
def product(cluster: Cluster, state: Path) -> Iterator[tuple[int, str, list[seed.Guest]]]:
    """The product on a seeded database: its port, the database's URL, who is online."""
    with cluster.clone() as url:
        name = urlsplit(url).path.removeprefix("/")
        set_wait_callback(None)  # the seed copies whole tables, which psycopg2 does only while it blocks
        try:
            superuser = cluster.url_of(name, superuser=True)
            guests = seed.town(superuser, Keyring.load_or_create(state), online=ONLINE, ended=10)
        finally:
            patch_psycopg()
        port = free_port()
        env = {
            "PORTAL_STATE_DIR": str(state),
            "PORTAL_DATABASE__URL": url,
            "PORTAL_SERVER__HOST": "127.0.0.1",
            "PORTAL_SERVER__PORT": str(port),
        }
        command = [sys.executable, str(ROOT / "serve.py")]
        with Program(f"test-bench-{port}", command, CORES.server, answers(port, "/readyz"), env):
            yield port, url, guests


@pytest.mark.parametrize("keep_alive", [False, True])
def test_right_answers_are_counted_with_what_they_took(invented: Path, keep_alive: bool) -> None:
    port = free_port()
    with Program(f"test-ok-{port}", patched("loadtests.bench.ok")(port), CORES.server, answers(port, "/alive")):
        found = generated(order(port, invented, keep_alive=keep_alive))
    assert found.errors == {}
    assert 0 < found.polls <= found.sent
    assert found.latencies.count == found.polls


def test_an_answer_that_lets_nobody_in_is_an_error(invented: Path) -> None:
    with answering(b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nAuth: 0\n") as port:
        found = generated(order(port, invented))
    assert found.polls == 0
    assert found.errors == {"200": found.sent}


def test_what_the_generator_sends_is_what_the_product_charges(cluster: Cluster, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with product(cluster, state) as (port, url, guests):
        listed = tmp_path / "guests"
        seed.write(guests, listed)
        found = generated(order(port, listed))
        with psycopg2.connect(url) as db, db.cursor() as cursor:
            cursor.execute("SELECT sum(used_down), sum(used_up) FROM session WHERE state = 'active'")
            charged = cursor.fetchone()
        db.close()
    assert found.errors == {}
    assert charged == (found.sent * DOWN, found.sent * UP)


def test_batches_of_the_ledger_are_measured_by_what_they_write(cluster: Cluster, tmp_path: Path) -> None:
    keyring = Keyring.load_or_create(tmp_path)
    with cluster.clone() as url:
        superuser = cluster.url_of(urlsplit(url).path.removeprefix("/"), superuser=True)
        set_wait_callback(None)
        try:
            guests = seed.town(superuser, keyring, online=ONLINE, ended=0)
        finally:
            patch_psycopg()
        store, db = Store(url), psycopg2.connect(superuser)
        db.autocommit = True
        try:
            found = batches.passes(store, db, os.getpid(), batches.reports(keyring, guests))
            with db.cursor() as cursor:
                cursor.execute("SELECT min(used_down), max(used_down) FROM session")
                charged = cursor.fetchone()
        finally:
            db.close()
            store.dispose()
    assert [one.size for one in found] == [batches.SIZES[-1], *batches.SIZES]
    assert found[1].batches == ONLINE
    assert found[-1].batches == 1
    assert all(100 < one.wal_bytes < 10_000 and one.wall > 0 for one in found[1:])
    # A pass for the ledger to know everybody, one after the checkpoint, and five rounds of four.
    assert charged == (22_000_000, 22_000_000)


def test_every_page_that_is_measured_is_there_and_polls_go_on_meanwhile(cluster: Cluster, tmp_path: Path) -> None:
    with product(cluster, tmp_path / "state") as (port, url, guests):
        browser = desk.Desk(f"http://127.0.0.1:{port}", *desk.furnish(url))
        steady = Steady(port, guests, 50)
        try:
            found = desk.waits(steady, browser, rounds=1)
            noticed = watched(port)
        finally:
            steady.stop()
    assert noticed.longest > 0
    assert noticed.within["+Inf"] > 0
    assert set(found) == set(browser.steps())
    assert all(one.longest > 0 for one in found.values())
    assert found["their sheets, with QR codes"].seconds > 0.01
    assert desk.table(found).count("\n") == len(found) + 1


def test_the_ratios_compare_medians() -> None:
    def figures(*rate: float) -> dict[str, Figures]:
        one = Figures(256, rate=list(rate), server=[0.1], postgres=[0.1])
        return {"close": one, "keep": one}

    rows = {"gatepost": figures(100, 600, 500), "ok": figures(1000), "orm": figures(250), "row": figures(200)}
    product = Figures(1024, rate=[60, 70, 20], server=[0.1, 0.3, 0.125], postgres=[0.05, 0.06, 0.07])
    bare = Figures(256, rate=[100, 200, 25], server=[0.07] * 3, postgres=[0.0] * 3)
    told = ratios(rows, product, bare, [Written("tens", 10, 1, 200.0, 1.0)])
    found = {what: value for what, value, _ in told}
    assert found["polls/s, as a share of what pgbench writes by tens"] == "25%"
    assert found["against a bare answer on our own server, in turns"] == "60%"
    assert found["the least and the most of a turn"] == "35% to 80%"
    turns = {what.partition(" in these turns")[0]: value for what, value in found.items() if " in these turns" in what}
    assert turns == {
        "Gatepost": "60 polls/s, 125.0 + 60.0 CPU ms for 1,000",
        "the bare answer": "100 polls/s, 70.0 + 0.0 CPU ms for 1,000",
    }
    assert found["polls/s, against FastAPI + asyncpg one row by one"] == "2.50 ×"


def test_the_times_are_of_the_same_crowd_for_all() -> None:
    def figures(at_once: int, rate: float) -> Figures:
        times = [[float(at_once)]] * 4
        return Figures(at_once, [rate], [0.1], [0.05], *times, memory=[80])

    crowds = {"gatepost": (10.0, 20.0), "row": (20.0, 10.0)}
    found = table({name: {"close": [figures(256, few), figures(1024, many)]} for name, (few, many) in crowds.items()})
    *_, ours, row = found.splitlines()
    assert ours.endswith("| close | 1,024 | 20 | 0.100, 0.050 | 80 | 0 | 256.0 / 256.0 / 256.0 / 256.0 |")
    assert row.endswith("| close | 256 | 20 | 0.100, 0.050 | 80 | 0 | 256.0 / 256.0 / 256.0 / 256.0 |")


def test_few_and_many_guests_are_told_of_every_contender() -> None:
    def figures(rate: float, server: float) -> Figures:
        return Figures(100, rate=[rate], server=[server], postgres=[0.0425])

    sizes = {name: {100: figures(10, 0.1), 100_000: figures(30, 0.12345)} for name in ("gatepost", "row")}
    found = {name: {"close": figures(20, 0.11)} for name in sizes}
    *_, ours, row = size_table(sizes, 10_000, found).splitlines()
    assert ours.endswith("| 10 | 100.0 + 42.5 | 20 | 110.0 + 42.5 | 30 | 123.5 + 42.5 |")
    assert row.startswith("| FastAPI + asyncpg, one row one by one")


def test_what_the_watchdog_saw_is_told_of_the_pages_alone() -> None:
    text = """# TYPE gatepost_loop_delay_seconds histogram
gatepost_loop_delay_seconds_bucket{le="0.01"} 80
gatepost_loop_delay_seconds_bucket{le="0.05"} 90
gatepost_loop_delay_seconds_bucket{le="0.1"} 100
gatepost_loop_delay_seconds_bucket{le="+Inf"} 100
gatepost_loop_longest_stall_seconds 0.0625
"""
    after = seen(text)
    assert after.longest == 0.0625
    before = Watched({"0.01": 40.0, "0.05": 50.0, "0.1": 60.0, "+Inf": 60.0}, 0.01)
    assert shares(before, after) == {"10 ms": 100.0, "50 ms": 100.0, "100 ms": 100.0}
    pages = {"the overview": desk.Waited(1, 44.0, 30.0), "vouchers": desk.Waited(1, 71.1, 30.0)}
    first, second = stalls(before, after, pages)
    assert first[1:] == ("62 ms", "50 ms")
    assert second == ("longest wait of a poll meanwhile (vouchers): no stall was longer", "71 ms", "")
    first, _ = stalls(after, after, pages)
    assert first[1] == "at most 62 ms", "it may be from before the pages"


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nAuth: ", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nAuth: 1\n", True),
        (b"HTTP/1.1 200 OK\r\n\r\nAuth: 1\n", False),
    ],
)
def test_an_answer_on_a_kept_connection_ends_by_its_length(answer: bytes, whole: bool) -> None:
    assert complete(answer) is whole


@contextmanager
def seeded(cluster: Cluster, tmp_path: Path) -> Iterator[Pgbench]:
    """pgbench and a database with guests online, without a server."""
    with cluster.clone() as url:
        name = urlsplit(url).path.removeprefix("/")
        set_wait_callback(None)
        try:
            keyring = Keyring.load_or_create(tmp_path / "state")
            seed.town(cluster.url_of(name, superuser=True), keyring, online=ONLINE, ended=10)
            yield Pgbench(url, CORES.load, lambda: 0.0)
        finally:
            patch_psycopg()


@pytest.mark.parametrize(("size", "reporting"), [(1, 32), (10, 40)])
def test_what_pgbench_writes_as_the_product_is_charged(
    cluster: Cluster, tmp_path: Path, size: int, reporting: int
) -> None:
    with seeded(cluster, tmp_path) as pgbench:
        found = pgbench.ledger(size, 1)
        db = psycopg2.connect(pgbench.url)
        with db, db.cursor() as cursor:
            cursor.execute("SELECT sum(used_down), sum(used_up) FROM session WHERE state = 'active'")
            sessions = cursor.fetchone()
            cursor.execute('SELECT sum(used_down), sum(used_up) FROM "grant"')
            grants = cursor.fetchone()
            cursor.execute("SELECT sum(down), sum(up), count(*) FILTER (WHERE down > 0) FROM counter_line")
            *reported, guests = cursor.fetchone()
            cursor.execute("SELECT to_regclass('bench_batch')")
            (left,) = cursor.fetchone()
        db.close()
    assert sessions == grants == tuple(reported)
    assert guests == reporting, "every guest of every client has had his turn"
    assert reported[0] >= found.transactions * size * DOWN, "no report was written in vain"
    assert left is None
    assert found.rate == found.tps * size


def test_pgbench_writes_the_row_alone(cluster: Cluster, tmp_path: Path) -> None:
    with seeded(cluster, tmp_path) as pgbench:
        found = pgbench.row(1)
    assert found.transactions > 0
    assert "| FastAPI's statement, the session's row alone |" in pgbench_table([found])


def test_a_statement_that_fails_fails_the_run(cluster: Cluster, tmp_path: Path) -> None:
    with seeded(cluster, tmp_path) as pgbench, pytest.raises(NotReady, match="division by zero"):
        pgbench.run("nonsense", 1, ["SELECT 1 / 0;"], 1)
