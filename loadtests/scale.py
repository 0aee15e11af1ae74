"""What so many guests online need: a simulation of workers and PostgreSQL, from costs that were measured.

    python -m loadtests.scale [--guests 1000000] [--interval 60] [--live 100000] [--checkpoint 300]
    python -m loadtests.scale --measure [--keep]

A worker is one core: it spends a poll's CPU half before its commit and half after. Its ledger has one batch in flight;
the next leaves, with everything that has come meanwhile, when the worker gets to see that the last is committed. A
batch keeps one of PostgreSQL's cores for a fixed time and a time for each report, and then waits for the log's flush,
which is one at a time for all and takes along whoever waits for it. Work is taken in the order in which it came.

Where the costs come from: the newest loadtests/results/bench-*.json (CPU of server and PostgreSQL for a poll) and
scale-*.json (a batch's fixed part, WAL; `--measure` makes it). Promises: the same seed, the same figures. Its waits are
a lower bound: it knows no pauses of the garbage collector, no checkpoints, no vacuum, no network.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import statistics
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from loadtests import batches
from loadtests.harness import RESULTS, say

LARGEST_BATCH = 1000
PATIENCE_S = 1.0
"""What is not committed by then is answered from memory."""
BEFORE = 0.5
"""The share of a poll's CPU that is spent before its commit. An assumption: how much a worker can do does not hang on
it, only how a wait is split."""
FULL = 0.7
"""How full a resource may be in a plan: the rest is for peaks, pages and the jobs."""
PAGE_BYTES = 8192
"""At most, of a full-page image: what is free on the page is left out of it."""
ROW_VERSIONS = 3
"""Of one poll: counter line, session, grant."""
CONNECTIONS = 3 + 8 + 4 + 3
"""Of a worker, as the settings come: polls, guests, operators, jobs."""
MACHINES = ((1, 1), (2, 2), (4, 4), (8, 8))
"""Cores for workers and for PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Costs:
    """In seconds and bytes. Of a poll: the worker's CPU, and PostgreSQL's without the fixed part of its batch. Of a
    batch: PostgreSQL's CPU whatever its size, and the flush. WAL of a poll, and full-page images of a guest after each
    checkpoint."""

    server: float
    each: float
    fixed: float
    flush: float
    wal: float
    images: float
    usable: float = 1.0
    """The share of its core that a worker was seen to use when it had more than enough to do. Plans take no more."""

    def most(self, workers: int, cores: int) -> tuple[float, float]:
        """Polls a second at which so many workers, and so many of PostgreSQL's cores, have nothing left, with the
        largest batches."""
        return workers * self.usable / self.server, cores / (self.each + self.fixed / LARGEST_BATCH)

    def wal_rate(self, rate: float, guests: float, checkpoint: float) -> float:
        """Bytes of WAL a second, at so many polls a second of so many guests, with so long from checkpoint to
        checkpoint."""
        return rate * self.wal + guests * self.images / checkpoint


@dataclass(frozen=True, slots=True)
class Measured:
    """What the committed results say of polls with a connection each: the costs, and what came of them on two cores."""

    costs: Costs
    rate: float
    """Polls a second of one worker, saturated."""
    at_once: int
    """Gateways that waited for an answer at any moment."""
    sources: tuple[str, str]


def newest(name: str, results: Path = RESULTS) -> Path:
    """The last of the dated results of that name."""
    found = sorted(results.glob(f"{name}-[0-9]*.json"))
    if not found:
        raise FileNotFoundError(f"no {name}-DATE.json in {results}: expected the result of a kept run")
    return found[-1]


