"""Vouchers: batches of codes, issued, printed, found again, revoked.

Promises: a code is 55 bits from the system's random source and a check character that catches every single mistyped
sign and every two that changed places, so that a typing error is never mistaken for a guess; typing is forgiving. The
database holds no code in clear: one is found by a keyed hash, and printed again from its ciphertext. Never spends a
code: its grant starts at its first activation (sessions.py).
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row

from portal import fields, grants
from portal.fields import Invalid
from portal.keys import Keyring
from portal.networks import Plan
from portal.store import sql

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, which look like digits, and no U."""

LENGTH: Final = 12
LARGEST_BATCH: Final = 100_000
# So many at a time: hashing and sealing them takes some milliseconds, and between two portions others get their turn.
_PORTION: Final = 500

_VALUE: Final = {sign: value for value, sign in enumerate(ALPHABET)}
_MEANT: Final = {"O": "0", "I": "1", "L": "1", "U": "V"}
# What a hand, a poor print or a quick eye takes for one another.
_ALIKE: Final = {
    "0": "DQ", "1": "7", "2": "Z", "4": "A", "5": "S", "6": "G", "7": "1", "8": "B", "A": "4", "B": "8", "C": "G",
    "D": "0", "E": "F", "F": "E", "G": "6C", "K": "X", "M": "N", "N": "M", "P": "R", "Q": "0", "R": "P", "S": "5",
    "V": "Y", "X": "K", "Y": "V", "Z": "2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """Codes issued together."""

    id: int
    network_id: int
    plan_id: int | None
    label: str
    size: int
    created_by: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Overview:
    """A batch and what has become of its codes; the five numbers add up to its size."""

    batch: Batch
    plan: str
    unused: int
    active: int
    used_up: int
    expired: int
    revoked: int


@dataclass(frozen=True, slots=True)
class Voucher:
    """One code's record."""

    id: int
    network_id: int
    batch_id: int
    grant_id: int
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Issued:
    """A code of a batch, as it is printed, and its state: unused, active, used up, expired or revoked."""

    id: int
    grant_id: int
    code: str
    state: str
    started_at: datetime | None
    used_bytes: int


# The order of access.exhausted, without the allowances of periods: those come back.
STATE = """
    CASE
        WHEN v.revoked_at IS NOT NULL OR g.revoked_at IS NOT NULL THEN 'revoked'
        WHEN g.valid_until <= :now THEN 'expired'
        WHEN CASE g.clock WHEN 'online' THEN g.used_seconds >= g.seconds ELSE g.ends_at <= :now END THEN 'used up'
        WHEN CASE g.counts WHEN 'down' THEN g.used_down WHEN 'up' THEN g.used_up ELSE g.used_down + g.used_up END
             >= g.bytes THEN 'used up'
        WHEN g.started_at IS NOT NULL THEN 'active'
        ELSE 'unused'
    END
"""
_BATCH = "b.id, b.network_id, b.plan_id, b.label, b.size, b.created_by, b.created_at, b.revoked_at"

# Held until the codes stand: all of them get the same terms, even if the plan is being edited.
HOLD_PLAN = sql(
    "vouchers.hold_plan",
    "SELECT p.id FROM plan p WHERE p.id = :plan_id AND p.network_id = :network_id AND p.retired_at IS NULL FOR SHARE",
)

ADD_BATCH = sql(
    "vouchers.add_batch",
    f"""
    INSERT INTO voucher_batch AS b (network_id, plan_id, label, size, created_by, created_at)
    VALUES (:network_id, :plan_id, :label, :size, :by, :now)
    RETURNING {_BATCH}
    """,
)

ADD = sql(
    "vouchers.add",
    """
    INSERT INTO voucher (network_id, batch_id, grant_id, code_index, code_sealed)
    SELECT :network_id, :batch_id, n.grant_id, n.code_index, n.code_sealed
      FROM unnest(CAST(:grant_ids AS bigint[]), CAST(:indexes AS bytea[]), CAST(:sealed AS bytea[]))
           AS n (grant_id, code_index, code_sealed)
     ORDER BY n.grant_id
    ON CONFLICT (network_id, code_index) DO NOTHING
    RETURNING grant_id
    """,
)

FIND = sql(
    "vouchers.find",
    """
    SELECT v.id, v.network_id, v.batch_id, v.grant_id, v.revoked_at
      FROM voucher v
     WHERE v.network_id = :network_id AND v.code_index = ANY(CAST(:indexes AS bytea[]))
    """,
)

CODE_OF = sql("vouchers.code_of", "SELECT v.code_sealed FROM voucher v WHERE v.grant_id = :grant_id")

CODES = sql(
    "vouchers.codes",
    f"""
    SELECT v.id, v.grant_id, v.code_sealed, {STATE} AS state, g.started_at, g.used_down + g.used_up AS used_bytes
      FROM voucher v
      JOIN "grant" g ON g.id = v.grant_id
     WHERE v.batch_id = :batch_id AND v.network_id = :network_id AND v.id > :after
     ORDER BY v.id
     LIMIT :most
    """,
)

BATCH = sql(
    "vouchers.batch", f"SELECT {_BATCH} FROM voucher_batch b WHERE b.id = :batch_id AND b.network_id = :network_id"
)

OVERVIEWS = sql(
    "vouchers.overviews",
    f"""
    WITH chosen AS (
        SELECT b.*
          FROM voucher_batch b
         WHERE b.network_id = :network_id AND b.id < :before
         ORDER BY b.id DESC
         LIMIT :most
    )
    SELECT {_BATCH}, COALESCE(p.name, '') AS plan, c.unused, c.active, c.used_up, c.expired, c.revoked
      FROM chosen b
      LEFT JOIN plan p ON p.id = b.plan_id
     CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE s.state = 'unused') AS unused,
               count(*) FILTER (WHERE s.state = 'active') AS active,
               count(*) FILTER (WHERE s.state = 'used up') AS used_up,
               count(*) FILTER (WHERE s.state = 'expired') AS expired,
               count(*) FILTER (WHERE s.state = 'revoked') AS revoked
          FROM (SELECT {STATE} AS state
                  FROM voucher v
                  JOIN "grant" g ON g.id = v.grant_id
                 WHERE v.batch_id = b.id) s
     ) c
     ORDER BY b.id DESC
    """,
)

REVOKE_BATCH = sql(
    "vouchers.revoke_batch",
    """
    UPDATE voucher_batch
       SET revoked_at = COALESCE(revoked_at, :now)
     WHERE id = :batch_id AND network_id = :network_id
    """,
)

REVOKE_CODES = sql(
    "vouchers.revoke_codes",
    f"""
    UPDATE voucher
       SET revoked_at = :now
      FROM (SELECT v.id
              FROM voucher v
              JOIN "grant" g ON g.id = v.grant_id
             WHERE v.batch_id = :batch_id AND v.network_id = :network_id AND {STATE} IN ('unused', 'active')) AS live
     WHERE voucher.id = live.id
    RETURNING voucher.grant_id
    """,
)

REVOKE = sql(
    "vouchers.revoke",
    """
    UPDATE voucher
       SET revoked_at = :now
     WHERE id = :voucher_id AND network_id = :network_id AND revoked_at IS NULL
    RETURNING grant_id
    """,
)


# Codes


def new_code() -> str:
    """A code nobody has seen: eleven random signs and their check character."""
    signs = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH - 1))
    return signs + check_character(signs)


