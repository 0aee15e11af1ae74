"""Published claims about servers, each tried as an experiment of its own and reported as it comes out.

None of them is a test that passes: a claim that does not hold here is told with the figures that were found instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from loadtests.harness import NotReady, Program, connected, cost, is_open, offer
from loadtests.servers.catalog import BY_NAME, Server
from loadtests.servers.rig import Rig, start
from loadtests.workload import Stream

CROWD = 1000
CONNECTIONS = 10_000


@dataclass(slots=True)
class Claim:
    """A claim, how it was tried, the figures by server, and in one sentence what was found."""

    claim: str
    how: str
    figures: list[dict[str, Any]]
    found: str


@contextlib.contextmanager
def running(rig: Rig, server: Server, *more: str) -> Iterator[tuple[Program, int]]:
    """A server of the catalogue and its port, warmed by a few requests."""
    program, port = start(rig, server, *more)
    with program:
        offer([Stream("warm", port, ("/hold/1",), 100.0, 0.5)], rig.cores.load)
        yield program, port


def each(rig: Rig, names: tuple[str, ...], try_one: Callable[[Rig, Server], dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of an experiment for these servers; a server that cannot be tried says so in its line."""
    found = []
    for name in names:
        server = BY_NAME[name]
        try:
            found.append({"server": server.title, **try_one(rig, server)})
        except NotReady as failure:
            found.append({"server": server.title, "not measured": str(failure)})
    return found


def thousand_at_once(rig: Rig) -> Claim:
    """A thousand requests in one moment, each of which waits 100 ms for an outside service."""

    def try_one(rig: Rig, server: Server) -> dict[str, Any]:
        with running(rig, server) as (program, port):
            burst = Stream("burst", port, ("/hold/100",), CROWD / 2, 2.0, lid=CROWD, patience=12.0, burst=True)
            found = offer([burst], rig.cores.load, {"server": program.pid})
        told = found.outcomes["burst"].summary()
        return {
            "p50 ms": told["p50_ms"], "p99 ms": told["p99_ms"], "max ms": told["max_ms"], "errors": told["failed"],
            "CPU of these 2 s": f"{found.usage['server'].cpu_share:.0%}",
        }  # fmt: skip

    figures = each(rig, ("gunicorn-gevent", "ours", "waitress", "gthread", "asgiref", "fastapi"), try_one)
    best = min((line for line in figures if line.get("max ms")), key=lambda line: line["max ms"], default=None)
    return Claim(
        "1,000 concurrent I/O-bound requests: gevent under 200 ms, 50 threads over 2 s",
        "1,000 requests in the same moment, each waiting 100 ms for an outside service. 50 threads need 20 rounds of "
        "100 ms; one core needs the CPU time of 1,000 requests, whatever the server. Tried for at most 12 s.",
        figures,
        "No server answered." if best is None else
        f"The fastest was {best['server']}: all but the slowest within {best['p99 ms']} ms, the last after "
        f"{best['max ms']} ms. In a burst it is the CPU time of a request that counts, not its waiting.",
    )  # fmt: skip


def thousand_waiting(rig: Rig) -> Claim:
    """A thousand requests in flight all the time: 200 a second, each of which waits 5 s for an outside service."""
    hold = 5.0

    def try_one(rig: Rig, server: Server) -> dict[str, Any]:
        with running(rig, server) as (program, port):
            steady = Stream("steady", port, (f"/hold/{hold * 1000:.0f}",), CROWD / hold, 10.0, lid=3000, patience=9.0)
            found = offer([steady], rig.cores.load, {"server": program.pid})
        outcome, used = found.outcomes["steady"], found.usage["server"]
        added = {share: outcome.latencies.percentile(share) for share in (0.5, 0.95, 0.99)}
        told = {
            f"added p{share * 100:.0f} ms": None if value is None else round((value - hold) * 1000)
            for share, value in added.items()
        }
        return {**told, "errors": outcome.failed, "CPU": f"{used.cpu_share:.0%}", "PSS MiB": used.pss_mib}

    figures = each(rig, ("gunicorn-gevent", "ours", "fastapi", "waitress", "asgiref"), try_one)
    ours = figures[1]
    return Claim(
        "1,000 concurrent I/O-bound requests: gevent at under 30 % CPU, WsgiToAsgi about 300 ms at 40 %",
        "200 requests a second, each waiting 5 s for an outside service, so that 1,000 wait at any time. Added: beyond "
        "the 5 s. An error is no answer after 9 s.",
        figures,
        f"Gatepost's front door added {ours.get('added p95 ms')} ms (p95) at {ours.get('CPU')} of a core. WsgiToAsgi "
        "runs one request at a time: it cannot hold a thousand. FastAPI's line is mostly httpx's, whose pool "
        "walks over all of its connections at every request.",
    )


