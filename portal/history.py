"""Read-only questions: who is online, what was used when, what became of codes, what a network still lacks.

Promises: never writes, never locks; every answer is about one network, named in the statement itself; a page asks at
most a handful of these, each of them bounded by an index and a limit. Bytes are bytes; hours begin on the UTC hour, so
where a time zone is half an hour off, a day begins with the hour that its midnight falls in.
Never judges: what is left of a grant, and whether a gateway is silent, is said by access and networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection

from portal import grants, vouchers
from portal.grants import Grant
from portal.store import sql

PAGE = 50


class Figures(NamedTuple):
    """A network's day: who is online, who came, what they moved since midnight."""

    online: int
    came_lately: int
    signed_in: dict[str, int]  # by kind of grant: voucher, account, click
    down: int
    up: int


class Hour(NamedTuple):
    """What a network's guests moved in the hour that begins `at`."""

    at: datetime
    down: int
    up: int


class Row(NamedTuple):
    """A session in a list, with the grant it uses."""

    id: int
    gateway_id: int
    gateway: str
    mac: str | None
    ip: str | None
    device: str
    state: str
    minted_at: datetime
    activated_at: datetime | None
    reported_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    used_down: int
    used_up: int
    username: str | None
    code_sealed: bytes | None
    unheard: bool
    grant: Grant


class Past(NamedTuple):
    """A session as it is shown by itself, also when it is long over."""

    id: int
    gateway_id: int
    gateway: str
    grant_id: int
    state: str
    mac: str | None
    ip: str | None
    device: str
    minted_at: datetime
    activated_at: datetime | None
    reported_at: datetime | None
    used_seconds: float
    used_down: int
    used_up: int
    ended_at: datetime | None
    end_reason: str | None
    verdict: str | None
    verdict_at: datetime | None
    verdict_facts: dict[str, Any] | None
    username: str | None
    guest_id: int | None
    code_sealed: bytes | None
    batch_id: int | None
    batch: str | None
    terms_version: int | None
    terms_at: datetime | None
    kept_lines: list[dict[str, Any]] | None


class Line(NamedTuple):
    """A counter line: what one list entry of a gateway had counted, and what of it was charged to the session."""

    mac: str
    ip: str
    current: bool
    closed: int
    down: int
    up: int
    charged_down: int
    charged_up: int
    at: datetime | None


class Pace(NamedTuple):
    """How a batch of codes is going: devices online with its codes, and codes first used within the last week."""

    devices: int
    first_used: int


class Code(NamedTuple):
    """A code of a batch, its state in the words of vouchers.STATE, and its grant."""

    id: int
    code_sealed: bytes
    state: str
    devices: int
    revoked_at: datetime | None
    grant: Grant


class Account(NamedTuple):
    """A guest's account and its grant."""

    id: int
    username: str
    name: str
    blocked_at: datetime | None
    seen_at: datetime | None
    devices: int
    grant: Grant


class Setup(NamedTuple):
    """How far a network has come on its way to the first guest."""

    plans: int
    gateways: int
    gateways_heard: int
    codes: int
    click: bool
    guests: int


ONLINE = sql(
    "history.online",
    "SELECT count(*) FROM session WHERE network_id = :network_id AND state = 'active'",
)

SIGNED_IN = sql(
    "history.signed_in",
    """
    SELECT g.kind,
           count(*) FILTER (WHERE s.activated_at >= :midnight),
           count(*) FILTER (WHERE s.activated_at >= :lately)
      FROM (SELECT grant_id, activated_at
              FROM session
             WHERE network_id = :network_id
               AND minted_at >= CAST(:since AS timestamptz) - INTERVAL '1 day' AND activated_at >= :since
             UNION ALL
            SELECT grant_id, activated_at
              FROM ended_session
             WHERE network_id = :network_id AND ended_at >= :since AND activated_at >= :since) AS s
      JOIN "grant" g ON g.id = s.grant_id
     GROUP BY g.kind
    """,
)

