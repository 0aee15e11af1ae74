"""The desk's English: sizes, spans, moments and reasons as a good receptionist would say them.

Promises: pure; a size is decimal (a megabyte is 10^6 bytes) and never rounded up past a limit it has not reached; a
moment is told in the network's time zone, and a whole day is told only where it is not today. Never says what a
guest's page would: those speak eight languages, and have words of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from portal.access import Reason

_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# Why a session ended or a device was refused, as the end of "Ended: …".
REASONS = {
    Reason.OK: "still welcome",
    Reason.FORGED: "the token was not made here",
    Reason.UNKNOWN: "the token is not known",
    Reason.STALE_TOKEN: "the gateway did not show the token in time",
    Reason.FOREIGN_GATEWAY: "another gateway asked",
    Reason.FOREIGN_STATION: "another device asked",
    Reason.REVOKED: "taken back",
    Reason.EXPIRED: "its last day of validity is over",
    Reason.TIME_OVER: "the time is used up",
    Reason.DATA_OVER: "the data is used up",
    Reason.PERIOD_TIME_OVER: "the time for now is used up",
    Reason.PERIOD_DATA_OVER: "the data for now is used up",
    Reason.DEVICES_FULL: "as many devices as allowed are online",
    Reason.COOLDOWN: "the next turn is not due yet",
    Reason.LOGOUT: "signed out, or let go by the gateway",
    Reason.IDLE: "idle for too long",
    Reason.SILENT: "not heard of again",
    Reason.KICKED: "kicked",
    Reason.BLOCKED: "blocked",
    Reason.SUPERSEDED: "the same device signed in again",
    Reason.CODE_MISTYPED: "the code was mistyped",
    Reason.CODE_UNKNOWN: "the code is not known",
    Reason.WRONG_PASSWORD: "the password was wrong",
    Reason.TOO_MANY_TRIES: "too many tries",
    Reason.UNAVAILABLE: "our records could not be reached",
}


def reason(value: str | None) -> str:
    """A stored reason in words; one that this version does not know is shown as it stands."""
    if not value:
        return ""
    try:
        return REASONS[Reason(value)]
    except ValueError:
        return value.replace("_", " ")


def size(count: int) -> str:
    """Bytes in the unit that leaves at most three digits before the point: 438.0 MB is "438 MB", 1,310,000,000 is
    "1.31 GB". Rounded down, so that nothing looks used up that is not."""
    figure, unit = size_parts(count)
    return f"{figure} {unit}"


def size_parts(count: int) -> tuple[str, str]:
    """`size` as figure and unit, for pages that set them in two sizes."""
    for scale, unit in _SIZES:
        if count >= scale:
            hundredths = count * 100 // scale
            if hundredths >= 10_000:
                return str(hundredths // 100), unit
            if hundredths >= 1_000:
                return f"{hundredths // 100}.{hundredths // 10 % 10}".removesuffix(".0"), unit
            return f"{hundredths / 100:.2f}".rstrip("0").rstrip("."), unit
    return str(count), "bytes"


def grouped(count: int) -> str:
    """A whole number with thousands apart: 80,811,302."""
    return f"{count:,}"


def span(seconds: float) -> str:
    """A length of time in its two largest units: "41 s", "5 min", "1 h 42 min", "2 days 3 h"."""
    whole = int(seconds)
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, rest = divmod(rest, 60)
    if days:
        return many(days, "day") + (f" {hours} h" if hours else "")
    if hours:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    if minutes:
        return f"{minutes} min"
    return f"{rest} s"


def many(count: int, one: str, more: str | None = None) -> str:
    """A number with its noun: "1 code", "1,200 codes"."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def listed(things: Iterable[str]) -> str:
    """Things in a sentence: "a", "a and b", "a, b and c"."""
    every = [thing for thing in things if thing]
    if len(every) < 2:
        return "".join(every)
    return f"{', '.join(every[:-1])} and {every[-1]}"


