"""What every portal of the matrix has in common: its table, its statements, its settings, its answers.

The portal is the usual one, not ours: a token look-up and an update of counters in one transaction through a bounded
pool, and six pages that wait the way real portals wait. Only the server around it changes, and, in `rewrite`, the
framework.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

SESSIONS = 10_000
UPLOAD_CHUNK = 65536
SERVICES = 5

SCHEMA = """
    DROP TABLE IF EXISTS portal_session, sign_in, batch_line;
    CREATE TABLE portal_session (
        token text PRIMARY KEY,
        incoming bigint NOT NULL DEFAULT 0,
        outgoing bigint NOT NULL DEFAULT 0,
        seen_at timestamptz
    ) WITH (fillfactor = 70);
    CREATE TABLE sign_in (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        code text NOT NULL,
        made_at timestamptz NOT NULL
    );
    CREATE TABLE batch_line (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        made_at timestamptz NOT NULL
    );
"""
FIND = "SELECT token, incoming, outgoing FROM portal_session WHERE token = :token"
COUNT = """
    UPDATE portal_session
       SET incoming = GREATEST(incoming, :incoming), outgoing = GREATEST(outgoing, :outgoing), seen_at = now()
     WHERE token = :token
"""
ADD_SIGN_IN = "INSERT INTO sign_in (code, made_at) VALUES (:code, now())"
ADD_LINE = "INSERT INTO batch_line (made_at) VALUES (now())"
SLEEP_BATCH = "SELECT pg_sleep(0.1)"
SLEEP_REPORT = "SELECT pg_sleep(0.5)"

ALLOW = "Auth: 1\n"
DENY = "Auth: 0\n"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the portal finds its database and the outside services, and how many connections this process may hold."""

    database: str
    pool: int
    outside: int

    def env(self) -> dict[str, str]:
        """The environment that says so to a server's process."""
        return {
            "LOADTEST_DATABASE": self.database,
            "LOADTEST_POOL": str(self.pool),
            "LOADTEST_OUTSIDE": str(self.outside),
        }

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """The inverse of `env`."""
        return cls(env["LOADTEST_DATABASE"], int(env["LOADTEST_POOL"]), int(env["LOADTEST_OUTSIDE"]))


def sqlalchemy_url(url: str) -> str:
    """The URL of a PostgreSQL with psycopg2 named as the driver; SQLAlchemy would take another one by itself."""
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


def token(number: int) -> str:
    """The token of a seeded session."""
    return hashlib.sha256(b"token %d" % number).hexdigest()[:40]


def poll_paths(number: int, *, prefix: str = "/auth/") -> tuple[str, ...]:
    """So many polls of as many sessions, as a router sends them."""
    return tuple(
        f"{prefix}?stage=counters&ip=10.1.{n >> 8 & 255}.{n & 255}&mac=02:00:00:00:{n >> 8 & 255:02x}:{n & 255:02x}"
        f"&token={token(n)}&incoming={n * 1000}&outgoing={n * 100}&gw_id=lobby"
        for n in range(number)
    )
