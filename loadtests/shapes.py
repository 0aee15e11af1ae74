"""The days of `loadtests.day` as locust's load shapes, chosen by `--shape` or on locust's web page.

Locust's users are gateways, the crowd and operators, and all of them are there from the beginning to the end: what
makes a day is what they do, and that is drawn before the run.
"""

from __future__ import annotations

from typing import ClassVar

from locust import LoadTestShape

from loadtests.day import DAYS, Day

HEAD_START = 2.0
"""Seconds in which locust makes its users, before the first of them has anything to do."""


class Shape(LoadTestShape):
    """All users at once, until the time is over; whoever begins the run says how many and how long."""

    abstract = True
    day: ClassVar[Day]
    users = 0
    seconds = 0.0

    def tick(self) -> tuple[int, float] | None:
        """How many users, and how many to make a second; None when the run is over.

        Locust asks for the first time before it tells anybody that a test begins, so nobody knows the number yet.
        """
        if not self.users:
            return 1, 1.0
        if self.get_run_time() >= HEAD_START + self.seconds:
            self.users = 0
            return None
        return self.users, float(self.users)


class SteadyDay(Shape):
    """Guests come and go; the number online stays about the same."""

    abstract = False
    day = DAYS["steady"]


class OpeningHour(Shape):
    """Nearly everybody comes within a fifth of the run."""

    abstract = False
    day = DAYS["opening"]


class AfterAnOutage(Shape):
    """All gateways are gone at once, and come back at once, and all guests after them."""

    abstract = False
    day = DAYS["outage"]


class SlowGateways(Shape):
    """A third of the gateways are on lines that deliver a request in pieces."""

    abstract = False
    day = DAYS["slow"]


SHAPES: dict[str, type[Shape]] = {
    "steady": SteadyDay,
    "opening": OpeningHour,
    "outage": AfterAnOutage,
    "slow": SlowGateways,
}
