"""The schema in the database is the schema in the models, and changes of it are safe to start twice."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg2
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import NullPool, create_engine

from portal.store import Store, migrations
from portal.store.models import Base


def test_a_migrated_database_is_what_the_models_say(store: Store) -> None:
    with store.transaction() as db:
        migrations.ensure_partitions(db, datetime(2026, 11, 21, tzinfo=UTC))
    partitions: set[str] = set()
    for parent in migrations.monthly_tables():
        with store.read() as db:
            partitions |= set(migrations.partitions(db, parent))

    def ours(name: str | None, kind: str, _parents: object) -> bool:
        return not (kind == "table" and (name in partitions or name == "alembic_version"))

    engine = create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(store.url), poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": ours, "compare_type": True, "compare_server_default": True},
        )
        assert compare_metadata(context, Base.metadata) == []
