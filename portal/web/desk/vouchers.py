"""Vouchers at the desk: issue, print, hand out as a file, see what became of each, take back.

Promises: a code is read in clear only to be shown to whoever may issue codes; a sheet is drawn beside the event loop;
no cell of a file is a formula. Whoever works at a network's desk may do all of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flask import Response, abort, request
from sqlalchemy import Connection

from portal import gateways, history, networks, vouchers
from portal.fields import Invalid
from portal.networks import Plan
from portal.offload import in_turns
from portal.vouchers import Overview
from portal.web.desk import codes, pages, terms
from portal.web.desk.forms import Form
from portal.web.desk.frame import Link, Tab, clock_of, here, show, to
from portal.web.desk.gateways import at
from portal.web.desk.terms import CODE_STATES, State
from portal.web.desk.words import Clock, grouped, many
from portal.web.guards import Route, Visit, Who

# So many are issued while a browser waits; the command line takes more.
MOST_AT_ONCE: Final = 10_000
CARDS_A_PAGE: Final = 200
PORTION: Final = 500
STATES: Final = ("unused", "active", "used up", "expired", "revoked")


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch in the list."""

    id: int
    title: str
    plan: str
    issued: str
    unused: int
    active: int
    over: int
    size: int
    revoked: bool


@dataclass(frozen=True, slots=True)
class CodeRow:
    """A code and what became of it."""

    id: int
    code: str
    state: State
    first_used: str
    told: str
    started: bool
    revocable: bool


@dataclass(frozen=True, slots=True)
class Figure:
    label: str
    count: int
    told: str


@dataclass(frozen=True, slots=True)
class Head:
    """A batch, as its page begins."""

    id: int
    title: str
    told: str


def title_of(label: str, batch_id: int) -> str:
    """What a batch is called."""
    return label or f"Batch {batch_id}"


def listing(visit: Visit) -> Response:
    """The batches; and the form that issues one."""
    form = Form({"count": "50"})
    if request.method == "POST":
        form = Form(request.form)
        response = _issue(visit, form)
        if response is not None:
            return response
    before = request.args.get("before", type=int)
    clock = clock_of(visit)
    with visit.portal.store.read("operators", caller="desk vouchers") as db:
        found = vouchers.overviews(db, visit.here.id, visit.now, before=before, most=history.PAGE + 1)
        plans = networks.plans(db, visit.here.id)
    more = len(found) > history.PAGE
    found = found[: history.PAGE]
    return show(
        visit,
        "vouchers.html",
        "vouchers",
        400 if form.errors else 200,
        batches=[_row(each, clock) for each in found],
        plans=_choices(plans),
        form=form,
        next_href=here(visit, "vouchers", before=found[-1].batch.id) if more else "",
        range_told=many(len(found), "batch", "batches") + (", the latest first." if more else "."),
    )


def _row(each: Overview, clock: Clock) -> BatchRow:
    batch = each.batch
    return BatchRow(
        id=batch.id,
        title=title_of(batch.label, batch.id),
        plan=each.plan,
        issued=clock.at(batch.created_at),
        unused=each.unused,
        active=each.active,
        over=each.used_up + each.expired,
        size=batch.size,
        revoked=each.revoked == batch.size,
    )


def _choices(plans: list[Plan]) -> list[tuple[int, str]]:
    return [(plan.id, plan.name) for plan in plans]


def _issue(visit: Visit, form: Form) -> Response | None:
    """Issues a batch; None when the form has to be shown again."""
    count = form.whole("count", 1, MOST_AT_ONCE)
    if "count" in form.errors and form.value("count").replace(",", "").strip().isdigit():
        form.errors["count"] = f"Between 1 and {MOST_AT_ONCE:,} at once. Issue a second batch for the rest."
    plan_id = form.value("plan")
    if not form.good:
        return None
    try:
        with visit.writing("issue") as db:
            plan = networks.plan(db, visit.here.id, int(plan_id)) if plan_id.isdigit() else None
            if plan is None:
                raise Invalid("plan", "choose one of those offered")
            by = visit.operator.name or visit.operator.email
            batch, _ = vouchers.issue(
                db, visit.portal.keyring, plan, count, visit.now, label=form.value("label"), by=by
            )
            visit.record(db, "voucher.issue", title_of(batch.label, batch.id), count=count, plan=plan.name)
    except Invalid as error:
        form.refuse(error)
        return None
    return to(here(visit, "batch", batch_id=batch.id), f"{many(count, 'code')} issued. Print them, or take the file.")


