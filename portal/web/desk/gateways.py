"""Gateways at the desk: who asks to join, the lines for the router, what is wrong with one and how to mend it.

Promises: a gateway is reached through its network, so nobody learns of another network's; findings come from what the
gateway really sent, worst first. Who waits in the inbox belongs to no network yet, and is shown only to whoever manages
all of them: everybody else adds his gateway by its id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from flask import Response, abort, request
from sqlalchemy import Connection

from portal import fields, gateways, history
from portal.fields import Invalid
from portal.gateways import Gateway, Health
from portal.offload import in_turns
from portal.operators import Role
from portal.web.desk.forms import Form
from portal.web.desk.frame import Link, Tab, clock_of, here, show, to
from portal.web.desk.terms import State
from portal.web.desk.words import Clock, many, size, span
from portal.web.guards import Route, Visit, Who

DIALECTS: Final = (("classic", "WiFiDog 1.x"), ("apfree", "apfree WiFiDog"))
BYTES_PER_MBIT: Final = 125_000
# A source address that changed this often a day is two routers, or a line that renews it; one change is the line.
RECENT: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to say about a gateway or a network: `level` is bad, warn or ok; `act` the one thing to do about it."""

    level: str
    glyph: str
    subject: str
    says: str
    detail: str = ""
    href: str = ""
    act: Link | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A gateway as pages show it."""

    id: int
    gw_id: str
    title: str
    state: State
    trust: State
    heard: str
    returns: str
    online: int
    guests_told: str


@dataclass(frozen=True, slots=True)
class Caller:
    """A gateway that asks to join."""

    id: int
    gw_id: str
    dialect_told: str
    heard: str


def shown(health: Health, online: int, clock: Clock) -> Shown:
    """A gateway in words."""
    gateway = health.gateway
    silent = health.silent(clock.now)
    if health.at is None:
        state = State("wait", "Not heard yet", "Not heard yet")
        heard = "never"
    elif silent:
        state = State("silent", "Silent", f"Silent since {clock.in_words(health.at)}")
        heard = clock.at(health.at)
    else:
        state = State("on", "Up", f"Up, heard {clock.ago(health.at)} ago")
        heard = f"{clock.ago(health.at)} ago"
    if silent and online:
        told = f"{many(online, 'guest')} {'stays' if online == 1 else 'stay'} online. Their last counters are safe."
    else:
        told = f"{many(online, 'guest')} online." if online else "Nobody is online here."
    return Shown(
        id=gateway.id,
        gw_id=gateway.gw_id,
        title=gateway.name or gateway.gw_id,
        state=state,
        trust=trust(health),
        heard=heard,
        returns=at(gateway.address, gateway.port) if gateway.address else "",
        online=online,
        guests_told=told,
    )


def trust(health: Health) -> State:
    """How far a gateway is believed to be who it says it is."""
    if health.key_missing:
        return State("bad", "Key missing")
    if health.keyed:
        return State("on", "Keyed")
    return State("wait", "Adopted")


def at(address: str, port: int) -> str:
    """An address with its port, as it is typed."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def findings(visit: Visit, health: Health) -> list[Finding]:
    """What a gateway's heartbeats and record say, worst first; what is well comes last."""
    clock, gateway = clock_of(visit), health.gateway
    lines = Link("The lines", "#lines")
    edit = Link("Settings", here(visit, "gateway_edit", gateway_id=gateway.id))
    found: list[Finding] = []
    if health.at is None:
        detail = "Paste the lines below into the router and restart WiFiDog; the first ping comes within a minute. "
        detail += "No ping can mean a wrong host name or port, or an id that is spelt differently there."
        found.append(Finding("bad", "alert", "No ping has come from this gateway.", "", detail, act=lines))
    elif health.silent(clock.now):
        detail = f"The last ping came {clock.when(health.at)}. Look whether the router has power and Internet."
        found.append(Finding("bad", "alert", "It has fallen silent.", "", detail))
    else:
        steady = f"without a gap since {clock.in_words(health.steady_since)}" if health.steady_since else "as it should"
        found.append(Finding("ok", "check", "It pings", steady))
    if health.key_missing and health.key_missing_at is not None:
        detail = f"A call without its key came {clock.when(health.key_missing_at)}: somebody else speaks in its "
        detail += "name, or the router was reset. Such calls are answered, but not believed. Paste the lines again."
        found.append(Finding("bad", "alert", "Calls come without the key.", "", detail, act=lines))
    elif health.keyed:
        found.append(Finding("ok", "check", "It proves itself", "with its key"))
    elif health.at is not None:
        detail = "Anyone who knows the id can speak for this gateway. Paste the two lines with the key."
        found.append(Finding("warn", "key", "Its pings carry no key.", "", detail, act=lines))
    changed = health.source_changed_at
    if changed is not None and clock.now - changed < RECENT:
        detail = f"Since {clock.in_words(changed)} it comes from {health.source}. A line at home changes its address; "
        detail += "but two routers with one id take turns like this, and then one of them needs another."
        found.append(Finding("warn", "alert", "Its address has changed.", "", detail))
    restarted = health.restarted_at
    if restarted is not None and clock.now - restarted < RECENT:
        detail = f"It started anew {clock.when(restarted)}. Counters went on, or began at 0."
        found.append(Finding("warn", "refresh", "WiFiDog was restarted.", "", detail))
    seen = suggestion(gateway)
    if gateway.address is None:
        detail = "While none is recorded, only a private address that the router names itself is believed."
        detail += f" Guests came with {seen}." if seen else ""
        found.append(Finding("warn", "open", "No address to return guests to is recorded.", "", detail, act=edit))
    elif seen:
        recorded = at(gateway.address, gateway.port)
        detail = (
            f"{recorded} is recorded, and guests come with {seen}. If the router’s address has changed, record it: "
        )
        detail += "guests return to the recorded one."
        found.append(Finding("warn", "open", "Guests come with another address.", "", detail, act=edit))
    else:
        found.append(Finding("ok", "check", "Guests come back", f"to {at(gateway.address, gateway.port)}, as recorded"))
    order = {"bad": 0, "warn": 1, "ok": 2}
    return sorted(found, key=lambda each: order[each.level])


