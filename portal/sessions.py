"""Sessions: a guest's time online, from the minting of its token to its end.

Promises: a sign-in spends nothing, the first activation starts the grant, once; a device has one live session in a
network, and a new sign-in supersedes the old one in the same transaction, so nobody is refused because his own old
session still hangs; an ending is committed before the gateway is told. Locks are taken in one order everywhere:
sessions by id, then grants by id, as in the ledger.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from sqlalchemy import Connection

from portal import access, grants
from portal.access import Answer, Effect, Facts, Reason, Verdict
from portal.grants import Grant, Refused
from portal.keys import Keyring
from portal.ledger import FACTS_COLUMNS, FACTS_JOINS, Entry, Late, Ledger, Overloaded, Rejected, Slot
from portal.store import Store, Unavailable, deadline, sql

log = logging.getLogger(__name__)

# A genuine token without a row: ours may be the record that is missing, so it is neutral for this long before it is 0.
UNKNOWN_GRACE = timedelta(minutes=10)
# After a restore from a backup every genuine token may be younger than the backup.
RESTORE_GRACE = timedelta(hours=24)
# What a verdict may take to be carried out when its report was committed at the last moment.
LAST_SECONDS = 0.1


class GatewayFacts(Protocol):
    """What a session needs to know of the gateway that reports it."""

    @property
    def id(self) -> int: ...
    @property
    def network_id(self) -> int | None: ...
    @property
    def dialect(self) -> str: ...
    @property
    def swapped(self) -> bool: ...
    @property
    def interval_seconds(self) -> int: ...
    @property
    def link_bytes_per_second(self) -> int: ...


class Report(Protocol):
    """One parsed call of a gateway (wifidog.Report)."""

    @property
    def stage(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def mac(self) -> str: ...
    @property
    def ip(self) -> str: ...
    @property
    def incoming(self) -> int | None: ...
    @property
    def outgoing(self) -> int | None: ...


class Session(NamedTuple):
    """A session as pages show it."""

    id: int
    network_id: int
    gateway_id: int
    gateway_name: str
    grant_id: int
    state: str
    mac: str | None
    ip: str | None
    device: str
    language: str
    minted_at: datetime
    activated_at: datetime | None
    reported_at: datetime | None
    active_at: datetime | None
    used_seconds: float
    used_down: int
    used_up: int
    ended_at: datetime | None
    end_reason: str | None
    verdict: str | None
    verdict_at: datetime | None
    verdict_facts: dict[str, object] | None


MINT = sql(
    "sessions.mint",
    """
    INSERT INTO session (token_hash, network_id, gateway_id, grant_id, mac, device, language, minted_at)
    VALUES (:token_hash, :network_id, :gateway_id, :grant_id, :mac, :device, :language, :now)
    RETURNING id
    """,
)

ACCEPT_TERMS = sql(
    "sessions.accept_terms",
    """
    INSERT INTO terms_acceptance (network_id, session_id, mac, version, language, at)
    VALUES (:network_id, :session_id, :mac, :version, :language, :now)
    """,
)

BLOCKED_UNTIL = sql(
    "sessions.blocked_until",
    "SELECT blocked_until FROM station WHERE network_id = :network_id AND mac = :mac AND blocked_until > :now",
)

OTHERS = sql(
    "sessions.others",
    """
    SELECT count(*) FROM session WHERE grant_id = :grant_id AND state = 'active' AND mac IS DISTINCT FROM :mac
    """,
)

# The token's session, whatever else the station has going on in the network, and the session that the list entry is
# charged to, ended or not: a report of it may be on its way. Locked in id order.
LOCK = sql(
    "sessions.lock",
    """
    SELECT s.id
      FROM session s
     WHERE s.token_hash = :token_hash
        OR (s.network_id = :network_id AND s.mac = :mac AND s.state = 'active')
        OR s.id = (SELECT l.session_id
                     FROM counter_line l
                    WHERE l.gateway_id = :gateway_id AND l.mac = :mac AND l.ip = :ip AND l.current)
     ORDER BY s.id
       FOR NO KEY UPDATE
    """,
)

LOCK_GRANT = sql("sessions.lock_grant", 'SELECT id FROM "grant" WHERE id = :grant_id FOR NO KEY UPDATE')

FACTS = sql(
    "sessions.facts",
    f"""
    SELECT now(), {FACTS_COLUMNS}
      FROM (SELECT CAST(:gateway_id AS bigint) AS gateway_id, CAST(:mac AS text) AS mac) AS r
      JOIN session d ON d.id = :session_id
      {FACTS_JOINS}
    """,
)

BY_TOKEN = sql("sessions.by_token", "SELECT id FROM session WHERE token_hash = :token_hash")

# What an apfree gateway cannot tell us: it repeats a station's old token after a new sign-in.
FRESH_SIGN_IN = sql(
    "sessions.fresh_sign_in",
    """
    SELECT n.token_hash
      FROM session n
     WHERE n.gateway_id = :gateway_id AND n.mac = :mac AND n.state = 'minted' AND n.minted_at > :since
       AND n.minted_at > COALESCE((SELECT o.minted_at FROM session o WHERE o.token_hash = :token_hash), '-infinity')
     ORDER BY n.minted_at DESC
     LIMIT 1
    """,
)

SUPERSEDE = sql(
    "sessions.supersede",
    """
    UPDATE session
       SET state = 'ended', end_reason = 'superseded', ended_at = :now
     WHERE network_id = :network_id AND mac = :mac AND state = 'active' AND id <> :session_id
    """,
)

ACTIVATE = sql(
    "sessions.activate",
    """
    UPDATE session
       SET state = 'active', mac = :mac, ip = :ip,
           activated_at = COALESCE(activated_at, :now), reported_at = :now, active_at = :now,
           end_reason = NULL, ended_at = NULL,
           verdict = 'ok', verdict_at = :now, verdict_facts = CAST(:figures AS jsonb)
     WHERE id = :session_id
    """,
)

OVERTAKEN = sql(
    "sessions.overtaken",
    """
    SELECT EXISTS (SELECT FROM session o
                    WHERE o.network_id = :network_id AND o.mac = :mac AND o.state = 'active'
                      AND o.gateway_id <> :gateway_id
                      AND o.minted_at > (SELECT s.minted_at FROM session s WHERE s.id = :session_id))
    """,
)

START_GRANT = sql(
    "sessions.start_grant",
    """
    UPDATE "grant"
       SET started_at = :now,
           ends_at = CASE WHEN clock = 'wall' AND seconds IS NOT NULL
                          THEN CAST(:now AS timestamptz) + seconds * INTERVAL '1 second' END
     WHERE id = :grant_id AND started_at IS NULL
    """,
)

# The list entry changes hands: the old owner's line is no longer current, the new one begins where the entry stands.
# It stands at 0 when the entry is known to be a new one: after a logout, after our own denial, after a restart of the
# gateway, or when the gateway was heard all along without mentioning it.
RELEASE_LINE = sql(
    "sessions.release_line",
    """
    UPDATE counter_line l
       SET current = false
      FROM (SELECT CAST(:gateway_id AS bigint) AS gateway_id) AS g
      LEFT JOIN heartbeat h ON h.gateway_id = g.gateway_id
     WHERE l.gateway_id = g.gateway_id AND l.mac = :mac AND l.ip = :ip AND l.current
    RETURNING l.down, l.up, l.held_down, l.held_up, l.at,
              l.closed <> 0
              OR COALESCE(h.restarted_at > l.at, false)
              OR COALESCE(now() - l.at > CAST(:silence AS interval) AND h.steady_since <= l.at
                          AND now() - h.at <= CAST(:silence AS interval), false) AS fresh
    """,
)

# Does a list entry that is known belong to another session, or is it one that the gateway has dropped?
ELSEWHERE = sql(
    "sessions.elsewhere",
    """
    SELECT EXISTS (SELECT FROM counter_line
                    WHERE gateway_id = :gateway_id AND mac = :mac AND ip = :ip AND current
                      AND (session_id <> :session_id OR closed <> 0))
    """,
)

TAKE_LINE = sql(
    "sessions.take_line",
    """
    INSERT INTO counter_line (session_id, gateway_id, mac, ip, down, up, held_down, held_up, at)
    VALUES (:session_id, :gateway_id, :mac, :ip, :down, :up, :held_down, :held_up, :at)
    """,
)

SEEN_STATION = sql(
    "sessions.seen_station",
    """
    INSERT INTO station (network_id, mac, first_seen_at, seen_at)
    VALUES (:network_id, :mac, :now, :now)
        ON CONFLICT (network_id, mac) DO UPDATE SET seen_at = EXCLUDED.seen_at
    """,
)

END = sql(
    "sessions.end",
    """
    UPDATE session
       SET state = 'ended', end_reason = :reason, ended_at = :now,
           verdict = :reason, verdict_at = :now, verdict_facts = CAST(:figures AS jsonb)
     WHERE id = :session_id AND state <> 'ended'
    """,
)

CLOSE_LINE = sql(
    "sessions.close_line",
    """
    UPDATE counter_line SET closed = 2
     WHERE gateway_id = :gateway_id AND mac = :mac AND ip = :ip AND current AND closed = 0
    """,
)

OVER = sql(
    "sessions.over",
    """
    UPDATE "grant" SET over_at = :now, over_reason = :reason WHERE id = :grant_id AND over_at IS NULL
    """,
)

BLOCK = sql(
    "sessions.block",
    """
    INSERT INTO station (network_id, mac, first_seen_at, seen_at, blocked_until)
    SELECT s.network_id, s.mac, :now, :now, :until FROM session s WHERE s.id = :session_id AND s.mac IS NOT NULL
        ON CONFLICT (network_id, mac) DO UPDATE SET blocked_until = EXCLUDED.blocked_until
    """,
)

# Silence is judged by the gateway's own interval, and only while somebody listened; the end of such a session is the
# last time it was mentioned.
END_SILENT = sql(
    "sessions.end_silent",
    """
    WITH gone AS (
        SELECT s.id
          FROM session s
          JOIN gateway w ON w.id = s.gateway_id
         WHERE s.state = 'active'
           AND GREATEST(s.reported_at, CAST(:since AS timestamptz))
               < CAST(:now AS timestamptz)
                 - (:intervals * w.interval_seconds * INTERVAL '1 second' + CAST(:grace AS interval))
         LIMIT :most
           FOR NO KEY UPDATE OF s SKIP LOCKED
    )
    UPDATE session s
       SET state = 'ended', end_reason = 'silent', ended_at = s.reported_at,
           verdict = 'silent', verdict_at = :now, verdict_facts = NULL
      FROM gone
     WHERE s.id = gone.id AND s.state = 'active'
    """,
)

FORGET_MINTED = sql(
    "sessions.forget_minted",
    """
    DELETE FROM session
     WHERE id = ANY (ARRAY(SELECT s.id
                             FROM session s
                            WHERE s.state = 'minted' AND s.minted_at < CAST(:now AS timestamptz) - INTERVAL '1 day'
                            LIMIT :most
                              FOR UPDATE SKIP LOCKED))
    """,
)

# Ended for a day and booked to the byte: out of the hot table, with its lines, from which it can be recounted.
ARCHIVE = sql(
    "sessions.archive",
    """
    WITH old AS MATERIALIZED (
        SELECT id
          FROM session
         WHERE state = 'ended' AND ended_at < CAST(:now AS timestamptz) - INTERVAL '1 day'
           AND used_down = rolled_down AND used_up = rolled_up
         ORDER BY id
         LIMIT :most
           FOR UPDATE SKIP LOCKED
    ),
    kept AS (
        INSERT INTO ended_session (id, ended_at, network_id, gateway_id, grant_id, mac, ip, device, minted_at,
                                   activated_at, end_reason, used_seconds, used_down, used_up, verdict_facts, lines)
        SELECT s.id, s.ended_at, s.network_id, s.gateway_id, s.grant_id, s.mac, s.ip, s.device, s.minted_at,
               s.activated_at, s.end_reason, s.used_seconds, s.used_down, s.used_up, s.verdict_facts,
               (SELECT COALESCE(jsonb_agg(jsonb_build_object('ip', l.ip, 'down', l.charged_down, 'up', l.charged_up)
                                          ORDER BY l.id), '[]')
                  FROM counter_line l
                 WHERE l.session_id = s.id)
          FROM old
          JOIN session s ON s.id = old.id
            ON CONFLICT DO NOTHING
    )
    DELETE FROM session s USING old WHERE s.id = old.id
    """,
)

VIEW_COLUMNS = """
    s.id, s.network_id, s.gateway_id, COALESCE(NULLIF(w.name, ''), w.gw_id), s.grant_id, s.state, s.mac, s.ip, s.device,
    s.language, s.minted_at, s.activated_at, s.reported_at, s.active_at, s.used_seconds, s.used_down, s.used_up,
    s.ended_at, s.end_reason, s.verdict, s.verdict_at, s.verdict_facts
