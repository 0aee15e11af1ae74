"""A café with a router and guests' phones, for tests that tell stories about sessions and counters.

The phones here speak to `Sessions` directly, as the gateway's door does; the emulated gateway of the journeys speaks
over sockets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
from sqlalchemy import insert, update

from portal import access, gateways, grants, sessions, wifidog
from portal.gateways import GatewayFacts, Ping, Trust
from portal.keys import Keyring
from portal.ledger import Ledger
from portal.sessions import Sessions
from portal.store import Store, models, named, sql
from portal.store.migrations import ensure_partitions

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Router:
    """What the gateway's door knows of a gateway."""

    id: int
    network_id: int
    gw_id: str = "gw-1"
    dialect: str = "classic"
    swapped: bool = False
    interval_seconds: int = 60
    link_bytes_per_second: int = 10**12


@dataclass(frozen=True)
class Call:
    stage: str
    token: str
    mac: str
    ip: str
    incoming: int | None
    outgoing: int | None


class Cafe:
    """One network with one router, on a real database, with a running ledger."""

    def __init__(self, store: Store, keyring: Keyring, **ledger_options: Any) -> None:
        self.store = store
        self.keyring = keyring
        with store.transaction() as db:
            ensure_partitions(db, store.database_now())
            self.network_id = self._insert(db, models.Network, slug="cafe", name="Café", time_zone="Europe/Berlin")
            self.router = self.new_router("gw-1", db=db)
        self.ledger = Ledger(store, **{"deadline_s": 8.0, "attempt_s": 8.0, **ledger_options})
        self.sessions = Sessions(store, self.ledger, keyring)
        self._writer = gevent.spawn(self.ledger.run)

    def close(self) -> None:
        self._writer.kill()

    @contextlib.contextmanager
    def without_a_writer(self) -> Iterator[None]:
        """What is reported in the block waits, and is written after it."""
        self._writer.kill()
        yield
        self._writer = gevent.spawn(self.ledger.run)

    @staticmethod
    def _insert(db: Any, model: Any, **values: Any) -> int:
        statement = insert(model).values(**values).returning(model.id)
        identity: int = db.execute(named(f"test.{model.__tablename__}", statement)).scalar_one()
        return identity

    def new_router(self, gw_id: str, *, db: Any = None, dialect: str = "classic", **facts: Any) -> Router:
        values = {"network_id": self.network_id, "gw_id": gw_id, "state": "adopted", "dialect": dialect}
        if db is None:
            with self.store.transaction() as own:
                return Router(self._insert(own, models.Gateway, **values), self.network_id, gw_id, dialect, **facts)
        return Router(self._insert(db, models.Gateway, **values), self.network_id, gw_id, dialect, **facts)

    def plan(self, **terms: Any) -> models.Plan:
        with self.store.transaction() as db:
            count = db.execute(sql("test.plans", "SELECT count(*) FROM plan")).scalar_one()
            plan_id = self._insert(db, models.Plan, network_id=self.network_id, name=f"plan {count}", **terms)
        return models.Plan(id=plan_id, network_id=self.network_id)

    def grant(self, **terms: Any) -> grants.Grant:
        plan = self.plan(**terms)
        with self.store.transaction() as db:
            now = self.store.database_now()
            return grants.load(db, grants.make(db, plan, "voucher", now)[0], now)

    def phone(self, number: int = 1, router: Router | None = None) -> Phone:
        return Phone(self, router or self.router, f"02:00:00:00:00:{number:02x}", f"10.0.0.{number}")

    def one(self, statement: str, **values: Any) -> Any:
        with self.store.read() as db:
            return db.execute(sql("test.one", statement), values).one()

    def change(self, statement: str, **values: Any) -> None:
        with self.store.transaction() as db:
            db.execute(sql("test.change", statement), values)

    def used(self, grant: grants.Grant) -> tuple[int, int]:
        """Down and up, as charged to the grant; the sessions' and the lines' sums must say the same."""
        totals = self.one(
            """
            SELECT g.used_down, g.used_up,
                   (SELECT COALESCE(SUM(s.used_down), 0) FROM session s WHERE s.grant_id = g.id),
                   (SELECT COALESCE(SUM(s.used_up), 0) FROM session s WHERE s.grant_id = g.id),
                   (SELECT COALESCE(SUM(l.charged_down), 0)
                      FROM counter_line l JOIN session s ON s.id = l.session_id WHERE s.grant_id = g.id),
                   (SELECT COALESCE(SUM(l.charged_up), 0)
                      FROM counter_line l JOIN session s ON s.id = l.session_id WHERE s.grant_id = g.id)
              FROM "grant" g WHERE g.id = :grant_id
            """,
            grant_id=grant.id,
        )
        assert totals[0] == totals[2] == totals[4], "grant, sessions and lines disagree on the download"
        assert totals[1] == totals[3] == totals[5], "grant, sessions and lines disagree on the upload"
        return totals[0], totals[1]

    def session_of(self, token: str) -> sessions.Session:
        with self.store.read() as db:
            found = sessions.of_token(db, self.keyring, token)
        assert found is not None
        return found

    def pass_time(self, seconds: float) -> None:
        """Let everything that happened have happened so much earlier."""
        ago = timedelta(seconds=seconds)
        with self.store.transaction() as db:
            for table in (models.Session, models.Grant, models.CounterLine, models.Heartbeat, models.Station):
                columns = [c for c in table.__table__.columns if c.type.python_type.__name__ == "datetime"]
                moved = {column.name: column - ago for column in columns}
                db.execute(named("test.pass_time", update(table).values(moved)))

    def puts_the_silent_away(self, since: datetime = LONG_AGO, most: int = 500) -> int:
        """What upkeep does with sessions that nobody mentions, having listened `since`."""
        with self.store.transaction() as db:
            return sessions.end_silent(db, self.store.database_now(), since, most)

    def heartbeat(self, uptime: int, *, router: Router | None = None) -> None:
        """A ping of the router, which has been up for so many seconds."""
        router = router or self.router
        ping = Ping(wifidog.parse_ping(f"gw_id={router.gw_id}&wifidog_uptime={uptime}".encode()), "198.51.100.7", "")
        facts = GatewayFacts(
            id=router.id,
            network_id=router.network_id,
            gw_id=router.gw_id,
            device_id="",
            state="adopted",
            dialect=router.dialect,
            swapped=router.swapped,
            address=None,
            port=2060,
            interval_seconds=router.interval_seconds,
            link_bytes_per_second=router.link_bytes_per_second,
            keys=(),
            keyed=False,
        )
        with self.store.transaction() as db:
            gateways.heartbeats(db, [(facts, Trust.ADOPTED, ping)], self.store.database_now())


