"""`make bench`: committed polls a second and what each costs, the product beside its alternatives, in one run.

    python -m loadtests.bench [--quick] [--keep] [--seconds 5] [--rounds 2]

Every contender gets the same database, the same polls and the same cores: the server alone on one, PostgreSQL and the
generator on the other. Polls are those of routers, HTTP/1.0 and close, and once more on kept connections. Each is
measured in turn, round by round, so that a machine whose speed drifts treats all alike; the ratios are of medians.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from loadtests import harness, seed
from loadtests.bench import desk, pgbench
from loadtests.bench.pgbench import Pgbench, Written
from loadtests.bench.polls import Order, Yield
from loadtests.harness import OUT, ROOT, Cores, Program, Run, header, save, say
from loadtests.soak import Steady
from portal.keys import Keyring
from portal.store.embedded import Postgres
from portal.store.migrations import migrate

CROWDS = (256, 1024)
"""Gateways that wait for an answer at any moment. Every contender is measured with both, and the better rate counts:
who answers each by itself is at his best with few, who commits in groups, half of them in the commit and half at the
door, with many."""
FEW = 32
"""Gateways that wait at once where the server is only to learn of its guests."""
WARM_SECONDS = 4.0
"""Not measured, after a start. Gatepost has heard of every guest by then: the first poll of each costs more."""
PAIRS = 12
"""How often the product and the bare answer take turns for the share of the one in the other: a shared machine's speed
drifts by a tenth within seconds, and what is measured a minute later is not to be compared."""
LIVE = 10_000
"""Guests online who poll, in the rounds and in the turns."""
SIZES = (100, 100_000)
"""How many poll where only that is to be told: once for each contender, close."""
SIZE_SECONDS = 2.0
LEARNED_A_SECOND = 4000
"""Guests of whom a server that remembers them hears in a second of its warm-up."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server to measure: what it is, in words, how it is started, and the connections of one of its processes.

    One that `remembers` guests answers them for less when it has heard of them before.
    """

    name: str
    says: str
    command: Callable[[int], list[str]]
    pool: int = 10
    remembers: bool = False


@dataclass
class Figures:
    """What was measured of one contender with one kind of connection and so many gateways at once, a value a round."""

    at_once: int
    rate: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)  # CPU seconds for 1,000 polls
    postgres: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p95: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MiB, shared pages shared out
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def polls(self) -> float:
        """Polls a second, the median."""
        return statistics.median(self.rate)

    @property
    def cpu(self) -> float:
        return statistics.median(self.server) + statistics.median(self.postgres)


def patched(module: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, "-m", "gevent.monkey", "--module", module, str(port)]


def uvicorn(application: str) -> Callable[[int], list[str]]:
    flags = ["--factory", "--host", "127.0.0.1", "--no-access-log", "--log-level", "warning", "--backlog", "4096"]
    flags += ["--loop", "uvloop", "--http", "httptools"]
    return lambda port: [sys.executable, "-m", "uvicorn", *flags, "--port", str(port), application]


def gunicorn(port: int) -> list[str]:
    flags = ["--worker-class", "gthread", "--workers", "10", "--threads", "5", "--backlog", "4096"]
    return [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *flags, "loadtests.bench.orm:create()"]


CONTENDERS = (
    Contender("gatepost", "Gatepost: counter line, session, grant, committed", lambda _: [sys.executable, "serve.py"],
              remembers=True),
    Contender("ok", "a bare answer on our own front door", patched("loadtests.bench.ok")),
    Contender("orm", "one ORM transaction per poll on our own door (session row)", patched("loadtests.bench.orm")),
    Contender("gthread", "the same under Gunicorn gthread 10 × 5", gunicorn, pool=5),
    Contender("row", "FastAPI + asyncpg, one row one by one (session row)", uvicorn("loadtests.bench.rewrite:row")),
    Contender("rows", "FastAPI + asyncpg, all three rows one by one", uvicorn("loadtests.bench.rewrite:rows")),
    Contender("batch", "FastAPI + asyncpg with our group commit", uvicorn("loadtests.bench.rewrite:batch"),
              remembers=True),
)  # fmt: skip
QUICK = ("gatepost", "ok", "orm")


class Bench:
    """A seeded database, and what has been measured on it."""

    def __init__(self, postgres: Postgres, cores: Cores, state: Path, guests: list[seed.Guest]) -> None:
        self.postgres, self.cores, self.state, self.guests = postgres, cores, state, guests
        self._list = OUT / "bench-guests"
        seed.write(guests, self._list)
        self._round = 0
        self.pgbench = Pgbench(postgres.url, cores.load, lambda: harness.cpu_seconds(harness.tree(postgres.pid)))

    @contextlib.contextmanager
    def serving(self, contender: Contender) -> Iterator[tuple[Program, int]]:
        port = harness.free_port()
        env = {
            "BENCH_DATABASE": self.postgres.url,
            "BENCH_POOL": str(contender.pool),
            "PORTAL_DATABASE__URL": self.postgres.url,
            "PORTAL_STATE_DIR": str(self.state),
            "PORTAL_SERVER__HOST": "127.0.0.1",
            "PORTAL_SERVER__PORT": str(port),
        }
        alive = harness.answers(port, "/healthz" if contender.name == "gatepost" else "/alive")
        name = f"bench-{contender.name}"
        with Program(name, contender.command(port), self.cores.server, alive, env) as program:
            yield program, port

    def measure(
        self, program: Program, port: int, figures: Figures, *, live: int, keep: bool, seconds: float, warm: float = 1.0
    ) -> int:
        """Adds a value to each of the figures. Returns how many polls were sent, the warm-up's among them."""
        order = Order(port, str(self._list), live, figures.at_once, warm, seconds, keep, self._round)
        before = self._cpu(program)
        polls = self._generated(order)
        used = [now - then for now, then in zip(self._cpu(program), before, strict=True)]
        self._round += polls.sent // live + 1
        figures.rate.append(polls.rate)
        figures.server.append(used[0] / polls.sent * 1000)
        figures.postgres.append(used[1] / polls.sent * 1000)
        for share, values in ((0.5, figures.p50), (0.95, figures.p95), (0.99, figures.p99)):
            values.append((polls.latencies.percentile(share) or 0.0) * 1000)
        figures.worst.append(polls.latencies.longest * 1000)
        figures.memory.append(harness.cost(program.pid).pss / 2**20)
        for word, count in polls.errors.items():
            figures.errors[word] = figures.errors.get(word, 0) + count
        return polls.sent

    def sized(self, contender: Contender, at_once: int, online: int) -> dict[int, Figures]:
        """Figures by the number of guests who poll, with no more polls at once than there are of them: a gateway has
        one poll of a guest on its way at a time."""
        found = {}
        with self.serving(contender) as (program, port):
            for size in SIZES:
                if size <= online:
                    figures = found[size] = Figures(min(at_once, size))
                    warm = max(WARM_SECONDS / 2, size / LEARNED_A_SECOND if contender.remembers else 0.0)
                    self.measure(program, port, figures, live=size, keep=False, seconds=SIZE_SECONDS, warm=warm)
                    say(f"{size:7,} live  {contender.name:9} {figures.at_once:5} at once {figures.polls:8,.0f} polls/s")
        return found

    def turns(self, product: Figures, bare: Figures, *, live: int, seconds: float) -> None:
        """Measure the product and the bare answer in turns, both up all the time. The first turn does not count."""
        with contextlib.ExitStack() as stack:
            servers = [
                (*stack.enter_context(self.serving(next(one for one in CONTENDERS if one.name == name))), figures)
                for name, figures in (("gatepost", product), ("ok", bare))
            ]
            for program, port, figures in servers:
                self.measure(program, port, Figures(figures.at_once), live=live, keep=False, seconds=WARM_SECONDS)
            for _ in range(PAIRS):
                for program, port, figures in servers:
                    self.measure(program, port, figures, live=live, keep=False, seconds=seconds, warm=0.5)

    def _cpu(self, program: Program) -> tuple[float, float]:
        return harness.cpu_seconds(harness.tree(program.pid)), self.pgbench.used()

    def _generated(self, order: Order) -> Yield:
        command = [sys.executable, "-m", "loadtests.bench.polls"]
        with harness.pinned(self.cores.load):
            done = subprocess.run(
                command, input=json.dumps(asdict(order)), cwd=ROOT, capture_output=True, text=True, check=False
            )
        if done.returncode:
            raise harness.NotReady(f"the generator failed: {done.stderr[-1000:]}")
        return Yield.from_json(json.loads(done.stdout))

    def acquaint(self, program: Program, port: int, live: int) -> int:
        """Let the server hear of its guests, few at once, so that nothing of it stands still; of how many."""
        figures = Figures(FEW)
        sent = self.measure(program, port, figures, live=live, keep=False, seconds=live / 5000, warm=0.0)
        if figures.errors:
            raise harness.NotReady(f"not every guest was let in: {figures.errors}")
        return min(live, sent)

    def paced(self, port: int, rate: float, seconds: float) -> dict[str, float]:
        """Latencies in ms at a steady rate, from the moment each poll was due."""
        with harness.pinned(self.cores.load):
            steady = Steady(port, self.guests[-5000:], rate, first=self._round)
            time.sleep(1)
            steady.taken()
            time.sleep(seconds)
            polls, errors, latencies = steady.taken()
            steady.stop()
        self._round += int(rate * (seconds + 2)) // 5000 + 1
        found = {f"p{round(share * 100)}": (latencies.percentile(share) or 0.0) * 1000 for share in (0.5, 0.95, 0.99)}
        return found | {"max": latencies.longest * 1000, "polls": polls, "errors": errors}

    def waits(self, port: int, rounds: int) -> dict[str, desk.Waited]:
        """How long polls wait while the desk's heaviest pages are made."""
        email, password = desk.furnish(self.postgres.url)
        with harness.pinned(self.cores.load):
            steady = Steady(port, self.guests[-5000:], 500, first=self._round)
            try:
                return desk.waits(steady, desk.Desk(f"http://127.0.0.1:{port}", email, password), rounds)
            finally:
                steady.stop()