def zone(name: str) -> ZoneInfo:
    """The time zone of that name; UTC for one that this machine does not have."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class Clock:
    """Moments as they are told in one time zone, at one moment. Built for a page."""

    now: datetime
    zone: ZoneInfo

    def local(self, moment: datetime) -> datetime:
        return moment.astimezone(self.zone)

    @property
    def today(self) -> date:
        return self.local(self.now).date()

    @property
    def midnight(self) -> datetime:
        """When today began here, as a UTC moment."""
        return self.start_of(self.today)

    def start_of(self, day: date) -> datetime:
        """When that day begins here, as a UTC moment; days of 23 and 25 hours come out right."""
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(UTC)

    def at(self, moment: datetime) -> str:
        """A moment, no longer than it must be: "15:40", "yesterday 18:40", "Wed 19:05", "12 May 09:31"."""
        told, day = self._told(moment)
        return told if day is None else f"{day} {told}"

    def when(self, moment: datetime) -> str:
        """When something happened: "at 15:40 today", "yesterday at 18:40", "on 12 May at 09:31"."""
        told, day = self._told(moment)
        if day is None:
            return f"at {told} today"
        return f"{day} at {told}" if day in ("yesterday", "tomorrow") else f"on {day} at {told}"

    def in_words(self, moment: datetime) -> str:
        """A moment behind "since" or "until": "15:40 today", "yesterday at 18:40", "12 May, 09:31"."""
        told, day = self._told(moment)
        if day is None:
            return f"{told} today"
        if day in ("yesterday", "tomorrow"):
            return f"{day} at {told}"
        return f"{day}, {told}"

    def seconds(self, moment: datetime) -> str:
        """A moment to the second: "16:57:12", with its day where that is not today."""
        _, day = self._told(moment)
        told = f"{self.local(moment):%H:%M:%S}"
        return told if day is None else f"{day} {told}"

    def day(self, moment: datetime) -> str:
        """A day: "4 May", with its year where that is another."""
        here = self.local(moment)
        year = "" if here.year == self.today.year else f" {here.year}"
        return f"{here.day} {_MONTHS[here.month - 1]}{year}"

    def last_day(self, end: datetime) -> str:
        """The day on which something that ends then can still be used: a midnight belongs to the day before."""
        return self.day(end - timedelta(seconds=1))

    def date(self, moment: datetime) -> str:
        """A day under a picture: "4 May", "21 Nov"."""
        here = self.local(moment)
        return f"{here.day} {_MONTHS[here.month - 1][:3]}"

    def heading(self) -> str:
        """Today, as the title of a page: "Thursday, 14 May"."""
        here = self.local(self.now)
        return f"{_DAYS[here.weekday()]}, {here.day} {_MONTHS[here.month - 1]}"

    def weekday(self, days_ago: int = 0) -> str:
        return _DAYS[(self.today - timedelta(days=days_ago)).weekday()]

    def place(self) -> str:
        """The time zone as people say it: "Berlin" for Europe/Berlin."""
        return self.zone.key.rsplit("/", 1)[-1].replace("_", " ")

    def stamp(self, moment: datetime) -> str:
        """A moment for machines and spreadsheets: "2026-05-14 16:57:12"."""
        return f"{self.local(moment):%Y-%m-%d %H:%M:%S}"

    def ago(self, moment: datetime) -> str:
        """How long ago: "5 min"."""
        return span(max(0.0, (self.now - moment).total_seconds()))

    def _told(self, moment: datetime) -> tuple[str, str | None]:
        here = self.local(moment)
        told = f"{here:%H:%M}"
        apart = (here.date() - self.today).days
        if apart == 0:
            return told, None
        if apart == -1:
            return told, "yesterday"
        if apart == 1:
            return told, "tomorrow"
        if -7 < apart < 7:
            return told, _DAYS[here.weekday()][:3]
        year = "" if here.year == self.today.year else f" {here.year}"
        return told, f"{here.day} {_MONTHS[here.month - 1][:3]}{year}"
