"""What the guest's door's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from portal.keys import Keyring
from portal.offload import Offload
from portal.store import Store
from tests.conftest import Cluster
from tests.web.guest.hotel import Hotel, Outage


@pytest.fixture(scope="session")
def offload() -> Iterator[Offload]:
    offload = Offload()
    yield offload
    offload.close()


@pytest.fixture
def hotel(store: Store, keyring: Keyring, offload: Offload) -> Iterator[Hotel]:
    hotel = Hotel(store, keyring, offload)
    yield hotel
    hotel.close()


@pytest.fixture
def outage(cluster: Cluster, database_url: str) -> Outage:
    """To be entered while the database shall be away."""
    return Outage(cluster, database_url)
