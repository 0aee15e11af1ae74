"""What the heaviest pages do to routers: how long the longest poll waits while somebody asks for them.

Five hundred polls a second go on, each with its moment; a loop that stands still for so long makes the poll that was
due first wait for at least as long, less two milliseconds. So the longest wait is an upper bound on the longest stall.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import requests

from loadtests.soak import Steady
from portal import networks, operators
from portal.emulator.browser import Page
from portal.offload import Offload
from portal.operators import Role
from portal.store import Store

SLUG = "bench"
AT_ONCE = 1000
"""Vouchers that are issued, shown and printed together."""
REST = 2.0
"""Seconds in which nobody asks for a page, to compare with."""


@dataclass(frozen=True, slots=True)
class Waited:
    """What one page did: the seconds it took, and the milliseconds that the longest poll and one in a hundred waited
    meanwhile."""

    seconds: float
    longest: float
    p99: float


def furnish(database: str) -> tuple[str, str]:
    """An operator and a plan in the network that is measured; the operator's e-mail address and password."""
    email, password = "bench@example.org", secrets.token_urlsafe(24)
    password_hash = Offload().hash_password(password)
    store = Store(database)
    try:
        now = store.database_now()
        with store.transaction() as db:
            network = networks.by_slug(db, SLUG)
            if network is None:
                raise LookupError(f"the network {SLUG} is not there")
            networks.add_plan(db, network.id, networks.terms("Day pass", minutes=1440), now)
            operator, _ = operators.add(db, email, Role.OWNER, network.id, now)
            operators.set_password(db, operator, password_hash)
    finally:
        store.dispose()
    return email, password


class Desk:
    """An operator's browser."""

    def __init__(self, url: str, email: str, password: str) -> None:
        self._url, self._email, self._password = url, email, password
        self._browser = requests.Session()
        self._batch = ""

    def steps(self) -> Mapping[str, Callable[[], object]]:
        """What to ask for, in this order, by its name."""
        here = f"/desk/networks/{SLUG}"
        return {
            "nobody asks for anything": lambda: time.sleep(REST),
            "sign-in with a password": self._sign_in,
            "the overview of a network": lambda: self._get(f"{here}/"),
            "a thousand gateways": lambda: self._get(f"{here}/gateways"),
            "who is online, of 100,000": lambda: self._get(f"{here}/sessions"),
            "a thousand vouchers issued": self._issue,
            "their list": lambda: self._get(self._batch),
            "their sheets, with QR codes": lambda: self._get(f"{self._batch}/print"),
            "their codes as a file": lambda: self._get(f"{self._batch}/codes.csv"),
            "all vouchers": lambda: self._get(f"{here}/vouchers"),
            "the audit": lambda: self._get(f"{here}/audit"),
            "all metrics": lambda: self._get("/metrics"),
        }

    def _get(self, path: str) -> Page:
        return self._answered(self._browser.get(urljoin(self._url, path), timeout=60))

    def _post(self, page: Page, names: tuple[str, ...], typed: dict[str, str]) -> Page:
        form = page.form(*names)
        headers = {"Origin": self._url}
        return self._answered(
            self._browser.post(urljoin(page.url, form.action), {**form.fields, **typed}, headers=headers, timeout=60)
        )

    def _answered(self, answer: requests.Response) -> Page:
        path = urlsplit(answer.url).path
        if answer.status_code != 200:
            raise LookupError(f"{path} answered {answer.status_code}")
        return Page(answer.url, 200, {}, answer.content, (answer.url,))

    def _sign_in(self) -> None:
        self._browser = requests.Session()
        typed = {"email": self._email, "password": self._password}
        page = self._post(self._get("/desk/sign-in"), ("email", "password"), typed)
        if urlsplit(page.url).path.endswith("/sign-in"):
            raise LookupError("the operator was not let in")

    def _issue(self) -> None:
        page = self._get(f"/desk/networks/{SLUG}/vouchers")
        made = self._post(page, ("count", "plan"), {"count": str(AT_ONCE), "label": "measured"})
        self._batch = urlsplit(made.url).path
        if not self._batch.rpartition("/")[2].isdigit():
            raise LookupError(f"{AT_ONCE} vouchers were asked for, and the browser stands at {self._batch}")


def waits(steady: Steady, desk: Desk, rounds: int = 3) -> dict[str, Waited]:
    """For each step, the worst of so many rounds."""
    found: dict[str, Waited] = {}
    for _ in range(rounds):
        for name, step in desk.steps().items():
            steady.taken()
            began = time.monotonic()
            step()
            took = time.monotonic() - began
            time.sleep(0.1)  # the polls that had to wait come to be counted
            _, errors, latencies = steady.taken()
            if errors:
                raise LookupError(f"{errors} polls had no right answer during: {name}")
            now = Waited(took, latencies.longest * 1000, (latencies.percentile(0.99) or 0.0) * 1000)
            before = found.get(name)
            found[name] = now if before is None or now.longest > before.longest else before
    return found


def table(found: Mapping[str, Waited]) -> str:
    """A line for each page."""
    lines = [
        "| while an operator asks for | it takes s | polls wait, p99 ms | longest ms |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [f"| {name} | {one.seconds:.2f} | {one.p99:.1f} | {one.longest:.1f} |" for name, one in found.items()]
    return "\n".join(lines)
