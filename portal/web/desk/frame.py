"""What surrounds every page of the desk: the rail with its counts, notices, and addresses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flask import Response, flash, request
from sqlalchemy import Connection

from portal import gateways, history, networks
from portal.networks import Network
from portal.operators import Role
from portal.web.desk import pages
from portal.web.desk.words import Clock, zone
from portal.web.guards import Visit

PARTS = {Role.OWNER: "Owner", Role.MANAGER: "Manager", Role.DESK: "Desk"}


@dataclass(frozen=True, slots=True)
class Link:
    label: str
    href: str


@dataclass(frozen=True, slots=True)
class Item:
    """An entry of the rail."""

    key: str
    label: str
    glyph: str
    href: str
    count: int = 0


@dataclass(frozen=True, slots=True)
class Rail:
    networks: list[Network]
    items: list[Item]
    role: str


@dataclass(frozen=True, slots=True)
class May:
    """What the visitor may do in this network, for templates: they leave out what would be refused."""

    manage: bool
    own: bool


@dataclass(frozen=True, slots=True)
class Tab:
    key: str
    label: str


def clock_of(visit: Visit) -> Clock:
    """Moments as this page tells them: in the network's time zone, else in UTC."""
    return Clock(visit.now, zone(visit.network.time_zone if visit.network else "UTC"))


def here(visit: Visit, endpoint: str, **values: object) -> str:
    """The address of a page of the network that is visited."""
    return pages.url(endpoint, slug=visit.here.slug, **values)


def full(visit: Visit, endpoint: str, **values: object) -> str:
    """The address of a page as somebody else's browser finds it."""
    host = visit.portal.settings.server.public_url or request.host_url
    return host.rstrip("/") + pages.url(endpoint, **values)


def show(visit: Visit, template: str, section: str = "", status: int = 200, **values: object) -> Response:
    """A page within the desk's frame."""
    with visit.portal.store.read("operators", caller="desk rail") as db:
        rail = _rail(db, visit)
    given: dict[str, object] = {
        "visit": visit,
        "clock": clock_of(visit),
        "may": May(visit.allows(Role.MANAGER), visit.allows(Role.OWNER)),
        "rail": rail,
        "section": section,
        "here": partial(here, visit),
    }
    return pages.html(template, {**given, **values}, status)


def to(address: str, notice: str = "", level: str = "ok") -> Response:
    """On to another page, on top of which `notice` stands; with 303, so that a reload sends nothing again."""
    if notice:
        flash(notice, level)
    return Response(status=303, headers={"Location": address})


def _rail(db: Connection, visit: Visit) -> Rail:
    found = networks.listed(db, visit.operator.networks())
    network = visit.network
    if network is None:
        items = [Item("networks", "Networks", "overview", pages.url("networks"))]
        if visit.everywhere(Role.OWNER):
            items.append(Item("everyone", "People", "key", pages.url("everyone")))
            items.append(Item("audit", "Audit", "audit", pages.url("record")))
        return Rail(found, items, "")
    online = history.online(db, network.id)
    connected = len(gateways.adopted(db, visit.now, [network.id]))
    items = [
        Item("overview", "Overview", "overview", here(visit, "overview")),
        Item("sessions", "Sessions", "sessions", here(visit, "sessions"), online),
        Item("gateways", "Gateways", "gateway", here(visit, "gateways"), connected),
        Item("vouchers", "Vouchers", "voucher", here(visit, "vouchers")),
        Item("guests", "Guests", "person", here(visit, "guests")),
        Item("plans", "Plans", "plan", here(visit, "plans")),
    ]
    if visit.allows(Role.MANAGER):
        items.append(Item("splash", "Splash", "splash", here(visit, "splash")))
    if visit.allows(Role.OWNER):
        items.append(Item("people", "People", "key", here(visit, "people")))
        items.append(Item("audit", "Audit", "audit", here(visit, "audit")))
    return Rail(found, items, PARTS[visit.role] if visit.role else "")
