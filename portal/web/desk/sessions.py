"""Sessions at the desk: who is online, why somebody was cut off, the sum that proves it, and the kick.

Promises: a code is looked for only when all of it was typed; what a session was charged is shown as the sum of its
counter lines, in bytes, and a sum that does not come out is said; nobody is thrown off without being asked about first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from flask import Response, abort, request
from sqlalchemy import Connection

from portal import access, grants, guests, history, sessions, vouchers
from portal.access import Reason
from portal.grants import Grant
from portal.history import Line, Past
from portal.web.desk import terms
from portal.web.desk.forms import Form
from portal.web.desk.frame import Link, Tab, clock_of, here, show, to
from portal.web.desk.terms import State
from portal.web.desk.words import Clock, grouped, many, reason, size, span
from portal.web.guards import Route, Visit, Who

# How far back the list of ended sessions goes; older ones are found through their code or account.
ENDED_DAYS: Final = 30
BLOCKS: Final = ((0, "no, it may come back"), (15, "for 15 minutes"), (60, "for an hour"),
                 (1_440, "for a day"), (43_200, "for 30 days"))  # fmt: skip
DEVICES: Final = {
    "phone": "Phone",
    "tablet": "Tablet",
    "laptop": "Computer",
    "television": "Television",
    "console": "Console",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A session in the list."""

    id: int
    guest: str
    is_code: bool
    is_click: bool
    mac: str
    device: str
    gateway: str
    state: State
    since: str
    down: int
    up: int
    why: str
    seconds: int | None
    seconds_left: int
    time_told: str
    bytes: int | None
    bytes_left: int
    data_told: str


