"""The desk, as an operator’s browser sees it: it keeps cookies, sends the token of each form, reads pages."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from portal import gateways, networks, operators, vouchers
from portal.config import Server, Settings
from portal.gateways import Gateways
from portal.keys import Keyring
from portal.networks import Network, Plan
from portal.offload import Offload
from portal.operators import Operator, Role
from portal.store import Store
from portal.web import desk, guards, guest
from portal.web.context import Portal

PASSWORD = "violet tram sings at noon"  # noqa: S105
TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_TAG = re.compile(r"<[^>]+>")


class Office:
    """An installation with a desk. `owner` owns everything; `linde` is its first network."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        offload: Offload,
        *,
        public_url: str = "",
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.store, self.keyring, self.offload = store, keyring, offload
        self.shift = timedelta(0)
        self.portal = Portal(
            settings=Settings(server=Server(public_url=public_url)),
            store=store,
            keyring=keyring,
            gateways=Gateways(store),
            offload=offload,
            clock=clock or self.now,
        )
        self.app = Flask("portal", static_folder=None)
        guards.install(self.app, self.portal)
        self.app.register_blueprint(desk.blueprint(self.portal))
        self.app.register_blueprint(guest.blueprint(self.portal))
        guards.declare(self.app, ["guest.*"], guards.Who.GUEST)
        guards.check(self.app)

    def now(self) -> datetime:
        """The database's time, moved by `shift`."""
        return self.store.database_now("operators") + self.shift

    def browser(self, operator: Operator | None = None) -> Browser:
        """A browser; signed in as `operator`, if one is given."""
        browser = Browser(self.app)
        if operator is not None:
            browser.signs_in(operator.email)
        return browser

    def operator(self, email: str, role: Role, network: Network | None = None) -> Operator:
        """A person with a part in a network, or in all of them, who has chosen the password."""
        with self.store.transaction("operators") as db:
            _, token = operators.add(
                db, email, role, network.id if network else None, self.now(), name=email.split("@")[0]
            )
            return operators.use_invitation(db, token, self.hash(), self.now())

    def hash(self) -> str:
        if not HASHES:
            HASHES.append(self.offload.hash_password(PASSWORD))
        return HASHES[0]

    def network(self, slug: str, name: str, **place: Any) -> Network:
        with self.store.transaction("operators") as db:
            return networks.add(db, slug, name, self.now(), **place)

    def plan(self, network: Network, name: str, **terms: Any) -> Plan:
        with self.store.transaction("operators") as db:
            return networks.add_plan(db, network.id, networks.terms(name, **terms), self.now())

    def gateway(self, network: Network, gw_id: str, **options: Any) -> gateways.Gateway:
        with self.store.transaction("operators") as db:
            found = gateways.add(db, network.id, gw_id, self.now(), **options)
            gateways.make_key(db, self.keyring, found.id, self.now())
            return found

    def codes(self, plan: Plan, count: int, label: str = "") -> tuple[vouchers.Batch, list[str]]:
        with self.store.transaction("operators") as db:
            return vouchers.issue(db, self.keyring, plan, count, self.now(), label=label, by="Ana")

    def setup_link(self) -> str:
        with self.store.transaction("operators") as db:
            token = operators.setup_link(db, self.now())
        assert token is not None
        return f"/setup/{token}"


# Hashing is slow on purpose; one hash does for every operator of every test.
HASHES: list[str] = []


class Page:
    """An answer, as a person reads it."""

    def __init__(self, response: TestResponse) -> None:
        self.response = response
        self.status = response.status_code
        self.html = response.get_data().decode("utf-8", "replace")

    @property
    def text(self) -> str:
        """What stands on the page, without its tags, blanks tidied."""
        return " ".join(html.unescape(_TAG.sub(" ", self.html)).split())

    @property
    def location(self) -> str:
        return self.response.headers.get("Location", "")

    def __contains__(self, words: str) -> bool:
        return words in self.text


class Browser:
    """A browser: it keeps its cookies, follows redirects when asked to, and sends the token of the last form it saw."""

    def __init__(self, app: Flask) -> None:
        self.client = app.test_client()
        self.token = ""
        self._name = str(app.config["SESSION_COOKIE_NAME"])

    @property
    def cookie(self) -> str | None:
        """What the cookie of the sign-in holds."""
        found = self.client.get_cookie(self._name)
        return None if found is None else found.value

    @cookie.setter
    def cookie(self, value: str | None) -> None:
        assert value is not None
        self.client.set_cookie(self._name, value)

    def opens(self, path: str, **headers: str) -> Page:
        page = Page(self.client.get(path, headers=headers, follow_redirects=True))
        found = TOKEN.search(page.html)
        self.token = found[1] if found else self.token
        return page

    def gets(self, path: str) -> Page:
        return Page(self.client.get(path))

    def sends(self, path: str, fields: dict[str, Any] | None = None, *, follow: bool = True, **headers: str) -> Page:
        data = {"csrf_token": self.token, **(fields or {})}
        page = Page(self.client.post(path, data=data, headers=headers, follow_redirects=follow))
        found = TOKEN.search(page.html)
        self.token = found[1] if found else self.token
        return page

    def fills_in(self, path: str, fields: dict[str, Any] | None = None, *, follow: bool = True) -> Page:
        """Opens a page and sends its form."""
        self.opens(path)
        return self.sends(path, fields, follow=follow)

    def signs_in(self, email: str, password: str = PASSWORD) -> Page:
        self.opens("/desk/sign-in")
        page = self.sends("/desk/sign-in", {"email": email, "password": password})
        self.opens("/desk/me")
        return page
