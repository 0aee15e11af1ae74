"""The composition root: every object is built here, once, and handed down. Nothing happens at import."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flask import Flask

from portal import upkeep
from portal.config import Settings
from portal.diagnostics import Diagnostics
from portal.frontdoor import CALLER, FrontDoor, Limit, Raw, Reason, Rules
from portal.gateways import Gateways, roll_call
from portal.jobs import Jobs, leased
from portal.keys import Keyring
from portal.ledger import Ledger
from portal.metrics import Metrics, Reading, merged
from portal.offload import Offload
from portal.sessions import Sessions
from portal.store import Store, Unavailable, limits_from, sql
from portal.store.migrations import ensure_partitions
from portal.web import desk, gateway, guards, guest, probes
from portal.web.context import Portal
from portal.wifidog import Answer

log = logging.getLogger(__name__)

# How often a worker leaves its metrics for the others.
PUBLISH_SECONDS = 2.0
# How long the database may take to say that it is there. Whoever probes asks again soon, and few may ask at once.
READY_SECONDS = 2.0

INSTALLATION = sql(
    "app.installation",
    """
    INSERT INTO installation (id) VALUES (1)
        ON CONFLICT (id) DO UPDATE SET id = EXCLUDED.id
    RETURNING restored_at
    """,
)


class Server:
    """One process that answers: everything it is made of, started and stopped in order."""

    def __init__(self, settings: Settings, database_url: str, listener: socket.socket, worker: int = 0) -> None:
        """`worker` numbers the processes that share a listener, from 1; 0 is one alone."""
        self.settings = settings
        self._worker = worker
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
        # A thread for one writer: it neither waits behind passwords nor hears that there are too many.
        self._files = Offload(running=1, waiting=0)
        self.diagnostics = Diagnostics(
            settings.state / "profiles", delay=self.metrics.loop_delay_seconds.observe, more=self._log_holders
        )
        self.jobs = Jobs(self._lose)
        self.listening = upkeep.Listening()
        self._roll: dict[str, int] = {}  # gateways by how they are, as last counted
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
            metrics=self.metrics,
        )
        behind = self.settings.server.public_url.startswith("https:") and not self.settings.server.trusted_proxies
        pages.register_blueprint(
            probes.blueprint(self._exposition, self.wrong, self._metrics_token(), unknown_proxy=behind)
        )
        pages.register_blueprint(guest.blueprint(portal))
        guards.install(pages, portal)
        pages.register_blueprint(desk.blueprint(portal))
        guards.declare(pages, ["guest.*"], guards.Who.GUEST)
        guards.declare(pages, ["probes.*"], guards.Who.MACHINE)
        guards.check(pages)
        return pages

    def _exposition(self) -> bytes:
        """This process's metrics, or those of all workers: a scrape reaches any of them."""
        if not self._worker:
            return self.metrics.exposition()
        fresh = time.time() - 3 * PUBLISH_SECONDS
        parts = {path.stem: path.read_text() for path in self._published.glob("*.prom") if path.stat().st_mtime > fresh}
        return merged(parts | {str(self._worker): self.metrics.exposition().decode()}).encode()

    def _publish(self) -> None:
        """Leave this worker's metrics where the others find them. Read in the loop, where they change; written outside,
        since a disk that is busy elsewhere takes a tenth of a second for a rename."""
        self._files.run(self._write, self.metrics.exposition())

    def _write(self, exposition: bytes) -> None:
        self._published.mkdir(parents=True, exist_ok=True)
        path = self._published / f"{self._worker}.prom"
        new = path.with_suffix(".new")
        new.write_bytes(exposition)
        new.rename(path)

    @property
    def _published(self) -> Path:
        return self.settings.state / "metrics"

    def _metrics_token(self) -> str:
        return self.settings.metrics.token if self.settings.metrics.access == "token" else ""

    def _dispatch(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes] | Raw:
        """Routers first: their calls never reach Flask, whatever state it is in."""
        if environ[CALLER] == "polls":
            return self.gateway_door(environ, start_response)
        started = time.monotonic()
        try:
            return self.pages(environ, start_response)
        finally:
            self.metrics.page_seconds.labels(environ[CALLER]).observe(time.monotonic() - started)

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
        self.jobs.every("roll call", 15, self._call_the_roll)
        for name, every, work in upkeep.tasks(self.store, self.settings.retention, self.listening):
            self.jobs.every(name, every.total_seconds() / 3, leased(self.store, name, every, work))
        if self._worker:
            self.jobs.every("metrics", PUBLISH_SECONDS, self._publish)
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
        self._files.close()
        self.store.dispose()
        if cut or unwritten:
            log.warning("stopped before all was done", extra={"connections": cut, "reports": unwritten})
        return cut + unwritten

    def wrong(self) -> dict[str, str]:
        """What keeps this process from doing its work: a word for anybody, with what is known about it for the log."""
        found = {}
        try:
            self.store.database_now("jobs", seconds=READY_SECONDS)
        except Unavailable as error:
            found["database"] = str(error)
        failing = sorted(loop.name for loop in self.jobs.loops.values() if loop.failing > 2)
        if failing:
            found["background"] = f"keeps failing: {', '.join(failing)}"
        if self.door.draining:
            found["draining"] = "was told to stop"
        return found

    def _tick(self) -> None:
        now = self.store.database_now("jobs")
        if not self.ledger.broken:
            self.listening.go_on(now)

    def _call_the_roll(self) -> None:
        with self.store.read("jobs", caller="roll call") as db:
            self._roll = roll_call(db, self.store.clock.now())

    def _log_holders(self) -> None:
        for holder in self.store.holders():
            facts = {"pool": holder.pool, "caller": holder.caller, "seconds": round(holder.seconds, 3)}
            log.warning("holds a database connection", extra={"pid": os.getpid(), **facts})

    def _write_heard(self) -> None:
        while True:
            self._hear.wait()
            self._hear.clear()
            self.heard.write()

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
            Reading(
                "gatepost_gateways", "Gateways in use, by whether they ping",
                lambda: [((state,), number) for state, number in self._roll.items()], ("state",),
            ),
            Reading("gatepost_loop_stalls", "Stalls of the loop", figure(lambda: loop.stalls), counter=True),
            Reading("gatepost_loop_stalled_seconds", "All stalls", figure(lambda: loop.stalled_seconds), counter=True),
            Reading(
                "gatepost_loop_longest_stall_seconds", "The longest that the loop has let its watchdog wait",
                figure(lambda: loop.longest_seconds),
            ),
            Reading("gatepost_sockets", "Open connections", figure(lambda: door.open_sockets)),
            Reading("gatepost_accepted", "Connections accepted", figure(lambda: door.accepted), counter=True),
            Reading(
                "gatepost_requests", "Parsed requests", lambda: [((k,), v) for k, v in door.parsed.items()], ("class",),
                counter=True,
            ),
            Reading(
                "gatepost_failed", "Requests that failed inside",
                lambda: [((k,), v) for k, v in door.failed.items()], ("class",), counter=True,
            ),
            Reading(
                "gatepost_overdue", "Connections closed for taking too long, by what was waited for",
                lambda: [((k,), v) for k, v in door.waiting.overdue.items()], ("wait",), counter=True,
            ),
            Reading(
                "gatepost_evicted", "Connections closed for others' sake, by the lid that was reached",
                lambda: [((k,), v) for k, v in door.waiting.evicted.items()], ("lid",), counter=True,
            ),
            Reading(
                "gatepost_in_flight", "Requests being answered",
                lambda: [((k,), v) for k, v in door.in_flight.items()], ("class",),
            ),
            Reading(
                "gatepost_refused", "Requests refused by the door",
                # Every reason from the beginning: an increase is seen only between two figures.
                lambda: [((reason.value,), door.refused[reason]) for reason in Reason], ("reason",), counter=True,
            ),
            Reading(
                "gatepost_pool_held", "Database connections in use",
                lambda: [((pool.pool,), pool.held) for pool in self.store.vitals()], ("pool",),
            ),
            Reading(
                "gatepost_pool_oldest_seconds", "How long a connection has been held, the longest",
                lambda: [((pool.pool,), pool.oldest_seconds) for pool in self.store.vitals()], ("pool",),
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
