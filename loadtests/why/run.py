"""Tries the five mechanisms and writes what came out: `python -m loadtests.why.run [index pool idle convoy session]`.

Writes loadtests/results/why-<date>.json, the pictures in docs/why/, and, in docs/why.md, what stands between the marks
`<!-- measured: NAME -->` and `<!-- end -->`; the words around them are a person's and stay. A run of only some of the
mechanisms goes into loadtests/out and rewrites nothing. Less than twelve minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import create_engine

from loadtests import harness, plots
from loadtests.harness import OUT, ROOT, Run, database, end_on_sigterm, header, outside_services, raise_file_limit, say
from loadtests.servers import rig as matrix_rig
from loadtests.servers.common import sqlalchemy_url
from loadtests.why.app import Base
from loadtests.why.mechanisms import MECHANISMS, Rig, as_json, sql

PAGE = ROOT / "docs" / "why.md"
PICTURES = ROOT / "docs" / "why"
ACROSS = {
    "index": "rows in the table of sessions",
    "pool": "seconds; the SMS provider stops answering at 2",
    "idle": "seconds; the browsers come at 3",
    "convoy": "exports at a time",
    "session": "polls that the sessions have seen",
}
GIVEN_UP = (2000.0, "apfree gives up")


def main() -> int:
    """Tries what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.why.run", description="Why threaded portals hang.")
    parser.add_argument("mechanisms", nargs="*", help=f"some of {' '.join(MECHANISMS)}; all of them")
    parser.add_argument(
        "--from", dest="source", help="rewrite page and pictures from this file of results; try nothing"
    )
    asked = parser.parse_args()
    for name in asked.mechanisms:
        if name not in MECHANISMS:
            parser.error(f"there is no mechanism {name!r}; there are {', '.join(MECHANISMS)}")
    if asked.source:
        with open(asked.source) as source:
            publish(json.load(source))
        return 0
    chosen = asked.mechanisms or list(MECHANISMS)
    document, run = tried(chosen)
    if set(chosen) == set(MECHANISMS):
        say(f"written: {harness.save('why', document, run.began)}")
        publish(document)
    else:
        path = OUT / "why-part.json"
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        say(f"written: {path}")
    return 0


def tried(names: Sequence[str]) -> tuple[dict[str, Any], Run]:
    """The results of these mechanisms, and the run."""
    raise_file_limit()
    end_on_sigterm()
    run = Run(" ".join(["python -m loadtests.why.run", *sys.argv[1:]]))
    findings = []
    # As many connections as the processes of the pool experiment may take: 10 × (5 + 10), and some.
    with database("why", run.cores.load, 180) as server_of_data:
        engine = create_engine(sqlalchemy_url(server_of_data.url))
        Base.metadata.create_all(engine)
        engine.dispose()
        sql(server_of_data.url, "INSERT INTO why_network (id) VALUES (1)")
        matrix_rig.seed(server_of_data.url)
        outside, port = outside_services(run.cores.load)
        with outside:
            running = [server_of_data.pid, outside.pid]
            say(header(run.begun()))
            rig = Rig(run.cores, server_of_data.url, server_of_data.pid, port)
            for name in names:
                began = time.monotonic()
                say(f"\n{name}: {MECHANISMS[name].__doc__}")
                findings.append(MECHANISMS[name](rig))
                say(f"  {time.monotonic() - began:.0f} s")
            facts = run.facts(running)
    say(f"\n{facts['others']}; {facts['seconds'] // 60} min {facts['seconds'] % 60} s")
    return {"facts": facts, "findings": as_json(findings)}, run


