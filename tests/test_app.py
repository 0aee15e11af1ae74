"""The whole process in one object, without its loops: what it says of itself."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import gevent
import pytest
from gevent import monkey

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


def test_a_signal_lists_who_holds_a_connection_and_since_when(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(Settings(state_dir=str(tmp_path)), database_url, listen("127.0.0.1", 0))
    try:
        server.diagnostics.start()
        with server.store.read("operators", caller="GET /desk/", seconds=30):
            gevent.sleep(0.05)
            os.kill(os.getpid(), signal.SIGUSR1)
            end = time.monotonic() + 20
            while not (told := [each for each in caplog.records if each.getMessage() == "holds a database connection"]):
                assert time.monotonic() < end
                gevent.sleep(0.01)
        assert (told[0].pool, told[0].caller) == ("operators", "GET /desk/")
        assert told[0].seconds >= 0.05
    finally:
        server.stop()


def test_the_loop_goes_on_while_a_slow_disk_takes_the_metrics_of_a_worker(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, sleep = Path.rename, monkey.get_original("time", "sleep")

    def slowly(path: Path, target: Path) -> Path:
        sleep(0.5)
        return rename(path, target)

    server = Server(Settings(state_dir=str(tmp_path)), database_url, listen("127.0.0.1", 0), worker=3)
    monkeypatch.setattr(Path, "rename", slowly)
    try:
        writing = gevent.spawn(server._publish)
        turns = 0
        while not writing.ready():
            gevent.sleep(0.01)
            turns += 1
        writing.get()
        assert turns > 10
        assert b"gatepost_sockets" in (tmp_path / "metrics/3.prom").read_bytes()
    finally:
        server.stop()


def test_metrics_that_cannot_be_written_are_told(database_url: str, tmp_path: Path) -> None:
    server = Server(Settings(state_dir=str(tmp_path)), database_url, listen("127.0.0.1", 0), worker=1)
    try:
        (tmp_path / "metrics").write_text("in the way")
        with pytest.raises(FileExistsError):
            server._publish()
    finally:
        server.stop()
