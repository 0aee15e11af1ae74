"""Ten thousand random steps of routers, phones and grants, held against a model that knows what really flowed.

The routers here behave as the real program does: a list of entries (IP + MAC) with running totals that outlive tokens,
dropped on our 0, lost in a reboot, carried over a `wdctl restart`; reports that are repeated, late or lost. The model
counts what was reported of each entry's life and to whom it belongs. Charged must equal it, to the byte.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import gevent
import pytest

from portal import sessions
from portal.access import Answer, Reason
from portal.grants import Grant, Refused
from portal.keys import Keyring
from portal.ledger import Entry as Reported
from portal.store import Store
from tests.worlds import Cafe, Phone

WALKS, STEPS = 25, 400


@dataclass
class Entry:
    """A router's list entry: what the gateway knows of a station."""

    token: str
    down: int = 0
    up: int = 0
    access: bool = False
    reported: tuple[int, int] = (0, 0)


@dataclass
class Life:
    """A session as the model sees it."""

    grant: int
    phone: int
    router: int
    state: str = "minted"
    reason: str = ""


@dataclass
class World:
    """The model's whole knowledge."""

    grants: list[Grant]
    devices: list[int | None]
    quota: list[int | None]
    lives: dict[str, Life] = field(default_factory=dict)
    entries: list[dict[int, Entry]] = field(default_factory=lambda: [{}, {}])
    # Who owns a router's list entry of a phone: the session last let in on it.
    owners: dict[tuple[int, int], str] = field(default_factory=dict)
    charged: list[list[int]] = field(default_factory=list)
    uptime: list[int] = field(default_factory=lambda: [1000, 1000])

    def active(self, grant: int) -> set[int]:
        return {life.phone for life in self.lives.values() if life.grant == grant and life.state == "active"}

    def over(self, grant: int) -> bool:
        quota = self.quota[grant]
        return quota is not None and sum(self.charged[grant]) >= quota

    def may_join(self, grant: int, phone: int) -> bool:
        devices = self.devices[grant]
        return devices is None or len(self.active(grant) - {phone}) < devices

    def let_in(self, token: str) -> bool:
        """The model's rule for a token shown at the gateway."""
        life = self.lives[token]
        if life.state == "active":
            if self.over(life.grant):
                life.state, life.reason = "ended", "data_over"
                return False
            return True
        if life.state == "ended" and life.reason != "silent":
            return False
        if self.over(life.grant) or not self.may_join(life.grant, life.phone):
            return False
        for other in self.lives.values():
            if other.phone == life.phone and other.state == "active":
                other.state, other.reason = "ended", "superseded"
        life.state = "active"
        self.owners[life.router, life.phone] = token
        return True


