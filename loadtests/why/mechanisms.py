"""The five mechanisms, each as an experiment: the same polls under threads, under processes and under our front door.

An experiment returns points (a figure at an x), timelines, and stacks; words are for docs/why.md. Every one ends
within its time, whatever hangs.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import psycopg2

from loadtests.harness import (
    Cores,
    NotReady,
    Program,
    Usage,
    answers,
    connected,
    free_port,
    offer,
    say,
    settle,
)
from loadtests.servers import common
from loadtests.servers.catalog import BY_NAME, Server
from loadtests.why.app import Switches
from loadtests.why.stacks import dump
from loadtests.workload import Outcome, Stream

APP = "loadtests.why.app"
THREADS = Server("threads", "50 threads (Waitress)", BY_NAME["waitress"].command)
PROCESSES = Server("processes", "10 × 5 (Gunicorn)", BY_NAME["gthread"].command, 10)
GATEPOST = Server("gatepost", "Gatepost", BY_NAME["ours"].command)
"""Of which no stacks are taken: py-spy sees threads, and it has one."""
POOLED = Server("pooled", "50 threads, one per connection", ("python", "-m", "loadtests.why.pooled", "{port}", "{app}"))
EIGHT = Server(
    "eight", "8 threads (Waitress)",
    ("waitress-serve", "--listen=127.0.0.1:{port}", "--threads=8", "--connection-limit=2000", "--call", "{app}:create"),
)  # fmt: skip
TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Rig:
    """What every experiment finds there."""

    cores: Cores
    database: str
    database_pid: int
    outside: int


@dataclass(slots=True)
class Point:
    """The polls and the costs of one server at one x of an experiment. Milliseconds; CPU in shares of a core."""

    server: str
    x: float
    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    failed: int
    cpu: float
    database_cpu: float
    pss_mib: float


@dataclass(slots=True)
class Finding:
    """What an experiment found: points, seconds of a timeline by server, stacks by server, and a table of its own."""

    name: str
    points: list[Point] = field(default_factory=list)
    timelines: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)
    shares: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    stacks: dict[str, list[str]] = field(default_factory=dict)
    table: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, server: Server, x: float, polls: Outcome, used: Usage, database: Usage) -> None:
        """One point, told to whoever watches as well."""
        told = polls.summary()
        point = Point(
            server.title, x, told["per_second"], told["p50_ms"], told["p99_ms"], told["failed"], used.cpu_share,
            database.cpu_share, used.pss_mib,
        )  # fmt: skip
        self.points.append(point)
        say(
            f"  {server.title:32} x {x:>9,.0f}  {point.per_second:6.1f}/s  p50 {point.p50_ms} p99 {point.p99_ms} ms  "
            f"failed {point.failed}  CPU {used.cpu_share:.0%}, database {database.cpu_share:.0%}, "
            f"{used.pss_mib:.0f} MiB"
        )

    def take_stacks(self, title: str, pid: int) -> None:
        """The commonest stacks of a server now, as text; or why there are none."""
        stacks = dump(pid)
        self.stacks[title] = [stacks] if isinstance(stacks, str) else [str(stack) for stack in stacks]

    def keep_timeline(self, server: Server, polls: Outcome, used: Usage) -> None:
        """Answered polls and the longest wait, by the second in which they were due."""
        self.timelines[server.title] = [
            (second, what.right, round(what.longest, 3)) for second, what in sorted(polls.timeline.items())
        ]
        self.shares[server.title] = used.shares
        self.errors[server.title] = dict(polls.errors)


def token(number: int) -> str:
    """The token of a session: what PostgreSQL makes of the same number, so that a million of them need no list."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def poll_stream(port: int, rate: float, seconds: float, **changes: Any) -> Stream:
    """Polls of the first sessions, as routers send them; the last of many rows are not looked for first."""
    paths = tuple(f"/auth/?stage=counters&token={token(n)}&incoming={n * 1000}&outgoing=0" for n in range(TOKENS))
    return Stream("polls", port, paths, rate, seconds, expect="Auth: 1", version="1.0", **changes)


@contextlib.contextmanager
def running(rig: Rig, server: Server, switches: Switches) -> Iterator[tuple[Program, int]]:
    """A server with those faults, warmed by a second of polls, and at rest in all of its processes."""
    port = free_port()
    program = Program(
        f"why-{server.name}", server.argv(port, APP), rig.cores.server, answers(port), switches.env(), patience=60.0
    )
    with program:
        offer([poll_stream(port, 60.0, 1.0, patience=20.0)], rig.cores.load)
        settle(program.pid)
        yield program, port