def find(visit: Visit) -> Response:
    """On to the batch that holds a code."""
    typed = request.args.get("code", "").strip()
    code = vouchers.normalise(typed)
    found = None
    if code is not None:
        with visit.portal.store.read("operators", caller="desk code") as db:
            found = vouchers.find(db, visit.portal.keyring, visit.here.id, code)
    if found is not None:
        return to(here(visit, "batch", batch_id=found.batch_id, code=found.id))
    said = "We do not know this code." if code else "A code has 12 signs; what was typed cannot be one."
    return to(here(visit, "vouchers"), said, "warn")


def batch(visit: Visit, batch_id: int) -> Response:
    """A batch: its figures, and what became of each code."""
    clock = clock_of(visit)
    which = request.args.get("which", "")
    state = which.replace("-", " ") if which else None
    if state is not None and state not in STATES:
        abort(404)
    after = request.args.get("after", 0, type=int)
    only = request.args.get("code", 0, type=int)
    with visit.portal.store.read("operators", caller="desk batch") as db:
        each = _overview(visit, db, batch_id)
        pace = history.pace(db, visit.here.id, batch_id, visit.now)
        limit = 1 if only else history.PAGE + 1
        found = history.codes(
            db, visit.here.id, batch_id, visit.now, state=state, after=only - 1 if only else after, limit=limit
        )
        plans = networks.plans(db, visit.here.id)
    more = len(found) > history.PAGE
    found = found[: history.PAGE]
    tabs = [Tab("", f"All {grouped(each.batch.size)}")]
    tabs += [Tab(name.replace(" ", "-"), CODE_STATES[name].word) for name in STATES if _count(each, name)]
    return show(
        visit,
        "batch.html",
        "vouchers",
        batch=_head(each, clock),
        unused=each.unused,
        figures=_figures(each, pace, clock),
        codes=[_code(visit, row, clock) for row in found],
        tabs=tabs,
        which=which,
        plans=_choices(plans),
        form=Form({"count": "50", "plan": str(each.batch.plan_id or ""), "label": ""}),
        next_href=here(visit, "batch", batch_id=batch_id, which=which, after=found[-1].id) if more else "",
        range_told="The code that was looked for." if only else f"{many(len(found), 'code')} here.",
    )


def _overview(visit: Visit, db: Connection, batch_id: int) -> Overview:
    found = vouchers.overview(db, visit.here.id, batch_id, visit.now)
    if found is None:
        abort(404)
    return found


def _count(each: Overview, state: str) -> int:
    count: int = getattr(each, state.replace(" ", "_"))
    return count


def _head(each: Overview, clock: Clock) -> Head:
    batch = each.batch
    said = [many(batch.size, "code")]
    if each.plan:
        said.append(f"“{each.plan}”")
    issued = f"issued {clock.day(batch.created_at)}"
    said.append(f"{issued} by {batch.created_by}" if batch.created_by else issued)
    if batch.revoked_at is not None:
        said.append(f"taken back {clock.day(batch.revoked_at)}")
    return Head(batch.id, title_of(batch.label, batch.id), ", ".join(said))


def _figures(each: Overview, pace: history.Pace, clock: Clock) -> list[Figure]:
    return [
        Figure("Unused", each.unused, runs_out(each.unused, pace.first_used, clock) or "ready to hand out"),
        Figure("In use", each.active, f"on {many(pace.devices, 'device')} now"),
        Figure("Used up", each.used_up, f"{many(pace.first_used, 'code')} first used this week"),
        Figure("Gone", each.expired + each.revoked, f"{each.expired} expired, {each.revoked} taken back"),
    ]


