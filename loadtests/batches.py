"""What one batch of the ledger asks of PostgreSQL: CPU, time, and bytes of WAL, by the number of reports in it.

    python -m loadtests.scale --measure [--keep]

Promises: reports go through portal.ledger on a scratch database with the product's own settings, removed afterwards;
guests are reported in an order that has nothing to do with where their rows are. A pass right after a checkpoint shows
what full-page images add. Of several rounds the one counts that took the least CPU: whatever else the machine does only
adds. Measures no server: the worker's own CPU is that of `make bench`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gevent
import psycopg2
import psycopg2.extensions

from loadtests import harness, seed
from loadtests.harness import OUT, Run, database, header, save, say
from portal.keys import Keyring
from portal.ledger import Entry, Ledger
from portal.store import Store
from portal.store.migrations import migrate

GUESTS = 10_000
SIZES = (1, 10, 100, 1000)
ROUNDS = 5
PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches of one size: how many, and for each report in them bytes of WAL; for each batch, seconds."""

    size: int
    batches: int
    wal_bytes: float
    images: int
    """Full-page images among the WAL."""
    cpu: float
    """PostgreSQL's, of all its processes."""
    wall: float
    """From the moment the ledger began with it to its end, with the worker's own part of it."""


def measure(keep: bool) -> int:
    """Measures, prints, and with `keep` writes loadtests/results/scale-DATE.json."""
    cores = harness.split_cores()
    run = Run("python -m loadtests.scale --measure" + (" --keep" if keep else ""), cores)
    with database("scale", cores.load, 20) as postgres, harness.pinned(cores.server):
        migrate(postgres.url)
        state = OUT / "scale-state"
        state.mkdir(parents=True, exist_ok=True)
        keyring = Keyring.load_or_create(state)
        guests = seed.town(postgres.superuser_url, keyring, online=GUESTS, ended=0)
        entries = reports(keyring, guests)
        store = Store(postgres.url)
        superuser = psycopg2.connect(postgres.superuser_url)
        superuser.autocommit = True
        try:
            found = passes(store, superuser, postgres.pid, entries)
        finally:
            superuser.close()
            store.dispose()
        facts = run.facts([postgres.pid])
    say(header(facts))
    say(table(found))
    if keep:
        document = {**facts, "guests": GUESTS, "after a checkpoint": asdict(found[0])}
        path = save("scale", {**document, "batches": [asdict(one) for one in found[1:]]}, run.began)
        say(f"kept in {path}")
    return 0


def reports(keyring: Keyring, guests: Sequence[seed.Guest]) -> list[Entry]:
    """A report for each of the guests of a seeded town, in an order that is the same each time."""
    entries = [
        Entry(
            keyring.token_hash(guest.token).hex(), number // seed.GUESTS_EACH + 1, guest.mac, guest.ip, 0, 0,
            False, False, 3600, seed.LINK,
        )
        for number, guest in enumerate(guests)
    ]  # fmt: skip
    random.Random(7).shuffle(entries)  # noqa: S311
    return entries


def passes(
    store: Store, superuser: psycopg2.extensions.connection, pid: int, entries: Sequence[Entry]
) -> list[Batches]:
    """The pass after a checkpoint, in large batches, then the best for each size."""
    ledger = Ledger(store, deadline_s=PATIENCE, attempt_s=PATIENCE)
    writer = gevent.spawn(ledger.run)
    down = 0

    def one(size: int, reports: int) -> Batches:
        nonlocal down
        down += 1_000_000
        before = state(superuser, pid)
        batches, waited = ledger.batches, 0.0
        for start in range(0, reports, size):
            for entry in entries[start : start + size]:
                ledger.enter(entry._replace(down=down, up=down // 10))
            gevent.sleep(0)  # the ledger begins when it is let, and writes without letting go: nothing here is patched
            if left := ledger.drain(PATIENCE):
                raise RuntimeError(f"{left} reports are not written after {PATIENCE:g} s")
            waited += ledger.last_commit_s
        after = state(superuser, pid)
        batches = ledger.batches - batches
        return Batches(
            size, batches, (after["wal"] - before["wal"]) / reports, after["images"] - before["images"],
            (after["cpu"] - before["cpu"]) / batches, waited / batches,
        )  # fmt: skip

    try:
        one(SIZES[-1], len(entries))  # the ledger gets to know every session, every page some room
        with superuser.cursor() as cursor:
            cursor.execute("CHECKPOINT")
        first = one(SIZES[-1], len(entries))
        rounds = [[one(size, min(len(entries), 500 * size)) for size in SIZES] for _ in range(ROUNDS)]
    finally:
        writer.kill()
    return [first, *(min(same, key=lambda pass_: pass_.cpu) for same in zip(*rounds, strict=True))]


def state(superuser: psycopg2.extensions.connection, pid: int) -> dict[str, Any]:
    """How far the WAL is, how many full-page images it has had, and the CPU that PostgreSQL has used."""
    with superuser.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT pg_current_wal_lsn() - '0/0', wal_fpi FROM pg_stat_wal")
        row = cursor.fetchone()
    if row is None:
        raise RuntimeError("pg_stat_wal has no row")
    return {"wal": float(row[0]), "images": row[1], "cpu": harness.cpu_seconds(harness.tree(pid))}


def table(found: Sequence[Batches]) -> str:
    """The passes, as lines; the first is the one after a checkpoint."""
    lines = ["reports in a batch   batches   WAL bytes a report   full-page images   CPU ms a batch   ms a batch"]
    for number, one in enumerate(found):
        lines.append(
            f"{one.size:18,} {one.batches:9,} {one.wal_bytes:20,.0f} {one.images:18,} {one.cpu * 1000:16.2f} "
            f"{one.wall * 1000:12.2f}" + ("   after a checkpoint" if number == 0 else "")
        )
    return "\n".join(lines)
