"""Operators: the people who run networks, how they get in, what they may do, and the record of what they did.

Promises: there is no first password; whoever starts an empty installation gets a link that makes its first operator,
once. A wrong e-mail address, a wrong password and a stopped account look alike, and cost the same time. Tries are
counted before a password is looked at, so that no number of racers gets more than the budget, but only those found
wrong delay the next; an attacker cannot shut an operator out of a browser that he has signed in with before. A change
and the record of it stand or fall together: `audit` writes in the caller's transaction. Secrets of links and browsers
are stored as hashes.

Never hashes a password itself: callers hand in hashes, `verify` and `renew`, which work away from the event loop, and
no transaction is open meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import secrets
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection

from portal import fields, throttle
from portal.fields import Invalid
from portal.offload import Busy
from portal.store import Store, Unavailable, sql
from portal.throttle import Bucket, Budget

log = logging.getLogger(__name__)

SETUP_LIFE: Final = timedelta(hours=24)
INVITATION_LIFE: Final = timedelta(days=7)
SESSION_LIFE: Final = timedelta(days=7)
SESSION_IDLE: Final = timedelta(hours=12)
# Every page marks its browser as seen, but not every page needs a write.
_SEEN_EVERY: Final = timedelta(minutes=5)
SHORTEST_PASSWORD: Final = 15  # NIST SP 800-63B-4, where nothing but the password is asked for
LONGEST_PASSWORD: Final = 256

TRIES: Final = Budget(burst=10, per_minute=10 / 15)
TRIES_IN_A_ROW: Final = Budget(burst=100, per_minute=0.0)
# After three wrong passwords the next one is looked at after 1 second, then 2, 4, 8, … What is being looked at does not
# count yet: the same person may have two windows open.
_FREE_TRIES: Final = 3
# Buckets for addresses that nobody has are shared, so that inventing them fills no table.
_STRANGERS: Final = 1024


class Role(StrEnum):
    """What an operator is in a network: the weaker's rights are the stronger's too."""

    DESK = "desk"
    MANAGER = "manager"
    OWNER = "owner"

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        return _STRENGTH[self] >= _STRENGTH[needed]


_STRENGTH: Final = {Role.DESK: 0, Role.MANAGER: 1, Role.OWNER: 2}


@dataclass(frozen=True, slots=True)
class Membership:
    """A role in a network; `network_id` None is every network, also those to come."""

    network_id: int | None
    role: Role


@dataclass(frozen=True, slots=True)
class Operator:
    """A person who runs networks."""

    id: int
    email: str
    name: str
    created_at: datetime
    disabled_at: datetime | None
    invited: bool  # has no password yet
    memberships: tuple[Membership, ...]

    def role_in(self, network_id: int) -> Role | None:
        """The strongest role in a network; None for a stranger there."""
        held = [each.role for each in self.memberships if each.network_id in (None, network_id)]
        return max(held, key=lambda role: _STRENGTH[role], default=None)

    def may(self, needed: Role, network_id: int) -> bool:
        """Whether what `needed` may do in a network is allowed."""
        role = self.role_in(network_id)
        return role is not None and role.covers(needed)

    def everywhere(self, needed: Role) -> bool:
        """Whether what `needed` may do is allowed in every network, also those to come."""
        return any(each.network_id is None and each.role.covers(needed) for each in self.memberships)

    def networks(self) -> Collection[int] | None:
        """The numbers of the networks he runs; None for all of them."""
        if any(each.network_id is None for each in self.memberships):
            return None
        return {each.network_id for each in self.memberships if each.network_id is not None}


@dataclass(frozen=True, slots=True)
class Invitation:
    """A link that still works. `operator_id` is None for the one that makes the first operator."""

    id: int
    purpose: str
    operator_id: int | None
    email: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    """An operator's browser that shows the secret it was given."""

    session_id: int
    operator: Operator


@dataclass(frozen=True, slots=True)
class Browser:
    """A signed-in browser, as its operator sees it on his list."""

    id: int
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    address: str
    agent: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the record."""

    id: int
    at: datetime
    actor: str
    operator_id: int | None
    network_id: int | None
    action: str
    subject: str
    detail: Mapping[str, Any]


class SignInRefused(Exception):
    """Not signed in. `retry_seconds` is 0 when the address or the password was wrong, and else how long to wait.

    None means that waiting will not help: a hundred wrong passwords in a row need a new link.
    """

    def __init__(self, retry_seconds: int | None = 0) -> None:
        super().__init__("sign-in refused")
        self.retry_seconds = retry_seconds


_OPERATOR = """
    o.id, o.email, o.name, o.created_at, o.disabled_at, o.password_hash IS NULL AS invited,
    COALESCE((SELECT jsonb_agg(jsonb_build_array(m.network_id, m.role) ORDER BY m.network_id NULLS FIRST)
                FROM membership m WHERE m.operator_id = o.id), '[]') AS memberships
