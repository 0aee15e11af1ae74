"""The server matrix: one small portal, six waits of real portals, eleven servers; what each costs, and the polls.

    python -m loadtests.matrix                                  # everything, in less than forty minutes
    python -m loadtests.matrix --wait f --servers gthread,ours  # a part; so does WAIT=f SERVERS=gthread,ours before it

In every cell a server of its own is started, warmed, loaded with one wait and with a hundred router polls a second, and
ended. The load is the same for all and open: latency counts from the moment at which a request should have been sent.
A whole run writes loadtests/results/matrix-<date>.json and matrix.html; a part writes into loadtests/out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from loadtests import plots
from loadtests.claims import EXPERIMENTS, Claim
from loadtests.harness import (
    OUT,
    RESULTS,
    NotReady,
    Run,
    cost,
    database,
    end_on_sigterm,
    header,
    offer,
    outside_services,
    quote,
    raise_file_limit,
    save,
    say,
)
from loadtests.servers.catalog import BY_NAME, SERVERS, Server
from loadtests.servers.rig import CONNECTIONS, POLLS_A_SECOND, Rig, polls, seed, start
from loadtests.workload import Stream

SECONDS = 12.0


@dataclass(frozen=True, slots=True)
class Wait:
    """One of the six waits: its letter, what it is, how it is asked for, and how many wait at once if nobody queues."""

    letter: str
    title: str
    path: str
    rate: float
    at_once: str
    method: str = "GET"
    form: str = ""
    body: int = 0
    lid: int = 1000
    patience: float = 8.0

    def stream(self, port: int, seconds: float, **changes: Any) -> Stream:
        """The requests of this wait; `changes` are fields of the stream that should be different."""
        asked = Stream(
            "requests", port, (self.path,), self.rate, seconds, self.lid, self.patience,
            self.method, self.form, self.body, expect_digest=bool(self.body),
        )  # fmt: skip
        return replace(asked, **changes)


WAITS = (
    Wait("a", "a call to an outside service of 200 to 500 ms", "/proxy", 200, "70 wait at once"),
    Wait("b", "a batch of database writes of 100 ms", "/batch", 150, "15 wait at once, on connections", "POST"),
    Wait(
        "c", "uploads of 100 MB, checked and compressed while they arrive", "/upload", 0.25, "one every 4 s", "POST",
        body=100_000_000, patience=20.0,
    ),
    Wait("d", "five services of 100 ms, joined", "/joined", 100, "10 wait at once, for 50 answers"),
    Wait("e", "100 clients that ask every 2 s for a query of 500 ms", "/report", 50, "25 wait at once, on connections",
         lid=100),
    Wait("f", "a sign-in that waits 200 ms on a third party", "/sign-in", 300, "60 wait at once", "POST",
         form="code=7KQM3XVD9TRE"),
)  # fmt: skip


def measure(rig: Rig, server: Server, wait: Wait, seconds: float) -> dict[str, Any]:
    """One cell of the matrix; with a reason instead of figures where the server could not be measured."""
    cell: dict[str, Any] = {"server": server.name, "wait": wait.letter}
    program, port = start(rig, server)
    try:
        with program:
            # Opens the pools, so that the first second does not measure thirty log-ins to the database.
            offer([polls(port, 1.0)], rig.cores.load)
            idle = cost(program.pid)
            watched = {"server": program.pid, **rig.watched}
            found = offer([wait.stream(port, seconds), polls(port, seconds)], rig.cores.load, watched)
    except NotReady as failure:
        return {**cell, "failed": str(failure)}
    cell |= {name: outcome.summary() for name, outcome in found.outcomes.items()}
    cell |= {"usage": {name: asdict(usage) for name, usage in found.usage.items()}}
    return {**cell, "idle_pss_mib": round(idle.pss / 2**20, 1)}


COLUMNS = (
    "server",
    "right/s",
    "p50",
    "p95",
    "p99 ms",
    "errors",
    "CPU",
    "PSS",
    "RSS MiB",
    "polls/s",
    "p99 ms",
    "late",
    "lost",
)
FORM = "{:24} {:>8} {:>7} {:>7} {:>7} {:>7} {:>5} {:>6} {:>7} {:>8} {:>7} {:>5} {:>5}"


def row(cell: dict[str, Any]) -> list[str]:
    """A cell of the matrix as a row of its table."""
    title = BY_NAME[cell["server"]].title
    if "failed" in cell:
        return [title, *["–"] * (len(COLUMNS) - 1)]
    asked, polled, used = cell["requests"], cell["polls"], cell["usage"]["server"]
    return [
        title, figure(asked["per_second"]), *(figure(asked[name]) for name in ("p50_ms", "p95_ms", "p99_ms")),
        str(asked["failed"]), f"{used['cpu_share']:.0%}", figure(used["pss_mib"]), figure(used["rss_mib"]),
        figure(polled["per_second"]), figure(polled["p99_ms"]), str(polled["late"]), str(polled["failed"]),
    ]  # fmt: skip


def figure(value: float | None) -> str:
    """A figure for a table; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,.1f}" if abs(value) < 10 else f"{value:,.0f}"


