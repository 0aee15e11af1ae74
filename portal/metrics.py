"""Every metric, declared once, with its unit.

Promises: no label holds anything that a guest or a gateway sent, so the number of series is bounded. What other parts
count for themselves (the ledger, the pools, the front door, the loops) is read from them when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

# Routers give up after 2 s (apfree) or 30 s (classic); the interesting part is far below.
POLL_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
DELAY_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
PAGE_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Reading:
    """One figure read when asked for: a name, what it says, its value by label values."""

    def __init__(
        self,
        name: str,
        says: str,
        read: Callable[[], Iterable[tuple[tuple[str, ...], float]]],
        labels: tuple[str, ...] = (),
        *,
        counter: bool = False,
    ) -> None:
        self.name, self.says, self.read, self.labels, self.counter = name, says, read, labels, counter

    def family(self) -> Metric:
        kind = CounterMetricFamily if self.counter else GaugeMetricFamily
        family = kind(self.name, self.says, labels=self.labels)
        for labels, value in self.read():
            family.add_metric(labels, value)
        return family


class _Readings(Collector):
    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def collect(self) -> Iterator[Metric]:
        for reading in self.readings:
            yield reading.family()


class Spread(Collector):
    """How long something took, as a histogram of plain numbers, for one thread to write: the library's own, with its
    locks and labels, and its counter took a tenth of a poll's time."""

    def __init__(self, name: str, says: str, bounds: Sequence[float]) -> None:
        self._name, self._says, self._bounds = name, says, bounds
        self._within = [0] * (len(bounds) + 1)
        self._seconds = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self._within[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(str, self._bounds), "+Inf"]
        family = HistogramMetricFamily(self._name, self._says)
        family.add_metric((), list(zip(bounds, accumulate(self._within), strict=True)), self._seconds)
        yield family


class Polls(Collector):
    """What gateways were answered, in plain numbers too."""

    def __init__(self) -> None:
        self._answered: defaultdict[tuple[str, str, str], int] = defaultdict(int)

    def count(self, stage: str, answer: str, reason: str) -> None:
        """One report of a gateway about a guest."""
        self._answered[stage, answer, reason] += 1

    def collect(self) -> Iterator[Metric]:
        answered = CounterMetricFamily(
            "gatepost_polls",
            "Reports of gateways about guests, by stage, by what they were answered, and why",
            labels=("stage", "answer", "reason"),
        )
        for labels, number in self._answered.items():
            answered.add_metric(labels, number)
        yield answered


class Metrics:
    """The process's metrics. One object, handed to whoever counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._readings = _Readings()
        self.polls = Polls()
        self.poll_seconds = Spread(
            "gatepost_poll_seconds", "From the parsed request to the answer of a report, commit included", POLL_SECONDS
        )
        self.loop_delay_seconds = Spread(
            "gatepost_loop_delay_seconds", "What has its turn in the event loop waits so long, asked 20 times a second",
            DELAY_SECONDS,
        )  # fmt: skip
        self.pings = Counter("gatepost_pings", "Heartbeats of gateways", registry=self._registry)
        self.malformed = Counter(
            "gatepost_malformed",
            "Calls of gateways that do not follow the protocol, by parameter",
            ["field"],
            registry=self._registry,
        )
        self.sign_ins = Counter(
            "gatepost_sign_ins",
            "Guests' attempts to sign in, by way and outcome",
            ["way", "outcome"],
            registry=self._registry,
        )
        self.page_seconds = Histogram(
            "gatepost_page_seconds",
            "From the parsed request to the answer of a page, by door",
            ["door"],
            buckets=PAGE_SECONDS,
            registry=self._registry,
        )
        for plain in (self.polls, self.poll_seconds, self.loop_delay_seconds):
            self._registry.register(plain)
        self._registry.register(self._readings)

    def watch(self, *readings: Reading) -> None:
        """Expose figures that somebody else keeps."""
        self._readings.readings.extend(readings)

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


def merged(parts: Mapping[str, str]) -> str:
    """The expositions of several workers as one: every series with its `worker`, each name described once.

    Counters of workers are added up by whoever asks: `sum without (worker) (…)`.
    """
    families: dict[str, list[str]] = {}
    for worker, text in sorted(parts.items()):
        family: list[str] = []
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = families.setdefault(line.split(" ", 3)[2], [])
                if not family:
                    family.append(line)
            elif line.startswith("# TYPE "):
                if len(family) == 1:
                    family.append(line)
            elif line and not line.startswith("#"):
                end = line.index("{") if "{" in line else line.index(" ")
                rest = line[end:].removeprefix("{")
                between = "," if line[end] == "{" else "}"
                family.append(f'{line[:end]}{{worker="{worker}"{between}{rest}')
    return "".join(f"{line}\n" for family in families.values() for line in family)