"""

EXISTS = sql("operators.exists", "SELECT EXISTS (SELECT FROM operator)")

LOCK_SETUP = sql("operators.lock_setup", "SELECT pg_advisory_xact_lock(hashtextextended('operator setup', 0))")

VOID_SETUPS = sql(
    "operators.void_setups", "UPDATE invitation SET used_at = :now WHERE purpose = 'setup' AND used_at IS NULL"
)

VOID_LINKS = sql(
    "operators.void_links",
    "UPDATE invitation SET used_at = :now WHERE operator_id = :operator_id AND used_at IS NULL",
)

ADD_INVITATION = sql(
    "operators.add_invitation",
    """
    INSERT INTO invitation (token_hash, purpose, operator_id, created_at, expires_at)
    VALUES (:token_hash, :purpose, :operator_id, :now, :expires_at)
    """,
)

INVITATION = sql(
    "operators.invitation",
    """
    SELECT i.id, i.purpose, i.operator_id, COALESCE(o.email, '') AS email, i.expires_at
      FROM invitation i
      LEFT JOIN operator o ON o.id = i.operator_id
     WHERE i.token_hash = :token_hash AND i.used_at IS NULL AND i.expires_at > :now
       AND (o.id IS NULL OR o.disabled_at IS NULL)
    """,
)

USE_INVITATION = sql(
    "operators.use_invitation",
    """
    UPDATE invitation
       SET used_at = :now
     WHERE token_hash = :token_hash AND purpose = :purpose AND used_at IS NULL AND expires_at > :now
    RETURNING operator_id
    """,
)

ADD = sql(
    "operators.add",
    """
    INSERT INTO operator (email, name, password_hash, created_at)
    VALUES (:email, :name, :password_hash, :now)
    ON CONFLICT (lower(email)) DO NOTHING
    RETURNING id
    """,
)

GET = sql("operators.get", f"SELECT {_OPERATOR} FROM operator o WHERE o.id = :operator_id")

BY_EMAIL = sql("operators.by_email", f"SELECT {_OPERATOR} FROM operator o WHERE lower(o.email) = lower(:email)")

LISTED = sql(
    "operators.listed",
    f"""
    SELECT {_OPERATOR}
      FROM operator o
     WHERE CAST(:network_id AS bigint) IS NULL
        OR EXISTS (SELECT FROM membership m
                    WHERE m.operator_id = o.id AND (m.network_id IS NULL OR m.network_id = :network_id))
     ORDER BY lower(o.email)
    """,
)

SET_ROLE = sql(
    "operators.set_role",
    """
    INSERT INTO membership (operator_id, network_id, role)
    VALUES (:operator_id, :network_id, :role)
    ON CONFLICT (operator_id, network_id) DO UPDATE SET role = EXCLUDED.role
    """,
)

DROP_ROLE = sql(
    "operators.drop_role",
    """
    DELETE FROM membership
     WHERE operator_id = :operator_id AND network_id IS NOT DISTINCT FROM CAST(:network_id AS bigint)
    """,
)

LOCK_HEADS = sql("operators.lock_heads", "SELECT pg_advisory_xact_lock(hashtextextended('operator heads', 0))")

HEADS = sql(
    "operators.heads",
    """
    SELECT count(*)
      FROM operator o
      JOIN membership m ON m.operator_id = o.id AND m.network_id IS NULL AND m.role = 'owner'
     WHERE o.disabled_at IS NULL
    """,
)

SET_PASSWORD = sql(
    "operators.set_password", "UPDATE operator SET password_hash = :password_hash WHERE id = :operator_id"
)

# The password may have been changed while the old one was hashed anew.
RENEW_PASSWORD = sql(
    "operators.renew_password",
    "UPDATE operator SET password_hash = :renewed WHERE id = :operator_id AND password_hash = :stored",
)

DISABLE = sql(
    "operators.disable",
    """
    UPDATE operator SET disabled_at = CASE WHEN :disabled THEN COALESCE(disabled_at, :now) END WHERE id = :operator_id
    """,
)

CREDENTIALS = sql(
    "operators.credentials",
    "SELECT id, password_hash FROM operator WHERE lower(email) = lower(:email) AND disabled_at IS NULL",
)

PASSWORD = sql(
    "operators.password", "SELECT password_hash FROM operator WHERE id = :operator_id AND disabled_at IS NULL"
)

# The password may have been changed, or the account stopped, while the old one was being verified.
START_SESSION = sql(
    "operators.start_session",
    """
    INSERT INTO browser_session (operator_id, secret_hash, created_at, seen_at, expires_at, address, agent)
    SELECT o.id, :secret_hash, :now, :now, :expires_at, :address, :agent
      FROM operator o
     WHERE o.id = :operator_id AND o.password_hash = :password_hash AND o.disabled_at IS NULL
    RETURNING id
    """,
)

# Two tries at once would each find the last one free.
LOCK_TRIES = sql("operators.lock_tries", "SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")

CURRENT = sql(
    "operators.current",
    f"""
    SELECT b.id AS session_id, b.seen_at, {_OPERATOR}
      FROM browser_session b
      JOIN operator o ON o.id = b.operator_id
     WHERE b.secret_hash = :secret_hash AND b.expires_at > :now AND b.seen_at > :idle AND o.disabled_at IS NULL
    """,
)

SEE_SESSION = sql(
    "operators.see_session", "UPDATE browser_session SET seen_at = :now WHERE id = :session_id AND seen_at < :now"
)

END_SESSION = sql("operators.end_session", "DELETE FROM browser_session WHERE secret_hash = :secret_hash")

END_ONE = sql("operators.end_one", "DELETE FROM browser_session WHERE id = :session_id AND operator_id = :operator_id")

END_ALL = sql(
    "operators.end_all",
    """
    DELETE FROM browser_session
     WHERE operator_id = :operator_id AND id IS DISTINCT FROM CAST(:but AS bigint)
    """,
)

SESSIONS = sql(
    "operators.sessions",
    """
    SELECT id, created_at, seen_at, expires_at, address, agent
      FROM browser_session
     WHERE operator_id = :operator_id AND expires_at > :now AND seen_at > :idle
     ORDER BY seen_at DESC, id DESC
    """,
)

FORGET_SESSIONS = sql(
    "operators.forget_sessions", "DELETE FROM browser_session WHERE expires_at <= :now OR seen_at <= :idle"
)

FORGET_INVITATIONS = sql(
    "operators.forget_invitations", "DELETE FROM invitation WHERE expires_at <= :before OR used_at <= :before"
)

AUDIT = sql(
    "operators.audit",
    """
    INSERT INTO audit (at, actor, operator_id, network_id, action, subject, detail)
    VALUES (:now, :actor, :operator_id, :network_id, :action, :subject, CAST(:detail AS jsonb))
    """,
)

RECORD = sql(
    "operators.record",
    """
    SELECT id, at, actor, operator_id, network_id, action, subject, detail
      FROM audit
     WHERE id < :before
       AND (CAST(:network_ids AS bigint[]) IS NULL OR network_id = ANY(CAST(:network_ids AS bigint[])))
     ORDER BY id DESC
     LIMIT :most
    """,
)


# Links

PATHS: Final = {"setup": "/setup/", "password": "/desk/password/"}
"""Where a link of each purpose leads, in front of its secret part."""


def link(base: str, purpose: str, token: str) -> str:
    """The link to give to somebody; `base` is the address browsers reach us at."""
    return f"{base.rstrip('/')}{PATHS[purpose]}{token}"


def setup_link(db: Connection, now: datetime) -> str | None:
    """The secret part of the link that makes the first operator; None when there is one. Older links end."""
    db.execute(LOCK_SETUP)
    if db.execute(EXISTS).scalar_one():
        return None
    db.execute(VOID_SETUPS, {"now": now})
    return _invite(db, "setup", None, now, SETUP_LIFE)


def invitation(db: Connection, token: str, now: datetime) -> Invitation | None:
    """What a link is for, if it still works."""
    row = db.execute(INVITATION, {"token_hash": _hash(token), "now": now}).first()
    return None if row is None else Invitation(*row)


def use_setup(db: Connection, token: str, email: str, name: str, password_hash: str, now: datetime) -> Operator:
    """The first operator, an owner of every network. Raises Invalid for a link that works no more."""
    wanted = {"email": fields.email(email), "name": fields.line("name", name, 100, empty=True)}
    db.execute(LOCK_SETUP)
    used = db.execute(USE_INVITATION, {"token_hash": _hash(token), "purpose": "setup", "now": now}).first()
    if used is None or db.execute(EXISTS).scalar_one():
        raise Invalid("link", "was used already, or is too old")
    operator_id = db.execute(ADD, {**wanted, "password_hash": password_hash, "now": now}).scalar_one()
    db.execute(SET_ROLE, {"operator_id": operator_id, "network_id": None, "role": Role.OWNER.value})
    audit(db, wanted["email"], "operator.first", wanted["email"], now, operator_id=operator_id)
    return _must(get(db, operator_id))


def use_invitation(db: Connection, token: str, password_hash: str, now: datetime) -> Operator:
    """The operator whose link it is, with that password from now on. Raises Invalid for a link that works no more.

    Whoever was signed in as him is signed out, and wrong tries are forgiven.
    """
    used = db.execute(USE_INVITATION, {"token_hash": _hash(token), "purpose": "password", "now": now}).first()
    operator = None if used is None or used.operator_id is None else get(db, used.operator_id)
    if operator is None or operator.disabled_at is not None:
        raise Invalid("link", "was used already, or is too old")
    set_password(db, operator, password_hash)
    audit(db, operator.email, "operator.password", operator.email, now, operator_id=operator.id)
    return _must(get(db, operator.id))


def _invite(db: Connection, purpose: str, operator_id: int | None, now: datetime, life: timedelta) -> str:
    token = secrets.token_urlsafe(24)
    values = {
        "token_hash": _hash(token),
        "purpose": purpose,
        "operator_id": operator_id,
        "now": now,
        "expires_at": now + life,
    }
    db.execute(ADD_INVITATION, values)
    return token


# People


def add(
    db: Connection, email: str, role: Role, network_id: int | None, now: datetime, *, name: str = ""
) -> tuple[Operator, str]:
    """A new operator, without a password, and the secret part of the link by which he chooses one.

    `network_id` None is every network. Raises Invalid when the address is an operator's already.
    """
    values = {
        "email": fields.email(email),
        "name": fields.line("name", name, 100, empty=True),
        "password_hash": None,
        "now": now,
    }
    operator_id = db.execute(ADD, values).scalar()
    if operator_id is None:
        raise Invalid("email", "is an operator's already")
    db.execute(VOID_SETUPS, {"now": now})
    db.execute(SET_ROLE, {"operator_id": operator_id, "network_id": network_id, "role": role.value})
    return _must(get(db, operator_id)), _invite(db, "password", operator_id, now, INVITATION_LIFE)


def invite_again(db: Connection, operator: Operator, now: datetime) -> str:
    """A link by which an operator chooses a new password; older links end."""
    db.execute(VOID_LINKS, {"operator_id": operator.id, "now": now})
    return _invite(db, "password", operator.id, now, INVITATION_LIFE)


def get(db: Connection, operator_id: int) -> Operator | None:
    """The operator of that number."""
    row = db.execute(GET, {"operator_id": operator_id}).first()
    return None if row is None else _operator(tuple(row))


def by_email(db: Connection, email: str) -> Operator | None:
    """The operator with that address, in any case of letters."""
    row = db.execute(BY_EMAIL, {"email": email.strip()}).first()
    return None if row is None else _operator(tuple(row))


def listed(db: Connection, network_id: int | None = None) -> list[Operator]:
    """All operators, or those who may do something in a network."""
    return [_operator(tuple(row)) for row in db.execute(LISTED, {"network_id": network_id})]


def set_role(db: Connection, operator: Operator, role: Role | None, network_id: int | None) -> None:
    """What an operator is in a network (None: in every one); no role takes the one he has there.

    Raises Invalid when nobody would be left who owns everything.
    """
    values = {"operator_id": operator.id, "network_id": network_id}
    db.execute(LOCK_HEADS)
    if role is None:
        db.execute(DROP_ROLE, values)
    else:
        db.execute(SET_ROLE, {**values, "role": role.value})
    _somebody_owns_everything(db)


def disable(db: Connection, operator: Operator, now: datetime) -> None:
    """Stop an account: signed out everywhere, links ended. Raises Invalid if it is the last that owns everything."""
    db.execute(LOCK_HEADS)
    db.execute(DISABLE, {"operator_id": operator.id, "disabled": True, "now": now})
    db.execute(VOID_LINKS, {"operator_id": operator.id, "now": now})
    db.execute(END_ALL, {"operator_id": operator.id, "but": None})
    _somebody_owns_everything(db)


def enable(db: Connection, operator: Operator, now: datetime) -> None:
    """Let a stopped account sign in again."""
    db.execute(DISABLE, {"operator_id": operator.id, "disabled": False, "now": now})


def set_password(db: Connection, operator: Operator, password_hash: str, *, but: int | None = None) -> None:
    """Another password. Signed out everywhere (`but` in one browser), wrong tries forgiven."""
    db.execute(SET_PASSWORD, {"operator_id": operator.id, "password_hash": password_hash})
    db.execute(END_ALL, {"operator_id": operator.id, "but": but})
    throttle.refill(db, [bucket for known in (False, True) for bucket in _buckets(operator.id, operator.email, known)])


def _somebody_owns_everything(db: Connection) -> None:
    if db.execute(HEADS).scalar_one() == 0:
        raise Invalid("role", "somebody must remain who owns every network")


# Passwords


def check_password(password: str, email: str = "") -> str:
    """A password that may be taken: 15 to 256 characters, any of them, and none of the obvious. Raises Invalid.

    No rules about kinds of characters and no expiry (NIST SP 800-63B-4, 3.1.1.2). What is returned is to be hashed.
    """
    text = normal_password(password)
    if not SHORTEST_PASSWORD <= len(text) <= LONGEST_PASSWORD:
        raise Invalid("password", f"expected {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters; a few words do")
    if _obvious(text, email):
        raise Invalid("password", "is too easy to guess: take a few words that do not belong together")
    return text


def normal_password(password: str) -> str:
    """The spelling that is hashed and verified, so that another keyboard gives the same password."""
    return unicodedata.normalize("NFKC", password)


_OBVIOUS_WORDS: Final = (
    "password", "passwort", "passphrase", "contrasena", "motdepasse", "senha", "administrator", "admin", "operator",
    "manager", "letmein", "welcome", "willkommen", "changeme", "secret", "default", "gatepost", "wifidog", "wireless",
    "wifi", "wlan", "hotspot", "portal", "guest", "login", "iloveyou", "sunshine", "princess", "dragon", "football",
    "monkey", "master", "shadow", "superman", "correcthorsebatterystaple", "trustno",
)  # fmt: skip
_ROWS: Final = ("qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "qsdfghjklm", "yxcvbnm", "zxcvbnm", "wxcvbn")
_RUNS: Final = ("abcdefghijklmnopqrstuvwxyz", "01234567890123456789", *_ROWS)


def _obvious(password: str, email: str) -> bool:
    """Whether little is left once well-known words, the owner's address, runs and repeats are taken out."""
    rest = password.lower().translate(str.maketrans("0134578@$!", "oieastbasi"))
    own = [part for part in re.split(r"[^\w]+", email.lower()) if len(part) >= 4]
    for text in (password.lower(), rest):
        left = re.sub(r"[\W_]+", "", text)
        for word in (*own, *_OBVIOUS_WORDS):
            left = left.replace(re.sub(r"[\W_]+", "", word), "")
        left = _without_runs(left)
        left = re.sub(r"(.+?)\1+", r"\1", left)
        if len(set(left)) < 5 or len(left) < 6:
            return True
    return False


