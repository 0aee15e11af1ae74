"""Grants: what a code, an account or a click gives a guest.

Promises: the terms are copied from the plan when the grant is made, so that an edited plan changes nothing already
sold; a grant starts once, at its first activation. Never counts: the ledger does, and never judges: access does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from sqlalchemy import Connection

from portal.access import Allowance, Reason, allowance, exhausted
from portal.store import sql


class Plan(Protocol):
    """What names a plan here (networks.Plan, or its row). Its terms never pass through: the database copies them."""

    @property
    def id(self) -> int: ...
    @property
    def network_id(self) -> int: ...


class Grant(NamedTuple):
    """A grant with its use, at the moment it was read."""

    id: int
    network_id: int
    plan_id: int | None
    kind: str
    name: str
    seconds: int | None
    clock: str
    bytes: int | None
    counts: str
    devices: int | None
    valid_until: datetime | None
    idle_seconds: int | None
    period: str | None
    period_seconds: int | None
    period_bytes: int | None
    time_zone: str
    created_at: datetime
    started_at: datetime | None
    ends_at: datetime | None
    used_seconds: float
    used_down: int
    used_up: int
    revoked_at: datetime | None
    over_at: datetime | None
    over_reason: str | None
    period_used_seconds: float
    period_used_down: int
    period_used_up: int

    def allowance(self, now: datetime) -> Allowance:
        """What is left at `now`."""
        return allowance(self, now)

    def exhausted(self, now: datetime) -> Reason | None:
        """Why nothing is left at `now`, or None."""
        return exhausted(self, now)


class Refused(Exception):
    """A guest is not let in, for a reason that a page says in words, with the figures of `grant` where it has one."""

    def __init__(self, reason: Reason, grant: Grant | None = None, until: datetime | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.grant = grant
        self.until = until


MAKE = sql(
    "grants.make",
    """
    INSERT INTO "grant" (network_id, plan_id, kind, name, seconds, clock, bytes, counts, devices, valid_until,
                         idle_seconds, period, period_seconds, period_bytes, time_zone, click_mac, created_at)
    SELECT p.network_id, p.id, :kind, p.name, p.seconds, p.clock, p.bytes, p.counts, p.devices,
           (date_trunc('day', CAST(:now AS timestamptz) AT TIME ZONE n.time_zone)
            + INTERVAL '1 day' + p.valid_seconds * INTERVAL '1 second') AT TIME ZONE n.time_zone,
           p.idle_seconds, p.period, p.period_seconds, p.period_bytes, n.time_zone, :click_mac, :now
      FROM plan p
      JOIN network n ON n.id = p.network_id
     CROSS JOIN generate_series(1, :count)
     WHERE p.id = :plan_id
    RETURNING id
    """,
)

# A grant `g` with its use `u` in the period that :now falls in: the columns of Grant, for whoever reads them in a join.
COLUMNS = """
    g.id, g.network_id, g.plan_id, g.kind, g.name, g.seconds, g.clock, g.bytes, g.counts, g.devices,
    g.valid_until, g.idle_seconds, g.period, g.period_seconds, g.period_bytes, g.time_zone, g.created_at,
    g.started_at, g.ends_at, g.used_seconds, g.used_down, g.used_up, g.revoked_at, g.over_at, g.over_reason,
    COALESCE(u.used_seconds, 0), COALESCE(u.used_down, 0), COALESCE(u.used_up, 0)
"""
PERIOD_JOIN = """
    LEFT JOIN grant_period u
      ON u.grant_id = g.id
     AND u.starts = CAST(date_trunc(g.period, CAST(:now AS timestamptz) AT TIME ZONE g.time_zone) AS date)
"""

LOAD = sql(
    "grants.load",
    f"""
    SELECT {COLUMNS}
      FROM "grant" g
      {PERIOD_JOIN}
     WHERE g.id = :grant_id
    """,
)

REVOKE = sql(
    "grants.revoke",
    """
    UPDATE "grant" SET revoked_at = :now WHERE id = ANY(:grant_ids) AND revoked_at IS NULL
    """,
)

LOCK_CLICK = sql(
    "grants.lock_click",
    "SELECT pg_advisory_xact_lock(hashtextextended(CAST(:network_id AS text) || :mac, 0))",
)

LATEST_CLICK = sql(
    "grants.latest_click",
    """
    SELECT g.id, COALESCE(g.started_at, g.created_at)
      FROM "grant" g
     WHERE g.network_id = :network_id AND g.kind = 'click' AND g.click_mac = :mac AND g.plan_id = :plan_id
     ORDER BY g.created_at DESC
     LIMIT 1
    """,
)


def make(
    db: Connection, plan: Plan, kind: str, now: datetime, *, click_mac: str | None = None, count: int = 1
) -> list[int]:
    """Make `count` grants of `plan`'s terms as they stand; their ids. Nothing is spent until one is activated."""
    rows = db.execute(MAKE, {"plan_id": plan.id, "kind": kind, "now": now, "click_mac": click_mac, "count": count})
    return [row[0] for row in rows]


def load(db: Connection, grant_id: int, now: datetime) -> Grant:
    """The grant as it stands, with its use in the day, week or month that `now` falls in. It must exist."""
    return Grant._make(db.execute(LOAD, {"grant_id": grant_id, "now": now}).one())


def revoke(db: Connection, grant_ids: Sequence[int], now: datetime) -> int:
    """Take grants back; whoever is online with one is cut off at the next poll. How many were not yet revoked."""
    return db.execute(REVOKE, {"grant_ids": list(grant_ids), "now": now}).rowcount


def for_click(db: Connection, plan: Plan, cooldown_seconds: int | None, mac: str, now: datetime) -> Grant:
    """The grant of a click: the station's last one while something is left of it, else a new one.

    With `cooldown_seconds` the next one is refused until so long after the last began. Two clicks at once make one
    grant. Raises Refused with the moment from which it works again.
    """
    db.execute(LOCK_CLICK, {"network_id": plan.network_id, "mac": mac})
    latest = db.execute(LATEST_CLICK, {"network_id": plan.network_id, "mac": mac, "plan_id": plan.id}).first()
    if latest is not None:
        grant = load(db, latest[0], now)
        over = grant.exhausted(now)
        if over is None or grant.period is not None:
            return grant
        if cooldown_seconds is not None and now < (again := latest[1] + timedelta(seconds=cooldown_seconds)):
            raise Refused(Reason.COOLDOWN, grant, until=again)
    return load(db, make(db, plan, "click", now, click_mac=mac)[0], now)
