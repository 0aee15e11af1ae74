"""A crowd for a demonstration: guests who sign in by themselves, and traffic for everyone who is online.

Promises: each whole byte of the rate asked for is moved, fractions are carried on; nobody is counted who has no access.
A guest who is not let in says why and tries again a while later.
"""

from collections.abc import Callable, Sequence

from portal.emulator.browser import Page
from portal.emulator.gateway import Gateway
from portal.emulator.guests import Guest
from portal.emulator.lan import Access, Bytes


class Appetite:
    """Moves `rate` bytes a second for every device that is online, nine down for each one up."""

    def __init__(self, gateway: Gateway, rate: float, clock: Callable[[], float]) -> None:
        self._gateway = gateway
        self._rate = rate
        self._clock = clock
        self._last = clock()
        self._owed: dict[str, float] = {}

    def step(self) -> None:
        """Moves what is due since the last step; the work of a loop."""
        now = self._clock()
        due, self._last = self._rate * (now - self._last), now
        for station in self._gateway.stations:
            if self._gateway.access(station) is Access.NONE or not station.present:
                continue
            owed = self._owed.get(station.name, 0.0) + due
            whole = int(owed)
            self._owed[station.name] = owed - whole
            up = whole // 10
            self._gateway.carry(station, Bytes(whole - up, up))


class Crowd:
    """Guests who sign in with a code each, or by a click where there are no codes; `again` seconds between tries."""

    def __init__(
        self,
        gateway: Gateway,
        guests: Sequence[Guest],
        codes: Sequence[str],
        note: Callable[[str], None],
        clock: Callable[[], float],
        again: float = 10.0,
    ) -> None:
        self._gateway = gateway
        self._guests = list(guests)
        self._codes = list(codes)
        self._note = note
        self._clock = clock
        self._again = again
        self._next: dict[str, float] = {}

    def step(self) -> None:
        """Every guest who is not online, and whose time has come, tries to get in; the work of a loop."""
        for position, guest in enumerate(self._guests):
            due = self._next.get(guest.name, self._clock()) <= self._clock()
            if guest.online or not due or not self._gateway.is_auth_online:
                continue
            self._next[guest.name] = self._clock() + self._again
            try:
                page = self._try(position, guest)
            except (OSError, LookupError, RecursionError) as error:
                self._note(f"{guest.name}: no way in: {error}")
                continue
            if not guest.online:
                said = f": {page.title}" if page.title else ""
                self._note(f"{guest.name}: not let in, the last page had status {page.status}{said}")

    def _try(self, position: int, guest: Guest) -> Page:
        if self._codes:
            return guest.sign_in(code=self._codes[position % len(self._codes)])
        return guest.sign_in()
