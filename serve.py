"""The process: patch, configure, compose, open the door.

    .venv/bin/python serve.py [--config FILE]

Ends with 0 after SIGTERM or SIGINT, drained; with 1 when it cannot start, or when background work is lost for good.
"""

from gevent import monkey

monkey.patch_all()

from psycogreen.gevent import patch_psycopg

patch_psycopg()

import argparse
import contextlib
import gc
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from portal import __version__, config, logs, operators
from portal.app import Server
from portal.config import Settings
from portal.frontdoor import listen
from portal.jobs import Jobs
from portal.keys import KeysError
from portal.store import Store, Unavailable
from portal.store.embedded import DatabaseNotStarted, Postgres
from portal.store.migrations import migrate

log = logging.getLogger("serve")


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[tuple[str, Postgres | None]]:
    """The URL of a migrated database: the one of the settings, or our own PostgreSQL for as long as the block runs."""
    if settings.database.url:
        migrate(settings.database.url)
        yield settings.database.url, None
        return
    connections = settings.server.workers * settings.database.connections + 10
    postgres = Postgres(settings.state, connections=connections)
    postgres.start()
    try:
        migrate(postgres.url)
        yield postgres.url, postgres
    finally:
        postgres.stop()


def main(arguments: list[str]) -> int:
    """Serve until told to stop. The exit status: 0 after a clean stop, 1 for anything else."""
    parser = argparse.ArgumentParser(prog="serve.py", description="Gatepost: guest Wi-Fi authentication.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: config.toml beside serve.py)")
    parser.add_argument("--version", action="version", version=f"Gatepost {__version__}")
    # How the leader starts a worker: its number, the listening socket, where it says that it answers, and by whom.
    parser.add_argument("--worker", type=int, nargs=4, metavar=("N", "SOCKET", "READY", "PID"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        settings = config.load(options.config)
    except config.Invalid as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    logs.configure(settings.log.level, settings.log.format)
    try:
        if options.worker is not None:
            number, listening, ready, leader = options.worker
            listener = socket.socket(fileno=listening)
            return _work(
                settings, settings.database.url, listener, lambda: os.write(ready, bytes([number])), worker=number,
                leader=leader,
            )  # fmt: skip
        listener = listen(settings.server.host, settings.server.port, settings.server.backlog)
        with database(settings) as (url, postgres):
            if settings.server.workers > 1:
                return _lead(settings, url, postgres, listener, options.config)
            return _work(settings, url, listener, lambda: _welcome(settings, url, listener), postgres)
    except (DatabaseNotStarted, KeysError, Unavailable, ValueError, OSError) as error:
        log.critical("cannot start: %s", error)
        return 1


def _work(
    settings: Settings,
    url: str,
    listener: socket.socket,
    ready: Callable[[], object],
    postgres: Postgres | None = None,
    worker: int = 0,
    leader: int = 0,
) -> int:
    """Answer on the listener until a signal comes, or the `leader` is gone: its successor needs the address."""
    server = Server(settings, url, listener, worker)
    # Before the first loop begins: SIGUSR1 finds greenlets through the collector, which shows nothing that is frozen.
    calm_collector()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stopped.set())
    if postgres is not None:
        server.jobs.keep("postgres", lambda: postgres.supervise(log.error))
    if leader:
        server.jobs.every("leader", 0.5, lambda: None if os.getppid() == leader else server.stopped.set())
    server.start()
    ready()
    server.stopped.wait()
    log.info("stopping")
    server.stop()
    return 1 if server.lost else 0


def calm_collector() -> None:
    """Look for garbage less often, and never again at what is there for good.

    Nearly everything that a request makes dies by itself; several hundred polls at once make 30,000 objects before the
    first of them goes. Measured: a tenth of a poll's time, and a full collection, which stops everybody, is 50 ms
    shorter.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _lead(settings: Settings, url: str, postgres: Postgres | None, listener: socket.socket, file: Path | None) -> int:
    """Hold the listening socket, keep the workers alive, pass signals on.

    A worker that ends is started again, unless none in its place has answered yet: then the server cannot start.
    """
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    asked: list[int] = []
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: asked.append(number))
    ready, tell = os.pipe()
    command = [sys.executable, sys.argv[0], *([] if file is None else ["--config", str(file)]), "--worker"]
    environment = os.environ | {"PORTAL_DATABASE__URL": url}

    def start(number: int) -> subprocess.Popen[bytes]:
        handed = [listener.fileno(), tell]
        return subprocess.Popen([*command, *map(str, (number, *handed, os.getpid()))], env=environment, pass_fds=handed)

    lost: list[str] = []

    def lose(loop: str) -> None:
        log.critical("background work is lost, and the process ends", extra={"loop": loop})
        lost.append(loop)
        stopped.set()

    keeper = Jobs(lose)
    if postgres is not None:
        keeper.keep("postgres", lambda: postgres.supervise(log.error))
    workers = [start(number + 1) for number in range(settings.server.workers)]
    born = [time.monotonic()] * len(workers)
    answering: set[int] = set()  # by number
    proven: set[int] = set()  # in whose place one has answered
    welcomed = False
    while not stopped.wait(0.1):
        # In this order: what a dead one has said is read before it is forgotten, and not taken for its successor's.
        dead = {place + 1 for place, worker in enumerate(workers) if worker.poll() is not None}
        if select.select([ready], [], [], 0)[0]:
            answering.update(os.read(ready, select.PIPE_BUF))
        proven |= answering
        answering -= dead
        # One that was told to stop, perhaps by whoever tells us at this moment, says nothing about how the next fares.
        failed = [n for n in dead - proven if -workers[n - 1].returncode not in (signal.SIGTERM, signal.SIGINT)]
        if failed:
            log.critical("workers cannot start, and the process ends", extra={"workers": sorted(failed)})
            lost.append("workers")
            break
        if not welcomed and len(answering) == len(workers):
            _welcome(settings, url, listener)
            welcomed = True
        while asked:
            # Not to one that is still starting: it has no handlers yet, and would die of it.
            passed = asked.pop(0)
            for answered in answering:
                workers[answered - 1].send_signal(passed)
        for place, worker in enumerate(workers):
            # One that dies young is not started again at once: it would only burn the processor.
            if place + 1 in dead and time.monotonic() - born[place] > 1:
                log.error("a worker ended and is started again", extra={"status": worker.returncode})
                workers[place], born[place] = start(place + 1), time.monotonic()
    listener.close()
    # One that has died by itself and waits to be started again says nothing about how we stop.
    told = [worker for worker in workers if _lives(worker)]
    for worker in told:
        worker.send_signal(signal.SIGTERM)
    statuses = [_ended(worker, settings.server.drain_seconds + 10) for worker in told]
    keeper.stop()
    # One that was told to stop while it was still starting ends by the signal itself.
    ill = sorted(set(statuses) - {0, -signal.SIGTERM})
    if ill:
        log.error("workers did not stop as they were told", extra={"statuses": ill})
    return 1 if lost or ill else 0


def _lives(worker: subprocess.Popen[bytes]) -> bool:
    """Whether a worker still runs. The kernel knows that before the event loop has been told."""
    if sys.platform != "linux":
        return worker.poll() is None
    try:
        return os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _ended(worker: subprocess.Popen[bytes], seconds: float) -> int:
    """The exit status of a worker that was told to stop. One that does not is killed: nobody else could end it."""
    try:
        return worker.wait(seconds)
    except subprocess.TimeoutExpired:
        worker.kill()
        return worker.wait()


def _welcome(settings: Settings, url: str, listener: socket.socket) -> None:
    """Say where we are, and, while there is no operator, with which link the first one is made."""
    host, port = listener.getsockname()[:2]
    shown = settings.server.public_url or f"http://{'localhost' if host in ('0.0.0.0', '::') else host}:{port}"
    log.info("ready", extra={"url": shown, "version": __version__})
    store = Store(url)
    try:
        with store.transaction("jobs", caller="setup link") as db:
            token = operators.setup_link(db, store.database_now("jobs"))
    finally:
        store.dispose()
    if token is not None:
        print("\nNobody runs this installation yet. Open this link to become its owner; it works once, for a day:\n")
        print(f"    {operators.link(shown, 'setup', token)}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
