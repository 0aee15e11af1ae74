"""The load that behaves like the field: its schedule, its truth, its books, and one small run from end to end."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from loadtests import harness
from loadtests.day import DAYS, QUIET, Leave
from loadtests.fleet import Code, Entry, Gateway, Guest, Key, Truth, populate, read_codes, read_keys, read_truth
from loadtests.load import arguments, own_server
from loadtests.reconcile import balance, by_code, by_entry, entry_name
from portal.emulator import wire

ROOT = Path(__file__).resolve().parents[2]
SERVER = wire.auth_server("http://127.0.0.1:8080/", key="secret")


def gateway(truth: Truth) -> Gateway:
    return Gateway("cafe", SERVER, 10.0, truth, random.Random(1))  # noqa: S311


def guest(**changes: object) -> Guest:
    return Guest(**{"number": 0, "code": Code("AAAA"), "mac": "02:00:00:00:00:01", "ip": "10.0.0.1", "rate": 1000.0,
                    "present": True, **changes})  # fmt: skip


def online(one: Gateway, who: Guest, token: str = "t") -> Entry:
    entry = one.enter(who, token, 0.0)
    one.logged_in(entry, token, wire.ALLOWED)
    return entry


def report(one: Gateway, entry: Entry, *, answered: bool = True) -> tuple[int, int]:
    one.sent(entry, entry.shown.down, entry.shown.up)
    if answered:
        one.answered(entry, entry.shown.down, entry.shown.up)
    return entry.shown.down, entry.shown.up


# The schedule


@pytest.mark.parametrize("word", list(DAYS))
def test_a_day_is_the_same_each_time_and_nobody_comes_or_goes_at_its_end(word: str) -> None:
    day = DAYS[word]
    visits = day.visits(200, 300.0)
    assert visits == day.visits(200, 300.0)
    assert [visit.begin for visit in visits] == sorted(visit.begin for visit in visits)
    assert {visit.guest for visit in visits} == set(range(200))
    for visit in visits:
        assert 0 <= visit.begin <= 300.0 - QUIET
        assert visit.begin <= visit.end
        assert visit.leave is Leave.STAYS or visit.end < 300.0 - QUIET
        assert visit.again is None or visit.begin < visit.again <= min(visit.end, 300.0 - QUIET)


@pytest.mark.parametrize("word", list(DAYS))
def test_a_guest_is_at_one_place_at_a_time(word: str) -> None:
    last: dict[int, float] = {}
    for visit in DAYS[word].visits(200, 300.0):
        assert visit.begin >= last.get(visit.guest, 0.0)
        last[visit.guest] = visit.end


def test_after_an_outage_everybody_is_back_when_the_power_is() -> None:
    day = DAYS["outage"]
    dark = day.dark(300.0)
    assert dark is not None
    for visit in day.visits(200, 300.0):
        assert visit.end == dark.begin if visit.leave is Leave.CUT else visit.begin > dark.end


def test_at_the_opening_hour_most_come_within_a_fifth_of_the_day() -> None:
    begins = sorted(visit.begin for visit in DAYS["opening"].visits(1000, 300.0))
    assert begins[800] - begins[100] < 300.0 / 5


# The truth


def test_what_is_reported_grows_by_what_passed_and_is_booked_once() -> None:
    truth = Truth()
    one, who = gateway(truth), guest()
    entry = online(one, who)
    for _ in range(3):
        one.count(10.0)
        one.ping_station(entry)
        shown = report(one, entry)
        report(one, entry)
    row = truth.rows[Key("cafe", who.mac, who.ip, "AAAA")]
    assert (row.reported.down, row.reported.up) == shown == (row.answered.down, row.answered.up)
    # The last ping is counted in the kernel, and reported by the next cycle only.
    assert entry.kernel.up == shown[1] + 48


def test_after_a_second_sign_in_the_counters_freeze_until_the_new_rule_has_counted_more() -> None:
    one, who = gateway(Truth()), guest()
    entry = online(one, who)
    one.count(10.0)
    one.count(20.0)
    before = report(one, entry)
    assert one.enter(who, "second", 20.0) is entry
    one.logged_in(entry, "second", wire.ALLOWED)
    who.rate = 10.0
    one.count(30.0)
    assert (entry.shown.down, entry.shown.up) == before
    who.rate = 100_000.0
    one.count(40.0)
    assert entry.shown.down > before[0]


def test_what_got_no_answer_is_reported_and_not_answered() -> None:
    truth = Truth()
    one, who = gateway(truth), guest()
    entry = online(one, who)
    one.count(10.0)
    down, up = report(one, entry, answered=False)
    row = truth.rows[Key("cafe", who.mac, who.ip, "AAAA")]
    assert (row.reported.total, row.answered.total) == (down + up, 0)


def test_who_has_gone_is_logged_out_once_he_has_been_idle_for_five_intervals() -> None:
    one, who = gateway(Truth()), guest()
    entry = online(one, who)
    one.count(10.0)
    who.present = False
    for cycle in range(2, 6):
        one.ping_station(entry)
        one.count(cycle * 10.0)
        assert not one.idle(entry, cycle * 10.0)
    assert one.idle(entry, 60.0)


def test_a_lost_logout_leaves_another_address_or_a_quiet_beginning() -> None:
    seen = set()
    for seed in range(20):
        one = Gateway("cafe", SERVER, 10.0, Truth(), random.Random(seed))  # noqa: S311
        who = guest()
        entry = online(one, who)
        one.count(10.0)
        old = report(one, entry)
        one.forget_quietly(entry)
        assert one.entry(who) is None
        seen.add(who.ip)
        if who.ip == "10.0.0.1":
            anew = online(one, who)
            for _ in range(2):
                one.count(20.0)
                one.ping_station(anew)
                assert anew.shown.down < old[0]
                assert anew.shown.up < old[1]
    assert seen == {"10.0.0.1", "10.1.0.1"}


def test_the_power_comes_back_to_an_empty_list_and_a_new_uptime() -> None:
    one = gateway(Truth())
    online(one, guest())
    one.restart(50.0)
    assert one.entries() == []
    assert b"wifidog_uptime=2 " in one.heartbeat(52.0)


def test_a_poll_is_written_as_the_program_writes_it() -> None:
    one = gateway(Truth())
    entry = online(one, guest(), "abc")
    assert one.request("counters", entry, "abc", 12, 3) == (
        b"GET /auth/?k=secret&stage=counters&ip=10.0.0.1&mac=02:00:00:00:00:01&token=abc&incoming=12"
        b"&outgoing=3&gw_id=cafe HTTP/1.0\r\nUser-Agent: WiFiDog 1.3.0\r\nHost: 127.0.0.1\r\n\r\n"
    )


def test_a_code_for_three_devices_is_given_to_three_guests_of_one_gateway() -> None:
    gateways = [gateway(Truth()), gateway(Truth())]
    made = populate(gateways, [Code("A"), Code("B", devices=3), Code("C")], 4, random.Random(1))  # noqa: S311
    assert [one.code.code for one in made] == ["A", "B", "B", "B"]
    assert [len(one.guests) for one in gateways] == [1, 3]
    assert len({one.mac for one in made}) == 4


def test_files_are_read_and_a_missing_column_is_named(tmp_path: Path) -> None:
    file = tmp_path / "codes.csv"
    file.write_text("code,plan,label\nABCD-EFGH-JKMN,Day,\n")
    assert read_codes(file) == [Code("ABCD-EFGH-JKMN")]
    file.write_text("code,devices,bytes\nA,3,\nB,,5000\n")
    assert read_codes(file) == [Code("A", 3), Code("B", 1, 5000)]
    with pytest.raises(ValueError, match="expected a first line that names the column gw_id, key"):
        read_keys(file)


# The books


def truth_of(**reported: tuple[int, int]) -> Truth:
    truth = Truth()
    for code, (down, up) in reported.items():
        key = Key("cafe", f"02:00:00:00:00:{len(truth.rows):02x}", "10.0.0.1", code)
        truth.report(key, down, up)
        truth.of(key).answered.add(down, up)
    return truth


def test_books_that_agree_are_equal_to_the_byte(tmp_path: Path) -> None:
    truth = truth_of(A=(1000, 100), B=(5, 0))
    truth.write(tmp_path / "fleet.csv")
    carried = read_truth(tmp_path / "fleet.csv")
    found = balance("grants", by_code(carried), {"A": (1000, 100), "B": (5, 0)})
    assert found.good
    assert str(found) == "2 grants: reported 1,105 bytes, charged 1,105: equal to the byte"


@pytest.mark.parametrize(
    "charged",
    [{"A": (999, 100)}, {"A": (1000, 101)}, {}, {"A": (1000, 100), "B": (1, 0)}],
    ids=["a byte less", "a byte more", "nothing", "what nobody reported"],
)
def test_a_planted_difference_is_found(charged: dict[str, tuple[int, int]]) -> None:
    found = balance("grants", by_code(truth_of(A=(1000, 100))), charged)
    assert not found.good
    assert len(found.differences) == 1
    assert "1 DIFFER" in str(found)


def test_differences_that_cancel_out_are_differences() -> None:
    found = balance("grants", by_code(truth_of(A=(10, 0), B=(10, 0))), {"A": (11, 0), "B": (9, 0)})
    assert [one.what for one in found.differences] == ["A", "B"]


def test_a_report_without_an_answer_may_be_charged_or_not() -> None:
    truth = truth_of(A=(100, 0))
    key = next(iter(truth.rows))
    truth.report(key, 50, 0)
    for charged, good in ((100, True), (150, True), (99, False), (151, False)):
        found = balance("entries", by_entry(truth), {entry_name(key): (charged, 0)})
        assert found.good is good
    assert str(balance("entries", by_entry(truth), {entry_name(key): (120, 0)})).endswith(
        "within the 50 bytes whose reports got no answer"
    )


# The command


def load(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests.load", "--out", str(out), *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_small_run_ends_with_books_that_agree_and_a_planted_byte_is_found(tmp_path: Path) -> None:
    done = load(
        tmp_path, "--minutes", "0.12", "--gateways", "2", "--guests", "8", "--interval", "1", "--operators", "1"
    )
    assert done.stdout.count("equal to the byte") == 2, done.stdout + done.stderr
    for population in ("polls", "pings", "logins", "sign-ins", "desk pages"):
        assert f"\n{population} " in done.stdout
    report = (tmp_path / "report.html").read_text()
    assert "<svg" in report
    assert "equal to the byte" in report
    assert "src=" not in report
    assert "href=" not in report
    # The codes, keys and the password are gone with the state directory.
    assert not list(tmp_path.glob("state-*"))

    charged = tmp_path / "charged.csv"
    rows = ["gw_id,mac,ip,charged_down,charged_up"]
    for what, row in by_entry(read_truth(tmp_path / "fleet.csv")).items():
        rows.append(",".join((*what.split(" "), str(row.reported.down), str(row.reported.up))))
    charged.write_text("\n".join(rows) + "\n")
    told = load(tmp_path, "--reconcile", "--charged", f"cat {charged}")
    assert told.returncode == 0, told.stdout + told.stderr
    planted = rows[-1].rpartition(",")
    charged.write_text("\n".join([*rows[:-1], f"{planted[0]},{int(planted[2]) + 1}"]) + "\n")
    told = load(tmp_path, "--reconcile", "--charged", f"cat {charged}")
    assert told.returncode == 1
    assert "1 DIFFER (+1 bytes)" in told.stdout


def test_a_server_elsewhere_needs_to_be_told_of(tmp_path: Path) -> None:
    told = load(tmp_path, "--server", "http://127.0.0.1:1")
    assert told.returncode == 2
    assert "--server needs --keys and --codes" in told.stderr


# What hangs


def test_a_guest_who_hangs_at_the_end_is_a_failure(tmp_path: Path) -> None:
    """A server that takes connections and never answers. Locust patches the process into which it is imported."""
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"sign-ins": {"never over": 1}}


HANGS = """
import json, random, socket, time
from pathlib import Path
from locust.env import Environment
from loadtests import locustfile
from loadtests.day import DAYS, Leave, Visit
from loadtests.fleet import Code, Gateway, Guest, Truth
from portal.emulator import wire

