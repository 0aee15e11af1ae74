"""The regular work that one process does for all: what has ended is put away, what is too old is deleted.

Promises: small transactions, so that no poll waits for a long one; each task can be called alone, and calling it twice
does no harm. jobs.leased sees to it that one process at a time does it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Connection

from portal import ledger, operators, sessions, throttle
from portal.config import Retention
from portal.store import Store, sql
from portal.store.migrations import drop_partitions, ensure_partitions

STEP = 500
# Signs of listening come every ten seconds. What a gap that stays below this hides, access.SILENT_GRACE covers.
LISTENING_GAP = timedelta(seconds=30)

OLDEST_ENDED = sql("upkeep.oldest_ended", "SELECT min(ended_at) FROM session WHERE state = 'ended'")
FORGET_AUDIT = sql("upkeep.forget_audit", "DELETE FROM audit WHERE at < :before")
FORGET_STATIONS = sql(
    "upkeep.forget_stations",
    """
    DELETE FROM station b
     WHERE b.seen_at < :before AND (b.blocked_until IS NULL OR b.blocked_until < :now)
       AND NOT EXISTS (SELECT 1 FROM session s WHERE s.network_id = b.network_id AND s.mac = b.mac)
    """,
)

Task = Callable[[datetime], object]


class Listening:
    """Since when reports have been heard and written without a gap, as far as this process can tell.

    Every moment is the database's, so a process that was stopped, or a clock that was moved, leaves a gap as well. A
    process vouches for its own life alone: where several share the work, what it says may be later than the truth, and
    then a silence is found later; it is never earlier.
    """

    def __init__(self) -> None:
        self._since: datetime | None = None
        self._last: datetime | None = None

    def go_on(self, now: datetime) -> None:
        """At `now` reports are heard, and the database takes them."""
        self._since, self._last = self.since(now), now

    def since(self, now: datetime) -> datetime:
        """From when on until `now`: `now` itself when it cannot be said, or the last sign is too long ago."""
        if self._since is None or self._last is None or now - self._last > LISTENING_GAP:
            return now
        return self._since


def tasks(store: Store, retention: Retention, listening: Listening) -> list[tuple[str, timedelta, Task]]:
    """Each task's name, how often it is due, and the task; what it returns is kept as the outcome of its last run."""
    return [
        ("silence", timedelta(seconds=20), lambda now: silence(store, listening.since(now), now)),
        ("usage", timedelta(minutes=5), lambda now: _in_steps(store, "usage", ledger.roll_usage, now)),
        ("archive", timedelta(minutes=10), lambda now: archive(store, now)),
        ("forget", timedelta(hours=1), lambda now: forget(store, now)),
        ("retention", timedelta(hours=6), lambda now: retain(store, retention, now)),
    ]


def silence(store: Store, since: datetime, now: datetime) -> int:
    """End the sessions that their gateways do not mention any more, though we have listened `since`. How many."""

    def step(db: Connection, now: datetime, most: int) -> int:
        return sessions.end_silent(db, now, since, most)

    return _in_steps(store, "silence", step, now)


def archive(store: Store, now: datetime) -> int:
    """Move sessions that ended more than a day ago out of the hot table. How many."""
    with store.transaction("jobs", caller="archive") as db:
        ensure_partitions(db, now)
        # After a long standstill the oldest may belong to a month that has no partition yet.
        oldest = db.execute(OLDEST_ENDED).scalar()
        if oldest is not None:
            ensure_partitions(db, oldest)
    return _in_steps(store, "archive", sessions.archive, now)


def forget(store: Store, now: datetime) -> int:
    """Delete tokens nobody showed, operators' sessions and links that are over, and budgets that are full again."""
    others = sum(_once(store, "forget", work, now) for work in (operators.forget, throttle.forget))
    return others + _in_steps(store, "forget", sessions.forget_minted, now)


def retain(store: Store, retention: Retention, now: datetime) -> str:
    """Delete what is older than the settings let it become. In words what was dropped."""
    with store.transaction("jobs", caller="retention") as db:
        ensure_partitions(db, now)
        dropped = drop_partitions(db, "ended_session", now - timedelta(days=retention.sessions_days))
        dropped += drop_partitions(db, "usage_hour", now - timedelta(days=retention.usage_days))
        db.execute(FORGET_AUDIT, {"before": now - timedelta(days=retention.audit_days)})
        db.execute(FORGET_STATIONS, {"before": now - timedelta(days=retention.stations_days), "now": now})
    return ", ".join(dropped) or "nothing is too old"


def _once(store: Store, name: str, work: Callable[[Connection, datetime], int], now: datetime) -> int:
    with store.transaction("jobs", caller=name) as db:
        return work(db, now)


def _in_steps(store: Store, name: str, work: Callable[[Connection, datetime, int], int], now: datetime) -> int:
    done = 0
    while True:
        with store.transaction("jobs", caller=name) as db:
            step = work(db, now, STEP)
        done += step
        if step < STEP:
            return done
