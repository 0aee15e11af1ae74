"""Every gateway in memory, so that no call waits for the database to learn who sent it."""

from __future__ import annotations

import dataclasses
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Row

from portal import wifidog
from portal.gateways.heartbeats import GatewayFacts, Ping, Trust, heartbeats, miss_key
from portal.gateways.records import key_hash, learn_device, note_unknown
from portal.store import Store, Unavailable, sql

_KEY = re.compile("[a-z0-9]{32}")

_FACTS = """
    SELECT g.id, g.network_id, g.gw_id, g.device_id, g.state, g.dialect, g.swapped, g.address, g.port,
           g.interval_seconds, g.link_bytes_per_second, h.key_seen_at IS NOT NULL AS key_seen, k.key_hash, k.expires_at
      FROM gateway g
      LEFT JOIN heartbeat h ON h.gateway_id = g.id
      LEFT JOIN gateway_key k ON k.gateway_id = g.id AND (k.expires_at IS NULL OR k.expires_at > now())
"""

CHANGED = sql("gateways.changed", f"{_FACTS} WHERE g.changed_at >= :since ORDER BY g.id, k.id")

ONE = sql("gateways.one", f"{_FACTS} WHERE lower(g.gw_id) = lower(:gw_id) ORDER BY k.id")

PRESENT = sql("gateways.present", "SELECT id, clock_timestamp() FROM gateway")

NOW = sql("gateways.now", "SELECT clock_timestamp()")


