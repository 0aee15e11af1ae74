"""People at the desk: who works in a network, what they may do, and the record of what they did.

Promises: whoever hands out power types his own password again; an owner of a network changes what somebody is there and
nothing anywhere else; a link is shown once, to whoever asked for it, and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from flask import Response, abort, request
from sqlalchemy import Connection

from portal import networks, operators
from portal.fields import Invalid
from portal.operators import Operator, Role
from portal.web.desk import pages
from portal.web.desk.doors import confirmed
from portal.web.desk.forms import Form
from portal.web.desk.frame import PARTS, Link, clock_of, full, here, show, to
from portal.web.desk.terms import State
from portal.web.desk.words import Clock, listed, many
from portal.web.guards import Route, Visit, Who

PAGE: Final = 50
ROLES: Final = [(role.value, name) for role, name in sorted(PARTS.items(), key=lambda each: each[1])]
NO_PART: Final = "none"

# What was done, as the record says it.
ACTIONS: Final = {
    "network.add": "made the network",
    "network.edit": "changed the splash page",
    "plan.add": "made the plan",
    "plan.edit": "changed the plan",
    "plan.retire": "retired the plan",
    "gateway.add": "added the gateway",
    "gateway.adopt": "adopted the gateway",
    "gateway.edit": "changed the gateway",
    "gateway.address": "recorded the address of",
    "gateway.key": "changed the key of",
    "gateway.retire": "retired the gateway",
    "voucher.issue": "issued codes",
    "voucher.revoke": "took back a code of",
    "voucher.revoke_batch": "took back the codes of",
    "guest.add": "added the guest",
    "guest.block": "blocked the guest",
    "guest.unblock": "let the guest in again",
    "station.unblock": "let in again",
    "session.kick": "kicked",
    "operator.first": "set the installation up as",
    "operator.sign_in": "signed in from",
    "operator.sign_out_one": "signed out one browser of",
    "operator.sign_out_others": "signed out everywhere else",
    "operator.password": "chose a new password",
    "operator.add": "invited",
    "operator.role": "changed the part of",
    "operator.disable": "stopped the account of",
    "operator.enable": "let sign in again",
    "operator.link": "made a link for",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A person in the list."""

    name: str
    email: str
    state: State
    part: str
    changeable: bool
    href: str


