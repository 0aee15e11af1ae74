"""Who may: every route of the desk, for every part, in every network. Generated from the route table itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Blueprint, Flask
from sqlalchemy import Connection

from portal import guests, networks, operators, vouchers
from portal.guests import Newcomer
from portal.operators import Operator, Role
from portal.store import sql
from portal.web import desk, guards, guest
from portal.web.guards import Route, Unguarded, Who
from tests.web.desk.offices import PASSWORD, Browser, Office
from tests.worlds import Cafe

# Stands in everything that belongs to the first network: on no page of anybody else's may it be read.
CANARY = "canary"
STRENGTH = {Who.DESK: 0, Who.MANAGER: 1, Who.OWNER: 2}
PARTS = {"desk": 0, "manager": 1, "owner": 2}
INSIDE = [route for route in desk.ROUTES if "<slug>" in route.path]
OUTSIDE = [route for route in desk.ROUTES if "<slug>" not in route.path]


@dataclass
class Town:
    """Two networks with everything in them, and a browser for each part in each."""

    office: Office
    ids: dict[str, int]
    slug: str
    other_slug: str
    session_id: int
    people: dict[str, Operator]
    _browsers: dict[str, Browser]

    def browser(self, who: str) -> Browser:
        if who not in self._browsers:
            self._browsers[who] = self.office.browser(self.people.get(who))
        return self._browsers[who]

    def path(self, route: Route, slug: str) -> str:
        path = route.path.replace("<slug>", slug).replace("<token>", "a" * 32).replace("<path:rest>", "x")
        for name, value in self.ids.items():
            path = path.replace(f"<int:{name}>", str(value))
        assert "<" not in path, f"{route.path}: give the test an id for it"
        return path

    def contents(self) -> str:
        """Every row that belongs to the first network."""
        with self.office.store.read() as db:
            return json.dumps([_rows(db, table, self.ids["network"]) for table in TABLES], default=str)


TABLES = (
    "network",
    "plan",
    "gateway",
    "voucher_batch",
    "voucher",
    "guest",
    "session",
    "station",
    "grant",
    "membership",
)


def _rows(db: Connection, table: str, network_id: int) -> list[Any]:
    column = "id" if table == "network" else "network_id"
    statement = f'SELECT CAST(row_to_json(t) AS text) FROM "{table}" t WHERE {column} = :id ORDER BY t.id'  # noqa: S608
    return list(db.execute(sql("test.rows", statement), {"id": network_id}).scalars())


@pytest.fixture
def town(office: Office, cafe: Cafe) -> Town:
    with office.store.transaction("operators") as db:
        home = networks.edit(db, cafe.network_id, name=f"Café {CANARY}", support=f"{CANARY} line", terms=CANARY)
        other = networks.add(db, "other", "Other", office.now())
        plan = networks.add_plan(db, home.id, networks.terms(f"{CANARY} plan", megabytes=500), office.now())
        networks.add_plan(db, other.id, networks.terms("Plain", minutes=60), office.now())
        batch, codes = vouchers.issue(db, office.keyring, plan, 3, office.now(), label=f"{CANARY} batch")
        account = guests.add(db, plan, Newcomer(f"{CANARY}-guest", "secret-pass", ""), office.hash(), office.now())
        voucher = vouchers.codes_of(db, office.keyring, home.id, batch.id, office.now())[0]
    cafe.change("UPDATE gateway SET name = :name", name=f"{CANARY} router")
    phone = cafe.phone()
    phone.comes_online(cafe.grant())
    phone.polls(1_000, 100)
    people = {f"{part}@home": office.operator(f"{part}@home.example", Role(part), home) for part in PARTS}
    people |= {f"{part}@other": office.operator(f"{part}@other.example", Role(part), other) for part in PARTS}
    people["head"] = office.operator("head@everywhere.example", Role.OWNER)
    helper = office.operator(f"{CANARY}@helper.example", Role.DESK, home)
    ids = {
        "network": home.id,
        "version": home.terms_version,
        "plan_id": plan.id,
        "batch_id": batch.id,
        "voucher_id": voucher.id,
        "guest_id": account.id,
        "gateway_id": cafe.router.id,
        "session_id": cafe.session_of(phone.token).id,
        "operator_id": helper.id,
    }
    return Town(office, ids, home.slug, other.slug, ids["session_id"], people, {})


# Plausible in every form of the desk, so that an order that gets through does something.
FORM = {
    "name": "Changed",
    "label": "Changed",
    "email": "new@changed.example",
    "role": "owner",
    "password": PASSWORD,
    "username": "changed",
    "minutes": "60",
    "minutes_unit": "minutes",
    "clock": "wall",
    "counts": "both",
    "devices": "1",
    "period": "",
    "time_zone": "UTC",
    "language": "en",
    "colour": "#123456",
    "vouchers": "yes",
    "count": "2",
    "gw_id": "changed",
    "dialect": "classic",
    "interval": "60",
    "link": "1000",
    "address": "10.9.9.9",
    "mac": "02:00:00:00:00:01",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_opens_what_it_reaches_and_nothing_beyond(town: Town, part: str) -> None:
    """Every page of the network, for the desk, a manager and an owner of it."""
    browser = town.browser(f"{part}@home")
    for route in INSIDE:
        if not route.gets:
            continue
        page = browser.gets(town.path(route, town.slug))
        reached = PARTS[part] >= STRENGTH[route.who]
        expected = (200, 303) if reached else (403,)
        assert page.status in expected, f"{part} at {route.path}: {page.status}"


@pytest.mark.parametrize("part", ["desk", "manager"])
def test_an_order_beyond_a_part_changes_nothing(town: Town, part: str) -> None:
    browser = town.browser(f"{part}@home")
    for route in INSIDE:
        if not route.posts or PARTS[part] >= STRENGTH[route.who]:
            continue
        before = town.contents()
        browser.opens("/desk/me")
        page = browser.sends(town.path(route, town.slug), {**FORM, "plan": town.ids["plan_id"]})
        assert page.status == 403, f"{part} at {route.path}"
        assert town.contents() == before, f"{part} changed something at {route.path}"


@pytest.mark.parametrize("part", PARTS)
def test_a_stranger_to_a_network_is_told_no_more_than_that_nothing_is_there(town: Town, part: str) -> None:
    browser = town.browser(f"{part}@other")
    before = town.contents()
    for route in INSIDE:
        for page in _both(browser, town, route, town.slug):
            assert page.status == 404, f"{part} of another network at {route.path}: {page.status}"
            assert CANARY not in page.html
    nowhere = browser.gets("/desk/networks/no-such-network/")
    somewhere = browser.gets(f"/desk/networks/{town.slug}/")
    assert nowhere.text == somewhere.text
    assert town.contents() == before


@pytest.mark.parametrize("part", PARTS)
def test_through_ones_own_network_nothing_of_anothers_is_read_or_changed(town: Town, part: str) -> None:
    """The ids are the first network's, the address is one's own: what a curious owner would try."""
    browser = town.browser(f"{part}@other")
    for route in INSIDE:
        before = town.contents()
        for page in _both(browser, town, route, town.other_slug):
            assert CANARY not in page.html, f"{part} read another network's at {route.path}"
            assert page.status != 500, route.path
            if "<int:" in route.path:
                assert page.status in (403, 404), f"{part} at {route.path} with another's id: {page.status}"
        assert town.contents() == before, f"{part} changed another network's at {route.path}"


def test_nobody_gets_in_without_signing_in(town: Town) -> None:
    browser = town.office.browser()
    before = town.contents()
    for route in desk.ROUTES:
        if route.who is Who.ANYONE:
            continue
        for page in _both(browser, town, route, town.slug):
            assert page.status == 303, route.path
            assert page.location.startswith("/desk/sign-in"), route.path
    assert town.contents() == before


@pytest.mark.parametrize("part", PARTS)
def test_the_installation_is_its_owners_alone(town: Town, part: str) -> None:
    browser = town.browser(f"{part}@home")
    for route in OUTSIDE:
        if route.who is Who.HEAD:
            assert {page.status for page in _both(browser, town, route, "")} == {403}, route.path
    head = town.browser("head")
    for route in OUTSIDE:
        if route.who is Who.HEAD and route.gets:
            assert head.gets(town.path(route, "")).status == 200, route.path


def test_whoever_manages_one_network_does_not_see_or_take_gateways_that_are_nobodys(town: Town, cafe: Cafe) -> None:
    cafe.change("INSERT INTO gateway (gw_id, state) VALUES ('waiting-one', 'inbox')")
    waiting = cafe.one("SELECT id FROM gateway WHERE state = 'inbox'")[0]
    manager = town.browser("manager@home")
    assert "waiting-one" not in manager.opens(f"/desk/networks/{town.slug}/gateways").html
    page = manager.sends(f"/desk/networks/{town.slug}/gateways/{waiting}/adopt")
    assert page.status == 404
    assert "waiting-one" in town.browser("head").opens(f"/desk/networks/{town.slug}/gateways").html


def test_every_answer_carries_the_desks_headers(town: Town) -> None:
    browser = town.browser("owner@home")
    for route in desk.ROUTES:
        for page in _both(browser, town, route, town.slug):
            for name, value in guards.HEADERS.items():
                assert page.response.headers.get(name), f"{route.path} lacks {name}"
                if name != "Cache-Control":
                    assert page.response.headers[name] == value
            assert "Auth: " not in page.html
            assert "Pong" not in page.html
            assert "Auth: " not in str(page.response.headers)


def _both(browser: Browser, town: Town, route: Route, slug: str) -> list[Any]:
    """The route asked by each of its methods, with a good token."""
    path = town.path(route, slug)
    pages = [browser.gets(path)] if route.gets else []
    if route.posts:
        if browser.cookie is not None:
            browser.opens("/desk/me")
        pages.append(browser.sends(path, {**FORM, "plan": town.ids["plan_id"]}, follow=False))
    return pages


# The gate itself


def test_a_route_that_does_not_say_who_may_use_it_keeps_the_server_from_starting(office: Office) -> None:
    office.app.add_url_rule("/desk/forgotten", "forgotten", lambda: "hello")
    with pytest.raises(Unguarded, match="/desk/forgotten"):
        guards.check(office.app)


def test_a_part_in_a_network_needs_a_network_in_the_path(office: Office) -> None:
    for route in (
        Route("/desk/plans", lambda _: None, Who.DESK, "plans"),  # type: ignore[arg-type, return-value]
        Route("/desk/networks/<slug>/x", lambda _: None, Who.HEAD, "x"),  # type: ignore[arg-type, return-value]
    ):
        with pytest.raises(Unguarded):
            guards.mount(Blueprint("desk", __name__), office.portal, [route])


def test_the_guests_door_says_who_may_too(office: Office) -> None:
    app = Flask("portal", static_folder=None)
    app.register_blueprint(guest.blueprint(office.portal))
    with pytest.raises(Unguarded):
        guards.check(app)
    guards.declare(app, ["guest.*"], Who.GUEST)
    guards.check(app)


def test_no_two_routes_have_the_same_name_or_path() -> None:
    assert len({route.name for route in desk.ROUTES}) == len(desk.ROUTES)
    assert len({route.path for route in desk.ROUTES}) == len(desk.ROUTES)


def test_who_may_was_checked_by_somebody_who_could_have_failed(town: Town) -> None:
    """The owner of everything does reach, read and change what the tests above say that others do not."""
    head = town.browser("head")
    before = town.contents()
    page = head.opens(f"/desk/networks/{town.slug}/vouchers/{town.ids['batch_id']}")
    assert CANARY in page.html
    head.fills_in(f"/desk/networks/{town.slug}/vouchers/{town.ids['batch_id']}/revoke")
    assert town.contents() != before
    with town.office.store.read() as db:
        assert operators.record(db, [town.ids["network"]])[0].action == "voucher.revoke_batch"
