"""What an operator sees of a live server: its signals and its figures."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.rig.conftest import Venue


def test_a_signal_tells_where_every_loop_waits(venue_on: Callable[..., Venue]) -> None:
    live = venue_on().live
    assert live.process is not None
    os.kill(live.process.pid, signal.SIGUSR1)
    for place in (
        r"portal/ledger\.py:\d+ Ledger\.run",
        r"Postgres\.supervise",
        r"Server\._write_heard",
        r"Jobs\._supervise",
    ):
        live.prints(rf"greenlets.*{place}")
    assert live.stop() == 0
