"""What the matrix and the claims stand on: the seeded database, a server of the catalogue, and the polls of routers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg2
import psycopg2.extras

from loadtests.harness import Cores, Program, answers, free_port
from loadtests.servers import common
from loadtests.servers.catalog import Server
from loadtests.workload import Stream

CONNECTIONS = 30
"""To the database, in all processes of a server together."""
POLLS_A_SECOND = 100.0
LATE = 2.0
"""Seconds after which apfree has given up on a poll."""


@dataclass(frozen=True, slots=True)
class Rig:
    """What is there for every server: cores, the database's URL, the outside services' port, their process ids."""

    cores: Cores
    database: str
    outside: int
    watched: Mapping[str, int]


def seed(url: str) -> None:
    """The portal's tables, and its sessions."""
    db = psycopg2.connect(url)
    try:
        with db, db.cursor() as cursor:
            cursor.execute(common.SCHEMA)
            rows = [(common.token(number),) for number in range(common.SESSIONS)]
            psycopg2.extras.execute_values(
                cursor, "INSERT INTO portal_session (token) VALUES %s", rows, page_size=10000
            )
        db.autocommit = True
        with db.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
    finally:
        db.close()


def start(rig: Rig, server: Server, *more: str) -> tuple[Program, int]:
    """A server of the catalogue, to be started with `with`, and its port. `more` words are added to its command."""
    port = free_port()
    settings = common.Settings(rig.database, CONNECTIONS // server.processes, rig.outside)
    argv = [*server.argv(port), *more]
    return Program(f"server-{server.name}", argv, rig.cores.server, answers(port), settings.env()), port


def polls(port: int, seconds: float) -> Stream:
    """What routers send meanwhile: HTTP/1.0, a connection each."""
    return Stream(
        "polls", port, common.poll_paths(common.SESSIONS), POLLS_A_SECOND, seconds,
        expect=common.ALLOW.strip(), late=LATE, version="1.0",
    )  # fmt: skip
