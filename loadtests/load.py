"""`make load`: five minutes of gateways, guests and operators, as the field behaves; then the books are compared.

    python -m loadtests.load [--minutes 5] [--gateways 50] [--guests 1000] [--shape steady|opening|outage|slow]
    python -m loadtests.load --server http://vps:8080 --keys gateways.csv --codes codes.csv [--charged COMMAND]

Starts a server of its own on a fresh database, seeds it, runs `loadtests/locustfile.py` without its web page, prints a
table with latencies counted from the scheduled moment, writes loadtests/out/report.html, and holds what the fleet
reported against what the database charged. The exit status is 1 when a byte differs or a request failed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from loadtests import harness, plots
from loadtests.day import DAYS
from loadtests.fleet import Truth, read_truth
from loadtests.harness import OUT, ROOT, Program, Run, Sampler, Usage, answers, database, free_port, header, save, say
from loadtests.reconcile import (
    CHARGED,
    Balance,
    balance,
    by_code,
    by_entry,
    charged_entries,
    read_charged,
)
from loadtests.workload import Outcome
from portal import gateways, networks, operators, vouchers
from portal.keys import Keyring
from portal.offload import Offload
from portal.operators import Role
from portal.store import Store, sql
from portal.store.migrations import migrate

SLUG = "load"
LIMIT_MEGABYTES = 3
ORDER = (
    "polls", "polls, slow line", "pings", "logins", "logouts", "splash pages", "sign-ins", "desk sign-ins",
    "desk pages", "vouchers issued",
)  # fmt: skip
COLUMNS = ("", "offered", "done", "a second", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors")
LINE = "{:<18}{:>9}{:>9}{:>10}{:>9}{:>9}{:>9}{:>9}{:>8}"

GRANTS = sql(
    "load.grants",
    """
    SELECT v.id, g.used_down, g.used_up
      FROM voucher v
      JOIN "grant" g ON g.id = v.grant_id
      JOIN network n ON n.id = g.network_id
     WHERE n.slug = :slug
    """,
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes, and the files that say what the server knows."""

    url: str
    keys: Path
    codes: Path
    desk: Path | None
    watch: Mapping[str, int] = field(default_factory=dict)
    store: Store | None = None
    keyring: Keyring | None = None


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.load", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (5)")
    parser.add_argument("--gateways", type=int, default=50, help="how many gateways (50)")
    parser.add_argument("--guests", type=int, default=1000, help="how many guests (1000)")
    parser.add_argument("--operators", type=int, default=2, help="how many at the desk (2)")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two polls of a guest (10)")
    parser.add_argument("--shape", default="steady", choices=list(DAYS), help="what the day looks like (steady)")
    parser.add_argument("--keep", action="store_true", help="keep a dated summary in loadtests/results")
    parser.add_argument("--out", type=Path, default=OUT, help="where report.html and the other files go")
    remote = parser.add_argument_group("a server elsewhere")
    remote.add_argument("--server", default="", metavar="URL", help="measure this one instead of starting one")
    remote.add_argument("--keys", type=Path, metavar="CSV", help="its gateways: gw_id, key")
    remote.add_argument("--codes", type=Path, metavar="CSV", help="its vouchers: code (and devices, bytes)")
    remote.add_argument("--desk", type=Path, metavar="CSV", help="its operators: email, password, network")
    remote.add_argument("--router-url", default="", metavar="URL", help="its plain HTTP, where --server is https")
    remote.add_argument("--charged", default="", metavar="COMMAND", help="prints what it charged, as CSV")
    remote.add_argument("--reconcile", action="store_true", help="only compare the last run with --charged")
    asked = parser.parse_args(words)
    if asked.server and not (asked.keys and asked.codes):
        parser.error("--server needs --keys and --codes: which gateways it knows, and which vouchers")
    if asked.reconcile and not asked.charged:
        parser.error("--reconcile needs --charged: a command that prints what the server charged")
    return asked


# The server


@contextlib.contextmanager
def own_server(asked: argparse.Namespace, cores: harness.Cores) -> Iterator[Target]:
    """A server on a fresh database, seeded; ended and removed with the block."""
    port = free_port()
    # Two runs may stand beside each other: neither may take the other's files for its own leftovers.
    name = f"load-{port}"
    state = asked.out / f"state-{name}"
    state.mkdir(parents=True, mode=0o700)
    with database(name, cores.load, 60) as postgres:
        migrate(postgres.url)
        store, keyring = Store(postgres.url), Keyring.load_or_create(state)
        try:
            keys, codes, desk = seed(store, keyring, state, asked)
            settings = {
                "STATE_DIR": str(state), "DATABASE__URL": postgres.url, "SERVER__HOST": "127.0.0.1",
                "SERVER__PORT": str(port),
            }  # fmt: skip
            serve = Program(
                f"{name}-server", [sys.executable, str(ROOT / "serve.py")], cores.server, answers(port, "/readyz"),
                {f"PORTAL_{name}": value for name, value in settings.items()},
            )  # fmt: skip
            with contextlib.ExitStack() as stack:
                stack.callback(lambda: shutil.move(serve.log, asked.out / "server.log"))
                stack.enter_context(serve)
                watch = {"server": serve.pid, "database": postgres.pid}
                yield Target(f"http://127.0.0.1:{port}", keys, codes, desk, watch, store, keyring)
        finally:
            store.dispose()
            shutil.rmtree(state, ignore_errors=True)


