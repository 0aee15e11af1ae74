"""Plans and grants in words: what is offered, what is left, what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from portal.access import Allowance, Reason, charged
from portal.grants import Grant
from portal.networks import Plan, Terms
from portal.web.desk.words import Clock, listed, many, reason, size, span

PERIODS = {"day": "a day", "week": "a week", "month": "a month"}
COUNTED = {"both": "", "down": " of downloads", "up": " of uploads"}


@dataclass(frozen=True, slots=True)
class State:
    """A shape and a word: `kind` is on, wait, silent, done, bad or "" for nothing in particular."""

    kind: str
    word: str
    told: str = ""


CODE_STATES = {
    "unused": State("", "Unused"),
    "active": State("on", "In use"),
    "used up": State("done", "Used up"),
    "expired": State("done", "Expired"),
    "revoked": State("bad", "Taken back"),
}


def offered(terms: Terms | Plan | Grant) -> str:
    """What a plan gives, as a list: "3 h, 500 MB, 2 devices"."""
    parts = []
    if terms.seconds is not None:
        parts.append(span(terms.seconds) + (" online" if terms.clock == "online" else ""))
    if terms.bytes is not None:
        parts.append(size(terms.bytes) + COUNTED[terms.counts])
    if terms.period is not None:
        each = PERIODS[terms.period]
        if terms.period_seconds is not None:
            parts.append(f"{span(terms.period_seconds)} {each}")
        if terms.period_bytes is not None:
            parts.append(f"{size(terms.period_bytes)}{COUNTED[terms.counts]} {each}")
    if not parts:
        parts.append("no limit")
    parts.append("any number of devices" if terms.devices is None else many(terms.devices, "device"))
    return ", ".join(parts)


def in_full(terms: Terms | Plan) -> str:
    """What a plan gives, with its conditions."""
    said = [offered(terms)]
    if terms.valid_seconds is not None:
        said.append(f"to be used within {span(terms.valid_seconds)}")
    if terms.idle_seconds is not None:
        said.append(f"signed out after {span(terms.idle_seconds)} idle")
    if terms.cooldown_seconds is not None:
        said.append(f"by click again after {span(terms.cooldown_seconds)}")
    return "; ".join(said)


def left(allowance: Allowance, devices: int = 0) -> str:
    """What is left: "62 MB and 1 h 42 min left, 2 devices"."""
    parts = []
    if allowance.bytes_left is not None:
        parts.append(size(allowance.bytes_left))
    if allowance.seconds_left is not None:
        parts.append(span(allowance.seconds_left))
    if allowance.period is not None:
        now = {"day": "today", "week": "this week", "month": "this month"}[allowance.period]
        if allowance.period_bytes_left is not None:
            parts.append(f"{size(allowance.period_bytes_left)} {now}")
        if allowance.period_seconds_left is not None:
            parts.append(f"{span(allowance.period_seconds_left)} {now}")
    said = f"{listed(parts)} left" if parts else "no limit"
    return said + (f", {many(devices, 'device')} online" if devices else "")


def used(grant: Grant, now: datetime) -> str:
    """What has been used, of how much: "438 MB of 500 MB and 1 h 18 min of 3 h"."""
    parts = []
    total = charged(grant.counts, grant.used_down, grant.used_up)
    parts.append(f"{size(total)} of {size(grant.bytes)}" if grant.bytes is not None else size(total))
    if grant.seconds is not None:
        parts.append(f"{span(spent_seconds(grant, now))} of {span(grant.seconds)}")
    return listed(parts)


def spent_seconds(grant: Grant, now: datetime) -> int:
    """How much of its time a grant has used: by the wall since it began, or only while it was online."""
    if grant.clock == "online":
        return min(int(grant.used_seconds), grant.seconds or int(grant.used_seconds))
    if grant.started_at is None:
        return 0
    passed = int((now - grant.started_at).total_seconds())
    return min(passed, grant.seconds) if grant.seconds is not None else passed


def became(state: str, grant: Grant, devices: int, revoked_at: datetime | None, clock: Clock) -> str:
    """What became of a code, in a line."""
    if state == "revoked":
        return clock.in_words(revoked_at) if revoked_at else ""
    if state == "expired":
        last = f"its last day was {clock.last_day(grant.valid_until)}" if grant.valid_until else "its time was over"
        return f"Never used; {last}" if grant.started_at is None else f"{used(grant, clock.now)}; {last}"
    if state == "unused":
        return f"Valid until {clock.last_day(grant.valid_until)}" if grant.valid_until else "Valid until it is used"
    allowance = grant.allowance(clock.now)
    if state == "active":
        over = allowance.over
        if over in (Reason.PERIOD_TIME_OVER, Reason.PERIOD_DATA_OVER):
            return f"{reason(over).capitalize()}; {left(allowance, devices)}"
        return left(allowance, devices)
    said = used(grant, clock.now)
    if grant.over_at is not None:
        said += f", at {clock.at(grant.over_at)}"
    return said