def _without_runs(text: str) -> str:
    """`text` without stretches of four and more that follow the alphabet, the digits or a row of keys, either way."""
    kept, at = [], 0
    while at < len(text):
        length = 1
        while at + length < len(text) and any(
            text[at : at + length + 1] in run or text[at : at + length + 1] in run[::-1] for run in _RUNS
        ):
            length += 1
        if length < 4:
            kept.append(text[at])
            length = 1
        at += length
    return "".join(kept)


# Signing in


def sign_in(
    store: Store,
    email: str,
    password: str,
    *,
    verify: Callable[[str | None, str], bool],
    renew: Callable[[str, str], str | None],
    now: datetime,
    known: bool = False,
    address: str = "",
    agent: str = "",
) -> tuple[str, Operator]:
    """A browser's secret and its operator. Raises SignInRefused, and what `verify` raises when it is too busy.

    `verify(stored_hash, password)` is called with None where nobody is found, and must take as long then.
    `renew(stored_hash, password)` gives the hash to store instead, or None: the sign-in holds also where that fails.
    `known` says that this browser has signed in as this operator before (web keeps a signed cookie): it has a budget of
    its own.
    """
    operator_id, stored, buckets = _verified(store, email, password, verify, now, known)
    while True:
        with store.transaction("operators", caller="sign in") as db:
            secret = start_session(db, operator_id, stored, now, address=address, agent=agent)
            if secret is not None:
                throttle.refill(db, buckets)
                operator = _must(get(db, operator_id))
                break
            changed = db.execute(PASSWORD, {"operator_id": operator_id}).scalar()
        # Another window of his may have signed in at this moment, and had the same password hashed anew.
        if changed in (None, stored) or not verify(changed, _typed(password)):
            raise SignInRefused
        stored = changed
    _renew(store, operator_id, stored, _typed(password), renew)
    return secret, operator


