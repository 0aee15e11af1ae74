"""Simulated guests: people with a device on an emulated gateway's LAN.

Promises: a guest goes where a person's browser would go and no way besides; every byte moved goes through the firewall
and into the book. Has no cookies and runs no scripts, as the small browsers of phones that show a captive portal.
"""

from typing import Protocol
from urllib.parse import urlencode

from portal.emulator import browser
from portal.emulator.browser import Page
from portal.emulator.lan import Access, Account, Bytes, Station
from portal.emulator.program import Client

FIRST_PAGE = "http://www.example.org/"


class Surroundings(Protocol):
    """What a guest finds around: the gateway."""

    port: int

    def browse(
        self, station: Station, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]: ...
    def carry(self, station: Station, load: Bytes) -> bool: ...
    def client(self, mac: str | None) -> Client | None: ...
    def access(self, station: Station) -> Access: ...
    def account(self, mac: str | None) -> Account: ...
    def link(self, station: Station) -> str: ...
    def own_url(self, path: str) -> str: ...


class Guest:
    """One guest. Two objects for the same station are the same guest."""

    def __init__(self, gateway: Surroundings, station: Station, language: str = "") -> None:
        self.station = station
        self._gateway = gateway
        self._headers = {"User-Agent": "emulated-guest", "Accept": "text/html"}
        if language:
            self._headers["Accept-Language"] = language

    @property
    def name(self) -> str:
        return self.station.name

    @property
    def ip(self) -> str:
        return self.station.ip

    @property
    def mac(self) -> str:
        return self.station.mac or ""

    @property
    def online(self) -> bool:
        """Whether the firewall lets this guest out."""
        return self._gateway.access(self.station) is not Access.NONE

    @property
    def token(self) -> str | None:
        """The token that the gateway's list holds for this device."""
        client = self._gateway.client(self.station.mac)
        return client.token if client is not None else None

    @property
    def account(self) -> Account:
        """What this device transferred and what was reported of it, in bytes."""
        return self._gateway.account(self.station.mac)

    @property
    def link(self) -> str:
        """A proxy for a real browser that shall be this device."""
        return self._gateway.link(self.station)

    def browse(self, url: str = FIRST_PAGE) -> Page:
        """Opens a page as a browser does, redirects included. Raises OSError when a server cannot be reached."""
        return browser.visit(self._fetch, "GET", url, self._headers)

    def submit(self, page: Page, **fields: str) -> Page:
        """Fills in the page's form that has these fields and sends it. LookupError when there is none."""
        return browser.submit(self._fetch, page, fields, self._headers)

    def sign_in(self, url: str = FIRST_PAGE, **fields: str) -> Page:
        """Browses, is caught, fills in the form with these fields, follows the way back; the page at its end."""
        return self.submit(self.browse(url), **fields)

    def present(self, token: str, **more: str) -> Page:
        """Opens the gateway's /wifidog/auth with a token, as an auth server's redirect does."""
        return self.browse(self._gateway.own_url("/wifidog/auth?" + urlencode({"token": token, **more})))

    def log_out(self) -> Page:
        """Opens the gateway's own log-out address."""
        return self.present(self.token or "", logout="1")

    def download(self, size: int) -> int:
        """Loads `size` bytes; how many came through: all, or none while the firewall is shut."""
        return size if self._gateway.carry(self.station, Bytes(down=size)) else 0

    def upload(self, size: int) -> int:
        """Sends `size` bytes; how many came through."""
        return size if self._gateway.carry(self.station, Bytes(up=size)) else 0

    def leave(self) -> None:
        """Out of range: moves nothing, answers no ping."""
        self.station.present = False

    def come_back(self, ip: str | None = None) -> None:
        """In range again, with the same address or a new one."""
        self.station.present = True
        if ip is not None:
            self.station.ip = ip

    def _fetch(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if not self.station.present:
            raise ConnectionError(f"{self.name} is out of range")
        return self._gateway.browse(self.station, method, url, headers, body)
