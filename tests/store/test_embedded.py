"""PostgreSQL's whole life under our care: first start, crashes of either side, private places, two owners."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import psycopg2
import pytest

from portal.store import Store, Unavailable, embedded, sql
from portal.store.embedded import DatabaseNotStarted, InUse, Postgres

NOBODY = 65534
FAST = {"fsync": "off", "shared_buffers": "16MB"}
ROOT = os.geteuid() == 0  # the tests hold for an ordinary user too, who cannot become somebody else


@pytest.fixture(scope="module")
def prepared(short_directory: Path) -> Path:
    """A state directory whose database exists, for the tests that need no first start."""
    state = short_directory / "embedded"
    with Postgres(state, settings=FAST).running() as url:
        run(url, "CREATE TABLE kept (value integer)")
    return state


@pytest.fixture
def postgres(prepared: Path) -> Iterator[Postgres]:
    """The prepared server, not running yet."""
    postgres = Postgres(prepared, settings=FAST)
    yield postgres
    postgres.stop()


@pytest.fixture
def private(short_directory: Path) -> Iterator[Path]:
    """A directory nobody else may enter, as a home is."""
    path = short_directory / f"home-{time.monotonic_ns()}"
    path.mkdir(mode=0o700)
    yield path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def run(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def owner_of(state: Path, *user: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.store.owner", str(state), *user],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_a_first_start_makes_a_database_and_a_clean_restart_finds_it_again(short_directory: Path) -> None:
    state = short_directory / "first"
    postgres = Postgres(state, settings=FAST)
    postgres.start()
    run(postgres.url, "CREATE TABLE kept AS SELECT 42 AS value")
    run(postgres.superuser_url, "SELECT count(*) FROM pg_stat_statements")
    pid = postgres.pid
    postgres.stop()
    assert gone(pid)
    postgres.start()
    assert run(postgres.url, "SELECT value FROM kept") == [(42,)]
    assert postgres.pid != pid
    postgres.stop()


def test_the_product_s_role_is_no_superuser_and_passwords_are_for_the_owner_s_eyes(postgres: Postgres) -> None:
    postgres.start()
    assert run(postgres.url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]
    for name in ("password", "superuser"):
        assert stat.S_IMODE((postgres.root / name).stat().st_mode) == 0o600
    with pytest.raises(psycopg2.OperationalError, match="password"):
        run(postgres.url.replace("portal:", "portal:x"), "SELECT 1")


def test_the_server_listens_on_no_network_and_answers_from_disk_only(postgres: Postgres) -> None:
    postgres.start()
    shown = {row[0]: row[1] for row in run(postgres.url, "SELECT name, setting FROM pg_settings")}
    assert shown["listen_addresses"] == ""
    assert shown["synchronous_commit"] == "on"
    assert shown["io_method"] == "sync"
    assert shown["TimeZone"] == "UTC"


def test_statements_that_fail_are_not_written_to_the_log(postgres: Postgres) -> None:
    postgres.start()
    run(postgres.url, "CREATE TABLE IF NOT EXISTS codes (code text UNIQUE)")
    run(postgres.url, "INSERT INTO codes VALUES ('hidden-4711') ON CONFLICT DO NOTHING")
    with pytest.raises(psycopg2.IntegrityError):
        run(postgres.url, "INSERT INTO codes VALUES ('hidden-4711')")
    until(lambda: "duplicate key" in postgres.logfile.read_text())
    assert "hidden-4711" not in postgres.logfile.read_text()


def test_committed_rows_survive_the_death_of_the_server_which_is_started_again(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.start()
    launch, launched = postgres._launch, list[int]()

    def seen_serving() -> None:
        launch()
        launched.append(postgres.pid)

    monkeypatch.setattr(postgres, "_launch", seen_serving)
    run(postgres.url, "TRUNCATE kept")
    told: list[str] = []
    guard = gevent.spawn(postgres.supervise, told.append)
    for round_number in range(3):
        run(postgres.url, f"INSERT INTO kept VALUES ({round_number})")
        dead = postgres.pid
        os.kill(dead, signal.SIGKILL)
        # Killed before its guard has seen it serve, a server counts as one that cannot be started.
        until(lambda dead=dead: len(launched) > 0 and launched[-1] != dead and postgres._serves())  # type: ignore[misc]
    assert run(postgres.url, "SELECT count(*) FROM kept") == [(3,)]
    assert told == ["PostgreSQL ended by itself (status -9) and is started again"] * 3
    postgres.stop()
    guard.join(timeout=5)
    assert guard.successful()


def test_a_backend_that_outlives_its_server_is_ended_before_the_next_start(postgres: Postgres) -> None:
    postgres.start()
    connection = psycopg2.connect(postgres.url)

    def calculate() -> None:
        with contextlib.suppress(psycopg2.Error), connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM generate_series(1, 1000000000000)")

    busy = gevent.spawn(calculate)
    backend = connection.info.backend_pid
    until(lambda: b"SELECT" in Path(f"/proc/{backend}/cmdline").read_bytes())
    os.kill(postgres.pid, signal.SIGKILL)
    postgres._process.wait()  # type: ignore[union-attr]
    assert not gone(backend)
    postgres.stop()
    postgres.start()
    assert gone(backend)
    assert run(postgres.url, "SELECT 1") == [(1,)]
    busy.join(timeout=5)


def test_the_server_dies_with_the_process_that_started_it(prepared: Path, postgres: Postgres) -> None:
    with owner_of(prepared) as owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        with postgres.running() as url:
            run(url, "TRUNCATE kept")
            run(url, "INSERT INTO kept VALUES (7)")
        owner.kill()
        owner.wait()
    until(lambda: gone(server))
    postgres.start()
    assert run(postgres.url, "SELECT value FROM kept") == [(7,)]


def test_a_start_does_not_wait_for_the_last_owner_s_server_to_have_ended(prepared: Path, postgres: Postgres) -> None:
    for _ in range(3):
        with owner_of(prepared) as owner:
            assert owner.stdout is not None
            owner.stdout.readline()
            owner.kill()
            owner.wait()
            postgres.start()  # while the old one is shutting down
            assert run(postgres.url, "SELECT 1") == [(1,)]
            postgres.stop()


def test_a_server_that_nobody_owns_is_ended_and_replaced(postgres: Postgres) -> None:
    postgres.start()
    orphan = postgres.pid
    postgres._release()  # what an owner's death does where the kernel cannot tell the server
    successor = Postgres(postgres.root.parent, settings=FAST)
    successor.start()
    assert gone(orphan)
    assert run(successor.url, "SELECT 1") == [(1,)]
    successor.stop()


def test_a_second_owner_is_refused_in_a_sentence(prepared: Path, postgres: Postgres) -> None:
    postgres.start()
    began = time.monotonic()
    with pytest.raises(InUse, match=rf"in use by another serve.py \(pid {os.getpid()}\)"):
        Postgres(prepared, settings=FAST).start()
    assert time.monotonic() - began < 2
    assert run(postgres.url, "SELECT 1") == [(1,)]


def test_a_command_joins_a_running_server_and_leaves_it_running(prepared: Path, postgres: Postgres) -> None:
    postgres.start()
    with Postgres(prepared, settings=FAST).running() as url:
        assert run(url, "SELECT 1") == [(1,)]
    assert run(postgres.url, "SELECT 1") == [(1,)]


def test_a_command_runs_the_server_for_as_long_as_it_needs_it(prepared: Path) -> None:
    postgres = Postgres(prepared, settings=FAST)
    with postgres.running() as url:
        pid = postgres.pid
        assert run(url, "SELECT 1") == [(1,)]
    assert gone(pid)


def test_commands_beside_each_other_share_a_server_and_the_last_one_stops_it(prepared: Path) -> None:
    first, second = Postgres(prepared, settings=FAST), Postgres(prepared, settings=FAST)
    joined, leave = gevent.event.Event(), gevent.event.Event()

    def join() -> object:
        with second.running() as url:
            joined.set()
            leave.wait()
            return run(url, "SELECT 1")

    def begin() -> int:
        with first.running():
            pid = first.pid
            other = gevent.spawn(join)
            joined.wait(timeout=10)
            gevent.spawn_later(0.2, leave.set)
        assert other.get(timeout=10) == [(1,)]  # its server was not taken away from under it
        return pid

    assert gone(gevent.spawn(begin).get(timeout=20))


def test_a_server_that_starts_waits_for_a_command_to_finish(prepared: Path, postgres: Postgres) -> None:
    command, done = Postgres(prepared, settings=FAST), gevent.event.Event()

    def work() -> None:
        with command.running():
            done.wait()

    working = gevent.spawn(work)
    until(command._serves)
    with pytest.raises(InUse, match="in use by another command"):
        postgres.start(patience=0.2)
    gevent.spawn_later(0.2, done.set)
    postgres.start()
    assert run(postgres.url, "SELECT 1") == [(1,)]
    working.get(timeout=5)


@pytest.mark.parametrize("who", ["gone", "zombie", "somebody else"])
def test_a_pid_file_that_a_crash_left_is_no_obstacle(postgres: Postgres, who: str) -> None:
    postgres.start()
    os.kill(postgres.pid, signal.SIGKILL)
    postgres._process.wait()  # type: ignore[union-attr]
    lines = (postgres.data / "postmaster.pid").read_text().split("\n")
    postgres.stop()
    # This process never reaps its child, as PID 1 of some containers does not.
    script = "import os,sys; print(os.fork() or os._exit(0), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as careless:
        assert careless.stdout is not None
        zombie = int(careless.stdout.readline())
        until(lambda: gone(zombie))
        pid = {"gone": lines[0], "zombie": str(zombie), "somebody else": str(careless.pid)}[who]
        (postgres.data / "postmaster.pid").write_text("\n".join([pid, *lines[1:]]))
        (postgres.root / "run" / ".s.PGSQL.5432.lock").write_text("\n".join([pid, *lines[1:]]))
        began = time.monotonic()
        postgres.start()
        assert time.monotonic() - began < 5
        assert careless.poll() is None  # and nobody was harmed
        careless.communicate()
    assert run(postgres.url, "SELECT 1") == [(1,)]


def test_an_initdb_that_was_interrupted_does_not_look_like_a_database(short_directory: Path) -> None:
    state = short_directory / "torn"
    torn = state / "postgres" / "data.new"
    torn.mkdir(parents=True)
    (torn / "PG_VERSION").write_text("18\n")
    (state / "postgres" / "data").mkdir()
    for path in (state, state / "postgres"):
        path.chmod(0o711)
    with Postgres(state, settings=FAST).running() as url:
        assert run(url, "SELECT 1") == [(1,)]


def test_a_database_of_another_major_version_is_refused_with_what_to_do(postgres: Postgres) -> None:
    file = postgres.data / "PG_VERSION"
    ours = file.read_text()
    try:
        file.write_text("15\n")
        with pytest.raises(DatabaseNotStarted, match="was made by PostgreSQL 15.*backup FILE.*restore FILE"):
            postgres.start()
    finally:
        file.write_text(ours)
    postgres.start()


def test_a_server_that_does_not_start_says_what_its_log_says(prepared: Path) -> None:
    wrong = Postgres(prepared, settings=FAST | {"shared_buffers": "plenty"})
    with pytest.raises(DatabaseNotStarted, match='invalid value for parameter "shared_buffers"'):
        wrong.start()
    with Postgres(prepared, settings=FAST).running() as url:  # and the directory is free again
        assert run(url, "SELECT 1") == [(1,)]


def test_the_log_is_kept_within_bounds_while_the_server_writes_it(postgres: Postgres) -> None:
    postgres.start()
    with postgres.logfile.open("a") as file:
        file.write("x" * 10_000)
    postgres.trim_log(limit=5_000)
    run(postgres.superuser_url, "DO $$ BEGIN RAISE LOG 'after the cut'; END $$")
    until(lambda: "after the cut" in postgres.logfile.read_text())
    assert postgres.logfile.stat().st_size < 5_000
    assert b"\0" not in postgres.logfile.read_bytes()
    assert postgres.logfile.with_suffix(".log.1").stat().st_size > 10_000


def test_a_long_path_gets_a_private_socket_directory_with_a_short_one(short_directory: Path) -> None:
    state = short_directory / ("long-" * 20) / "state"
    (short_directory / ("long-" * 20)).mkdir()
    postgres = Postgres(state, settings=FAST)
    postgres.start()
    directory = postgres._socket_directory()
    assert len(str(directory)) < 60
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    with Postgres(state, settings=FAST).running() as url:
        assert run(url, "SELECT 1") == [(1,)]
    postgres.stop()
    assert not directory.exists()
    # Somebody who knows the name and makes it first gets nothing.
    directory.symlink_to(short_directory)
    with pytest.raises(DatabaseNotStarted, match="made by somebody else"):
        postgres.start()
    directory.unlink()


def test_a_private_home_stays_private(private: Path) -> None:
    postgres = Postgres(private / "state", settings=FAST)
    if ROOT and not embedded._succeeds(["unshare", "--user", "true"]):
        with pytest.raises(DatabaseNotStarted, match="Set state_dir"):
            postgres.start()
        return
    for _ in range(2):
        postgres.start()
        assert run(postgres.url, "SELECT 1") == [(1,)]
        os.kill(postgres.pid, signal.SIGKILL)
        postgres._process.wait()  # type: ignore[union-attr]
        postgres.stop()


def test_a_state_directory_may_move_out_of_a_private_home_and_back(private: Path, short_directory: Path) -> None:
    with Postgres(private / "state", settings=FAST).running() as url:
        run(url, "CREATE TABLE kept AS SELECT 1 AS value")
    moved = short_directory / "moved"
    (private / "state").rename(moved)
    with Postgres(moved, settings=FAST).running() as url:
        assert run(url, "SELECT value FROM kept") == [(1,)]
        assert not ROOT or (moved / "postgres" / "data").stat().st_uid != 0
    moved.rename(private / "state")
    with Postgres(private / "state", settings=FAST).running() as url:
        assert run(url, "SELECT value FROM kept") == [(1,)]


def test_programs_under_a_private_home_are_copied_not_opened(private: Path, short_directory: Path) -> None:
    package = embedded.find_programs().parents[1]
    (private / package.name).symlink_to(package)
    (private / f"{package.name}.libs").symlink_to(package.with_name(f"{package.name}.libs"))
    state = short_directory / "copied"
    postgres = Postgres(state, settings=FAST, programs=private / package.name / "pginstall" / "bin")
    with postgres.running() as url:
        assert run(url, "SELECT 1") == [(1,)]
        running = Path(f"/proc/{postgres.pid}/cmdline").read_bytes()
    assert running.startswith(os.fsencode(state)) == ROOT


def test_an_ordinary_user_runs_the_server_himself(short_directory: Path) -> None:
    home = short_directory / "ordinary"
    home.mkdir(mode=0o700)
    user = NOBODY if ROOT else os.geteuid()
    os.chown(home, user, -1)
    for _ in range(2):
        with owner_of(home / "state", *([str(NOBODY)] if ROOT else [])) as owner:
            assert owner.stdout is not None
            pid = int(owner.stdout.readline())
            assert os.stat(f"/proc/{pid}").st_uid == user
            with Postgres(home / "state", settings=FAST).running() as url:
                assert run(url, "SELECT 1") == [(1,)]
            owner.communicate()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    # Root finds the database where it is, and runs it as the user whose it is.
    home.chmod(0o711)
    postgres = Postgres(home / "state", settings=FAST)
    (home / "state").chmod(0o711)
    (home / "state" / "postgres").chmod(0o711)
    with postgres.running() as url:
        assert run(url, "SELECT 1") == [(1,)]
        assert os.stat(f"/proc/{postgres.pid}").st_uid == user


def test_somebody_else_s_database_is_refused_in_a_sentence(prepared: Path) -> None:
    with owner_of(prepared, str(NOBODY)) if ROOT else owner_of(Path("/usr")) as owner:
        _, told = owner.communicate()
    assert "belongs to somebody else: run as that user, or as root" in told


def test_what_was_acknowledged_survives_and_the_store_finds_the_server_again(postgres: Postgres) -> None:
    postgres.start()
    run(postgres.url, "DROP TABLE IF EXISTS acknowledged; CREATE TABLE acknowledged (number integer PRIMARY KEY)")
    store = Store(postgres.url)
    add = sql("test.acknowledge", "INSERT INTO acknowledged (number) VALUES (:number)")
    acknowledged: set[int] = set()
    numbers = itertools.count()
    failures: list[str] = []

    def report() -> None:
        while True:
            number = next(numbers)
            try:
                with store.transaction() as db:
                    db.execute(add, {"number": number})
            except Unavailable as error:
                failures.append(str(error))
                gevent.sleep(0.01)
            else:
                acknowledged.add(number)

    guard = gevent.spawn(postgres.supervise, lambda _: None)
    reporters = [gevent.spawn(report) for _ in range(4)]
    for _ in range(3):
        reached = len(acknowledged) + 50
        until(lambda reached=reached: len(acknowledged) > reached)  # type: ignore[misc]
        os.kill(postgres.pid, signal.SIGKILL)
    reached = len(acknowledged) + 50
    until(lambda: len(acknowledged) > reached)
    gevent.killall(reporters)
    kept = {number for (number,) in run(postgres.url, "SELECT number FROM acknowledged")}
    assert acknowledged <= kept
    assert failures
    store.dispose()
    postgres.stop()
    guard.get(timeout=5)
