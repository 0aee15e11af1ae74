"""Heartbeats: what gateways say of themselves once a minute, and who has fallen silent.

Promises: a heartbeat that does not prove itself changes nothing about a gateway that can; a restart is seen by an
uptime that fell; a changed source address is told, never punished, since lines at home change theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from sqlalchemy import Connection, Row

from portal import access, wifidog
from portal.gateways.records import COLUMNS, TOUCH, Gateway
from portal.store import sql


class Trust(Enum):
    """What a call's key says about who sent it."""

    KEYED = "keyed"
    # It has never shown a key: whoever knows its gw_id may speak for it.
    ADOPTED = "adopted"
    # It has shown its key before, and this call lacks it or brings another: answered neutrally, with an alarm.
    KEY_MISSING = "key missing"


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """What every call needs to know of a gateway, kept in memory. `keys` are hashes with the moment they expire."""

    id: int
    network_id: int | None
    gw_id: str
    device_id: str
    state: str
    dialect: str
    swapped: bool
    address: str | None
    port: int
    interval_seconds: int
    link_bytes_per_second: int
    keys: tuple[tuple[bytes, datetime | None], ...]
    keyed: bool


@dataclass(frozen=True, slots=True)
class Ping:
    """A heartbeat as it arrived: from which address, sent by which software (the User-Agent)."""

    beat: wifidog.Heartbeat
    source: str
    software: str


@dataclass(frozen=True, slots=True)
class Health:
    """A gateway with what its heartbeats say. All of the heartbeat's fields are None, or "", before the first one."""

    gateway: Gateway
    keys: int
    at: datetime | None
    steady_since: datetime | None
    restarted_at: datetime | None
    wifidog_uptime: int | None
    sys_uptime: int | None
    sys_memfree: int | None
    sys_load: float | None
    software: str
    source: str
    source_changed_at: datetime | None
    key_missing_at: datetime | None
    key_seen_at: datetime | None

    def silent(self, now: datetime) -> bool:
        """Whether it pinged once and has not for three of its intervals and a minute."""
        return self.at is not None and now - self.at > access.silence(self.gateway.interval_seconds)

    @property
    def keyed(self) -> bool:
        """Whether it has shown its key, so that calls without one are not believed."""
        return self.keys > 0 and self.key_seen_at is not None

    @property
    def key_missing(self) -> bool:
        """Whether calls come without the key, in the name of a gateway that has shown it.

        A router may show its key in one of its two lines and not in the other: then its pings prove themselves once in
        each interval, and its guests are all turned away.
        """
        if self.keys == 0 or self.key_seen_at is None or self.key_missing_at is None:
            return False
        return self.key_missing_at > self.key_seen_at - timedelta(seconds=self.gateway.interval_seconds)


HEARTBEATS = sql(
    "gateways.heartbeats",
    """
    INSERT INTO heartbeat AS h (gateway_id, at, steady_since, wifidog_uptime, sys_uptime, sys_memfree, sys_load,
                                software, source, key_seen_at, key_missing_at)
    SELECT g.id, :now, :now, b.wifidog_uptime, b.sys_uptime, b.sys_memfree, b.sys_load, b.software, b.source,
           CASE WHEN b.keyed THEN CAST(:now AS timestamptz) END,
           CASE WHEN b.missing THEN CAST(:now AS timestamptz) END
      FROM unnest(CAST(:ids AS bigint[]), CAST(:wifidog_uptime AS bigint[]), CAST(:sys_uptime AS bigint[]),
                  CAST(:sys_memfree AS bigint[]), CAST(:sys_load AS double precision[]), CAST(:software AS text[]),
                  CAST(:source AS text[]), CAST(:keyed AS boolean[]), CAST(:missing AS boolean[]))
           AS b (id, wifidog_uptime, sys_uptime, sys_memfree, sys_load, software, source, keyed, missing)
      JOIN gateway g ON g.id = b.id
     ORDER BY g.id
    ON CONFLICT (gateway_id) DO UPDATE
       SET at = GREATEST(h.at, EXCLUDED.at),
           steady_since = CASE
               WHEN EXCLUDED.at - h.at > (
                   SELECT g.interval_seconds * :intervals * INTERVAL '1 second' + CAST(:grace AS interval)
                     FROM gateway g WHERE g.id = h.gateway_id
               )
               THEN EXCLUDED.at ELSE h.steady_since
           END,
           restarted_at = CASE
               WHEN EXCLUDED.wifidog_uptime < h.wifidog_uptime THEN EXCLUDED.at ELSE h.restarted_at
           END,
           wifidog_uptime = COALESCE(EXCLUDED.wifidog_uptime, h.wifidog_uptime),
           sys_uptime = EXCLUDED.sys_uptime,
           sys_memfree = EXCLUDED.sys_memfree,
           sys_load = EXCLUDED.sys_load,
           software = EXCLUDED.software,
           source_changed_at = CASE
               WHEN h.source <> '' AND h.source <> EXCLUDED.source THEN EXCLUDED.at ELSE h.source_changed_at
           END,
           source = EXCLUDED.source,
           key_seen_at = COALESCE(EXCLUDED.key_seen_at, h.key_seen_at),
           key_missing_at = COALESCE(EXCLUDED.key_missing_at, h.key_missing_at)
    """,
)

KEY_MISSING = sql(
    "gateways.key_missing",
    "UPDATE heartbeat SET key_missing_at = :now WHERE gateway_id = ANY(CAST(:ids AS bigint[]))",
)