def start_session(
    db: Connection, operator_id: int, password_hash: str, now: datetime, *, address: str = "", agent: str = ""
) -> str | None:
    """The secret of a browser whose operator has just proved who he is; None where he may not sign in (any more).

    `password_hash` is the stored one that the proof rests on: a session never outlives a password changed meanwhile.
    """
    secret = secrets.token_urlsafe(32)
    values = {
        "operator_id": operator_id,
        "password_hash": password_hash,
        "secret_hash": _hash(secret),
        "now": now,
        "expires_at": now + SESSION_LIFE,
        "address": address[:64],
        "agent": _printable(agent)[:200],
    }
    if db.execute(START_SESSION, values).first() is None:
        return None
    operator = _must(get(db, operator_id))
    audit(db, operator.email, "operator.sign_in", address[:64], now, operator_id=operator_id)
    return secret


def _renew(store: Store, operator_id: int, stored: str, password: str, renew: Callable[[str, str], str | None]) -> None:
    """Keep the password under today's parameters; at another sign-in, if that cannot be done just now."""
    try:
        renewed = renew(stored, password)
        if renewed is not None:
            with store.transaction("operators", caller="renew password") as db:
                db.execute(RENEW_PASSWORD, {"operator_id": operator_id, "stored": stored, "renewed": renewed})
    except (Busy, Unavailable) as error:
        log.info("a password was not hashed anew", extra={"operator": operator_id, "error": type(error).__name__})