def check_character(signs: str) -> str:
    """The sign that, put behind `signs`, makes their sum vanish."""
    return ALPHABET[_times_two(_remainder(signs))]


def normalise(text: str) -> str | None:
    """The code somebody meant, or None for what can be no code of ours: mistyped, to be typed again, no guess.

    Any case, blanks and dashes anywhere, O for 0, I and L for 1, U for V, digits of every script.
    """
    code = _signs(text)
    return code if code is not None and _remainder(code) == 0 else None


def hint(text: str) -> tuple[int, str] | None:
    """Which sign of a mistyped code, counted from 1, may have been another one that looks like it.

    None unless one such change alone makes it a code. It need not be one that was ever issued.
    """
    code = _signs(text)
    if code is None or _remainder(code) == 0:
        return None
    mended = [
        (position + 1, other)
        for position, sign in enumerate(code)
        for other in _ALIKE.get(sign, "")
        if _remainder(code[:position] + other + code[position + 1 :]) == 0
    ]
    return mended[0] if len(mended) == 1 else None


def grouped(code: str) -> str:
    """A code as it is printed and read aloud: three groups of four."""
    return f"{code[:4]}-{code[4:8]}-{code[8:]}"


def _signs(text: str) -> str | None:
    """What was typed, in our alphabet, if it is as long as a code."""
    signs = []
    for letter in unicodedata.normalize("NFKC", text[:100]).upper():
        digit = unicodedata.decimal(letter, None)
        if digit is not None:
            signs.append(str(digit))
        elif letter in _VALUE or letter in _MEANT:
            signs.append(_MEANT.get(letter, letter))
        elif not letter.isspace() and unicodedata.category(letter) not in ("Pd", "Cf") and letter not in "._":
            return None
    return "".join(signs) if len(signs) == LENGTH else None


def _remainder(signs: str) -> int:
    """The signs as a polynomial over the field of 32 elements, at 2, which generates all of them.

    So every place of a code has a weight of its own, none of them 0: one wrong sign, or two in each other's place, can
    never leave the sum as it was.
    """
    total = 0
    for sign in signs:
        total = _times_two(total) ^ _VALUE[sign]
    return total


def _times_two(value: int) -> int:
    """Multiplication by 2 in the field that x^5 + x^2 + 1 makes of five bits."""
    return (value << 1) ^ (0b100101 if value & 0b10000 else 0)


# Batches


