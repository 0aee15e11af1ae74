"""What so many guests online need: arithmetic from measured costs, and a simulation of the waiting.

    python -m loadtests.scale [--guests 1000000] [--interval 60] [--workers 4] [--fixed-ms 1.5] [--each-us 80]

A worker's ledger works in batches: one leaves when the last is committed, with everything that has come meanwhile. Its
commit takes a fixed time (round trip, flush) and a time for each report. The simulation lets reports come at random
(Poisson) and tells how long they wait; above the rate at which batches stop keeping up, it says so. The two costs are
read off `make bench`: the fixed one from a lightly loaded server, the other from a saturated one.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass

from loadtests.harness import say

LARGEST_BATCH = 1000
PATIENCE_S = 1.0
"""What is not committed by then is answered from memory."""
ROW_VERSIONS, WAL_BYTES = 3, 500
"""Of one poll: counter line, session, grant; 480 to 500 bytes of WAL were measured for the three, full-page images left
out."""


@dataclass(frozen=True)
class Costs:
    """Of one batch's commit, in seconds: whatever its size, and for each report in it."""

    fixed: float
    each: float

    @property
    def most(self) -> float:
        """Reports a second that one worker's ledger can write, with the largest batches."""
        return LARGEST_BATCH / (self.fixed + LARGEST_BATCH * self.each)


@dataclass(frozen=True)
class Waiting:
    """How long reports waited for their commit, in seconds, the mean batch, and the share answered from memory."""

    p50: float
    p99: float
    batch: float
    late: float


def simulate(rate: float, costs: Costs, *, seconds: float = 20.0, seed: int = 1) -> Waiting:
    """One worker at `rate` reports a second, coming at random."""
    dice = random.Random(seed)  # noqa: S311
    arrivals = []
    moment = 0.0
    while (moment := moment + dice.expovariate(rate)) < seconds:
        arrivals.append(moment)
    waits: list[float] = []
    batches, begun, free = 0, 0, 0.0
    while begun < len(arrivals):
        leaves = max(free, arrivals[begun])
        end = begun
        while end < len(arrivals) and end - begun < LARGEST_BATCH and arrivals[end] <= leaves:
            end += 1
        free = leaves + costs.fixed + (end - begun) * costs.each
        waits += [free - arrived for arrived in arrivals[begun:end]]
        begun, batches = end, batches + 1
    waits.sort()
    late = sum(wait > PATIENCE_S for wait in waits) / len(waits)
    return Waiting(waits[len(waits) // 2], waits[len(waits) * 99 // 100], len(waits) / batches, late)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--guests", type=int, default=1_000_000, help="guests online")
    parser.add_argument("--interval", type=float, default=60.0, help="seconds between two polls of a guest")
    parser.add_argument("--workers", type=int, default=4, help="processes, each with a ledger of its own")
    parser.add_argument("--fixed-ms", type=float, default=1.5, help="what a commit takes, whatever it holds")
    parser.add_argument("--each-us", type=float, default=80.0, help="what a report adds to it")
    options = parser.parse_args()
    costs = Costs(options.fixed_ms / 1000, options.each_us / 1e6)
    rate = options.guests / options.interval
    say(f"{options.guests:,} guests every {options.interval:g} s: {rate:,.0f} polls/s")
    say(f"{rate * ROW_VERSIONS:,.0f} row versions/s, about {rate * WAL_BYTES / 1e6:,.1f} MB/s of WAL")
    say(f"PostgreSQL's cores busy with reports: {rate * costs.each:.1f}; one ledger writes at most {costs.most:,.0f}/s")
    say("")
    say("workers   polls/s each   batch    p50 ms    p99 ms   from memory")
    for workers in sorted({1, 2, options.workers, 2 * options.workers}):
        share = rate / workers
        if share >= costs.most:
            say(f"{workers:7} {share:14,.0f}   more than its ledger can write: batches stop keeping up")
            continue
        waited = simulate(share, costs)
        say(
            f"{workers:7} {share:14,.0f} {waited.batch:7.1f} {waited.p50 * 1000:9.1f} {waited.p99 * 1000:9.1f} "
            f"{waited.late:12.2%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