with socket.create_server(("127.0.0.1", 0)) as silent:
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
    truth, environment = Truth(), Environment(user_classes=[locustfile.Crowd])
    gateway = Gateway("cafe", wire.auth_server(url, path="/", key="k"), 10.0, truth, random.Random(1))
    guest = Guest(number=0, code=Code("AAAA"), mac="02:00:00:00:00:01", ip="10.0.0.1", rate=1.0)
    gateway.guests.append(guest)
    run = locustfile.World(environment, DAYS["steady"], 10.0, 10.0, url, [gateway], [guest], [], truth, Path("."),
                           began=time.monotonic())
    locustfile.WORLD.append(run)
    locustfile.PATIENCE = 0.3
    crowd = locustfile.Crowd(environment)
    crowd.on_start()
    crowd.todo = locustfile.moments([Visit(guest=0, begin=0.0, end=9.0, leave=Leave.STAYS, again=None)])
    crowd.let_go()
    crowd.on_stop()
    print(json.dumps({name: one.errors for name, one in run.outcomes.items()}))
"""


# Locust's own page


def page(port: int, path: str, **form: str) -> dict[str, Any]:
    """What locust's web page answers; a form is posted."""
    data = urlencode(form).encode() if form else None
    with urlopen(f"http://127.0.0.1:{port}/{path}", data, timeout=10) as answer:
        return json.loads(answer.read())