def of_network(visit: Visit, db: Connection, gateway_id: int) -> Health:
    """A gateway of the visited network. Whatever is not one does not exist here."""
    health = gateways.health(db, gateway_id, visit.now)
    if health is None or health.gateway.network_id != visit.here.id or health.gateway.state != "adopted":
        abort(404)
    return health


def listing(visit: Visit) -> Response:
    """The network's gateways, and who asks to join."""
    clock = clock_of(visit)
    with visit.portal.store.read("operators", caller="desk gateways") as db:
        connected = gateways.adopted(db, visit.now, [visit.here.id])
        online = history.online_by_gateway(db, visit.here.id)
        waiting = gateways.inbox(db, visit.now) if visit.everywhere(Role.MANAGER) else []
    rows = in_turns(shown(health, online.get(health.gateway.id, 0), clock) for health in connected)
    rank = {"silent": 0, "wait": 1, "on": 2}
    return show(
        visit,
        "gateways.html",
        "gateways",
        gateways=sorted(rows, key=lambda row: rank[row.state.kind]),
        silent=sum(row.state.kind == "silent" for row in rows),
        waiting=sum(row.state.kind == "wait" for row in rows),
        inbox=[_caller(health, clock) for health in waiting],
    )


def _caller(health: Health, clock: Clock) -> Caller:
    gateway = health.gateway
    heard = f"Heard {clock.when(health.at)}" if health.at else f"Asked {clock.when(gateway.created_at)}"
    where = f" from {health.source}" if health.source else ""
    return Caller(gateway.id, gateway.gw_id, dict(DIALECTS)[gateway.dialect], f"{heard}{where}.")