@dataclass(frozen=True, slots=True)
class Headed:
    """A session, as its page begins."""

    id: int
    guest: str
    is_code: bool
    state: State
    where_told: str
    live: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided last, in a sentence: `level` is ok, warn or "" for a band."""

    level: str
    says: str
    detail: str


@dataclass(frozen=True, slots=True)
class LineRow:
    title: str
    detail: str
    down: int
    up: int


@dataclass(frozen=True, slots=True)
class SumRow:
    """A row under the lines; `down` of None leaves one figure, `rule` draws a line under it."""

    title: str
    total: str
    down: int | None = None
    up: int | None = None
    detail: str = ""
    rule: bool = False


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    told: str
    code: bool = False
    href: str = ""
    more: str = ""


@dataclass(frozen=True, slots=True)
class Shared:
    """Another device that is online with the same grant."""

    mac: str
    told: str
    moved: str
    href: str


def listing(visit: Visit) -> Response:
    """Who is online, who waits for the gateway, who was."""
    clock = clock_of(visit)
    typed = request.args.get("q", "").strip()[:100]
    tab = request.args.get("tab", "online")
    if tab not in ("online", "waiting", "ended"):
        abort(404)
    with visit.portal.store.read("operators", caller="desk sessions") as db:
        online = history.online(db, visit.here.id)
        found, more = _found(visit, db, tab, typed)
    return show(
        visit,
        "sessions.html",
        "sessions",
        sessions=[_row(visit, each, clock) for each in found],
        online=online,
        q=typed,
        tab=tab,
        tabs=[Tab("online", f"Online {grouped(online)}"), Tab("waiting", "Waiting"), Tab("ended", "Ended")],
        next_href=_next(visit, tab, typed, found) if more else "",
        range_told=f"{many(len(found), 'session')} here, the latest first.",
        nothing_told=NOTHING[tab],
    )


NOTHING: Final = {
    "online": "Nobody is online. A guest shows up here as soon as the gateway has let the device through.",
    "waiting": "Nobody waits. Here stands who has signed in, and was not shown by the gateway yet.",
    "ended": f"No session has ended in the last {ENDED_DAYS} days.",
}


def _found(visit: Visit, db: Connection, tab: str, typed: str) -> tuple[Sequence[history.Row], bool]:
    code = vouchers.normalise(typed)
    voucher = vouchers.find(db, visit.portal.keyring, visit.here.id, code) if code else None
    sought: dict[str, Any] = {"text": typed, "grant_ids": [voucher.grant_id] if voucher else []}
    limit = history.PAGE + 1
    found: Sequence[history.Row]
    if tab == "ended":
        moment, last = _moment(request.args.get("before", "")), request.args.get("last", 0, type=int)
        before = (moment, last) if moment else None
        since = visit.now - timedelta(days=ENDED_DAYS)
        found = history.ended(db, visit.here.id, visit.now, since=since, before=before, limit=limit, **sought)
    else:
        before_id = request.args.get("before", type=int)
        minted = tab == "waiting"
        since_minted = visit.now - access.TOKEN_LIFE if minted else None
        found = history.live(
            db, visit.here.id, visit.now, minted=minted, since=since_minted, before=before_id, limit=limit, **sought
        )
    return found[: history.PAGE], len(found) > history.PAGE


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _next(visit: Visit, tab: str, typed: str, found: Sequence[history.Row]) -> str:
    last = found[-1]
    if tab == "ended" and last.ended_at is not None:
        return here(visit, "sessions", tab=tab, q=typed, before=last.ended_at.isoformat(), last=last.id)
    return here(visit, "sessions", tab=tab, q=typed, before=last.id)


def _guest(visit: Visit, username: str | None, code_sealed: bytes | None) -> tuple[str, bool]:
    """Who it is: a user name, a code, or a click; and whether it is a code."""
    if username:
        return username, False
    if code_sealed is not None:
        return vouchers.grouped(visit.portal.keyring.open(bytes(code_sealed))), True
    return "Click-through", False


def _row(visit: Visit, each: history.Row, clock: Clock) -> Row:
    guest, is_code = _guest(visit, each.username, each.code_sealed)
    left = each.grant.allowance(clock.now)
    if each.state == "ended":
        state, since = State("done", "Ended"), each.ended_at
    elif each.state == "minted":
        state, since = State("wait", "Waiting"), each.minted_at
    elif each.unheard:
        state, since = State("silent", "Unheard"), each.activated_at
    else:
        state, since = State("on", "Online"), each.activated_at
    if left.period is not None and left.seconds is None:
        seconds, seconds_left = left.period_seconds, left.period_seconds_left
    else:
        seconds, seconds_left = left.seconds, left.seconds_left
    if left.period is not None and left.bytes is None:
        limit, limit_left = left.period_bytes, left.period_bytes_left
    else:
        limit, limit_left = left.bytes, left.bytes_left
    return Row(
        id=each.id,
        guest=guest,
        is_code=is_code,
        is_click=guest == "Click-through",
        mac=each.mac or "not told yet",
        device=DEVICES.get(each.device, each.device),
        gateway=each.gateway,
        state=state,
        since=clock.at(since) if since else "",
        down=each.used_down,
        up=each.used_up,
        why=reason(each.end_reason).capitalize(),
        seconds=seconds,
        seconds_left=seconds_left or 0,
        time_told=span(seconds_left or 0),
        bytes=limit,
        bytes_left=limit_left or 0,
        data_told=size(limit_left or 0),
    )


def page(visit: Visit, session_id: int) -> Response:
    """One session: the verdict in a sentence, and the sum that proves it."""
    clock = clock_of(visit)
    with visit.portal.store.read("operators", caller="desk session") as db:
        past = history.session(db, visit.here.id, session_id)
        if past is None:
            abort(404)
        lines = history.lines(db, visit.here.id, past)
        grant = grants.load(db, past.grant_id, visit.now)
        sharing = [other for other in sessions.sharing(db, past.grant_id) if other.id != session_id]
        blocked = guests.blocked_until(db, visit.here.id, past.mac, visit.now)
    guest, is_code = _guest(visit, past.username, past.code_sealed)
    charged = sum(line.charged_down for line in lines), sum(line.charged_up for line in lines)
    return show(
        visit,
        "session.html",
        "sessions",
        each=_headed(past, guest, is_code, clock),
        verdict=verdict(past, grant, clock),
        lines=[_line(line, past, clock) for line in lines],
        sums=_sums(past, grant, guest, is_code),
        adds_up=charged == (past.used_down, past.used_up),
        facts=_facts(visit, past, grant, guest, is_code, clock),
        sharing=[_shared(visit, other, clock) for other in sharing],
        events=_events(past, blocked, clock),
    )


def _headed(past: Past, guest: str, is_code: bool, clock: Clock) -> Headed:
    if past.state == "active":
        since = f"since {clock.in_words(past.activated_at)}" if past.activated_at else ""
        return Headed(past.id, guest, is_code, State("on", "Online"), f"at {past.gateway} {since}", True)
    if past.state == "minted":
        told = f"signed in {clock.when(past.minted_at)}; {past.gateway} has not shown the device yet"
        return Headed(past.id, guest, is_code, State("wait", "Waiting"), told, True)
    ended = f"at {past.gateway}, until {clock.in_words(past.ended_at)}" if past.ended_at else f"at {past.gateway}"
    return Headed(past.id, guest, is_code, State("done", "Ended"), ended, False)


def verdict(past: Past, grant: Grant, clock: Clock) -> Verdict:
    """The last verdict as a sentence with its figures, and what would change it."""
    who = {"voucher": "The code", "account": "The account", "click": "This turn"}[grant.kind]
    used = f"{who} has used {terms.used(grant, clock.now)}."
    if past.state == "ended":
        why = reason(past.end_reason)
        says = f"Ended: {why}."
        if past.end_reason in (Reason.DATA_OVER, Reason.TIME_OVER):
            says = f"Cut off: {why}."
        return Verdict("", says, _then(past.verdict_facts, clock) or used)
    over = grant.exhausted(clock.now)
    if over is not None:
        return Verdict("warn", f"To be refused at the next report: {reason(over)}.", used)
    if past.state == "minted":
        detail = "Nothing is spent: the time begins when the gateway shows the device."
        return Verdict("warn", f"Waiting for {past.gateway}.", detail)
    left = grant.allowance(clock.now)
    until = []
    if left.bytes_left is not None:
        until.append(f"at {size(left.bytes_left)} more")
    if left.until is not None:
        until.append(clock.when(left.until))
    elif left.seconds_left is not None:
        until.append(f"after {span(left.seconds_left)} more online")
    detail = "No limit will end it."
    if until:
        first = ", whichever comes first" if len(until) > 1 else ""
        detail = f"It will be refused {', or '.join(until)}{first}."
    return Verdict("ok", f"Allowed. {used}", detail)


def _then(facts: dict[str, Any] | None, clock: Clock) -> str:
    """The figures that stood when the session ended, as they were kept with the verdict."""
    if not facts or not isinstance(facts.get("at"), str):
        return ""
    at = _moment(facts["at"])
    used = access.charged(
        str(facts.get("counts", "both")), int(facts.get("used_down", 0)), int(facts.get("used_up", 0))
    )
    said = f"{size(used)} of {size(int(facts['bytes']))}" if "bytes" in facts else f"{size(used)}, no limit"
    if "seconds" in facts and facts.get("clock") == "online":
        said += f" and {span(facts.get('used_seconds', 0))} of {span(int(facts['seconds']))} online"
    elif isinstance(facts.get("ends_at"), str) and (ends := _moment(facts["ends_at"])) is not None:
        said += f"; the time ran until {clock.in_words(ends)}"
    return f"Figures {clock.when(at)}: {said}." if at else ""


def _line(line: Line, past: Past, clock: Clock) -> LineRow:
    closed = {0: "runs on" if past.state == "active" else "open at the end", 1: "closed by a logout", 2: "closed by us"}
    stands = f"the gateway’s totals stand at {grouped(line.down)} down, {grouped(line.up)} up"
    heard = f", last heard {clock.seconds(line.at)}" if line.at else ""
    return LineRow(
        line.ip or "no address", f"{closed[line.closed]}; {stands}{heard}", line.charged_down, line.charged_up
    )


def _sums(past: Past, grant: Grant, guest: str, is_code: bool) -> list[SumRow]:
    down, up = past.used_down, past.used_up
    rows = [SumRow("This session", grouped(down + up), down, up)]
    others_down, others_up = max(0, grant.used_down - down), max(0, grant.used_up - up)
    what = "code" if is_code else "account" if guest != "Click-through" else "turn"
    rows.append(
        SumRow(f"Other sessions of the {what}", grouped(others_down + others_up), others_down, others_up, rule=True)
    )
    used = access.charged(grant.counts, grant.used_down, grant.used_up)
    counted = {"both": "", "down": "Downloads only, as the plan says", "up": "Uploads only, as the plan says"}
    rows.append(SumRow(f"Used by the {what}", grouped(used), detail=counted[grant.counts]))
    if grant.bytes is not None:
        rows.append(SumRow(f"Allowed by “{grant.name}”", grouped(grant.bytes), rule=True))
        rows.append(SumRow("Left", grouped(max(0, grant.bytes - used))))
    return rows


def _facts(visit: Visit, past: Past, grant: Grant, guest: str, is_code: bool, clock: Clock) -> list[Fact]:
    found = []
    if is_code and past.batch_id is not None:
        found.append(Fact("Code", guest, code=True))
        found.append(Fact("Batch", past.batch or "", href=here(visit, "batch", batch_id=past.batch_id)))
    elif past.username:
        found.append(Fact("Account", guest, href=here(visit, "guests", q=guest)))
    found.append(Fact("Plan", grant.name, more=terms.offered(grant)))
    found.append(Fact("Station", past.mac or "not told yet", code=True, more=DEVICES.get(past.device, past.device)))
    found.append(Fact("Address", past.ip or "not told yet", code=True))
    found.append(Fact("Gateway", past.gateway, href=here(visit, "gateway", gateway_id=past.gateway_id)))
    found.append(Fact("Online for", span(past.used_seconds)))
    if past.terms_version is not None and past.terms_at is not None:
        version = past.terms_version
        words = here(visit, "wording", version=version)
        found.append(Fact("Terms", f"version {version}, {clock.when(past.terms_at)}", href=words))
    if past.reported_at is not None:
        found.append(Fact("Last report", clock.seconds(past.reported_at)))
    return found


def _shared(visit: Visit, other: sessions.Session, clock: Clock) -> Shared:
    since = f"since {clock.in_words(other.activated_at)}" if other.activated_at else ""
    told = f"{DEVICES.get(other.device, other.device)} at {other.gateway_name} {since}".strip()
    moved = f"{size(other.used_down)} down, {size(other.used_up)} up"
    return Shared(other.mac or "", told, moved, here(visit, "session", session_id=other.id))


def _events(past: Past, blocked: datetime | None, clock: Clock) -> list[tuple[str, str]]:
    found = [(clock.seconds(past.minted_at), "Signed in on the splash page; nothing spent yet")]
    if past.activated_at is not None:
        found.append((clock.seconds(past.activated_at), "The gateway showed the device: online"))
    if past.ended_at is not None:
        found.append((clock.seconds(past.ended_at), f"Ended: {reason(past.end_reason)}"))
    if blocked is not None:
        found.append((clock.seconds(clock.now), f"The device is kept out until {clock.in_words(blocked)}"))
    return found


def kick(visit: Visit, session_id: int) -> Response:
    """Ends a session, once asked; and keeps its device out for a while, if wished."""
    form = Form(request.form)
    with visit.writing("kick") as db:
        session = sessions.load(db, visit.here.id, session_id)
        if session is None:
            abort(404)
        if request.method == "POST":
            chosen = form.choice("minutes", [str(minutes) for minutes, _ in BLOCKS])
            if not form.good:
                abort(400)
            minutes = int(chosen)
            block = timedelta(minutes=minutes) if minutes else None
            ended = sessions.end(db, session_id, session.grant_id, Reason.KICKED, visit.now, block=block)
            visit.record(db, "session.kick", f"session {session_id}", minutes=minutes)
    if request.method == "POST":
        notice = "Kicked. The gateway hears it at its next report, within a minute or so."
        if not ended:
            notice = "It had ended already."
        if minutes:
            notice += f" The device is kept out for {span(minutes * 60)}."
        return to(here(visit, "sessions"), notice, "ok" if ended else "warn")
    who = session.mac or "this device"
    return show(
        visit,
        "ask.html",
        "sessions",
        title=f"Kick {who}?",
        says=[
            f"It is online at {session.gateway_name} and loses the Internet within a minute or so.",
            "What is left of its code or account stays. Choose below whether it may come right back.",
        ],
        yes="Kick",
        back=Link("Sessions", here(visit, "sessions")),
        form=Form({"minutes": "0"}),
        minutes=BLOCKS,
    )


_ALL = "/desk/networks/<slug>/sessions"
ROUTES = (
    Route(_ALL, listing, Who.DESK, "sessions"),
    Route(f"{_ALL}/<int:session_id>", page, Who.DESK, "session"),
    Route(f"{_ALL}/<int:session_id>/kick", kick, Who.DESK, "kick", posts=True),
)
