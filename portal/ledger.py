"""The ledger: what gateways report, gathered while the last commit runs, written together, then answered.

Promises: a report is answered after its commit, or, past the deadline, by `Late`, and then still waits to be written;
writing a report again charges nothing twice, because growth is computed in SQL from stored totals; memory is bounded.
Charged equals what was reported: a gateway counts per list entry (IP + MAC), so the counter line of the entry says
where its growth goes, whichever token stands on it by then. Never decides who may stay online; that is access.decide.

The rules of a counter line, and their source (the gateway's behaviour, wifidog-gateway src/fw_iptables.c and
src/firewall.c, seen on the real program): totals run on for as long as the entry is in the gateway's list, whatever the
token. A restart (`wifidog_uptime` fell) or silence only arms a reset: then a lower value is a new start, while a value
at or above the last goes on, since `wdctl restart` carries totals over. A lower value that nothing announced is held,
and believed when the next report is lower than the total too, and not lower than the held one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import gevent
import psycopg2
from gevent.event import Event
from gevent.hub import Waiter
from sqlalchemy import Connection

from portal.access import Facts
from portal.store import Conflict, Store, Unavailable, prepared, sql

log = logging.getLogger(__name__)

# Growth beyond what the link carries since the last report is charged when it has had the time; this much is let pass.
BURST_BYTES = 64 * 2**20
# How exactly a deadline is kept.
TICK_SECONDS = 0.02
# Requests that go on in one callback. The loop looks at its sockets after fifty callbacks, at the latest.
AT_ONCE = 5
# Reports of one list entry that wait in order: rarely two, and only nonsense makes more than a few.
IN_ORDER = 8
# The gateway itself pings every client once a cycle: 48 bytes each way that are no sign of a guest (seen on 1.3.0).
PING_BYTES = 48


class Late(Exception):
    """The database did not confirm in time. The report is kept and will be written."""


class Overloaded(Exception):
    """More reports wait, of all or of this list entry, than the ledger holds. This one is not kept."""


class Rejected(Exception):
    """The database refuses this very report. It is not kept."""


class Entry(NamedTuple):
    """One report, as the ledger takes it. Counters of None change nothing; the rest still counts as a sign of life."""

    token_hash: str  # hexadecimal
    gateway_id: int
    mac: str
    ip: str
    down: int | None
    up: int | None
    logout: bool
    repeats: bool  # the gateway's dialect repeats a station's old token after a new sign-in (apfree)
    interval_seconds: int
    link_bytes_per_second: int


class Slot:
    """A report that waits, with the requests that wait for it. `came` is when, in monotonic seconds; `at` is the
    database's time when its commit was confirmed.

    `settled` says that nobody needs to wait any more; an outcome of Late, that the report is to be written still.
    """

    __slots__ = ("at", "came", "entry", "facts", "outcome", "settled", "waiters")

    at: datetime

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.came = time.monotonic()
        self.facts: Facts | None = None
        self.outcome: type[Exception] | None = None
        self.settled = False
        self.waiters: list[Waiter[None]] = []


def settle(slots: Iterable[Slot], outcome: type[Exception] | None) -> None:
    """Let those go on who wait for these reports. An event for each would cost three times as much."""
    waiters: list[Waiter[None]] = []
    for slot in slots:
        slot.outcome = outcome
        slot.settled = True
        if slot.waiters:
            waiters += slot.waiters
            slot.waiters = []
    run_callback = gevent.get_hub().loop.run_callback
    for start in range(0, len(waiters), AT_ONCE):
        run_callback(_resume, waiters[start : start + AT_ONCE])


def _resume(waiters: Sequence[Waiter[None]]) -> None:
    for waiter in waiters:
        waiter.switch(None)


# The session that a report `r` names. Its id is known from an earlier commit, as a rule; to find it by the token's hash
# takes three times as long.
SESSION_ID = """
    COALESCE(r.session_id, (SELECT t.id FROM session t WHERE t.token_hash = decode(r.token, 'hex')))
