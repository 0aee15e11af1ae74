"""A real server for the journeys: `serve.py` in a process of its own, with its own database, keys and log.

What operators prepare is prepared through the nouns here, since the command line and the desk have tests of their own.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from portal import gateways, networks, vouchers
from portal.keys import Keyring
from portal.store import Store, sql
from portal.store.embedded import Postgres

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"ready.*?url[=\":\s]+(https?://[^\s\"]+)")


class Live:
    """One installation: a state directory, and the server that runs on it (or does not, for a while)."""

    def __init__(self, directory: Path, database_url: str = "", **settings: str) -> None:
        self.directory = directory
        self.state = directory / "state"
        self._database_url = database_url
        self._settings = {f"PORTAL_{name.upper()}": value for name, value in settings.items()}
        self._store: Store | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.port = 0

    # -- its life

    def start(self) -> None:
        """Start `serve.py` and wait until it says that it is ready. Keeps its port from the first start on."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        environment |= self._settings | {
            "PORTAL_STATE_DIR": str(self.state),
            "PORTAL_DATABASE__URL": self._database_url,
            "PORTAL_SERVER__HOST": "127.0.0.1",
            "PORTAL_SERVER__PORT": str(self.port),
        }
        with self.log.open("ab") as log:
            begins = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "serve.py")], stdout=log, stderr=log, env=environment, cwd=self.directory
            )
        end = time.monotonic() + 60
        while (ready := READY.search(self.said(begins))) is None:
            assert self.process.poll() is None, f"serve.py ended with {self.process.returncode}: {self.said(begins)}"
            assert time.monotonic() < end, f"serve.py is not ready: {self.said(begins)}"
            time.sleep(0.02)
        # With a public URL the port is not told: whoever sets one has chosen it.
        self.port = self.port or int(ready.group(1).rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        self._forget_store()
        return status

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._forget_store()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self._forget_store()

    def _forget_store(self) -> None:
        if self._store is not None:
            self._store.dispose()
            self._store = None

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def said(self, begins: int = 0) -> str:
        """The log, from a position on."""
        return self.log.read_bytes()[begins:].decode(errors="replace")

    def prints(self, pattern: str) -> str:
        """What of its log matches first, once it does."""
        end = time.monotonic() + 10
        while (found := re.search(pattern, self.said())) is None:
            assert time.monotonic() < end, f"{pattern} is not printed: {self.said()}"
            time.sleep(0.02)
        return found[0]

    # -- its database

    @property
    def database_url(self) -> str:
        return self._database_url or Postgres(self.state).url

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = Store(self.database_url)
        return self._store

    @property
    def keyring(self) -> Keyring:
        return Keyring.load_or_create(self.state)

    def one(self, statement: str, **values: Any) -> Any:
        with self.store.read() as db:
            return db.execute(sql("test.one", statement), values).one()

    def change(self, statement: str, **values: Any) -> None:
        with self.store.transaction() as db:
            db.execute(sql("test.change", statement), values)

    def database_processes(self) -> list[int]:
        """The embedded PostgreSQL's processes, the first of them the one that starts the others."""
        master = int((self.state / "postgres/data/postmaster.pid").read_text().split("\n", 1)[0])
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [master, *map(int, children)]

    @contextlib.contextmanager
    def stalled_database(self) -> Iterator[None]:
        """Stop every process of the database where it stands: connections stay open, and nothing answers."""
        stopped = self.database_processes()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    # -- what an operator prepares

    def network(self, slug: str = "linde", name: str = "Hotel Linde", **changes: Any) -> networks.Network:
        with self.store.transaction() as db:
            made = networks.add(db, slug, name, self.store.database_now(), time_zone="Europe/Berlin", language="en")
            return networks.edit(db, made.id, **changes) if changes else made

    def gateway(self, network: networks.Network, gw_id: str, port: int, **facts: Any) -> gateways.Gateway:
        with self.store.transaction() as db:
            now = self.store.database_now()
            return gateways.add(db, network.id, gw_id, now, address=f"127.0.0.1:{port}", interval_seconds=1, **facts)

    def plan(self, network: networks.Network, name: str = "Three hours", **terms: Any) -> networks.Plan:
        with self.store.transaction() as db:
            return networks.add_plan(db, network.id, networks.terms(name, **terms), self.store.database_now())

    def codes(self, plan: networks.Plan, count: int = 1) -> list[str]:
        with self.store.transaction() as db:
            _, codes = vouchers.issue(db, self.keyring, plan, count, self.store.database_now())
            return codes

    def charged(self, network: networks.Network | None = None) -> tuple[int, int]:
        """Bytes down and up, over all grants, or one network's; the sums over sessions and lines must say the same."""
        row = self.one(
            """
            SELECT (SELECT COALESCE(SUM(used_down), 0) FROM "grant" WHERE network_id = ANY(:ids)),
                   (SELECT COALESCE(SUM(used_up), 0) FROM "grant" WHERE network_id = ANY(:ids)),
                   (SELECT COALESCE(SUM(used_down), 0) FROM session WHERE network_id = ANY(:ids)),
                   (SELECT COALESCE(SUM(used_up), 0) FROM session WHERE network_id = ANY(:ids)),
                   (SELECT COALESCE(SUM(l.charged_down), 0) FROM counter_line l
                      JOIN gateway g ON g.id = l.gateway_id WHERE g.network_id = ANY(:ids)),
                   (SELECT COALESCE(SUM(l.charged_up), 0) FROM counter_line l
                      JOIN gateway g ON g.id = l.gateway_id WHERE g.network_id = ANY(:ids))
            """,
            ids=[network.id] if network else self._network_ids(),
        )
        assert tuple(row[:2]) == tuple(row[2:4]) == tuple(row[4:]), f"the books disagree: {tuple(row)}"
        return int(row[0]), int(row[1])

    def _network_ids(self) -> list[int]:
        with self.store.read() as db:
            return [network.id for network in networks.listed(db)]


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