def ratios(
    found: dict[str, dict[str, Figures]], product: Figures, bare: Figures, written: list[Written]
) -> list[tuple[str, str, str]]:
    """The lines of the promise that can be told from these figures: what, how much, what it must be.

    `product` and `bare` were measured in turns; `written` is what PostgreSQL took without a server.
    """

    def rate(name: str, kind: str = "close") -> float:
        return found[name][kind].polls

    lines = []
    if "row" in found:
        lines.append(
            ("polls/s, against FastAPI + asyncpg one row by one", f"{rate('gatepost') / rate('row'):.2f} ×", "2 ×")
        )
    if "rows" in found:
        lines.append(("the same writing all three rows", f"{rate('gatepost') / rate('rows'):.2f} ×", ""))
    if "batch" in found:
        share = rate("gatepost") / rate("batch")
        lines.append(("against FastAPI + asyncpg with the same group commit", f"{share:.2f} ×", "1 ×"))
    shares = [mine / other for mine, other in zip(product.rate, bare.rate, strict=True)]
    lines.append(("against a bare answer on our own server, in turns", f"{statistics.median(shares):.0%}", "65 %"))
    lines.append(("the least and the most of a turn", f"{min(shares):.0%} to {max(shares):.0%}", ""))
    for what, one in (("Gatepost", product), ("the bare answer", bare)):
        told = f"{one.polls:,.0f} polls/s, {spent(one)} CPU ms for 1,000"
        lines.append((f"{what} in these turns, median, with {one.at_once:,} at once (server + PostgreSQL)", told, ""))
    share = rate("gatepost", "keep") / rate("ok", "keep")
    lines.append(("the same on kept connections", f"{share:.0%}", ""))
    lines.append(
        ("against one ORM transaction per poll on our own server", f"{rate('gatepost') / rate('orm'):.2f} ×", "")
    )
    if "gthread" in found:
        cost = found["gatepost"]["close"].cpu / found["gthread"]["close"].cpu
        lines.append(
            ("CPU for 1,000 polls (server + PostgreSQL), against Gunicorn gthread + ORM", f"{cost:.2f}", "0.33")
        )
    if written:
        share = rate("gatepost") / written[-1].rate
        lines.append((f"polls/s, as a share of what pgbench writes by {written[-1].says}", f"{share:.0%}", ""))
    return lines