""".strip()
# Checked all the same: the database may have been put back to an earlier state, and count its ids anew.
NAMED_SESSION = f"session s ON s.id = {SESSION_ID} AND s.token_hash = decode(r.token, 'hex')"

LOCK = sql(
    "ledger.lock",
    f"""
    WITH reported AS MATERIALIZED (
        SELECT s.id, s.grant_id
          FROM session s
         WHERE s.id = ANY (ARRAY(
                   SELECT {SESSION_ID}
                     FROM unnest(CAST(%(session)s AS bigint[]), CAST(%(token)s AS text[])) AS r (session_id, token)
                    UNION
                   SELECT l.session_id
                     FROM unnest(CAST(%(gateway)s AS bigint[]), CAST(%(mac)s AS text[]), CAST(%(ip)s AS text[]))
                          AS r (gateway_id, mac, ip)
                     JOIN counter_line l
                       ON l.gateway_id = r.gateway_id AND l.mac = r.mac AND l.ip = r.ip AND l.current))
         ORDER BY s.id
           FOR NO KEY UPDATE
    )
    SELECT count(*)
      FROM (SELECT g.id
              FROM "grant" g
             WHERE g.id = ANY (ARRAY(SELECT grant_id FROM reported))
             ORDER BY g.id
               FOR NO KEY UPDATE) AS locked
    """,
)

# Runs after LOCK in the same transaction, with a snapshot of its own: every session, line and grant it reads stands
# still. `step` works out each report's growth, `total` sums it up by the session that owns the list entry.
WRITE = sql(
    "ledger.write",
    f"""
    WITH report AS (
        SELECT r.mac, r.ip, r.gateway_id, r.down, r.up, r.logout, r.every,
               s.id AS named_id, COALESCE(o.id, s.id) AS owner_id,
               CASE WHEN o.id IS NULL THEN s.grant_id ELSE o.grant_id END AS grant_id,
               CASE WHEN o.id IS NULL THEN s.state ELSE o.state END AS state,
               CASE WHEN o.id IS NULL THEN s.reported_at ELSE o.reported_at END AS reported_at,
               CASE WHEN o.id IS NULL THEN s.active_at ELSE o.active_at END AS active_at,
               l.id AS line_id, l.down AS line_down, l.up AS line_up, l.held_down, l.held_up,
               l.at < h.restarted_at OR now() - l.at > (3 * r.every + 60) * INTERVAL '1 second' AS armed,
               -- A transaction that began later may have written before: its moment lies ahead of ours.
               CAST(LEAST(r.rate * GREATEST(0, date_part('epoch', now() - COALESCE(l.at, s.activated_at)))
                          + %(burst)s, 9e18) AS bigint) AS most
          FROM unnest(CAST(%(session)s AS bigint[]), CAST(%(token)s AS text[]), CAST(%(gateway)s AS bigint[]),
                      CAST(%(mac)s AS text[]), CAST(%(ip)s AS text[]), CAST(%(down)s AS bigint[]),
                      CAST(%(up)s AS bigint[]), CAST(%(logout)s AS bool[]), CAST(%(every)s AS int[]),
                      CAST(%(rate)s AS bigint[]))
               AS r (session_id, token, gateway_id, mac, ip, down, up, logout, every, rate)
          -- None for a token that is not ours to charge: unknown, or of another gateway or station.
          LEFT JOIN {NAMED_SESSION}
           AND s.gateway_id = r.gateway_id AND (s.mac IS NULL OR s.mac = r.mac)
          LEFT JOIN counter_line l
            ON l.gateway_id = r.gateway_id AND l.mac = r.mac AND l.ip = r.ip AND l.current
          -- Its owner, if that is another one: null for nearly every report, and then the index is not even asked.
          LEFT JOIN session o ON o.id = CASE WHEN l.session_id IS DISTINCT FROM s.id THEN l.session_id END
          LEFT JOIN heartbeat h ON h.gateway_id = r.gateway_id
         WHERE s.activated_at IS NOT NULL OR l.id IS NOT NULL
    ),
    judged AS (
        SELECT report.*,
               down IS NOT NULL AND up IS NOT NULL AS counted,
               down >= COALESCE(line_down, 0) AND up >= COALESCE(line_up, 0) AS goes_on,
               down IS NOT NULL AND up IS NOT NULL
               AND (armed OR (held_down IS NOT NULL AND down >= held_down AND up >= held_up
                              AND (logout OR down > held_down OR up > held_up))) AS starts_anew
          FROM report
    ),
    step AS MATERIALIZED (
        SELECT mac, ip, gateway_id, logout, every, named_id, owner_id, grant_id, state, reported_at, active_at,
               line_id, down, up, counted, goes_on, starts_anew,
               CASE WHEN goes_on THEN LEAST(down - COALESCE(line_down, 0), most)
                    WHEN starts_anew THEN LEAST(down, most)
                    ELSE 0 END AS grew_down,
               CASE WHEN goes_on THEN LEAST(up - COALESCE(line_up, 0), most)
                    WHEN starts_anew THEN LEAST(up, most)
                    ELSE 0 END AS grew_up
          FROM judged
    ),
    moved AS (
        UPDATE counter_line l
           SET down = CASE WHEN t.goes_on THEN l.down + t.grew_down WHEN t.starts_anew THEN t.grew_down ELSE l.down END,
               up = CASE WHEN t.goes_on THEN l.up + t.grew_up WHEN t.starts_anew THEN t.grew_up ELSE l.up END,
               held_down = CASE WHEN t.goes_on OR t.starts_anew OR NOT t.counted THEN NULL ELSE t.down END,
               held_up = CASE WHEN t.goes_on OR t.starts_anew OR NOT t.counted THEN NULL ELSE t.up END,
               charged_down = l.charged_down + t.grew_down,
               charged_up = l.charged_up + t.grew_up,
               -- Growth after a logout is another life of the entry, if its owner is online: his login came back to it.
               closed = CASE WHEN t.logout THEN 1
                             WHEN l.closed = 1 AND (t.state <> 'active' OR (t.grew_down = 0 AND t.grew_up = 0)) THEN 1
                             ELSE 0 END,
               at = GREATEST(l.at, now())
          FROM step t
         WHERE l.id = t.line_id AND (t.counted OR t.logout)
    ),
    opened AS (
        INSERT INTO counter_line (session_id, gateway_id, mac, ip, down, up, charged_down, charged_up, closed, at)
        SELECT t.owner_id, t.gateway_id, t.mac, t.ip, t.grew_down, t.grew_up, t.grew_down, t.grew_up,
               CASE WHEN t.logout THEN 1 ELSE 0 END, now()
          FROM step t
         WHERE t.line_id IS NULL AND t.counted
            ON CONFLICT (gateway_id, mac, ip) WHERE current DO NOTHING
        RETURNING session_id, charged_down, charged_up
    ),
    -- The columns of an owner are the same in all its rows; what a line that was opened just now has charged is told by
    -- the line itself.
    total AS MATERIALIZED (
        SELECT t.id, t.grant_id, t.state, t.down, t.up, t.ip,
               t.down + t.up > 0 AND (t.busy OR t.active_at IS NULL) AS busy,
               CASE WHEN t.state = 'active'
                    THEN GREATEST(0, LEAST(date_part('epoch', now() - t.reported_at), 3 * t.every))
                    ELSE 0 END AS seconds,
               t.state = 'active' AND t.leaves
               AND NOT EXISTS (SELECT 1
                                 FROM counter_line o
                                WHERE o.session_id = t.id AND o.current AND o.closed = 0
                                  AND o.id <> ALL (t.left_lines)
                                  AND o.at > now() - (3 * t.every + 60) * INTERVAL '1 second') AS leaves
          FROM (SELECT owner_id AS id, MAX(grant_id) AS grant_id, MAX(state) AS state,
                       MAX(reported_at) AS reported_at, MAX(active_at) AS active_at,
                       CAST(SUM(grew_down) AS bigint) AS down, CAST(SUM(grew_up) AS bigint) AS up,
                       MAX(ip) AS ip, MAX(every) AS every,
                       bool_or(grew_down > {PING_BYTES} * cycles OR grew_up > {PING_BYTES} * cycles) AS busy,
                       COALESCE(bool_or(logout), false) AS leaves,
                       array_remove(array_agg(left_line), NULL) AS left_lines
                  FROM (SELECT owner_id, grant_id, state, reported_at, active_at, ip, every,
                               CASE WHEN line_id IS NULL THEN 0 ELSE grew_down END AS grew_down,
                               CASE WHEN line_id IS NULL THEN 0 ELSE grew_up END AS grew_up,
                               logout AND named_id = owner_id AS logout,
                               CASE WHEN logout THEN line_id END AS left_line,
                               1 + ceil(date_part('epoch', now() - reported_at) / every) AS cycles
                          FROM step
                         UNION ALL
                        SELECT session_id, NULL, NULL, NULL, NULL, NULL, 0, charged_down, charged_up, false, NULL, 1
                          FROM opened) AS growth
                 GROUP BY owner_id) AS t
    ),
    spent_session AS (
        UPDATE session s
           SET used_down = s.used_down + t.down,
               used_up = s.used_up + t.up,
               used_seconds = s.used_seconds + t.seconds,
               reported_at = CASE WHEN s.state = 'active' THEN GREATEST(s.reported_at, now()) ELSE s.reported_at END,
               active_at = CASE WHEN t.busy THEN now() ELSE s.active_at END,
               ip = COALESCE(t.ip, s.ip),
               state = CASE WHEN t.leaves THEN 'ended' ELSE s.state END,
               end_reason = CASE WHEN t.leaves THEN 'logout' ELSE s.end_reason END,
               ended_at = CASE WHEN t.leaves THEN now() ELSE s.ended_at END
          FROM total t
         WHERE s.id = t.id
    ),
    by_grant AS MATERIALIZED (
        SELECT grant_id, CAST(SUM(down) AS bigint) AS down, CAST(SUM(up) AS bigint) AS up, SUM(seconds) AS seconds
          FROM total
         GROUP BY grant_id
    ),
    spent_grant AS (
        UPDATE "grant" g
           SET used_down = g.used_down + t.down,
               used_up = g.used_up + t.up,
               used_seconds = g.used_seconds + t.seconds
          FROM by_grant t
         WHERE g.id = t.grant_id
        RETURNING g.id, g.period, g.time_zone, t.seconds, t.down, t.up
    )
    INSERT INTO grant_period AS u (grant_id, starts, used_seconds, used_down, used_up)
    SELECT id, CAST(date_trunc(period, now() AT TIME ZONE time_zone) AS date), seconds, down, up
      FROM spent_grant
     WHERE period IS NOT NULL
        ON CONFLICT (grant_id, starts) DO UPDATE
       SET used_seconds = u.used_seconds + EXCLUDED.used_seconds,
           used_down = u.used_down + EXCLUDED.used_down,
           used_up = u.used_up + EXCLUDED.used_up
    """,
)

# The facts of one session `d` as reported by `r`: the columns of access.Facts. sessions.py reads them the same way. A
# moment that decides nothing is not read: each costs as much as five other columns.
FACTS_COLUMNS = """
    d.id, d.network_id, d.gateway_id, d.grant_id, d.state, d.mac,
    CASE WHEN d.state = 'minted' THEN d.minted_at END, CASE WHEN g.idle_seconds IS NOT NULL THEN d.active_at END,
    d.end_reason,
    d.gateway_id = r.gateway_id, d.mac IS NULL OR d.mac = r.mac,
    (SELECT b.blocked_until FROM station b WHERE b.network_id = d.network_id AND b.mac = r.mac),
    g.seconds, g.clock, g.bytes, g.counts, g.devices, g.valid_until, g.idle_seconds,
    g.period, g.period_seconds, g.period_bytes, g.ends_at, g.used_seconds, g.used_down, g.used_up,
    COALESCE(u.used_seconds, 0), CAST(COALESCE(u.used_down, 0) AS bigint), CAST(COALESCE(u.used_up, 0) AS bigint),
    g.revoked_at
