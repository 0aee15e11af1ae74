"""The composition root: every object is built here, once, and handed down. Nothing happens at import."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Flask

from portal import __version__, config, ledger, logs, sessions
from portal.config import Settings
from portal.diagnostics import Diagnostics
from portal.frontdoor import FrontDoor, Limit, Raw, Rules, listen
from portal.gateways import Gateways
from portal.jobs import Jobs, leased
from portal.keys import Keyring, KeysError
from portal.ledger import Ledger
from portal.metrics import Metrics, Reading
from portal.offload import Offload
from portal.sessions import Sessions
from portal.store import Store, Unavailable, limits_from, sql
from portal.store.embedded import DatabaseNotStarted, Postgres
from portal.store.migrations import drop_partitions, ensure_partitions, migrate
from portal.web import desk, gateway, guards, guest, probes
from portal.web.context import Portal
from portal.wifidog import Answer

log = logging.getLogger(__name__)

INSTALLATION = sql(
    "app.installation",
    """
    INSERT INTO installation (id) VALUES (1)
        ON CONFLICT (id) DO UPDATE SET id = EXCLUDED.id
    RETURNING restored_at
    """,
)
OLDEST_ENDED = sql("app.oldest_ended", "SELECT min(ended_at) FROM session WHERE state = 'ended'")
FORGET_AUDIT = sql("app.forget_audit", "DELETE FROM audit WHERE at < :before")
FORGET_STATIONS = sql(
    "app.forget_stations",
    """
    DELETE FROM station b
     WHERE b.seen_at < :before AND (b.blocked_until IS NULL OR b.blocked_until < :now)
       AND NOT EXISTS (SELECT 1 FROM session s WHERE s.network_id = b.network_id AND s.mac = b.mac)
    """,
)


class Server:
    """One process that answers: everything it is made of, started and stopped in order."""

    def __init__(self, settings: Settings, database_url: str, listener: socket.socket) -> None:
        self.settings = settings
        self.stopped = threading.Event()
        self.lost = ""
        self.keyring = Keyring.load_or_create(settings.state)
        self.store = Store(
            database_url,
            limits=limits_from(settings.database, answer_seconds=settings.polls.deadline_ms / 1000),
            connect_seconds=1.0,
        )
        self.store.check()
        self.store.database_now()
        with self.store.transaction("jobs", caller="start") as db:
            restored_at = db.execute(INSTALLATION).scalar_one()
            ensure_partitions(db, self.store.clock.now())
        self.metrics = Metrics()
        self.gateways = Gateways(self.store)
        self.gateways.refresh()
        self.ledger = Ledger(
            self.store,
            deadline_s=settings.polls.deadline_ms / 1000 * 0.95,
            attempt_s=settings.polls.deadline_ms / 1000 * 0.9,
            batch=settings.polls.batch,
            lid=settings.polls.pending,
        )
        self.sessions = Sessions(self.store, self.ledger, self.keyring, restored_at)
        self.offload = Offload()
        self.diagnostics = Diagnostics(settings.state / "profiles")
        self.jobs = Jobs(self._lose)
        self._hear = threading.Event()
        self.heard = gateway.Heard(self.store, self.gateways, self._hear.set)
        self.pages = self._pages()
        self.gateway_door = gateway.GatewayDoor(self.sessions, self.gateways, self.heard, self.metrics)
        self.door = FrontDoor(
            listener,
            self._dispatch,
            classify,
            limits(settings),
            rules=Rules(
                sockets=settings.server.sockets,
                head_seconds=settings.server.head_seconds,
                idle_seconds=settings.server.idle_seconds,
            ),
            trusted_proxies=settings.server.trusted_proxies,
        )
        self._watch()

    def _pages(self) -> Flask:
        pages = Flask("portal", static_folder=None, template_folder="web/templates")
        portal = Portal(
            settings=self.settings,
            store=self.store,
            keyring=self.keyring,
            gateways=self.gateways,
            offload=self.offload,
            clock=self.store.clock.now,
        )
        pages.register_blueprint(probes.blueprint(self.metrics, self.wrong, self._metrics_token()))
        pages.register_blueprint(guest.blueprint(portal))
        guards.install(pages, portal)
        pages.register_blueprint(desk.blueprint(portal))
        guards.declare(pages, ["guest.*"], guards.Who.GUEST)
        guards.declare(pages, ["probes.*"], guards.Who.MACHINE)
        guards.check(pages)
        return pages

    def _metrics_token(self) -> str:
        return self.settings.metrics.token if self.settings.metrics.access == "token" else ""

    def _dispatch(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes] | Raw:
        """Routers first: their calls never reach Flask, whatever state it is in."""
        if gateway.asks(environ["PATH_INFO"]):
            return self.gateway_door(environ, start_response)
        started = time.monotonic()
        try:
            return self.pages(environ, start_response)
        finally:
            self.metrics.page_seconds.labels(classify(environ["PATH_INFO"])).observe(time.monotonic() - started)

    def _lose(self, loop: str) -> None:
        log.critical("background work is lost, and the process ends", extra={"loop": loop})
        self.lost = loop
        self.stopped.set()

    def start(self) -> None:
        """Start the background loops, then open the door."""
        self.jobs.keep("ledger", self.ledger.run)
        self.jobs.keep("heartbeats", self._write_heard)
        self.jobs.every("gateways", 1, self.gateways.refresh)
        self.jobs.every("clock", 10, self._tick)
        for name, every, work in self._upkeep():
            self.jobs.every(name, every.total_seconds() / 3, leased(self.store, name, every, work))
        self.diagnostics.start()
        self.door.start()

    def stop(self) -> int:
        """Finish what has begun, and write what is waiting. How many connections and reports had to be given up."""
        cut = self.door.drain(self.settings.server.drain_seconds)
        unwritten = self.ledger.drain(3.0)
        with contextlib.suppress(Unavailable):
            self.heard.write()
        self.diagnostics.stop()
        self.jobs.stop()
        self.offload.close()
        self.store.dispose()
        if cut or unwritten:
            log.warning("stopped before all was done", extra={"connections": cut, "reports": unwritten})
        return cut + unwritten

    def wrong(self) -> dict[str, str]:
        """What keeps this process from doing its work, by part; empty when it is ready."""
        found = {}
        try:
            self.store.database_now("jobs")
        except Unavailable as error:
            found["database"] = str(error)
        found |= {f"loop {loop.name}": "keeps failing" for loop in self.jobs.loops.values() if loop.failing > 2}
        if self.door.draining:
            found["door"] = "stopping"
        return found

    def _tick(self) -> None:
        self.store.database_now("jobs")

    def _write_heard(self) -> None:
        while True:
            self._hear.wait()
            self._hear.clear()
            self.heard.write()

    def _upkeep(self) -> list[tuple[str, timedelta, Callable[[datetime], object]]]:
        """The regular work that one process does for all: its name, how often, and what."""
        return [
            ("silence", timedelta(seconds=20), self._in_transaction("silence", sessions.end_silent)),
            ("usage", timedelta(minutes=5), self._in_steps("usage", ledger.roll_usage)),
            ("archive", timedelta(minutes=10), self._archive),
            ("minted", timedelta(hours=1), self._in_transaction("minted", sessions.forget_minted)),
            ("retention", timedelta(hours=6), self._retain),
        ]

    def _in_transaction(self, name: str, work: Callable[[Any, datetime], object]) -> Callable[[datetime], object]:
        def run(now: datetime) -> object:
            with self.store.transaction("jobs", caller=name) as db:
                return work(db, now)

        return run

    def _in_steps(self, name: str, work: Callable[[Any, datetime, int], int]) -> Callable[[datetime], object]:
        """Small transactions, so that no poll waits for a long one."""

        def run(now: datetime) -> object:
            done = 0
            while True:
                with self.store.transaction("jobs", caller=name) as db:
                    step = work(db, now, 500)
                done += step
                if step < 500:
                    return done

        return run

    def _archive(self, now: datetime) -> object:
        with self.store.transaction("jobs", caller="archive") as db:
            oldest = db.execute(OLDEST_ENDED).scalar()
            ensure_partitions(db, now)
            if oldest is not None:
                ensure_partitions(db, oldest)
        return self._in_steps("archive", sessions.archive)(now)

    def _retain(self, now: datetime) -> object:
        """Delete what is older than the settings let it become."""
        kept = self.settings.retention
        with self.store.transaction("jobs", caller="retention") as db:
            ensure_partitions(db, now)
            dropped = drop_partitions(db, "ended_session", now - timedelta(days=kept.sessions_days))
            dropped += drop_partitions(db, "usage_hour", now - timedelta(days=kept.usage_days))
            db.execute(FORGET_AUDIT, {"before": now - timedelta(days=kept.audit_days)})
            db.execute(FORGET_STATIONS, {"before": now - timedelta(days=kept.stations_days), "now": now})
        return ", ".join(dropped) or "nothing is too old"

    def _watch(self) -> None:
        """Expose what the parts count for themselves."""
        book, door, loops, loop = self.ledger, self.door, self.jobs.loops, self.diagnostics

        def figure(value: Callable[[], float]) -> Callable[[], Iterable[tuple[tuple[str, ...], float]]]:
            return lambda: [((), float(value()))]

        self.metrics.watch(
            Reading("gatepost_ledger_waiting", "Reports not yet written", figure(lambda: book.waiting)),
            Reading("gatepost_ledger_written", "Reports committed", figure(lambda: book.committed), counter=True),
            Reading("gatepost_ledger_batches", "Commits of reports", figure(lambda: book.batches), counter=True),
            Reading("gatepost_ledger_late", "Reports answered early", figure(lambda: book.late), counter=True),
            Reading("gatepost_ledger_rejected", "Reports refused", figure(lambda: book.rejected), counter=True),
            Reading("gatepost_ledger_broken", "1 while the database does not answer", figure(lambda: book.broken)),
            Reading("gatepost_ledger_commit_seconds", "The last commit", figure(lambda: book.last_commit_s)),
            Reading("gatepost_loop_stalls", "Stalls of the loop", figure(lambda: loop.stalls), counter=True),
            Reading("gatepost_loop_stalled_seconds", "All stalls", figure(lambda: loop.stalled_seconds), counter=True),
            Reading("gatepost_loop_longest_stall_seconds", "Longest", figure(lambda: loop.longest_seconds)),
            Reading("gatepost_sockets", "Open connections", figure(lambda: door.open_sockets)),
            Reading("gatepost_accepted", "Connections accepted", figure(lambda: door.accepted), counter=True),
            Reading(
                "gatepost_requests", "Parsed requests", lambda: [((k,), v) for k, v in door.parsed.items()], ("class",),
                counter=True,
            ),
            Reading(
                "gatepost_in_flight", "Requests being answered",
                lambda: [((k,), v) for k, v in door.in_flight.items()], ("class",),
            ),
            Reading(
                "gatepost_refused", "Requests refused by the door",
                lambda: [((str(getattr(k, "value", k)),), v) for k, v in door.refused.items()], ("reason",), counter=True,
            ),
            Reading(
                "gatepost_pool_held", "Database connections in use",
                lambda: [((pool.pool,), pool.held) for pool in self.store.vitals()], ("pool",),
            ),
            Reading(
                "gatepost_pool_waiting", "Callers waiting for a database connection",
                lambda: [((pool.pool,), pool.waiting) for pool in self.store.vitals()], ("pool",),
            ),
            Reading(
                "gatepost_loop_failures", "Failures of background loops",
                lambda: [((loop.name,), loop.failures) for loop in loops.values()], ("loop",), counter=True,
            ),
        )  # fmt: skip


def classify(path: str) -> str:
    """Which class of caller a path belongs to; each has its own limit, so none starves another."""
    if gateway.asks(path):
        return "polls"
    if path in ("/healthz", "/readyz", "/metrics"):
        return "probes"
    if path.startswith(("/desk", "/setup")):
        return "operators"
    return "guests"


def limits(settings: Settings) -> dict[str, Limit]:
    """What each class may use at once, and what is over hears."""
    neutral = gateway.RAW[Answer.NEUTRAL]
    return {
        "polls": Limit(settings.server.polls, gateway.FLEET_BYTES, busy=neutral, failed=neutral),
        "probes": Limit(20),
        "guests": Limit(settings.server.guests),
        "operators": Limit(settings.server.operators, 5 * 2**20),
    }


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[tuple[str, Postgres | None]]:
    """The URL of a migrated database: the one of the settings, or our own PostgreSQL for as long as the block runs."""
    if settings.database.url:
        migrate(settings.database.url)
        yield settings.database.url, None
        return
    connections = settings.server.workers * settings.database.connections + 10
    postgres = Postgres(settings.state, connections=connections)
    postgres.start()
    try:
        migrate(postgres.url)
        yield postgres.url, postgres
    finally:
        postgres.stop()


def main(arguments: list[str]) -> int:
    """Serve until told to stop. The exit status: 0 after a clean stop, 1 for anything else."""
    parser = argparse.ArgumentParser(prog="serve.py", description="Gatepost: guest Wi-Fi authentication.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: config.toml beside serve.py)")
    parser.add_argument("--version", action="version", version=f"Gatepost {__version__}")
    parser.add_argument("--worker", type=int, metavar="FD", help=argparse.SUPPRESS)
    parser.add_argument("--ready", type=int, metavar="FD", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        settings = config.load(options.config)
    except config.Invalid as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    logs.configure(settings.log.level, settings.log.format)
    if options.worker is not None:
        listener = socket.socket(fileno=options.worker)
        return _work(settings, settings.database.url, listener, lambda: os.write(options.ready, b"."))
    try:
        listener = listen(settings.server.host, settings.server.port, settings.server.backlog)
        with database(settings) as (url, postgres):
            if settings.server.workers > 1:
                return _lead(settings, url, postgres, listener, options.config)
            return _work(settings, url, listener, lambda: _welcome(settings, listener), postgres)
    except (DatabaseNotStarted, KeysError, Unavailable, ValueError, OSError) as error:
        log.critical("cannot start: %s", error)
        return 1


def _work(
    settings: Settings,
    url: str,
    listener: socket.socket,
    ready: Callable[[], object],
    postgres: Postgres | None = None,
) -> int:
    """Answer on the listener until a signal comes."""
    server = Server(settings, url, listener)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stopped.set())
    if postgres is not None:
        server.jobs.keep("postgres", lambda: postgres.supervise(log.error))
    server.start()
    ready()
    server.stopped.wait()
    log.info("stopping")
    server.stop()
    return 1 if server.lost else 0


def _lead(settings: Settings, url: str, postgres: Postgres | None, listener: socket.socket, file: Path | None) -> int:
    """Hold the listening socket, keep the workers alive, pass signals on."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    ready, tell = os.pipe()
    command = [sys.executable, sys.argv[0], "--worker", str(listener.fileno()), "--ready", str(tell)]
    if file is not None:
        command += ["--config", str(file)]
    environment = os.environ | {"PORTAL_DATABASE__URL": url}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment, pass_fds=[listener.fileno(), tell])

    keeper = Jobs(lambda _: stopped.set())
    if postgres is not None:
        keeper.keep("postgres", lambda: postgres.supervise(log.error))
    workers = [start() for _ in range(settings.server.workers)]
    born = [time.monotonic()] * len(workers)
    answering = 0
    while not stopped.wait(0.1):
        if answering < len(workers) and select.select([ready], [], [], 0)[0]:
            answering += len(os.read(ready, len(workers)))
            if answering >= len(workers):
                _welcome(settings, listener)
        for place, worker in enumerate(workers):
            # One that dies young is not started again at once: it would only burn the processor.
            if worker.poll() is not None and time.monotonic() - born[place] > 1:
                log.error("a worker ended and is started again", extra={"status": worker.returncode})
                workers[place], born[place] = start(), time.monotonic()
    listener.close()
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    statuses = [worker.wait(settings.server.drain_seconds + 10) for worker in workers]
    keeper.stop()
    # One that was told to stop while it was still starting ends by the signal itself.
    return 1 if set(statuses) - {0, -signal.SIGTERM} else 0


def _welcome(settings: Settings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = settings.server.public_url or f"http://{'localhost' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104
    log.info("ready", extra={"url": shown, "version": __version__})
