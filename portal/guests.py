"""Guests with an account, and the stations that people bring: who may sign in, which device is kept out.

Promises: a user name is one guest's in his network, in any case of letters; a list of guests is taken as a whole or
refused line by line; a password is only ever seen as the hash that the caller made of it, away from the event loop.
Never signs anybody in: that is signin's, and what he may use is his grant's.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from portal import fields, grants
from portal.fields import Invalid
from portal.networks import Plan
from portal.store import sql

LARGEST_LIST: Final = 50_000
LARGEST_FILE: Final = 5 * 2**20
LONGEST_PASSWORD: Final = 256
SHORTEST_PASSWORD: Final = 6
_PORTION: Final = 1_000


@dataclass(frozen=True, slots=True)
class Account:
    """A guest's account. `password_hash` is for the caller to verify, off the event loop."""

    id: int
    network_id: int
    username: str
    name: str
    password_hash: str
    grant_id: int
    blocked_at: datetime | None
    created_at: datetime
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A guest to be added: a line of a list, or a form. The password is in clear until the caller hashes it."""

    username: str
    password: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line of a list; the first line is 1."""

    line: int
    said: str


@dataclass(frozen=True, slots=True)
class Station:
    """A device that was seen in a network, by MAC."""

    id: int
    network_id: int
    mac: str
    name: str
    first_seen_at: datetime
    seen_at: datetime
    blocked_until: datetime | None


_ACCOUNT = "a.id, a.network_id, a.username, a.name, a.password_hash, a.grant_id, a.blocked_at, a.created_at, a.seen_at"
_STATION = "d.id, d.network_id, d.mac, d.name, d.first_seen_at, d.seen_at, d.blocked_until"

ADD = sql(
    "guests.add",
    f"""
    INSERT INTO guest AS a (network_id, username, name, password_hash, grant_id, created_at)
    SELECT :network_id, n.username, n.name, n.password_hash, n.grant_id, :now
      FROM unnest(CAST(:usernames AS text[]), CAST(:names AS text[]), CAST(:hashes AS text[]),
                  CAST(:grant_ids AS bigint[])) AS n (username, name, password_hash, grant_id)
     ORDER BY n.grant_id
    RETURNING {_ACCOUNT}
    """,
)

# Two lists at once would each find their names free.
LOCK_NAMES = sql("guests.lock_names", "SELECT pg_advisory_xact_lock(hashtextextended('guests', :network_id))")

# What counts as the same name is the database's to say: its idea of lower case differs from Python's in rare letters.
IN_THE_WAY = sql(
    "guests.in_the_way",
    """
    WITH given AS (
        SELECT n.line, lower(n.username) AS name, min(n.line) OVER (PARTITION BY lower(n.username)) AS first
          FROM unnest(CAST(:usernames AS text[])) WITH ORDINALITY AS n (username, line)
    )
    SELECT g.line, g.first, a.id IS NOT NULL AS taken
      FROM given g
      LEFT JOIN guest a ON a.network_id = :network_id AND lower(a.username) = g.name
     WHERE a.id IS NOT NULL OR g.first < g.line
     ORDER BY g.line
    """,
)

LOOK_UP = sql(
    "guests.look_up",
    f"SELECT {_ACCOUNT} FROM guest a WHERE a.network_id = :network_id AND lower(a.username) = lower(:username)",
)

GET = sql("guests.get", f"SELECT {_ACCOUNT} FROM guest a WHERE a.id = :guest_id AND a.network_id = :network_id")

LISTED = sql(
    "guests.listed",
    f"""
    SELECT {_ACCOUNT}
      FROM guest a
     WHERE a.network_id = :network_id AND lower(a.username) > lower(:after)
       AND (:search = '' OR strpos(lower(a.username), :search) > 0 OR strpos(lower(a.name), :search) > 0)
     ORDER BY lower(a.username)
     LIMIT :most
    """,
)

SEEN = sql("guests.seen", "UPDATE guest SET seen_at = GREATEST(seen_at, :now) WHERE id = :guest_id")

SET_PASSWORD = sql(
    "guests.set_password",
    "UPDATE guest SET password_hash = :hash WHERE id = :guest_id AND network_id = :network_id RETURNING id",
)

# The password may have been changed while the old one was hashed anew.
RENEW_PASSWORD = sql(
    "guests.renew_password",
    "UPDATE guest SET password_hash = :renewed WHERE id = :guest_id AND password_hash = :stored",
)

BLOCK = sql(
    "guests.block",
    """
    UPDATE guest
       SET blocked_at = CASE WHEN :blocked THEN COALESCE(blocked_at, :now) END
     WHERE id = :guest_id AND network_id = :network_id
    RETURNING id
    """,
)

