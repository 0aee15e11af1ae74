"""Nothing that runs in the background may fail in silence, or end as a success when it did not."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from portal.emulator import Gateway, Machine
from portal.emulator.__main__ import main
from portal.emulator.console import Console, charged_by, render
from portal.emulator.crowd import Appetite, Crowd
from portal.emulator.door import Door
from portal.emulator.loops import Loop
from tests.emulator.conftest import OK, AuthServer, Clock, Make

ROOT = Path(__file__).parent.parent.parent


def eventually(what: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
    return what()


@contextmanager
def running(work: Callable[[], None], alarms: list[str], *, patience: int = 8) -> Iterator[Loop]:
    loop = Loop("test", work, pause=0.01, alarm=alarms.append, backoff=0.01, longest=0.02, patience=patience)
    loop.start()
    try:
        yield loop
    finally:
        loop.stop()
        loop.join(2)


def test_a_loop_that_fails_raises_an_alarm_and_goes_on() -> None:
    alarms: list[str] = []
    runs: list[bool] = []

    def work() -> None:
        runs.append(True)
        if len(runs) in (2, 3):
            raise RuntimeError("broken")

    with running(work, alarms) as loop:
        assert eventually(lambda: len(runs) > 5)
        assert loop.healthy
    assert alarms == [
        "the test loop failed (RuntimeError), 1 in a row",
        "the test loop failed (RuntimeError), 2 in a row",
    ]


def test_a_loop_that_fails_now_is_not_healthy_even_when_it_is_stopped() -> None:
    alarms: list[str] = []

    def work() -> None:
        raise RuntimeError("broken")

    with running(work, alarms) as loop:
        assert eventually(lambda: bool(alarms))
        assert not loop.healthy
    assert not loop.healthy
    assert not loop.dead


def test_a_loop_gives_up_after_too_many_failures_and_says_so() -> None:
    alarms: list[str] = []

    def work() -> None:
        raise RuntimeError("broken")

    with running(work, alarms, patience=3) as loop:
        assert eventually(lambda: loop.dead)
        assert eventually(lambda: alarms[-1] == "the test loop has ended")
        assert len(alarms) == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_torn_down_by_something_that_is_no_error_is_dead_all_the_same() -> None:
    alarms: list[str] = []
    with running(sys.exit, alarms) as loop:
        assert eventually(lambda: alarms == ["the test loop has ended"])
        assert loop.dead
        assert not loop.healthy


def test_a_stopped_loop_is_well() -> None:
    alarms: list[str] = []
    with running(lambda: None, alarms) as loop:
        assert loop.healthy
    assert loop.healthy
    assert alarms == []


# --- the gateway's own loops ---


def test_a_gateway_pings_at_once_and_polls_on_its_interval(make: Make, server: AuthServer) -> None:
    gateway = make(start=False, interval=0.05, clock=time.monotonic)
    gateway.start()
    gateway.guest("phone").present("T")
    assert eventually(lambda: len(server.seen("counters")) >= 3)
    assert sum(b"/ping/" in request for request in server.requests) >= 2
    assert gateway.failing() == []
    gateway.stop()
    count = len(server.requests)
    time.sleep(0.15)
    assert len(server.requests) == count


def test_a_restart_goes_on_with_new_loops(make: Make, server: AuthServer) -> None:
    gateway = make(start=False, interval=0.05, clock=time.monotonic)
    gateway.start()
    gateway.restart()
    gateway.guest("phone").present("T")
    assert eventually(lambda: len(server.seen("counters")) >= 2)
    assert gateway.failing() == []


def test_a_ping_that_breaks_is_an_alarm_and_polls_go_on(make: Make, server: AuthServer) -> None:
    calls: list[bool] = []

    def broken() -> Machine:
        calls.append(True)
        if len(calls) > 1:
            raise RuntimeError("no /proc")
        return Machine(1, 1, 1.0)

    alarms: list[str] = []
    gateway = make(
        start=False, interval=0.05, clock=time.monotonic, machine=broken, backoff=0.01, on_alarm=alarms.append
    )
    gateway.start()
    gateway.guest("phone").present("T")
    assert eventually(lambda: "the ping loop failed (RuntimeError), 2 in a row" in alarms)
    assert gateway.failing() == ["ping"]
    polls = len(server.seen("counters"))
    assert eventually(lambda: len(server.seen("counters")) > polls)


def test_a_gateway_that_cannot_be_is_refused_with_what_was_expected(server: AuthServer) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"gw_id": ""}, "without blanks"),
        ({"gw_id": "a b"}, "without blanks"),
        ({"interval": 0}, "more than 0"),
        ({"client_timeout": 0}, "more than 0"),
        ({"port": 70000}, "0 to 65535"),
        ({"server": []}, "at least one"),
    ]
    for options, message in cases:
        given: dict[str, Any] = {"server": server.url, "gw_id": "gw-1", **options}
        with pytest.raises(ValueError, match=message):
            Gateway(**given)


def test_a_door_whose_answer_breaks_raises_an_alarm_and_stays_open() -> None:
    alarms: list[str] = []

    def serve(connection: socket.socket, source: str) -> None:
        if connection.recv(10) == b"bad":
            raise RuntimeError("broken")
        connection.sendall(source.encode())

    opened = Door("web", serve, alarms.append)
    port = opened.open("127.0.0.1", 0)
    loop = Loop("web", opened.accept, pause=0.0, alarm=alarms.append)
    loop.start()

    def say(what: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(what)
            return connection.recv(100)

    assert say(b"bad") == b""
    assert say(b"good") == b"127.0.0.1"
    loop.stop()
    opened.close()
    loop.join(2)
    assert alarms == ["the web door failed (RuntimeError)"]


# --- the console ---


def table(text: str) -> dict[str, list[str]]:
    """The last table printed, by the guest's name."""
    rows = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    starts = [position for position, row in enumerate(rows) if row[0] == "guest"]
    return {row[0]: row[1:] for row in rows[starts[-1] + 1 :]}