class Phone:
    """A guest's phone behind a router, and what the router reports of it."""

    def __init__(self, cafe: Cafe, router: Router, mac: str, ip: str) -> None:
        self.cafe, self.router, self.mac, self.ip = cafe, router, mac, ip
        self.token = ""

    def moves_to(self, router: Router | None = None, ip: str | None = None) -> Phone:
        self.router = router or self.router
        self.ip = ip or self.ip
        return self

    def signs_in(self, grant: grants.Grant) -> str:
        """At our page: a token is minted, the gateway has not seen it yet."""
        with self.cafe.store.transaction() as db:
            now = self.cafe.store.database_now()
            self.token = sessions.open(
                db,
                self.cafe.keyring,
                network_id=self.router.network_id,
                gateway_id=self.router.id,
                grant=grants.load(db, grant.id, now),
                mac=self.mac,
                device="phone",
                language="en",
                terms_version=None,
                now=now,
            )
        return self.token

    def says(self, stage: str, down: int | None, up: int | None, **changes: Any) -> access.Verdict:
        if self.router.swapped:
            down, up = up, down
        call = Call(stage, self.token, self.mac, self.ip, down, up)
        return self.cafe.sessions.answer(self.router, replace(call, **changes))

    def logs_in(self, **changes: Any) -> access.Verdict:
        return self.says("login", 0, 0, **changes)

    def comes_online(self, grant: grants.Grant) -> access.Verdict:
        self.signs_in(grant)
        return self.logs_in()

    def polls(self, down: int | None, up: int | None = 0, **changes: Any) -> access.Verdict:
        return self.says("counters", down, up, **changes)

    def logs_out(self, down: int | None, up: int | None = 0, **changes: Any) -> access.Verdict:
        return self.says("logout", down, up, **changes)
