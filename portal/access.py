"""Who may stay online: a pure rulebook from facts to a verdict.

Promises: no input or output, no clock of its own, the same answer for the same facts; a denial always rests on a fact
that was read, never on one that is missing. What is not known here is answered elsewhere with "no opinion".
Never writes: a verdict names the `Effect` it needs, and sessions.py carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Any, NamedTuple, Protocol

# A token that no gateway has shown by then is worth nothing: long enough for a slow phone and a short outage.
TOKEN_LIFE = timedelta(minutes=10)
# How many of its intervals a gateway may leave a session unmentioned, and the grace on top, before it counts as gone.
SILENT_INTERVALS = 3
SILENT_GRACE = timedelta(seconds=60)
# Why a gateway asks, as it writes it; wifidog.Stage names the same three.
LOGIN, COUNTERS, LOGOUT = "login", "counters", "logout"


class Reason(StrEnum):
    """Why somebody is let in, refused or cut off. Stored with sessions, shown at the desk, put in words for guests."""

    OK = "ok"
    # about the token
    FORGED = "forged"
    UNKNOWN = "unknown"
    STALE_TOKEN = "stale_token"
    FOREIGN_GATEWAY = "foreign_gateway"
    FOREIGN_STATION = "foreign_station"
    # about the grant
    REVOKED = "revoked"
    EXPIRED = "expired"
    TIME_OVER = "time_over"
    DATA_OVER = "data_over"
    PERIOD_TIME_OVER = "period_time_over"
    PERIOD_DATA_OVER = "period_data_over"
    DEVICES_FULL = "devices_full"
    COOLDOWN = "cooldown"
    # about the session
    LOGOUT = "logout"
    IDLE = "idle"
    SILENT = "silent"
    KICKED = "kicked"
    BLOCKED = "blocked"
    SUPERSEDED = "superseded"
    # about what was typed
    CODE_MISTYPED = "code_mistyped"
    CODE_UNKNOWN = "code_unknown"
    WRONG_PASSWORD = "wrong_password"
    TOO_MANY_TRIES = "too_many_tries"
    # about us
    UNAVAILABLE = "unavailable"


# Limits of a day, a week or a month: something is left again by itself.
COME_BACK = frozenset({Reason.PERIOD_TIME_OVER, Reason.PERIOD_DATA_OVER})


class Answer(StrEnum):
    """The three things a rulebook can say. `NO_OPINION` leaves everything at the gateway as it is."""

    ALLOW = "allow"
    DENY = "deny"
    NO_OPINION = "no opinion"


class Effect(Enum):
    """What must be written before a verdict may be told."""

    NONE = "none"
    ACTIVATE = "activate"
    END = "end"


@dataclass(frozen=True, slots=True)
class Verdict:
    answer: Answer
    reason: Reason
    effect: Effect = Effect.NONE


class Entitlement(Protocol):
    """The terms of a grant and what has been used of them. A limit of None is no limit."""

    @property
    def seconds(self) -> int | None: ...
    @property
    def clock(self) -> str: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def counts(self) -> str: ...
    @property
    def valid_until(self) -> datetime | None: ...
    @property
    def period(self) -> str | None: ...
    @property
    def period_seconds(self) -> int | None: ...
    @property
    def period_bytes(self) -> int | None: ...
    @property
    def ends_at(self) -> datetime | None: ...
    @property
    def used_seconds(self) -> float: ...
    @property
    def used_down(self) -> int: ...
    @property
    def used_up(self) -> int: ...
    @property
    def period_used_seconds(self) -> float: ...
    @property
    def period_used_down(self) -> int: ...
    @property
    def period_used_up(self) -> int: ...
    @property
    def revoked_at(self) -> datetime | None: ...


class Facts(NamedTuple):
    """A session as the last commit left it, with its grant; the column order of the statements that read it.

    `minted_at` is known while the session is minted, `active_at` where the grant has an idle limit.
    """

    session_id: int
    network_id: int
    gateway_id: int
    grant_id: int
    state: str
    mac: str | None
    minted_at: datetime | None
    active_at: datetime | None
    end_reason: str | None
    own_gateway: bool
    own_station: bool
    blocked_until: datetime | None
    seconds: int | None
    clock: str
    bytes: int | None
    counts: str
    devices: int | None
    valid_until: datetime | None
    idle_seconds: int | None
    period: str | None
    period_seconds: int | None
    period_bytes: int | None
    ends_at: datetime | None
    used_seconds: float
    used_down: int
    used_up: int
    period_used_seconds: float
    period_used_down: int
    period_used_up: int
    revoked_at: datetime | None


def charged(counts: str, down: int, up: int) -> int:
    """The bytes that count against a limit, by the direction the plan counts."""
    return down if counts == "down" else up if counts == "up" else down + up


def exhausted(grant: Entitlement, now: datetime) -> Reason | None:
    """Why nothing is left of a grant at `now`, or None while something is. Reaching a limit is being over it."""
    if grant.revoked_at is not None:
        return Reason.REVOKED
    if grant.valid_until is not None and now >= grant.valid_until:
        return Reason.EXPIRED
    if grant.clock == "online":
        if grant.seconds is not None and grant.used_seconds >= grant.seconds:
            return Reason.TIME_OVER
    elif grant.ends_at is not None and now >= grant.ends_at:
        return Reason.TIME_OVER
    if grant.bytes is not None and charged(grant.counts, grant.used_down, grant.used_up) >= grant.bytes:
        return Reason.DATA_OVER
    if grant.period is not None:
        if grant.period_seconds is not None and grant.period_used_seconds >= grant.period_seconds:
            return Reason.PERIOD_TIME_OVER
        used = charged(grant.counts, grant.period_used_down, grant.period_used_up)
        if grant.period_bytes is not None and used >= grant.period_bytes:
            return Reason.PERIOD_DATA_OVER
    return None


def decide(facts: Facts, stage: str, now: datetime) -> Verdict:
    """The verdict on one report of a session that is known.

    A verdict with an effect may be told only after the effect is committed. An activation can still be refused there:
    whether a device slot is free is known only under the grant's lock.
    """
    if not facts.own_gateway:
        return Verdict(Answer.DENY, Reason.FOREIGN_GATEWAY)
    if not facts.own_station:
        return Verdict(Answer.DENY, Reason.FOREIGN_STATION)
    if stage == LOGOUT:
        # Always 0: apfree keeps a client online, and repeats the logout for ever, on any other answer.
        return Verdict(Answer.DENY, Reason.LOGOUT)
    active = facts.state == "active"
    if facts.blocked_until is not None and facts.blocked_until > now:
        return Verdict(Answer.DENY, Reason.BLOCKED, Effect.END if active else Effect.NONE)
    if active:
        reason = exhausted(facts, now)
        if reason is None and facts.idle_seconds is not None and facts.active_at is not None and stage != LOGIN:
            if now - facts.active_at >= timedelta(seconds=facts.idle_seconds):
                reason = Reason.IDLE
        if reason is not None:
            return Verdict(Answer.DENY, reason, Effect.END)
        return STAYS
    if facts.state == "ended" and facts.end_reason != Reason.SILENT:
        return Verdict(Answer.DENY, Reason(facts.end_reason or Reason.UNKNOWN))
    if facts.minted_at is not None and now - facts.minted_at > TOKEN_LIFE:
        return Verdict(Answer.DENY, Reason.STALE_TOKEN)
    reason = exhausted(facts, now)
    if reason is not None:
        return Verdict(Answer.DENY, reason)
    return Verdict(Answer.ALLOW, Reason.OK, Effect.ACTIVATE)


STAYS = Verdict(Answer.ALLOW, Reason.OK)
FORGED = Verdict(Answer.DENY, Reason.FORGED)
UNAVAILABLE = Verdict(Answer.NO_OPINION, Reason.UNAVAILABLE)


def remembered(facts: Facts, stage: str, now: datetime) -> Verdict:
    """The verdict from facts of an earlier commit, while the database does not answer.

    Known and entitled stays; an ending that was committed is told; everything else is not known any more: limits that
    old facts say are reached may have been lifted since, and an activation needs a commit.
    """
    verdict = decide(facts, stage, now)
    if stage == LOGOUT or not (facts.own_gateway and facts.own_station):
        return verdict
    # An ending by silence is none for good: what would refuse such a session is a limit, too.
    over = facts.state == "ended" and facts.end_reason != Reason.SILENT
    if verdict.effect is Effect.NONE and (verdict.answer is Answer.ALLOW or over):
        return verdict
    return UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a grant, for pages: None where there is no limit. Seconds and bytes, never negative."""

    seconds: int | None
    seconds_left: int | None
    until: datetime | None
    bytes: int | None
    bytes_used: int
    bytes_left: int | None
    period: str | None
    period_seconds: int | None
    period_seconds_left: int | None
    period_bytes: int | None
    period_bytes_left: int | None
    over: Reason | None


