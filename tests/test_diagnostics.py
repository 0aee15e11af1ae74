"""The instruments: they name places in the code, and never show a value."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from portal.diagnostics import Diagnostics, flame, greenlets, log_greenlets

SECRET = "k2z4secrettokensecrettokensecrettoken234"


@pytest.fixture
def diagnostics(tmp_path: Path) -> Iterator[Diagnostics]:
    diagnostics = Diagnostics(tmp_path / "profiles", stall_seconds=0.05)
    diagnostics.start()
    yield diagnostics
    diagnostics.stop()


def hog(seconds: float, token: str = SECRET) -> str:
    """Stands in everybody's way."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        token += ""
    return token


def until_told(diagnostics: Diagnostics, stalls: int) -> None:
    end = time.monotonic() + 5
    while diagnostics.stalls < stalls:
        assert time.monotonic() < end, "the stall was not noticed"
        gevent.sleep(0.01)


def test_a_stall_is_counted_measured_and_named(diagnostics: Diagnostics, caplog: pytest.LogCaptureFixture) -> None:
    gevent.sleep(0.1)
    hog(0.4)
    until_told(diagnostics, 1)
    assert 0.2 < diagnostics.longest_seconds < 2
    assert diagnostics.stalled_seconds >= diagnostics.longest_seconds
    assert "tests/test_diagnostics.py" in diagnostics.longest_where
    assert " hog < " in diagnostics.longest_where
    (record,) = caplog.records
    assert record.getMessage() == "the event loop stood still"
    assert record.where == diagnostics.longest_where
    assert SECRET not in str(record.__dict__)


def test_how_soon_the_loop_answers_is_told_again_and_again(tmp_path: Path) -> None:
    delays: list[float] = []
    diagnostics = Diagnostics(tmp_path, delay=delays.append)
    diagnostics.start()
    gevent.sleep(0.3)
    hog(0.3)
    gevent.sleep(0.1)
    diagnostics.stop()
    assert len(delays) >= 4
    assert sorted(delays)[-1] > 0.15, "the stall is among them"
    assert sorted(delays)[0] < 0.1, "and so is the time when nothing stood in the way"


def test_the_longest_wait_is_known_also_when_it_is_no_stall(tmp_path: Path) -> None:
    delays: list[float] = []
    diagnostics = Diagnostics(tmp_path, stall_seconds=5, delay=delays.append)
    diagnostics.start()
    hog(0.2)
    gevent.sleep(0.1)
    diagnostics.stop()
    assert (diagnostics.stalls, diagnostics.longest_where) == (0, "")
    assert diagnostics.longest_seconds == max(delays) > 0.1


def test_a_stall_in_a_greenlet_is_named_by_what_the_greenlet_does(diagnostics: Diagnostics) -> None:
    gevent.sleep(0.1)
    gevent.spawn(hog, 0.4, SECRET).join()
    until_told(diagnostics, 1)
    assert " hog" in diagnostics.longest_where
    assert SECRET not in diagnostics.longest_where


def test_a_loop_that_is_busy_but_goes_on_is_not_accused(tmp_path: Path) -> None:
    diagnostics = Diagnostics(tmp_path, stall_seconds=0.6)  # more than other work on this machine takes from us
    diagnostics.start()
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        hog(0.01)
        gevent.sleep(0)
    diagnostics.stop()
    assert diagnostics.stalls == 0


