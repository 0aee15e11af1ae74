"""Networks and plans at the desk: how guests see a place, the ways in, what is offered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from flask import Response, abort, request
from sqlalchemy import Connection

from portal import fields, gateways, history, networks
from portal.fields import Invalid
from portal.networks import Network, Plan, Terms
from portal.offload import Busy, Unsuitable
from portal.operators import Role
from portal.web import look
from portal.web.desk import pages, terms
from portal.web.desk.forms import DAYS, MEGABYTES, MINUTES, Form, measure, sentence, slug_of
from portal.web.desk.frame import PARTS, Link, clock_of, here, show, to
from portal.web.guards import Route, Visit, Who
from portal.web.guest.words import default_terms
from portal.web.languages import LANGUAGES

MEGABYTE: Final = 10**6
COLOUR: Final = "#24463f"
# Every unit of a plan's form, by field: what the smallest of them counts is what networks.terms takes.
MEASURED: Final = {
    "minutes": MINUTES,
    "megabytes": MEGABYTES,
    "idle_minutes": MINUTES,
    "period_minutes": MINUTES,
    "period_megabytes": MEGABYTES,
    "valid_days": DAYS,
    "cooldown_minutes": MINUTES,
}


@dataclass(frozen=True, slots=True)
class Listed:
    """A network in the list of all."""

    name: str
    slug: str
    online: int
    gateways: int
    silent: int
    waiting: int
    role: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan in the list."""

    id: int
    name: str
    terms: str
    uses: str
    retired: bool


# Networks


def every(visit: Visit) -> Response:
    """Every network the visitor has a part in; on to the only one."""
    may_create = visit.everywhere(Role.OWNER)
    with visit.portal.store.read("operators", caller="desk networks") as db:
        found = networks.listed(db, visit.operator.networks())
        if len(found) == 1 and not may_create:
            return to(pages.url("overview", slug=found[0].slug))
        listed = [_listed(db, visit, network) for network in found]
        waiting = len(gateways.inbox(db, visit.now)) if visit.everywhere(Role.MANAGER) else 0
    return show(visit, "networks.html", "networks", networks=listed, may_create=may_create, inbox=waiting)


def _listed(db: Connection, visit: Visit, network: Network) -> Listed:
    connected = gateways.adopted(db, visit.now, [network.id])
    role = visit.operator.role_in(network.id)
    return Listed(
        name=network.name,
        slug=network.slug,
        online=history.online(db, network.id),
        gateways=len(connected),
        silent=sum(each.silent(visit.now) for each in connected),
        waiting=sum(each.at is None for each in connected),
        role=PARTS[role] if role else "",
    )


def create(visit: Visit) -> Response:
    """A new network, from its name, place and look."""
    if request.method == "GET":
        return _network_form(visit, Form({"time_zone": "UTC", "language": "en", "colour": COLOUR}))
    form = Form(request.form)
    if not form.value("slug").strip():
        form.typed["slug"] = slug_of(form.value("name"))
    form.read("slug", fields.slug, "")
    _read_look(form)
    logo = _logo(visit, form)
    if form.good:
        try:
            with visit.writing("network") as db:
                place = {name: form.value(name) for name in ("time_zone", "language", "colour", "terms")}
                network = networks.add(db, form.value("slug"), form.value("name"), visit.now, **place)
                _edit_texts(db, network, form)
                if logo:
                    networks.set_logo(db, network.id, logo)
                visit.record_in(db, network.id, "network.add", network.name)
            return to(pages.url("overview", slug=network.slug), f"{network.name} is made. Next, give it a plan.")
        except Invalid as error:
            form.refuse(error)
    return _network_form(visit, form, 400)


def splash(visit: Visit) -> Response:
    """How guests see the network, and the ways in."""
    network = visit.here
    if request.method == "GET":
        return _network_form(visit, _filled(network))
    form = Form(request.form)
    _read_look(form)
    logo = _logo(visit, form)
    if form.good:
        try:
            with visit.writing("splash") as db:
                _edit_texts(db, network, form)
                changed = networks.edit(
                    db,
                    network.id,
                    name=form.value("name"),
                    time_zone=form.value("time_zone"),
                    language=form.value("language"),
                    colour=form.value("colour"),
                    vouchers=form.flag("vouchers"),
                    accounts=form.flag("accounts"),
                )
                networks.set_click_plan(db, network.id, int(form.value("click_plan") or 0) or None)
                if logo or form.flag("no_logo"):
                    networks.set_logo(db, network.id, logo)
                visit.record(db, "network.edit", changed.name, **_differences(network, changed))
            return to(here(visit, "splash"), "Saved. Guests see it from the next page on.")
        except Invalid as error:
            form.refuse(error)
    return _network_form(visit, form, 400)


