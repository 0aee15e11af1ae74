"""The database: engine, pools, transactions and named statements; the schema, its migrations, and PostgreSQL itself."""

from portal.store.clock import Clock
from portal.store.engine import LIMITS, Cursor, Holder, Limits, Store, Vitals, is_named, named, sql
from portal.store.errors import Conflict, DeadlineExceeded, Refused, Unavailable, deadline

__all__ = [
    "LIMITS",
    "Clock",
    "Conflict",
    "Cursor",
    "DeadlineExceeded",
    "Holder",
    "Limits",
    "Refused",
    "Store",
    "Unavailable",
    "Vitals",
    "deadline",
    "is_named",
    "named",
    "sql",
]