def seed(store: Store, keyring: Keyring, state: Path, asked: argparse.Namespace) -> tuple[Path, Path, Path]:
    """One network with three plans, its gateways, vouchers and operators; the files that tell the load of them."""
    now = store.database_now()
    password = secrets.token_urlsafe(24)
    password_hash = Offload().hash_password(password)
    with store.transaction() as db:
        network = networks.add(db, SLUG, "Load test", now, language="en")
        plans = {
            name: networks.add_plan(
                db, network.id, networks.terms(name, minutes=1440, megabytes=megabytes, devices=devices), now
            )
            for name, devices, megabytes in (("Day", 1, None), ("Family", 3, None), ("Little", 1, LIMIT_MEGABYTES))
        }
        keys = []
        for number in range(asked.gateways):
            gateway = gateways.add(
                db, network.id, f"load-{number}", now, interval_seconds=max(1, round(asked.interval))
            )
            keys.append((gateway.gw_id, gateways.make_key(db, keyring, gateway.id, now)))
        # One code in ten for three devices, one in ten with little on it.
        share = -(-asked.guests // 10)
        little, limit = plans["Little"], LIMIT_MEGABYTES * 10**6
        codes: list[tuple[str, int, int | str]] = []
        for plan, count, devices, most in ((plans["Day"], asked.guests, 1, ""), (plans["Family"], share, 3, ""),
                                           (little, share, 1, limit)):  # fmt: skip
            issued = vouchers.issue(db, keyring, plan, max(1, count), now)[1]
            codes += [(code, devices, most) for code in issued]
        # Each has an account of his own: two who sign in to one at the same moment are taken for somebody who guesses.
        staff = [(f"load-{number}@example.org", password, SLUG) for number in range(max(1, asked.operators))]
        for email, *_ in staff:
            operator, _ = operators.add(db, email, Role.MANAGER, network.id, now)
            operators.set_password(db, operator, password_hash)
    secrets.SystemRandom().shuffle(codes)
    files = state / "keys.csv", state / "codes.csv", state / "desk.csv"
    _csv(files[0], ("gw_id", "key"), keys)
    _csv(files[1], ("code", "devices", "bytes"), codes)
    _csv(files[2], ("email", "password", "network"), staff)
    return files


def _csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(head)
        out.writerows(rows)


# The load


def run_locust(
    asked: argparse.Namespace, target: Target, cores: harness.Cores
) -> tuple[dict[str, Any], dict[str, Usage]]:
    """Runs the locust file to its end; what it measured, and what each program cost meanwhile."""
    for name in ("load.json", "fleet.csv"):
        (asked.out / name).unlink(missing_ok=True)
    words = [
        sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "--headless", "--only-summary",
        "--host", target.url, "--keys", str(target.keys), "--codes", str(target.codes), "--out", str(asked.out),
        "--minutes", str(asked.minutes), "--gateways", str(asked.gateways), "--guests", str(asked.guests),
        "--operators", str(asked.operators), "--interval", str(asked.interval), "--shape", asked.shape,
        "--router-url", asked.router_url,
    ]  # fmt: skip
    if target.desk is not None:
        words += ["--desk", str(target.desk)]
    log = asked.out / "locust.log"
    with log.open("wb") as output, harness.pinned(cores.load):
        locust = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        watch = {**target.watch, "locust": locust.pid}
        with Sampler(watch, interval=1.0, window=asked.minutes * 60) as sampler:
            locust.wait(asked.minutes * 60 + 180)
    finally:
        locust.kill()
        locust.wait()
    measured = asked.out / "load.json"
    if not measured.exists():
        raise SystemExit(f"locust ended with status {locust.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
    return json.loads(measured.read_text()), {name: sampler.usage(name) for name in watch}


# The books


def reconcile(asked: argparse.Namespace, target: Target | None) -> list[Balance]:
    """Reported against charged: by list entry, and on our own server by grant. Empty: there was nobody to ask."""
    truth = read_truth(asked.out / "fleet.csv")
    if target is not None and target.store is not None and target.keyring is not None:
        return own_books(truth, target.store, target.keyring)
    if not asked.charged:
        return []
    told = subprocess.run(asked.charged, shell=True, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S602 - theirs
    return [balance("list entries", by_entry(truth), read_charged(told.stdout, truth))]


def own_books(truth: Truth, store: Store, keyring: Keyring) -> list[Balance]:
    """The books of our own server."""
    with store.read() as db:
        lines = charged_entries(row._asdict() for row in db.execute(sql("load.charged", CHARGED)))
        network = networks.by_slug(db, SLUG)
        if network is None:
            raise LookupError(f"the network {SLUG} is not there any more")
        names = {
            code: vouchers.find(db, keyring, network.id, vouchers.normalise(code) or "") for code in by_code(truth)
        }
        used = {row.id: (row.used_down, row.used_up) for row in db.execute(GRANTS, {"slug": SLUG})}
    by_voucher = {found.id: code for code, found in names.items() if found is not None}
    grants = {
        by_voucher.get(number, f"voucher {number}"): sums
        for number, sums in used.items()
        if any(sums) or number in by_voucher
    }
    return [
        balance("list entries", by_entry(truth), lines),
        balance("grants", by_code(truth), grants),
    ]


# The report


def in_order(measured: Mapping[str, Any]) -> list[Outcome]:
    """The outcomes, in the order of the table."""
    found = [Outcome.from_json(value) for value in measured["outcomes"]]
    return sorted(found, key=lambda one: ORDER.index(one.name) if one.name in ORDER else len(ORDER))


def row(outcome: Outcome) -> list[str]:
    """One line of the table."""
    figures = outcome.summary()

    def ms(name: str) -> str:
        value = figures[name]
        return "none" if value is None else f"{value:,.1f}"

    offered = outcome.right + outcome.failed
    return [
        outcome.name, f"{offered:,}", f"{outcome.right:,}", f"{outcome.right / outcome.seconds:,.1f}",
        ms("p50_ms"), ms("p95_ms"), ms("p99_ms"), ms("max_ms"), f"{outcome.failed:,}",
    ]  # fmt: skip


def table(outcomes: Sequence[Outcome]) -> str:
    """The table, for a terminal."""
    lines = [LINE.format(*COLUMNS)] + [LINE.format(*row(outcome)) for outcome in outcomes]
    for outcome in outcomes:
        lines += [f"    {outcome.name}: {number:,} × {what}" for what, number in outcome.errors.items()]
    return "\n".join(lines)


def costs(usage: Mapping[str, Usage]) -> str:
    """What the programs cost, in a line."""
    return "; ".join(
        f"{name} {one.cpu_share * 100:.0f} % of a core, {one.pss_mib:,.0f} MiB" for name, one in usage.items()
    )


def page(document: Mapping[str, Any], outcomes: Sequence[Outcome], verdict: Sequence[str]) -> str:
    """The report as one HTML page that needs nothing else."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row(one)) + "</tr>" for one in outcomes)
    wrong = "".join(
        f"<li>{escape(one.name)}: {number:,} × {escape(what)}</li>"
        for one in outcomes for what, number in one.errors.items()
    )  # fmt: skip
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        "<title>Load test</title><style>",
        ":root{color-scheme:light dark;--ink:#14201d;--paper:#fff;--line:#d5dcd9;--soft:#4f5d59}",
        "@media(prefers-color-scheme:dark){:root{--ink:#e9efec;--paper:#131a18;--line:#2b3531;--soft:#a9b6b1}}",
        "body{margin:2rem auto;max-width:72rem;padding:0 1rem;font:.9375rem/1.5 system-ui,sans-serif;color:var(--ink);",
        "background:var(--paper)}h1,h2{font-weight:400;font-family:ui-serif,Palatino,serif}",
        "table{border-collapse:collapse;width:100%;margin:1rem 0}",
        "td,th{padding:.25rem .5rem;border-bottom:1px solid var(--line);text-align:right;",
        "font-weight:400;font-variant-numeric:tabular-nums}th{color:var(--soft)}",
        "td:first-child,th:first-child{text-align:left}",
        "pre{white-space:pre-wrap;font-size:.8125rem}.plot{overflow-x:auto}svg{font:12px system-ui,sans-serif}</style>",
        f"<h1>Load test: {escape(document['load']['shape'])}</h1><pre>{escape(header(document['facts']))}</pre>",
        f"<p>{escape(document['what'])}</p>",
        "<p>Latency is counted from the moment at which a request was scheduled, not from when it could be sent.</p>",
        f"<table><tr>{heads}</tr>{lines}</table>{f'<ul>{wrong}</ul>' if wrong else ''}",
        "".join(f"<p><strong>{escape(line)}</strong></p>" for line in verdict),
        f"<p>{escape(document['costs'])}</p>",
        "<h2>Over time</h2>",
        *(f'<div class="plot">{picture}</div>' for picture in pictures(document["load"], outcomes)),
    ]
    return "\n".join(parts) + "</html>\n"


def pictures(measured: Mapping[str, Any], outcomes: Sequence[Outcome]) -> list[str]:
    """Diagrams over the seconds of the run: what was offered and done, how long it took, who was online."""
    seconds = max(1, round(measured["seconds"]))
    step = max(1, seconds // 60)
    by_name = {one.name: one for one in outcomes}

    def over_time(name: str, what: str) -> list[tuple[float, float]]:
        points = []
        for begin in range(0, seconds, step):
            cell = [by_name[name].timeline[at] for at in range(begin, begin + step) if at in by_name[name].timeline]
            if what == "offered":
                points.append((float(begin), sum(one.offered for one in cell) / step))
            elif what == "right":
                points.append((float(begin), sum(one.right for one in cell) / step))
            elif any(one.right for one in cell):
                mean = sum(one.total for one in cell) / sum(one.right for one in cell)
                longest = max(one.longest for one in cell)
                points.append((float(begin), max(0.01, (mean if what == "mean" else longest) * 1000)))
        return points

    found = []
    for name in ("polls", "splash pages", "sign-ins", "desk pages"):
        if name in by_name:
            rates = {what: over_time(name, key) for what, key in (("offered", "offered"), ("done", "right"))}
            times = {what: points for what in ("mean", "longest") if (points := over_time(name, what))}
            panels = [plots.Panel(f"{name} a second", rates)]
            if times:
                panels.append(plots.Panel(f"{name}, ms from schedule", times, logarithmic=True))
            found.append(plots.lines(panels, across="seconds", alone=False))
    online = [(float(at), float(number)) for at, number in measured["online"]][::step]
    if online:
        found.append(plots.lines([plots.Panel("guests online", {"online": online})], across="seconds", alone=False))
    return found


def verdicts(asked: argparse.Namespace, found: Sequence[Balance]) -> list[str]:
    """What the reconciliation says, in lines."""
    if not found:
        return [
            "reconciliation SKIPPED: nobody was asked what the server charged. Give --charged COMMAND, or afterwards: "
            f"python -m loadtests.load --reconcile --charged COMMAND --out {asked.out}, where COMMAND "
            "prints what `python -m loadtests.charged` says over there"
        ]
    lines = []
    for one in found:
        lines.append(f"reconciliation of {one}")
        lines += [f"    {difference}" for difference in one.differences[:20]]
    return lines


def main(words: Sequence[str] | None = None) -> int:
    """Runs the load; 0 when nothing failed and the books agree."""
    asked = arguments(words)
    asked.out = asked.out.resolve()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.reconcile:
        found = reconcile(asked, None)
        say("\n".join(verdicts(asked, found)))
        return 0 if all(one.good for one in found) else 1
    harness.raise_file_limit()
    harness.end_on_sigterm()
    run = Run("python -m loadtests.load " + " ".join(sys.argv[1:] if words is None else words))
    with contextlib.ExitStack() as stack:
        if asked.server:
            target = Target(asked.server, asked.keys.resolve(), asked.codes.resolve(), asked.desk)
        else:
            target = stack.enter_context(own_server(asked, run.cores))
        what = (
            f"{asked.minutes:g} minutes, {asked.gateways} gateways, {asked.guests} guests, {asked.operators} at the "
            f"desk, a poll of each guest every {asked.interval:g} s; shape: {DAYS[asked.shape].title}"
        )
        say(what)
        measured, usage = run_locust(asked, target, run.cores)
        found = reconcile(asked, target)
        if target.store is not None:
            with urlopen(f"{target.url}/metrics", timeout=10) as told:  # noqa: S310 - our own server
                (asked.out / "metrics.txt").write_bytes(told.read())
        facts = run.facts(list(target.watch.values()))
    if asked.server:
        facts["commit"] += " (of the load; what the server runs is not known here)"
        facts["cores"] = f"the server is elsewhere ({asked.server}); the load on core {sorted(run.cores.load)}"
    outcomes = in_order(measured)
    verdict = verdicts(asked, found)
    spent = f"{costs(usage)}; generator late at p99 by {measured['generator']['late_p99_ms']} ms"
    document = {
        "facts": facts,
        "what": what,
        "load": {name: value for name, value in measured.items() if name != "outcomes"},
        "outcomes": {one.name: one.summary() for one in outcomes},
        "usage": {name: asdict(one) for name, one in usage.items()},
        "costs": spent,
        "reconciliation": verdict,
    }
    say(header(facts))
    say("\n" + table(outcomes))
    say("\n" + spent)
    say("\n".join(verdict))
    (asked.out / "report.html").write_text(page(document, outcomes, verdict))
    say(f"written: {asked.out / 'report.html'}")
    if asked.keep:
        say(f"written: {save(f'load-{asked.shape}', document, run.began)}")
    return 1 if any(one.failed for one in outcomes) or not all(one.good for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