# What stands in usage_hour, and what live sessions have used beyond that, which belongs to their last report's hour.
USAGE = sql(
    "history.usage",
    """
    SELECT hour, CAST(SUM(down) AS bigint), CAST(SUM(up) AS bigint)
      FROM (SELECT hour, down, up
              FROM usage_hour
             WHERE network_id = :network_id AND hour >= :since AND hour < :until
             UNION ALL
            SELECT date_trunc('hour', reported_at, 'UTC'), used_down - rolled_down, used_up - rolled_up
              FROM session
             WHERE network_id = :network_id AND reported_at >= :since AND reported_at < :until
               AND (used_down > rolled_down OR used_up > rolled_up)) AS u
     GROUP BY hour
     ORDER BY hour
    """,
)

_ROW = f"""
    SELECT s.id, s.gateway_id, COALESCE(NULLIF(w.name, ''), w.gw_id, ''), s.mac, s.ip, s.device, s.state, s.minted_at,
           s.activated_at, s.reported_at, s.ended_at, s.end_reason, s.used_down, s.used_up, a.username, v.code_sealed,
           COALESCE(s.state = 'active' AND s.reported_at + 2 * w.interval_seconds * INTERVAL '1 second' < :now, false),
           {grants.COLUMNS}
"""
_ROW_JOINS = f"""
      LEFT JOIN gateway w ON w.id = s.gateway_id
      JOIN "grant" g ON g.id = s.grant_id
      {grants.PERIOD_JOIN}
      LEFT JOIN voucher v ON v.grant_id = g.id
      LEFT JOIN guest a ON a.grant_id = g.id
"""
# strpos rather than LIKE: what is looked for may hold any sign, and stands for itself.
_MATCHES = """
       AND (:text = '' OR s.grant_id = ANY (CAST(:grant_ids AS bigint[]))
            OR strpos(s.ip, :text) = 1 OR strpos(lower(a.username), :text) > 0
            OR strpos(lower(w.gw_id), :text) > 0 OR strpos(lower(w.name), :text) > 0
            OR (:mac <> '' AND strpos(replace(s.mac, ':', ''), :mac) > 0))
"""

LIVE = sql(
    "history.live",
    f"""
    {_ROW}
      FROM session s
      {_ROW_JOINS}
     WHERE s.network_id = :network_id AND s.state = :state AND s.minted_at >= :since
       AND (CAST(:before AS bigint) IS NULL OR s.id < :before)
       {_MATCHES}
     ORDER BY s.id DESC
     LIMIT :limit
    """,
)

_ENDED_COLUMNS = """
    id, network_id, gateway_id, grant_id, mac, ip, device, minted_at, activated_at, ended_at, end_reason,
    used_down, used_up
"""
# The latest of the last day stand in `session`, those before in `ended_session`. Each half stops after a page by
# itself: sorted together first, a million of them took three seconds.
ENDED = sql(
    "history.ended",
    f"""
    {_ROW}
      FROM (SELECT * FROM (SELECT {_ENDED_COLUMNS}, state, reported_at
                             FROM session
                            WHERE network_id = :network_id AND state = 'ended'
                              AND ended_at >= :since AND (ended_at, id) < (:before, :before_id)
                            ORDER BY ended_at DESC, id DESC
                            LIMIT :limit) AS today
             UNION ALL
            SELECT * FROM (SELECT {_ENDED_COLUMNS}, 'ended', CAST(NULL AS timestamptz)
                             FROM ended_session
                            WHERE network_id = :network_id
                              AND ended_at >= :since AND (ended_at, id) < (:before, :before_id)
                            ORDER BY ended_at DESC, id DESC
                            LIMIT :limit) AS earlier) AS s
      {_ROW_JOINS}
     ORDER BY s.ended_at DESC, s.id DESC
     LIMIT :limit
    """,
)

ENDED_MATCHING = sql(
    "history.ended_matching",
    f"""
    {_ROW}
      FROM (SELECT {_ENDED_COLUMNS}, state, reported_at
              FROM session
             WHERE network_id = :network_id AND state = 'ended'
               AND ended_at >= :since AND (ended_at, id) < (:before, :before_id)
             UNION ALL
            SELECT {_ENDED_COLUMNS}, 'ended', NULL
              FROM ended_session
             WHERE network_id = :network_id
               AND ended_at >= :since AND (ended_at, id) < (:before, :before_id)) AS s
      {_ROW_JOINS}
     WHERE s.network_id = :network_id
       {_MATCHES}
     ORDER BY s.ended_at DESC, s.id DESC
     LIMIT :limit
    """,
)

