"""What an operator sees of a live server: its signals, its figures and its database's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import gevent

from portal.frontdoor import Reason
from tests.frontdoor.wire import until
from tests.rig.conftest import Venue
from tests.rig.test_faults import workers_of

MONITORING = Path(__file__).parents[2] / "docs/monitoring"


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


def test_what_alerts_count_is_there_before_the_first_time(venue_on: Callable[..., Venue]) -> None:
    live = venue_on().live
    with urlopen(f"{live.url}/metrics", timeout=5) as answer:
        shown = answer.read().decode()
    counted = set(re.findall(r"increase\((\w+)", (MONITORING / "alerts.yml").read_text()))
    assert "gatepost_refused_total" in counted
    for name in counted:
        assert re.search(rf"^{name}[{{ ]", shown, re.MULTILINE), f"{name} has no figure, so its first burst is not seen"
    for reason in Reason:
        assert f'gatepost_refused_total{{reason="{reason.value}"}} 0.0\n' in shown
    assert live.stop() == 0


def test_the_documented_command_names_the_slow_statements(venue_on: Callable[..., Venue]) -> None:
    live = venue_on().live
    (command,) = re.findall(r"^```sh\n(.*?)^```", (MONITORING / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    here = os.environ | {"PORTAL_STATE_DIR": str(live.state), "PORTAL_DATABASE__URL": ""}
    there = {"env": here, "cwd": MONITORING.parents[1], "text": True, "capture_output": True, "check": False}
    done = subprocess.run(["sh", "-c", command.replace(".venv/bin/python", sys.executable)], **there)
    assert done.returncode == 0, done.stderr
    heading, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert heading == ["calls", "mean ms", "max ms", "name"]
    assert rows
    assert all(re.fullmatch(r"[a-z_]+\.[a-z_]+", name) for *_, name in rows)
    assert live.stop() == 0


def test_signals_to_the_leader_reach_every_worker_that_answers_and_kill_nobody(venue_on: Callable[..., Venue]) -> None:
    live = venue_on(server__workers="2").live
    assert live.process is not None
    leader = live.process.pid
    first = workers_of(leader)
    os.kill(leader, signal.SIGUSR1)
    for worker in first:
        live.prints(rf"greenlets.*pid={worker} .*Ledger\.run")
    os.kill(first[0], signal.SIGKILL)
    until(lambda: first[0] not in workers_of(leader) and len(workers_of(leader)) == 2, "a successor", 15)
    (new,) = set(workers_of(leader)) - {first[1]}

    def answers() -> bool:
        assert Path(f"/proc/{new}").exists(), "one that was still starting died of the signal"
        os.kill(leader, signal.SIGUSR1)
        gevent.sleep(0.1)
        return re.search(rf"greenlets.*pid={new} ", live.said()) is not None

    until(answers, "the successor is asked too", 15)
    assert set(workers_of(leader)) == {new, first[1]}
    assert live.said().count(" ready  url=") == 1
    assert live.stop() == 0