def test_the_table_shows_transferred_reported_and_charged(make: Make) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    guest.present("T")
    guest.download(1_000_000)
    gateway.cycle()
    guest.download(234)
    shown = table(render(gateway, {guest.mac: 999_000}, asked=True))
    assert shown["phone"] == [guest.ip, "known", "1,000,234", "96", "1,000,000", "999,000", "-1,000"]
    assert shown["all"] == ["1,000,234", "96", "1,000,000", "999,000", "-1,000"]
    assert table(render(gateway, None, asked=True))["phone"][-2:] == ["?", "?"]
    assert table(render(gateway, None, asked=False))["phone"][-1] == "1,000,000"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_events_scroll_by_above_the_table(make: Make) -> None:
    gateway = make()
    out = Terminal()
    console = Console(out, every=0.01)
    waits = iter([False, True])

    def wait(_: float) -> bool:
        if not (over := next(waits)):
            console.event("something happened")
        return over

    assert console.run(gateway, wait) == 0
    assert "\x1b[3F\x1b[Jsomething happened\n" in out.getvalue()
    assert "totals\n" in out.getvalue()


def test_a_run_whose_loops_are_well_ends_with_0_and_the_totals(make: Make) -> None:
    gateway = make(start=False, interval=0.05, clock=time.monotonic)
    gateway.start()
    out = io.StringIO()
    assert Console(out).run(gateway, lambda _: True) == 0
    assert table(out.getvalue())["all"] == ["0", "0", "0"]


def test_a_run_with_a_failing_loop_ends_with_1(make: Make) -> None:
    alarms = threading.Event()

    def broken() -> Machine:
        raise RuntimeError("no /proc")

    out = io.StringIO()
    console = Console(out)
    gateway = make(start=False, interval=0.05, machine=broken, on_alarm=lambda _: alarms.set())
    gateway.start()
    assert alarms.wait(5)
    assert console.run(gateway, lambda _: True) == 1
    assert "ALARM: ended with failing loops: ping" in out.getvalue()


def test_a_run_ends_by_itself_with_1_when_a_loop_has_died(make: Make) -> None:
    def broken() -> Machine:
        raise RuntimeError("no /proc")

    gateway = make(start=False, interval=0.05, machine=broken, backoff=0.001)
    gateway.start()
    never = threading.Event()
    assert Console(io.StringIO()).run(gateway, never.wait) == 1


def test_what_was_charged_is_asked_for_and_may_be_missing(make: Make, tmp_path: Path) -> None:
    gateway = make()
    guest = gateway.guest("phone")
    told = tmp_path / "charged.csv"
    fetch = charged_by(f"cat {told}")
    head = "gw_id,mac,ip,charged_down,charged_up\n"
    told.write_text(
        f"{head}g,{guest.mac.upper()},10.0.0.1,5,2\ng,{guest.mac},10.0.0.2,1,1\ng,02:00:00:00:00:00,x,1,0\n"
    )
    assert fetch()[guest.mac] == 9
    for wrong in ("mac\nx\n", f"{head}g,{guest.mac},x,five,2\n", f"{head}g\n"):
        told.write_text(wrong)
        with pytest.raises(ValueError, match="columns"):
            fetch()
    told.unlink()
    with pytest.raises(OSError, match="status 1"):
        fetch()
    out = io.StringIO()
    waits = iter([False, False, True])
    assert Console(out, every=0.01).run(gateway, lambda _: next(waits), fetch) == 0
    assert out.getvalue().count("what was charged cannot be asked") == 1
    assert table(out.getvalue())["phone"][-2:] == ["?", "?"]


