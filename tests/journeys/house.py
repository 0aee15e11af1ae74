"""A house with guest Wi-Fi on a live server: a network, an emulated gateway, and guests with real browsers.

A guest's browser goes through the gateway's link for his device, runs no scripts, and is held to keep no cookie.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Response

from portal import guests, networks
from portal.emulator import Dialect, Gateway, Guest, auth_server
from portal.guests import Newcomer
from portal.networks import Network, Plan
from portal.offload import Offload
from tests.journeys.live import Live, free_port

WISH = "http://news.example/today"
PHONE = "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 Chrome/131.0.0.0 Mobile Safari/537.36"
LAPTOP = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/131.0.0.0 Safari/537.36"
# A browser's own patience is 30 s; here nobody waits that long for a page that does not come.
PATIENCE_MS = 15_000


class Device:
    """A guest's device: what it moves, and its browser. The page is the one window he has open."""

    def __init__(self, guest: Guest, page: Page) -> None:
        self.guest = guest
        self.page = page
        page.set_default_timeout(PATIENCE_MS)

    @property
    def says(self) -> str:
        """All that the page shows, on one line."""
        return " ".join(self.page.inner_text("body").split())

    @property
    def title(self) -> str:
        return self.page.inner_text("h1").strip()

    @property
    def online(self) -> bool:
        """What the router's firewall does."""
        return self.guest.online

    def opens(self, url: str = WISH) -> Response:
        """Opens a page, as anybody does who has just joined a Wi-Fi."""
        answer = self.page.goto(url)
        assert answer is not None
        return answer

    def presses(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def follows(self, name: str) -> None:
        self.page.get_by_role("link", name=name, exact=True).click()

    def types_code(self, code: str) -> None:
        """Fills in the one field for a code, and sends it."""
        self.page.get_by_label("code").fill(code)
        self.presses("Connect")

    def signs_in(self, code: str) -> None:
        """From any page to the status page."""
        self.opens()
        self.types_code(code)
        assert self.title == "You are online", self.says

    def loads(self, size: int) -> None:
        """Downloads `size` bytes, if the router lets it."""
        assert self.guest.download(size) == size


class House:
    """One network with one gateway; nothing of it is shared with another journey's, but for the server."""

    def __init__(
        self,
        live: Live,
        browser: Browser,
        slug: str,
        name: str = "Hotel Linde",
        dialect: Dialect = Dialect.CLASSIC,
        **changes: Any,
    ) -> None:
        self.live = live
        self._browser = browser
        self._devices: list[Device] = []
        self.network: Network = live.network(slug, name, **changes)
        self.gw_id = f"{slug}-1"
        port = free_port()
        live.gateway(self.network, self.gw_id, port, dialect=dialect.value)
        server = auth_server(f"{live.url}/wifidog/", dialect=dialect)
        self._minutes = 0
        self.gateway = Gateway(server, self.gw_id, port=port, dialect=dialect, clock=self._clock)
        self.gateway.start(loops=False)

    # What an operator prepares

    def code(self, **terms: Any) -> str:
        """A code of a plan with these terms."""
        return self.live.codes(self.plan(**terms))[0]

    def plan(self, name: str = "", **terms: Any) -> Plan:
        number = self.live.one("SELECT count(*) FROM plan WHERE network_id = :n", n=self.network.id)[0]
        return self.live.plan(self.network, name or f"Plan {number + 1}", **terms)

    def account(self, username: str, password: str, **terms: Any) -> None:
        with contextlib.closing(Offload()) as offload:
            hashed = offload.hash_password(password)
        plan = self.plan(**terms)
        with self.live.store.transaction() as db:
            guests.add(db, plan, Newcomer(username, password), hashed, self.live.store.database_now())
        self.edits(accounts=True)

    def edits(self, **changes: Any) -> None:
        with self.live.store.transaction() as db:
            self.network = networks.edit(db, self.network.id, **changes)

    def opens_by_click(self, **terms: Any) -> None:
        plan = self.plan("Free", **terms)
        with self.live.store.transaction() as db:
            networks.set_click_plan(db, self.network.id, plan.id)

    # Guests

    def device(self, name: str = "phone", *, agent: str = PHONE, locale: str = "en-GB", **options: Any) -> Device:
        """A device that was not here before, with an empty browser."""
        guest = self.gateway.guest(name)
        size = options.pop("viewport", {"width": 360, "height": 740})
        context = self._browser.new_context(
            proxy={"server": guest.link},
            java_script_enabled=False,
            user_agent=agent,
            locale=locale,
            viewport=size,
            **options,
        )
        self._devices.append(Device(guest, context.new_page()))
        return self._devices[-1]

    def reports(self) -> None:
        """What the gateway does each minute: it pings, and reports every guest. The minute itself takes no time."""
        self._minutes += 1
        self.gateway.ping()
        self.gateway.cycle()

    def _clock(self) -> float:
        return time.monotonic() + 60 * self._minutes

    def an_hour_passes(self) -> None:
        self.passes("1 hour")

    def passes(self, interval: str) -> None:
        """All that this house has granted, and who is online with it, lies so much further back."""
        for table, moments in (
            ('"grant"', ("created_at", "started_at", "ends_at", "over_at")),
            ("session", ("minted_at", "activated_at")),
        ):
            back = ", ".join(f"{moment} = {moment} - CAST(:ago AS interval)" for moment in moments)
            self.live.change(f"UPDATE {table} SET {back} WHERE network_id = :n", n=self.network.id, ago=interval)

    # What it all comes to

    def reported(self) -> tuple[int, int]:
        """Bytes down and up that the gateway has reported."""
        accounts = self.gateway.accounts.values()
        return sum(each.reported.down for each in accounts), sum(each.reported.up for each in accounts)

    def settles(self) -> None:
        """Reports once more; then every byte that was reported is charged, and no other. Closes the house."""
        self.reports()
        end = time.monotonic() + 5
        while self.live.charged(self.network) != self.reported() and time.monotonic() < end:
            time.sleep(0.05)
        assert self.live.charged(self.network) == self.reported(), "charged is not what was reported"
        for device in self._devices:
            assert device.page.context.cookies() == [], "guests' pages need no cookie"

    def closes(self) -> None:
        for device in self._devices:
            device.page.context.close()
        self.gateway.stop()


def host_of(url: str) -> str:
    return urlsplit(url).netloc
