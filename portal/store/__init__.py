"""The database: engine, pools, transactions and named statements; the schema, its migrations, and PostgreSQL itself."""

from portal.store.clock import Clock
from portal.store.engine import (
    Cursor,
    Holder,
    Limits,
    Prepared,
    Store,
    Vitals,
    is_named,
    limits_from,
    named,
    prepared,
    sql,
)
from portal.store.errors import Conflict, DeadlineExceeded, Refused, Unavailable, deadline

__all__ = [
    "Clock",
    "Conflict",
    "Cursor",
    "DeadlineExceeded",
    "Holder",
    "Limits",
    "Prepared",
    "Refused",
    "Store",
    "Unavailable",
    "Vitals",
    "deadline",
    "is_named",
    "limits_from",
    "named",
    "prepared",
    "sql",
]