# --- the crowd ---


def test_the_crowd_signs_in_and_loads_at_its_rate(make: Make, server: AuthServer, clock: Clock) -> None:
    gateway = make()
    guests = [gateway.guest(name) for name in ("a", "b", "c")]
    notes: list[str] = []
    crowd = Crowd(gateway, guests[:2], ["X", "Y"], notes.append, clock, again=10)
    crowd.step()
    codes = [
        request.rpartition(b"code=")[2].partition(b"&")[0] for request in server.requests if request.startswith(b"POST")
    ]
    assert codes == [b"X", b"Y"]
    assert notes == ["a: not let in, the last page had status 200", "b: not let in, the last page had status 200"]
    guests[0].present("T")
    crowd.step()  # too early
    clock.tick(10)
    crowd.step()
    assert len([request for request in server.requests if request.startswith(b"POST")]) == 3
    appetite = Appetite(gateway, 100.0, clock)
    for _ in range(30):
        clock.tick(0.125)
        appetite.step()
    moved = guests[0].account.transferred
    assert moved.total == 375
    assert 0 < moved.up < moved.down
    assert guests[2].account.transferred.total == 0


def test_a_guest_who_is_not_let_in_says_what_the_page_was_called(make: Make, server: AuthServer, clock: Clock) -> None:
    gateway, notes = make(), list[str]()
    server.raw["page"] = OK + b"<title>Used &amp; gone</title><form method=post><input name=code></form>"
    Crowd(gateway, [gateway.guest("a")], ["X"], notes.append, clock).step()
    assert notes == ["a: not let in, the last page had status 200: Used & gone"]


def test_a_crowd_without_codes_clicks(make: Make, server: AuthServer, clock: Clock) -> None:
    gateway = make()
    server.raw["page"] = OK + b"<form><input name=lang></form><form method=post><input name=n value=1></form>"
    Crowd(gateway, [gateway.guest("a")], [], [].append, clock).step()
    assert [request.rpartition(b"\r\n")[2] for request in server.requests if request.startswith(b"POST")] == [b"n=1"]


def test_two_stations_cannot_be_the_same_device(make: Make) -> None:
    gateway = make()
    phone = gateway.guest("phone")
    with pytest.raises(ValueError, match="already in use"):
        gateway.guest("laptop", mac=phone.mac)
    assert gateway.guest("phone").station is phone.station


def test_a_crowd_without_a_way_in_says_why(make: Make, server: AuthServer, clock: Clock) -> None:
    gateway = make()
    notes: list[str] = []
    server.raw["page"] = OK + b"no forms"
    Crowd(gateway, [gateway.guest("a")], [], notes.append, clock).step()
    assert notes == ["a: no way in: expected a form to send on the page at /wifidog/login/ (status 200)"]
    server.raw["page"] = b"HTTP/1.1 404 Not Found\r\n\r\nno such gateway"
    Crowd(gateway, [gateway.guest("b")], [], notes.append, clock).step()
    assert notes[1].endswith("(status 404); a server that does not know this gateway answers so: adopt it there first")


# --- the command line ---