def confirm(
    store: Store, operator: Operator, password: str, *, verify: Callable[[str | None, str], bool], now: datetime
) -> None:
    """Asks an operator who is signed in for his password again. Raises SignInRefused as `sign_in` does.

    A wrong one is counted as at a sign-in: a browser that was left alone is no place to guess.
    """
    _, _, buckets = _verified(store, operator.email, password, verify, now, known=True)
    with store.transaction("operators", caller="confirm") as db:
        throttle.refill(db, buckets)


def _verified(
    store: Store, email: str, password: str, verify: Callable[[str | None, str], bool], now: datetime, known: bool
) -> tuple[int, str, Sequence[Bucket]]:
    """The operator of an address and a password, his password's hash, and the budget a try was taken from."""
    with store.transaction("operators", caller="sign in") as db:
        row = db.execute(CREDENTIALS, {"email": email.strip().replace("\0", "")}).first()
        operator_id = None if row is None else row.id
        *begun, wrong = buckets = _buckets(operator_id, email, known and operator_id is not None)
        db.execute(LOCK_TRIES, {"key": wrong.key})
        wait = _wait(db, buckets, now)
        if wait != 0:
            raise SignInRefused(wait)
        for bucket in begun:
            throttle.spend(db, bucket, now)
    stored = None if row is None else row.password_hash
    if not verify(stored, _typed(password)) or operator_id is None or stored is None:
        with store.transaction("operators", caller="sign in") as db:
            throttle.spend(db, wrong, now)
        raise SignInRefused
    return operator_id, stored, buckets