class Gateways:
    """Every gateway there is, in memory, so that no call waits for the database to learn who sent it.

    `refresh` is called about once a second and reads what has changed. Who is not found is looked for in the database
    before he counts as unknown, and a key that does not fit is compared with those in the database before it counts as
    wrong, since another process may have written them a moment ago; both within a budget, so that a flood of invented
    names costs memory and time that are bounded. While the database is away, what is in memory stands.
    """

    # A change is marked with the time when it is made and seen when it is committed, this much later at most.
    OVERLAP: Final = timedelta(seconds=30)
    MISS_SECONDS: Final = 5.0
    MOST_MISSES: Final = 10_000
    LOOKUPS_PER_SECOND: Final = 20.0
    LOOKUP_BURST: Final = 40.0
    NOTES_PER_SECOND: Final = 1.0
    NOTES_BURST: Final = 20.0
    SWEEP_EVERY: Final = 60

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._by_id: dict[int, GatewayFacts] = {}
        self._by_gw_id: dict[str, GatewayFacts] = {}
        self._by_device: dict[str, dict[int, GatewayFacts]] = {}
        # The key that a gateway last showed, if it is its own and stays valid: its hash need not be made again.
        self._shown: dict[int, tuple[GatewayFacts, bytes]] = {}
        self._since: datetime | None = None
        self._refreshes = 0
        self._misses: OrderedDict[str, float] = OrderedDict()
        self._lookups = _Allowed(self.LOOKUPS_PER_SECOND, self.LOOKUP_BURST, clock)
        self._notes = _Allowed(self.NOTES_PER_SECOND, self.NOTES_BURST, clock)

    def __len__(self) -> int:
        return len(self._by_id)

    def refresh(self) -> None:
        """Read what has changed since the last time; everything the first time. Raises Unavailable."""
        self._refreshes += 1
        with self._store.read("jobs", caller="gateways") as db:
            if self._since is None or self._refreshes % self.SWEEP_EVERY == 0:
                # Rows that are gone leave no mark of change.
                present = db.execute(PRESENT).all()
                told = present[0][1] if present else db.execute(NOW).scalar_one()
                for gone in self._by_id.keys() - {row[0] for row in present}:
                    self._drop(gone)
            else:
                told = db.execute(NOW).scalar_one()
            since = self._since - self.OVERLAP if self._since else datetime.min.replace(tzinfo=told.tzinfo)
            for facts in _facts(db.execute(CHANGED, {"since": since})):
                self._keep(facts)
        self._since = told

    def find(self, gw_id: str) -> GatewayFacts | None:
        """The gateway that calls itself so, in any case of letters and any state; None if there is none.

        Also None when the database could not be asked in time: unknown or not, the answer is neutral.
        """
        name = gw_id.lower()
        found = self._by_gw_id.get(name)
        return found if found is not None else self._look_up(name)

    def adopted(self, gw_id: str) -> GatewayFacts | None:
        """The gateway that calls itself so, if it is adopted; None otherwise, and as in `find`.

        Somebody may have adopted it a moment ago and try it now, so the database is asked before it counts as not.
        """
        name = gw_id.lower()
        found = self._by_gw_id.get(name)
        if found is None or found.state != "adopted":
            found = self._look_up(name)
        return found if found is not None and found.state == "adopted" else None

    def of_device(self, device_id: str) -> list[GatewayFacts]:
        """The gateways that run on one device of apfree's."""
        return list(self._by_device.get(device_id, {}).values()) if device_id else []

    def called(self, ping: wifidog.Heartbeat) -> list[GatewayFacts]:
        """Whom a ping speaks for: the gateway it names, or else all gateways of the device it names."""
        if not ping.gw_id:
            return self.of_device(ping.device_id)
        found = self.find(ping.gw_id)
        return [] if found is None else [found]

    def trust(self, gateway: GatewayFacts, key: str) -> Trust:
        """What `key`, "" for none, is worth in a call that names `gateway`.

        One device has one configuration and so one key for all its gateways: a key of one of them speaks for all, in
        its own network. Which device it is, a gateway says itself, and another network's may say anything.
        """
        shown = self._shown.get(gateway.id)
        if shown is not None and shown[0] is gateway and hmac.compare_digest(shown[1], key.encode()):
            return Trust.KEYED
        if key and self._fits(gateway, key):
            if (key_hash(key), None) in gateway.keys:
                self._shown[gateway.id] = gateway, key.encode()
            return Trust.KEYED
        if _KEY.fullmatch(key):
            fresh = self._look_up(gateway.gw_id.lower(), f"{gateway.id} {key}")
            if fresh is not None and self._fits(fresh, key):
                return Trust.KEYED
        return Trust.KEY_MISSING if gateway.keyed else Trust.ADOPTED

    def hear(self, pings: Sequence[Ping], now: datetime) -> None:
        """Keep heartbeats, in one transaction. Who is unknown may get into the inbox. Raises Unavailable."""
        heard = []
        for ping in pings:
            called = self.called(ping.beat)
            heard += [(facts, self.trust(facts, ping.beat.key), ping) for facts in called]
            if not called:
                self.note(ping.beat.gw_id, ping.beat.device_id, ping.beat.dialect, now)
        if heard:
            with self._store.transaction("jobs", caller="heartbeats") as db:
                heartbeats(db, heard, now)

    def note(self, gw_id: str, device_id: str, dialect: str, now: datetime) -> None:
        """A gateway that is not known has called: it gets into the inbox, unless too many do. Raises Unavailable."""
        if gw_id and gw_id.lower() not in self._by_gw_id and self._notes.take():
            with self._store.transaction("jobs", caller="inbox") as db:
                note_unknown(db, gw_id, now, device_id=device_id, dialect=dialect)

    def miss_key(self, gateways: Collection[GatewayFacts], now: datetime) -> None:
        """Calls came in their name that lacked the key which they have shown. Raises Unavailable."""
        with self._store.transaction("jobs", caller="keys missing") as db:
            miss_key(db, [facts.id for facts in gateways], now)

    def learn(self, gateway: GatewayFacts, device_id: str) -> None:
        """A call of `gateway` that is believed named its device, by which alone apfree pings. Raises Unavailable."""
        if device_id and device_id != gateway.device_id:
            with self._store.transaction("jobs", caller="devices") as db:
                learn_device(db, gateway.id, device_id)
            self._keep(dataclasses.replace(gateway, device_id=device_id))

    def _fits(self, gateway: GatewayFacts, key: str) -> bool:
        given, fits = key_hash(key), False
        for facts in (gateway, *self.of_device(gateway.device_id)):
            for stored, expires in facts.keys if facts.network_id == gateway.network_id else ():
                if hmac.compare_digest(given, stored):
                    fits |= expires is None or expires > self._store.clock.now()
        return fits

    def _look_up(self, name: str, miss: str = "") -> GatewayFacts | None:
        """The gateway from the database, unless the same question (`miss`) was answered with no a moment ago."""
        question = miss or name
        asked = self._misses.get(question)
        if asked is not None and self._clock() - asked < self.MISS_SECONDS:
            return None
        if not self._lookups.take():
            return None
        try:
            with self._store.read("polls", caller="gateways", seconds=0.5) as db:
                found = next(_facts(db.execute(ONE, {"gw_id": name.replace("\0", "")})), None)
        except Unavailable:
            return None
        if found is not None:
            self._keep(found)
        if found is None or miss:
            self._misses[question] = self._clock()
            self._misses.move_to_end(question)
            if len(self._misses) > self.MOST_MISSES:
                self._misses.popitem(last=False)
        return found

    def _keep(self, facts: GatewayFacts) -> None:
        self._drop(facts.id)
        self._by_id[facts.id] = facts
        self._by_gw_id[facts.gw_id.lower()] = facts
        self._misses.pop(facts.gw_id.lower(), None)
        if facts.device_id:
            self._by_device.setdefault(facts.device_id, {})[facts.id] = facts

    def _drop(self, gateway_id: int) -> None:
        old = self._by_id.pop(gateway_id, None)
        self._shown.pop(gateway_id, None)
        if old is None:
            return
        # The name may be another gateway's by now: one that replaced this one.
        if self._by_gw_id.get(old.gw_id.lower()) is old:
            del self._by_gw_id[old.gw_id.lower()]
        if old.device_id:
            self._by_device[old.device_id].pop(gateway_id)
            if not self._by_device[old.device_id]:
                del self._by_device[old.device_id]


class _Allowed:
    """So many at once, so many a second."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float]) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._left, self._at = burst, clock()

    def take(self) -> bool:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _facts(rows: Iterable[Row[Any]]) -> Iterator[GatewayFacts]:
    """Facts from rows of `_FACTS`, where a gateway has a row for each of its keys."""
    for _, of_one in groupby(rows, key=lambda row: row.id):
        found = list(of_one)
        row = found[0]
        keys = tuple((bytes(each.key_hash), each.expires_at) for each in found if each.key_hash is not None)
        yield GatewayFacts(
            id=row.id,
            network_id=row.network_id,
            gw_id=row.gw_id,
            device_id=row.device_id,
            state=row.state,
            dialect=row.dialect,
            swapped=row.swapped,
            address=row.address,
            port=row.port,
            interval_seconds=row.interval_seconds,
            link_bytes_per_second=row.link_bytes_per_second,
            keys=keys,
            keyed=bool(keys) and row.key_seen,
        )