def measured(live: int, results: Path = RESULTS) -> Measured:
    """The newest results, with so many guests online: 100, 10,000 or 100,000."""
    bench, scale = newest("bench", results), newest("scale", results)
    found, batch = json.loads(bench.read_text()), json.loads(scale.read_text())
    product = found["contenders"]["gatepost"]["close"]
    crowd = best(product) if live == 10_000 else found["by live"]["gatepost"][str(live)]
    rate, server, postgres = (statistics.median(crowd[name]) for name in ("rate", "server", "postgres"))
    small, large = batch["batches"][0], batch["batches"][-1]
    each = (large["cpu"] - small["cpu"]) / (large["size"] - small["size"])
    fixed = small["cpu"] - each
    image = PAGE_BYTES * batch["after a checkpoint"]["images"] / batch["guests"]
    # What its CPU does not explain of a poll that waited for few others was the flush, and the way there and back.
    alone = found["more"]["at 500/s, ms"]["p50"] / 1000
    costs = Costs(
        server=server / 1000, each=postgres / 1000, fixed=fixed,
        flush=max(0.0, alone - (server + postgres) / 1000 - fixed),
        wal=max(one["wal_bytes"] for one in batch["batches"]), images=image, usable=min(1.0, rate * server / 1000),
    )  # fmt: skip
    return Measured(costs, rate, crowd["at_once"], (bench.name, scale.name))