def _typed(password: str) -> str:
    """What is compared: no longer than it takes to be wrong."""
    return normal_password(password)[: LONGEST_PASSWORD + 1]


def current(db: Connection, secret: str, now: datetime) -> SignedIn | None:
    """Whose browser shows this secret; None when it has expired, was signed out, or its operator was stopped.

    Marks it as seen every few minutes: `db` is a transaction, or stands alone.
    """
    row = db.execute(CURRENT, {"secret_hash": _hash(secret), "now": now, "idle": now - SESSION_IDLE}).first()
    if row is None:
        return None
    session_id, seen_at, *operator = tuple(row)
    if now - seen_at > _SEEN_EVERY:
        db.execute(SEE_SESSION, {"session_id": session_id, "now": now})
    return SignedIn(session_id, _operator(tuple(operator)))


def sign_out(db: Connection, secret: str) -> None:
    """End a browser's session."""
    db.execute(END_SESSION, {"secret_hash": _hash(secret)})


def sign_out_one(db: Connection, operator: Operator, session_id: int) -> bool:
    """End one of an operator's sessions; whether there was such a one."""
    return db.execute(END_ONE, {"operator_id": operator.id, "session_id": session_id}).rowcount > 0


def sign_out_everywhere(db: Connection, operator: Operator, *, but: int | None = None) -> None:
    """End all of an operator's sessions, or all `but` one."""
    db.execute(END_ALL, {"operator_id": operator.id, "but": but})


