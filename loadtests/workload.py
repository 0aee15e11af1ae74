"""What a load generator is asked to send, and what it found: plain values that travel between processes as JSON.

Promises: the workload is open. A request has a scheduled moment, fixed before the run, and its latency is counted
from that moment, whether or not the server (or a lid on the requests in flight) let it be sent then; so a server
that stalls cannot hide the requests which would have come during the stall. Never sends anything; that is
`loadtests.generator`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

STEP = math.log(1.01)
"""Width of a bucket of `Latencies`: one per cent, on a logarithmic scale."""


@dataclass(slots=True)
class Latencies:
    """Seconds, kept in buckets one per cent wide: a percentile is right to one per cent, however many there are."""

    buckets: Counter[int] = field(default_factory=Counter)
    count: int = 0
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts one latency. Anything under a microsecond counts as a microsecond."""
        self.buckets[math.ceil(math.log(max(seconds, 1e-6)) / STEP)] += 1
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def merge(self, other: Latencies) -> None:
        """Adds what another one has counted."""
        self.buckets.update(other.buckets)
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    def percentile(self, share: float) -> float | None:
        """The seconds that `share` (0 to 1) of all latencies did not exceed; None when there is none."""
        if not self.count:
            return None
        rank, seen = max(1, math.ceil(share * self.count)), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return min(math.exp(bucket * STEP), self.longest)
        return self.longest

    def as_json(self) -> dict[str, Any]:
        """The form that crosses to another process."""
        return {"buckets": dict(self.buckets), "count": self.count, "total": self.total, "longest": self.longest}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Latencies:
        """The inverse of `as_json`; JSON made the keys of the buckets strings."""
        buckets = Counter({int(bucket): number for bucket, number in value["buckets"].items()})
        return cls(buckets, value["count"], value["total"], value["longest"])


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of request, sent at a steady rate.

    `paths` are taken in turn. `lid` bounds the requests in flight: what is due beyond it waits in the generator, and
    its waiting counts. A request that has no answer `patience` seconds after its scheduled moment is an error. An
    answer counts as right when its status is 2xx or 3xx and its body contains `expect`. `late` is a bound, in
    seconds, beyond which right answers are counted apart. With `body`, so many bytes are posted, made while they are
    sent; `expect_digest` wants their SHA-256, in hex, in the answer. `version` is the HTTP version said; with
    `keep_alive`, connections are used again (an answer must then carry a Content-Length). With `burst`, all requests
    are due at the beginning. With `closed`, `rate` says nothing: `lid` clients each ask again as soon as they have
    their answer, which finds how many answers a server can give, and never how long people wait for one.
    """

    name: str
    port: int
    paths: tuple[str, ...]
    rate: float
    seconds: float
    lid: int = 1000
    patience: float = 8.0
    method: str = "GET"
    form: str = ""
    body: int = 0
    expect: str = ""
    expect_digest: bool = False
    late: float | None = None
    version: str = "1.1"
    keep_alive: bool = False
    begin: float = 0.0
    burst: bool = False
    closed: bool = False
    host: str = "127.0.0.1"

    def schedule(self) -> list[float]:
        """The moments, in seconds from the start of the run, at which an open workload's requests are due."""
        number = round(self.rate * self.seconds)
        return [self.begin + (0.0 if self.burst else n / self.rate) for n in range(number)]


@dataclass(slots=True)
class Second:
    """What became of the requests that were scheduled in one second of the run."""

    offered: int = 0
    right: int = 0
    total: float = 0.0
    longest: float = 0.0


@dataclass(slots=True)
class Outcome:
    """What became of one stream. `in_time` are the right answers that had come when the stream's seconds were over."""

    name: str
    seconds: float
    offered: int = 0
    right: int = 0
    in_time: int = 0
    late: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
    lag: Latencies = field(default_factory=Latencies)
    timeline: dict[int, Second] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Requests without a right answer."""
        return sum(self.errors.values())

    @property
    def rate(self) -> float:
        """Right answers a second while the stream lasted; what came afterwards does not count."""
        return self.in_time / self.seconds

    def record(self, due: float, ended: float, problem: str, late: float | None, end: float) -> None:
        """One request's end: `problem` is empty for a right answer, else a word for what went wrong."""
        second = self.timeline.setdefault(int(due), Second())
        second.offered += 1
        if problem:
            self.errors[problem] += 1
            return
        latency = ended - due
        self.right += 1
        self.in_time += ended <= end
        self.late += late is not None and latency > late
        self.latencies.add(latency)
        second.right += 1
        second.total += latency
        second.longest = max(second.longest, latency)

    def as_json(self) -> dict[str, Any]:
        """The form that crosses to another process."""
        value = {name: getattr(self, name) for name in ("name", "seconds", "offered", "right", "in_time", "late")}
        value["errors"] = dict(self.errors)
        value["latencies"], value["lag"] = self.latencies.as_json(), self.lag.as_json()
        value["timeline"] = {second: asdict(what) for second, what in self.timeline.items()}
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Outcome:
        """The inverse of `as_json`."""
        plain = {name: value[name] for name in ("name", "seconds", "offered", "right", "in_time", "late")}
        return cls(
            **plain,
            errors=Counter(value["errors"]),
            latencies=Latencies.from_json(value["latencies"]),
            lag=Latencies.from_json(value["lag"]),
            timeline={int(second): Second(**what) for second, what in value["timeline"].items()},
        )

    def summary(self) -> dict[str, Any]:
        """The figures of a report: milliseconds, rounded; None where no right answer came."""

        def ms(share: float) -> float | None:
            seconds = self.latencies.percentile(share)
            return None if seconds is None else round(seconds * 1000, 1)

        lag = self.lag.percentile(0.99)
        return {
            "offered": self.offered,
            "right": self.right,
            "per_second": round(self.rate, 1),
            "p50_ms": ms(0.5),
            "p95_ms": ms(0.95),
            "p99_ms": ms(0.99),
            "max_ms": round(self.latencies.longest * 1000, 1) if self.right else None,
            "late": self.late,
            "failed": self.failed,
            "errors": dict(self.errors),
            "generator_late_p99_ms": None if lag is None else round(lag * 1000, 1),
        }
