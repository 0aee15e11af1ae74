"""The whole process in one object, without its loops: what it says of itself."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from portal.app import READY_SECONDS, Server
from portal.config import Settings
from portal.frontdoor import listen


def test_a_probe_is_answered_soon_while_every_connection_is_held(database_url: str, tmp_path: Path) -> None:
    server = Server(Settings(state_dir=str(tmp_path)), database_url, listen("127.0.0.1", 0))
    try:
        assert server.wrong() == {}
        with contextlib.ExitStack() as held:
            for _ in range(server.settings.database.jobs):
                held.enter_context(server.store.read("jobs"))
            begun = time.monotonic()
            assert list(server.wrong()) == ["database"]
            assert time.monotonic() - begun < READY_SECONDS + 1
    finally:
        server.stop()