def browsers(db: Connection, operator: Operator, now: datetime) -> list[Browser]:
    """Where an operator is signed in, the one seen last first."""
    values = {"operator_id": operator.id, "now": now, "idle": now - SESSION_IDLE}
    return [Browser(*row) for row in db.execute(SESSIONS, values)]


def forget(db: Connection, now: datetime) -> int:
    """Delete sessions and links that are over. How many."""
    ended = db.execute(FORGET_SESSIONS, {"now": now, "idle": now - SESSION_IDLE}).rowcount
    return ended + db.execute(FORGET_INVITATIONS, {"before": now - timedelta(days=30)}).rowcount


def _buckets(operator_id: int | None, email: str, known: bool) -> tuple[Bucket, Bucket, Bucket]:
    """An account's tries, its tries in a row, and those found wrong. An address that nobody has is counted the same."""
    if operator_id is None:
        whose = f"stranger {int.from_bytes(_hash(email.strip().lower())[:4], 'big') % _STRANGERS}"
        in_a_row = f"{whose} in a row"
    else:
        whose = f"operator {operator_id}{' known' if known else ''}"
        in_a_row = f"lasting {whose} in a row"
    return Bucket(whose, TRIES), Bucket(in_a_row, TRIES_IN_A_ROW), Bucket(f"{whose} wrong", TRIES)


def _wait(db: Connection, buckets: Sequence[Bucket], now: datetime) -> int | None:
    """Seconds until the next try will be looked at; 0 for now, None for never."""
    tries, row, wrong = throttle.levels(db, buckets, now)
    if row.tokens < 1:
        return None
    until_one = (1 - tries.tokens) / (TRIES.per_minute / 60)
    delay = 0.0
    if wrong.spent_at is not None:
        times = TRIES.burst - wrong.tokens
        pause = 2.0 ** (times - _FREE_TRIES) if times >= _FREE_TRIES else 0.0
        delay = pause - (now - wrong.spent_at).total_seconds()
    return max(0, math.ceil(max(until_one, delay)))


# The record


def audit(
    db: Connection,
    actor: str,
    action: str,
    subject: str,
    now: datetime,
    *,
    operator_id: int | None = None,
    network_id: int | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Record who did what, in the transaction of the deed. `detail` never holds a code, a password or a token."""
    values = {
        "now": now,
        "actor": actor,
        "operator_id": operator_id,
        "network_id": network_id,
        "action": action,
        "subject": subject,
        "detail": json.dumps(detail or {}, default=str),
    }
    db.execute(AUDIT, values)


def record(
    db: Connection, network_ids: Collection[int] | None, *, before: int | None = None, most: int = 50
) -> list[Entry]:
    """The record of some networks, or of everything; the newest first, those whose number is below `before`."""
    wanted = None if network_ids is None else list(network_ids)
    values = {"network_ids": wanted, "before": before or 2**62, "most": most}
    return [Entry(*row) for row in db.execute(RECORD, values)]


def _operator(values: tuple[Any, ...]) -> Operator:
    *plain, held = values
    memberships = tuple(Membership(network_id, Role(role)) for network_id, role in held)
    given: tuple[Any, ...] = (*plain, memberships)
    return Operator(*given)


def _must(operator: Operator | None) -> Operator:
    assert operator is not None, "it was read or written in this transaction"
    return operator


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