def publish(document: Mapping[str, Any]) -> None:
    """Draws the pictures and rewrites the measured parts of the page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    parts = {"facts": "```\n" + header(document["facts"]) + "\n```"}
    for finding in document["findings"]:
        (PICTURES / f"{finding['name']}.svg").write_text(picture(finding))
        parts[finding["name"]] = written(finding)
    PAGE.write_text(rewritten(PAGE.read_text(), parts))
    say(f"rewritten: {PAGE}, pictures in {PICTURES}")


def rewritten(page: str, parts: Mapping[str, str]) -> str:
    """The page with these parts between their marks. A part without marks, or marks without a part, is an error."""
    for name, text in parts.items():
        marks = re.compile(rf"(<!-- measured: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if len(marks.findall(page)) != 1:
            raise ValueError(f"the page needs the marks of {name!r} exactly once")
        page = marks.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
    for name in re.findall(r"<!-- measured: (\w+) -->", page):
        if name not in parts:
            raise ValueError(f"nothing was measured for the marks of {name!r}")
    return page


def picture(finding: Mapping[str, Any]) -> str:
    """The diagram of one mechanism: over time where it hangs, over its x where it grows."""
    across = ACROSS[finding["name"]]
    if finding["timelines"]:
        answered = {
            server: [(second, right) for second, right, _ in line] for server, line in finding["timelines"].items()
        }
        shares = {
            server: [(second, share * 100) for second, share in line] for server, line in finding["shares"].items()
        }
        panels = [
            plots.Panel("polls answered, of those due", answered),
            plots.Panel("server's CPU, % of a core", shares),
        ]
        return plots.lines(panels, across=across)
    median, slowest, cpu = (
        series(finding, name, scale) for name, scale in (("p50_ms", 1), ("p99_ms", 1), ("cpu", 100))
    )
    if finding["name"] == "index":
        cpu = series(finding, "database_cpu", 100)
    return plots.lines(
        [
            plots.Panel("p50 of a poll, ms", median, logarithmic=True, line=GIVEN_UP),
            plots.Panel("p99 of a poll, ms", slowest, logarithmic=True, line=GIVEN_UP),
            plots.Panel("database's CPU, %" if finding["name"] == "index" else "server's CPU, %", cpu),
        ],
        across=across,
        across_logarithmic=finding["name"] == "index",
    )


def series(finding: Mapping[str, Any], name: str, scale: float) -> dict[str, list[tuple[float, float]]]:
    """One figure of all points, by server; a server with a single point is left to the table."""
    found: dict[str, list[tuple[float, float]]] = {}
    for point in finding["points"]:
        line = found.setdefault(point["server"], [])
        if point[name] is not None:
            line.append((point["x"], point[name] * scale))
    return {server: line for server, line in found.items() if len(line) > 1}


def written(finding: Mapping[str, Any]) -> str:
    """Picture, figures and stacks of one mechanism, in Markdown."""
    name, across = finding["name"], ACROSS[finding["name"]]
    over_time = bool(finding["timelines"])
    label = {"index": "rows", "convoy": "exports", "session": "polls seen", "idle": "idle connections"}.get(name, "")
    head = ["server", *([label] if label else []), "polls/s", "p50 ms", "p99 ms", "failed", "CPU", "database", "memory"]
    rows = []
    for point in finding["points"]:
        rows.append([
            point["server"], *([f"{point['x']:,.0f}"] if label else []), f"{point['per_second']:.1f}",
            milliseconds(point["p50_ms"]), milliseconds(point["p99_ms"]), str(point["failed"]), f"{point['cpu']:.0%}",
            f"{point['database_cpu']:.0%}", f"{point['pss_mib']:.0f} MiB",
        ])  # fmt: skip
    parts = [f"![{'By second' if over_time else 'By ' + across}: polls and CPU](why/{name}.svg)", "", table(head, rows)]
    failed = {server: kinds for server, kinds in finding["errors"].items() if kinds}
    if failed:
        told = [
            f"{server}: " + ", ".join(f"{n} × {kind}" for kind, n in kinds.items()) for server, kinds in failed.items()
        ]
        parts += ["", f"What failed: {'; '.join(told)}."]
    if finding["table"]:
        columns = list(finding["table"][0])
        parts += ["", table(columns, [[str(line.get(column, "–")) for column in columns] for line in finding["table"]])]
    parts += ["", "What the threads did (py-spy dump; alike ones counted, innermost call first):", "", "```"]
    for server, stacks in finding["stacks"].items():
        parts += [server, *(f"  {stack}" for stack in stacks)]
    return "\n".join([*parts, "```"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; figures to the right."""
    line = "| " + " | ".join(head) + " |\n|" + "---|" + "--:|" * (len(head) - 1)
    return "\n".join([line, *("| " + " | ".join(row) + " |" for row in rows)])


def milliseconds(value: float | None) -> str:
    """A latency for a table; a dash where nothing was answered."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
