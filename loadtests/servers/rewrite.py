"""The portal of the matrix written again for asyncio: FastAPI, asyncpg, httpx. What one might build instead of ours.

The same pages, statements, transactions and pool as `app`, written the way that framework's manual shows.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import asyncpg
import httpx
from fastapi import FastAPI, Form, Request
from fastapi.responses import PlainTextResponse

from loadtests.servers import common

FIND = common.FIND.replace(":token", "$1")
COUNT = common.COUNT.replace(":token", "$1").replace(":incoming", "$2").replace(":outgoing", "$3")
ADD_SIGN_IN = common.ADD_SIGN_IN.replace(":code", "$1")


def create() -> FastAPI:
    """The application; its pools open when the server starts it."""
    settings = common.Settings.from_env()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Without its lid of 100 connections, and with its own number of idle ones: at each request httpx compares each
        # idle connection with all others, and with a thousand of them gave 7 joined answers a second in place of 96.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        outside = httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.outside}", limits=limits, timeout=30)
        async with asyncpg.create_pool(settings.database, min_size=0, max_size=settings.pool) as pool, outside:
            app.state.pool, app.state.outside = pool, outside
            yield

    app = FastAPI(lifespan=lifespan, default_response_class=PlainTextResponse)

    async def wait(milliseconds: str) -> int:
        answer = await app.state.outside.get(f"/wait/{milliseconds}")
        return int(answer.status_code)

    @app.get("/alive")
    async def alive() -> str:
        return "yes"

    @app.get("/auth/")
    async def poll(token: str, incoming: int, outgoing: int) -> str:
        async with app.state.pool.acquire() as db, db.transaction():
            session = await db.fetchrow(FIND, token)
            if session is None:
                return common.DENY
            await db.execute(COUNT, session["token"], incoming, outgoing)
        return common.ALLOW

    @app.get("/proxy")
    async def proxy() -> str:
        return str(await wait("200-500"))

    @app.post("/batch")
    async def batch() -> str:
        async with app.state.pool.acquire() as db, db.transaction():
            await db.execute(common.ADD_LINE)
            await db.execute(common.SLEEP_BATCH)
        return "written"

    @app.post("/upload")
    async def upload(request: Request) -> str:
        digest, packer, packed = hashlib.sha256(), zlib.compressobj(1), 0
        async for chunk in request.stream():
            digest.update(chunk)
            packed += len(packer.compress(chunk))
            # As in the Flask application: a fast sender must not keep the loop to itself.
            await asyncio.sleep(0)
        return f"{digest.hexdigest()} {packed + len(packer.flush())}"

    @app.get("/joined")
    async def joined() -> str:
        return str(await asyncio.gather(*(wait("100") for _ in range(common.SERVICES))))

    @app.get("/report")
    async def report() -> str:
        async with app.state.pool.acquire() as db:
            await db.execute(common.SLEEP_REPORT)
        return "ready"

    @app.post("/sign-in")
    async def sign_in(code: Annotated[str, Form()]) -> str:
        if await wait("200") != 200:
            raise RuntimeError("the third party did not answer with 200")
        async with app.state.pool.acquire() as db, db.transaction():
            await db.execute(ADD_SIGN_IN, code)
        return "welcome"

    @app.get("/hold/{milliseconds}")
    async def hold(milliseconds: int) -> str:
        return str(await wait(str(milliseconds)))

    return app
