"""The server matrix: its command line, and that the portal and its rewrite give the same answers."""

from __future__ import annotations

import json
from html import escape

import pytest

from loadtests.harness import RESULTS, Run, header, offer, outside_services, quote, split_cores
from loadtests.matrix import WAITS, arguments, row, summary
from loadtests.servers.catalog import BY_NAME, SERVERS
from loadtests.servers.rig import CONNECTIONS, Rig, polls, seed, start

CORES = split_cores()


def test_a_part_is_chosen_on_the_command_line_or_in_the_environment(monkeypatch):
    asked = arguments(["--wait", "af", "--servers", "gthread,ours"])
    monkeypatch.setenv("WAIT", "a,f")
    monkeypatch.setenv("SERVERS", "gthread,ours")
    assert vars(arguments([])) == vars(asked)
    assert (asked.wait, asked.servers) == ("af", ["gthread", "ours"])


def test_nothing_chosen_is_everything(monkeypatch):
    for name in ("WAIT", "SERVERS"):
        monkeypatch.setenv(name, "")
    asked = arguments([])
    assert list(asked.wait) == [wait.letter for wait in WAITS]
    assert asked.servers == list(BY_NAME)


@pytest.mark.parametrize("words", [["--wait", "g"], ["--servers", "apache"]])
def test_what_does_not_exist_is_refused_by_name(words, capsys):
    with pytest.raises(SystemExit):
        arguments(words)
    assert words[1] in capsys.readouterr().err


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_every_server_can_be_given_a_port_and_divides_the_connections(server):
    assert any("45678" in word for word in server.argv(45678))
    assert CONNECTIONS % server.processes == 0


def test_a_server_that_could_not_be_measured_has_dashes():
    assert set(row({"server": "ours", "wait": "a", "failed": "it ended"})[1:]) == {"–"}


def test_the_kept_results_agree_with_each_other():
    kept = max(RESULTS.glob("matrix-*.json"))
    document = json.loads(kept.read_text())
    readme = (RESULTS / "README.md").read_text()
    assert readme.partition("<!-- matrix -->\n")[2].partition("\n<!-- /matrix -->")[0] == summary(document, kept.name)
    assert f"<pre>{escape(header(document['facts']))}</pre>" in (RESULTS / "matrix.html").read_text()


def test_what_others_used_is_not_told_before_the_run_is_over():
    assert "others" not in header(Run("python -m loadtests.matrix").begun())


def test_a_part_of_the_readme_is_renewed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("loadtests.harness.RESULTS", tmp_path)
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- matrix -->\nold\n<!-- /matrix -->\nafter\n")
    quote("matrix", "new")
    assert page.read_text() == "before\n<!-- matrix -->\nnew\n<!-- /matrix -->\nafter\n"
    with pytest.raises(ValueError, match="bench"):
        quote("bench", "new")


@pytest.mark.parametrize("name", ["ours", "fastapi"])
def test_every_page_of_the_portal_answers_as_its_wait_expects(name, database_url):
    seed(database_url)
    outside, port_outside = outside_services(CORES.load)
    with outside:
        program, port = start(Rig(CORES, database_url, port_outside, {}), BY_NAME[name])
        with program:
            small = {"c": {"body": 300_000, "rate": 4.0}}
            streams = [
                wait.stream(port, 0.5, name=wait.letter, **small.get(wait.letter, {"rate": 4.0})) for wait in WAITS
            ]
            found = offer([*streams, polls(port, 0.5)], CORES.load).outcomes
    assert {name: (outcome.right, dict(outcome.errors)) for name, outcome in found.items()} == {
        **{wait.letter: (2, {}) for wait in WAITS},
        "polls": (50, {}),
    }
