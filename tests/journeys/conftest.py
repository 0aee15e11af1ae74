"""One live server and one browser for all journeys; a house for each."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser import launched
from tests.journeys.house import House
from tests.journeys.live import Live


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A headless browser. Playwright waits in patched sockets, so the gateways of this process live on meanwhile."""
    with launched() as browser:
        yield browser


@contextlib.contextmanager
def short_path() -> Iterator[Path]:
    """A short path that PostgreSQL's own user can reach; pytest's is private."""
    path = Path(tempfile.mkdtemp(prefix="gp-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    end = time.monotonic() + 10
    while path.exists():
        # A database whose server was killed goes on writing for a moment, until it has noticed.
        shutil.rmtree(path, ignore_errors=time.monotonic() < end)


@pytest.fixture
def directory() -> Iterator[Path]:
    """For an installation that one journey has for itself."""
    with short_path() as path:
        yield path


@pytest.fixture(scope="package")
def live() -> Iterator[Live]:
    """The server that most journeys share; it must end well."""
    with short_path() as path:
        live = Live(path)
        try:
            live.start()
            yield live
            assert live.stop() == 0
        finally:
            live.close()


@pytest.fixture(scope="package")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def opened(live: Live, browser: Browser, numbers: Iterator[int]) -> Iterator[Callable[..., House]]:
    """Opens a house; in the end it is shown that what was charged is what was reported, to the byte."""
    houses: list[House] = []

    def open_one(name: str = "Hotel Linde", **options: Any) -> House:
        houses.append(House(live, browser, f"house-{next(numbers)}", name, **options))
        return houses[-1]

    yield open_one
    try:
        for house in houses:
            house.settles()
    finally:
        for house in houses:
            house.closes()


@pytest.fixture
def house(opened: Callable[..., House]) -> House:
    return opened()
