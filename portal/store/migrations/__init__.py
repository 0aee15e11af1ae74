"""Changes of the schema, numbered, applied from code.

Promises: each revision is one transaction; processes that start together take turns; a revision that would make polls
wait for a lock steps back after two seconds and tries again. Never goes back: a mistake is mended by the next number,
and the way back to an old release is a backup.

Alembic, and the models with the ORM, are imported only where a revision is applied or a partition made: together they
take longer to import than the rest of the program, and a database is mostly found as it should be.
"""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from portal.store.connect import Connector
from portal.store.engine import sql
from portal.store.errors import Conflict, sort, sorting

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, RevisionStep
    from alembic.script import ScriptDirectory

LOCK = 0x6761746570  # any number, so long as it stays the same
MONTHS_AHEAD = 3
_HERE: Final = Path(__file__).parent

_KNOWS_REVISIONS = sql("migrations.knows_revisions", "SELECT to_regclass('alembic_version') IS NOT NULL")
_REVISION = sql("migrations.revision", "SELECT version_num FROM alembic_version")
_TRY_LOCK = sql("migrations.lock", "SELECT pg_try_advisory_lock(:lock)")
_PARTITION_LOCK = sql("migrations.partition_lock", "SELECT pg_advisory_xact_lock(:lock)")
_PARTITIONS = sql(
    "migrations.partitions",
    """
    SELECT child.relname
      FROM pg_inherits
      JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
     WHERE pg_inherits.inhparent = CAST(:parent AS regclass)
     ORDER BY child.relname
    """,
)


def migrate(url: str, *, patience: float = 120.0, lock_ms: int = 2_000) -> None:
    """Bring the database to the newest revision. Waits for another process that is at it, `patience` seconds long.

    `lock_ms` is how long a revision may wait for a lock, and everybody else behind it, before it steps back.
    Raises Unavailable when the database does not answer, and Conflict when locks could not be had for so long.
    """
    end = time.monotonic() + patience
    # The newest revision is noted when it is committed: whoever finds it has nothing to wait for.
    if current(url) == head():
        return
    with sorting(), contextlib.closing(_Engines(url, lock_ms)) as engines, engines.engine.connect() as holder:
        guard = holder.execution_options(isolation_level="AUTOCOMMIT")
        # The blocking form would hold a snapshot while it waits, and an index built concurrently waits for that.
        while not guard.execute(_TRY_LOCK, {"lock": LOCK}).scalar_one():
            if time.monotonic() > end:
                raise Conflict("another process has been changing the schema for too long")
            time.sleep(0.05)
        while True:
            try:
                with engines.engine.connect() as connection:
                    _upgrade(connection)
                return
            except DBAPIError as error:
                if not isinstance(sort(error.orig), Conflict) or time.monotonic() > end:
                    raise
            time.sleep(0.2)


def current(url: str) -> str | None:
    """The database's revision; None when it has none yet."""
    with sorting(), contextlib.closing(_Engines(url)) as engines, engines.engine.connect() as connection:
        known = connection.execute(_KNOWS_REVISIONS).scalar_one()
        found = connection.execute(_REVISION).scalar() if known else None
        return None if found is None else str(found)


def head() -> str:
    """The newest revision this release knows: the number of the last file."""
    return max(file.name[:4] for file in (_HERE / "versions").glob("[0-9]*.py"))


def ensure_partitions(db: Connection, now: datetime) -> list[str]:
    """Partitions of every monthly table: last month's, this one's and the next three. Returns those it made."""
    months = _months(now)
    db.execute(_PARTITION_LOCK, {"lock": LOCK + 1})
    made = []
    for parent in monthly_tables():
        there = set(partitions(db, parent))
        for first, following in zip(months, months[1:], strict=False):
            name = f"{parent}_{first:%Y_%m}"
            if name not in there:
                db.execute(
                    sql(
                        "migrations.add_partition",
                        f"CREATE TABLE {name} PARTITION OF {parent} "
                        f"FOR VALUES FROM ('{first:%Y-%m-%d} 00:00:00+00') TO ('{following:%Y-%m-%d} 00:00:00+00')",
                    )
                )
                made.append(name)
    return made


def drop_partitions(db: Connection, parent: str, before: datetime) -> list[str]:
    """Drop the partitions of `parent` that hold nothing from `before` on. Returns those it dropped."""
    dropped = []
    for name in partitions(db, parent):
        year, month = name.removeprefix(f"{parent}_").split("_")
        following = _next_month(datetime(int(year), int(month), 1, tzinfo=UTC))
        if following <= before:
            db.execute(sql("migrations.drop_partition", f"DROP TABLE {name}"))
            dropped.append(name)
    return dropped


def partitions(db: Connection, parent: str) -> list[str]:
    """The names of a table's partitions, oldest first."""
    return list(db.execute(_PARTITIONS, {"parent": parent}).scalars())


def monthly_tables() -> list[str]:
    """The tables that are partitioned by month."""
    from portal.store.models import Base

    return [table.name for table in Base.metadata.sorted_tables if table.info.get("monthly")]


def _months(now: datetime) -> list[datetime]:
    first = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    months = [(first - timedelta(days=1)).replace(day=1)]
    while len(months) < MONTHS_AHEAD + 3:
        months.append(_next_month(months[-1]))
    return months


def _next_month(first: datetime) -> datetime:
    return (first + timedelta(days=32)).replace(day=1)


class _Engines:
    """Connections without a statement's time limit, each used once: an index on a large table takes its time."""

    def __init__(self, url: str, lock_ms: int = 2_000) -> None:
        settings = {"TimeZone": "'UTC'", "statement_timeout": "0", "lock_timeout": str(lock_ms)}
        connector = Connector(url, settings=settings, application="gatepost migrations", seconds=10)
        self.engine: Engine = create_engine(
            "postgresql+psycopg2://", creator=connector, poolclass=NullPool, use_native_hstore=False
        )

    def close(self) -> None:
        self.engine.dispose()


def _scripts() -> ScriptDirectory:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def _upgrade(connection: Connection) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext

    from portal.store.models import Base

    scripts = _scripts()

    def steps(revision: Any, _context: MigrationContext) -> list[RevisionStep]:
        return scripts._upgrade_revs("head", revision)  # what alembic's own upgrade command does

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
        with environment.begin_transaction():
            environment.run_migrations()
    connection.commit()
