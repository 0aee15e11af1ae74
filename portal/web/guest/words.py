"""What a guest's page says: facts in, words and meters out, ready for a template.

Promises: pure but for the request's language and time zone (languages.speak); every figure is formatted here and
nowhere else; a refusal says what happened, with figures and the time, then the way forward; a guest hears of devices
and codes, never of tokens and verdicts. Nothing of what a browser sent leaves here as markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from markupsafe import Markup

from portal.access import Allowance, Reason
from portal.grants import Grant
from portal.networks import Plan
from portal.web.languages import (
    clock,
    counted,
    data,
    decimal,
    filled,
    listed,
    say,
    since,
    span,
    spelt,
    together,
    translated,
    until,
    when,
)
from portal.wifidog import MessageKind

# Below this share of its limit a meter says that the end is near.
LOW_PERCENT = 15

_ORDINALS = 12


@dataclass(frozen=True, slots=True)
class Meter:
    """What is left, in words, and as a share of the rail between two posts, in percent."""

    figure: str
    share: int
    note: str

    @property
    def low(self) -> bool:
        return self.share < LOW_PERCENT


@dataclass(frozen=True, slots=True)
class Notice:
    """What happened: the band under the plate. `bad` is for a refusal; what is merely over is not coloured red."""

    title: str
    lines: Sequence[Markup | str] = ()
    meter_note: str = ""
    bad: bool = True


@dataclass(frozen=True, slots=True)
class Device:
    """A device on the same grant. `end` is the signed order to sign it out, "" where there is none to give."""

    kind: str
    label: Markup
    note: str
    end: str = ""
    # What the button says to those who hear the page, since "Sign out" alone would not say whom.
    order: Markup = field(default_factory=Markup)


# --- devices ----------------------------------------------------------------------------------------------------------

# In this order: televisions and consoles name Linux, Android or Windows as well, tablets Android, phones Linux.
_KINDS = (
    ("television", re.compile("SmartTV|SMART-TV|AppleTV|Android TV|Tizen.*TV|Web0S|webOS|HbbTV|Roku|CrKey")),
    ("console", re.compile("PlayStation|Xbox|Nintendo")),
    ("tablet", re.compile("iPad|Tablet|Kindle|Silk/|PlayBook|Android(?!.*Mobile)")),
    ("phone", re.compile("iPhone|iPod|Android|Mobile|Windows Phone|KAIOS|Opera Mini")),
    ("laptop", re.compile("Windows NT|Macintosh|CrOS|X11|Linux")),
)


def device_kind(user_agent: str) -> str:
    """What sort of device a browser says it runs on: one of five words, and all that is kept of the header.

    "" where nothing is recognised. A phone's own sign-in window often says less than its browser would.
    """
    told = user_agent[:400]
    return next((kind for kind, pattern in _KINDS if pattern.search(told)), "")


def this_device(kind: str) -> str:
    """The guest's own device, as he would call it."""
    return {
        "phone": translated("This phone"),
        "tablet": translated("This tablet"),
        "laptop": translated("This computer"),
    }.get(kind, translated("This device"))


def sign_out_this(kind: str) -> str:
    """The order to sign the guest's own device out."""
    return {
        "phone": translated("Sign out this phone"),
        "tablet": translated("Sign out this tablet"),
        "laptop": translated("Sign out this computer"),
    }.get(kind, translated("Sign out this device"))


def other_device(kind: str, mac: str | None) -> Markup:
    """Another device: its sort, and the end of its address, which its owner can find in its settings."""
    name = {
        "phone": translated("A phone"),
        "tablet": translated("A tablet"),
        "laptop": translated("A computer"),
        "television": translated("A television"),
        "console": translated("A console"),
    }.get(kind, translated("A device"))
    if not mac:
        return Markup.escape(name)
    return say("%(device)s, ending %(signs)s", device=name, signs=as_code(mac[-5:]))


def as_code(text: str) -> Markup:
    """A code or an address, set as one: upper case, left to right in every language."""
    return Markup('<span class="code">{}</span>').format(text.upper())


def as_name(text: str) -> Markup:
    """A name that somebody sent, shown as it is and kept apart from the words around it."""
    return Markup('<bdi class="code">{}</bdi>').format(text)