REGRANT = sql(
    "guests.regrant",
    f"""
    UPDATE guest a
       SET grant_id = :grant_id
     WHERE a.id = :guest_id AND a.network_id = :network_id
    RETURNING {_ACCOUNT}
    """,
)

BLOCK_STATION = sql(
    "guests.block_station",
    """
    INSERT INTO station (network_id, mac, first_seen_at, seen_at, blocked_until)
    VALUES (:network_id, :mac, :now, :now, :until)
    ON CONFLICT (network_id, mac) DO UPDATE SET blocked_until = EXCLUDED.blocked_until
    """,
)

UNBLOCK_STATION = sql(
    "guests.unblock_station",
    "UPDATE station SET blocked_until = NULL WHERE network_id = :network_id AND mac = :mac",
)

BLOCKED_UNTIL = sql(
    "guests.blocked_until",
    "SELECT blocked_until FROM station WHERE network_id = :network_id AND mac = :mac AND blocked_until > :now",
)

BLOCKED = sql(
    "guests.blocked",
    f"""
    SELECT {_STATION}
      FROM station d
     WHERE d.network_id = :network_id AND d.blocked_until > :now
     ORDER BY d.blocked_until, d.id
    """,
)

STATION = sql("guests.station", f"SELECT {_STATION} FROM station d WHERE d.network_id = :network_id AND d.mac = :mac")

NAME_STATION = sql(
    "guests.name_station", "UPDATE station SET name = :name WHERE network_id = :network_id AND mac = :mac"
)


# Accounts


def add(db: Connection, plan: Plan, guest: Newcomer, password_hash: str, now: datetime) -> Account:
    """A new account of the plan's network, with a grant of its terms. Raises Invalid, also when the name is taken."""
    accounts, problems = add_all(db, plan, [(guest, password_hash)], now)
    if problems:
        raise Invalid("username", problems[0].said)
    return accounts[0]


def add_all(
    db: Connection, plan: Plan, guests: Sequence[tuple[Newcomer, str]], now: datetime
) -> tuple[list[Account], list[Problem]]:
    """New accounts with their passwords' hashes: all of them, or none and the reason for each that is in the way."""
    tidy = [(_tidy(guest), password_hash) for guest, password_hash in guests]
    db.execute(LOCK_NAMES, {"network_id": plan.network_id})
    wanted = {"network_id": plan.network_id, "usernames": [guest.username for guest, _ in tidy]}
    problems = [
        Problem(
            row.line, "the user name is taken" if row.taken else f"the user name stands in line {row.first} already"
        )
        for row in db.execute(IN_THE_WAY, wanted)
    ]
    if problems:
        return [], problems
    accounts: list[Account] = []
    for begun in range(0, len(tidy), _PORTION):
        portion = tidy[begun : begun + _PORTION]
        values = {
            "network_id": plan.network_id,
            "usernames": [guest.username for guest, _ in portion],
            "names": [guest.name for guest, _ in portion],
            "hashes": [password_hash for _, password_hash in portion],
            "grant_ids": grants.make(db, plan, "account", now, count=len(portion)),
            "now": now,
        }
        accounts += [Account(*row) for row in db.execute(ADD, values)]
    return accounts, []