@dataclass(frozen=True, slots=True)
class Made:
    """A link that was just made, shown once."""

    says: str
    href: str
    until: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the record."""

    at: str
    actor: str
    action: str
    subject: str
    detail: str


def in_network(visit: Visit) -> Response:
    """Who works in this network; and the form that invites."""
    return _people(visit, visit.here.id)


def everyone(visit: Visit) -> Response:
    """Everybody; and the form that invites somebody to all networks."""
    return _people(visit, None)


def _people(visit: Visit, network_id: int | None) -> Response:
    form = Form(request.form if request.method == "POST" else {"role": Role.DESK.value})
    made = _invite(visit, form, network_id) if request.method == "POST" else None
    with visit.portal.store.read("operators", caller="desk people") as db:
        found = operators.listed(db, network_id)
        names = {each.id: each.name for each in networks.listed(db)}
    return show(
        visit,
        "people.html",
        "everyone" if network_id is None else "people",
        400 if form.errors else 200,
        people=[_row(visit, each, network_id, names) for each in found],
        form=Form({"role": Role.DESK.value}) if made else form,
        roles=ROLES,
        link=made,
    )


def _row(visit: Visit, each: Operator, network_id: int | None, names: Mapping[int, str]) -> Row:
    if each.disabled_at is not None:
        state = State("bad", "Stopped")
    elif each.invited:
        state = State("wait", "Invited")
    else:
        state = State("on", "May sign in")
    part = _part(each, network_id, names)
    changeable = each.id != visit.operator.id and (network_id is None or not _is_global(each))
    if network_id is None:
        href = pages.url("person", operator_id=each.id)
    else:
        href = here(visit, "part", operator_id=each.id)
    return Row(each.name, each.email, state, part, changeable, href)


def _part(each: Operator, network_id: int | None, names: Mapping[int, str]) -> str:
    if network_id is not None:
        role = each.role_in(network_id)
        said = PARTS[role] if role else ""
        return f"{said}, of all networks" if _is_global(each) else said
    parts = [
        f"{PARTS[held.role]} {'everywhere' if held.network_id is None else 'at ' + names.get(held.network_id, '?')}"
        for held in each.memberships
    ]
    return listed(parts) or "no part"


def _is_global(each: Operator) -> bool:
    return any(held.network_id is None for held in each.memberships)


def _invite(visit: Visit, form: Form, network_id: int | None) -> Made | None:
    """Invites; or gives somebody who has an account already his part here. None when the form has to be shown again."""
    role = form.choice("role", [value for value, _ in ROLES])
    if not form.good or not confirmed(visit, form):
        return None
    try:
        with visit.writing("invite") as db:
            known = operators.by_email(db, form.value("email"))
            if known is not None:
                return _join(visit, db, form, known, Role(role), network_id)
            operator, token = operators.add(
                db, form.value("email"), Role(role), network_id, visit.now, name=form.value("name")
            )
            visit.record(db, "operator.add", operator.email, role=role)
    except Invalid as error:
        form.refuse(error)
        return None
    return _made(visit, token, f"{operator.email} is invited. Hand on this link:")


def _join(visit: Visit, db: Connection, form: Form, known: Operator, role: Role, network_id: int | None) -> Made | None:
    held = known.role_in(network_id) if network_id is not None else None
    if held is not None or (network_id is None and _is_global(known)):
        form.wrong("email", "This person has a part here already. Change it in the list.")
        return None
    operators.set_role(db, known, role, network_id)
    visit.record(db, "operator.role", known.email, role=role.value)
    until = "until that password is changed"
    return Made(f"{known.email} has an account already, and signs in here with it:", full(visit, "sign_in"), until)


def _made(visit: Visit, token: str, says: str) -> Made:
    until = clock_of(visit).in_words(visit.now + operators.INVITATION_LIFE)
    return Made(says, full(visit, "new_password", token=token), until)


def part(visit: Visit, operator_id: int) -> Response:
    """What somebody is in this network. Who has a part in all of them is changed where all of them are."""
    with visit.portal.store.read("operators", caller="desk part") as db:
        person = operators.get(db, operator_id)
    if person is None or person.role_in(visit.here.id) is None or _is_global(person) or person.id == visit.operator.id:
        abort(404)
    role = person.role_in(visit.here.id)
    form = Form(request.form if request.method == "POST" else {"role": role.value if role else NO_PART})
    if request.method == "POST":
        chosen = form.choice("role", [NO_PART, *(value for value, _ in ROLES)])
        if form.good and confirmed(visit, form):
            try:
                with visit.writing("part") as db:
                    operators.set_role(db, person, None if chosen == NO_PART else Role(chosen), visit.here.id)
                    visit.record(db, "operator.role", person.email, role=chosen)
                return to(here(visit, "people"), "Saved. It holds from the next page on.")
            except Invalid as error:
                form.refuse(error)
    back = Link("People", here(visit, "people"))
    roles = [*ROLES, (NO_PART, "none any more")]
    return _person(visit, "people", person, form, roles, back, may_disable=False)


def person(visit: Visit, operator_id: int) -> Response:
    """Somebody's part in all networks, his account, a link for a new password."""
    with visit.portal.store.read("operators", caller="desk person") as db:
        found = operators.get(db, operator_id)
    if found is None or found.id == visit.operator.id:
        abort(404)
    held = next((each.role.value for each in found.memberships if each.network_id is None), NO_PART)
    typed = {"role": held} | ({"disabled": "yes"} if found.disabled_at else {})
    form = Form(request.form if request.method == "POST" else typed)
    if request.method == "POST" and (response := _change(visit, found, form, held)) is not None:
        return response
    back = Link("People", pages.url("everyone"))
    roles = [*ROLES, (NO_PART, "none everywhere; parts in single networks stay")]
    return _person(visit, "everyone", found, form, roles, back, may_disable=True)


