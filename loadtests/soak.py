"""`make soak`: half an hour of steady polls, and whether anything grows: tables, indexes, memory, open files.

    python -m loadtests.soak [--minutes 30] [--rate 500] [--online 10000]

Polls change the same rows again and again. They stay cheap only as long as each change finds room on its own page (a
heap-only update) and no index grows with it. A row a minute; the exit status is 1 when the end is a tenth larger than
the state after a sixth of the time.
"""

from __future__ import annotations

import argparse
import datetime
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from loadtests import harness, seed
from loadtests.harness import (
    OUT,
    ROOT,
    Program,
    Run,
    answers,
    cost,
    database,
    free_port,
    header,
    save,
    say,
    split_cores,
)
from loadtests.workload import Latencies
from portal.keys import Keyring
from portal.store.migrations import migrate

SIZES = """
    SELECT sum(pg_relation_size(c.oid)) FILTER (WHERE c.relkind = 'r') / 1e6,
           sum(pg_relation_size(c.oid)) FILTER (WHERE c.relkind = 'i') / 1e6
      FROM pg_class c
      LEFT JOIN pg_index i ON i.indexrelid = c.oid
     WHERE COALESCE(i.indrelid, c.oid) IN ('session'::regclass, 'counter_line'::regclass, '"grant"'::regclass)
"""
UPDATES = """
    SELECT sum(n_tup_upd), sum(n_tup_hot_upd) FROM pg_stat_user_tables
     WHERE relname IN ('session', 'counter_line', 'grant')
"""
SENDERS = 8


@dataclass
class Minute:
    """What stood at the end of a minute. Sizes in MB."""

    minute: int
    polls: int
    errors: int
    p99_ms: float
    tables: float
    indexes: float
    hot: float
    memory: float
    files: int


class Steady:
    """Polls at a fixed rate, in turn over all guests; latency counts from the moment each was due."""

    def __init__(self, port: int, guests: list[seed.Guest], rate: float, first: int = 0) -> None:
        """`first` is how often each guest has been polled before, at most, since counters only grow."""
        self._port, self._guests, self._rate, self._first = port, guests, rate, first
        self._lock = threading.Lock()
        self._number = 0
        self._over = False
        self._began = time.monotonic()
        self.polls = self.errors = 0
        self.latencies = Latencies()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while not self._over:
            with self._lock:
                number = self._number
                self._number += 1
            due = self._began + number / self._rate
            time.sleep(max(0.0, due - time.monotonic()))
            good = self._poll(*divmod(number, len(self._guests)))
            with self._lock:
                self.polls += good
                self.errors += not good
                self.latencies.add(time.monotonic() - due)

    def _poll(self, turn: int, number: int) -> bool:
        guest, turn = self._guests[number], turn + self._first + 1
        request = (
            f"GET /auth/?k={guest.key}&stage=counters&ip={guest.ip}&mac={guest.mac}&token={guest.token}"
            f"&incoming={turn * 1000}&outgoing={turn * 100}&gw_id={guest.gw_id} HTTP/1.0\r\n\r\n"
        )
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=10) as connection:
                connection.sendall(request.encode())
                answer = b""
                while chunk := connection.recv(4096):
                    answer += chunk
        except OSError:
            return False
        return answer.endswith(b"Auth: 1\n")

    def taken(self) -> tuple[int, int, Latencies]:
        """What has been counted since the last time."""
        with self._lock:
            counted = self.polls, self.errors, self.latencies
            self.polls = self.errors = 0
            self.latencies = Latencies()
        return counted

    def stop(self) -> None:
        self._over = True
        for thread in self._threads:
            thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--rate", type=float, default=500.0, help="polls a second")
    parser.add_argument("--online", type=int, default=10_000, help="guests online")
    options = parser.parse_args()
    harness.end_on_sigterm()
    began = datetime.datetime.now(datetime.UTC)
    run = Run(f"python -m loadtests.soak {' '.join(sys.argv[1:])}".strip())
    cores = split_cores()
    state = OUT / "state-soak"
    minutes: list[Minute] = []
    with database("soak", cores.load, 60) as postgres:
        migrate(postgres.url)
        guests = seed.town(postgres.superuser_url, Keyring.load_or_create(state), online=options.online, ended=0)
        port = free_port()
        settings = {"STATE_DIR": str(state), "DATABASE__URL": postgres.url, "SERVER__HOST": "127.0.0.1"}
        env = {f"PORTAL_{name}": value for name, value in settings.items()} | {"PORTAL_SERVER__PORT": str(port)}
        serve = Program("soak", [sys.executable, str(ROOT / "serve.py")], cores.server, answers(port, "/readyz"), env)
        with serve:
            steady = Steady(port, guests, options.rate)
            say("min   polls  errors   p99 ms   tables MB   indexes MB   HOT %   memory MB   files")
            for number in range(1, options.minutes + 1):
                time.sleep(60)
                minutes.append(look(number, postgres.superuser_url, serve.pid, steady.taken()))
                m = minutes[-1]
                say(
                    f"{m.minute:3} {m.polls:7} {m.errors:7} {m.p99_ms:8.1f} {m.tables:11.1f} {m.indexes:12.1f} "
                    f"{m.hot:7.1f} {m.memory:11.1f} {m.files:7}"
                )
            steady.stop()
    facts = run.facts()
    say(header(facts))
    grown = growth(minutes)
    say("flat" if not grown else f"GROWN: {', '.join(grown)}")
    save("soak", {**facts, "minutes": [vars(minute) for minute in minutes], "grown": grown}, began)
    return 1 if grown or any(minute.errors for minute in minutes) else 0


def look(number: int, url: str, pid: int, counted: tuple[int, int, Latencies]) -> Minute:
    """What stands at the end of a minute."""
    db = psycopg2.connect(url)
    try:
        with db, db.cursor() as cursor:
            cursor.execute(SIZES)
            tables, indexes = cursor.fetchone()
            cursor.execute(UPDATES)
            updates, hot = cursor.fetchone()
    finally:
        db.close()
    polls, errors, latencies = counted
    return Minute(
        minute=number,
        polls=polls,
        errors=errors,
        p99_ms=(latencies.percentile(0.99) or 0.0) * 1000,
        tables=float(tables),
        indexes=float(indexes),
        hot=100.0 * float(hot) / float(updates or 1),
        memory=cost(pid).rss / 1e6,
        files=len(list(Path(f"/proc/{pid}/fd").iterdir())),
    )


def growth(minutes: list[Minute]) -> list[str]:
    """What is more than a tenth larger at the end than after a sixth of the time; empty when all is flat."""
    settled, last = minutes[len(minutes) // 6], minutes[-1]
    measured: dict[str, tuple[Any, Any]] = {
        "tables": (settled.tables, last.tables),
        "indexes": (settled.indexes, last.indexes),
        "memory": (settled.memory, last.memory),
        "files": (settled.files + 10, last.files),
    }
    return [f"{name} {then:.1f} → {now:.1f}" for name, (then, now) in measured.items() if now > then * 1.1]


if __name__ == "__main__":
    sys.exit(main())