def table(measured: dict[str, dict[str, list[Figures]]]) -> str:
    """Every contender's rate, cost and memory with the crowd that suits it, and the times that the smaller crowd had to
    wait under each of them, medians over the rounds."""
    lines = [
        "Polls/s, CPU and memory with the crowd that suits a server better. The times are those of "
        f"{CROWDS[0]} gateways under every server, each of which polls again as soon as it has its answer: they tell "
        "how long a full server lets wait, not how long a poll takes.",
        "",
        "| server | kind | at once | polls/s | CPU s: server, PostgreSQL | MiB | errors "
        f"| ms with {CROWDS[0]}: p50 / p95 / p99 / max |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    median = statistics.median
    for contender in CONTENDERS:
        for kind, crowds in measured.get(contender.name, {}).items():
            f, few = better(crowds), crowds[0]
            times = " / ".join(f"{median(values):.1f}" for values in (few.p50, few.p95, few.p99, few.worst))
            used = f"{median(f.server):.3f}, {median(f.postgres):.3f}"
            errors = sum(sum(one.errors.values()) for one in crowds)
            lines.append(
                f"| {contender.says} | {kind} | {f.at_once:,} | {f.polls:,.0f} | {used} "
                f"| {median(f.memory):.0f} | {errors} | {times} |"
            )
    return "\n".join(lines)


def better(crowds: list[Figures]) -> Figures:
    """Those of the crowd with which the server answered more polls a second."""
    return max(crowds, key=lambda figures: figures.polls)


def size_table(sizes: dict[str, dict[int, Figures]], live: int, found: dict[str, dict[str, Figures]]) -> str:
    """Every contender with few and many guests who poll; those of the rounds, `live`, from `found`."""
    known = sorted({live, *(size for one in sizes.values() for size in one)})
    lines = [
        "Close, by the number of guests who poll. CPU ms are for 1,000 polls: server + PostgreSQL. With "
        f"{live:,}, medians of the rounds; the others measured once, with no more polls at once than guests.",
        "",
        "| server | " + " | ".join(f"{size:,} live: polls/s | CPU ms" for size in known) + " |",
        "| --- |" + " ---: | ---: |" * len(known),
    ]
    for contender in CONTENDERS:
        if contender.name not in sizes:
            continue
        every = {**sizes[contender.name], live: found[contender.name]["close"]}
        cells = [f"{every[size].polls:,.0f} | {spent(every[size])}" for size in known]
        lines.append(f"| {contender.says} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spent(figures: Figures) -> str:
    """The CPU of 1,000 polls in ms: the server's + PostgreSQL's, medians."""
    return " + ".join(f"{1000 * statistics.median(values):.1f}" for values in (figures.server, figures.postgres))


@dataclass(frozen=True, slots=True)
class Watched:
    """What the product's own watchdog, which asks the loop twenty times a second, had seen at one moment: how often the
    loop answered within so many seconds, and the longest that it took, both since the server's start."""

    within: dict[str, float]
    longest: float


def watched(port: int) -> Watched:
    """The watchdog's figures, from the product's /metrics."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return seen(text)


def seen(metrics: str) -> Watched:
    """The same from the text of the metrics."""
    buckets = re.findall(r'^gatepost_loop_delay_seconds_bucket\{le="([^"]+)"\} (\S+)', metrics, re.M)
    longest = re.findall(r"^gatepost_loop_longest_stall_seconds (\S+)", metrics, re.M)
    return Watched({within: float(number) for within, number in buckets}, float(longest[0]))


def shares(before: Watched, after: Watched) -> dict[str, float]:
    """Between two looks at `watched`, the share of answers, in per cent, within so many ms."""
    every = after.within["+Inf"] - before.within["+Inf"]
    return {
        f"{1000 * float(within):g} ms": 100 * (after.within[within] - before.within[within]) / every
        for within in ("0.01", "0.05", "0.1")
    }


def stalls(before: Watched, after: Watched, pages: dict[str, desk.Waited]) -> list[tuple[str, str, str]]:
    """How long the loop stood still between two looks: no less than the watchdog saw, since it may have come in the
    midst of it, and no more than a poll had to wait meanwhile."""
    # The longest since the start: unless it has grown, it is from before these pages.
    least = f"{'' if after.longest > before.longest else 'at most '}{after.longest * 1000:.0f} ms"
    name, most = max(pages.items(), key=lambda page: page[1].longest)
    return [
        ("longest stall under the desk's heaviest pages, as the product's watchdog saw it", least, "50 ms"),
        (f"longest wait of a poll meanwhile ({name}): no stall was longer", f"{most.longest:.0f} ms", ""),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small database and three contenders, in a minute")
    parser.add_argument("--keep", action="store_true", help="write the result into loadtests/results and its README")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each measurement takes")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender has its turn")
    options = parser.parse_args()
    harness.end_on_sigterm()
    began = datetime.datetime.now(datetime.UTC)
    run = Run(" ".join(["python -m loadtests.bench", *sys.argv[1:]]))
    cores, state = run.cores, OUT / "state-bench"
    shutil.rmtree(state, ignore_errors=True)
    online, ended = (2_000, 10_000) if options.quick else (100_000, 1_000_000)
    chosen = [contender for contender in CONTENDERS if not options.quick or contender.name in QUICK]
    measured = {c.name: {kind: [Figures(crowd) for crowd in CROWDS] for kind in ("close", "keep")} for c in chosen}
    more: dict[str, Any] = {}
    with harness.database("bench", cores.load, 150) as postgres:
        migrate(postgres.url)
        say(f"seeding {online:,} sessions online and {ended:,} ended ones")
        bench = Bench(postgres, cores, state, seed.town(
            postgres.superuser_url, Keyring.load_or_create(state), online=online, ended=ended
        ))  # fmt: skip
        live = min(LIVE, online)
        for number in range(1 if options.quick else options.rounds):
            for contender in chosen:
                with bench.serving(contender) as (program, port):
                    if contender.name == "gatepost" and number == 0:
                        more["idle_mib"] = harness.cost(program.pid).pss / 2**20
                    warm = WARM_SECONDS
                    for kind, crowds in measured[contender.name].items():
                        for figures in crowds:
                            order = {"live": live, "keep": kind == "keep", "seconds": options.seconds}
                            bench.measure(program, port, figures, **order, warm=warm)
                            warm = 1.0
                            say(
                                f"round {number + 1}  {contender.name:9} {kind:5} {figures.at_once:5} at once"
                                f" {figures.rate[-1]:8,.0f} polls/s"
                            )
        found = {name: {kind: better(crowds) for kind, crowds in kinds.items()} for name, kinds in measured.items()}
        product, bare = (Figures(found[name]["close"].at_once) for name in ("gatepost", "ok"))
        bench.turns(product, bare, live=live, seconds=1.5)
        sizes = {one.name: bench.sized(one, found[one.name]["close"].at_once, online) for one in chosen}
        # A server of its own: its watchdog's longest stall must not be one of a thousand polls in one moment.
        with bench.serving(CONTENDERS[0]) as (program, port):
            more["guests it has heard of, before the pages"] = bench.acquaint(program, port, online)
            more["at 500/s, ms"] = bench.paced(port, 500, 3 if options.quick else 15)
            before = watched(port)
            pages = bench.waits(port, 1 if options.quick else 3)
            after = watched(port)
            more["under these pages the loop answered its watchdog, % within"] = shares(before, after)
            more["MiB afterwards"] = harness.cost(program.pid).pss / 2**20
        seconds = 2 if options.quick else 6
        written = [bench.pgbench.row(seconds), *(bench.pgbench.ledger(size, seconds) for size in pgbench.SIZES)]
    facts = run.facts()
    lines = ratios(found, product, bare, written) + stalls(before, after, pages)
    tables = [table(measured), size_table(sizes, live, found)]
    told = [header(facts), "", "\n\n".join(tables), ""]
    told += [f"{what}: {value} {'(must be ' + must + ')' if must else ''}".rstrip() for what, value, must in lines]
    told += [f"{what}: {_plain(value)}" for what, value in more.items()]
    told += ["", pgbench.table(written), "", desk.table(pages)]
    say("\n" + "\n".join(told))
    if options.keep:
        document = {
            **facts,
            "contenders": {
                name: {kind: [asdict(figures) for figures in crowds] for kind, crowds in kinds.items()}
                for name, kinds in measured.items()
            },
            "in turns": {"gatepost": asdict(product), "ok": asdict(bare)},
            "by live": {name: {size: asdict(one) for size, one in every.items()} for name, every in sizes.items()},
        }
        waited = {name: asdict(one) for name, one in pages.items()}
        alone = [asdict(one) for one in written]
        save("bench", {
            **document, "ratios": lines, "more": more, "pages": waited, "pgbench": alone
        }, began)  # fmt: skip
        _quote(facts, lines, more, tables, [pgbench.table(written), desk.table(pages)])
    every = [product, bare, *(figures for one in sizes.values() for figures in one.values())]
    every += [figures for kinds in measured.values() for crowds in kinds.values() for figures in crowds]
    return 1 if any(sum(figures.errors.values()) for figures in every) else 0


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def _quote(
    facts: dict[str, Any],
    lines: list[tuple[str, str, str]],
    more: dict[str, Any],
    first: list[str],
    last: list[str],
) -> None:
    """Renew the part of the results' README that speaks of this benchmark, with tables before and after `more`."""
    text = [f"```\n{header(facts)}\n```", "", "| what | measured | must be |", "| --- | ---: | ---: |"]
    text += [f"| {what} | {value} | {must} |" for what, value, must in lines]
    text += ["", "\n\n".join(first), ""]
    text += [f"- {what}: {_plain(value)}" for what, value in more.items()]
    text += ["", "\n\n".join(last)]
    harness.quote("bench", "\n".join(text))


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
