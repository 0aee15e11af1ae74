"""A live server with fast gateways and guests who are online, for the faults."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from portal import grants, sessions
from portal.emulator import Gateway
from portal.emulator.guests import Guest
from tests.journeys.live import Live


class Venue:
    """A live installation with one network, one unlimited plan, and emulated gateways that report every second."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.network = live.network()
        self.plan = live.plan(self.network, devices=None)
        self.gateways: list[Gateway] = []
        self.ids: dict[str, int] = {}
        self.guests: list[Guest] = []
        self._phones = 0

    def opens(self, gw_id: str, *, interval: float = 1.0) -> Gateway:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.ids[gw_id] = self.live.gateway(self.network, gw_id, port).id
        gateway = Gateway(self.live.url, gw_id, interval=interval, path="/wifidog/", port=port)
        gateway.start(loops=False)
        self.gateways.append(gateway)
        return gateway

    def token(self, gateway: Gateway, guest: Guest, plan: object = None) -> str:
        """What a sign-in at our page would send the browser back with."""
        with self.live.store.transaction() as db:
            now = self.live.store.database_now()
            grant = grants.load(db, grants.make(db, plan or self.plan, "voucher", now)[0], now)
            return sessions.open(
                db,
                self.live.keyring,
                network_id=self.network.id,
                gateway_id=self.ids[gateway.settings.gw_id],
                grant=grant,
                mac=guest.mac,
                device="phone",
                language="en",
                terms_version=None,
                now=now,
            )

    def newcomer(self, gateway: Gateway) -> Guest:
        """A phone that was not there before."""
        self._phones += 1
        return gateway.guest(f"phone {self._phones}")

    def comes_online(self, gateway: Gateway) -> Guest:
        guest = self.newcomer(gateway)
        guest.present(self.token(gateway, guest))
        assert guest.online, "a guest with a good token is let in"
        self.guests.append(guest)
        return guest

    def reported(self) -> tuple[int, int]:
        """Bytes down and up that all gateways have reported, in requests that were sent whole."""
        accounts = [account for gateway in self.gateways for account in gateway.accounts.values()]
        return sum(a.reported.down for a in accounts), sum(a.reported.up for a in accounts)

    def closes(self) -> None:
        for gateway in self.gateways:
            gateway.stop()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path that PostgreSQL's own user can reach; pytest's is private."""
    path = Path(tempfile.mkdtemp(prefix="gp-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)
    # gevent closes the folders' descriptors in the loop's next turn, and only then are they gone from the disk. Not in
    # the next test's time: that may be one that measures how long the loop stands still.
    gevent.sleep(0.001)


@pytest.fixture
def venue_on(directory: Path) -> Iterator[Callable[..., Venue]]:
    """Opens a venue on a fresh installation with these settings; closes it in the end."""
    opened: list[Venue] = []

    def open_one(**settings: str) -> Venue:
        live = Live(directory, **settings)
        live.start()
        opened.append(Venue(live))
        return opened[-1]

    yield open_one
    for venue in opened:
        venue.closes()
        venue.live.close()
