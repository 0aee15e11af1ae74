"""The page about hanging portals: its measured parts, its pictures, and the stacks it shows."""

from __future__ import annotations

import json
import re

import pytest

from loadtests.harness import ROOT
from loadtests.why.app import Switches
from loadtests.why.mechanisms import MECHANISMS
from loadtests.why.run import picture, rewritten, written
from loadtests.why.stacks import group

PAGE = (ROOT / "docs" / "why.md").read_text()


def frame(name: str, filename: str, line: int) -> dict[str, object]:
    return {"name": name, "filename": filename, "line": line}


def test_only_what_stands_between_the_marks_is_rewritten():
    page = "before\n<!-- measured: pool -->\nold\n<!-- end -->\nafter <!-- end -->\n"
    assert rewritten(page, {"pool": r"new \1"}) == page.replace("old", r"new \1")


@pytest.mark.parametrize(
    ("page", "parts"),
    [
        ("no marks", {"pool": "new"}),
        ("<!-- measured: pool -->\n<!-- end -->\n" * 2, {"pool": "new"}),
        ("<!-- measured: pool -->\n<!-- end -->\n<!-- measured: idle -->\n<!-- end -->\n", {"pool": "new"}),
    ],
)
def test_a_page_whose_marks_do_not_fit_is_refused(page, parts):
    with pytest.raises(ValueError, match="marks"):
        rewritten(page, parts)


def test_the_page_has_each_mechanism_with_its_picture_and_stacks():
    for name in MECHANISMS:
        (part,) = re.findall(rf"<!-- measured: {name} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
        assert f"(why/{name}.svg)" in part
        assert "```" in part
        assert (ROOT / "docs" / "why" / f"{name}.svg").read_text().startswith("<svg")


def test_the_table_of_symptoms_leads_to_chapters_that_exist():
    chapters = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^## (.*)$", PAGE, re.M)
    }
    links = re.findall(r"\(#([\w-]+)\)", PAGE)
    assert len(links) == len(MECHANISMS)
    assert set(links) <= chapters


def test_threads_that_do_the_same_are_counted_once():
    waiting = {
        "owns_gil": False,
        "active": False,
        "frames": [
            frame("Condition.wait", "/usr/lib/python3.11/threading.py", 331),
            frame("Queue.get", "/x/sqlalchemy/util/queue.py", 199),
            frame("QueuePool._do_get", "/x/sqlalchemy/pool/impl.py", 155),
            frame("Pool.connect", "/x/sqlalchemy/pool/base.py", 460),
            frame("create.<locals>.poll", "/x/loadtests/why/app.py", 123),
        ],
    }
    running = {**waiting, "owns_gil": True, "active": True, "frames": waiting["frames"][-1:]}
    idle = {"owns_gil": False, "active": False, "frames": [frame("wait", "/usr/lib/python3.11/threading.py", 331)]}
    found = [str(stack) for stack in group([waiting, running, idle, waiting])]
    assert found == [
        "  2 waits: wait (python3.11/threading.py:331) ← get (util/queue.py:199) ← _do_get (pool/impl.py:155) "
        "← poll (why/app.py:123)",
        "  1 holds the interpreter: poll (why/app.py:123)",
        "  1 have no request",
    ]


def test_switches_reach_the_server_as_they_were_set():
    switches = Switches("postgresql://", 1, provider_limit=5.0, kept=True, age=7)
    assert Switches.from_env(switches.env()) == switches


def test_every_result_that_is_kept_can_be_drawn_and_written():
    kept = sorted((ROOT / "loadtests" / "results").glob("why-*.json"))
    assert kept
    for path in kept:
        for finding in json.loads(path.read_text())["findings"]:
            assert picture(finding).startswith("<svg")
            assert finding["points"][0]["server"] in written(finding)
