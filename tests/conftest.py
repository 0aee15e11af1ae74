"""What every test may use: a PostgreSQL of our own, a migrated database for each test, the installation's keys.

The tests run patched, as the server does. Patching in here would be too late, since pytest's plugins have imported ssl
and threading by now; so a plain `python -m pytest` starts itself again as `python -m gevent.monkey --module pytest`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg2
import pytest
from gevent import monkey
from hypothesis import settings
from psycogreen.gevent import patch_psycopg
from sqlalchemy import Connection

from portal.keys import Keyring
from portal.store import Limits, Store, is_named
from portal.store.embedded import DATABASE, ROLE, Postgres
from portal.store.migrations import migrate

TEMPLATE = "portal_template"
ROOM = 2**30
"""What the tests' databases take at most, with room to spare."""


def pytest_configure(config: pytest.Config) -> None:
    if not monkey.is_module_patched("socket"):
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.stop_global_capturing()  # or what follows would write to pytest's temporary files
        command = [sys.executable, "-m", "gevent.monkey", "--module", "pytest", *config.invocation_params.args]
        os.execv(sys.executable, command)  # noqa: S606
    patch_psycopg()
    # How long one example takes says nothing on a machine that others use too.
    settings.register_profile("gatepost", deadline=None)
    settings.load_profile("gatepost")


class Cluster:
    """PostgreSQL for the tests: not safe against a crash, and therefore fast. Databases are clones of one."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self._made = 0
        self._admin = psycopg2.connect(self.url_of("postgres", superuser=True))
        self._admin.autocommit = True

    def url_of(self, database: str, *, superuser: bool = False) -> str:
        url = self.postgres.superuser_url if superuser else self.postgres.url
        return url.replace(f"/{DATABASE}?", f"/{quote(database)}?")

    def run(self, statement: str) -> None:
        """A statement as superuser, outside any transaction."""
        with self._admin.cursor() as cursor:
            cursor.execute(statement)

    def prepare_template(self) -> None:
        self.run(f"CREATE DATABASE {TEMPLATE} OWNER {ROLE}")
        migrate(self.url_of(TEMPLATE))

    @contextlib.contextmanager
    def clone(self) -> Iterator[str]:
        """The URL of a fresh, migrated database, dropped afterwards even if somebody is still connected."""
        self._made += 1
        name = f"test_{os.getpid()}_{self._made}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER {ROLE} STRATEGY file_copy")
        try:
            yield self.url_of(name)
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        self._admin.close()


def _quickest() -> str:
    """Memory, where there is enough. A clone is hundreds of files: 0.02 s to make and to drop, 0.3 s on a disk."""
    memory = Path("/dev/shm")  # noqa: S108
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    return str(memory) if roomy else "/tmp"  # noqa: S108


@pytest.fixture(scope="session")
def short_directory() -> Iterator[Path]:
    """A directory that PostgreSQL's user can reach (pytest's own is private) and whose path fits a socket."""
    path = Path(tempfile.mkdtemp(prefix="gp-", dir=_quickest()))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def cluster(short_directory: Path) -> Iterator[Cluster]:
    """The session's PostgreSQL."""
    settings = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB", "autovacuum": "off"}
    postgres = Postgres(short_directory / "cluster", connections=100, settings=settings)
    postgres.start()
    try:
        cluster = Cluster(postgres)
        cluster.prepare_template()
        yield cluster
        cluster.close()
    finally:
        postgres.stop()


@pytest.fixture
def database_url(cluster: Cluster) -> Iterator[str]:
    """A fresh, migrated database: for a real server in a process of its own, or for a store."""
    with cluster.clone() as url:
        yield url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store on a fresh, migrated database. Fails the test that sends a statement without a name."""
    store = Store(database_url, limits=TEST_LIMITS, on_statement=refuse_unnamed)
    try:
        yield store
    finally:
        store.dispose()


@pytest.fixture(scope="session")
def quiet_store(cluster: Cluster) -> Iterator[Store]:
    """The store behind `db`: its database stays as it was made, since nothing is ever committed to it."""
    with cluster.clone() as url:
        store = Store(url, limits=TEST_LIMITS, on_statement=refuse_unnamed)
        try:
            yield store
        finally:
            store.dispose()


@pytest.fixture
def db(quiet_store: Store) -> Iterator[Connection]:
    """An open transaction on an empty database, rolled back after the test: cheaper than a `store` of its own."""
    with quiet_store.transaction(caller="test") as db:
        yield db
        db.rollback()


@pytest.fixture(scope="session")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """An installation's keys."""
    return Keyring.load_or_create(tmp_path_factory.mktemp("keys"))


# As in production, except that a slow machine under a full test run is no reason to fail.
TEST_LIMITS = {
    "ledger": Limits(1, 1, 5.0, 5_000, 200, 10.0, plain_plans=True),
    "polls": Limits(2, 50, 5.0, 5_000, 200, 10.0, plain_plans=True),
    "guests": Limits(8, 100, 5.0, 5_000, 2_000, 10.0),
    "operators": Limits(4, 20, 5.0, 10_000, 5_000, 15.0),
    "jobs": Limits(3, 20, 30.0, 60_000, 10_000, 90.0),
}


def refuse_unnamed(statement: str) -> None:
    """Every statement says whose it is: see portal.store.sql and portal.store.named."""
    assert is_named(statement), f"a statement without a name: {statement.strip()[:200]}"