def explanation(pool: int) -> str:
    """What has to be known to read the table."""
    return (
        f"{pool} connections to the database per server, divided among its processes; fifty threads where threads are "
        f"chosen. {POLLS_A_SECOND:.0f} router polls a second in every cell. right/s: right answers while the load "
        "lasted. Latencies count from the scheduled moment; what has no answer after 8 s (uploads: 20 s) is an error. "
        "CPU: of the server's processes, as a share of the one core they are pinned to. PSS and RSS: memory at most, "
        "of all its processes. late: polls answered after more than 2 s, when apfree has given up. lost: polls without "
        "a right answer."
    )


def page(document: dict[str, Any]) -> str:
    """The results as one HTML page that needs nothing else."""
    facts = document["facts"]
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        "<title>Server matrix</title><style>",
        ":root{color-scheme:light dark;--ink:#14201d;--paper:#fff;--line:#d5dcd9;--soft:#4f5d59}",
        "@media(prefers-color-scheme:dark){:root{--ink:#e9efec;--paper:#131a18;--line:#2b3531;--soft:#a9b6b1}}",
        "body{margin:2rem auto;max-width:72rem;padding:0 1rem;font:.9375rem/1.5 system-ui,sans-serif;color:var(--ink);",
        "background:var(--paper)}h1,h2{font-weight:400;font-family:ui-serif,Palatino,serif}table{border-collapse:collapse;",
        "width:100%;margin:1rem 0}td,th{padding:.25rem .5rem;border-bottom:1px solid var(--line);text-align:right;",
        "font-weight:400;font-variant-numeric:tabular-nums}th{color:var(--soft)}td:first-child,th:first-child{text-align:left}",
        "pre{white-space:pre-wrap;font-size:.8125rem}.plot{overflow-x:auto}svg{font:12px system-ui,sans-serif}</style>",
        f"<h1>Server matrix</h1><pre>{escape(header(facts))}</pre>",
        f"<p>{escape(explanation(document['connections']))}</p>",
    ]
    for wait in WAITS:
        cells = [cell for cell in document["cells"] if cell["wait"] == wait.letter]
        if not cells:
            continue
        parts.append(
            f"<h2>({wait.letter}) {escape(wait.title)}</h2><p>{figure(wait.rate)} a second; {wait.at_once}.</p>"
        )
        parts.append(f'<div class="plot">{picture(cells)}</div>')
        parts.append(table(COLUMNS, [row(cell) for cell in cells]))
    parts.append("<h2>Servers</h2>" + table(("server", "as it was started"), [(s.title, s.note) for s in SERVERS]))
    if document["claims"]:
        parts.append("<h2>Published claims</h2><p>As they came out here.</p>")
        for claim in document["claims"]:
            rows = [list(map(str, line.values())) for line in claim["figures"]]
            parts.append(f"<h3>{escape(claim['claim'])}</h3><p>{escape(claim['how'])}</p>")
            parts.append(table(tuple(claim["figures"][0]), rows) if rows else "")
            parts.append(f"<p><strong>{escape(claim['found'])}</strong></p>")
    return "\n".join(parts) + "</html>\n"


def summary(document: dict[str, Any], name: str) -> str:
    """What the results' README says of a whole run, kept under this name: its facts, and the polls beside each wait."""
    facts, servers = document["facts"], [server["name"] for server in document["servers"]]
    lines = [
        "```", header(facts), "```", "",
        f"[{name}]({name}), with pictures [matrix.html](matrix.html); {facts['seconds'] // 60} minutes. The polls "
        "beside each wait, p99 in ms (a dash: polls were lost, after 8 s without an answer):", "",
        "| wait | " + " | ".join(servers) + " |", "| --- |" + " ---: |" * len(servers),
    ]  # fmt: skip
    for wait in document["waits"]:
        cells = {cell["server"]: cell for cell in document["cells"] if cell["wait"] == wait["letter"]}
        told = [
            "–" if "failed" in cells[server] or cells[server]["polls"]["failed"]
            else figure(cells[server]["polls"]["p99_ms"]) for server in servers
        ]  # fmt: skip
        lines.append(f"| ({wait['letter']}) {wait['title']}, {wait['rate']:g}/s | " + " | ".join(told) + " |")
    return "\n".join(lines)


