"""The gateways of a load test and their guests, as the gateway program keeps them, and the truth about its reports.

Promises: counters stand as those of WiFiDog 1.3.0 would: a running total for each list entry (IP + MAC), frozen after a
second sign-in until the kernel's new rule has counted more, the gateway's own ping of 48 bytes a cycle counted in.
`Truth` says for each entry and code what was reported of it, and how much of that got a real answer; it is what the
server's charges are held against. Pure: sends nothing, asks no clock. The rules and their source: portal/emulator.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from portal.emulator import wire

PING_BYTES = 48
CLIENT_TIMEOUT = 5
"""Intervals without anything sent after which a gateway logs a guest out (ClientTimeout of wifidog.conf)."""
LIGHT_BYTES = 64
"""What a guest moves in a cycle in which he must stay below his earlier totals."""
COLUMNS = ("gw_id", "mac", "ip", "code", "reported_down", "reported_up", "answered_down", "answered_up")


@dataclass(slots=True)
class Sum:
    """Bytes down and up."""

    down: int = 0
    up: int = 0

    def add(self, down: int, up: int) -> None:
        """Adds so many."""
        self.down += down
        self.up += up

    @property
    def total(self) -> int:
        """Both together."""
        return self.down + self.up


@dataclass(slots=True)
class Reported:
    """What was reported of one list entry under one code: the most that may be charged; what of it was `answered`, and
    so acknowledged, is the least."""

    reported: Sum = field(default_factory=Sum)
    answered: Sum = field(default_factory=Sum)


@dataclass(frozen=True, slots=True)
class Key:
    """A list entry, and the code by which its guest is online."""

    gw_id: str
    mac: str
    ip: str
    code: str


class Truth:
    """What the fleet reported, by entry and code, over the whole run."""

    def __init__(self) -> None:
        self.rows: dict[Key, Reported] = {}
        self._used: Counter[str] = Counter()

    def of(self, key: Key) -> Reported:
        """The row of an entry, made when it is first asked for."""
        return self.rows.setdefault(key, Reported())

    def report(self, key: Key, down: int, up: int) -> None:
        """So much more was reported."""
        self.of(key).reported.add(down, up)
        self._used[key.code] += down + up

    def used(self, code: str) -> int:
        """The bytes reported under a code, both directions."""
        return self._used[code]

    def write(self, path: Path) -> None:
        """As CSV, for whoever reconciles it later."""
        with path.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(COLUMNS)
            for key, row in self.rows.items():
                sums = (row.reported.down, row.reported.up, row.answered.down, row.answered.up)
                out.writerow((key.gw_id, key.mac, key.ip, key.code, *sums))


def read_truth(path: Path) -> Truth:
    """The inverse of `Truth.write`."""
    truth = Truth()
    for row in rows_of(path, COLUMNS):
        key = Key(row["gw_id"], row["mac"], row["ip"], row["code"])
        truth.report(key, int(row["reported_down"]), int(row["reported_up"]))
        truth.of(key).answered.add(int(row["answered_down"]), int(row["answered_up"]))
    return truth


def rows_of(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a head. Raises ValueError, naming the file, when a column is missing."""
    return rows_in(path.read_text(), columns, str(path))


def rows_in(text: str, columns: Iterable[str], name: str) -> list[dict[str, str]]:
    """The rows of CSV with a head, which came from what is called `name`. Raises ValueError as `rows_of` does."""
    reader = csv.DictReader(text.splitlines())
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{name}: expected a first line that names the column {', '.join(missing)}")
    return list(reader)


@dataclass(frozen=True, slots=True)
class Code:
    """A voucher: how many devices at once, and the bytes after which it is used up (None: no limit)."""

    code: str
    devices: int = 1
    bytes: int | None = None


def read_codes(path: Path) -> list[Code]:
    """Codes from a CSV file: the column `code`, and, where they say other than 1 and no limit, `devices` and `bytes`.

    What `python -m portal voucher issue` prints will do.
    """
    return [
        Code(row["code"], int(row.get("devices") or 1), int(row["bytes"]) if row.get("bytes") else None)
        for row in rows_of(path, ["code"])
    ]