_PAST_WHO = """
           a.username, a.id, v.code_sealed, v.batch_id, COALESCE(NULLIF(b.label, ''), 'Batch ' || b.id),
           t.version, t.at
"""
_PAST_JOINS = """
      LEFT JOIN gateway w ON w.id = s.gateway_id
      LEFT JOIN voucher v ON v.grant_id = s.grant_id
      LEFT JOIN voucher_batch b ON b.id = v.batch_id
      LEFT JOIN guest a ON a.grant_id = s.grant_id
      LEFT JOIN LATERAL (SELECT version, at
                           FROM terms_acceptance
                          WHERE network_id = s.network_id AND session_id = s.id
                            AND at BETWEEN s.minted_at - INTERVAL '1 hour' AND s.minted_at + INTERVAL '1 hour'
                          ORDER BY at DESC
                          LIMIT 1) AS t ON true
"""

SESSION = sql(
    "history.session",
    f"""
    SELECT s.id, s.gateway_id, COALESCE(NULLIF(w.name, ''), w.gw_id, ''), s.grant_id, s.state, s.mac, s.ip, s.device,
           s.minted_at, s.activated_at, s.reported_at, s.used_seconds, s.used_down, s.used_up, s.ended_at,
           s.end_reason, s.verdict, s.verdict_at, s.verdict_facts, {_PAST_WHO}, NULL
      FROM session s
      {_PAST_JOINS}
     WHERE s.network_id = :network_id AND s.id = :session_id
    """,
)

ENDED_SESSION = sql(
    "history.ended_session",
    f"""
    SELECT s.id, s.gateway_id, COALESCE(NULLIF(w.name, ''), w.gw_id, ''), s.grant_id, 'ended', s.mac, s.ip, s.device,
           s.minted_at, s.activated_at, NULL, s.used_seconds, s.used_down, s.used_up, s.ended_at,
           s.end_reason, s.end_reason, s.ended_at, s.verdict_facts, {_PAST_WHO}, s.lines
      FROM ended_session s
      {_PAST_JOINS}
     WHERE s.network_id = :network_id AND s.id = :session_id
    """,
)

LINES = sql(
    "history.lines",
    """
    SELECT l.mac, l.ip, l.current, l.closed, l.down, l.up, l.charged_down, l.charged_up, l.at
      FROM counter_line l
      JOIN session s ON s.id = l.session_id
     WHERE s.network_id = :network_id AND l.session_id = :session_id
     ORDER BY l.id
    """,
)

ONLINE_BY_GATEWAY = sql(
    "history.online_by_gateway",
    "SELECT gateway_id, count(*) FROM session WHERE network_id = :network_id AND state = 'active' GROUP BY gateway_id",
)

PACE = sql(
    "history.pace",
    """
    SELECT (SELECT count(*)
              FROM session s
              JOIN voucher v ON v.grant_id = s.grant_id
             WHERE s.network_id = :network_id AND s.state = 'active' AND v.batch_id = :batch_id),
           (SELECT count(*)
              FROM voucher v
              JOIN "grant" g ON g.id = v.grant_id
             WHERE v.network_id = :network_id AND v.batch_id = :batch_id AND g.started_at > :lately)
    """,
)

CODES = sql(
    "history.codes",
    f"""
    SELECT v.id, v.code_sealed, {vouchers.STATE},
           (SELECT count(*) FROM session s WHERE s.grant_id = g.id AND s.state = 'active'),
           COALESCE(v.revoked_at, g.revoked_at), {grants.COLUMNS}
      FROM voucher v
      JOIN "grant" g ON g.id = v.grant_id
      {grants.PERIOD_JOIN}
     WHERE v.network_id = :network_id AND v.batch_id = :batch_id AND v.id > :after
       AND (CAST(:state AS text) IS NULL OR {vouchers.STATE} = :state)
     ORDER BY v.id
     LIMIT :limit
    """,
)

