"""What one might have written instead: FastAPI and asyncpg under uvicorn with uvloop and httptools.

Three applications on the product's own tables. `row` updates the session's row, one poll after the other on each
connection. `rows` writes what the product writes (counter line, session, grant) in one statement per poll. `batch` does
the product's group commit: its statements, its planner settings, its rule that a batch leaves when the last one is
committed. None of them checks keys or token signatures, keeps limits, metrics or a memory for outages.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from sqlalchemy import TextClause

from portal import ledger

ALLOW, DENY = "Auth: 1\n", "Auth: 0\n"
BATCH = 1000
ROW = """
    UPDATE session
       SET used_down = GREATEST(used_down, $2), used_up = GREATEST(used_up, $3), ip = $4, reported_at = now()
     WHERE token_hash = $1 AND state = 'active'
    RETURNING id
"""
ROWS = """
    WITH moved AS (
        UPDATE counter_line l
           SET down = GREATEST(l.down, $2), up = GREATEST(l.up, $3), at = now(),
               charged_down = l.charged_down + GREATEST(0, $2 - l.down),
               charged_up = l.charged_up + GREATEST(0, $3 - l.up)
          FROM session s
         WHERE s.token_hash = $1 AND s.state = 'active'
           AND l.gateway_id = s.gateway_id AND l.mac = $5 AND l.ip = $4 AND l.current
        RETURNING l.session_id, new.charged_down - old.charged_down AS down, new.charged_up - old.charged_up AS up
    ),
    spent AS (
        UPDATE session s
           SET used_down = s.used_down + m.down, used_up = s.used_up + m.up, reported_at = now(),
               used_seconds = s.used_seconds + EXTRACT(EPOCH FROM now() - s.reported_at)
          FROM moved m
         WHERE s.id = m.session_id
        RETURNING s.grant_id, m.down, m.up
    )
    UPDATE "grant" g
       SET used_down = g.used_down + t.down, used_up = g.used_up + t.up
      FROM spent t
     WHERE g.id = t.grant_id
    RETURNING g.id
"""
PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def row() -> FastAPI:
    """The session's row alone."""

    async def answer(app: FastAPI, token: str, incoming: int, outgoing: int, ip: str, _mac: str, _gw_id: str) -> str:
        async with app.state.pool.acquire() as db:
            found = await db.fetchval(ROW, _hash(token), incoming, outgoing, ip)
        return DENY if found is None else ALLOW

    return _app(answer)


def rows() -> FastAPI:
    """All rows that the product writes."""

    async def answer(app: FastAPI, token: str, incoming: int, outgoing: int, ip: str, mac: str, _gw_id: str) -> str:
        async with app.state.pool.acquire() as db:
            found = await db.fetchval(ROWS, _hash(token), incoming, outgoing, ip, mac)
        return DENY if found is None else ALLOW

    return _app(answer)


def batch() -> FastAPI:
    """The product's statements for all that wait, in one transaction."""

    async def answer(app: FastAPI, token: str, incoming: int, outgoing: int, ip: str, mac: str, gw_id: str) -> str:
        told = asyncio.get_running_loop().create_future()
        app.state.waiting.append((told, _hash(token).hex(), app.state.gateways[gw_id], mac, ip, incoming, outgoing))
        app.state.wake.set()
        return str(await told)

    return _app(answer, writer=_write_batches)


async def _write_batches(app: FastAPI) -> None:
    """For ever: what has come while the last commit ran is written together, then answered."""
    app.state.waiting, app.state.wake = [], asyncio.Event()
    sessions: dict[str, int] = {}
    async with app.state.pool.acquire() as db:
        statements = [await _prepared(db, one) for one in (ledger.LOCK, ledger.WRITE, ledger.READ)]
        while True:
            await app.state.wake.wait()
            app.state.wake.clear()
            taken, app.state.waiting = app.state.waiting[:BATCH], app.state.waiting[BATCH:]
            if not taken:
                continue
            told, tokens, gateways, macs, ips, downs, ups = (list(column) for column in zip(*taken, strict=True))
            size = len(taken)
            values = {
                "session": [sessions.get(token) for token in tokens], "token": tokens,
                "gateway": gateways, "mac": macs, "ip": ips, "down": downs, "up": ups,
                "logout": [False] * size, "repeats": [False] * size, "every": [3600] * size,
                "rate": [10**12] * size, "burst": ledger.BURST_BYTES,
            }  # fmt: skip
            found: Any = []
            async with db.transaction():
                for statement, names in statements:
                    found = await statement.fetch(*(values[name] for name in names))
            answers = [DENY] * size
            for facts in found:
                sessions[tokens[facts["n"] - 1]] = facts["named_id"]
                if facts["state"] == "active":
                    answers[facts["n"] - 1] = ALLOW
            for one, said in zip(told, answers, strict=True):
                one.set_result(said)
            if app.state.waiting:
                app.state.wake.set()


async def _or_exit(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        logging.exception("the writer failed")
        os._exit(1)


async def _prepared(db: Any, statement: TextClause) -> tuple[Any, list[str]]:
    """A statement of the product in asyncpg's notation, prepared, and its parameters' names in order."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement.text)))
    numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", statement.text)
    return await db.prepare(numbered), names


def _app(answer: Any, writer: Any = None) -> FastAPI:
    """An application that answers polls by `answer`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        url, size = os.environ["BENCH_DATABASE"], int(os.environ["BENCH_POOL"])
        settings = PLANS if writer else {}
        async with asyncpg.create_pool(url, min_size=size, max_size=size, server_settings=settings) as pool:
            app.state.pool = pool
            app.state.gateways = {row["gw_id"]: row["id"] for row in await pool.fetch("SELECT id, gw_id FROM gateway")}
            if writer is None:
                yield
                return
            # A writer that fails must not leave everybody waiting in silence.
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(_or_exit(writer(app)))
                yield
                task.cancel()

    app = FastAPI(lifespan=lifespan, default_response_class=PlainTextResponse)

    @app.get("/alive")
    async def alive() -> str:
        return "yes"

    @app.get("/auth/")
    async def poll(stage: str, token: str, mac: str, ip: str, incoming: int, outgoing: int, gw_id: str) -> str:
        if stage != "counters":
            return DENY
        return str(await answer(app, token, incoming, outgoing, ip, mac, gw_id))

    return app
