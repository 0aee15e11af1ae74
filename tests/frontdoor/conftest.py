from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.frontdoor.wire import House, house


@pytest.fixture
def open_house() -> Iterator[Callable[..., House]]:
    """Front doors with rules of one's own, closed at the end."""
    opened: list[House] = []

    def opening(**settings: Any) -> House:
        opened.append(house(**settings))
        return opened[-1]

    yield opening
    for one in opened:
        one.door.drain(0.5)


@pytest.fixture
def here(open_house: Callable[..., House]) -> House:
    """A front door with the usual rules."""
    return open_house()