def best(crowds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a contender's crowds the one whose rate counts, as in `make bench`."""
    return max(crowds, key=lambda crowd: statistics.median(crowd["rate"]))


# The simulation


@dataclass(slots=True)
class Clock:
    """The moment, in seconds, and what is still to come."""

    now: float = 0.0
    todo: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    count: itertools.count[int] = field(default_factory=itertools.count)

    def at(self, moment: float, then: Callable[[], None]) -> None:
        heapq.heappush(self.todo, (moment, next(self.count), then))

    def run(self, until: float) -> None:
        while self.todo and self.todo[0][0] < until:
            self.now, _, then = heapq.heappop(self.todo)
            then()


class Cores:
    """So many cores, and one line in front of them. `busy` is the work given to them so far, in seconds."""

    def __init__(self, clock: Clock, number: int) -> None:
        self.clock, self.free, self.busy = clock, [0.0] * number, 0.0

    def do(self, seconds: float, then: Callable[[], None]) -> None:
        end = max(self.clock.now, heapq.heappop(self.free)) + seconds
        heapq.heappush(self.free, end)
        self.busy += seconds
        self.clock.at(end, then)


class Log:
    """The flushes: one at a time, and who comes meanwhile goes with the next."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.waiting: list[Callable[[], None]] = []
        self.busy = False

    def flush(self, then: Callable[[], None]) -> None:
        self.waiting.append(then)
        if not self.busy:
            self._begin()

    def _begin(self) -> None:
        going, self.waiting = self.waiting, []
        self.busy = True
        self.clock.at(self.clock.now + self.seconds, lambda: self._end(going))

    def _end(self, going: list[Callable[[], None]]) -> None:
        self.busy = False
        for then in going:
            then()
        if self.waiting:
            self._begin()


class Worker:
    """A core with a ledger. `answered` is told when a poll came, at its answer."""

    def __init__(
        self, clock: Clock, costs: Costs, postgres: Cores, wal: Log, answered: Callable[[float], None]
    ) -> None:
        self.clock, self.costs, self.postgres, self.wal, self.answered = clock, costs, postgres, wal, answered
        self.core = Cores(clock, 1)
        self.queue: deque[float] = deque()
        self.writing = False
        self.batches: list[int] = []

    def poll(self) -> None:
        """One comes now."""
        came = self.clock.now
        self.core.do(self.costs.server * BEFORE, lambda: self._enter(came))

    def _enter(self, came: float) -> None:
        self.queue.append(came)
        if not self.writing:
            self._write()

    def _write(self) -> None:
        batch = [self.queue.popleft() for _ in range(min(LARGEST_BATCH, len(self.queue)))]
        self.writing = True
        self.batches.append(len(batch))
        work = self.costs.fixed + len(batch) * self.costs.each
        # The worker sees the commit when it gets to it: that is work of no length, in its line.
        self.postgres.do(work, lambda: self.wal.flush(lambda: self.core.do(0.0, lambda: self._committed(batch))))

    def _committed(self, batch: list[float]) -> None:
        self.writing = False
        if self.queue:
            self._write()
        for came in batch:
            self.core.do(self.costs.server * (1 - BEFORE), partial(self.answered, came))


@dataclass(frozen=True, slots=True)
class Waiting:
    """Polls answered a second; how long they took, in seconds; the mean batch; the share answered from memory; how
    full the workers' cores are, and how many of PostgreSQL's are in use."""

    rate: float
    p50: float
    p99: float
    batch: float
    late: float
    worker: float
    postgres: float


def simulate(
    rate: float, costs: Costs, *, workers: int = 1, cores: int = 1, seconds: float = 3.0, seed: int = 1
) -> Waiting:
    """Workers at `rate` polls a second together, coming at random (Poisson), before so many cores of PostgreSQL."""
    dice = random.Random(seed)  # noqa: S311
    clock, waits = Clock(), []
    postgres, wal = Cores(clock, cores), Log(clock, costs.flush)
    crowd = [Worker(clock, costs, postgres, wal, lambda came: waits.append(clock.now - came)) for _ in range(workers)]

    def come() -> None:
        dice.choice(crowd).poll()
        clock.at(clock.now + dice.expovariate(rate), come)

    clock.at(0.0, come)
    clock.run(seconds)
    return told(waits, crowd, postgres.busy, seconds)


def saturate(found: Measured, *, seconds: float = 5.0) -> Waiting:
    """One worker as `make bench` measures it: a crowd that asks anew as soon as it is answered, PostgreSQL on one core.

    The generator, which shared that core in the measurement, takes no time here.
    """
    clock, waits = Clock(), []
    postgres, wal = Cores(clock, 1), Log(clock, found.costs.flush)

    def answered(came: float) -> None:
        waits.append(clock.now - came)
        worker.poll()

    worker = Worker(clock, found.costs, postgres, wal, answered)
    for _ in range(found.at_once):
        worker.poll()
    clock.run(seconds)
    return told(waits, [worker], postgres.busy, seconds)


def told(waits: list[float], crowd: list[Worker], postgres: float, seconds: float) -> Waiting:
    """The sums of a simulation."""
    waits.sort()
    sizes = [size for worker in crowd for size in worker.batches]
    return Waiting(
        rate=len(waits) / seconds,
        p50=waits[len(waits) // 2],
        p99=waits[len(waits) * 99 // 100],
        batch=statistics.fmean(sizes),
        late=sum(wait > PATIENCE_S for wait in waits) / len(waits),
        worker=sum(worker.core.busy for worker in crowd) / seconds / len(crowd),
        postgres=postgres / seconds,
    )


def wanted(rate: float, costs: Costs, workers: int) -> int:
    """PostgreSQL's cores for so many workers, so that none is fuller than a plan may have it."""
    used = simulate(rate, costs, workers=workers, cores=max(workers, math.ceil(rate * costs.each)), seconds=1.0)
    return max(1, math.ceil(used.postgres / FULL))


# The command


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--guests", type=int, default=1_000_000, help="guests online")
    parser.add_argument("--interval", type=float, default=60.0, help="seconds between two polls of a guest")
    parser.add_argument("--checkpoint", type=float, default=300.0, help="seconds from checkpoint to checkpoint")
    parser.add_argument(
        "--live", type=int, default=100_000, choices=(100, 10_000, 100_000), help="take the costs with so many online"
    )
    parser.add_argument("--disk-mb", type=float, default=100.0, help="MB a second that the disk takes of WAL")
    parser.add_argument("--server-us", type=float, help="a worker's CPU for a poll, instead of the measured")
    parser.add_argument("--each-us", type=float, help="PostgreSQL's CPU for a poll")
    parser.add_argument("--fixed-us", type=float, help="PostgreSQL's CPU for a batch, whatever its size")
    parser.add_argument("--flush-us", type=float, help="how long a batch waits for the log's flush")
    parser.add_argument("--measure", action="store_true", help="measure batches of the ledger: WAL, CPU, time")
    parser.add_argument("--keep", action="store_true", help="with --measure: keep it in loadtests/results")
    options = parser.parse_args()
    if options.measure:
        return batches.measure(options.keep)
    found = measured(options.live)
    given = {name: getattr(options, f"{name}_us") for name in ("server", "each", "fixed", "flush")}
    costs = replace(found.costs, **{name: value / 1e6 for name, value in given.items() if value is not None})
    _say_measured(found, costs, options.live)
    rate = options.guests / options.interval
    _say_plan(rate, costs, options)
    _say_walls(costs, options)
    return 0


def _say_measured(found: Measured, costs: Costs, live: int) -> None:
    say(f"from {found.sources[0]} ({live:,} online) and {found.sources[1]}:")
    say(
        f"  a poll: {costs.server * 1e6:.0f} us of a worker, {costs.each * 1e6:.0f} us of PostgreSQL, "
        f"{costs.wal:,.0f} bytes of WAL"
    )
    say(f"  a checkpoint: {costs.images:,.0f} bytes of full-page images for each guest, at most")
    say(
        f"  a batch: {costs.fixed * 1e6:.0f} us of PostgreSQL whatever its size, "
        f"{costs.flush * 1e6:.0f} us for the flush"
    )
    bench = saturate(found)
    say(
        f"the benchmark of one worker, simulated: {bench.rate:,.0f} polls/s; measured {found.rate:,.0f}; "
        f"{bench.rate / found.rate - 1:+.0%}"
    )
    say(
        f"a worker is planned with {costs.most(1, 1)[0]:,.0f} polls/s at most; "
        f"its CPU alone would do {1 / costs.server:,.0f}"
    )


def _say_plan(rate: float, costs: Costs, options: argparse.Namespace) -> None:
    most = costs.most(1, 1)[0]
    workers = max(1, math.ceil(rate / most / FULL))
    say("")
    say(
        f"{options.guests:,} guests every {options.interval:g} s: {rate:,.0f} polls/s, "
        f"{rate * ROW_VERSIONS:,.0f} rows/s"
    )
    wal = costs.wal_rate(rate, options.guests, options.checkpoint)
    say(
        f"WAL {rate * costs.wal / 1e6:,.1f} MB/s, with full-page images {wal / 1e6:,.1f} MB/s at a checkpoint every "
        f"{options.checkpoint:g} s"
    )
    say(f"workers wanted: {workers}, each with {FULL:.0%} of its {most:,.0f} polls/s at most")
    say("")
    say("workers  PostgreSQL's cores  connections  polls/s each  worker  in use   batch   p50 ms   p99 ms  from memory")
    for number in sorted({max(1, workers // 2), workers - 1 or 1, workers, workers + 1, 2 * workers}):
        if rate / number >= most:
            say(f"{number:7} {'':32} {rate / number:13,.0f}   more than a worker takes")
            continue
        cores = wanted(rate, costs, number)
        one = simulate(rate, costs, workers=number, cores=cores)
        say(
            f"{number:7} {cores:19} {number * CONNECTIONS + 20:12} {rate / number:13,.0f} {one.worker:7.0%} "
            f"{one.postgres:7.1f} {one.batch:7.1f} {one.p50 * 1000:8.1f} {one.p99 * 1000:8.1f} {one.late:12.2%}"
        )


def _say_walls(costs: Costs, options: argparse.Namespace) -> None:
    say("")
    say("machine (workers + PostgreSQL)   at most, polls/s: workers  PostgreSQL      disk   first wall      guests")
    for workers, cores in MACHINES:
        most, guests = walls(costs, workers, cores, options.disk_mb * 1e6, options.interval, options.checkpoint)
        first = min(most, key=lambda name: most[name])
        say(
            f"{f'{workers} + {cores} cores':30} {most['workers']:26,.0f} {most['PostgreSQL']:11,.0f} "
            f"{most['disk']:9,.0f}   {first:10} {guests:11,.0f}"
        )


def walls(
    costs: Costs, workers: int, cores: int, disk: float, interval: float, checkpoint: float
) -> tuple[dict[str, float], float]:
    """For a machine, polls a second at which each resource is full, and how many guests the first allows in a plan."""
    of_workers, of_postgres = costs.most(workers, cores)
    of_disk = disk / (costs.wal_rate(1.0, interval, checkpoint))
    most = {"workers": of_workers, "PostgreSQL": of_postgres, "disk": of_disk}
    return most, FULL * min(most.values()) * interval


if __name__ == "__main__":
    sys.exit(main())
