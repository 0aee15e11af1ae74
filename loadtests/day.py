"""What a day looks like: who comes when, who leaves how, when the power fails.

Promises: everything that guests do is drawn before the run, from a fixed seed, so the load does not depend on how fast
the server is: the workload is open. Pure: sends nothing, asks no clock. `loadtests.shapes` are these days for locust.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

QUIET = 4.0
"""Seconds at the end of a run in which nobody comes or goes, so that what was begun is over when it ends."""


class Leave(StrEnum):
    """How a guest goes offline."""

    LOGOUT = "logout"  # by the gateway's own page
    WALKS_AWAY = "walks away"  # the gateway logs him out once he has been idle for long enough
    LOST = "lost logout"  # the gateway drops him, and its call never reaches us
    CUT = "cut"  # the gateway loses power
    STAYS = "stays"  # until the run is over


@dataclass(frozen=True, slots=True)
class Visit:
    """One stay of one guest, in seconds from the start. `again`: when he signs in once more while he is online."""

    guest: int
    begin: float
    end: float
    leave: Leave
    again: float | None = None


@dataclass(frozen=True, slots=True)
class Dark:
    """The seconds between which no gateway has power."""

    begin: float
    end: float


class Day:
    """The base: guests come over the first fifth of the run, stay for a while, go, and come back."""

    title: ClassVar[str] = ""
    slow: ClassVar[float] = 0.0
    """The share of gateways on a line so slow that a request arrives in pieces."""

    def dark(self, seconds: float) -> Dark | None:
        """When the power is off, in a run of so many seconds."""
        del seconds
        return None

    def visits(self, guests: int, seconds: float) -> list[Visit]:
        """Everything that the guests do, in the order in which they come."""
        draw = random.Random(20_260_101)  # noqa: S311 - the same load each time
        found = [visit for guest in range(guests) for visit in self.stays(guest, seconds, draw)]
        return sorted(found, key=lambda visit: visit.begin)

    def stays(self, guest: int, seconds: float, draw: random.Random) -> Iterator[Visit]:
        """One guest's visits."""
        yield from coming_and_going(guest, draw.uniform(0, 0.2 * seconds), seconds, draw)


def coming_and_going(guest: int, begin: float, seconds: float, draw: random.Random) -> Iterator[Visit]:
    """Visits of about a third of the run, with pauses between them, until the run is over."""
    last = seconds - QUIET
    while begin < last:
        end = begin + max(5.0, draw.expovariate(1 / (seconds / 3)))
        if end >= last:
            yield Visit(guest, begin, seconds, Leave.STAYS, again=_again(begin, last, draw))
            return
        way = draw.choices((Leave.LOGOUT, Leave.WALKS_AWAY, Leave.LOST), weights=(6, 3, 1))[0]
        yield Visit(guest, begin, end, way, again=_again(begin, end, draw))
        begin = end + draw.uniform(3.0, max(6.0, seconds / 8))


def _again(begin: float, end: float, draw: random.Random) -> float | None:
    """One guest in ten signs in a second time while he is online: he has lost the page, or opened it by hand."""
    return draw.uniform(begin + 2.0, end) if draw.random() < 0.1 and end > begin + 4.0 else None


class SteadyDay(Day):
    """Guests come and go; the number online stays about the same."""

    title = "steady day"


class OpeningHour(Day):
    """The doors open: nearly everybody comes within a fifth of the run, with a peak in its middle, and stays."""

    title = "opening hour"

    def stays(self, guest: int, seconds: float, draw: random.Random) -> Iterator[Visit]:
        """One long visit each; a few were there before."""
        begin = draw.uniform(0, 0.1) if draw.random() < 0.05 else draw.triangular(0.15, 0.45)
        begin = min(begin * seconds, seconds - QUIET)
        again = _again(begin, seconds - QUIET, draw)
        yield Visit(guest, begin, seconds, Leave.STAYS, again=again)


class AfterAnOutage(Day):
    """A district loses power: all gateways are gone at once, and come back at once, and all guests after them."""

    title = "everyone back after an outage"

    def dark(self, seconds: float) -> Dark:
        """From 45 to 55 per cent of the run."""
        return Dark(0.45 * seconds, 0.55 * seconds)

    def stays(self, guest: int, seconds: float, draw: random.Random) -> Iterator[Visit]:
        """Online before; back within seconds after the gateways are."""
        dark = self.dark(seconds)
        yield Visit(guest, draw.uniform(0, 0.25 * seconds), dark.begin, Leave.CUT)
        # Not before the gateway's own first call, which the phone waits for: it sees no Wi-Fi until then.
        back = dark.end + 2.0 + draw.expovariate(1 / max(1.0, 0.03 * seconds))
        if back < seconds - QUIET:
            yield Visit(guest, back, seconds, Leave.STAYS)


class SlowGateways(Day):
    """A steady day, with a third of the gateways on lines that deliver a request in pieces."""

    title = "slow gateways"
    slow = 1 / 3


DAYS: dict[str, Day] = {
    "steady": SteadyDay(),
    "opening": OpeningHour(),
    "outage": AfterAnOutage(),
    "slow": SlowGateways(),
}
"""By the word that chooses them."""