def page(visit: Visit, gateway_id: int) -> Response:
    """One gateway: what is wrong, the lines for its router, its health and trust."""
    clock = clock_of(visit)
    with visit.portal.store.read("operators", caller="desk gateway") as db:
        health = of_network(visit, db, gateway_id)
        online = history.online_by_gateway(db, visit.here.id).get(gateway_id, 0)
        key = gateways.newest_key(db, visit.portal.keyring, gateway_id, visit.now)
    gateway = health.gateway
    dialect = request.args.get("lines", gateway.dialect)
    if dialect not in dict(DIALECTS):
        abort(404)
    host, port = reached_at(visit)
    return show(
        visit,
        "gateway.html",
        "gateways",
        each=shown(health, online, clock),
        findings=findings(visit, health),
        findings_from="from what it really sent" if health.at else "nothing was sent yet",
        health=_health(health, clock),
        trust=_trust(health, clock),
        lines=gateways.router_lines(host, port, _speaking(gateway, dialect), key) if key else "",
        lines_lead_home=host == "localhost" or host.startswith("127.") or host == "::1",
        lines_host=host,
        lines_tabs=[Tab(name, label) for name, label in DIALECTS],
        lines_key=dialect,
        lines_where=LINES_WHERE[dialect],
        suggestion=suggestion(gateway),
    )


LINES_WHERE: Final = {
    "classic": "These are the whole of /etc/wifidog.conf; look at GatewayInterface, then restart WiFiDog.",
    "apfree": "These are the whole of /etc/wifidogx.conf; look at the GatewaySetting block, then restart wifidogx.",
}


def _speaking(gateway: Gateway, dialect: str) -> Gateway:
    values = {name: getattr(gateway, name) for name in Gateway.__dataclass_fields__}
    return Gateway(**(values | {"dialect": dialect}))


def suggestion(gateway: Gateway) -> str:
    """The address that guests came with, where it is not the recorded one; "" otherwise."""
    return at(*gateway.came_with) if gateway.came_with else ""


def reached_at(visit: Visit) -> tuple[str, int]:
    """Where routers reach us, over plain HTTP: what the settings say, else the name this page was asked by.

    A name that only this machine knows, as through an SSH tunnel, is of no use to a router.
    """
    settings = visit.portal.settings
    asked = urlsplit(request.host_url)
    through_a_tunnel = (
        asked.hostname in ("localhost", "127.0.0.1", "::1") and settings.server.host in gateways.EVERYWHERE
    )
    if settings.server.public_url or through_a_tunnel:
        return gateways.reached_at(settings)
    return asked.hostname or "", asked.port or 80


def _health(health: Health, clock: Clock) -> list[tuple[str, str]]:
    facts = [("Last ping", clock.in_words(health.at) if health.at else "none yet")]
    if health.sys_load is not None:
        facts.append(("Load", f"{health.sys_load:.2f}"))
    if health.sys_memfree is not None:
        facts.append(("Memory free", size(health.sys_memfree * 1000)))
    if health.sys_uptime is not None:
        facts.append(("Router up", span(health.sys_uptime)))
    if health.wifidog_uptime is not None:
        facts.append(("WiFiDog up", span(health.wifidog_uptime)))
    if health.software:
        facts.append(("Software", health.software))
    gateway = health.gateway
    download = "outgoing" if gateway.swapped else "incoming"
    facts.append(("Dialect", f"{gateway.dialect}, {download} is download"))
    facts.append(("Reports each", span(gateway.interval_seconds)))
    return facts


def _trust(health: Health, clock: Clock) -> list[tuple[str, str, bool]]:
    gateway = health.gateway
    returns = at(gateway.address, gateway.port) if gateway.address else ""
    return [
        ("Comes from", health.source or "not heard yet", bool(health.source)),
        ("Guests return to", returns or "not recorded", bool(returns)),
        ("Keys valid", str(health.keys), False),
        ("Key last shown", clock.in_words(health.key_seen_at) if health.key_seen_at else "never", False),
        ("Adopted", clock.day(gateway.adopted_at) if gateway.adopted_at else "", False),
    ]


# What changes a gateway