def until(true: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_page_runs_the_steady_day_by_default_and_refuses_what_cannot_run(tmp_path: Path) -> None:
    words = ["--gateways", "2", "--guests", "4", "--interval", "1", "--minutes", "1"]
    cores, port = harness.split_cores(), harness.free_port()
    with own_server(arguments(["--out", str(tmp_path), "--operators", "0", *words]), cores) as target:
        command = [
            sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests/locustfile.py"), "--host", target.url,
            "--keys", str(target.keys), "--codes", str(target.codes), "--out", str(tmp_path), "--class-picker",
            "--web-host", "127.0.0.1", "--web-port", str(port), *words,
        ]  # fmt: skip
        with harness.Program(f"test-locust-{port}", command, cores.load, harness.accepts(port)) as locust:
            start = {"user_count": "1", "spawn_rate": "1", "shape_class": "Default"}
            refused = page(port, "swarm", **start, keys="nowhere.csv")
            assert refused == {"success": False, "message": "there is no file nowhere.csv", "host": target.url}
            assert "--host, --keys and --codes are needed" in page(port, "swarm", **start, codes="")["message"]

            told = page(port, "swarm", **start)
            assert told["message"] == "Swarming started using shape class 'SteadyDay'"
            until(
                lambda: any(
                    row["name"] == "polls" and row["num_requests"] for row in page(port, "stats/requests")["stats"]
                )
            )
            page(port, "stop", now="1")
            until((tmp_path / "load.json").exists)
            until(lambda: page(port, "stats/requests")["state"] == "stopped")
            assert locust.process is not None
            assert locust.process.poll() is None
    found = json.loads((tmp_path / "load.json").read_text())
    assert found["shape"] == DAYS["steady"].title
    assert found["gateways"] == 2
