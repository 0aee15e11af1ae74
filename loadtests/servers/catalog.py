"""Which servers there are, how each is started, and what was chosen for it. Fifty threads wherever threads are chosen.

The connections to the database are the same number for all: a server of several processes divides them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
APP = "loadtests.servers.app"
"""The module whose `create` makes the application."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server: its name on the command line, its title, its command with `{port}` and `{app}`."""

    name: str
    title: str
    command: tuple[str, ...]
    processes: int = 1
    note: str = ""

    def argv(self, port: int, app: str = APP) -> list[str]:
        """The command line for one port, and for the application that `create` in that module makes."""
        program, *words = (word.format(port=port, app=app) for word in self.command)
        return [sys.executable if program == "python" else str(BIN / program), *words]


def gunicorn(*words: str) -> tuple[str, ...]:
    """Gunicorn's command line, with what is the same for all of its workers."""
    return ("gunicorn", "--bind", "127.0.0.1:{port}", *words, "{app}:create()")


def uvicorn(factory: str) -> tuple[str, ...]:
    """Uvicorn's command line; uvloop and httptools are installed, so it takes them."""
    host = ("--host", "127.0.0.1", "--port", "{port}")
    return ("uvicorn", "--factory", *host, "--no-access-log", "--log-level", "warning", factory)


def module(name: str, *words: str) -> tuple[str, ...]:
    """A module of ours that starts a server on the port."""
    return ("python", "-m", f"loadtests.servers.{name}", *words, "{port}")


SERVERS = (
    Server("flask", "Flask development", module("launch", "dev"), note="a thread per connection"),
    Server(
        "waitress",
        "Waitress",
        (
            "waitress-serve",
            "--listen=127.0.0.1:{port}",
            "--threads=50",
            "--connection-limit=2000",
            "--call",
            "{app}:create",
        ),
        note="50 threads; its limit of 100 connections raised to 2,000",
    ),
    Server(
        "cheroot",
        "CherryPy (cheroot)",
        module("launch", "cheroot"),
        note="50 threads; its backlog of 5 raised to 1,024",
    ),
    Server("sync", "Gunicorn sync", gunicorn("--workers", "5"), 5, "5 processes: its manual's 2 × cores + 1"),
    Server(
        "gthread",
        "Gunicorn gthread",
        gunicorn("--worker-class", "gthread", "--workers", "10", "--threads", "5"),
        processes=10,
        note="10 processes × 5 threads",
    ),
    Server(
        "gunicorn-gevent",
        "Gunicorn gevent",
        gunicorn(
            *("--worker-class", "gevent", "--workers", "1", "--worker-connections", "12000"),
            *("--config", "python:loadtests.servers.gunicorn_gevent"),
        ),
        note="1 process; its limit of 1,000 connections raised to 12,000",
    ),
    Server(
        "a2wsgi",
        "uvicorn + a2wsgi",
        uvicorn("loadtests.servers.asgi:a2wsgi"),
        note="50 threads; its default is 10",
    ),
    Server(
        "asgiref",
        "uvicorn + WsgiToAsgi",
        uvicorn("loadtests.servers.asgi:wsgi_to_asgi"),
        note="one thread: it has no setting for more",
    ),
    Server(
        "granian",
        "granian",
        (
            *("granian", "--interface", "wsgi", "--factory", "--workers", "1", "--blocking-threads", "50"),
            *("--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning", "{app}:create"),
        ),
        note="50 threads",
    ),
    Server(
        "ours",
        "Gatepost's front door",
        ("python", "-m", "gevent.monkey", "--module", "loadtests.servers.ours", "{port}", "{app}"),
        note="gevent, 1 process; its limit of 400 guests at once raised to 2,000",
    ),
    Server(
        "fastapi",
        "FastAPI + asyncpg",
        uvicorn("loadtests.servers.rewrite:create"),
        note="the rewrite: asyncio, 1 process",
    ),
)
BY_NAME = {server.name: server for server in SERVERS}
