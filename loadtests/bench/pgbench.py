"""What PostgreSQL alone can commit: the statements of polls, sent by its own load generator, with no server between.

Two kinds. `ROW` updates the session's row, as FastAPI + asyncpg do one by one. The ledger's are the product's own
transaction, as the product sends it: LOCK, WRITE and READ, prepared once on each connection with its planner settings,
run in one message, with so many reports of guests who are online, and counters that grow. No client reports the guests
of another one. The arrays are fetched from a table just before; what the fetching takes is measured by itself.

Promises: a statement that fails ends the run with what pgbench said. pgbench and PostgreSQL share the cores given.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psycopg2

from loadtests import harness
from loadtests.bench.polls import DOWN, UP
from loadtests.bench.rewrite import PLANS, ROW
from portal import ledger
from portal.store.embedded import find_programs

CLIENTS = 16
GUESTS = 10_000
"""Guests whose reports are written, the first ones, at most."""
SIZES = (1, 200)
"""Reports in a transaction of the ledger."""
_REAP_SECONDS = 0.2
BATCHES = """
    CREATE TABLE bench_batch AS
    SELECT CAST((s.id - 1) / %(size)s AS bigint) AS n,
           quote_literal(CAST(array_agg(s.id ORDER BY s.id) AS text)) AS session,
           quote_literal(CAST(array_agg(encode(s.token_hash, 'hex') ORDER BY s.id) AS text)) AS token,
           quote_literal(CAST(array_agg(l.gateway_id ORDER BY s.id) AS text)) AS gateway,
           quote_literal(CAST(array_agg(l.mac ORDER BY s.id) AS text)) AS mac,
           quote_literal(CAST(array_agg(l.ip ORDER BY s.id) AS text)) AS ip
      FROM session s
      JOIN counter_line l ON l.session_id = s.id AND l.current
     WHERE s.id <= %(guests)s AND s.state = 'active'
     GROUP BY 1
    HAVING count(*) = %(size)s;

    ALTER TABLE bench_batch ADD PRIMARY KEY (n)
"""
FETCH = """
    SELECT session, token, gateway, mac, ip,
           quote_literal(CAST(array_fill(CAST(:total * {down} AS bigint), ARRAY[{size}]) AS text)) AS down,
           quote_literal(CAST(array_fill(CAST(:total * {up} AS bigint), ARRAY[{size}]) AS text)) AS up
      FROM bench_batch
     WHERE n = :n \\gset
"""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written with `size` reports in each transaction. `cpu` is PostgreSQL's, in ms for 1,000 reports;
    `fetching` is the part of it that went into getting the arrays, which the product has at hand."""

    says: str
    size: int
    transactions: int
    tps: float
    cpu: float
    fetching: float = 0.0

    @property
    def rate(self) -> float:
        """Reports a second."""
        return self.tps * self.size