def test_many_stalls_are_counted_and_few_are_told(diagnostics: Diagnostics, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        gevent.sleep(0.1)
        hog(0.2)
        until_told(diagnostics, number + 1)
    assert len(caplog.records) == 1


def test_a_loop_that_never_comes_back_is_told_on_standard_error(tmp_path: Path) -> None:
    program = tmp_path / "stuck.py"
    program.write_text(
        "import sys; from pathlib import Path\n"
        "import portal.diagnostics as d; d._STUCK_SECONDS = 0.3\n"
        "import gevent\n"
        "watch = d.Diagnostics(Path('.'), 0.05); watch.start(); gevent.sleep(0.1)\n"
        "def endless():\n"
        "    while True: pass\n"
        "endless()\n"
    )
    root = Path(__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-m", "gevent.monkey", str(program)],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=tmp_path,
    )
    with child:
        assert child.stderr is not None
        line = json.loads(child.stderr.readline())
        child.kill()
    assert line["event"] == "the event loop is stuck"
    assert "endless" in line["where"]


def test_a_dump_says_where_greenlets_are_and_how_many_at_each_place_and_not_what_they_hold(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = Event()

    def waiting(_token: str) -> None:
        go.wait()

    tasks = [gevent.spawn(waiting, SECRET) for _ in range(7)]
    tasks[0].name = SECRET
    gevent.sleep(0)
    crowded, count = greenlets().most_common(1)[0]
    assert count == 7
    assert crowded[-1].startswith("tests/test_diagnostics.py:")
    assert crowded[-1].endswith("<locals>.waiting")
    log_greenlets()
    go.set()
    gevent.joinall(tasks)
    assert caplog.records[0].count == 7
    assert SECRET not in "".join(str(record.__dict__) for record in caplog.records)


@pytest.mark.usefixtures("diagnostics")
def test_a_signal_makes_the_dump(caplog: pytest.LogCaptureFixture) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    end = time.monotonic() + 5
    while not [record for record in caplog.records if record.getMessage() == "greenlets"]:
        assert time.monotonic() < end
        gevent.sleep(0.01)


def test_a_profile_shows_where_the_time_went(diagnostics: Diagnostics) -> None:
    taking = gevent.spawn(diagnostics.profile, 0.6)
    gevent.sleep(0.02)
    with pytest.raises(RuntimeError, match="already"):
        diagnostics.profile(0.1)
    hog(0.3)
    path = taking.get(timeout=5)
    folded = path.with_suffix(".folded").read_text()
    counts = {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in folded.splitlines()}
    busy = sum(count for stack, count in counts.items() if stack.endswith("tests/test_diagnostics.py:hog"))
    assert busy >= 10
    assert counts["(idle)"] >= 5
    assert SECRET not in folded
    assert "hog" in path.read_text()


@pytest.mark.usefixtures("diagnostics")
def test_a_signal_takes_a_profile(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Diagnostics.profile, "__defaults__", (0.1,))
    os.kill(os.getpid(), signal.SIGUSR2)
    end = time.monotonic() + 5
    while not [record for record in caplog.records if record.getMessage() == "profile taken"]:
        assert time.monotonic() < end
        gevent.sleep(0.01)
    assert Path(caplog.records[-1].file).exists()


def drawn(svg: str) -> ET.Element:
    root = ET.ElementTree(file=io.StringIO(svg)).getroot()
    assert root is not None
    return root


def test_a_flame_graph_is_one_file_whose_widths_are_shares_of_the_time() -> None:
    stacks = Counter({("main", "poll", "<lambda>"): 60, ("main", "poll"): 20, ("main", 'page "a"&b'): 20})
    root = drawn(flame.svg(stacks, "a < b"))
    assert "script" not in {element.tag.rpartition("}")[2] for element in root.iter()}
    boxes = {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        title, box = group[0].text or "", group[1].attrib
        boxes[title.rpartition(":")[0]] = (float(box["x"]), float(box["y"]), float(box["width"]))
    assert boxes["all"][2] == boxes["main"][2] == 1200
    assert boxes["poll"][2] == 960
    assert boxes["<lambda>"][2] == 720
    assert boxes['page "a"&b'][2] == 240
    assert boxes["main"][1] > boxes["poll"][1] > boxes["<lambda>"][1], "the innermost is on top"
    assert "http" not in flame.svg(stacks, "x").replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_folded_stacks_are_what_flame_graph_tools_read() -> None:
    assert flame.folded({("a", "b"): 1, ("a", "c"): 5}) == "a;c 5\na;b 1\n"


def test_a_profile_of_nothing_is_a_picture_too() -> None:
    assert drawn(flame.svg({}, "nothing")).tag.endswith("svg")


@pytest.mark.usefixtures("diagnostics")
def test_watching_costs_next_to_nothing() -> None:
    start = time.process_time()
    gevent.sleep(1)
    assert time.process_time() - start < 0.1


def test_the_watch_ends_when_it_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    diagnostics = Diagnostics(tmp_path, stall_seconds=0.05)
    diagnostics.start()
    gevent.sleep(0.1)
    diagnostics.stop()
    with caplog.at_level(logging.DEBUG):
        hog(0.3)
        gevent.sleep(0.1)
    assert diagnostics.stalls == 0
    assert not caplog.records