_HEALTH = f"""
    SELECT {COLUMNS},
           (SELECT count(*) FROM gateway_key k
             WHERE k.gateway_id = g.id AND (k.expires_at IS NULL OR k.expires_at > :now)) AS keys,
           h.at, h.steady_since, h.restarted_at, h.wifidog_uptime, h.sys_uptime, h.sys_memfree, h.sys_load,
           COALESCE(h.software, '') AS software, COALESCE(h.source, '') AS source, h.source_changed_at,
           h.key_missing_at, h.key_seen_at
      FROM gateway g
      LEFT JOIN heartbeat h ON h.gateway_id = g.id
"""

ADOPTED = sql(
    "gateways.adopted",
    f"""{_HEALTH}
     WHERE g.state = 'adopted'
       AND (CAST(:network_ids AS bigint[]) IS NULL OR g.network_id = ANY(CAST(:network_ids AS bigint[])))
     ORDER BY g.network_id, lower(g.name), lower(g.gw_id)
    """,
)

INBOX = sql("gateways.inbox", f"{_HEALTH} WHERE g.state = 'inbox' ORDER BY g.created_at DESC, g.id DESC")

# Silent as Health.silent has it.
ROLL_CALL = sql(
    "gateways.roll_call",
    """
    SELECT count(*) FILTER (WHERE NOT r.silent) AS up,
           count(*) FILTER (WHERE r.silent) AS silent,
           count(*) FILTER (WHERE r.silent IS NULL) AS unheard
      FROM (SELECT CAST(:now AS timestamptz) - h.at
                   > g.interval_seconds * :intervals * INTERVAL '1 second' + CAST(:grace AS interval) AS silent
              FROM gateway g
              LEFT JOIN heartbeat h ON h.gateway_id = g.id
             WHERE g.state = 'adopted') AS r
    """,
)

HEALTH = sql("gateways.health", f"{_HEALTH} WHERE g.id = :gateway_id")


def heartbeats(db: Connection, heard: Sequence[tuple[GatewayFacts, Trust, Ping]], now: datetime) -> None:
    """Keep pings for the gateways they speak for, each with what its key was worth.

    Of a gateway's the last of each worth counts, one that proves itself after one that does not: a flood of invented
    keys is one heartbeat more.

    A gateway that has shown a key and did not this time is left as it was, but for the note that the key was missing:
    its uptime decides how counters are read, and its silence raises an alarm.

    Each statement takes its rows by id, but there are several: two processes that hear the same gateways with and
    without their keys may wait for each other. Then one of them hears Conflict, and may try again.
    """
    for worth in (Trust.ADOPTED, Trust.KEYED):
        last = {facts.id: (facts, trust, ping) for facts, trust, ping in heard if trust is worth}
        if last:
            _keep(db, list(last.values()), now)
    missing = [facts.id for facts, trust, _ in heard if trust is Trust.KEY_MISSING]
    if missing:
        miss_key(db, missing, now)
    # So that every process learns that calls without the key are not to be believed from now on.
    first = [facts.id for facts, trust, _ in heard if trust is Trust.KEYED and not facts.keyed]
    if first:
        db.execute(TOUCH, {"ids": first})


def miss_key(db: Connection, gateway_ids: Collection[int], now: datetime) -> None:
    """Note that somebody called in the name of these gateways without the key that they have shown before."""
    db.execute(KEY_MISSING, {"ids": sorted(gateway_ids), "now": now})


def health(db: Connection, gateway_id: int, now: datetime) -> Health | None:
    """A gateway with its heartbeats."""
    row = db.execute(HEALTH, {"gateway_id": gateway_id, "now": now}).first()
    return None if row is None else _health(row)


def adopted(db: Connection, now: datetime, network_ids: Collection[int] | None = None) -> list[Health]:
    """Every gateway in use, or those of some networks, with their heartbeats."""
    wanted = None if network_ids is None else list(network_ids)
    return [_health(row) for row in db.execute(ADOPTED, {"network_ids": wanted, "now": now})]


def inbox(db: Connection, now: datetime) -> list[Health]:
    """Who asks to be adopted, the newest first."""
    return [_health(row) for row in db.execute(INBOX, {"now": now})]


def roll_call(db: Connection, now: datetime) -> dict[str, int]:
    """How many gateways in use are up, how many pinged once and do not any more, how many never did. For metrics."""
    silence = {"intervals": access.SILENT_INTERVALS, "grace": access.SILENT_GRACE}
    row = db.execute(ROLL_CALL, {"now": now} | silence).one()
    return {"up": row.up, "silent": row.silent, "unheard": row.unheard}


def _keep(db: Connection, heard: Sequence[tuple[GatewayFacts, Trust, Ping]], now: datetime) -> None:
    db.execute(
        HEARTBEATS,
        {
            "ids": [facts.id for facts, _, _ in heard],
            "keyed": [trust is Trust.KEYED for _, trust, _ in heard],
            "missing": [bool(facts.keys) and trust is not Trust.KEYED for facts, trust, _ in heard],
            "wifidog_uptime": [ping.beat.wifidog_uptime for _, _, ping in heard],
            "sys_uptime": [ping.beat.sys_uptime for _, _, ping in heard],
            "sys_memfree": [ping.beat.sys_memfree for _, _, ping in heard],
            "sys_load": [ping.beat.sys_load for _, _, ping in heard],
            "software": [_software(ping) for _, _, ping in heard],
            "source": [ping.source for _, _, ping in heard],
            "now": now,
            "intervals": access.SILENT_INTERVALS,
            "grace": access.SILENT_GRACE,
        },
    )


def _software(ping: Ping) -> str:
    """Program and firmware: apfree says them in the ping, classic in its User-Agent."""
    said = (ping.software, ping.beat.version, ping.beat.firmware)
    return " ".join(filter(None, said)).replace("\0", "")[:128]


def _health(row: Row[Any]) -> Health:
    width = len(Gateway.__dataclass_fields__)
    record: Any = tuple(row[:width])
    return Health(Gateway(*record), *row[width:])