"""
FACTS_JOINS = """
    JOIN "grant" g ON g.id = d.grant_id
    LEFT JOIN grant_period u
      ON g.period IS NOT NULL
     AND u.grant_id = g.id AND u.starts = CAST(date_trunc(g.period, now() AT TIME ZONE g.time_zone) AS date)
"""

READ = sql(
    "ledger.read",
    f"""
    SELECT CASE WHEN r.n = 1 THEN now() END, r.n, CASE WHEN r.repeats THEN {SESSION_ID} ELSE d.id END AS named_id,
           {FACTS_COLUMNS}
      FROM unnest(CAST(%(session)s AS bigint[]), CAST(%(token)s AS text[]), CAST(%(gateway)s AS bigint[]),
                  CAST(%(mac)s AS text[]), CAST(%(ip)s AS text[]), CAST(%(repeats)s AS bool[]))
           WITH ORDINALITY AS r (session_id, token, gateway_id, mac, ip, repeats, n)
      -- A token that a gateway only repeats speaks for the session that owns the list entry now.
      JOIN session d
        ON d.id = CASE WHEN NOT r.repeats THEN {SESSION_ID} ELSE (
               SELECT COALESCE(o.id, s.id)
                 FROM session s
                 LEFT JOIN counter_line l
                   ON s.state = 'ended' AND s.gateway_id = r.gateway_id AND (s.mac IS NULL OR s.mac = r.mac)
                  AND l.gateway_id = r.gateway_id AND l.mac = r.mac AND l.ip = r.ip AND l.current
                 LEFT JOIN session o ON o.id = l.session_id AND o.state = 'active'
                WHERE s.id = {SESSION_ID} AND s.token_hash = decode(r.token, 'hex')
           ) END
       AND (r.repeats OR d.token_hash = decode(r.token, 'hex'))
      {FACTS_JOINS}
    """,
)

ROLL_USAGE = sql(
    "ledger.roll_usage",
    """
    WITH stood AS MATERIALIZED (
        SELECT id, rolled_down, rolled_up
          FROM session
         WHERE used_down <> rolled_down OR used_up <> rolled_up
         ORDER BY id
         LIMIT :most
           FOR NO KEY UPDATE SKIP LOCKED
    ),
    rolled AS (
        UPDATE session s
           SET rolled_down = s.used_down, rolled_up = s.used_up
          FROM stood
         WHERE s.id = stood.id
        RETURNING s.id, s.network_id, s.gateway_id,
                  s.used_down - stood.rolled_down AS down, s.used_up - stood.rolled_up AS up
    )
    INSERT INTO usage_hour AS u (hour, session_id, network_id, gateway_id, down, up)
    SELECT date_trunc('hour', CAST(:now AS timestamptz)), id, network_id, gateway_id, down, up
      FROM rolled
        ON CONFLICT (hour, session_id) DO UPDATE
       SET down = u.down + EXCLUDED.down, up = u.up + EXCLUDED.up
    """,
)

# Planned once on each connection: to plan the three anew took 2.3 ms of every batch. One message to the server, and so
# one transaction.
PREPARED = (prepared(LOCK), prepared(WRITE), prepared(READ))
BATCH = "; ".join(statement.execute for statement in PREPARED)


class Ledger:
    """Gathers reports and writes them, one batch at a time. Run `run()` in one greenlet of its own.

    `deadline_s` is how long a request waits for its commit. `attempt_s` is how long one try at the database may take.
    """

    def __init__(
        self, store: Store, *, deadline_s: float = 1.0, attempt_s: float = 0.9, batch: int = 1000, lid: int = 200_000
    ) -> None:
        self._store = store
        self.deadline_s = deadline_s
        self._attempt_s = attempt_s
        self._batch = batch
        self._lid = lid
        self._queue: dict[tuple[int, str, str], Slot] = {}
        # Reports that cannot be folded into those of the same list entry that wait, in the order they came: each
        # goes a batch later than the one before it. How many there are in all, and how many are being written.
        self._later: dict[tuple[int, str, str], deque[Slot]] = {}
        self._behind = 0
        self._writing = 0
        # By the token's hash, the id of its session, then the facts. Plain tuples, which the garbage collector forgets:
        # 100,000 Facts of their own kind took it 120 ms to look at.
        self._known: dict[str, tuple[Any, ...]] = {}
        # Which token owns a list entry, as of the last commit that spoke of it.
        self._owners: dict[tuple[int, str, str], str] = {}
        # Everything that has come within the deadline, so that one timer ends the waiting of all.
        self._recent: deque[Slot] = deque()
        self._clock = gevent.get_hub().loop.timer(TICK_SECONDS, TICK_SECONDS, ref=False)
        self._wake = Event()
        self._idle = Event()
        self._idle.set()
        self.broken = False
        self.committed = 0
        self.batches = 0
        self.late = 0
        self.rejected = 0
        self.conflicts = 0
        self.failures = 0
        self.last_batch = 0
        self.last_commit_s = 0.0

    @property
    def waiting(self) -> int:
        """Reports that are not written yet."""
        return len(self._queue) + self._behind + self._writing

    def knows(self, token_hash: str) -> bool:
        """Whether a commit has spoken of this token. Memory of this process only."""
        return token_hash in self._known

    def known(self, token_hash: str) -> Facts | None:
        """The facts of the last commit that spoke of this token, or None. Memory of this process only."""
        known = self._known.get(token_hash)
        return None if known is None else Facts._make(known[1:])

    def learn(self, token_hash: str, facts: Facts) -> None:
        """Remember facts that a commit elsewhere (an activation, an ending) has made."""
        known = self._known.get(token_hash)
        # A repeated token's facts may be those of another session, which owns its list entry; the id is its own.
        self._known[token_hash] = (facts.session_id if known is None else known[0], *facts)

    def owner(self, entry: Entry) -> str | None:
        """The token (its hash) that was online on this list entry by the last commit, or None. Memory only."""
        return self._owners.get((entry.gateway_id, entry.mac, entry.ip))

    def enter(self, entry: Entry) -> Slot:
        """Put a report on the list of what is written next; `written` waits for it.

        One that is kept is written, folded into others or in the order of its list entry.
        """
        key = (entry.gateway_id, entry.mac, entry.ip)
        slot = self._queue.get(key)
        if slot is None:
            slot = Slot(entry)
            if len(self._queue) + self._behind + self._writing >= self._lid:
                settle([slot], Overloaded)
                return slot
            if not self._queue:
                self._wake.set()
            self._queue[key] = slot
            self._expect(slot)
            return slot
        return self._enter_behind([slot, *self._later.get(key, ())], entry)

    def _enter_behind(self, before: Sequence[Slot], entry: Entry) -> Slot:
        """Put a report behind those of its list entry that wait."""
        last = before[-1]
        if (folded := fold(last.entry, entry)) is not None:
            last.entry = folded
            return last
        slot = Slot(entry)
        if len(before) < IN_ORDER and self.waiting < self._lid:
            self._later.setdefault((entry.gateway_id, entry.mac, entry.ip), deque()).append(slot)
            self._behind += 1
            self._expect(slot)
            return slot
        if entry.logout:
            # Counters come again with the next report, a logout does not.
            for other in reversed(before):
                if other.entry.token_hash == entry.token_hash:
                    other.entry = other.entry._replace(logout=True)
                    return other
        settle([slot], Overloaded)
        return slot

    def written(self, slot: Slot) -> Facts | None:
        """The facts of the report's session after its commit; None when no session has its token.

        Raises Late when the commit is not confirmed within the deadline (counted from when the report came), or while
        the database is known to be away; the report is written later all the same. Overloaded and Rejected: never.
        """
        if not slot.settled:
            if self.broken:
                self.late += 1
                raise Late
            waiter: Waiter[None] = Waiter()
            slot.waiters.append(waiter)
            waiter.get()
        if slot.outcome is not None:
            self.late += slot.outcome is Late
            raise slot.outcome
        return slot.facts

    def _expect(self, slot: Slot) -> None:
        """Let nobody wait for this report for longer than the deadline."""
        if not self._recent:
            self._clock.start(self._end_waits)
        self._recent.append(slot)

    def _end_waits(self) -> None:
        due, overdue = time.monotonic() - self.deadline_s, []
        while self._recent and (self._recent[0].settled or self._recent[0].came <= due):
            slot = self._recent.popleft()
            if not slot.settled:
                overdue.append(slot)
        settle(overdue, Late)
        if not self._recent:
            self._clock.stop()

    def run(self) -> None:
        """Write batches for ever: the next one leaves when the last is committed. Supervised by the caller."""
        pause = 0.05
        while True:
            if not self._queue:
                self._idle.set()
                self._wake.clear()
                self._wake.wait()
            self._idle.clear()
            slots = self._take()
            try:
                self._commit(slots)
                self._writing = 0
            except Unavailable as error:
                self._requeue(slots)
                self.failures += 1
                if not self.broken:
                    log.error("reports wait: the database does not answer", extra={"error": str(error)})
                self.broken = True
                gevent.sleep(pause)
                pause = min(0.5, pause * 2)
                continue
            except BaseException:
                self._requeue(slots)
                raise
            pause = 0.05
            if self.broken:
                log.warning("the database answers again", extra={"waiting": self.waiting})
            self.broken = False

    def _own(self, entry: Entry, facts: Facts) -> None:
        """Remember whether the token of this report is the one that is online on its list entry."""
        key = (entry.gateway_id, entry.mac, entry.ip)
        online = facts.state == "active" and facts.own_gateway and facts.own_station
        if online and self._owners.get(key) == entry.token_hash:
            return
        self._owners.pop(key, None)
        if online:
            self._owners[key] = entry.token_hash
            if len(self._owners) > self._lid:
                del self._owners[next(iter(self._owners))]

    def drain(self, seconds: float) -> int:
        """Wait until nothing is left to write, at most so long. How many reports are left."""
        self._idle.wait(seconds)
        return self.waiting

    def _take(self) -> list[Slot]:
        if len(self._queue) <= self._batch:
            taken, self._queue = self._queue, {}
        else:
            taken = {key: self._queue.pop(key) for key in list(islice(self._queue, self._batch))}
        for key in self._later.keys() & taken.keys():
            self._queue[key] = self._later[key].popleft()
            self._behind -= 1
            if not self._later[key]:
                del self._later[key]
        self._writing = len(taken)
        return list(taken.values())

    def _requeue(self, slots: Sequence[Slot]) -> None:
        """Put reports back in front of younger ones. Their requests are answered from what is known."""
        self._writing = 0
        unwritten = [slot for slot in slots if not slot.settled or slot.outcome is Late]
        settle(unwritten, Late)
        younger, self._queue = self._queue, {}
        for entry in [slot.entry for slot in unwritten]:
            key = (entry.gateway_id, entry.mac, entry.ip)
            newer = younger.pop(key, None)
            if newer is not None and (folded := fold(entry, newer.entry)) is not None:
                newer.entry = folded
                self._queue[key] = newer
                continue
            kept = self._queue[key] = Slot(entry)
            self._expect(kept)
            if newer is not None:
                self._later.setdefault(key, deque()).appendleft(newer)
                self._behind += 1
        self._queue.update(younger)

    def _commit(self, slots: Sequence[Slot]) -> None:
        for attempt in range(6):
            try:
                self._write(slots)
                return
            except Conflict:
                # Another process, an activation or a kick holds some of the rows; nothing of ours was written.
                self.conflicts += 1
                if attempt == 5:
                    raise Unavailable("reports keep meeting locked sessions") from None
                gevent.sleep(0.005 * 2**attempt)
            except psycopg2.Error as error:
                if len(slots) == 1:
                    self.rejected += 1
                    log.error("a report cannot be written", extra={"sqlstate": error.pgcode})
                    settle(slots, Rejected)
                    return
                middle = len(slots) // 2
                self._commit(slots[:middle])
                self._commit(slots[middle:])
                return

    def _session_ids(self, entries: Sequence[Entry]) -> str:
        """The ids of the sessions that these reports name, as far as they are known, as an array literal."""
        known = [self._known.get(entry.token_hash) for entry in entries]
        return "{" + ",".join(["NULL" if one is None else str(one[0]) for one in known]) + "}"

    def _write(self, slots: Sequence[Slot]) -> None:
        started = time.monotonic()
        entries = [slot.entry for slot in slots]
        with self._store.cursor("ledger", caller="ledger", seconds=self._attempt_s, statements=PREPARED) as cursor:
            sent = time.monotonic()
            cursor.execute(BATCH, arrays(entries) | {"session": self._session_ids(entries)})
            rows = cursor.fetchall()
        for row in rows:
            slot = slots[row[1] - 1]
            slot.facts = facts = Facts._make(row[3:])
            self._known[slot.entry.token_hash] = row[2:]
            self._own(slot.entry, facts)
            if row[0] is not None:
                self._store.clock.observe(row[0], sent, sent)
        # In the order in which they were first heard of: who is still online is known again by his next report.
        while len(self._known) > self._lid:
            del self._known[next(iter(self._known))]
        at = self._store.clock.now()
        for slot in slots:
            slot.at = at
            if slot.facts is None:
                self._known.pop(slot.entry.token_hash, None)  # it led nowhere: next time the token itself is sought
        self.committed += len(slots)
        self.batches += 1
        self.last_batch = len(slots)
        self.last_commit_s = time.monotonic() - started
        settle(slots, None)


def roll_usage(db: Connection, now: datetime, most: int = 500) -> int:
    """Book what has been charged since the last time under the hour of `now`, for at most so many sessions. How many.

    A session that is being written at this moment is left for the next time; nothing is booked twice or lost, since a
    session remembers how much of its use is booked.
    """
    return db.execute(ROLL_USAGE, {"now": now, "most": most}).rowcount


def fold(older: Entry, newer: Entry) -> Entry | None:
    """Two waiting reports of one list entry as one, or None where the order between them carries meaning.

    Totals that ran on are told by the newer ones; a value that fell may be a new start, and another token another
    session, so those must be written one after the other.
    """
    if older.token_hash != newer.token_hash:
        return None
    logout = older.logout or newer.logout
    if newer.down is None or newer.up is None:
        return newer._replace(down=older.down, up=older.up, logout=logout)
    if older.down is None or older.up is None or (newer.down >= older.down and newer.up >= older.up):
        return newer._replace(logout=logout)
    return None


def arrays(entries: Sequence[Entry]) -> dict[str, str | int]:
    """The batch as PostgreSQL array literals, one per column: far cheaper to send than a value list.

    Every text in an entry is hexadecimal, a MAC or an IP by the wire's grammar, so none needs quoting inside.
    """

    def column(values: Iterable[str]) -> str:
        return "{" + ",".join(values) + "}"

    def counters(values: Iterable[int | None]) -> str:
        return column(["NULL" if value is None else str(value) for value in values])

    token, gateway, mac, ip, down, up, logout, repeats, every, rate = zip(*entries, strict=True)
    return {
        "token": column(token),
        "gateway": column(map(str, gateway)),
        "mac": column(mac),
        "ip": column([one or '""' for one in ip]),
        "down": counters(down),
        "up": counters(up),
        "logout": column(map(str, logout)),
        "repeats": column(map(str, repeats)),
        "every": column(map(str, every)),
        "rate": column(map(str, rate)),
        "burst": BURST_BYTES,
    }