def allowance(grant: Entitlement, now: datetime) -> Allowance:
    """What is left of a grant at `now`. A grant that has not started has all of its time."""
    used = charged(grant.counts, grant.used_down, grant.used_up)
    period_used = charged(grant.counts, grant.period_used_down, grant.period_used_up)
    seconds_left = None
    if grant.seconds is not None:
        if grant.clock == "online":
            seconds_left = max(0, int(grant.seconds - grant.used_seconds))
        elif grant.ends_at is None:
            seconds_left = grant.seconds
        else:
            seconds_left = max(0, int((grant.ends_at - now).total_seconds()))
    until = min((moment for moment in (grant.ends_at, grant.valid_until) if moment is not None), default=None)
    return Allowance(
        seconds=grant.seconds,
        seconds_left=seconds_left,
        until=until,
        bytes=grant.bytes,
        bytes_used=used,
        bytes_left=None if grant.bytes is None else max(0, grant.bytes - used),
        period=grant.period,
        period_seconds=grant.period_seconds,
        period_seconds_left=(
            None if grant.period_seconds is None else max(0, int(grant.period_seconds - grant.period_used_seconds))
        ),
        period_bytes=grant.period_bytes,
        period_bytes_left=None if grant.period_bytes is None else max(0, grant.period_bytes - period_used),
        over=exhausted(grant, now),
    )


def silence(interval_seconds: int) -> timedelta:
    """How long a gateway with this interval may leave a session unmentioned before it counts as gone."""
    return SILENT_INTERVALS * timedelta(seconds=interval_seconds) + SILENT_GRACE


def arithmetic(grant: Entitlement, now: datetime) -> dict[str, Any]:
    """The figures that a verdict rests on, as they are kept with the session and shown at the desk."""
    figures: dict[str, Any] = {
        "seconds": grant.seconds,
        "clock": grant.clock,
        "used_seconds": round(grant.used_seconds),
        "ends_at": grant.ends_at and grant.ends_at.isoformat(),
        "valid_until": grant.valid_until and grant.valid_until.isoformat(),
        "bytes": grant.bytes,
        "counts": grant.counts,
        "used_down": grant.used_down,
        "used_up": grant.used_up,
        "period": grant.period,
        "period_seconds": grant.period_seconds,
        "period_bytes": grant.period_bytes,
        "period_used_seconds": round(grant.period_used_seconds),
        "period_used_down": grant.period_used_down,
        "period_used_up": grant.period_used_up,
        "at": now.isoformat(),
    }
    return {name: value for name, value in figures.items() if value is not None}