def emulator(*arguments: str, code: str = "") -> subprocess.Popen[str]:
    start = ["-m", "portal.emulator"] if not code else ["-c", code]
    return subprocess.Popen(
        [sys.executable, *start, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def ended(process: subprocess.Popen[str], *, by: signal.Signals | None = None) -> tuple[int, str, str]:
    """(exit status, output, errors)."""
    if by is not None:
        process.send_signal(by)
    out, errors = process.communicate(timeout=20)
    return process.returncode, out, errors


def test_the_emulator_runs_until_it_is_told_to_end_and_ends_well(server: AuthServer) -> None:
    process = emulator(
        *("--server", server.url, "--gw-id", "GW", "--port", "0", "--interval", "0.2", "--key", "K3Y"),
        *("--guests", "1", "--code", "ABC", "--rate", "100000", "--every", "0.2"),
    )
    assert process.stdout is not None
    listening = process.stdout.readline()
    port = int(listening.rpartition(":")[2])
    location = HTTPConnection("127.0.0.1", port, timeout=5)
    location.request("GET", "/wifidog/auth?token=T")
    assert location.getresponse().status == 302
    location.close()
    assert eventually(lambda: any(int(call["incoming"]) > 20_000 for call in server.seen("counters")))
    assert eventually(lambda: any(request.endswith(b"code=ABC&n=1") for request in server.requests))
    status, out, errors = ended(process, by=signal.SIGTERM)
    assert (status, errors) == (0, "")
    shown = table(out[out.rindex("totals") :])
    reported = int(shown["browser"][4].replace(",", ""))
    last = server.seen("counters")[-1]
    assert reported == int(last["incoming"]) + int(last["outgoing"])
    assert all(b"/?k=K3Y&" in request for request in server.requests if b"gw_id=GW" in request and b"auth/" in request)
    assert server.seen("logout") == []


def test_the_emulator_can_be_switched_off_and_on(server: AuthServer) -> None:
    process = emulator("--server", server.url, "--gw-id", "GW", "--port", "0", "--interval", "30")
    assert eventually(lambda: len(server.requests) == 1)
    process.send_signal(signal.SIGUSR1)
    assert eventually(lambda: len(server.requests) == 2)
    status, out, _ = ended(process, by=signal.SIGINT)
    assert status == 0
    assert "gateway GW restarted" in out


BROKEN = """
import sys
from portal.emulator.program import Classic
from portal.emulator.__main__ import main

def broken(self):
    raise {error}

Classic.cycle = broken
sys.exit(main(sys.argv[1:]))
"""


def test_an_emulator_whose_polls_fail_does_not_end_as_a_success(server: AuthServer) -> None:
    process = emulator(
        *("--server", server.url, "--gw-id", "GW", "--port", "0", "--interval", "0.1"),
        code=BROKEN.format(error="RuntimeError('broken')"),
    )
    assert process.stdout is not None
    while "ALARM: the poll loop failed" not in process.stdout.readline():
        assert process.poll() is None
    status, out, errors = ended(process, by=signal.SIGTERM)
    assert status == 1
    assert "ended with failing loops: poll" in out
    assert "RuntimeError: broken" in errors


def test_an_emulator_whose_poll_loop_dies_ends_by_itself_with_1(server: AuthServer) -> None:
    process = emulator(
        *("--server", server.url, "--gw-id", "GW", "--port", "0", "--interval", "0.1"),
        code=BROKEN.format(error="SystemExit(0)"),
    )
    status, out, _ = ended(process)
    assert status == 1
    assert "ALARM: the poll loop has ended" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --server, --gw-id"),
        (["--server", "ftp://x"], "server 'ftp://x': expected http://"),
        (["--interval", "0"], "interval and client timeout: expected more than 0"),
        (["--gw-id", "a b"], "gw_id 'a b': expected a name without blanks"),
        (["--port", "99999"], "port 99999: expected 0 to 65535"),
        (["--ssl-port", "0"], "ssl port 0: expected 1 to 65535"),
        (["--guests", "-1"], "guests and rate: expected 0 or more"),
        (["--rate", "fast"], "argument --rate: invalid float value: 'fast'"),
        (["--dialect", "wd"], "argument --dialect: invalid choice: 'wd'"),
        (["--path", "wifidog"], "path 'wifidog': expected to begin and end with a slash"),
        (["--listen", "somewhere"], "listen 'somewhere': expected an IPv4 address"),
        (["--auth-path", "auth/"], "auth path 'auth/': expected to end in ? or &"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--server", "http://127.0.0.1:1", "--gw-id", "GW", *arguments] if arguments else []
    if "--server" in arguments:
        given = given[2:]
    with pytest.raises(SystemExit) as ending:
        main(given)
    assert ending.value.code == 2
    assert message in capsys.readouterr().err


def test_a_key_that_is_refused_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--server", "http://127.0.0.1:1", "--gw-id", "GW", "--key", "s3cr&t"])
    shown = capsys.readouterr().err
    assert "key: expected letters" in shown
    assert "s3cr" not in shown


def test_a_port_that_is_taken_is_named(server: AuthServer) -> None:
    process = emulator("--server", server.url, "--gw-id", "GW", "--port", str(server.port))
    status, _, errors = ended(process)
    assert status == 1
    assert errors == f"127.0.0.1:{server.port}: cannot listen there: Address already in use\n"