class Walk:
    """One random walk. Each step acts on the real thing and on the model, and compares what an outsider sees."""

    def __init__(self, cafe: Cafe, seed: int) -> None:
        self.cafe, self.dice, self.story = cafe, random.Random(seed), [f"seed {seed}"]
        self.routers = [cafe.router, cafe.new_router("gw-2")]
        self.phones = [cafe.phone(number + 1) for number in range(4)]
        terms: list[dict[str, int | None]] = [{"devices": 1}, {"devices": 2}, {"devices": None}]
        terms.append({"devices": 2, "bytes": 60_000})
        grants = [cafe.grant(**term) for term in terms]
        self.world = World(grants, [t["devices"] for t in terms], [t.get("bytes") for t in terms])
        self.world.charged = [[0, 0] for _ in grants]
        for router in self.routers:
            cafe.heartbeat(1000, router=router)

    def run(self, steps: int) -> None:
        moves = [
            (self.sign_in, 4), (self.traffic, 8), (self.cycle, 8), (self.repeat, 2), (self.logout, 2), (self.late, 1),
            (self.reboot, 1), (self.wdctl_restart, 1), (self.kick, 1), (self.silence, 1), (self.ghost, 1),
            (self.rush, 1),
        ]  # fmt: skip
        for _ in range(steps):
            move = self.dice.choices([move for move, _ in moves], [weight for _, weight in moves])[0]
            move()
        for router in range(2):
            self.cycle(router)
            self.cycle(router)
        for number, grant in enumerate(self.world.grants):
            assert list(self.cafe.used(grant)) == self.world.charged[number], "\n".join(self.story[-60:])

    def tell(self, *words: object) -> None:
        self.story.append(" ".join(str(word) for word in words))

    def expect(self, what: object, expected: object) -> None:
        assert what == expected, "\n".join(self.story[-60:])

    def at(self, phone: int, router: int, token: str) -> Phone:
        carried = self.phones[phone].moves_to(self.routers[router])
        carried.token = token
        return carried

    # -- what guests do

    def sign_in(self) -> None:
        """A guest is caught, signs in, and the browser carries the token to the gateway."""
        phone, router, grant = self.dice.randrange(4), self.dice.randrange(2), self.dice.randrange(4)
        self.tell("phone", phone, "signs in at", router, "with grant", grant)
        self.leave_other_router(phone, router)
        carried = self.phones[phone].moves_to(self.routers[router])
        fits = not self.world.over(grant) and self.world.may_join(grant, phone)
        try:
            token = carried.signs_in(self.world.grants[grant])
        except Refused as refused:
            self.expect(fits, False)
            assert refused.reason in (Reason.DATA_OVER, Reason.DEVICES_FULL)
            return
        self.expect(fits, True)
        self.world.lives[token] = Life(grant, phone, router)
        entry = self.world.entries[router].setdefault(phone, Entry(token))
        entry.token = token
        if self.dice.random() < 0.1:
            self.tell("  the login call is lost")
            entry.access = False
            return
        allowed = self.world.let_in(token)
        self.expect(self.at(phone, router, token).logs_in().answer is Answer.ALLOW, allowed)
        entry.access = allowed

    def leave_other_router(self, phone: int, router: int) -> None:
        """A phone is in one place: the other router times it out, with counters and a logout."""
        entry = self.world.entries[1 - router].pop(phone, None)
        if entry is not None:
            self.says_goodbye(phone, 1 - router, entry)

    def traffic(self) -> None:
        router = self.dice.randrange(2)
        for phone, entry in self.world.entries[router].items():
            if entry.access:
                entry.down += self.dice.randrange(20_000)
                entry.up += self.dice.randrange(2_000)
                self.tell("phone", phone, "at", router, "stands at", entry.down, entry.up)

    def logout(self) -> None:
        router = self.dice.randrange(2)
        if self.world.entries[router]:
            phone = self.dice.choice(list(self.world.entries[router]))
            self.says_goodbye(phone, router, self.world.entries[router].pop(phone))

    def says_goodbye(self, phone: int, router: int, entry: Entry) -> None:
        """Counters and logout in the same second; the logout repeats the values of the last poll."""
        self.poll(phone, router, entry)
        self.tell("phone", phone, "at", router, "is logged out")
        self.expect(self.at(phone, router, entry.token).logs_out(*entry.reported).answer, Answer.DENY)
        life = self.world.lives.get(entry.token)
        if life is not None and life.state == "active":
            life.state, life.reason = "ended", "logout"

    def ghost(self) -> None:
        """A guest types a token of his own into the gateway's address."""
        router = self.dice.randrange(2)
        if self.world.entries[router]:
            phone = self.dice.choice(list(self.world.entries[router]))
            entry = self.world.entries[router][phone]
            self.tell("phone", phone, "at", router, "makes up a token")
            entry.token, entry.access = "GHOST", False
            self.expect(self.at(phone, router, "GHOST").logs_in().reason, Reason.FORGED)

    def rush(self) -> None:
        """While nothing is written: a poll, a new sign-in, its poll and logout, and a late copy of the first poll."""
        router = self.dice.randrange(2)
        for phone, entry in list(self.world.entries[router].items()):
            life, grant = self.world.lives.get(entry.token), self.dice.randrange(3)
            online = life is not None and life.state == "active" and entry.reported[0] > 100
            if not online or not self.world.may_join(grant, phone):
                continue
            self.tell("phone", phone, "at", router, "reports, signs in with grant", grant, "and logs out, all at once")
            old, carried = entry.token, self.at(phone, router, entry.token)
            del self.world.entries[router][phone]
            with self.cafe.without_a_writer():
                said = [gevent.spawn(carried.polls, entry.down, entry.up)]
                gevent.sleep(0)
                new = carried.signs_in(self.world.grants[grant])
                self.world.lives[new] = Life(grant, phone, router)
                self.expect(self.world.let_in(new), True)
                self.expect(carried.logs_in().answer, Answer.ALLOW)
                late = entry.down - 100
                self.charge(new, entry)
                entry.down += self.dice.randrange(20_000)
                self.charge(new, entry)
                said.append(gevent.spawn(carried.polls, *entry.reported))
                said.append(gevent.spawn(carried.logs_out, *entry.reported))
                said.append(gevent.spawn(carried.polls, late, entry.up, token=old))
                gevent.sleep(0)
            gevent.joinall(said, raise_error=True)
            self.expect(self.cafe.session_of(new).end_reason, "logout")
            self.world.lives[new].state, self.world.lives[new].reason = "ended", "logout"

    # -- what routers do

    def cycle(self, router: int | None = None) -> None:
        router = self.dice.randrange(2) if router is None else router
        self.tell("router", router, "reports")
        self.world.uptime[router] += 60
        self.cafe.heartbeat(self.world.uptime[router], router=self.routers[router])
        for phone, entry in list(self.world.entries[router].items()):
            self.asks(phone, router, entry)

    def asks(self, phone: int, router: int, entry: Entry) -> None:
        """A poll whose answer the router obeys."""
        if self.poll(phone, router, entry):
            entry.access = True
        else:
            del self.world.entries[router][phone]

    def poll(self, phone: int, router: int, entry: Entry) -> bool:
        if entry.token == "GHOST":
            owner = self.world.owners.get((router, phone))
            known = owner is not None and self.cafe.sessions._ledger.owner(self.entry_key(phone, router)) is not None
            if known:
                self.charge(owner, entry)
            else:
                entry.reported = (entry.down, entry.up)
            verdict = self.at(phone, router, "GHOST").polls(entry.down, entry.up)
            self.expect(verdict.reason, Reason.FORGED)
            return False
        owner = self.world.owners.get((router, phone), entry.token)
        self.charge(owner, entry)
        allowed = self.world.let_in(entry.token)
        verdict = self.at(phone, router, entry.token).polls(entry.down, entry.up)
        self.tell("  phone", phone, "reports", entry.down, entry.up, "and hears", verdict.reason)
        self.expect(verdict.answer is Answer.ALLOW, allowed)
        return allowed

    def entry_key(self, phone: int, router: int) -> Reported:
        carried = self.phones[phone]
        return Reported("", self.routers[router].id, carried.mac, carried.ip, 0, 0, False, False, 60, 1)

    def charge(self, owner: str | None, entry: Entry) -> None:
        if owner is not None and owner in self.world.lives:
            book = self.world.charged[self.world.lives[owner].grant]
            book[0] += entry.down - entry.reported[0]
            book[1] += entry.up - entry.reported[1]
        entry.reported = (entry.down, entry.up)

    def repeat(self) -> None:
        """The same poll again, since its answer was lost on the way."""
        router = self.dice.randrange(2)
        for phone, entry in list(self.world.entries[router].items()):
            if entry.token != "GHOST":
                self.poll(phone, router, entry)
                self.asks(phone, router, entry)

    def late(self) -> None:
        """A poll from before the last one arrives after it."""
        router = self.dice.randrange(2)
        for phone, entry in list(self.world.entries[router].items()):
            if entry.token != "GHOST" and entry.access and entry.reported[0] > 100:
                self.tell("phone", phone, "at", router, "is reported late")
                allowed = self.world.let_in(entry.token)
                verdict = self.at(phone, router, entry.token).polls(entry.reported[0] - 100, entry.reported[1])
                self.expect(verdict.answer is Answer.ALLOW, allowed)
                self.asks(phone, router, entry)

    def reboot(self) -> None:
        router = self.dice.randrange(2)
        self.tell("router", router, "reboots")
        self.world.entries[router].clear()
        self.begin_anew(router)

    def wdctl_restart(self) -> None:
        router = self.dice.randrange(2)
        self.cycle(router)
        self.tell("router", router, "restarts and keeps its list")
        self.begin_anew(router)
        self.cycle(router)

    def begin_anew(self, router: int) -> None:
        self.world.uptime[router] = 3
        self.cafe.heartbeat(3, router=self.routers[router])

    # -- what operators and time do

    def kick(self) -> None:
        active = [token for token, life in self.world.lives.items() if life.state == "active"]
        if active:
            token = self.dice.choice(active)
            self.tell("phone", self.world.lives[token].phone, "is kicked")
            session = self.cafe.session_of(token)
            with self.cafe.store.transaction() as db:
                sessions.end(db, session.id, session.grant_id, Reason.KICKED, self.cafe.store.database_now())
            self.world.lives[token].state, self.world.lives[token].reason = "ended", "kicked"

    def silence(self) -> None:
        """The line of the routers is down for ten minutes; what was minted meanwhile is stale."""
        self.tell("ten minutes of silence")
        for router in range(2):
            self.cycle(router)
        self.cafe.pass_time(601)
        self.cafe.puts_the_silent_away()
        for life in self.world.lives.values():
            if life.state == "active":
                life.state, life.reason = "ended", "silent"
            elif life.state == "minted":
                life.state, life.reason = "ended", "stale"
        for router in range(2):
            self.cycle(router)


@pytest.fixture
def cafe(store: Store, keyring: Keyring) -> Iterator[Cafe]:
    cafe = Cafe(store, keyring)
    yield cafe
    cafe.close()


@pytest.mark.parametrize("seed", range(WALKS))
def test_charged_equals_reported_and_verdicts_follow_the_model(cafe: Cafe, seed: int) -> None:
    Walk(cafe, seed).run(STEPS)


def test_the_model_is_not_the_product(cafe: Cafe) -> None:
    """The walk must notice a ledger that is wrong: here one that adds a byte to what one report charged."""
    walk = Walk(cafe, 1)
    walk.run(60)
    cafe.change('UPDATE "grant" SET used_down = used_down + 1 WHERE id = :id', id=walk.world.grants[2].id)
    with pytest.raises(AssertionError):
        walk.run(5)