def soon(seconds: float, act: Callable[..., None], *what: Any) -> threading.Timer:
    """Does something after so many seconds, beside the load."""
    timer = threading.Timer(seconds, act, what)
    timer.start()
    return timer


def sql(url: str, *statements: str, rows: int = 0) -> None:
    """Runs statements, each by itself; `rows` is there for those that name it."""
    db = psycopg2.connect(url)
    try:
        db.autocommit = True
        with db.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement, {"rows": rows})
    finally:
        db.close()


def fill(url: str, rows: int) -> None:
    """A table of so many sessions, in an order in which the first tokens lie anywhere; no index on the token."""
    sql(
        url,
        "DROP INDEX IF EXISTS why_session_token",
        "TRUNCATE why_session, why_report",
        "INSERT INTO why_session (id, token) SELECT n, md5(CAST(n AS text)) "
        "FROM generate_series(0, %(rows)s - 1) AS n ORDER BY md5(CAST(n AS text))",
        "VACUUM ANALYZE why_session",
        rows=rows,
    )


def add_index(url: str) -> None:
    """What was missing."""
    sql(url, "CREATE UNIQUE INDEX why_session_token ON why_session (token)", "ANALYZE why_session")


def again_for_stacks(rig: Rig, finding: Finding, server: Server, program: Program, streams: Sequence[Stream]) -> None:
    """The same load once more for two seconds, uncounted, because py-spy stops a process to look at it."""
    taken = soon(1.5, finding.take_stacks, server.title, program.pid)
    offer([replace(stream, seconds=2.0, patience=2.0) for stream in streams], rig.cores.load)
    taken.join()


def missing_index(rig: Rig) -> Finding:
    """40 polls a second, while the table of sessions grows; the token has no index."""
    finding, sizes = Finding("index"), (1_000, 100_000, 300_000, 1_000_000)
    sound = Switches(rig.database, rig.outside)
    indexed = Server("indexed", "50 threads, with the index", THREADS.command)
    with contextlib.ExitStack() as stack:
        fill(rig.database, sizes[0])
        up = {
            server.name: stack.enter_context(running(rig, server, sound)) for server in (THREADS, PROCESSES, GATEPOST)
        }
        up["indexed"] = up["threads"]

        def measure(server: Server, rows: int) -> None:
            program, port = up[server.name]
            watched = {"server": program.pid, "database": rig.database_pid}
            polls = poll_stream(port, 40.0, 4.0, patience=5.0)
            found = offer([polls], rig.cores.load, watched)
            finding.add(server, rows, found.outcomes["polls"], found.usage["server"], found.usage["database"])
            if rows == sizes[-1] and server in (THREADS, PROCESSES):
                again_for_stacks(rig, finding, server, program, [polls])

        for rows in sizes:
            fill(rig.database, rows)
            measure(THREADS, rows)
            measure(PROCESSES, rows)
            add_index(rig.database)
            measure(GATEPOST, rows)
        measure(indexed, sizes[-1])
    return finding


def pool_wait(rig: Rig) -> Finding:
    """Fifty threads, fifteen connections, a wait of 30 s for one, and an SMS provider that has stopped answering."""
    finding, seconds = Finding("pool"), 14.0
    fill(rig.database, TOKENS)
    add_index(rig.database)
    hung = Switches(rig.database, rig.outside, provider_ms=60_000, hold=True)
    sound = Switches(
        rig.database, rig.outside, provider_ms=60_000, provider_limit=5.0, pool_wait=1.0, shared_pool=False
    )  # fmt: skip
    for server, switches in ((THREADS, hung), (PROCESSES, hung), (GATEPOST, sound)):
        with running(rig, server, switches) as (program, port):
            sign_ins = Stream(
                "sign-ins",
                port,
                ("/sign-in",),
                3.0,
                seconds - 2.0,
                method="POST",
                begin=2.0,
                patience=1.0,
                expect="welcome",
            )
            in_time(rig, finding, server, program, [poll_stream(port, 20.0, seconds, patience=33.0), sign_ins])
    return finding


def idle_connections(rig: Rig) -> Finding:
    """Polls, and after three seconds browsers that keep their connections open and say nothing."""
    finding = Finding("idle")
    fill(rig.database, TOKENS)
    add_index(rig.database)
    for server, number in ((POOLED, 60), (PROCESSES, 60), (GATEPOST, 2000)):
        with running(rig, server, Switches(rig.database, rig.outside)) as (program, port):
            over = threading.Event()
            opened = soon(3.0, browse, port, number, over)
            in_time(rig, finding, server, program, [poll_stream(port, 20.0, 10.0, patience=5.0)], number)
            over.set()
            opened.join()
    names = ("flask", "waitress", "cheroot", "sync", "gthread", "granian", "a2wsgi", "ours")
    finding.table = [held_by_silence(rig, BY_NAME[name]) for name in names]
    return finding