def wording(visit: Visit, version: int) -> Response:
    """What guests accepted with one version of the terms."""
    with visit.portal.store.read("operators", caller="desk terms") as db:
        found = networks.wording(db, visit.here.id, version)
    if found is None:
        abort(404)
    told, state = "in force", "on"
    if found.replaced_at is not None:
        told, state = f"replaced {clock_of(visit).when(found.replaced_at)}", "done"
    own = [line for line in found.terms.splitlines() if line.strip()]
    return show(
        visit,
        "wording.html",
        "splash",
        version=version,
        told=told,
        state=state,
        lines=own or default_terms(),
        general=not own,
    )


def _read_look(form: Form) -> None:
    form.line("name", 60)
    form.read("time_zone", fields.time_zone, "")
    form.read("language", fields.language, "")
    form.typed["colour"] = form.read("colour", fields.colour, COLOUR)
    if not (form.value("click_plan") or "0").isdigit():
        form.wrong("click_plan", "Choose one of those offered.")


def _edit_texts(db: Connection, network: Network, form: Form) -> Network:
    return networks.edit(
        db,
        network.id,
        support=form.value("support"),
        code_hint=form.value("code_hint"),
        terms=form.value("terms"),
        privacy=form.value("privacy"),
    )


def _logo(visit: Visit, form: Form) -> bytes | None:
    """The uploaded picture, drawn anew; None where none was chosen, or where it cannot be used, which is reported."""
    upload = request.files.get("logo")
    if upload is None:
        return None
    data = upload.read()
    upload.close()
    if not data:
        return None
    try:
        return visit.portal.offload.safe_logo(data)
    except Unsuitable as error:
        form.wrong("logo", sentence(str(error)))
    except Busy:
        form.wrong("logo", "Several pictures are being drawn at the moment. Try again in some seconds.")
    return None


def _differences(before: Network, after: Network) -> dict[str, object]:
    """Which settings changed, for the record; of long texts only that they did."""
    found: dict[str, object] = {}
    for name in ("name", "time_zone", "language", "colour", "support", "code_hint", "vouchers", "accounts"):
        if getattr(before, name) != getattr(after, name):
            found[name] = getattr(after, name)
    if before.terms_version != after.terms_version:
        found["terms_version"] = after.terms_version
    if before.privacy != after.privacy:
        found["privacy"] = "changed"
    return found


def _filled(network: Network) -> Form:
    names = ("name", "time_zone", "language", "colour", "support", "code_hint", "terms", "privacy")
    typed = {name: str(getattr(network, name)) for name in names}
    typed |= {name: "yes" for name in ("vouchers", "accounts") if getattr(network, name)}
    typed["click_plan"] = str(network.click_plan_id or "")
    return Form(typed)


def _network_form(visit: Visit, form: Form, status: int = 200) -> Response:
    network = visit.network
    offered = []
    if network is not None:
        with visit.portal.store.read("operators", caller="desk splash") as db:
            offered = networks.plans(db, network.id)
    mark = network.logo_mark if network else None
    return show(
        visit,
        "network_form.html",
        "splash" if network else "networks",
        status,
        title="Splash" if network else "New network",
        form=form,
        zones=_zones(form.value("time_zone")),
        languages=list(LANGUAGES.items()),
        click_plans=[("", "not offered"), *((plan.id, f"yes: {plan.name}") for plan in offered)],
        has_logo=mark is not None,
        logo=look.logo_name(network.id, mark) if network and mark else "",
        terms_version=network.terms_version if network else 1,
    )


def _zones(present: str) -> list[tuple[str, str]]:
    """The zones to choose from, with the present one whatever its name: saving the page must not move the network."""
    offered = fields.places()
    names = offered if not present or present in offered else (present, *offered)
    return [(name, name.replace("_", " ")) for name in names]


# Plans


def plans(visit: Visit) -> Response:
    """What is offered."""
    with visit.portal.store.read("operators", caller="desk plans") as db:
        listed = networks.plans(db, visit.here.id, retired=True)
    offers = [
        Offer(
            id=plan.id,
            name=plan.name,
            terms=terms.in_full(plan),
            uses="codes, accounts, clicks" if plan.id == visit.here.click_plan_id else "codes, accounts",
            retired=plan.retired_at is not None,
        )
        for plan in sorted(listed, key=lambda plan: plan.retired_at is not None)
    ]
    return show(visit, "plans.html", "plans", plans=offers)


def plan_new(visit: Visit) -> Response:
    """A new plan."""
    blank = {"minutes_unit": "hours", "clock": "wall", "counts": "both", "devices": "1", "valid_days_unit": "days"}
    form = Form(request.form if request.method == "POST" else blank)

    def save(db: Connection, chosen: Terms) -> Plan:
        plan = networks.add_plan(db, visit.here.id, chosen, visit.now)
        visit.record(db, "plan.add", plan.name, terms=terms.in_full(plan))
        return plan

    return _plan_form(visit, form, "New plan", None, save)