def runs_out(unused: int, first_used: int, clock: Clock) -> str:
    """When the unused codes will be gone at the pace of the last seven days; "" when that is far off."""
    if not unused or not first_used:
        return ""
    days = unused * 7 // first_used
    if days > 6:
        return ""
    return f"gone by {clock.weekday(-days)}, at this pace" if days else "gone today, at this pace"


def _code(visit: Visit, row: history.Code, clock: Clock) -> CodeRow:
    return CodeRow(
        id=row.id,
        code=vouchers.grouped(visit.portal.keyring.open(bytes(row.code_sealed))),
        state=CODE_STATES[row.state],
        first_used=clock.at(row.grant.started_at) if row.grant.started_at else "",
        told=terms.became(row.state, row.grant, row.devices, row.revoked_at, clock),
        started=row.grant.started_at is not None,
        revocable=row.state in ("unused", "active"),
    )


def sheet(visit: Visit, batch_id: int) -> Response:
    """The unused codes of a batch, to be printed: ten cards a page, or 80 mm receipts."""
    clock = clock_of(visit)
    receipts = request.args.get("paper") == "80"
    after = request.args.get("after", 0, type=int)
    with visit.portal.store.read("operators", caller="desk sheet") as db:
        each = _overview(visit, db, batch_id)
        limit = CARDS_A_PAGE + 1
        rows = history.codes(db, visit.here.id, batch_id, visit.now, state="unused", after=after, limit=limit)
        address = splash_address(visit, db)
    more = len(rows) > CARDS_A_PAGE
    rows = rows[:CARDS_A_PAGE]
    if not rows:
        return to(here(visit, "batch", batch_id=batch_id), "No code of this batch is left to print.", "warn")
    printed = [
        (
            vouchers.grouped(visit.portal.keyring.open(bytes(row.code_sealed))),
            clock.last_day(row.grant.valid_until) if row.grant.valid_until else "",
        )
        for row in rows
    ]
    cards = in_turns(codes.cards(printed, address))
    head = _head(each, clock)
    what = many(len(cards), "receipt") if receipts else many(len(cards), "card")
    advice = (
        "To print, press Ctrl+P (⌘P on a Mac): on 80 mm, cut after each page."
        if receipts
        else "To print, press Ctrl+P (⌘P on a Mac): at 100 %, without the browser’s header and footer."
    )
    paper = "80" if receipts else ""
    return pages.html(
        "sheet.html",
        {
            "network": visit.here,
            "batch": head,
            "back": here(visit, "batch", batch_id=batch_id),
            "terms": terms.offered(rows[0].grant),
            "receipts": receipts,
            "cards": cards if receipts else [],
            "sheets": [] if receipts else codes.sheets(cards),
            "told": f"{what}, of {grouped(each.unused)} unused. {advice}",
            "next_href": here(visit, "batch_print", batch_id=batch_id, paper=paper, after=rows[-1].id) if more else "",
            "next_told": f"Next {CARDS_A_PAGE}",
        },
    )


def splash_address(visit: Visit, db: Connection) -> str:
    """What a scanned code opens: the gateway's own page, which sends a browser on to the splash page with all that it
    needs, where all gateways of the network have the same address; else our own front page, which says what to do."""
    recorded = {
        (health.gateway.address, health.gateway.port)
        for health in gateways.adopted(db, visit.now, [visit.here.id])
        if health.gateway.address
    }
    if len(recorded) == 1:
        address, port = recorded.pop()
        return f"http://{at(address or '', port)}/?code="
    return f"{visit.portal.settings.server.public_url.rstrip('/') or request.host_url.rstrip('/')}/?code="


