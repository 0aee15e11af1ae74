"""Background loops around plain functions.

Promises: a loop never dies in silence. One that fails logs its traceback, counts, backs off and is started again; one
that is given up on ends the process with a non-zero status, through `on_lost`. Work that one process should do for all
holds a lease in the `job` table while it runs. The loops know no rules: what they call can be called alone, and tested.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import gevent
from gevent.event import Event

from portal.store import Store, Unavailable, sql

log = logging.getLogger(__name__)

# A loop that fails this often without one success in between is not going to recover by being started again.
LOST_AFTER = 20
LONGEST_PAUSE_S = 30.0
# Endless work has no other success than to have gone on for so long.
WELL_AFTER_S = 60.0

LEASE = sql(
    "jobs.lease",
    """
    INSERT INTO job (name, leased_until, ran_at)
    VALUES (:name, CAST(:now AS timestamptz) + CAST(:lease AS interval), :now)
        ON CONFLICT (name) DO UPDATE
       SET leased_until = EXCLUDED.leased_until, ran_at = EXCLUDED.ran_at
     WHERE (job.leased_until IS NULL OR job.leased_until < :now)
       AND (job.ran_at IS NULL OR job.ran_at <= CAST(:now AS timestamptz) - CAST(:every AS interval) * 0.9)
    RETURNING name
    """,
)

RELEASE = sql("jobs.release", "UPDATE job SET leased_until = NULL, outcome = :outcome WHERE name = :name")


@dataclass
class Loop:
    """A loop's vital signs: how often its work ended well and ill. `endless` work is never meant to end."""

    name: str
    endless: bool = False
    runs: int = 0
    failures: int = 0
    in_a_row: int = 0
    began: float = 0.0
    wake: Event = field(default_factory=Event)

    @property
    def failing(self) -> int:
        """How often in a row its work has failed just now."""
        return 0 if self.endless and time.monotonic() - self.began > WELL_AFTER_S else self.in_a_row


class Jobs:
    """The process's background loops. `on_lost` is called with a loop's name when it is given up on."""

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self.loops: dict[str, Loop] = {}
        self._on_lost = on_lost
        self._stopping = False
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def keep(self, name: str, work: Callable[[], None]) -> None:
        """Run `work`, which does not return, for ever. Its return counts as a failure like any other."""

        def once() -> float:
            work()
            raise RuntimeError("a loop that should run for ever has returned")

        self._start(Loop(name, endless=True), once)

    def every(self, name: str, seconds: float, work: Callable[[], None]) -> Loop:
        """Run `work` each `seconds`, a little spread so that loops do not move in step; sooner when `wake` is set."""

        def once() -> float:
            work()
            return seconds * random.uniform(0.9, 1.1)  # noqa: S311

        return self._start(Loop(name), once)

    def _start(self, loop: Loop, once: Callable[[], float]) -> Loop:
        self.loops[loop.name] = loop
        greenlet = gevent.spawn(self._live, loop, once)
        greenlet.name = f"loop {loop.name}"
        self._greenlets.append(greenlet)
        return loop

    def _live(self, loop: Loop, once: Callable[[], float]) -> None:
        try:
            self._supervise(loop, once)
        finally:
            # However it came to its end: given up on, or by what is neither a failure nor our own doing.
            if not self._stopping:
                self._on_lost(loop.name)

    def _supervise(self, loop: Loop, once: Callable[[], float]) -> None:
        """Work and rest. Returns when the loop is given up on."""
        away = 0
        while True:
            loop.began = time.monotonic()
            try:
                rest = once()
            except Unavailable as error:
                # The database is away. That is told once by whoever noticed first, and is no fault of the loop's.
                loop.failures += 1
                away = 1 if time.monotonic() - loop.began > WELL_AFTER_S else away + 1
                log.info("background work waits for the database", extra={"loop": loop.name, "error": str(error)})
                rest = _pause(away, LONGEST_PAUSE_S / 6)
            # A time-out that nobody expected is no Exception, and a failure all the same.
            except (Exception, gevent.Timeout):
                loop.failures += 1
                loop.in_a_row = loop.failing + 1
                log.exception("background work failed", extra={"loop": loop.name, "in_a_row": loop.in_a_row})
                if loop.in_a_row >= LOST_AFTER:
                    return
                rest = _pause(loop.in_a_row, LONGEST_PAUSE_S)
            else:
                loop.runs += 1
                loop.in_a_row = away = 0
            loop.wake.wait(rest)
            loop.wake.clear()

    def stop(self) -> None:
        """End all loops, wherever they are."""
        self._stopping = True
        gevent.killall(self._greenlets)


def _pause(times: int, longest: float) -> float:
    """How long to rest after so many failures in a row, in seconds."""
    # An outage of hours fails more often than a float has exponents.
    return min(longest, 0.1 * 2.0 ** min(times, 20))


def leased(
    store: Store,
    name: str,
    every: timedelta,
    work: Callable[[datetime], object],
    *,
    lease: timedelta = timedelta(minutes=10),
) -> Callable[[], None]:
    """`work`, run at most once in `every` by all processes on this database together; how it went is kept."""

    def run() -> None:
        now = store.database_now("jobs")
        with store.transaction("jobs", caller=name) as db:
            won = db.execute(LEASE, {"name": name, "now": now, "lease": lease, "every": every}).first()
        if won is None:
            return
        outcome = "failed"
        try:
            outcome = f"{work(now)}"
        finally:
            with store.transaction("jobs", caller=name) as db:
                db.execute(RELEASE, {"name": name, "outcome": outcome})

    return run
