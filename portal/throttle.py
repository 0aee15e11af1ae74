"""How often something may go wrong: token buckets in the database, so that they hold across processes and restarts.

Promises: a bucket is one row, changed in one statement; what was spent beyond its content is owed, so that the average
rate holds however many try at once. Never locks anybody out by the address of a whole venue, and never counts a
success: who types the right code is not slowed by his own sign-ins.

A guest's wrong codes and passwords count against his network and against his station at his gateway, as the browser
claims it. Beyond the station's budget he is asked to wait; beyond the network's, which an attacker with many MACs
reaches for everybody, an answer only takes a little longer. Arithmetic: codes have 55 random bits; 10,000 live codes
against the network's 30 a minute for a month are hit once in three million months, and even at the 100 a second that
delayed answers leave to an attacker, once in fourteen thousand months.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from portal.store import sql


@dataclass(frozen=True, slots=True)
class Budget:
    """A kind of bucket: `burst` at once, refilled at `per_minute`. Nothing refills a bucket of 0.0 but `refill`."""

    burst: int
    per_minute: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket. Keys of buckets that must survive `forget` begin with "lasting "."""

    key: str
    budget: Budget


@dataclass(frozen=True, slots=True)
class Level:
    """What is left in a bucket (less than nothing when more was spent), and when it was last spent from."""

    tokens: float
    spent_at: datetime | None


NETWORK_FAILURES: Final = Budget(burst=30, per_minute=30.0)
STATION_FAILURES: Final = Budget(burst=10, per_minute=2.0)
SLOWED_SECONDS: Final = 1.0
# So many bursts may be owed: an attack of an hour is not held against a venue for a day.
DEBT: Final = 3.0
# Longer than any bucket takes from the deepest debt to the brim.
KEEP: Final = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Hurdle:
    """What stands before a guest's next try: `wait_seconds` to be told to him, `delay_seconds` to be spent first."""

    wait_seconds: int
    delay_seconds: float


LEVELS = sql(
    "throttle.levels",
    """
    SELECT t.key, t.tokens, t.at
      FROM throttle t
     WHERE t.key = ANY(CAST(:keys AS text[]))
    """,
)

SPEND = sql(
    "throttle.spend",
    """
    INSERT INTO throttle (key, tokens, at)
    VALUES (:key, CAST(:burst AS double precision) - 1, :now)
    ON CONFLICT (key) DO UPDATE
       SET tokens = GREATEST(
               -:debt * CAST(:burst AS double precision),
               LEAST(
                   CAST(:burst AS double precision),
                   throttle.tokens
                   + :per_second * GREATEST(0, EXTRACT(EPOCH FROM EXCLUDED.at - throttle.at))
               ) - 1
           ),
           at = GREATEST(throttle.at, EXCLUDED.at)
    RETURNING tokens
    """,
)

REFILL = sql("throttle.refill", "DELETE FROM throttle WHERE key = ANY(CAST(:keys AS text[]))")

FORGET = sql(
    "throttle.forget",
    """
    DELETE FROM throttle
     WHERE at < :before
       AND key NOT LIKE 'lasting %'
    """,
)


def levels(db: Connection, buckets: Sequence[Bucket], now: datetime) -> list[Level]:
    """What is left in each bucket at `now`."""
    stored = {row.key: row for row in db.execute(LEVELS, {"keys": [bucket.key for bucket in buckets]})}
    found = []
    for bucket in buckets:
        row = stored.get(bucket.key)
        if row is None:
            found.append(Level(float(bucket.budget.burst), None))
        else:
            refilled = bucket.budget.per_minute / 60 * max(0.0, (now - row.at).total_seconds())
            found.append(Level(min(float(bucket.budget.burst), row.tokens + refilled), row.at))
    return found


def spend(db: Connection, bucket: Bucket, now: datetime) -> float:
    """Take one from a bucket; what is left then, below 0 when it had less than one."""
    left = db.execute(
        SPEND,
        {
            "key": bucket.key,
            "burst": bucket.budget.burst,
            "per_second": bucket.budget.per_minute / 60,
            "debt": DEBT,
            "now": now,
        },
    ).scalar_one()
    return float(left)


def refill(db: Connection, buckets: Sequence[Bucket]) -> None:
    """Fill buckets to the brim."""
    db.execute(REFILL, {"keys": [bucket.key for bucket in buckets]})


def forget(db: Connection, now: datetime) -> int:
    """Drop the buckets that nobody has spent from for hours: they are full. How many there were."""
    return db.execute(FORGET, {"before": now - KEEP}).rowcount


def guest_hurdle(db: Connection, network_id: int, gateway_id: int, mac: str | None, now: datetime) -> Hurdle:
    """What stands before a guest's next code or password. Ask before looking it up."""
    buckets = _guest_buckets(network_id, gateway_id, mac)
    found = levels(db, buckets, now)
    wait = 0
    if len(found) > 1 and found[1].tokens < 1:
        wait = max(1, round((1 - found[1].tokens) / STATION_FAILURES.per_minute * 60))
    return Hurdle(wait, SLOWED_SECONDS if found[0].tokens < 1 else 0.0)


def guest_failed(db: Connection, network_id: int, gateway_id: int, mac: str | None, now: datetime) -> None:
    """A code that nobody was sold, a password that does not match. A code with a wrong check character is neither."""
    network, *station = _guest_buckets(network_id, gateway_id, mac)
    left = spend(db, network, now)
    # A claimed MAC costs an attacker nothing: in the depth of an attack its buckets would only fill the table.
    if left > -DEBT * network.budget.burst:
        for bucket in station:
            spend(db, bucket, now)


def _guest_buckets(network_id: int, gateway_id: int, mac: str | None) -> list[Bucket]:
    """The network's, and the station's where the browser names one: old gateways do not tell it the MAC."""
    buckets = [Bucket(f"network {network_id}", NETWORK_FAILURES)]
    if mac:
        buckets.append(Bucket(f"station {gateway_id} {mac}", STATION_FAILURES))
    return buckets