def as_file(visit: Visit, batch_id: int) -> Response:
    """Every code of a batch with its state, as CSV; in portions, since taking codes out of their seals takes time."""
    clock = clock_of(visit)
    with visit.portal.store.read("operators", caller="desk file") as db:
        each = _overview(visit, db, batch_id)
    rows = (
        (one.code, each.plan, each.batch.label, one.state, clock.stamp(one.started_at) if one.started_at else "")
        for one in _portions(visit, batch_id)
    )
    text = codes.csv_text(("code", "plan", "label", "state", "first_used"), rows)
    response = Response(text, content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="vouchers-{visit.here.slug}-{batch_id}.csv"'
    return response


def _portions(visit: Visit, batch_id: int) -> Iterator[vouchers.Issued]:
    after = 0
    while True:
        with visit.portal.store.read("operators", caller="desk file") as db:
            portion = vouchers.codes_of(
                db, visit.portal.keyring, visit.here.id, batch_id, visit.now, after=after, most=PORTION
            )
        yield from portion
        if len(portion) < PORTION:
            return
        after = portion[-1].id


def revoke_batch(visit: Visit, batch_id: int) -> Response:
    """Takes back every code of a batch that is good, once asked."""
    clock = clock_of(visit)
    with visit.writing("revoke") as db:
        each = _overview(visit, db, batch_id)
        pace = history.pace(db, visit.here.id, batch_id, visit.now)
        title = title_of(each.batch.label, batch_id)
        if request.method == "POST":
            count = vouchers.revoke_batch(db, visit.here.id, batch_id, visit.now)
            visit.record(db, "voucher.revoke_batch", title, count=count)
    if request.method == "POST":
        return to(here(visit, "batch", batch_id=batch_id), f"{many(count, 'code')} taken back.")
    says = [f"{many(each.unused, 'unused code')} will open nothing any more."]
    if each.active:
        says.append(
            f"{many(each.active, 'code')} in use on {many(pace.devices, 'device')} "
            f"{'is' if each.active == 1 else 'are'} cut off at the gateway’s next report, within a minute or so."
        )
    says.append("This cannot be undone.")
    return show(
        visit,
        "ask.html",
        "vouchers",
        title=f"Take back {title}?",
        says=says,
        yes="Take them back",
        back=Link(title, here(visit, "batch", batch_id=batch_id)),
        clock=clock,
    )


def revoke_code(visit: Visit, batch_id: int, voucher_id: int) -> Response:
    """Takes back one code, once asked."""
    with visit.writing("revoke") as db:
        each = _overview(visit, db, batch_id)
        found = history.codes(db, visit.here.id, batch_id, visit.now, after=voucher_id - 1, limit=1)
        if not found or found[0].id != voucher_id:
            abort(404)
        row = found[0]
        code = vouchers.grouped(visit.portal.keyring.open(bytes(row.code_sealed)))
        if request.method == "POST":
            voucher = vouchers.Voucher(row.id, visit.here.id, batch_id, row.grant.id, row.revoked_at)
            if vouchers.revoke(db, voucher, visit.now):
                # Never the code itself: the record is read by others, and kept for years.
                visit.record(db, "voucher.revoke", title_of(each.batch.label, batch_id), voucher=row.id)
    if request.method == "POST":
        return to(here(visit, "batch", batch_id=batch_id), f"{code} is taken back.")
    says = ["It opens nothing any more. This cannot be undone."]
    if row.devices:
        says.insert(0, f"{many(row.devices, 'device')} online with it will be cut off within a minute or so.")
    return show(
        visit,
        "ask.html",
        "vouchers",
        title=f"Take back {code}?",
        says=says,
        yes="Take it back",
        back=Link(title_of(each.batch.label, batch_id), here(visit, "batch", batch_id=batch_id)),
    )


_ALL = "/desk/networks/<slug>/vouchers"
_ONE = f"{_ALL}/<int:batch_id>"
ROUTES = (
    Route(_ALL, listing, Who.DESK, "vouchers", posts=True),
    Route(f"{_ALL}/find", find, Who.DESK, "voucher_find"),
    Route(_ONE, batch, Who.DESK, "batch"),
    Route(f"{_ONE}/print", sheet, Who.DESK, "batch_print"),
    Route(f"{_ONE}/codes.csv", as_file, Who.DESK, "batch_csv"),
    Route(f"{_ONE}/revoke", revoke_batch, Who.DESK, "batch_revoke", posts=True),
    Route(f"{_ONE}/codes/<int:voucher_id>/revoke", revoke_code, Who.DESK, "code_revoke", posts=True),
)
