"""Several workers behind one listening socket: what becomes of them when something dies."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.journeys.live import Live


def children(pid: int) -> list[int]:
    """The workers of a leader."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for each in map(int, found) if b"--worker" in Path(f"/proc/{each}/cmdline").read_bytes()]


def ended(pid: int) -> bool:
    """Whether a process is over; one whose parent has not asked for its status yet is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_dead_worker_is_replaced_and_workers_without_a_leader_make_room(database_url: str, tmp_path: Path) -> None:
    live = Live(tmp_path, database_url, server__workers="2")
    live.start()
    try:
        assert live.process is not None
        leader = live.process.pid
        first, second = children(leader)
        os.kill(first, signal.SIGKILL)
        until = time.monotonic() + 30
        while len(now := children(leader)) < 2 or first in now:
            assert time.monotonic() < until, "the dead worker is not replaced"
            time.sleep(0.05)
        assert second in now
        live.kill()
        until = time.monotonic() + 30
        while not all(ended(worker) for worker in now):
            assert time.monotonic() < until, "workers outlive their leader"
            time.sleep(0.05)
        live.start()
        assert live.stop() == 0
    finally:
        live.close()