def plan_edit(visit: Visit, plan_id: int) -> Response:
    """Other terms for what is sold from now on."""
    plan = _plan(visit, plan_id)
    form = Form(request.form) if request.method == "POST" else _filled_plan(plan)

    def save(db: Connection, chosen: Terms) -> Plan:
        changed = networks.edit_plan(db, visit.here.id, plan_id, chosen)
        visit.record(db, "plan.edit", changed.name, terms=terms.in_full(changed), was=terms.in_full(plan))
        return changed

    return _plan_form(visit, form, plan.name, plan_id, save)


def plan_retire(visit: Visit, plan_id: int) -> Response:
    """Takes a plan off the list, once asked."""
    plan = _plan(visit, plan_id)
    if request.method == "POST":
        with visit.writing("plan") as db:
            networks.retire_plan(db, visit.here.id, plan_id, visit.now)
            visit.record(db, "plan.retire", plan.name)
        return to(here(visit, "plans"), f"“{plan.name}” is no longer offered.")
    says = ["Nothing new is made from it. Codes and accounts that have it keep it, and stay good."]
    if plan.id == visit.here.click_plan_id:
        says.append("Guests get in by a click with this plan now. That way in closes.")
    return show(
        visit,
        "ask.html",
        "plans",
        title=f"Retire “{plan.name}”?",
        says=says,
        yes="Retire it",
        back=Link("Plans", here(visit, "plans")),
    )


def _plan(visit: Visit, plan_id: int) -> Plan:
    """A plan of this network that is still offered."""
    with visit.portal.store.read("operators", caller="desk plan") as db:
        plan = networks.plan(db, visit.here.id, plan_id)
    if plan is None or plan.retired_at is not None:
        abort(404)
    return plan


def _plan_form(
    visit: Visit, form: Form, title: str, plan_id: int | None, save: Callable[[Connection, Terms], Plan]
) -> Response:
    if request.method == "POST":
        amounts = {name: form.measured(name, units) for name, units in MEASURED.items()}
        name = form.line("name", 60)
        if form.good:
            try:
                chosen = networks.terms(
                    name,
                    clock=form.value("clock"),
                    counts=form.value("counts"),
                    devices=form.value("devices").strip(),
                    period=form.value("period") or None,
                    **amounts,
                )
                with visit.writing("plan") as db:
                    plan = save(db, chosen)
                return to(here(visit, "plans"), f"“{plan.name}” is on the list.")
            except Invalid as error:
                form.refuse(error)
    return show(
        visit,
        "plan_form.html",
        "plans",
        400 if form.errors else 200,
        title=title,
        plan_id=plan_id,
        form=form,
        time_units=list(MINUTES),
        data_units=list(MEGABYTES),
        day_units=list(DAYS),
    )


def _filled_plan(plan: Plan) -> Form:
    seconds = {
        "minutes": plan.seconds,
        "idle_minutes": plan.idle_seconds,
        "period_minutes": plan.period_seconds,
        "cooldown_minutes": plan.cooldown_seconds,
    }
    amounts: dict[str, Decimal | None] = {
        name: None if value is None else Decimal(value) / 60 for name, value in seconds.items()
    }
    for name, size in (("megabytes", plan.bytes), ("period_megabytes", plan.period_bytes)):
        amounts[name] = None if size is None else Decimal(size) / MEGABYTE
    amounts["valid_days"] = None if plan.valid_seconds is None else Decimal(plan.valid_seconds) / 86_400
    typed = {
        "name": plan.name,
        "clock": plan.clock,
        "counts": plan.counts,
        "devices": str(plan.devices or ""),
        "period": plan.period or "",
    }
    for name, amount in amounts.items():
        typed[name], typed[f"{name}_unit"] = measure(amount, MEASURED[name])
    return Form(typed)


ROUTES = (
    Route("/desk/", every, Who.OPERATOR, "networks"),
    Route("/desk/new-network", create, Who.HEAD, "network_new", posts=True),
    Route("/desk/networks/<slug>/splash", splash, Who.MANAGER, "splash", posts=True),
    Route("/desk/networks/<slug>/terms/<int:version>", wording, Who.DESK, "wording"),
    Route("/desk/networks/<slug>/plans", plans, Who.DESK, "plans"),
    Route("/desk/networks/<slug>/plans/new", plan_new, Who.MANAGER, "plan_new", posts=True),
    Route("/desk/networks/<slug>/plans/<int:plan_id>", plan_edit, Who.MANAGER, "plan_edit", posts=True),
    Route("/desk/networks/<slug>/plans/<int:plan_id>/retire", plan_retire, Who.MANAGER, "plan_retire", posts=True),
)