def picture(cells: Sequence[dict[str, Any]]) -> str:
    """The diagrams of one wait, over the servers."""
    measured = [cell for cell in cells if "failed" not in cell]

    def share(cell: dict[str, Any], stream: str, *bad: str) -> float:
        return 100 * sum(cell[stream][name] for name in bad) / max(cell[stream]["offered"], 1)

    return plots.bars(
        [
            ("p99 of requests, ms", [cell["requests"]["p99_ms"] for cell in measured]),
            ("failed, %", [share(cell, "requests", "failed") for cell in measured]),
            ("p99 of polls, ms", [cell["polls"]["p99_ms"] for cell in measured]),
            ("late or lost, %", [share(cell, "polls", "late", "failed") for cell in measured]),
            ("CPU, % of a core", [cell["usage"]["server"]["cpu_share"] * 100 for cell in measured]),
            ("memory, MiB", [cell["usage"]["server"]["pss_mib"] for cell in measured]),
        ],
        [BY_NAME[cell["server"]].title for cell in measured],
        logarithmic=(0, 2),
        alone=False,
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table."""
    lines = ["".join(f"<td>{escape(text)}</td>" for text in line) for line in rows]
    return (
        "<table><tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"
        + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
    )  # fmt: skip


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what it leaves out is taken from WAIT and SERVERS."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.matrix", description="The server matrix.")
    known = f"some of {','.join(BY_NAME)}"
    parser.add_argument(
        "--wait", default=os.environ.get("WAIT", ""), help="letters of the waits, such as af; all of them"
    )
    parser.add_argument("--servers", default=os.environ.get("SERVERS", ""), help=f"{known}; all of them")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the load of a cell lasts")
    parser.add_argument("--no-claims", action="store_true", help="leave the published claims out")
    parser.add_argument("--only-claims", action="store_true", help="test the published claims and nothing else")
    asked = parser.parse_args(words)
    asked.wait = asked.wait.replace(",", "") or "".join(wait.letter for wait in WAITS)
    asked.servers = asked.servers.split(",") if asked.servers else list(BY_NAME)
    for letter in asked.wait:
        if letter not in {wait.letter for wait in WAITS}:
            parser.error(f"there is no wait {letter!r}; there are a to f")
    for name in asked.servers:
        if name not in BY_NAME:
            parser.error(f"there is no server {name!r}; {known}")
    return asked


def main() -> int:
    """Measures what was asked for; 1 if any cell could not be measured."""
    asked = arguments()
    whole = len(asked.wait) == len(WAITS) and len(asked.servers) == len(SERVERS) and not asked.only_claims
    raise_file_limit()
    end_on_sigterm()
    run = Run("python -m loadtests.matrix " + " ".join(sys.argv[1:]))
    cells: list[dict[str, Any]] = []
    claims: list[Claim] = []
    with database("matrix", run.cores.load, 2 * CONNECTIONS) as server_of_data:
        seed(server_of_data.url)
        outside, port = outside_services(run.cores.load)
        with outside:
            watched = {"database": server_of_data.pid, "outside": outside.pid}
            rig = Rig(run.cores, server_of_data.url, port, watched)
            say(header(run.begun()) + "\n\n" + explanation(CONNECTIONS))
            for wait in WAITS:
                if wait.letter not in asked.wait or asked.only_claims:
                    continue
                say(f"\n({wait.letter}) {wait.title}: {figure(wait.rate)} a second; {wait.at_once}")
                say(FORM.format(*COLUMNS))
                for name in asked.servers:
                    cells.append(measure(rig, BY_NAME[name], wait, asked.seconds))
                    say(FORM.format(*row(cells[-1])) + str(cells[-1].get("failed", "")))
            if asked.only_claims or (whole and not asked.no_claims):
                for experiment in EXPERIMENTS:
                    claims.append(experiment(rig))
                    say(f"\n{claims[-1].claim}\n{claims[-1].how}")
                    for line in claims[-1].figures:
                        say("  " + "  ".join(f"{name} {value}" for name, value in line.items()))
                    say(claims[-1].found)
            facts = run.facts(list(watched.values()))
    document = {
        "facts": facts, "connections": CONNECTIONS, "polls_a_second": POLLS_A_SECOND, "seconds": asked.seconds,
        "waits": [asdict(wait) for wait in WAITS], "servers": [asdict(server) for server in SERVERS],
        "cells": cells, "claims": [asdict(claim) for claim in claims],
    }  # fmt: skip
    written, html = keep(document, run, whole=whole)
    say(f"\n{facts['others']}; {facts['seconds'] // 60} min {facts['seconds'] % 60} s\nwritten: {written} and {html}")
    return 1 if any("failed" in cell for cell in cells) else 0


def keep(document: dict[str, Any], run: Run, *, whole: bool) -> tuple[Path, Path]:
    """Writes the results: a whole run where results are kept, a part of one where output goes."""
    if whole:
        written, html = save("matrix", document, run.began), RESULTS / "matrix.html"
        quote("matrix", summary(document, written.name))
    else:
        written, html = OUT / "matrix-part.json", OUT / "matrix-part.html"
        written.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    html.write_text(page(document))
    return written, html


if __name__ == "__main__":
    sys.exit(main())