ACCOUNTS = sql(
    "history.accounts",
    f"""
    SELECT a.id, a.username, a.name, a.blocked_at, a.seen_at,
           (SELECT count(*) FROM session s WHERE s.grant_id = g.id AND s.state = 'active'), {grants.COLUMNS}
      FROM guest a
      JOIN "grant" g ON g.id = a.grant_id
      {grants.PERIOD_JOIN}
     WHERE a.network_id = :network_id AND lower(a.username) > :after
       AND (:text = '' OR strpos(lower(a.username), :text) > 0 OR strpos(lower(a.name), :text) > 0)
     ORDER BY lower(a.username)
     LIMIT :limit
    """,
)

SETUP = sql(
    "history.setup",
    """
    SELECT (SELECT count(*) FROM plan WHERE network_id = n.id AND retired_at IS NULL),
           (SELECT count(*) FROM gateway WHERE network_id = n.id AND state = 'adopted'),
           (SELECT count(*) FROM gateway w JOIN heartbeat h ON h.gateway_id = w.id
             WHERE w.network_id = n.id AND w.state = 'adopted'),
           (SELECT count(*) FROM voucher_batch WHERE network_id = n.id)
           + (SELECT count(*) FROM guest WHERE network_id = n.id),
           n.click_plan_id IS NOT NULL,
           CAST(EXISTS (SELECT 1 FROM station WHERE network_id = n.id) AS integer)
      FROM network n
     WHERE n.id = :network_id
    """,
)


def figures(db: Connection, network_id: int, midnight: datetime, now: datetime) -> Figures:
    """A network's day so far; `midnight` is when it began there."""
    lately = now - timedelta(hours=1)
    online = db.execute(ONLINE, {"network_id": network_id}).scalar_one()
    signed_in = db.execute(
        SIGNED_IN,
        {"network_id": network_id, "midnight": midnight, "lately": lately, "since": min(midnight, lately)},
    ).all()
    moved = usage(db, network_id, midnight, now + timedelta(hours=1))
    return Figures(
        online=online,
        came_lately=sum(row[2] for row in signed_in),
        signed_in={row[0]: row[1] for row in signed_in if row[1]},
        down=sum(hour.down for hour in moved),
        up=sum(hour.up for hour in moved),
    )


def online(db: Connection, network_id: int) -> int:
    """How many stations are online in a network."""
    count: int = db.execute(ONLINE, {"network_id": network_id}).scalar_one()
    return count


def usage(db: Connection, network_id: int, since: datetime, until: datetime) -> list[Hour]:
    """The hours in which anything was moved, oldest first, from the one that `since` falls in, up to `until`."""
    whole = since.replace(minute=0, second=0, microsecond=0)
    rows = db.execute(USAGE, {"network_id": network_id, "since": whole, "until": until})
    return [Hour._make(row) for row in rows]


def live(
    db: Connection,
    network_id: int,
    now: datetime,
    *,
    minted: bool = False,
    text: str = "",
    grant_ids: Sequence[int] = (),
    since: datetime | None = None,
    before: int | None = None,
    limit: int = PAGE,
) -> list[Row]:
    """Who is online, the latest first; with `minted`, who has signed in but was not shown by the gateway yet.

    `text` is looked for in gateways, user names, addresses and MACs; `grant_ids` are found besides. `before` is the id
    of the last row of the page before.
    """
    rows = db.execute(
        LIVE,
        {
            "network_id": network_id,
            "state": "minted" if minted else "active",
            "since": since or datetime(1970, 1, 1, tzinfo=UTC),
            "before": before,
            "limit": limit,
            "now": now,
            **_sought(text, grant_ids),
        },
    )
    return [_row(row) for row in rows]