# --- what is left -----------------------------------------------------------------------------------------------------


def _share(left: int, limit: int) -> int:
    return max(0, min(100, left * 100 // limit))


def _to_come(seconds: int) -> str:
    """Time that is left, the minute begun as a whole one: three hours are 3 h a second after they began.

    Never more than a minute too much, and nothing is left only when nothing is.
    """
    return span(-(-seconds // 60) * 60)


def meters(grant: Grant, now: datetime) -> list[Meter]:
    """What is left of a grant: its time, its data, and what is left of them for the day, week or month."""
    left = grant.allowance(now)
    found = []
    if left.seconds is not None and left.seconds_left is not None:
        share = _share(left.seconds_left, left.seconds)
        found.append(Meter(_to_come(left.seconds_left), share, _time_note(grant, left, now)))
    elif left.until is not None:
        found.append(_until_only(grant, left.until, now))
    if left.period_seconds is not None and left.period_seconds_left is not None:
        share = _share(left.period_seconds_left, left.period_seconds)
        found.append(
            Meter(_to_come(left.period_seconds_left), share, _period_note(grant, spelt(left.period_seconds), now))
        )
    if left.bytes is not None and left.bytes_left is not None:
        share = _share(left.bytes_left, left.bytes)
        note = say("of %(limit)s.", limit=data(left.bytes))
        if share < LOW_PERCENT:
            note = together(note, translated("Nearly used up: when it is gone, you go offline."))
        found.append(Meter(data(left.bytes_left), share, note))
    if left.period_bytes is not None and left.period_bytes_left is not None:
        share = _share(left.period_bytes_left, left.period_bytes)
        found.append(Meter(data(left.period_bytes_left), share, _period_note(grant, data(left.period_bytes), now)))
    return found


def _time_note(grant: Grant, left: Allowance, now: datetime) -> str:
    limit = spelt(left.seconds or 0)
    if left.until is not None:
        return say("of %(limit)s, %(until)s", limit=limit, until=until(left.until, now))
    if grant.clock == "online":
        return say("of %(limit)s. It runs only while you are online.", limit=limit)
    return say("of %(limit)s", limit=limit)


def _until_only(grant: Grant, end: datetime, now: datetime) -> Meter:
    """A grant without a limit of time that ends at a moment all the same."""
    whole = (end - (grant.started_at or grant.created_at)).total_seconds()
    seconds = max(0, int((end - now).total_seconds()))
    return Meter(_to_come(seconds), _share(seconds, max(1, int(whole))), until(end, now))


def _period_note(grant: Grant, limit: str, now: datetime) -> str:
    message = {
        "day": translated("of %(limit)s for today. It starts anew %(when)s."),
        "week": translated("of %(limit)s for this week. It starts anew %(when)s."),
        "month": translated("of %(limit)s for this month. It starts anew %(when)s."),
    }[grant.period or "day"]
    return filled(message, limit=limit, when=when(next_period(grant.period or "day", grant.time_zone, now), now))


def next_period(period: str, time_zone: str, now: datetime) -> datetime:
    """When the next day, week (from Monday) or month begins in that zone."""
    zone = ZoneInfo(time_zone)
    today = now.astimezone(zone).date()
    if period == "week":
        first = today + timedelta(days=7 - today.weekday())
    elif period == "month":
        first = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    else:
        first = today + timedelta(days=1)
    return datetime.combine(first, time(), zone).astimezone(UTC)


def sign_out_hint(grant: Grant, now: datetime) -> str:
    """What happens to the time of a guest who signs out."""
    left = grant.allowance(now)
    if grant.clock == "online" and grant.seconds is not None:
        return translated("Your time stands still while you are signed out.")
    if left.until is not None:
        return say("Your time runs on %(until)s, signed in or not.", until=until(left.until, now))
    return ""


def status_title(grant: Grant, notice: Notice | None, online: bool, now: datetime) -> str:
    """The title of a status page, as a tab or a list of open windows shows it."""
    if notice is not None:
        return notice.title
    left = grant.allowance(now)
    if online and left.until is not None:
        return say("Online %(until)s", until=until(left.until, now))
    return translated("You are online") if online else translated("What is left")


def devices_title(grant: Grant, used: int) -> str:
    """The heading over the devices that share a grant: "Devices on this code, 2 of 2"."""
    if grant.kind == "click":
        return translated("Your device")
    if grant.devices is None:
        if grant.kind == "account":
            return translated("Devices on your account")
        return translated("Devices on this code")
    message = (
        translated("Devices on your account, %(used)s of %(limit)s")
        if grant.kind == "account"
        else translated("Devices on this code, %(used)s of %(limit)s")
    )
    return filled(message, used=decimal(used), limit=decimal(grant.devices))


# --- ways in ----------------------------------------------------------------------------------------------------------


def offer(plan: Plan) -> str:
    """What a click gives, in a line: "60 minutes, 500 MB, once a day, free"."""
    seconds, size = plan.seconds or plan.period_seconds, plan.bytes or plan.period_bytes
    parts = [spelt(seconds) if seconds else "", data(size) if size else "", _how_often(plan), translated("free")]
    return listed(parts)


def _how_often(plan: Plan) -> str:
    if plan.period is not None:
        return {
            "day": translated("every day"),
            "week": translated("every week"),
            "month": translated("every month"),
        }[plan.period]
    if plan.cooldown_seconds == 86_400:
        return translated("once a day")
    if plan.cooldown_seconds == 7 * 86_400:
        return translated("once a week")
    return say("again after %(span)s", span=spelt(plan.cooldown_seconds)) if plan.cooldown_seconds else ""


# --- refusals ---------------------------------------------------------------------------------------------------------


def unknown_code(position: int | None = None, sign: str = "") -> Markup:
    """A code that we do not know. `position`, from 1, is the sign that is likely wrong, `sign` what it may be."""
    if position is not None and 1 <= position <= _ORDINALS:
        hint = say(
            "Look at the %(ordinal)s sign again: it may be %(sign)s.",
            ordinal=ordinal(position),
            sign=as_code(sign),
        )
    else:
        hint = say("Compare it sign by sign with the one you were given.")
    return together(translated("We do not know this code."), hint)


def ordinal(position: int) -> str:
    """The place of a sign in a code, in words, from "first" to "twelfth"."""
    return (
        translated("first"),
        translated("second"),
        translated("third"),
        translated("fourth"),
        translated("fifth"),
        translated("sixth"),
        translated("seventh"),
        translated("eighth"),
        translated("ninth"),
        translated("tenth"),
        translated("eleventh"),
        translated("twelfth"),
    )[position - 1]


def wrong_password() -> Markup:
    return say("User name and password do not match.")


def refusal(reason: Reason, now: datetime, grant: Grant | None, ended: datetime | None, code: str = "") -> Notice:
    """Why a guest is not let in or was cut off, for the band under the plate.

    `ended` is the moment that belongs to the reason: from when it works again, or since when it does not. `code` is
    the code as printed, where the guest has shown that he knows it.
    """
    if reason in (Reason.DATA_OVER, Reason.TIME_OVER) and grant is not None:
        return _used_up(reason, now, grant, ended, code)
    if reason in (Reason.PERIOD_DATA_OVER, Reason.PERIOD_TIME_OVER) and grant is not None:
        return _used_up_for_now(reason, now, grant)
    if reason in (Reason.EXPIRED, Reason.REVOKED):
        return _gone(reason, now, grant, ended, code)
    if reason is Reason.DEVICES_FULL:
        return _devices_full(grant)
    title, *lines = _plain(reason, now, ended)
    return Notice(title, lines, bad=reason not in _MERELY_OVER)


# What a guest did himself, or what nobody did to him: said without the colour of a refusal.
_MERELY_OVER = frozenset({Reason.LOGOUT, Reason.IDLE, Reason.SILENT, Reason.SUPERSEDED, Reason.OK})


def _kind(grant: Grant | None) -> str:
    return grant.kind if grant is not None else "voucher"


def _used_up(reason: Reason, now: datetime, grant: Grant, ended: datetime | None, code: str) -> Notice:
    title = {
        "voucher": translated("This code is used up"),
        "account": translated("Your account is used up"),
        "click": translated("Your free access is used up"),
    }[grant.kind]
    left = grant.allowance(now)
    by_time = reason is Reason.TIME_OVER
    moment = grant.over_at or (grant.ends_at if by_time else None) or ended
    limit = spelt(grant.seconds or 0) if by_time else data(grant.bytes or 0)
    used = limit if by_time else data(left.bytes_used)
    if moment is None:
        line = say("It has reached its limit: %(used)s of %(limit)s.", used=used, limit=limit)
    elif code:
        line = say(
            "%(code)s reached its limit %(when)s: %(used)s of %(limit)s.",
            code=as_code(code),
            when=when(moment, now),
            used=used,
            limit=limit,
        )
    else:
        line = say(
            "It reached its limit %(when)s: %(used)s of %(limit)s.",
            when=when(moment, now),
            used=used,
            limit=limit,
        )
    note = say("%(amount)s left.", amount=span(0) if by_time else data(0))
    if by_time and left.bytes is not None and left.bytes_left:
        note = together(note, say("Its data, %(limit)s, was not the reason.", limit=data(left.bytes)))
    if not by_time and left.seconds is not None and left.seconds_left:
        note = together(note, say("Its time, %(limit)s, was not the reason.", limit=spelt(left.seconds)))
    return Notice(title, [line], note)


def _used_up_for_now(reason: Reason, now: datetime, grant: Grant) -> Notice:
    title = {
        "day": translated("Used up for today"),
        "week": translated("Used up for this week"),
        "month": translated("Used up for this month"),
    }[grant.period or "day"]
    left = grant.allowance(now)
    if reason is Reason.PERIOD_TIME_OVER:
        limit = used = spelt(left.period_seconds or 0)
    else:
        limit, used = data(left.period_bytes or 0), data((left.period_bytes or 0) - (left.period_bytes_left or 0))
    again = next_period(grant.period or "day", grant.time_zone, now)
    line = say("%(used)s of %(limit)s. It starts anew %(when)s.", used=used, limit=limit, when=when(again, now))
    return Notice(title, [line], say("%(amount)s left.", amount=span(0) if used == limit else data(0)))


def _gone(reason: Reason, now: datetime, grant: Grant | None, ended: datetime | None, code: str) -> Notice:
    kind = _kind(grant)
    if reason is Reason.EXPIRED:
        title = {
            "voucher": translated("This code is out of date"),
            "account": translated("Your account is out of date"),
            "click": translated("Your free access is over"),
        }[kind]
        moment = grant.valid_until if grant is not None else None
        if moment is None:
            lines = []
        elif code:
            lines = [say("%(code)s was valid %(until)s.", code=as_code(code), until=until(moment, now))]
        else:
            lines = [say("It was valid %(until)s.", until=until(moment, now))]
    else:
        title = {
            "voucher": translated("This code was taken back"),
            "account": translated("Your account is closed"),
            "click": translated("Your free access was taken back"),
        }[kind]
        moment = (grant.revoked_at if grant is not None else None) or ended
        message = translated("The staff did that %(when)s. Ask them for another way.")
        lines = [filled(message, when=when(moment, now))] if moment is not None else []
        lines = [as_code(code), *lines] if code else lines
    return Notice(title, lines)


def _devices_full(grant: Grant | None) -> Notice:
    devices = (grant.devices if grant is not None else None) or 1
    title = {
        "voucher": translated("This code is in use"),
        "account": translated("Your account is in use"),
        "click": translated("Your free access is in use"),
    }[_kind(grant)]
    line = counted(
        "It is on %(num)s device, and that is its limit. Sign that one out to connect here, or use another code.",
        "It is on %(num)s devices, and that is its limit. Sign one out to connect here, or use another code.",
        devices,
    )
    return Notice(title, [line])


def _plain(reason: Reason, now: datetime, ended: datetime | None) -> list[Markup | str]:
    """The title and the lines for a reason that rests on no figures."""
    moment = when(ended, now) if ended is not None else ""
    if reason is Reason.COOLDOWN:
        return [
            translated("You have had your free time"),
            say("You can connect again %(when)s.", when=moment) if moment else "",
        ]
    if reason is Reason.BLOCKED:
        return [
            translated("This device is blocked"),
            say("It can come back %(when)s.", when=moment) if moment else "",
            translated("Ask the staff if you think that this is wrong."),
        ]
    if reason is Reason.KICKED:
        return [
            translated("The staff signed this device out"),
            say("That was %(when)s.", when=moment) if moment else "",
            translated("You can sign in again."),
        ]
    if reason is Reason.TOO_MANY_TRIES:
        return [
            translated("Too many tries"),
            translated("Wait a minute, then try again. A right code stays good."),
        ]
    if reason is Reason.UNAVAILABLE:
        return [
            translated("We cannot reach our records just now"),
            translated("Try again in a minute. Whoever is online stays online."),
        ]
    if reason is Reason.LOGOUT:
        return [
            translated("You are signed out"),
            translated("It can take a minute until this device is offline. You can sign in again at any time."),
        ]
    if reason is Reason.IDLE:
        return [
            translated("Signed out after a pause"),
            translated("This device was not used for a while. Sign in again to go on."),
        ]
    if reason is Reason.SILENT:
        return [
            translated("The connection was lost"),
            translated("This device was out of reach. Sign in again to go on."),
        ]
    if reason is Reason.SUPERSEDED:
        return [
            translated("This device signed in again"),
            translated("Its newer sign-in counts from then on."),
        ]
    if reason is Reason.FOREIGN_STATION:
        return [
            translated("This sign-in belongs to another device"),
            translated("Nothing was used. Sign in again on this one."),
        ]
    if reason is Reason.FOREIGN_GATEWAY:
        return [
            translated("This sign-in belongs to another access point"),
            translated("Nothing was used. Sign in again here."),
        ]
    if reason is Reason.STALE_TOKEN:
        return [
            translated("This sign-in waited too long"),
            translated("Nothing was used. Sign in again."),
        ]
    if reason in (Reason.FORGED, Reason.UNKNOWN):
        return [
            translated("We do not know this sign-in"),
            translated("Nothing was used. Sign in again."),
        ]
    return [
        translated("You are not online"),
        translated("Your time or data may be used up. Sign in again, and you will see."),
    ]


def default_terms() -> list[str]:
    """The terms of a network whose operator wrote none."""
    return [
        translated("Use this Wi-Fi within the law and with regard for the others who share it."),
        translated("It is offered as it is: nobody promises its speed, or that it is there at all times."),
        translated("Others can listen on an open Wi-Fi. Use it for private things only where the page is encrypted."),
        translated("Who misuses it can be signed out and blocked."),
    ]


def default_privacy(keeps_days: int) -> list[str]:
    """What is kept of a guest and for how long, for a network whose operator wrote nothing of his own."""
    return [
        translated("We keep when your device was online, how much data it used, its hardware address and its sort."),
        translated("We keep which code or account was used, and that these terms were accepted."),
        translated("We do not see which pages you visit, and keep nothing about them. This page sets no cookie."),
        say("All of it is deleted after %(span)s.", span=spelt(keeps_days * 86_400)),
    ]


def from_gateway(kind: MessageKind | None, now: datetime) -> Notice:
    """What a gateway has to tell of a guest about whom we know nothing else."""
    if kind is MessageKind.ACTIVATE:
        return Notice(
            translated("Nearly there"),
            [translated("You are online for a short while. Follow the link that we sent you, and you stay online.")],
            bad=False,
        )
    if kind is MessageKind.FAILED_VALIDATION:
        return Notice(
            translated("The time to confirm is over"),
            [translated("Sign in again, and follow the link that we send you in time.")],
        )
    if kind is MessageKind.LOGGED_OUT:
        return refusal(Reason.LOGOUT, now, None, None)
    return refusal(Reason.OK, now, None, None)


def device_note(active_since: datetime | None, used: int, now: datetime) -> str:
    """How long a device has been on, and what it has used: "since 15:40, 318 MB"."""
    return listed([since(active_since, now) if active_since is not None else "", data(used)])


def how_to_begin() -> str:
    """The way forward for whoever is on a page that leads nowhere."""
    return translated("To get online, join the Wi-Fi and open any page. It brings you to the right place.")


def as_of(now: datetime) -> str:
    return say("As of %(time)s.", time=clock(now))
