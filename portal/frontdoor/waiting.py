"""Whoever keeps us waiting: a deadline for each wait for a client, and lids on how many may wait.

Promises: a wait ends at its deadline (seen at most 0.25 s late); at a lid, whoever has waited longest goes, so that no
newcomer is turned away for the sake of a silent socket. Nothing is interrupted: a client is told to stop waiting
(`cut`), and does so only where it waits. One dictionary entry a wait, no timer each.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Rules:
    """What a client may use, whoever it is: sockets, seconds, bytes a second.

    `heads_per_address` is a lid on the sockets of one address (IPv6: one /64) whose head is not complete. All guests
    and routers of a venue share one address, so nobody is refused by it: the address's *own oldest* unfinished head is
    closed instead. A head that comes at once, as a router's and a browser's does, is never the oldest of 64; a silent
    socket soon is. Complete requests and idle connections do not count, and trusted proxies have no such lid.
    """

    sockets: int = 10_000
    heads_per_address: int = 64
    bodies_at_once: int = 1_000
    head_seconds: float = 5.0
    idle_seconds: float = 15.0
    body_seconds: float = 10.0
    body_bytes_per_second: int = 16 * 1024
    write_seconds: float = 10.0
    linger_seconds: float = 1.0


class Waiter(Protocol):
    """A client as it is seen from here."""

    @property
    def origin(self) -> str | bytes | None:
        """What the lid on addresses counts by; None: no such lid."""

    def cut(self, what: str) -> None:
        """Stop waiting, for `what`."""


@dataclass(slots=True, eq=False)
class Queue:
    """Clients that wait for the same thing, each with its deadline, longest first."""

    name: str
    seconds: float
    deadlines: dict[Waiter, float] = field(default_factory=dict)

    def enter(self, waiter: Waiter, seconds: float | None = None) -> None:
        """Begin to wait, for `seconds` or what is usual here."""
        self.deadlines[waiter] = time.monotonic() + (self.seconds if seconds is None else seconds)

    def leave(self, waiter: Waiter) -> None:
        """What was waited for has come; or the wait is over already."""
        self.deadlines.pop(waiter, None)


class Waiting:
    """All who wait. `overdue` and `evicted` count, by queue and by lid, who was cut."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.heads, self.idle = Queue("head", rules.head_seconds), Queue("idle", rules.idle_seconds)
        self.bodies, self.writes = Queue("body", rules.body_seconds), Queue("write", rules.write_seconds)
        self.lingers = Queue("linger", rules.linger_seconds)
        self.queues = (self.heads, self.idle, self.bodies, self.writes, self.lingers)
        self.tick = min(0.25, *(queue.seconds / 4 for queue in self.queues))
        self.overdue: Counter[str] = Counter()
        self.evicted: Counter[str] = Counter()
        self._unfinished: dict[str | bytes, dict[Waiter, None]] = {}  # heads by origin, oldest first

    def enter_head(self, waiter: Waiter) -> None:
        """Give a client its time for a whole head; at the lid of its address, the oldest of that address goes."""
        self.heads.enter(waiter)
        if waiter.origin is not None:
            neighbours = self._unfinished.setdefault(waiter.origin, {})
            if len(neighbours) >= self.rules.heads_per_address:
                oldest = next(iter(neighbours))
                del neighbours[oldest]
                self._evict(oldest, self.heads, "address")
            neighbours[waiter] = None

    def leave_head(self, waiter: Waiter) -> None:
        """The head is complete, or never will be."""
        self.heads.leave(waiter)
        if waiter.origin is not None:
            neighbours = self._unfinished.get(waiter.origin, {})
            neighbours.pop(waiter, None)
            if not neighbours:
                self._unfinished.pop(waiter.origin, None)

    def enter_body(self, waiter: Waiter, seconds: float) -> None:
        """Let a body take so long; at the lid, the one silent for longest goes."""
        if len(self.bodies.deadlines) >= self.rules.bodies_at_once:
            self._evict(next(iter(self.bodies.deadlines)), self.bodies, "bodies")
        self.bodies.enter(waiter, seconds)

    def forget(self, waiter: Waiter) -> None:
        """This client is gone."""
        self.leave_head(waiter)
        for queue in self.queues:
            queue.leave(waiter)

    def make_room(self) -> bool:
        """Close whichever unfinished head or idle connection is the oldest. False: nobody merely waits."""
        oldest = []
        for queue in (self.heads, self.idle):
            for waiter, deadline in queue.deadlines.items():
                oldest.append((deadline - queue.seconds, queue, waiter))
                break
        if not oldest:
            return False
        _, queue, waiter = min(oldest, key=lambda one: one[0])
        self._evict(waiter, queue, "sockets")
        return True

    def hurry(self, seconds: float) -> None:
        """End all idle connections now, and wait for heads no longer than this."""
        for waiter in list(self.idle.deadlines):
            waiter.cut("drain")
        self.heads.seconds = min(self.heads.seconds, seconds)
        soon = time.monotonic() + self.heads.seconds
        for waiter, deadline in self.heads.deadlines.items():
            self.heads.deadlines[waiter] = min(deadline, soon)

    def sweep(self) -> None:
        """Cut whoever is past its deadline. To be called every `tick` seconds."""
        now = time.monotonic()
        for queue in self.queues:
            for waiter in [waiter for waiter, deadline in queue.deadlines.items() if deadline <= now]:
                queue.leave(waiter)
                self.overdue[queue.name] += 1
                waiter.cut(queue.name)

    def _evict(self, waiter: Waiter, queue: Queue, lid: str) -> None:
        queue.leave(waiter)
        self.evicted[lid] += 1
        waiter.cut("evicted")
