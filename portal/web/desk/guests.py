"""Guests' accounts and kept-out devices at the desk: add, block, let in again."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Response, abort, request

from portal import fields, guests, history, networks, sessions, wifidog
from portal.access import Reason
from portal.fields import Invalid
from portal.guests import Account, Newcomer
from portal.offload import Busy
from portal.web.desk import terms
from portal.web.desk.forms import Form
from portal.web.desk.frame import Link, clock_of, here, show, to
from portal.web.desk.terms import State
from portal.web.desk.words import Clock, many
from portal.web.guards import Route, Visit, Who


@dataclass(frozen=True, slots=True)
class Row:
    """An account in the list."""

    id: int
    username: str
    name: str
    state: State
    told: str
    seen: str
    blocked: bool


@dataclass(frozen=True, slots=True)
class KeptOut:
    """A device that is kept out."""

    mac: str
    until: str


def listing(visit: Visit) -> Response:
    """The accounts, the devices that are kept out, and the form that adds an account."""
    form = Form()
    if request.method == "POST":
        form = Form(request.form)
        response = _add(visit, form)
        if response is not None:
            return response
    clock = clock_of(visit)
    typed = request.args.get("q", "").strip()[:100]
    after = request.args.get("after", "")[:100]
    with visit.portal.store.read("operators", caller="desk guests") as db:
        found = history.accounts(db, visit.here.id, visit.now, text=typed, after=after, limit=history.PAGE + 1)
        plans = networks.plans(db, visit.here.id)
        kept_out = guests.blocked(db, visit.here.id, visit.now)
    more = len(found) > history.PAGE
    found = found[: history.PAGE]
    return show(
        visit,
        "guests.html",
        "guests",
        400 if form.errors else 200,
        guests=[_row(each, clock) for each in found],
        kept_out=[KeptOut(each.mac, clock.in_words(each.blocked_until)) for each in kept_out if each.blocked_until],
        plans=[(plan.id, plan.name) for plan in plans],
        form=form,
        q=typed,
        next_href=here(visit, "guests", q=typed, after=found[-1].username.lower()) if more else "",
        range_told=f"{many(len(found), 'account')} here.",
    )


def _row(each: history.Account, clock: Clock) -> Row:
    allowance = each.grant.allowance(clock.now)
    if each.blocked_at is not None:
        state = State("bad", "Blocked")
    elif each.devices:
        state = State("on", "Online")
    elif allowance.over is not None:
        state = State("done", "Used up")
    else:
        state = State("", "May sign in")
    told = terms.left(allowance, each.devices) if allowance.over is None else terms.used(each.grant, clock.now)
    return Row(
        id=each.id,
        username=each.username,
        name=each.name,
        state=state,
        told=told,
        seen=clock.at(each.seen_at) if each.seen_at else "never",
        blocked=each.blocked_at is not None,
    )


def _add(visit: Visit, form: Form) -> Response | None:
    """Adds an account; None when the form has to be shown again."""
    form.line("username", 64)
    form.line("name", 100, empty=True)
    password = form.secret("password")
    made = "" if password else fields.made_password()
    plan_id = form.value("plan")
    try:
        newcomer = guests.checked(Newcomer(form.value("username"), password or made, form.value("name")))
        if not form.good:
            return None
        hashed = visit.portal.offload.hash_password(newcomer.password)
        with visit.writing("guest") as db:
            plan = networks.plan(db, visit.here.id, int(plan_id)) if plan_id.isdigit() else None
            if plan is None or plan.retired_at is not None:
                raise Invalid("plan", "choose one of those offered")
            account = guests.add(db, plan, newcomer, hashed, visit.now)
            visit.record(db, "guest.add", account.username, plan=plan.name)
    except Invalid as error:
        form.refuse(error)
        return None
    except Busy:
        form.wrong("", "Many passwords are being checked at the moment. Try again in some seconds.")
        return None
    if made:
        # Shown on this one page and kept nowhere: not in a notice, which would travel in a cookie.
        return show(visit, "guest_added.html", "guests", username=account.username, password=made)
    return to(here(visit, "guests"), f"{account.username} may sign in.")


def block(visit: Visit, guest_id: int) -> Response:
    """Blocks an account and ends what it has open, or lets it in again; asked first."""
    with visit.writing("guest") as db:
        account = guests.get(db, visit.here.id, guest_id)
        if account is None:
            abort(404)
        online = sessions.sharing(db, account.grant_id)
        if request.method == "POST" and account.blocked_at is None:
            guests.block(db, visit.here.id, guest_id, visit.now)
            for session in online:
                sessions.end(db, session.id, session.grant_id, Reason.BLOCKED, visit.now)
            visit.record(db, "guest.block", account.username, sessions=len(online))
        elif request.method == "POST":
            guests.unblock(db, visit.here.id, guest_id, visit.now)
            visit.record(db, "guest.unblock", account.username)
    if request.method == "POST":
        done = "is blocked" if account.blocked_at is None else "may sign in again"
        return to(here(visit, "guests"), f"{account.username} {done}.")
    return _ask(visit, account, len(online))


def _ask(visit: Visit, account: Account, online: int) -> Response:
    if account.blocked_at is not None:
        title, yes = f"Let {account.username} in again?", "Let in again"
        says = ["The account works as before, with what is left of its plan."]
    else:
        title, yes = f"Block {account.username}?", "Block"
        says = ["The account cannot sign in any more, until you let it in again."]
        if online:
            says.append(f"{many(online, 'device')} online with it will be cut off within a minute or so.")
    back = Link("Guests", here(visit, "guests"))
    return show(visit, "ask.html", "guests", title=title, says=says, yes=yes, back=back)


def let_in(visit: Visit) -> Response:
    """Lets a device in again that was kept out."""
    mac = wifidog.normal_mac(request.form.get("mac", ""))
    if mac is None:
        abort(400)
    with visit.writing("station") as db:
        guests.unblock_station(db, visit.here.id, mac)
        visit.record(db, "station.unblock", f"device {visit.portal.keyring.mac_short(mac)}")
    return to(here(visit, "guests"), f"{mac} may come in again.")


ROUTES = (
    Route("/desk/networks/<slug>/guests", listing, Who.DESK, "guests", posts=True),
    Route("/desk/networks/<slug>/guests/<int:guest_id>/block", block, Who.DESK, "guest_block", posts=True),
    Route("/desk/networks/<slug>/guests/devices", let_in, Who.DESK, "station_let_in", gets=False, posts=True),
)