def read_list(content: bytes) -> tuple[list[Newcomer], list[Problem]]:
    """The guests of a CSV file with a head line: `username`, and `password` and `name` where there are such columns.

    Who has no password gets a made one. Comma, semicolon or tab, UTF-8 with or without its mark. Every line that cannot
    be taken is told. Raises Invalid for what is no such file at all.
    """
    if len(content) > LARGEST_FILE:
        raise Invalid("file", f"at most {LARGEST_FILE // 2**20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Invalid("file", "expected text in UTF-8; in a spreadsheet, save as CSV UTF-8") from None
    head = text.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found: list[Newcomer] = []
    problems: list[Problem] = []
    try:
        columns = [name.strip().lower() for name in next(rows, [])]
        if "username" not in columns:
            raise Invalid("file", "expected a first line that names the columns, one of them username")
        for row in rows:
            if not any(value.strip() for value in row):
                continue
            if len(found) >= LARGEST_LIST:
                raise Invalid("file", f"at most {LARGEST_LIST} guests")
            given = dict(zip(columns, row, strict=False))
            password = given.get("password") or fields.made_password()
            try:
                found.append(checked(Newcomer(given.get("username", ""), password, given.get("name", ""))))
            except Invalid as refused:
                problems.append(Problem(rows.line_num, str(refused)))
    except csv.Error as error:
        raise Invalid("file", f"line {rows.line_num} cannot be read: {error}") from None
    return found, problems


def checked(guest: Newcomer) -> Newcomer:
    """The guest with a tidy name and user name, whose password may be hashed. Raises Invalid."""
    tidy = _tidy(guest)
    if not SHORTEST_PASSWORD <= len(tidy.password) <= LONGEST_PASSWORD:
        raise Invalid("password", f"expected {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    return tidy


def look_up(db: Connection, network_id: int, username: str) -> Account | None:
    """The account of that user name; None if there is none, and then a dummy hash is to be verified all the same."""
    typed = " ".join(username.split())
    if not typed or len(typed) > 64 or "\0" in typed:
        return None
    row = db.execute(LOOK_UP, {"network_id": network_id, "username": typed}).first()
    return None if row is None else Account(*row)


def get(db: Connection, network_id: int, guest_id: int) -> Account | None:
    """An account of that network."""
    row = db.execute(GET, {"network_id": network_id, "guest_id": guest_id}).first()
    return None if row is None else Account(*row)


def listed(db: Connection, network_id: int, *, search: str = "", after: str = "", most: int = 50) -> list[Account]:
    """A network's accounts by user name, those behind `after`; with `search`, those whose name holds it."""
    values = {"network_id": network_id, "search": search.strip().lower(), "after": after, "most": most}
    return [Account(*row) for row in db.execute(LISTED, values)]


def seen(db: Connection, account: Account, now: datetime) -> None:
    """The guest has signed in."""
    db.execute(SEEN, {"guest_id": account.id, "now": now})


def set_password(db: Connection, network_id: int, guest_id: int, password_hash: str) -> None:
    """Another password. Who is online stays online."""
    _must(db.execute(SET_PASSWORD, {"network_id": network_id, "guest_id": guest_id, "hash": password_hash}).first())


def renew_password(db: Connection, account: Account, renewed: str) -> None:
    """The same password under another hash, unless it was changed since the account was looked up."""
    db.execute(RENEW_PASSWORD, {"guest_id": account.id, "stored": account.password_hash, "renewed": renewed})


def block(db: Connection, network_id: int, guest_id: int, now: datetime) -> None:
    """Let an account sign in no more; sessions are ended by the caller (sessions.end)."""
    _must(db.execute(BLOCK, {"network_id": network_id, "guest_id": guest_id, "blocked": True, "now": now}).first())


def unblock(db: Connection, network_id: int, guest_id: int, now: datetime) -> None:
    """Let an account sign in again."""
    _must(db.execute(BLOCK, {"network_id": network_id, "guest_id": guest_id, "blocked": False, "now": now}).first())


def give(db: Connection, account: Account, plan: Plan, now: datetime) -> Account:
    """A new grant for an account, of a plan of its network; what was left of the old one is taken back."""
    if plan.network_id != account.network_id:
        raise Invalid("plan", "expected a plan of the guest's network")
    grants.revoke(db, [account.grant_id], now)
    grant_id = grants.make(db, plan, "account", now)[0]
    values = {"guest_id": account.id, "network_id": account.network_id, "grant_id": grant_id}
    row = db.execute(REGRANT, values).first()
    if row is None:
        raise Invalid("guest", "there is no such guest in this network")
    return Account(*row)


# Stations


def block_station(db: Connection, network_id: int, mac: str, until: datetime, now: datetime) -> None:
    """Keep a device out of a network until then, whatever it presents. `mac` is in its normal form."""
    if not now < until <= now + timedelta(days=3650):
        raise Invalid("until", "expected a moment in the next ten years")
    db.execute(BLOCK_STATION, {"network_id": network_id, "mac": mac, "until": until, "now": now})


def unblock_station(db: Connection, network_id: int, mac: str) -> None:
    """Let a device in again."""
    db.execute(UNBLOCK_STATION, {"network_id": network_id, "mac": mac})


def blocked_until(db: Connection, network_id: int, mac: str | None, now: datetime) -> datetime | None:
    """Until when a device is kept out; None if it is not."""
    if mac is None:
        return None
    found: datetime | None = db.execute(BLOCKED_UNTIL, {"network_id": network_id, "mac": mac, "now": now}).scalar()
    return found


def blocked(db: Connection, network_id: int, now: datetime) -> list[Station]:
    """The devices that are kept out of a network."""
    return [Station(*row) for row in db.execute(BLOCKED, {"network_id": network_id, "now": now})]


def station(db: Connection, network_id: int, mac: str) -> Station | None:
    """A device that has been seen in a network."""
    row = db.execute(STATION, {"network_id": network_id, "mac": mac}).first()
    return None if row is None else Station(*row)


def name_station(db: Connection, network_id: int, mac: str, name: str) -> None:
    """What the desk calls a device."""
    values = {"network_id": network_id, "mac": mac, "name": fields.line("name", name, 60, empty=True)}
    db.execute(NAME_STATION, values)


def _tidy(guest: Newcomer) -> Newcomer:
    return Newcomer(
        fields.line("username", guest.username, 64),
        guest.password,
        fields.line("name", guest.name, 100, empty=True),
    )


def _must(row: object) -> None:
    if row is None:
        raise Invalid("guest", "there is no such guest in this network")
