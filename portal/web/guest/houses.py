"""Networks as their guests see them, remembered for a second, and for as long as the database is away.

Promises: a splash page costs no query while a crowd arrives, and can still be shown while our records cannot be
reached; an edit is seen a second later. Bounded by the number of networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from portal import networks
from portal.networks import Network, Plan
from portal.store import Store, Unavailable
from portal.web import look
from portal.web.guest.pages import House

FRESH_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Home:
    """A network with what its splash page offers. `click` is the plan of a click, None where that way is closed."""

    network: Network
    click: Plan | None


class Homes:
    """What is known of networks, by number."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[int, tuple[float, Home]] = {}
        self._only: tuple[float, int | None] | None = None

    def of(self, network_id: int) -> Home | None:
        """The network of that number, at most a second old; older while the database is away.

        Raises Unavailable when it was never read.
        """
        known = self._known.get(network_id)
        if known is not None and self._clock() - known[0] < FRESH_SECONDS:
            return known[1]
        try:
            with self._store.read("guests", caller="splash") as db:
                home = _read(db, network_id)
        except Unavailable:
            if known is None:
                raise
            return known[1]
        if home is None:
            self._known.pop(network_id, None)
        else:
            self._known[network_id] = self._clock(), home
        return home

    def only(self) -> Home | None:
        """The network of an installation that has just one; None where there are several, or none.

        For guests whose gateway says nothing about itself: which house they are in is clear all the same.
        """
        if self._only is None or self._clock() - self._only[0] >= FRESH_SECONDS:
            with self._store.read("guests", caller="only network") as db:
                listed = networks.listed(db)
            self._only = self._clock(), listed[0].id if len(listed) == 1 else None
        return None if self._only[1] is None else self.of(self._only[1])


def house(home: Home, keeps_days: int) -> House:
    """How a network looks to its guests. `keeps_days`: how long their sign-ins are kept."""
    network = home.network
    return House(
        name=network.name,
        language=network.language,
        zone=network.time_zone,
        colours=look.colours_name(network.colour),
        logo="" if network.logo_mark is None else look.logo_name(network.id, network.logo_mark),
        support=network.support,
        code_hint=network.code_hint,
        terms=network.terms,
        privacy=network.privacy,
        keeps_days=keeps_days,
    )


# Pages that belong to no network.
NOBODY: Final = House("Gatepost", binding=False)


def _read(db: Connection, network_id: int) -> Home | None:
    network = networks.get(db, network_id)
    if network is None:
        return None
    click = None
    if network.click_plan_id is not None:
        click = networks.plan(db, network_id, network.click_plan_id)
    return Home(network, click if click is not None and click.retired_at is None else None)
