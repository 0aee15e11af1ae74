"""An installation with a desk, for every test of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from portal.keys import Keyring
from portal.networks import Network
from portal.offload import Offload
from portal.operators import Operator, Role
from portal.store import Store
from tests.web.desk.offices import Browser, Office
from tests.worlds import Cafe


@pytest.fixture(scope="session")
def offload() -> Iterator[Offload]:
    """The real one: what is slow and dangerous is what is tested."""
    offload = Offload()
    yield offload
    offload.close()


@pytest.fixture
def office(store: Store, keyring: Keyring, offload: Offload) -> Office:
    """A desk without anybody at it."""
    return Office(store, keyring, offload)


@pytest.fixture
def linde(office: Office) -> Network:
    """A network without anything in it."""
    return office.network("hotel-linde", "Hotel Linde", time_zone="Europe/Berlin", colour="#1f5148")


@pytest.fixture
def owner(office: Office) -> Operator:
    """Who owns everything."""
    return office.operator("ana@linde.example", Role.OWNER)


@pytest.fixture
def ana(office: Office, owner: Operator) -> Browser:
    """The owner's browser, signed in."""
    return office.browser(owner)


@pytest.fixture
def cafe(store: Store, keyring: Keyring) -> Iterator[Cafe]:
    """A network whose guests come and go; it is called cafe."""
    cafe = Cafe(store, keyring)
    yield cafe
    cafe.close()