def in_time(
    rig: Rig, finding: Finding, server: Server, program: Program, streams: Sequence[Stream], x: float = 0
) -> None:
    """One run that is told second by second; the stacks are taken in its last second, when what hangs does hang."""
    watched = {"server": program.pid, "database": rig.database_pid}
    taken = None
    if server is not GATEPOST:
        taken = soon(streams[0].seconds - 0.5, finding.take_stacks, server.title, program.pid)
    found = offer(streams, rig.cores.load, watched)
    if taken is not None:
        taken.join()
    polls = found.outcomes["polls"]
    finding.keep_timeline(server, polls, found.usage["server"])
    finding.add(server, x, polls, found.usage["server"], found.usage["database"])


def browse(port: int, number: int, over: threading.Event) -> None:
    """So many browsers that have their page and keep their connections, until it is over."""
    with connected(port, number):
        over.wait(60)


def held_by_silence(rig: Rig, server: Server) -> dict[str, Any]:
    """How many of 20 pages still come while 100 connections are idle, or have sent half a head."""
    port = free_port()
    settings = common.Settings(rig.database, 30 // server.processes, rig.outside)
    found: dict[str, Any] = {"server": server.title}
    half = b"GET /alive HTTP/1.1\r\nHost: portal.test\r\n"
    pages = Stream("pages", port, ("/alive",), 20.0, 1.0, patience=3.0)
    try:
        with Program(f"probe-{server.name}", server.argv(port), rig.cores.server, answers(port), settings.env()):
            for what, head in (("idle", b""), ("half a head", half)):
                with connected(port, 100, head=head) as sockets:
                    found[f"{what}: connections"] = len(sockets)
                    came = offer([pages], rig.cores.load).outcomes["pages"]
                    found[f"{what}: pages"] = f"{came.right} of {came.offered}"
                    found[f"{what}: longest"] = f"{came.latencies.longest * 1000:.0f} ms" if came.right else "–"
    except NotReady as failure:
        found["not measured"] = str(failure).splitlines()[0]
    say("  " + "  ".join(f"{name} {value}" for name, value in found.items()))
    return found


def convoy(rig: Rig) -> Finding:
    """50 polls a second beside exports that compute: none, one, four at a time."""
    finding = Finding("convoy")
    fill(rig.database, TOKENS)
    add_index(rig.database)
    inside = Switches(rig.database, rig.outside, export_here=True)
    beside = Switches(rig.database, rig.outside)
    in_loop = Server("in-loop", "gevent, in its loop", GATEPOST.command)
    for server, switches in ((THREADS, inside), (PROCESSES, inside), (in_loop, inside), (GATEPOST, beside)):
        with running(rig, server, switches) as (program, port):
            watched = {"server": program.pid, "database": rig.database_pid}
            for at_once in (0, 1, 4):
                polls = poll_stream(port, 50.0, 4.0, patience=4.0)
                exports = Stream("exports", port, ("/export",), 0.0, 4.0, lid=at_once, patience=8.0, closed=True)
                found = offer([polls, exports], rig.cores.load, watched)
                finding.add(server, at_once, found.outcomes["polls"], found.usage["server"], found.usage["database"])
            if server is not GATEPOST:
                again_for_stacks(rig, finding, server, program, [polls, exports])
    return finding


def kept_session(rig: Rig) -> Finding:
    """20 polls a second through ORM sessions that have seen many polls; their history is shared out to the threads."""
    finding, histories = Finding("session"), (0, 40_000, 160_000)
    for history in histories:
        for server, threads in ((EIGHT, 8), (PROCESSES, 50), (GATEPOST, 0)):
            fill(rig.database, TOKENS)
            add_index(rig.database)
            kept = Switches(
                rig.database, rig.outside, kept=bool(threads), sessions=threads // server.processes,
                age=history // (threads or 1),
            )  # fmt: skip
            with running(rig, server, kept) as (program, port):
                watched = {"server": program.pid, "database": rig.database_pid}
                polls = poll_stream(port, 20.0, 4.0, patience=5.0)
                found = offer([polls], rig.cores.load, watched)
                finding.add(server, history, found.outcomes["polls"], found.usage["server"], found.usage["database"])
                if history == histories[-1] and threads:
                    again_for_stacks(rig, finding, server, program, [polls])
    return finding


MECHANISMS: dict[str, Callable[[Rig], Finding]] = {
    "index": missing_index,
    "pool": pool_wait,
    "idle": idle_connections,
    "convoy": convoy,
    "session": kept_session,
}


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """For the file of results."""
    return [asdict(finding) for finding in findings]
