"""A portal as portals are written, with five faults that can be switched on one at a time.

None of the faults is exotic: each is a default, or a line that works in every test. With all of them off the portal is
sound. `create` is a factory, called in each server's process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import urllib3
from flask import Flask, request
from sqlalchemy import BigInteger, ForeignKey, Text, create_engine, select, text
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    make_transient_to_detached,
    mapped_column,
    relationship,
)
from sqlalchemy.orm.attributes import set_committed_value

from loadtests.servers.common import sqlalchemy_url
from loadtests.why.export import render

VARIABLE = "LOADTEST_WHY"
FIND = text("SELECT id FROM why_session WHERE token = :token")
COUNT = text("UPDATE why_session SET incoming = GREATEST(incoming, :incoming) WHERE id = :id")


@dataclass(frozen=True, slots=True)
class Switches:
    """Which faults are on. What is left out is sound, but for the pool, which is SQLAlchemy's as it comes.

    `hold` keeps the transaction open while the sign-in waits for the SMS provider, which takes `provider_ms`.
    `shared_pool` lets polls and guests use the same connections. `export_here` renders exports in the server's
    process, else two at a time in children of it.
    `kept` keeps one ORM session for each thread and never removes it: there are `sessions` threads in a process, and
    `age` is how many polls each of them has already seen.
    The missing index is a matter of the database, and idle connections are one of the server; neither is switched here.
    """

    database: str
    outside: int
    pool: int = 5
    overflow: int = 10
    pool_wait: float = 30.0
    provider_ms: int = 300
    provider_limit: float | None = None
    hold: bool = False
    shared_pool: bool = True
    export_here: bool = False
    kept: bool = False
    sessions: int = 0
    age: int = 0

    def env(self) -> dict[str, str]:
        """The environment that says so to a server's process."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Switches:
        """The inverse of `env`."""
        return cls(**json.loads(env[VARIABLE]))


class Base(DeclarativeBase):
    """The portal's tables."""


class Network(Base):
    """A venue, and all the polls that its gateways ever sent."""

    __tablename__ = "why_network"
    id: Mapped[int] = mapped_column(primary_key=True)
    reports: Mapped[list[Report]] = relationship(back_populates="network")


class PortalSession(Base):
    """A guest's time online. Whether its token has an index is up to the experiment."""

    __tablename__ = "why_session"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    token: Mapped[str] = mapped_column(Text)
    incoming: Mapped[int] = mapped_column(BigInteger, server_default="0")


class Report(Base):
    """One poll, kept as a row: the way of the portals that were there before."""

    __tablename__ = "why_report"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    network_id: Mapped[int] = mapped_column(ForeignKey("why_network.id"))
    incoming: Mapped[int] = mapped_column(BigInteger)
    network: Mapped[Network] = relationship(back_populates="reports")


def create() -> Flask:
    """The application with the switches that its environment names."""
    switches = Switches.from_env()
    url = sqlalchemy_url(switches.database)
    engine = create_engine(
        url, pool_size=switches.pool, max_overflow=switches.overflow, pool_timeout=switches.pool_wait
    )
    polls = engine if switches.shared_pool else create_engine(url, pool_size=3, max_overflow=0, pool_timeout=1)
    provider = urllib3.HTTPConnectionPool("127.0.0.1", switches.outside, maxsize=1000, retries=False)
    here = threading.local()
    children = threading.BoundedSemaphore(2)
    grown = [grown_old(Session(engine, expire_on_commit=False), switches.age) for _ in range(switches.sessions)]
    app = Flask("portal")

    @app.get("/alive")
    def alive() -> str:
        return "yes"

    @app.get("/auth/")
    def poll() -> str:
        token, incoming = request.args["token"], int(request.args["incoming"])
        if switches.kept:
            return poll_kept(token, incoming)
        with polls.begin() as db:
            found = db.execute(FIND, {"token": token}).scalar_one_or_none()
            if found is not None:
                db.execute(COUNT, {"id": found, "incoming": incoming})
        return "Auth: 0\n" if found is None else "Auth: 1\n"

    def poll_kept(token: str, incoming: int) -> str:
        # The session is made once for each thread and never removed. Objects outlive its commits because a template
        # once failed with DetachedInstanceError, and so the network's list of reports outlives them too.
        if not hasattr(here, "db"):
            here.db, here.network = grown.pop()
        found = here.db.scalars(select(PortalSession).where(PortalSession.token == token)).one_or_none()
        if found is None:
            return "Auth: 0\n"
        found.incoming = max(found.incoming, incoming)
        here.network.reports.append(Report(incoming=incoming))
        here.db.commit()
        return "Auth: 1\n"

    @app.post("/sign-in")
    def sign_in() -> str:
        with engine.connect() as db:
            db.execute(FIND, {"token": ""})
            if switches.hold:
                ask_provider()
        if not switches.hold:
            ask_provider()
        return "welcome"

    def ask_provider() -> None:
        provider.request("GET", f"/wait/{switches.provider_ms}", timeout=switches.provider_limit)

    @app.get("/export")
    def export() -> str:
        if switches.export_here:
            return str(len(render()))
        with children:
            return subprocess.run(
                [sys.executable, "-m", "loadtests.why.export"], check=True, capture_output=True, text=True
            ).stdout

    return app


def grown_old(db: Session, age: int) -> tuple[Session, Network]:
    """A session as it is when it has seen so many polls, and its network; none of them is read from the database."""
    network = db.get_one(Network, 1)
    reports = [Report(id=-number - 1, network_id=1, incoming=number) for number in range(age)]
    for report in reports:
        make_transient_to_detached(report)
        db.add(report)
        set_committed_value(report, "network", network)
    set_committed_value(network, "reports", reports)
    db.commit()
    return db, network