def _change(visit: Visit, found: Operator, form: Form, held: str) -> Response | None:
    chosen = form.choice("role", [NO_PART, *(value for value, _ in ROLES)])
    if not form.good or not confirmed(visit, form):
        return None
    token = ""
    try:
        with visit.writing("person") as db:
            if chosen != held:
                operators.set_role(db, found, None if chosen == NO_PART else Role(chosen), None)
                visit.record(db, "operator.role", found.email, role=chosen)
            if form.flag("disabled") and found.disabled_at is None:
                operators.disable(db, found, visit.now)
                visit.record(db, "operator.disable", found.email)
            elif not form.flag("disabled") and found.disabled_at is not None:
                operators.enable(db, found, visit.now)
                visit.record(db, "operator.enable", found.email)
            if form.flag("link") and not form.flag("disabled"):
                token = operators.invite_again(db, found, visit.now)
                visit.record(db, "operator.link", found.email)
    except Invalid as error:
        form.refuse(error)
        return None
    if token:
        made = _made(visit, token, f"By this link {found.email} chooses a new password:")
        return show(visit, "link.html", "everyone", link=made, back=Link("People", pages.url("everyone")))
    return to(pages.url("everyone"), "Saved. It holds from the next page on.")


def _person(
    visit: Visit,
    section: str,
    found: Operator,
    form: Form,
    roles: Sequence[tuple[str, str]],
    back: Link,
    *,
    may_disable: bool,
) -> Response:
    status = 400 if form.errors else 200
    return show(
        visit,
        "person.html",
        section,
        status,
        person=found,
        form=form,
        roles=roles,
        back=back,
        may_disable=may_disable,
    )


# The record


def audit(visit: Visit) -> Response:
    """What was changed in this network, and by whom."""
    return _record(visit, [visit.here.id], partial(here, visit, "audit"))


def record(visit: Visit) -> Response:
    """What was changed anywhere: also who signed in, and what belongs to no network."""
    return _record(visit, None, partial(pages.url, "record"))


def _record(visit: Visit, network_ids: Sequence[int] | None, address: Callable[..., str]) -> Response:
    clock = clock_of(visit)
    before = request.args.get("before", type=int)
    with visit.portal.store.read("operators", caller="desk record") as db:
        found = operators.record(db, network_ids, before=before, most=PAGE + 1)
        names = {each.id: each.name for each in networks.listed(db)} if network_ids is None else {}
    more = len(found) > PAGE
    found = found[:PAGE]
    return show(
        visit,
        "audit.html",
        "audit",
        entries=[_line(each, clock, names) for each in found],
        next_href=address(before=found[-1].id) if more else "",
        range_told=f"{many(len(found), 'entry', 'entries')} here, the latest first.",
    )


def _line(each: operators.Entry, clock: Clock, names: Mapping[int, str]) -> Line:
    where = names.get(each.network_id or 0, "")
    return Line(
        at=clock.at(each.at),
        actor=each.actor,
        action=ACTIONS.get(each.action, each.action),
        subject=f"{each.subject} at {where}" if where and where != each.subject else each.subject,
        detail=_detail(each.detail),
    )


def _detail(detail: Mapping[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in detail.items())


ROUTES = (
    Route("/desk/people", everyone, Who.HEAD, "everyone", posts=True),
    Route("/desk/audit", record, Who.HEAD, "record"),
    Route("/desk/people/<int:operator_id>", person, Who.HEAD, "person", posts=True),
    Route("/desk/networks/<slug>/people", in_network, Who.OWNER, "people", posts=True),
    Route("/desk/networks/<slug>/people/<int:operator_id>", part, Who.OWNER, "part", posts=True),
    Route("/desk/networks/<slug>/audit", audit, Who.OWNER, "audit"),
)