def ended(
    db: Connection,
    network_id: int,
    now: datetime,
    *,
    since: datetime,
    text: str = "",
    grant_ids: Sequence[int] = (),
    before: tuple[datetime, int] | None = None,
    limit: int = PAGE,
) -> list[Row]:
    """Sessions that ended after `since`, the latest first; `before` is the last of the page before: its end and its id.

    Many end at the same moment, when a gateway falls silent, so the moment alone would leave some out.
    """
    moment, session_id = before or (now + timedelta(minutes=1), 0)
    asked = {
        "network_id": network_id,
        "since": since,
        "before": moment,
        "before_id": session_id,
        "limit": limit,
        "now": now,
    }
    if text.strip():
        rows = db.execute(ENDED_MATCHING, {**asked, **_sought(text, grant_ids)})
    else:
        rows = db.execute(ENDED, asked)
    return [_row(row) for row in rows]


def session(db: Connection, network_id: int, session_id: int) -> Past | None:
    """A session of this network, live or long over; None where it has none of that id."""
    asked = {"network_id": network_id, "session_id": session_id}
    row = db.execute(SESSION, asked).first() or db.execute(ENDED_SESSION, asked).first()
    return None if row is None else Past._make(row)


def lines(db: Connection, network_id: int, past: Past) -> list[Line]:
    """A session's counter lines, from which its total can be recounted."""
    if past.kept_lines is not None:
        return [
            Line(
                mac=str(kept.get("mac") or ""),
                ip=str(kept.get("ip") or ""),
                current=False,
                closed=int(kept.get("closed") or 0),
                down=int(kept.get("down") or 0),
                up=int(kept.get("up") or 0),
                charged_down=int(kept.get("charged_down") or 0),
                charged_up=int(kept.get("charged_up") or 0),
                at=datetime.fromisoformat(kept["at"]) if kept.get("at") else None,
            )
            for kept in past.kept_lines
        ]
    rows = db.execute(LINES, {"network_id": network_id, "session_id": past.id})
    return [Line._make(row) for row in rows]


def online_by_gateway(db: Connection, network_id: int) -> dict[int, int]:
    """How many stations are online at each gateway of a network that has any."""
    return {row[0]: row[1] for row in db.execute(ONLINE_BY_GATEWAY, {"network_id": network_id})}


def pace(db: Connection, network_id: int, batch_id: int, now: datetime) -> Pace:
    """How a batch of this network is going."""
    asked = {"network_id": network_id, "batch_id": batch_id, "lately": now - timedelta(days=7)}
    return Pace._make(db.execute(PACE, asked).one())


def codes(
    db: Connection,
    network_id: int,
    batch_id: int,
    now: datetime,
    *,
    state: str | None = None,
    after: int = 0,
    limit: int = PAGE,
) -> list[Code]:
    """Codes of a batch in the order they were issued; `state` as vouchers.STATE has them."""
    rows = db.execute(
        CODES,
        {"network_id": network_id, "batch_id": batch_id, "now": now, "state": state, "after": after, "limit": limit},
    )
    return [Code._make((*row[:5], Grant._make(row[5:]))) for row in rows]


def accounts(
    db: Connection, network_id: int, now: datetime, *, text: str = "", after: str = "", limit: int = PAGE
) -> list[Account]:
    """Guests' accounts by user name; `text` is looked for in user names and names."""
    rows = db.execute(
        ACCOUNTS, {"network_id": network_id, "now": now, "text": text.lower(), "after": after, "limit": limit}
    )
    return [Account._make((*row[:6], Grant._make(row[6:]))) for row in rows]


def setup(db: Connection, network_id: int) -> Setup:
    """What a network has of all that a first guest needs. `guests` is 1 once somebody was online, else 0."""
    return Setup._make(db.execute(SETUP, {"network_id": network_id}).one())


def _row(row: Sequence[Any]) -> Row:
    return Row._make((*row[:17], Grant._make(row[17:])))


def _sought(text: str, grant_ids: Sequence[int]) -> dict[str, Any]:
    """What a search is made of. A MAC is looked for by its digits, from four on, in whatever spelling."""
    typed = text.strip().lower()
    digits = "".join(sign for sign in typed if sign not in ":-. ")
    is_mac = len(digits) >= 4 and all(sign in "0123456789abcdef" for sign in digits)
    return {"text": typed, "mac": digits if is_mac else "", "grant_ids": list(grant_ids)}
