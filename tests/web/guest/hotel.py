"""A hotel with a router and guests with browsers, for tests that tell stories at the guest's door.

The pages are the real ones on a real database; a browser here keeps nothing between two requests, no cookie either,
and sends a form with every hidden field that it was given. The router asks `Sessions` as the gateways' door does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import gevent
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.engine import make_url
from werkzeug.test import TestResponse

from portal import access, gateways, guests, networks, sessions, vouchers
from portal.config import Settings
from portal.gateways import Gateway, Gateways
from portal.guests import Account, Newcomer
from portal.keys import Keyring
from portal.ledger import Ledger
from portal.networks import Network, Plan
from portal.offload import Offload
from portal.sessions import Sessions
from portal.store import Store, sql
from portal.store.migrations import ensure_partitions
from portal.web import guest
from portal.web.context import Portal
from tests.conftest import Cluster

PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148"
LAPTOP = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/131.0 Safari/537.36"


@dataclass(frozen=True)
class Call:
    """What a router asks about a guest."""

    stage: str
    token: str
    mac: str
    ip: str
    incoming: int | None = 0
    outgoing: int | None = 0


class Hotel:
    """One network with one router whose address is recorded, and the pages that its guests see."""

    def __init__(self, store: Store, keyring: Keyring, offload: Offload) -> None:
        self.store, self.keyring, self.offload = store, keyring, offload
        # Moved by tests; the database keeps its own time.
        self.ahead = timedelta()
        self.settings = Settings()
        with store.transaction() as db:
            ensure_partitions(db, store.database_now())
            self.network = networks.add(db, "linde", "Hotel Linde", self.now, time_zone="Europe/Berlin")
            self.gateway = gateways.add(db, self.network.id, "gw-1", self.now, address="10.77.0.1:2060")
        # As fast as a test: what grows faster than the link could carry is charged later.
        self.change("UPDATE gateway SET link_bytes_per_second = 1000000000000")
        self.gateways = Gateways(store)
        self.gateways.refresh()
        self.ledger = Ledger(store, deadline_s=8.0, attempt_s=8.0)
        self.sessions = Sessions(store, self.ledger, keyring)
        self._writer = gevent.spawn(self.ledger.run)
        self.app = self.pages()

    def pages(self) -> Flask:
        """The pages of a process that has just started: it remembers nothing."""
        app = Flask("portal", static_folder=None)
        clock = lambda: self.now  # noqa: E731
        portal = Portal(self.settings, self.store, self.keyring, self.gateways, self.offload, clock)
        app.register_blueprint(guest.blueprint(portal))
        return app

    def close(self) -> None:
        self._writer.kill()

    @property
    def now(self) -> datetime:
        return self.store.clock.now() + self.ahead

    def edit(self, **changes: Any) -> Network:
        with self.store.transaction() as db:
            self.network = networks.edit(db, self.network.id, **changes)
        self.app = self.pages()
        return self.network

    def plan(self, name: str = "Day", **terms: Any) -> Plan:
        with self.store.transaction() as db:
            return networks.add_plan(db, self.network.id, networks.terms(name, **terms), self.now)

    def click_plan(self, **terms: Any) -> Plan:
        plan = self.plan("Free", **terms)
        with self.store.transaction() as db:
            networks.set_click_plan(db, self.network.id, plan.id)
        self.app = self.pages()
        return plan

    def code(self, **terms: Any) -> str:
        """A code of a plan with these terms, as it stands on its card."""
        number = self.one("SELECT count(*) FROM plan")[0]
        plan = self.plan(f"Plan {number}", **{"devices": 2, **terms})
        with self.store.transaction() as db:
            return vouchers.issue(db, self.keyring, plan, 1, self.now)[1][0]

    def account(self, username: str, password: str, **terms: Any) -> Account:
        plan = self.plan("Account", **terms)
        hashed = self.offload.hash_password(password)
        with self.store.transaction() as db:
            made = guests.add(db, plan, Newcomer(username, password), hashed, self.now)
        if not self.network.accounts:
            self.edit(accounts=True)
        return made

    def guest(self, number: int = 1, **changes: Any) -> Guest:
        return Guest(self, f"02:00:00:00:77:{number:02x}", f"10.77.0.{number + 1}", **changes)

    def one(self, statement: str, **values: Any) -> Any:
        with self.store.read() as db:
            return db.execute(sql("test.one", statement), values).one()

    def change(self, statement: str, **values: Any) -> None:
        with self.store.transaction() as db:
            db.execute(sql("test.change", statement), values)

    def tokens(self) -> int:
        """How many tokens were ever minted."""
        count: int = self.one("SELECT count(*) FROM session")[0]
        return count


@dataclass
class Form:
    """A form of a page: its fields, hidden and visible, and its buttons by what they say."""

    method: str = "get"
    fields: dict[str, str] = field(default_factory=dict)
    visible: list[str] = field(default_factory=list)
    buttons: list[tuple[str, str, str]] = field(default_factory=list)


class Page(HTMLParser):
    """An answer as a guest reads it."""

    def __init__(self, response: TestResponse) -> None:
        super().__init__(convert_charrefs=True)
        self.response = response
        self.status = response.status_code
        self.html = response.get_data(as_text=True)
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self.tags: list[str] = []
        # Every attribute's name, and every address that a browser would follow by itself or at a click.
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.language = self.direction = self.title = ""
        self._words: list[str] = []
        self._open: list[str] = []
        self._button: tuple[str, str] | None = None
        self._link: tuple[str, list[str]] | None = None
        self.feed(self.html)
        self.close()
        self.words = re.sub(r"\s+", " ", "".join(self._words)).strip()

    @property
    def location(self) -> str:
        return self.response.headers.get("Location", "")

    def form(self, visible: str) -> Form:
        """The form that asks for that field, or with "" the one that asks for nothing."""
        return next(
            f for f in self.forms if f.method == "post" and (visible in f.visible if visible else not f.visible)
        )

    def button(self, says: str) -> Form:
        """The form whose button says that, with the button pressed."""
        for form in self.forms:
            for name, value, words in form.buttons:
                if says in words:
                    pressed = {name: value} if name else {}
                    return Form(form.method, form.fields | pressed, form.visible)
        raise AssertionError(f"no button says {says!r}: {[b for f in self.forms for b in f.buttons]}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes |= set(given)
        self.addresses += [given[name] for name in ("href", "src", "action", "formaction") if name in given]
        if tag == "html":
            self.language, self.direction = given["lang"], given["dir"]
        elif tag == "form":
            self.forms.append(Form(given.get("method", "get").lower()))
        elif tag == "input":
            self.forms[-1].fields[given["name"]] = given.get("value", "")
            if given.get("type") != "hidden":
                self.forms[-1].visible.append(given["name"])
        elif tag == "button":
            self._button = given.get("name", ""), given.get("value", "")
            self.forms[-1].buttons.append((*self._button, given.get("aria-label", "")))
        elif tag == "a":
            self._link = given.get("href", ""), []
        if tag not in ("input", "meta", "link", "img", "circle", "path", "rect", "br"):
            self._open.append(tag)
        if tag in ("p", "h1", "h2", "li", "div", "label", "button", "small", "summary"):
            self._words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        if tag == "button":
            self._button = None
        elif tag == "a" and self._link is not None:
            self.links[" ".join("".join(self._link[1]).split())] = self._link[0]
            self._link = None

    def handle_data(self, data: str) -> None:
        if "title" in self._open:
            self.title += data
        else:
            self._words.append(data)
        if self._link is not None:
            self._link[1].append(data)
        if self._button is not None:
            name, value, says = self.forms[-1].buttons[-1]
            self.forms[-1].buttons[-1] = (name, value, (says + " " + data).strip())


class Guest:
    """A guest's device behind the hotel's router."""

    def __init__(
        self,
        hotel: Hotel,
        mac: str,
        ip: str,
        *,
        agent: str = PHONE,
        languages: str = "",
        prefix: str = "/wifidog/",
        url: str = "http://www.example.org/",
    ) -> None:
        self.hotel, self.mac, self.ip, self.url = hotel, mac, ip, url
        self.agent, self.languages, self.prefix = agent, languages, prefix
        self.token = ""

    def arrival(self, **changes: str | None) -> str:
        """The query that the router's redirect brings, as a classic gateway writes it."""
        said: Mapping[str, str | None] = {
            "gw_address": "10.77.0.1",
            "gw_port": "2060",
            "gw_id": self.hotel.gateway.gw_id,
            "ip": self.ip,
            "mac": self.mac,
            "url": quote(self.url, safe=""),
        } | changes
        return "&".join(f"{name}={value}" for name, value in said.items() if value is not None)

    def opens(self, path: str) -> Page:
        return Page(self._client().get(path, headers=self._headers()))

    def arrives(self, more: str = "", **changes: str | None) -> Page:
        """The splash page."""
        return self.opens(f"{self.prefix}login/?{self.arrival(**changes)}{more}")

    def sends(self, form: Form, typed: Mapping[str, str], path: str | None = None) -> Page:
        """A form with what was typed, to the page's own address."""
        where = path or f"{self.prefix}login/?{self.arrival()}"
        answer = self._client().post(where, data={**form.fields, **typed}, headers=self._headers())
        return Page(answer)

    def signs_in(self, **typed: str) -> Page:
        """Opens the splash page, fills in the form that asks for these fields, and sends it."""
        page = self.arrives()
        answer = self.sends(page.form(next(iter(typed), "")), typed)
        if answer.status == 302:
            self.token = parse_qs(urlsplit(answer.location).query)["token"][0]
        return answer

    def comes_online(self, **typed: str) -> Page:
        """Signs in, lets the router ask, and is sent to the portal page."""
        answer = self.signs_in(**typed)
        assert answer.status == 302, answer.words
        assert self.router_asks("login").answer is access.Answer.ALLOW
        return self.portal()

    def portal(self, query: str = "") -> Page:
        """Where the router sends a guest who is let in."""
        return self.opens(f"{self.prefix}portal/?{query or urlencode({'gw_id': 'gw-1', 'token': self.token})}")

    def router_asks(self, stage: str, down: int = 0, up: int = 0) -> access.Verdict:
        facts = self.hotel.gateways.find(self.hotel.gateway.gw_id)
        assert facts is not None
        return self.hotel.sessions.answer(facts, Call(stage, self.token, self.mac, self.ip, down, up))

    def _client(self) -> FlaskClient:
        return self.hotel.app.test_client(use_cookies=False)

    def _headers(self) -> dict[str, str]:
        said = {"User-Agent": self.agent}
        if self.languages:
            said["Accept-Language"] = self.languages
        return said


class Outage:
    """The database of a store, gone for a while: nobody gets in, and who is in is thrown out."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self._cluster, self._database = cluster, make_url(url).database

    def __enter__(self) -> None:
        self._cluster.run(f"ALTER DATABASE {self._database} WITH ALLOW_CONNECTIONS false")
        self._cluster.run(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._database}'"  # noqa: S608
        )

    def __exit__(self, *_: object) -> None:
        self._cluster.run(f"ALTER DATABASE {self._database} WITH ALLOW_CONNECTIONS true")


def opened(hotel: Hotel) -> Iterator[Hotel]:
    """For fixtures: the hotel, closed afterwards."""
    try:
        yield hotel
    finally:
        hotel.close()


def all_gateways(hotel: Hotel) -> list[Gateway]:
    with hotel.store.read() as db:
        found = gateways.get(db, hotel.gateway.id)
    return [found] if found is not None else []


def sessions_of(hotel: Hotel, token: str) -> sessions.Session:
    with hotel.store.read() as db:
        found = sessions.of_token(db, hotel.keyring, token)
    assert found is not None
    return found
