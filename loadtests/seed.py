"""Databases to measure on: guests who are online, with genuine tokens, and the many who were before them.

Rows are written as the product would have left them, by plain INSERTs of whole tables, so that a hundred thousand
guests online take seconds. Tokens come from the installation's own keyring: every request made with them is genuine.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import psycopg2.extensions

from portal.gateways.records import key_hash
from portal.keys import Keyring

GUESTS_EACH = 100
"""Guests online at one gateway."""
KEY = "{number:032d}"
LINK = 10**12
"""Bytes a second, so that no report of a test exceeds what the link could have carried."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest online: what the gateway reports of him."""

    token: str
    mac: str
    ip: str
    gw_id: str
    key: str


def town(url: str, keyring: Keyring, *, online: int, ended: int) -> list[Guest]:
    """Fills an empty, migrated database: one network, a gateway for every hundred guests online, a grant and a counter
    line for each, and `ended` sessions of the last hours that are over.

    The stored ones stand in the hot table itself, where the product keeps them for a day: the worst case. `url` must be
    a superuser's, since a million rows are not checked against their foreign keys one by one. Gateways have shown the
    key they have, and report once an hour, so that no guest falls silent while something else is measured.
    """
    guests = [_guest(number, keyring.mint_token()) for number in range(online)]
    db = psycopg2.connect(url)
    try:
        with db, db.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")
            cursor.execute("INSERT INTO network (slug, name) VALUES ('bench', 'Bench') RETURNING id")
            network = cursor.fetchone()[0]
            _gateways(cursor, network, -(-online // GUESTS_EACH))
            cursor.execute("CREATE TEMPORARY TABLE guest (n int, token_hash bytea, mac text, ip text) ON COMMIT DROP")
            lines = (
                f"{n}\t\\\\x{keyring.token_hash(guest.token).hex()}\t{guest.mac}\t{guest.ip}\n"
                for n, guest in enumerate(guests)
            )
            cursor.copy_expert("COPY guest FROM STDIN", io.StringIO("".join(lines)))
            values = {"network": network, "each": GUESTS_EACH, "online": online, "ended": ended}
            cursor.execute(
                """
                INSERT INTO "grant" (id, network_id, kind, name, time_zone, started_at) OVERRIDING SYSTEM VALUE
                SELECT n + 1, %(network)s, 'voucher', 'Day', 'UTC', now() FROM guest;

                INSERT INTO session (id, token_hash, network_id, gateway_id, grant_id, mac, ip, state,
                                     activated_at, reported_at, active_at) OVERRIDING SYSTEM VALUE
                SELECT n + 1, token_hash, %(network)s, n / %(each)s + 1, n + 1, mac, ip, 'active', now(), now(), now()
                  FROM guest;

                INSERT INTO counter_line (session_id, gateway_id, mac, ip)
                SELECT n + 1, n / %(each)s + 1, mac, ip FROM guest;

                INSERT INTO session (id, token_hash, network_id, gateway_id, grant_id, mac, ip, state, minted_at,
                                     activated_at, reported_at, active_at, used_seconds, used_down, used_up,
                                     rolled_down, rolled_up, ended_at, end_reason) OVERRIDING SYSTEM VALUE
                SELECT %(online)s + n, sha256(CAST('ended ' || n AS bytea)), %(network)s,
                       n %% %(online)s / %(each)s + 1, n %% %(online)s + 1,
                       '06:00:00:' || substr(to_char(n %% 1000000, 'FM000000'), 1, 2), '10.0.0.1', 'ended',
                       at - INTERVAL '1 hour', at - INTERVAL '1 hour', at, at, 3600, 40000000, 4000000,
                       40000000, 4000000, at, 'logout'
                  FROM (SELECT n, now() - n %% 43200 * INTERVAL '1 second' AS at
                          FROM generate_series(1, %(ended)s) AS n) AS past;
                """,
                values,
            )
            for table, last in (("grant", online), ("session", online + ended)):
                cursor.execute(f"SELECT setval(pg_get_serial_sequence('\"{table}\"', 'id'), %s)", (last,))
        db.autocommit = True
        with db.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
            cursor.execute("CHECKPOINT")
    finally:
        db.close()
    return guests


def _guest(number: int, token: str) -> Guest:
    gateway, place = divmod(number, GUESTS_EACH)
    mac = f"02:00:{number >> 24 & 255:02x}:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    ip = f"10.{gateway >> 8 & 255}.{gateway & 255}.{place + 1}"
    return Guest(token, mac, ip, f"gw-{gateway}", KEY.format(number=gateway))


def _gateways(cursor: psycopg2.extensions.cursor, network: int, number: int) -> None:
    cursor.execute(
        """
        INSERT INTO gateway (id, network_id, gw_id, state, interval_seconds, link_bytes_per_second, adopted_at)
            OVERRIDING SYSTEM VALUE
        SELECT n + 1, %(network)s, 'gw-' || n, 'adopted', 3600, %(link)s, now()
          FROM generate_series(0, %(number)s - 1) AS n;

        INSERT INTO heartbeat (gateway_id, at, steady_since, wifidog_uptime, key_seen_at)
        SELECT id, now(), now(), 1000, now() FROM gateway;

        SELECT setval(pg_get_serial_sequence('gateway', 'id'), %(number)s);
        """,
        {"network": network, "link": LINK, "number": number},
    )
    keys = "".join(f"{n + 1}\t\\\\x{key_hash(KEY.format(number=n)).hex()}\t\\\\x\n" for n in range(number))
    cursor.copy_expert("COPY gateway_key (gateway_id, key_hash, key_sealed) FROM STDIN", io.StringIO(keys))


def write(guests: Sequence[Guest], path: Path) -> None:
    """The guests as a file for a generator: a line each, with a tab between the fields."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.writelines(f"{g.token}\t{g.mac}\t{g.ip}\t{g.gw_id}\t{g.key}\n" for g in guests)


def read(path: Path, most: int) -> list[Guest]:
    """The first so many guests of such a file."""
    with path.open() as file:
        return [Guest(*line.rstrip("\n").split("\t")) for _, line in zip(range(most), file, strict=False)]