def adopt(visit: Visit, gateway_id: int) -> Response:
    """Takes a gateway out of the inbox into this network. Only for whoever manages all networks: it is nobody's yet."""
    if not visit.everywhere(Role.MANAGER):
        abort(404)
    try:
        with visit.writing("adopt") as db:
            gateway = gateways.adopt(db, gateway_id, visit.here.id, visit.now)
            gateways.make_key(db, visit.portal.keyring, gateway.id, visit.now)
            visit.record(db, "gateway.adopt", gateway.gw_id)
    except Invalid:
        return to(here(visit, "gateways"), "Somebody else was quicker: it does not wait any more.", "warn")
    notice = f"{gateway.gw_id} is part of {visit.here.name}. Paste the lines below, so that it can prove itself."
    return to(here(visit, "gateway", gateway_id=gateway.id), notice)


def new(visit: Visit) -> Response:
    """A gateway by hand."""
    form = Form({"dialect": "classic", "interval": "60", "link": "1000"})
    if request.method == "POST":
        form = Form(request.form)
        values = _read(form)
        if form.good:
            try:
                with visit.writing("gateway") as db:
                    gateway = gateways.add(
                        db,
                        visit.here.id,
                        form.value("gw_id"),
                        visit.now,
                        name=form.value("name"),
                        dialect=form.value("dialect"),
                        address=form.value("address").strip() or None,
                        interval_seconds=values["interval"],
                    )
                    link = values["link"] * BYTES_PER_MBIT
                    gateways.edit(db, gateway.id, swapped=form.flag("swapped"), link_bytes_per_second=link)
                    gateways.make_key(db, visit.portal.keyring, gateway.id, visit.now)
                    visit.record(db, "gateway.add", gateway.gw_id)
                notice = "Added. Paste the lines below into the router."
                return to(here(visit, "gateway", gateway_id=gateway.id), notice)
            except Invalid as error:
                form.refuse(error)
    return _form(visit, form, None)


def edit(visit: Visit, gateway_id: int) -> Response:
    """A gateway's settings."""
    with visit.portal.store.read("operators", caller="desk gateway") as db:
        gateway = of_network(visit, db, gateway_id).gateway
    form = Form(request.form) if request.method == "POST" else _filled(gateway)
    if request.method == "POST":
        values = _read(form)
        if form.good:
            try:
                with visit.writing("gateway") as db:
                    of_network(visit, db, gateway_id)
                    changed = gateways.edit(
                        db,
                        gateway_id,
                        name=form.value("name"),
                        dialect=form.value("dialect"),
                        swapped=form.flag("swapped"),
                        interval_seconds=values["interval"],
                        link_bytes_per_second=values["link"] * BYTES_PER_MBIT,
                    )
                    changed = gateways.record_address(db, gateway_id, form.value("address").strip() or None)
                    visit.record(db, "gateway.edit", changed.gw_id, **_differences(gateway, changed))
                return to(here(visit, "gateway", gateway_id=gateway_id), "Saved. It holds from the next call on.")
            except Invalid as error:
                form.refuse(error)
    return _form(visit, form, gateway)


def record(visit: Visit, gateway_id: int) -> Response:
    """Records the address that guests came with, as it was shown."""
    form = Form(request.form)
    try:
        with visit.writing("gateway") as db:
            of_network(visit, db, gateway_id)
            changed = gateways.record_address(db, gateway_id, form.value("address"))
            visit.record(db, "gateway.address", changed.gw_id, address=form.value("address"))
    except Invalid:
        abort(400)
    notice = f"Guests return to {at(changed.address or '', changed.port)} from now on."
    return to(here(visit, "gateway", gateway_id=gateway_id), notice)


def rotate(visit: Visit, gateway_id: int) -> Response:
    """A new key, once asked; the old one stays good for a while."""
    with visit.writing("gateway key") as db:
        gateway = of_network(visit, db, gateway_id).gateway
        if request.method == "POST":
            gateways.make_key(db, visit.portal.keyring, gateway_id, visit.now)
            visit.record(db, "gateway.key", gateway.gw_id)
    grace = span(gateways.KEY_GRACE.total_seconds())
    if request.method == "POST":
        notice = f"A new key is made. The old one is good for {grace} more."
        return to(here(visit, "gateway", gateway_id=gateway_id) + "#lines", notice)
    return show(
        visit,
        "ask.html",
        "gateways",
        title=f"Change the key of {gateway.name or gateway.gw_id}?",
        says=[
            f"A new key is made, and the one in the router now stays good for {grace}.",
            "Paste the new lines within that time, or the gateway’s calls are no longer believed.",
        ],
        yes="Make a new key",
        back=Link(gateway.name or gateway.gw_id, here(visit, "gateway", gateway_id=gateway_id)),
    )