def fifty_first(rig: Rig) -> Claim:
    """Fifty requests that wait 2 s, and half a second later ten that wait for nothing."""

    def try_one(rig: Rig, server: Server) -> dict[str, Any]:
        with running(rig, server) as (_, port):
            slow = Stream("slow", port, ("/hold/2000",), 50.0, 1.0, patience=10.0, burst=True)
            quick = Stream("quick", port, ("/alive",), 10.0, 1.0, patience=10.0, begin=0.5, burst=True)
            found = offer([slow, quick], rig.cores.load)
        quickly, slowly = found.outcomes["quick"].summary(), found.outcomes["slow"].summary()
        return {
            "the 51st waited, ms": quickly["p50_ms"], "longest of ten, ms": quickly["max_ms"],
            "of the fifty, the last after ms": slowly["max_ms"], "errors": quickly["failed"] + slowly["failed"],
        }  # fmt: skip

    figures = each(rig, ("waitress", "gthread", "a2wsgi", "granian", "gunicorn-gevent", "ours", "fastapi"), try_one)
    held = [line["server"] for line in figures if (line.get("the 51st waited, ms") or 0) > 1000]
    lost = [f"{line['server']} {line['errors']}" for line in figures if line.get("errors")]
    return Claim(
        "The 51st request waits",
        "50 requests that wait 2 s for an outside service; half a second later 10 for a page that waits for nothing. "
        "A server that has only 50 threads lets them wait 1.5 s.",
        figures,
        f"It waits under: {', '.join(held) or 'none of them'}. Had an error, of the 60: {', '.join(lost) or 'none'}. "
        "Gunicorn's 10 × 5 threads are 10 lines of 5: a request may wait behind a full process while another is free.",
    )


def ten_thousand_connections(rig: Rig) -> Claim:
    """Ten thousand connections, each of which has had one answer and stays open."""

    def try_one(rig: Rig, server: Server) -> dict[str, Any]:
        patient = {"fastapi": ("--timeout-keep-alive", "75"), "gunicorn-gevent": ("--keep-alive", "75")}
        with running(rig, server, *patient.get(server.name, ())) as (program, port):
            before = cost(program.pid)
            with connected(port, CONNECTIONS) as sockets:
                after = cost(program.pid)
                open_still = sum(map(is_open, sockets))
        grown = (after.pss - before.pss) / max(open_still, 1) / 1024
        return {
            "opened": len(sockets),
            "open": open_still,
            "kB each": round(grown, 1),
            "PSS MiB": round(after.pss / 2**20),
        }

    figures = each(rig, ("fastapi", "gunicorn-gevent", "ours"), try_one)
    return Claim(
        "FastAPI holds 10,000 connections at under 1 MB each",
        "Connections opened one after another, each with one request for a page and its answer, then left open. "
        "Memory: what the server's processes grew by, per connection still open.",
        figures,
        "; ".join(f"{line['server']}: {line.get('kB each')} kB for each of {line.get('open')}" for line in figures)
        + ".",
    )


EXPERIMENTS = (thousand_at_once, thousand_waiting, fifty_first, ten_thousand_connections)