def issue(
    db: Connection, keyring: Keyring, plan: Plan, count: int, now: datetime, *, label: str = "", by: str = ""
) -> tuple[Batch, list[str]]:
    """New codes for a plan, all or none of them; as they are printed. Raises Invalid.

    Ten thousand take about a second, so a large batch wants the patience of a job.
    """
    size = fields.whole("count", count, 1, LARGEST_BATCH)
    wanted = {"plan_id": plan.id, "network_id": plan.network_id}
    if db.execute(HOLD_PLAN, wanted).first() is None:
        raise Invalid("plan", "is not sold any more")
    values = {
        **wanted,
        "label": fields.line("label", label, 100, empty=True),
        "size": size,
        "by": by,
        "now": now,
    }
    batch = Batch(*db.execute(ADD_BATCH, values).one())
    codes: list[str] = []
    for begun in range(0, size, _PORTION):
        without = grants.make(db, plan, "voucher", now, count=min(_PORTION, size - begun))
        made: dict[int, str] = {}
        while without:
            # A code that another batch has already, which will not happen in a million years, is simply drawn again.
            drawn = {grant_id: new_code() for grant_id in without}
            added = _add(db, keyring, batch, drawn)
            made |= {grant_id: drawn[grant_id] for grant_id in added}
            without = [grant_id for grant_id in without if grant_id not in added]
        codes += [grouped(made[grant_id]) for grant_id in sorted(made)]
    return batch, codes


def _add(db: Connection, keyring: Keyring, batch: Batch, drawn: dict[int, str]) -> set[int]:
    """Store codes for grants; those grants that got theirs."""
    rows = db.execute(
        ADD,
        {
            "network_id": batch.network_id,
            "batch_id": batch.id,
            "grant_ids": list(drawn),
            "indexes": [keyring.code_index(code) for code in drawn.values()],
            "sealed": [keyring.seal(code) for code in drawn.values()],
        },
    )
    return {row[0] for row in rows}


def find(db: Connection, keyring: Keyring, network_id: int, code: str) -> Voucher | None:
    """The voucher of a network with that code, which has been normalised; None if it was never issued."""
    row = db.execute(FIND, {"network_id": network_id, "indexes": keyring.code_indexes(code)}).first()
    return None if row is None else Voucher(*row)


def code_of(db: Connection, keyring: Keyring, grant_id: int) -> str | None:
    """The code, as it is printed, that a grant belongs to; None for a grant of another kind."""
    sealed = db.execute(CODE_OF, {"grant_id": grant_id}).scalar()
    return None if sealed is None else grouped(keyring.open(bytes(sealed)))


def codes_of(
    db: Connection,
    keyring: Keyring,
    network_id: int,
    batch_id: int,
    now: datetime,
    *,
    after: int = 0,
    most: int = LARGEST_BATCH,
) -> list[Issued]:
    """The codes of a batch in the order they were made, each with its state; those behind the number `after`."""
    values = {"network_id": network_id, "batch_id": batch_id, "now": now, "after": after, "most": most}
    return [
        Issued(
            row.id,
            row.grant_id,
            grouped(keyring.open(bytes(row.code_sealed))),
            row.state,
            row.started_at,
            row.used_bytes,
        )
        for row in db.execute(CODES, values)
    ]


def batch(db: Connection, network_id: int, batch_id: int) -> Batch | None:
    """A batch of that network."""
    row = db.execute(BATCH, {"network_id": network_id, "batch_id": batch_id}).first()
    return None if row is None else Batch(*row)


def overview(db: Connection, network_id: int, batch_id: int, now: datetime) -> Overview | None:
    """A batch of that network, and what has become of its codes."""
    found = overviews(db, network_id, now, before=batch_id + 1, most=1)
    return found[0] if found and found[0].batch.id == batch_id else None


def overviews(
    db: Connection, network_id: int, now: datetime, *, before: int | None = None, most: int = 50
) -> list[Overview]:
    """A network's batches, the newest first; those whose number is below `before`."""
    values = {"network_id": network_id, "now": now, "before": before or 2**62, "most": most}
    return [_overview(row) for row in db.execute(OVERVIEWS, values)]


def revoke_batch(db: Connection, network_id: int, batch_id: int, now: datetime) -> int:
    """Take back the codes of a batch that are not used up or expired; how many. Who is online goes at the next poll."""
    values = {"network_id": network_id, "batch_id": batch_id, "now": now}
    db.execute(REVOKE_BATCH, values)
    revoked = sorted(db.execute(REVOKE_CODES, values).scalars())
    grants.revoke(db, revoked, now)
    return len(revoked)


def revoke(db: Connection, voucher: Voucher, now: datetime) -> bool:
    """Take back one code; whether it had not been already. Who is online with it goes at the next poll."""
    values = {"voucher_id": voucher.id, "network_id": voucher.network_id, "now": now}
    grant_id = db.execute(REVOKE, values).scalar()
    if grant_id is None:
        return False
    grants.revoke(db, [grant_id], now)
    return True


def table(codes: Iterable[str], plan: str, label: str) -> Iterator[list[str]]:
    """The rows of a CSV file of codes, with a head; the codes stand in the first column."""
    yield ["code", "plan", "label"]
    for code in codes:
        yield [code, fields.cell(plan), fields.cell(label)]


def _overview(row: Row[Any]) -> Overview:
    width = len(Batch.__dataclass_fields__)
    values: tuple[Any, ...] = tuple(row)
    return Overview(Batch(*values[:width]), *values[width:])