def retire(visit: Visit, gateway_id: int) -> Response:
    """Stops listening to a gateway, once asked."""
    with visit.writing("gateway") as db:
        gateway = of_network(visit, db, gateway_id).gateway
        online = history.online_by_gateway(db, visit.here.id).get(gateway_id, 0)
        if request.method == "POST":
            gateways.retire(db, gateway_id)
            visit.record(db, "gateway.retire", gateway.gw_id)
    title = gateway.name or gateway.gw_id
    if request.method == "POST":
        return to(here(visit, "gateways"), f"{title} is retired. What it reported is kept.")
    are = "is" if online == 1 else "are"
    spared = f"{many(online, 'guest')} online there {are} not cut off at once. " if online else ""
    return show(
        visit,
        "ask.html",
        "gateways",
        title=f"Retire {title}?",
        says=[
            "Its calls are no longer answered with yes or no, and guests who come through it cannot sign in.",
            f"{spared}What was reported is kept. Added again, it needs new lines.",
        ],
        yes="Retire it",
        back=Link(title, here(visit, "gateway", gateway_id=gateway_id)),
    )


def _read(form: Form) -> Mapping[str, int]:
    form.line("name", 60, empty=True)
    form.choice("dialect", dict(DIALECTS))
    if form.value("address").strip():
        form.read("address", lambda typed: fields.host_and_port("address", typed, 2060), ("", 0))
    return {"interval": form.whole("interval", 1, 3600), "link": form.whole("link", 1, 1_000_000)}


def _filled(gateway: Gateway) -> Form:
    typed = {
        "name": gateway.name,
        "dialect": gateway.dialect,
        "address": at(gateway.address, gateway.port) if gateway.address else "",
        "interval": str(gateway.interval_seconds),
        "link": str(max(1, gateway.link_bytes_per_second // BYTES_PER_MBIT)),
    }
    return Form(typed | ({"swapped": "yes"} if gateway.swapped else {}))


def _differences(before: Gateway, after: Gateway) -> dict[str, object]:
    names = ("name", "dialect", "swapped", "address", "port", "interval_seconds", "link_bytes_per_second")
    return {name: getattr(after, name) for name in names if getattr(before, name) != getattr(after, name)}


def _form(visit: Visit, form: Form, gateway: Gateway | None) -> Response:
    back = Link("Gateways", here(visit, "gateways"))
    if gateway is not None:
        back = Link(gateway.name or gateway.gw_id, here(visit, "gateway", gateway_id=gateway.id))
    return show(
        visit,
        "gateway_form.html",
        "gateways",
        400 if form.errors else 200,
        title="Settings" if gateway else "Add a gateway",
        form=form,
        gateway=gateway,
        dialects=DIALECTS,
        suggestion=suggestion(gateway) if gateway else "",
        back=back,
    )


_ONE = "/desk/networks/<slug>/gateways/<int:gateway_id>"
ROUTES = (
    Route("/desk/networks/<slug>/gateways", listing, Who.DESK, "gateways"),
    Route("/desk/networks/<slug>/gateways/new", new, Who.MANAGER, "gateway_new", posts=True),
    Route(_ONE, page, Who.DESK, "gateway"),
    Route(f"{_ONE}/adopt", adopt, Who.MANAGER, "gateway_adopt", gets=False, posts=True),
    Route(f"{_ONE}/edit", edit, Who.MANAGER, "gateway_edit", posts=True),
    Route(f"{_ONE}/address", record, Who.MANAGER, "gateway_record", gets=False, posts=True),
    Route(f"{_ONE}/key", rotate, Who.MANAGER, "gateway_rotate", posts=True),
    Route(f"{_ONE}/retire", retire, Who.MANAGER, "gateway_retire", posts=True),
)
