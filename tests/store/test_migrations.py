"""The schema in the database is the schema in the models, and changes of it are safe to start twice."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import gevent
import psycopg2
import pytest
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.exc import IntegrityError

from portal.store import Conflict, Store, migrations, sql
from portal.store.models import Base
from tests.conftest import Cluster

REVISIONS = Path(migrations.__file__).parent / "versions"
NOVEMBER = datetime(2026, 11, 21, 12, tzinfo=UTC)
ADD_HOUR = sql(
    "test.add_hour",
    """
    INSERT INTO usage_hour (hour, session_id, network_id, gateway_id, down, up)
    VALUES (:hour, 1, 1, 1, 1, 1)
    """,
)


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[str]:
    """The URL of a database that nobody has migrated."""
    cluster.run("CREATE DATABASE unmigrated OWNER portal")
    yield cluster.url_of("unmigrated")
    cluster.run("DROP DATABASE unmigrated WITH (FORCE)")


def test_a_migrated_database_is_what_the_models_say(store: Store) -> None:
    with store.transaction("jobs") as db:
        made = set(migrations.ensure_partitions(db, NOVEMBER))

    def ours(name: str | None, kind: str, _parents: object) -> bool:
        return not (kind == "table" and (name in made or name == "alembic_version"))

    with engine(store.url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": ours, "compare_type": True, "compare_server_default": True}
        )
        difference = produce_migrations(context, Base.metadata).upgrade_ops
    assert difference is not None
    assert difference.is_empty(), f"the models have moved on; the next revision is:\n{render_python_code(difference)}"


def test_what_the_comparison_above_cannot_see_is_the_same_too(empty: str, database_url: str) -> None:
    """Checks, storage parameters, partitioning, the order of an index's columns: as PostgreSQL itself tells them."""
    Base.metadata.create_all(engine(empty))
    declared = catalogue(empty)
    assert len(declared) > 200
    assert declared == catalogue(database_url)


def engine(url: str) -> Engine:
    return create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(url), poolclass=NullPool)


def catalogue(url: str) -> list[str]:
    """One line for each table, column, constraint and index."""
    statement = """
        WITH ours AS (
            SELECT oid, relname, reloptions, relkind
              FROM pg_class
             WHERE relnamespace = CAST('public' AS regnamespace)
               AND relkind IN ('r', 'p')
               AND relname <> 'alembic_version'
        )
        SELECT format('table %s %s %s %s', relname, relkind, reloptions, pg_get_partkeydef(oid)) FROM ours
         UNION ALL
        SELECT format('column %s.%s %s null=%s default=%s identity=%s', relname, attname,
                      format_type(atttypid, atttypmod), NOT attnotnull, pg_get_expr(adbin, adrelid), attidentity)
          FROM ours
          JOIN pg_attribute ON attrelid = ours.oid AND attnum > 0 AND NOT attisdropped
          LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
         UNION ALL
        SELECT format('constraint %s.%s %s', relname, conname, pg_get_constraintdef(pg_constraint.oid))
          FROM ours
          JOIN pg_constraint ON conrelid = ours.oid
         UNION ALL
        SELECT format('index %s', pg_get_indexdef(indexrelid))
          FROM ours
          JOIN pg_index ON indrelid = ours.oid
         ORDER BY 1
    """
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return [line for (line,) in cursor.fetchall()]
    finally:
        connection.close()


def test_revisions_are_numbered_as_their_files_and_follow_each_other() -> None:
    scripts = migrations._scripts()
    files = sorted(REVISIONS.glob("*.py"))
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.py", file.name) for file in files)
    revisions = [script.revision for script in reversed(list(scripts.walk_revisions()))]
    assert revisions == [file.name[:4] for file in files] == [f"{i:04}" for i in range(1, len(files) + 1)]
    assert scripts.get_heads() == [migrations.head()]


def test_migrating_brings_a_database_to_the_head_and_once_more_changes_nothing(empty: str) -> None:
    assert migrations.current(empty) is None
    migrations.migrate(empty)
    assert migrations.current(empty) == migrations.head()
    began = time.monotonic()
    migrations.migrate(empty)
    assert time.monotonic() - began < 2


def test_processes_that_start_together_take_turns(empty: str) -> None:
    starters = [gevent.spawn(migrations.migrate, empty) for _ in range(4)]
    gevent.joinall(starters, raise_error=True)
    assert migrations.current(empty) == migrations.head()


def test_a_starter_gives_up_on_another_that_never_ends(empty: str) -> None:
    other = psycopg2.connect(empty)
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (migrations.LOCK,))
    with pytest.raises(Conflict, match="another process"):
        migrations.migrate(empty, patience=0.2)
    other.close()
    migrations.migrate(empty)


def test_a_migration_that_cannot_have_a_lock_lets_others_pass_and_tries_again(empty: str) -> None:
    other = psycopg2.connect(empty)
    with other.cursor() as cursor:
        cursor.execute("CREATE TABLE network (id integer)")  # not committed: a name that is taken, perhaps
    migrating = gevent.spawn(migrations.migrate, empty, lock_ms=50)
    gevent.sleep(0.5)
    assert not migrating.ready()
    other.rollback()
    other.close()
    migrating.get(timeout=10)
    assert migrations.current(empty) == migrations.head()


def test_every_month_has_its_partition_before_it_comes(store: Store) -> None:
    with store.transaction("jobs") as db:
        made = migrations.ensure_partitions(db, NOVEMBER)
    months = ["2026_10", "2026_11", "2026_12", "2027_01", "2027_02"]
    assert made == [f"{table}_{month}" for table in migrations.monthly_tables() for month in months]
    with store.transaction("jobs") as db:
        assert migrations.ensure_partitions(db, NOVEMBER) == []
        assert migrations.ensure_partitions(db, NOVEMBER.replace(month=12)) == [
            f"{table}_2027_03" for table in migrations.monthly_tables()
        ]
        for moment in ("2026-10-01T00:00Z", "2026-12-31T23:59Z", "2027-03-31T23:59Z"):
            db.execute(ADD_HOUR, {"hour": datetime.fromisoformat(moment)})
    with pytest.raises(IntegrityError, match="no partition"), store.transaction("jobs") as db:
        db.execute(ADD_HOUR, {"hour": datetime(2027, 4, 1, tzinfo=UTC)})


def test_months_follow_utc_whatever_zone_now_is_given_in(store: Store) -> None:
    with store.transaction("jobs") as db:
        made = migrations.ensure_partitions(db, datetime.fromisoformat("2027-01-01T01:00+02:00"))
    assert made[0].endswith("2026_11")
    assert made[-1].endswith("2027_03")


def test_processes_that_make_partitions_together_make_them_once(store: Store) -> None:
    def make() -> list[str]:
        with store.transaction("jobs") as db:
            return migrations.ensure_partitions(db, NOVEMBER)

    makers = [gevent.spawn(make) for _ in range(3)]
    gevent.joinall(makers, raise_error=True)
    assert sorted(len(maker.value or []) for maker in makers) == [0, 0, 10]


def test_a_month_is_dropped_when_nothing_in_it_is_to_be_kept(store: Store) -> None:
    with store.transaction("jobs") as db:
        migrations.ensure_partitions(db, NOVEMBER)
        assert migrations.drop_partitions(db, "usage_hour", datetime(2026, 11, 30, tzinfo=UTC)) == [
            "usage_hour_2026_10"
        ]
        assert migrations.drop_partitions(db, "usage_hour", datetime(2026, 12, 1, tzinfo=UTC)) == ["usage_hour_2026_11"]
        assert migrations.partitions(db, "usage_hour")[0] == "usage_hour_2026_12"
