"""What lies around the gateway program: stations, the kernel's firewall table, and the book of what really happened.

Promises: a byte passes only through a rule; the book is never wrong about what passed and what was reported, whatever
restarts, denials and lost answers came between, since nothing that the gateway program forgets is kept in it. Knows
nothing of HTTP. All of it may be used from several threads.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

PING_BYTES = 48  # an ICMP echo as the gateway sends it, and its answer


class Access(StrEnum):
    """What the firewall lets a station do; the values are the ruleset names a person would use."""

    NONE = "none"
    PROBATION = "probation"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes to the station (down) and from it (up)."""

    down: int = 0
    up: int = 0

    @property
    def total(self) -> int:
        return self.down + self.up

    def __add__(self, other: "Bytes") -> "Bytes":
        return Bytes(self.down + other.down, self.up + other.up)


@dataclass(slots=True)
class Station:
    """A device on the LAN. `mac` is None where the router's ARP table does not know it; `present` devices answer pings.

    `source` is the loopback address its browser connects from.
    """

    name: str
    ip: str
    mac: str | None
    source: str
    present: bool = True


class Lan:
    """The stations, by loopback address or by MAC. An unknown loopback address is the first station's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_name: dict[str, Station] = {}
        self._by_source: dict[str, Station] = {}
        self._by_mac: dict[str, Station] = {}

    def add(self, station: Station) -> None:
        """Raises ValueError when its name, loopback address or MAC is another station's."""
        with self._lock:
            if (
                station.name in self._by_name
                or station.source in self._by_source
                or (station.mac is not None and station.mac in self._by_mac)
            ):
                raise ValueError(f"station {station.name!r}: its name, MAC or loopback address is already in use")
            self._by_name[station.name] = station
            self._by_source[station.source] = station
            if station.mac is not None:
                self._by_mac[station.mac] = station

    def stations(self) -> list[Station]:
        with self._lock:
            return list(self._by_name.values())

    def named(self, name: str) -> Station | None:
        return self._by_name.get(name)

    def with_mac(self, mac: str) -> Station | None:
        return self._by_mac.get(mac)

    def at(self, source: str) -> Station:
        """The station whose browser connects from this loopback address; the first station for any other."""
        return self._by_source.get(source) or next(iter(self._by_name.values()))

    def answers_ping(self, ip: str, mac: str) -> bool:
        station = self._by_mac.get(mac)
        return station is not None and station.present and station.ip == ip


@dataclass(slots=True)
class Rule:
    """One station's kernel rule and what it has counted since it was put in."""

    access: Access
    down: int = 0
    up: int = 0


class Firewall:
    """The kernel's table. A rule that is put in anew counts from 0, also where it replaces one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: dict[tuple[str, str], Rule] = {}
        # The ruleset `auth-is-down`: passes everyone, counts no one.
        self.open_to_all = False

    def allow(self, ip: str, mac: str, access: Access) -> None:
        with self._lock:
            self._rules[ip, mac] = Rule(access)

    def deny(self, ip: str, mac: str) -> None:
        with self._lock:
            self._rules.pop((ip, mac), None)

    def access(self, ip: str, mac: str | None) -> Access:
        with self._lock:
            rule = self._rules.get((ip, mac or ""))
            return rule.access if rule is not None else Access.NONE

    def counted(self, ip: str, mac: str) -> Bytes | None:
        """What the station's present rule has counted; None without one."""
        with self._lock:
            rule = self._rules.get((ip, mac))
            return Bytes(rule.down, rule.up) if rule is not None else None

    def carry(self, ip: str, mac: str | None, load: Bytes) -> bool:
        """Moves bytes of a station; False when the firewall keeps them out."""
        with self._lock:
            rule = self._rules.get((ip, mac or ""))
            if rule is None:
                return self.open_to_all
            rule.down += load.down
            rule.up += load.up
            return True

    def rules(self) -> dict[tuple[str, str], Rule]:
        """A copy of the table, by (IP, MAC)."""
        with self._lock:
            return {key: replace(rule) for key, rule in self._rules.items()}


@dataclass(frozen=True, slots=True)
class Account:
    """The truth about one MAC, in bytes since the emulator began.

    `transferred`: the station's own traffic that passed. `pings`: the gateway's ICMP pings and their answers, which its
    counters hold too. `refused`: what was tried while the firewall was shut. `reported`: growth named in requests that
    were sent whole; the most a server may charge. `answered`: growth in those of them that got a real answer (not an
    error, nor -1); the least it must charge.
    """

    transferred: Bytes = Bytes()
    pings: Bytes = Bytes()
    refused: Bytes = Bytes()
    reported: Bytes = Bytes()
    answered: Bytes = Bytes()


class Book:
    """One account for each MAC, kept across list entries, restarts and denials."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[str, Account] = {}

    def account(self, mac: str | None) -> Account:
        with self._lock:
            return self._accounts.get(mac or "", Account())

    def accounts(self) -> dict[str, Account]:
        with self._lock:
            return dict(self._accounts)

    def transferred(self, mac: str | None, load: Bytes, *, passed: bool) -> None:
        with self._lock:
            account = self._accounts.get(mac or "", Account())
            if passed:
                account = replace(account, transferred=account.transferred + load)
            else:
                account = replace(account, refused=account.refused + load)
            self._accounts[mac or ""] = account

    def pinged(self, mac: str, load: Bytes) -> None:
        with self._lock:
            account = self._accounts.get(mac, Account())
            self._accounts[mac] = replace(account, pings=account.pings + load)

    def reported(self, mac: str, growth: Bytes) -> None:
        with self._lock:
            account = self._accounts.get(mac, Account())
            self._accounts[mac] = replace(account, reported=account.reported + growth)

    def answered(self, mac: str, growth: Bytes) -> None:
        with self._lock:
            account = self._accounts.get(mac, Account())
            self._accounts[mac] = replace(account, answered=account.answered + growth)


def total(accounts: Iterable[Account]) -> Account:
    """The sum of accounts."""
    result = Account()
    for account in accounts:
        result = Account(
            result.transferred + account.transferred,
            result.pings + account.pings,
            result.refused + account.refused,
            result.reported + account.reported,
            result.answered + account.answered,
        )
    return result


@dataclass(slots=True)
class HighWater:
    """The largest counters of one run that were sent, and that were answered; a run is counters that began at 0."""

    sent: Bytes = field(default_factory=Bytes)
    answered: Bytes = field(default_factory=Bytes)