def read_keys(path: Path) -> dict[str, str]:
    """Gateways from a CSV file with the columns `gw_id` and `key` (empty for one that has none)."""
    return {row["gw_id"]: row["key"] for row in rows_of(path, ["gw_id", "key"])}


@dataclass(slots=True)
class Guest:
    """A person with a device and a code. `rate` in bytes down a second; he sends a tenth of that."""

    number: int
    code: Code
    mac: str
    ip: str
    rate: float
    present: bool = False
    used_up: bool = False
    light: int = 0
    """Cycles in which he moves next to nothing, after a lost logout, and stays: a total that has fallen is charged once
    a second report confirms it."""


@dataclass(slots=True)
class Entry:
    """An entry of a gateway's list. `kernel` is what its present firewall rule counted, `shown` the totals reported,
    `sent` and `answered` the largest totals that were sent, and that got a real answer."""

    guest: Guest
    ip: str
    token: str
    active_at: float
    online: bool = False
    kernel: Sum = field(default_factory=Sum)
    shown: Sum = field(default_factory=Sum)
    sent: Sum = field(default_factory=Sum)
    answered: Sum = field(default_factory=Sum)


class Gateway:
    """One gateway: its list, its counters. Times in seconds, of whatever clock the caller uses."""

    def __init__(self, gw_id: str, server: wire.AuthServer, interval: float, truth: Truth, draw: random.Random) -> None:
        self.gw_id = gw_id
        self.server = server
        self.interval = interval
        # Seconds that its line takes for one request.
        self.slow = 0.0
        self.started = 0.0
        self.guests: list[Guest] = []
        self._truth = truth
        self._draw = draw
        self._list: dict[tuple[str, str], Entry] = {}

    # The list

    def entries(self) -> list[Entry]:
        """Everybody in the list, the newest first, as the program walks it."""
        return list(reversed(self._list.values()))

    def entry(self, guest: Guest) -> Entry | None:
        """The guest's entry under his present address."""
        return self._list.get((guest.ip, guest.mac))

    def holds(self, entry: Entry) -> bool:
        """Whether an entry is in the list still."""
        return self._list.get((entry.ip, entry.guest.mac)) is entry

    def enter(self, guest: Guest, token: str, now: float) -> Entry:
        """Before a login is asked for: an entry for who has none; one that is there keeps its counters."""
        entry = self._list.get((guest.ip, guest.mac))
        if entry is None:
            entry = self._list[guest.ip, guest.mac] = Entry(guest, guest.ip, token, now)
        return entry

    def logged_in(self, entry: Entry, token: str, code: int) -> None:
        """The answer to a login: let through, the kernel's rule is put in anew and counts from 0."""
        entry.token = token
        if code == wire.ALLOWED:
            entry.online = True
            entry.kernel = Sum()
        elif code == wire.DENIED:
            entry.online = False

    def drop(self, entry: Entry) -> None:
        """Out of the list, and the firewall is shut."""
        if self.holds(entry):
            del self._list[entry.ip, entry.guest.mac]

    def restart(self, now: float) -> None:
        """The power comes back: the list is empty, the uptime begins anew, nobody has been told."""
        self._list.clear()
        self.started = now

    # The counters

    def count(self, now: float) -> None:
        """What a cycle begins with: everybody has used the line since the last one; totals follow the kernel's rules,
        but only once those have counted more than the totals hold."""
        for entry in self._list.values():
            guest = entry.guest
            if not entry.online:
                continue
            if guest.present:
                down = LIGHT_BYTES if guest.light else round(guest.rate * self.interval * self._draw.uniform(0.2, 1.8))
                entry.kernel.add(down, max(1, down // 10))
                guest.light = max(0, guest.light - 1)
            if entry.kernel.up > entry.shown.up:
                entry.shown.up = entry.kernel.up
                entry.active_at = now
            entry.shown.down = max(entry.shown.down, entry.kernel.down)

    def ping_station(self, entry: Entry) -> None:
        """Before each poll the gateway pings the device: its own bytes are counted as the guest's."""
        if entry.online:
            entry.kernel.add(PING_BYTES, PING_BYTES if entry.guest.present else 0)

    def idle(self, entry: Entry, now: float) -> bool:
        """Whether the guest has sent nothing for so long that the gateway logs him out."""
        return entry.active_at + CLIENT_TIMEOUT * self.interval <= now

    def sent(self, entry: Entry, down: int, up: int) -> None:
        """A report with these totals was sent whole."""
        self._truth.report(self._key(entry), *_beyond(entry.sent, down, up))

    def answered(self, entry: Entry, down: int, up: int) -> None:
        """A report with these totals got a real answer."""
        self._truth.of(self._key(entry)).answered.add(*_beyond(entry.answered, down, up))

    def _key(self, entry: Entry) -> Key:
        return Key(self.gw_id, entry.guest.mac, entry.ip, entry.guest.code.code)

    # The guests

    def forget_quietly(self, entry: Entry) -> None:
        """A lost logout: dropped from the list, and the call never arrives. The next stay of this guest has another
        address, or begins so quietly that its counters are seen to have begun anew: a gateway that counts from 0
        beyond its old totals within one interval, unannounced, cannot be told from one that counted on."""
        self.drop(entry)
        guest = entry.guest
        if (
            guest.code.bytes is not None
            or self._draw.random() < 0.5
            or min(entry.sent.down, entry.sent.up) < 10 * (LIGHT_BYTES + PING_BYTES)
        ):
            guest.ip = next_address(guest.ip)
        else:
            guest.light = 3

    def request(self, stage: str, entry: Entry, token: str, down: int, up: int) -> bytes:
        """The bytes of a call about an entry."""
        target = wire.classic_auth_target(
            self.server, stage, ip=entry.ip, mac=entry.guest.mac, token=token,
            incoming=down, outgoing=up, deltas=None, gw_id=self.gw_id,
        )  # fmt: skip
        return wire.classic_request(target, self.server.host)

    def heartbeat(self, now: float) -> bytes:
        """The bytes of a ping."""
        machine = wire.Machine(int(now) + 100_000, 40_000, 0.1)
        target = wire.classic_ping_target(self.server, self.gw_id, machine, int(now - self.started))
        return wire.classic_request(target, self.server.host)


def _beyond(mark: Sum, down: int, up: int) -> tuple[int, int]:
    """By how much totals exceed the largest before them, which they become."""
    more = max(0, down - mark.down), max(0, up - mark.up)
    mark.add(*more)
    return more


def next_address(ip: str) -> str:
    """Another address of the same LAN, out of a range of its own for each lease."""
    first, second, third, fourth = ip.split(".")
    return f"{first}.{(int(second) + 1) % 256}.{third}.{fourth}"


def populate(
    gateways: list[Gateway], codes: list[Code], guests: int, draw: random.Random, mark: int = 0
) -> list[Guest]:
    """Guests, spread over the gateways; a code for several devices is given to that many at the same gateway.

    Fewer than `guests` when there are not enough codes. `mark` (16 bits) stands in every MAC: no two runs against one
    server share a list entry.
    """
    made: list[Guest] = []
    for number, code in enumerate(codes):
        gateway = gateways[number % len(gateways)]
        for _ in range(code.devices):
            if len(made) == guests:
                return made
            place = len(made)
            tail = f"{place >> 16 & 255:02x}:{place >> 8 & 255:02x}:{place & 255:02x}"
            mac = f"02:{mark >> 8 & 255:02x}:{mark & 255:02x}:{tail}"
            ip = f"10.0.{place >> 8 & 255}.{place & 255}"
            guest = Guest(place, code, mac, ip, rate=min(draw.lognormvariate(10, 1.2), 1e6))
            gateway.guests.append(guest)
            made.append(guest)
    return made
