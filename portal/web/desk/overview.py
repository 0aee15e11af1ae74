"""The overview of a network: four figures, what needs attention, the way to the first guest, the traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from flask import Response, abort, request
from sqlalchemy import Connection

from portal import gateways, history, vouchers
from portal.gateways import Health
from portal.history import Setup
from portal.operators import Role
from portal.web.desk import charts
from portal.web.desk.charts import Chart
from portal.web.desk.frame import Link, Tab, clock_of, here, show
from portal.web.desk.gateways import Finding, shown
from portal.web.desk.vouchers import runs_out, title_of
from portal.web.desk.words import Clock, grouped, many
from portal.web.guards import Route, Visit, Who

SPANS: Final = (Tab("", "Day"), Tab("week", "Week"), Tab("month", "Month"))
MOST_GATEWAYS: Final = 8
# Of so many batches it is looked whether they run out: the latest ones are those that are sold from.
WATCHED_BATCHES: Final = 5
RUNNING_OUT: Final = 0.2


@dataclass(frozen=True, slots=True)
class Figures:
    """The day in one row."""

    online: int
    lately: int
    down: int
    up: int
    signed_in: int
    ways: str
    silent: int
    waiting: int
    gateways: int
    silence: str


@dataclass(frozen=True, slots=True)
class Step:
    """One of the steps to the first guest."""

    title: str
    detail: str
    done: bool
    next: bool = False
    act: Link | None = None


def page(visit: Visit) -> Response:
    """The overview."""
    clock = clock_of(visit)
    span = request.args.get("span", "")
    if span not in [tab.key for tab in SPANS]:
        abort(404)
    with visit.portal.store.read("operators", caller="desk overview") as db:
        day = history.figures(db, visit.here.id, clock.midnight, visit.now)
        connected = gateways.adopted(db, visit.now, [visit.here.id])
        online = history.online_by_gateway(db, visit.here.id)
        lacking = history.setup(db, visit.here.id)
        attention = _attention(visit, db, connected, online, lacking, clock)
        chart = _chart(db, visit.here.id, span, clock)
    board = [shown(health, online.get(health.gateway.id, 0), clock) for health in connected]
    rank = {"silent": 0, "wait": 1, "on": 2}
    board.sort(key=lambda each: (rank[each.state.kind], -each.online))
    return show(
        visit,
        "overview.html",
        "overview",
        figures=_figures(day, connected, clock),
        attention=attention,
        steps=None if lacking.guests else steps(visit, lacking),
        board=board[:MOST_GATEWAYS],
        chart=chart,
        spans=SPANS,
        span_key=span,
    )


def _figures(day: history.Figures, connected: Sequence[Health], clock: Clock) -> Figures:
    silent = [health for health in connected if health.silent(clock.now)]
    names = {"voucher": "by code", "account": "by account", "click": "by click"}
    ways = [f"{grouped(day.signed_in[kind])} {name}" for kind, name in names.items() if kind in day.signed_in]
    longest = min((health.at for health in silent if health.at), default=None)
    return Figures(
        online=day.online,
        lately=day.came_lately,
        down=day.down,
        up=day.up,
        signed_in=sum(day.signed_in.values()),
        ways=", ".join(ways) or "nobody yet",
        silent=len(silent),
        waiting=sum(health.at is None for health in connected),
        gateways=len(connected),
        silence=f"since {clock.at(longest)}" if longest else "",
    )


def _chart(db: Connection, network_id: int, span: str, clock: Clock) -> Chart | None:
    if not span:
        tomorrow = clock.start_of(clock.today + timedelta(days=1))
        week_ago = clock.today - timedelta(days=7)
        then = clock.start_of(week_ago), clock.start_of(week_ago + timedelta(days=1))
        moved = history.usage(db, network_id, clock.midnight, tomorrow)
        moved_then = history.usage(db, network_id, *then)
        today = charts.hours_between(moved, clock.midnight, tomorrow)
        before = charts.hours_between(moved_then, *then)
        return charts.draw_day(today, before, clock, f"{clock.weekday()} last week")
    days = 7 if span == "week" else 30
    first = clock.today - timedelta(days=days - 1)
    moved = history.usage(db, network_id, clock.start_of(first), clock.now + timedelta(hours=1))
    return charts.draw_days(charts.days_between(moved, clock, first, days), clock, f"The last {days} days")


def _attention(
    visit: Visit,
    db: Connection,
    connected: Sequence[Health],
    online: Mapping[int, int],
    lacking: Setup,
    clock: Clock,
) -> list[Finding]:
    """What somebody should look at, worst first, each with the one thing to do."""
    found: list[Finding] = []
    for health in connected:
        found += _about_gateway(visit, health, online.get(health.gateway.id, 0), clock)
    if visit.everywhere(Role.MANAGER):
        found += [_asking(visit, health, clock) for health in gateways.inbox(db, visit.now)[:3]]
    for batch in vouchers.overviews(db, visit.here.id, visit.now, most=WATCHED_BATCHES):
        if batch.unused and batch.unused < batch.batch.size * RUNNING_OUT:
            pace = history.pace(db, visit.here.id, batch.batch.id, visit.now)
            gone = runs_out(batch.unused, pace.first_used, clock)
            detail = f"{grouped(batch.unused)} of {many(batch.batch.size, 'code')} left{', ' + gone if gone else ''}."
            title, href = title_of(batch.batch.label, batch.batch.id), here(visit, "batch", batch_id=batch.batch.id)
            found.append(Finding("warn", "voucher", title, "is running out", detail, href))
    if lacking.guests and not (visit.here.vouchers or visit.here.accounts or visit.here.click_plan_id):
        act = Link("Splash", here(visit, "splash")) if visit.allows(Role.MANAGER) else None
        found.append(Finding("bad", "splash", "The splash page offers no way in.", "", "Nobody can sign in.", act=act))
    order = {"bad": 0, "warn": 1, "ok": 2}
    return sorted(found, key=lambda each: order[each.level])


def _about_gateway(visit: Visit, health: Health, online: int, clock: Clock) -> list[Finding]:
    gateway = health.gateway
    title, href = gateway.name or gateway.gw_id, here(visit, "gateway", gateway_id=gateway.id)
    if health.silent(clock.now) and health.at is not None:
        stay = "it stays" if online == 1 else "they stay"
        detail = f"Last heartbeat {clock.at(health.at)}."
        detail += f" It had {many(online, 'guest')}; {stay} online until it returns." if online else ""
        return [Finding("bad", "alert", title, "is silent", detail, href)]
    if health.key_missing:
        detail = "Somebody speaks in its name without its key, or the router was reset."
        return [Finding("bad", "key", title, "is called without its key", detail, href)]
    if health.at is None and clock.now - (gateway.adopted_at or gateway.created_at) > timedelta(minutes=10):
        detail = "Paste the lines into the router, and restart WiFiDog there."
        return [Finding("warn", "gateway", title, "was never heard", detail, href)]
    if health.at is not None and gateway.address is None:
        detail = "Guests are sent back to whatever private address the router names."
        return [Finding("warn", "open", title, "has no recorded address", detail, href)]
    if health.at is not None and not health.keyed:
        return [
            Finding(
                "warn", "key", title, "proves itself with no key", "Anyone who knows its id can speak for it.", href
            )
        ]
    return []


def _asking(visit: Visit, health: Health, clock: Clock) -> Finding:
    where = f"Unknown gateway at {health.source}" if health.source else "Unknown gateway"
    detail = f"{where}, since {clock.at(health.gateway.created_at)}."
    href = here(visit, "gateways")
    return Finding("warn", "gateway", health.gateway.gw_id, "asks to join", detail, href, act=Link("Look", href))


def steps(visit: Visit, lacking: Setup) -> list[Step]:
    """The way from an empty network to the first guest; the first thing not done is what comes next.

    The page of networks shows the same steps while there is no network (templates/desk/networks.html).
    """
    codes = lacking.codes > 0 or lacking.click
    wanted = [
        ("Create your network", "Its name and colour are what guests see.", True, "", ""),
        ("Make a plan", "How long, how much, on how many devices.", lacking.plans > 0, "plan_new", "New plan"),
        (
            "Connect the router",
            "Add it by its id, or adopt it once it calls here; then paste the lines that we print.",
            lacking.gateways > 0,
            "gateway_new",
            "Add a gateway",
        ),
        (
            "Hear from it",
            "The first ping comes within a minute after WiFiDog has been restarted.",
            lacking.gateways_heard > 0,
            "gateways",
            "Gateways",
        ),
        ("Issue vouchers", "Print a sheet; or open the way in by a click.", codes, "vouchers", "Vouchers"),
        ("Welcome the first guest", "Join the Wi-Fi with a phone and open any page.", False, "", ""),
    ]
    found: list[Step] = []
    for title, detail, done, endpoint, label in wanted:
        comes_next = not done and all(step.done for step in found)
        may = endpoint in ("vouchers", "gateways") or visit.allows(Role.MANAGER)
        act = Link(label, here(visit, endpoint)) if endpoint and may and not done else None
        found.append(Step(title, detail, done, comes_next, act))
    return found


ROUTES = (Route("/desk/networks/<slug>/", page, Who.DESK, "overview"),)
