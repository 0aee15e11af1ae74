"""`python -m portal demo`, as somebody who has just found the project tries it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from portal.__main__ import main
from tests.journeys.conftest import short_path
from tests.journeys.house import PATIENCE_MS
from tests.journeys.live import ROOT, free_port


class Demo:
    """A running demo, and what it has printed."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._out = directory / f"demo-{time.monotonic_ns()}.out"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "portal", "demo", *arguments],
                stdout=out,
                stderr=out,
                env=environment | {"PORTAL_STATE_DIR": str(directory / "state")},
                cwd=ROOT,
            )

    @property
    def said(self) -> str:
        return self._out.read_text()

    def says(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """The first match in what it prints, once it is there."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.said, re.MULTILINE)) is None:
            assert self.process.poll() is None, f"the demo ended with {self.process.returncode}: {self.said}"
            assert time.monotonic() < end, f"{pattern} is not printed: {self.said}"
            time.sleep(0.02)
        return found

    def ends(self, number: int) -> int:
        """Its exit status after this signal."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def server(self) -> int:
        """The process id of its server."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if b"serve.py" in Path(f"/proc/{pid}/cmdline").read_bytes())


@pytest.fixture
def ports() -> list[str]:
    return ["--port", str(free_port()), "--gateway-port", str(free_port())]


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    """The second demo finds what the first has left, as on anybody's machine."""
    with short_path() as path:
        yield path


@pytest.fixture
def demo(state: Path, ports: list[str]) -> Iterator[Demo]:
    running = Demo(state, *ports)
    yield running
    if running.process.poll() is None:
        running.ends(signal.SIGTERM)


def test_the_demo_shows_a_guest_getting_online_and_every_byte_of_his(
    demo: Demo, ports: list[str], browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    caught = demo.says(r"http://127\.0\.0\.1:\d+/(?=  )")[0]
    assert caught == f"http://127.0.0.1:{ports[3]}/"
    code = demo.says(r"a code +(\S{4}-\S{4}-\S{4})")[1]
    assert f"http://127.0.0.1:{ports[1]}/setup/" in demo.said
    context = browser.new_context(java_script_enabled=False, locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(caught)
    assert "Hotel Linde" in page.inner_text("body")
    page.get_by_label("Your code").fill(code)
    page.get_by_role("button", name="Connect", exact=True).click()
    assert page.inner_text("h1").strip() == "You are online"
    demo.says(r"^browser +\S+ +known")
    context.close()

    assert main(["demo", *ports]) == 1
    assert f"port {ports[1]} is taken" in capsys.readouterr().err

    demo.says(r"^browser +\S+ +known +[\d,]{6,} +\d+ +[\d,]{6,} +[\d,]{6,} +\+0$")
    assert demo.ends(signal.SIGINT) == 0
    totals = demo.said.rpartition("totals\n")[2].splitlines()
    rows = {row.split()[0]: row.split() for row in totals[1:] if row}
    for name in ("browser", "laptop", "tablet"):
        _, _, access, _, _, reported, charged, too_much = rows[name]
        assert access == "none", "logged out at the end"
        assert (charged, too_much) == (reported, "+0")
        assert int(charged.replace(",", "")) > 100_000
    with socket.create_server(("127.0.0.1", int(ports[1]))):
        pass  # nothing of it is left behind


def test_a_demo_whose_server_dies_does_not_end_as_a_success(demo: Demo) -> None:
    demo.says("Ctrl-C ends it")
    os.kill(demo.server(), signal.SIGKILL)
    assert demo.process.wait(60) == 1
    assert "the server has ended" in demo.said