"""

VIEW = sql(
    "sessions.view",
    f"""
    SELECT {VIEW_COLUMNS}
      FROM session s
      JOIN gateway w ON w.id = s.gateway_id
     WHERE s.token_hash = :token_hash
    """,
)

VIEW_BY_ID = sql(
    "sessions.view_by_id",
    f"""
    SELECT {VIEW_COLUMNS}
      FROM session s
      JOIN gateway w ON w.id = s.gateway_id
     WHERE s.id = :session_id AND s.network_id = :network_id
    """,
)

SHARING = sql(
    "sessions.sharing",
    f"""
    SELECT {VIEW_COLUMNS}
      FROM session s
      JOIN gateway w ON w.id = s.gateway_id
     WHERE s.grant_id = :grant_id AND s.state = 'active'
     ORDER BY s.activated_at, s.id
    """,
)


def open(  # noqa: A001 - the word for it
    db: Connection,
    keyring: Keyring,
    *,
    network_id: int,
    gateway_id: int,
    grant: Grant,
    mac: str | None,
    device: str,
    language: str,
    terms_version: int | None,
    now: datetime,
) -> str:
    """Mint a token for one gateway and station. Spends nothing: the gateway must show it first.

    A token minted without a MAC binds to the first one its gateway reports. `terms_version` records what was accepted.
    Raises Refused when it would be refused at the gateway anyway, so that the guest hears it here, in words.
    """
    over = grant.exhausted(now)
    if over is not None:
        raise Refused(over, grant)
    if mac is not None:
        blocked = db.execute(BLOCKED_UNTIL, {"network_id": network_id, "mac": mac, "now": now}).scalar()
        if blocked is not None:
            raise Refused(Reason.BLOCKED, None, until=blocked)
    if grant.devices is not None:
        others = db.execute(OTHERS, {"grant_id": grant.id, "mac": mac}).scalar_one()
        if others >= grant.devices:
            raise Refused(Reason.DEVICES_FULL, grant)
    token = keyring.mint_token()
    session_id = db.execute(
        MINT,
        {
            "token_hash": keyring.token_hash(token),
            "network_id": network_id,
            "gateway_id": gateway_id,
            "grant_id": grant.id,
            "mac": mac,
            "device": device,
            "language": language,
            "now": now,
        },
    ).scalar_one()
    if terms_version is not None:
        db.execute(
            ACCEPT_TERMS,
            {
                "network_id": network_id,
                "session_id": session_id,
                "mac": mac,
                "version": terms_version,
                "language": language,
                "now": now,
            },
        )
    return token


def end(
    db: Connection,
    session_id: int,
    grant_id: int,
    reason: Reason,
    now: datetime,
    *,
    block: timedelta | None = None,
) -> bool:
    """End a session, with the figures of the moment; with `block` its station is refused for so long.

    The gateway hears of it at its next poll. False when the session had ended before.
    """
    grant = grants.load(db, grant_id, now)
    ended = db.execute(
        END,
        {
            "session_id": session_id,
            "reason": reason,
            "now": now,
            "figures": json.dumps(access.arithmetic(grant, now)),
        },
    ).rowcount
    if grant.exhausted(now) is reason and reason not in access.COME_BACK:
        db.execute(OVER, {"grant_id": grant_id, "reason": reason, "now": now})
    if block is not None:
        db.execute(BLOCK, {"session_id": session_id, "now": now, "until": now + block})
    return ended > 0


def end_silent(db: Connection, now: datetime, since: datetime, most: int = 500) -> int:
    """End sessions that their gateways have not mentioned for three intervals and a minute, so many at most. How many.

    `since` is from when on reports have been heard without a gap: nobody is silent by what we were not there to hear.
    One that is being reported at this moment is not silent either, and is left alone.
    """
    silence = {"intervals": access.SILENT_INTERVALS, "grace": access.SILENT_GRACE}
    return db.execute(END_SILENT, {"now": now, "since": since, "most": most} | silence).rowcount


def forget_minted(db: Connection, now: datetime, most: int = 500) -> int:
    """Delete tokens that no gateway ever showed, a day after they were minted, at most so many. How many."""
    return db.execute(FORGET_MINTED, {"now": now, "most": most}).rowcount


def archive(db: Connection, now: datetime, most: int = 500) -> int:
    """Move sessions that ended more than a day ago out of the hot table, at most so many. How many."""
    return db.execute(ARCHIVE, {"now": now, "most": most}).rowcount


def of_token(db: Connection, keyring: Keyring, token: str) -> Session | None:
    """The session of a genuine token, or None."""
    if not keyring.genuine(token):
        return None
    row = db.execute(VIEW, {"token_hash": keyring.token_hash(token)}).first()
    return None if row is None else Session._make(row)


def load(db: Connection, network_id: int, session_id: int) -> Session | None:
    """A session of this network, or None."""
    row = db.execute(VIEW_BY_ID, {"session_id": session_id, "network_id": network_id}).first()
    return None if row is None else Session._make(row)


def sharing(db: Connection, grant_id: int) -> list[Session]:
    """The sessions that use a grant right now, the longest online first."""
    return [Session._make(row) for row in db.execute(SHARING, {"grant_id": grant_id})]


class Sessions:
    """Answers gateways: the one that holds the ledger, and what is remembered of tokens without a row."""

    def __init__(self, store: Store, ledger: Ledger, keyring: Keyring, restored_at: datetime | None = None) -> None:
        self._store = store
        self._ledger = ledger
        self._keyring = keyring
        self._restored_at = restored_at
        self._unknown: dict[str, datetime] = {}

    def answer(self, gateway: GatewayFacts, report: Report) -> Verdict:
        """The verdict on one report of a gateway of ours. Never raises for want of a database: that is no opinion."""
        verdict = self._answer(gateway, report)
        if report.stage == access.LOGOUT and verdict.answer is not Answer.DENY:
            # Also where we know nothing: apfree repeats its logout until it hears 0.
            return Verdict(Answer.DENY, Reason.LOGOUT)
        return verdict

    def _answer(self, gateway: GatewayFacts, report: Report) -> Verdict:
        if not report.mac:
            # Without a MAC nothing can be said about anybody, neither good nor bad.
            return access.UNAVAILABLE
        entry = self._entry(gateway, report)
        genuine = self._genuine(report, entry)
        if report.stage == access.LOGIN:
            return self._log_in(gateway, report, entry) if genuine else access.FORGED
        if genuine:
            return self._judge(gateway, report, entry, self._ledger.enter(entry))
        if self._ledger.owner(entry) is None:
            return access.FORGED
        return self._forged(gateway, report, entry, self._ledger.enter(entry))

    def answer_all(self, gateway: GatewayFacts, reports: Sequence[Report]) -> list[Verdict]:
        """The verdicts on many polls of one gateway, in order, written in one batch instead of one after the other.

        All of them are due together: whose verdict cannot be carried out by then hears no opinion, and is asked about
        again at the next call.
        """
        due = time.monotonic() + self._ledger.deadline_s + LAST_SECONDS
        waiting: list[tuple[Entry, Slot | None, bool]] = []
        for report in reports:
            entry = self._entry(gateway, report)
            genuine = self._genuine(report, entry)
            written = bool(report.mac) and (genuine or self._ledger.owner(entry) is not None)
            waiting.append((entry, self._ledger.enter(entry) if written else None, genuine))
        verdicts = []
        for report, (entry, slot, genuine) in zip(reports, waiting, strict=True):
            if slot is None:
                verdicts.append(access.FORGED if report.mac else access.UNAVAILABLE)
            elif genuine:
                verdicts.append(self._judge(gateway, report, entry, slot, due))
            else:
                verdicts.append(self._forged(gateway, report, entry, slot, due))
        return verdicts

    def _genuine(self, report: Report, entry: Entry) -> bool:
        """Whether we made the token. One that a commit has spoken of need not prove it again."""
        return self._ledger.knows(entry.token_hash) or self._keyring.genuine(report.token)

    def _judge(
        self, gateway: GatewayFacts, report: Report, entry: Entry, slot: Slot, due: float | None = None
    ) -> Verdict:
        """The verdict on a report that waits to be written; `due` as in `_carried_out`."""
        try:
            facts = self._ledger.written(slot)
        except Rejected:
            return access.UNAVAILABLE
        except (Late, Overloaded):
            return self._from_memory(gateway, report, entry)
        if facts is None:
            verdict = self._unknown_token(entry.token_hash, slot.at)
        else:
            verdict = access.decide(facts, report.stage, slot.at)
        if verdict is access.STAYS:
            return verdict
        try:
            return self._carried_out(gateway, report, entry, facts, verdict, slot, due)
        except Unavailable:
            return access.UNAVAILABLE

    def _forged(
        self, gateway: GatewayFacts, report: Report, entry: Entry, slot: Slot, due: float | None = None
    ) -> Verdict:
        """A token that we never made, on a list entry whose owner is online by memory; any other costs no database.

        The gateway has put it there, and drops the entry with our 0: what the entry carried is charged to the session
        that owns it, and its next life starts at 0.
        """
        try:
            self._ledger.written(slot)
            return self._carried_out(gateway, report, entry, None, access.FORGED, slot, due)
        except (Late, Overloaded, Rejected, Unavailable):
            log.warning("a list entry was dropped while the database was away", extra={"gateway": entry.gateway_id})
            return access.FORGED

    def _carried_out(
        self,
        gateway: GatewayFacts,
        report: Report,
        entry: Entry,
        facts: Facts | None,
        verdict: Verdict,
        slot: Slot,
        due: float | None,
    ) -> Verdict:
        """The verdict, once what it needs is committed. Raises Unavailable, also when the answer is `due` before.

        `due` is in monotonic seconds: what a call about many guests has in common. One about a single guest is due
        within the ledger's deadline, and has `LAST_SECONDS` when its report was committed at the last moment.
        """
        now = time.monotonic()
        left = due - now if due is not None else max(slot.came + self._ledger.deadline_s - now, LAST_SECONDS)
        if left <= 0:
            raise Unavailable("the answer is due")
        with deadline(left):
            if verdict.effect is Effect.ACTIVATE:
                verdict = self._activate(gateway, report, bytes.fromhex(entry.token_hash))
            elif verdict.effect is Effect.END and facts is not None:
                self._end(facts, verdict.reason, entry, slot.at)
            if verdict.answer is Answer.DENY and report.stage == access.COUNTERS:
                self._close_line(entry)
        return verdict

    def _entry(self, gateway: GatewayFacts, report: Report) -> Entry:
        down, up = report.incoming, report.outgoing
        if gateway.swapped:
            down, up = up, down
        return Entry(
            self._keyring.token_name(report.token),
            gateway.id,
            report.mac,
            report.ip,
            down,
            up,
            report.stage == access.LOGOUT,
            gateway.dialect == "apfree",
            gateway.interval_seconds,
            gateway.link_bytes_per_second,
        )

    def _log_in(self, gateway: GatewayFacts, report: Report, entry: Entry) -> Verdict:
        """stage=login. Its counters are ignored: the gateway sends zeros, whatever the list entry stands at.

        Waits for the database until the answer is due, unless it is known to be away.
        """
        if self._ledger.broken:
            return self._from_memory(gateway, report, entry)
        token_hash = bytes.fromhex(entry.token_hash)
        try:
            with deadline(self._ledger.deadline_s):
                if entry.repeats:
                    since = self._store.clock.now() - access.TOKEN_LIFE
                    with self._store.read("polls", caller="login") as db:
                        fresh = db.execute(
                            FRESH_SIGN_IN,
                            {"gateway_id": gateway.id, "mac": report.mac, "since": since, "token_hash": token_hash},
                        ).scalar()
                    token_hash = fresh or token_hash
                return self._activate(gateway, report, token_hash)
        except Unavailable:
            return self._from_memory(gateway, report, entry)

    def _activate(self, gateway: GatewayFacts, report: Report, token_hash: bytes) -> Verdict:
        """Let a station in by a token, if the facts, read under the locks, still say so."""
        polled = report.stage == access.COUNTERS
        found = self._store.run(
            lambda db: activate(db, gateway, report.mac, report.ip, token_hash, polled=polled),
            "polls",
            caller="activate",
        )
        if found is None:
            return self._unknown_token(token_hash.hex(), self._store.clock.now())
        verdict, facts = found
        self._ledger.learn(token_hash.hex(), facts)
        if verdict.answer is Answer.ALLOW and verdict.effect is Effect.ACTIVATE:
            log.info("session began", extra={"session": facts.session_id, "grant": facts.grant_id})
        return verdict

    def _end(self, facts: Facts, reason: Reason, entry: Entry, now: datetime) -> None:
        """Commit an ending before the gateway is told."""
        with self._store.transaction("polls", caller="end") as db:
            end(db, facts.session_id, facts.grant_id, reason, now)
        self._ledger.learn(entry.token_hash, facts._replace(state="ended", end_reason=str(reason)))
        log.info("session cut off", extra={"session": facts.session_id, "reason": str(reason)})

    def _close_line(self, entry: Entry) -> None:
        """Our 0 to a poll makes the gateway drop the list entry, without a logout: the next one starts at 0.

        Should the answer be lost, the next poll of the same entry opens the line again.
        """
        with self._store.read("polls", caller="close") as db:
            db.execute(CLOSE_LINE, {"gateway_id": entry.gateway_id, "mac": entry.mac, "ip": entry.ip})

    def _from_memory(self, gateway: GatewayFacts, report: Report, entry: Entry) -> Verdict:
        """While the database does not answer: what its last commit said, as far as that can still be true."""
        facts = self._ledger.known(entry.token_hash)
        if facts is None:
            return access.UNAVAILABLE
        facts = facts._replace(
            own_gateway=facts.gateway_id == gateway.id,
            own_station=facts.mac is None or facts.mac == report.mac,
        )
        return access.remembered(facts, report.stage, self._store.clock.now())

    def _unknown_token(self, token_hash: str, now: datetime) -> Verdict:
        """A genuine token without a row: either it is long over, or the record of it is lost, which is our fault."""
        if self._restored_at is not None and now - self._restored_at < RESTORE_GRACE:
            return Verdict(Answer.NO_OPINION, Reason.UNKNOWN)
        first = self._unknown.setdefault(token_hash, now)
        if len(self._unknown) > 10_000:
            del self._unknown[next(iter(self._unknown))]
        if now - first < UNKNOWN_GRACE:
            log.error("a genuine token has no session", extra={"token": self._keyring.short(token_hash)})
            return Verdict(Answer.NO_OPINION, Reason.UNKNOWN)
        return Verdict(Answer.DENY, Reason.UNKNOWN)


def activate(
    db: Connection, gateway: GatewayFacts, mac: str, ip: str, token_hash: bytes, *, polled: bool = False
) -> tuple[Verdict, Facts] | None:
    """In one transaction: judge under the locks, supersede the station's old session, start the grant, take the line.

    None when no session has that token. A session that is active already is answered and left as it is. `polled`: the
    gateway merely goes on with its list, which may have got old while its line was down. Then a silent session gives
    way to a sign-in that its station has made at another gateway since.
    """
    row = db.execute(BY_TOKEN, {"token_hash": token_hash}).first()
    if row is None:
        return None
    session_id = row[0]
    entry = {"gateway_id": gateway.id, "mac": mac, "ip": ip}
    db.execute(LOCK, entry | {"token_hash": token_hash, "network_id": gateway.network_id})
    facts, now = _facts(db, session_id, gateway.id, mac)
    db.execute(LOCK_GRANT, {"grant_id": facts.grant_id})
    facts, now = _facts(db, session_id, gateway.id, mac)
    verdict = access.decide(facts, access.LOGIN, now)
    if verdict.effect is Effect.END:
        end(db, session_id, facts.grant_id, verdict.reason, now)
        return verdict, facts._replace(state="ended", end_reason=str(verdict.reason))
    if verdict.effect is not Effect.ACTIVATE:
        if verdict is access.STAYS and not polled:
            # It has been online at another address so far, or comes back to one that it had left.
            if db.execute(ELSEWHERE, entry | {"session_id": session_id}).scalar_one():
                _take_line(db, gateway, session_id, mac, ip, now)
        return verdict, facts
    if polled and facts.state == "ended":
        here = {"network_id": facts.network_id, "gateway_id": gateway.id, "mac": mac, "session_id": session_id}
        if db.execute(OVERTAKEN, here).scalar_one():
            return Verdict(Answer.DENY, Reason.SUPERSEDED), facts
    if facts.devices is not None:
        others = db.execute(OTHERS, {"grant_id": facts.grant_id, "mac": mac}).scalar_one()
        if others >= facts.devices:
            return Verdict(Answer.DENY, Reason.DEVICES_FULL), facts
    db.execute(SUPERSEDE, {"network_id": facts.network_id, "mac": mac, "session_id": session_id, "now": now})
    db.execute(START_GRANT, {"grant_id": facts.grant_id, "now": now})
    grant = grants.load(db, facts.grant_id, now)
    db.execute(
        ACTIVATE,
        {
            "session_id": session_id,
            "mac": mac,
            "ip": ip,
            "now": now,
            "figures": json.dumps(access.arithmetic(grant, now)),
        },
    )
    _take_line(db, gateway, session_id, mac, ip, now)
    db.execute(SEEN_STATION, {"network_id": facts.network_id, "mac": mac, "now": now})
    facts, now = _facts(db, session_id, gateway.id, mac)
    return verdict, facts


def _facts(db: Connection, session_id: int, gateway_id: int, mac: str) -> tuple[Facts, datetime]:
    row = db.execute(FACTS, {"session_id": session_id, "gateway_id": gateway_id, "mac": mac}).one()
    return Facts._make(row[1:]), row[0]


def _take_line(db: Connection, gateway: GatewayFacts, session_id: int, mac: str, ip: str, now: datetime) -> None:
    entry = {"gateway_id": gateway.id, "mac": mac, "ip": ip}
    last = db.execute(RELEASE_LINE, entry | {"silence": access.silence(gateway.interval_seconds)}).first()
    stands = {"down": 0, "up": 0, "held_down": None, "held_up": None, "at": now}
    if last is not None and not last.fresh:
        stands = {name: getattr(last, name) for name in stands}
    db.execute(TAKE_LINE, entry | stands | {"session_id": session_id})