@dataclass(frozen=True, slots=True)
class Pgbench:
    """PostgreSQL's load generator, on these CPUs, against this database; `used` says what PostgreSQL has used so far,
    in seconds of CPU."""

    url: str
    cpus: frozenset[int]
    used: Callable[[], float]

    def row(self, seconds: int) -> Written:
        """The session's row alone, of random guests."""
        (guests,) = self._asked("SELECT count(*) FROM session WHERE id <= %(guests)s", {"guests": GUESTS})
        values = {"$1": "(SELECT token_hash FROM session WHERE id = :id)", "$2": ":total", "$3": ":total",
                  "$4": "'10.0.0.1'"}  # fmt: skip
        statement = re.sub(r"\$\d", lambda place: values[place.group()], " ".join(ROW.split()))
        script = [f"\\set id random(1, {guests})", f"\\set total random({DOWN}, {10**6 * DOWN})", f"{statement};"]
        return self.run("FastAPI's statement, the session's row alone", 1, script, seconds, "-M", "prepared")

    def ledger(self, size: int, seconds: int) -> Written:
        """The product's transaction with `size` reports."""
        with self._batches(size) as (batches, total):
            clients = min(CLIENTS, batches)
            each = batches // clients
            # A round for each guest, as with a router; a client's guests are its own.
            choose = ["\\set turn :turn + 1", f"\\set n :client_id * {each} + :turn % {each}",
                      "\\set total :total + 1"]  # fmt: skip
            fetch = " ".join(FETCH.format(size=size, down=DOWN, up=UP).split())
            flags = ["-c", str(clients), "-D", "turn=-1", "-D", "prepared=0", "-D", f"total={total}"]
            settings = " ".join(f"-c {name}={value}" for name, value in PLANS.items())
            says = f"the product's transaction with {size} report{'s' if size > 1 else ''}"
            alone = self.run(says, size, [*choose, fetch], max(1, seconds // 2), *flags, settings=settings)
            prepare = [f"{one.prepare};" for one in ledger.PREPARED]
            script = ["\\if :prepared = 0", *prepare, "\\set prepared 1", "\\endif", *choose, fetch, transaction(size)]
            whole = self.run(says, size, script, seconds, *flags, settings=settings)
        return Written(says, size, whole.transactions, whole.tps, whole.cpu, alone.cpu)

    def run(
        self, says: str, size: int, script: Sequence[str], seconds: int, *flags: str, settings: str = ""
    ) -> Written:
        """What one script wrote, its connections with these settings. Raises NotReady, with pgbench's words, when any
        of its statements failed."""
        env = {**os.environ, "PGOPTIONS": settings}
        command = [str(find_programs() / "pgbench"), "-n", "-c", str(CLIENTS), "-T", str(seconds)]
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file, harness.pinned(self.cpus):
            file.write("\n".join(script) + "\n")
            file.flush()
            before = self.used()
            done = subprocess.run(
                [*command, *flags, "-f", file.name, self.url], capture_output=True, text=True, check=False, env=env
            )
        time.sleep(_REAP_SECONDS)  # until the connections' processes count as ended
        used = self.used() - before
        tps = re.search(r"^tps = ([\d.]+)", done.stdout, re.M)
        made = re.search(r"^number of transactions actually processed: (\d+)", done.stdout, re.M)
        failed = re.search(r"^number of failed transactions: (\d+)", done.stdout, re.M)
        if done.returncode or not tps or not made or not int(made[1]) or (failed and int(failed[1])):
            raise harness.NotReady(f"pgbench failed ({says}):\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
        return Written(says, size, int(made[1]), float(tps[1]), used / (int(made[1]) * size) * 10**6)

    @contextlib.contextmanager
    def _batches(self, size: int) -> Iterator[tuple[int, int]]:
        """A table of arrays, with `size` guests in each row: how many rows, and the most that any guest has reported,
        in steps of `DOWN`."""
        try:
            (batches,) = self._asked(f"{BATCHES}; SELECT count(*) FROM bench_batch", {"size": size, "guests": GUESTS})
            (most,) = self._asked("SELECT COALESCE(max(GREATEST(down / %s, up / %s)), 0) FROM counter_line", (DOWN, UP))
            if not batches:
                raise harness.NotReady(f"there are not {size} guests online in the database")
            yield batches, most
        finally:
            self._asked("DROP TABLE IF EXISTS bench_batch; SELECT 1", {})

    def _asked(self, statement: str, values: dict[str, int] | tuple[int, ...]) -> tuple[int, ...]:
        db = psycopg2.connect(self.url)
        try:
            with db, db.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchone() or ()
        finally:
            db.close()


def transaction(size: int) -> str:
    """The ledger's three statements in one message, with variables of pgbench where the arrays go."""

    def array(value: object) -> str:
        return "'{" + ",".join([str(value)] * size) + "}'"

    same = {
        "logout": array("f"), "repeats": array("f"), "every": array(3600), "rate": array(10**12),
        "burst": str(ledger.BURST_BYTES),
    }  # fmt: skip
    text = " \\; ".join(one.execute for one in ledger.PREPARED) + ";"
    return re.sub(r"%\((\w+)\)s", lambda found: same.get(found[1], f":{found[1]}"), text)


def table(every: Sequence[Written]) -> str:
    """A line for each."""
    lines = [
        "pgbench and PostgreSQL share the load's core; the product's polls have theirs to themselves.",
        "",
        "| pgbench writes | transactions/s | reports/s | PostgreSQL's CPU ms for 1,000 reports | of it to get arrays |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for one in every:
        fetching = f"{one.fetching:.1f}" if one.fetching else ""
        lines.append(f"| {one.says} | {one.tps:,.0f} | {one.rate:,.0f} | {one.cpu:.1f} | {fetching} |")
    return "\n".join(lines)
