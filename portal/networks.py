"""Networks and their plans: one look, one set of plans, one list of operators. Their routers are in gateways.py.

Promises: whatever a network or a plan holds has been checked; a new version of the terms of use has a new number, so
that it is known for ever which one a guest accepted, and its words are kept; what was sold keeps the terms it was sold
with, whatever becomes of its plan. Never decides what a guest may use: grants.py copies a plan's terms, access.py
judges them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from portal import fields
from portal.fields import Invalid
from portal.store import sql

LONGEST_TEXT: Final = 40_000
LARGEST_LOGO: Final = 16 * 1024
PNG: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Network:
    """A network as guests see it. `logo_mark` changes with the logo and is None without one; `logo` reads the bytes."""

    id: int
    slug: str
    name: str
    time_zone: str
    language: str
    colour: str
    logo_mark: str | None
    support: str
    code_hint: str
    terms: str
    terms_version: int
    privacy: str
    vouchers: bool
    accounts: bool
    click_plan_id: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Wording:
    """One version of a network's terms of use: "" where guests saw our general sentences, in their language.

    `replaced_at` is None for those in force.
    """

    version: int
    terms: str
    replaced_at: datetime | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan gives. Seconds and bytes; None is no limit. Made by `terms`, which takes what people type."""

    name: str
    seconds: int | None = None
    clock: str = "wall"
    bytes: int | None = None
    counts: str = "both"
    devices: int | None = 1
    valid_seconds: int | None = None
    idle_seconds: int | None = None
    period: str | None = None
    period_seconds: int | None = None
    period_bytes: int | None = None
    cooldown_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan on a network's list: its terms, as in `Terms`. A retired one is kept for what was sold of it."""

    id: int
    network_id: int
    name: str
    seconds: int | None
    clock: str
    bytes: int | None
    counts: str
    devices: int | None
    valid_seconds: int | None
    idle_seconds: int | None
    period: str | None
    period_seconds: int | None
    period_bytes: int | None
    cooldown_seconds: int | None
    retired_at: datetime | None


_NETWORK = """
    n.id, n.slug, n.name, n.time_zone, n.language, n.colour, left(encode(sha256(n.logo), 'hex'), 12) AS logo_mark,
    n.support, n.code_hint, n.terms, n.terms_version, n.privacy, n.vouchers, n.accounts, n.click_plan_id, n.created_at
"""

ADD = sql(
    "networks.add",
    f"""
    INSERT INTO network AS n (slug, name, time_zone, language, colour, terms, created_at)
    VALUES (:slug, :name, :time_zone, :language, :colour, :terms, :now)
    ON CONFLICT (slug) DO NOTHING
    RETURNING {_NETWORK}
    """,
)

GET = sql("networks.get", f"SELECT {_NETWORK} FROM network n WHERE n.id = :network_id")

BY_SLUG = sql("networks.by_slug", f"SELECT {_NETWORK} FROM network n WHERE n.slug = :slug")

EVERY = sql("networks.every", f"SELECT {_NETWORK} FROM network n ORDER BY lower(n.name), n.id")

SOME = sql(
    "networks.some",
    f"SELECT {_NETWORK} FROM network n WHERE n.id = ANY(CAST(:ids AS bigint[])) ORDER BY lower(n.name), n.id",
)

# Locked before it is looked at: of two changes at once, neither may overlook the other's words.
EDIT = sql(
    "networks.edit",
    f"""
    WITH was AS MATERIALIZED (
        SELECT id, terms, terms_version, CAST(:terms AS text) <> terms AS outdated
          FROM network
         WHERE id = :network_id
           FOR NO KEY UPDATE
    ),
    kept AS (
        INSERT INTO past_terms (network_id, version, terms)
        SELECT id, terms_version, terms FROM was WHERE outdated
    )
    UPDATE network n
       SET name = COALESCE(CAST(:name AS text), n.name),
           time_zone = COALESCE(CAST(:time_zone AS text), n.time_zone),
           language = COALESCE(CAST(:language AS text), n.language),
           colour = COALESCE(CAST(:colour AS text), n.colour),
           support = COALESCE(CAST(:support AS text), n.support),
           code_hint = COALESCE(CAST(:code_hint AS text), n.code_hint),
           terms = COALESCE(CAST(:terms AS text), n.terms),
           terms_version = was.terms_version + CASE WHEN was.outdated THEN 1 ELSE 0 END,
           privacy = COALESCE(CAST(:privacy AS text), n.privacy),
           vouchers = COALESCE(CAST(:vouchers AS boolean), n.vouchers),
           accounts = COALESCE(CAST(:accounts AS boolean), n.accounts)
      FROM was
     WHERE n.id = was.id
    RETURNING {_NETWORK}
    """,
)

WORDING = sql(
    "networks.wording",
    """
    SELECT terms, CAST(NULL AS timestamptz) AS replaced_at FROM network
     WHERE id = :network_id AND terms_version = :version
     UNION ALL
    SELECT terms, replaced_at FROM past_terms WHERE network_id = :network_id AND version = :version
    """,
)

SET_LOGO = sql("networks.set_logo", "UPDATE network SET logo = :logo WHERE id = :network_id")

LOGO = sql("networks.logo", "SELECT logo FROM network WHERE id = :network_id")

SET_CLICK_PLAN = sql(
    "networks.set_click_plan",
    """
    UPDATE network n
       SET click_plan_id = :plan_id
     WHERE n.id = :network_id
       AND (CAST(:plan_id AS bigint) IS NULL
            OR EXISTS (SELECT FROM plan p
                        WHERE p.id = :plan_id AND p.network_id = n.id AND p.retired_at IS NULL))
    RETURNING n.id
    """,
)

_TERMS = """
    name, seconds, clock, bytes, counts, devices, valid_seconds, idle_seconds, period, period_seconds, period_bytes,
    cooldown_seconds
"""
_PLAN = f"id, network_id, {_TERMS}, retired_at"

ADD_PLAN = sql(
    "networks.add_plan",
    f"""
    INSERT INTO plan (network_id, created_at, {_TERMS})
    VALUES (:network_id, :now, :name, :seconds, :clock, :bytes, :counts, :devices, :valid_seconds, :idle_seconds,
            :period, :period_seconds, :period_bytes, :cooldown_seconds)
    ON CONFLICT (network_id, name) DO NOTHING
    RETURNING {_PLAN}
    """,
)

PLAN_NAME_TAKEN = sql(
    "networks.plan_name_taken",
    "SELECT EXISTS (SELECT FROM plan WHERE network_id = :network_id AND name = :name AND id <> :plan_id)",
)

EDIT_PLAN = sql(
    "networks.edit_plan",
    f"""
    UPDATE plan
       SET name = :name, seconds = :seconds, clock = :clock, bytes = :bytes, counts = :counts, devices = :devices,
           valid_seconds = :valid_seconds, idle_seconds = :idle_seconds, period = :period,
           period_seconds = :period_seconds, period_bytes = :period_bytes, cooldown_seconds = :cooldown_seconds
     WHERE id = :plan_id AND network_id = :network_id
    RETURNING {_PLAN}
    """,
)

RETIRE_PLAN = sql(
    "networks.retire_plan",
    """
    WITH retired AS (
        UPDATE plan
           SET retired_at = COALESCE(retired_at, :now)
         WHERE id = :plan_id AND network_id = :network_id
        RETURNING id
    )
    UPDATE network
       SET click_plan_id = NULL
     WHERE click_plan_id IN (SELECT id FROM retired)
    """,
)

PLANS = sql(
    "networks.plans",
    f"""
    SELECT {_PLAN}
      FROM plan
     WHERE network_id = :network_id AND (retired_at IS NULL OR :retired)
     ORDER BY id
    """,
)

PLAN = sql("networks.plan", f"SELECT {_PLAN} FROM plan WHERE id = :plan_id AND network_id = :network_id")

PLAN_NAMED = sql(
    "networks.plan_named",
    f"SELECT {_PLAN} FROM plan WHERE network_id = :network_id AND name = :name AND retired_at IS NULL",
)


def add(
    db: Connection,
    slug: str,
    name: str,
    now: datetime,
    *,
    time_zone: str = "UTC",
    language: str = "en",
    colour: str = "#24463f",
    terms: str = "",
) -> Network:
    """A new network, which takes vouchers and has no plan yet. Raises Invalid, also when the slug is taken.

    `terms` are the first version of its terms of use: given later, they would be its second, though nobody saw
    a first.
    """
    values = {
        "slug": fields.slug(slug),
        "name": fields.line("name", name, 60),
        "time_zone": fields.time_zone(time_zone),
        "language": fields.language(language),
        "colour": fields.colour(colour),
        "terms": fields.lines("terms", terms, LONGEST_TEXT),
        "now": now,
    }
    row = db.execute(ADD, values).first()
    if row is None:
        raise Invalid("slug", "is taken by another network")
    return Network(*row)


def get(db: Connection, network_id: int) -> Network | None:
    """The network of that number."""
    row = db.execute(GET, {"network_id": network_id}).first()
    return None if row is None else Network(*row)


def by_slug(db: Connection, slug: str) -> Network | None:
    """The network of that short name."""
    row = db.execute(BY_SLUG, {"slug": slug}).first()
    return None if row is None else Network(*row)


def listed(db: Connection, only: Collection[int] | None = None) -> list[Network]:
    """Networks by name: all of them, or those whose numbers are in `only`."""
    rows = db.execute(EVERY) if only is None else db.execute(SOME, {"ids": list(only)})
    return [Network(*row) for row in rows]


def edit(
    db: Connection,
    network_id: int,
    *,
    name: str | None = None,
    time_zone: str | None = None,
    language: str | None = None,
    colour: str | None = None,
    support: str | None = None,
    code_hint: str | None = None,
    terms: str | None = None,
    privacy: str | None = None,
    vouchers: bool | None = None,
    accounts: bool | None = None,
) -> Network:
    """The network with what is given changed, and the rest as it is. Raises Invalid.

    Terms that differ from those in force get the next version number, and the words of the last one are kept.
    """
    values = {
        "network_id": network_id,
        "name": None if name is None else fields.line("name", name, 60),
        "time_zone": None if time_zone is None else fields.time_zone(time_zone),
        "language": None if language is None else fields.language(language),
        "colour": None if colour is None else fields.colour(colour),
        "support": None if support is None else fields.lines("support", support, 400),
        "code_hint": None if code_hint is None else fields.line("code_hint", code_hint, 200, empty=True),
        "terms": None if terms is None else fields.lines("terms", terms, LONGEST_TEXT),
        "privacy": None if privacy is None else fields.lines("privacy", privacy, LONGEST_TEXT),
        "vouchers": vouchers,
        "accounts": accounts,
    }
    row = db.execute(EDIT, values).first()
    if row is None:
        raise Invalid("network", "there is no such network")
    return Network(*row)


def wording(db: Connection, network_id: int, version: int) -> Wording | None:
    """The words of one version of the terms; None where there is no such version, or it is older than our keeping."""
    row = db.execute(WORDING, {"network_id": network_id, "version": version}).first()
    return None if row is None else Wording(version, row.terms, row.replaced_at)


def set_logo(db: Connection, network_id: int, png: bytes | None) -> None:
    """The logo, or none. The caller has decoded the picture and written it anew; here only kind and size are seen."""
    if png is not None and (not png.startswith(PNG) or len(png) > LARGEST_LOGO):
        raise Invalid("logo", f"expected a PNG picture of at most {LARGEST_LOGO // 1024} KiB")
    db.execute(SET_LOGO, {"network_id": network_id, "logo": png})


def logo(db: Connection, network_id: int) -> bytes | None:
    """The logo's PNG."""
    found = db.execute(LOGO, {"network_id": network_id}).scalar()
    return None if found is None else bytes(found)


def set_click_plan(db: Connection, network_id: int, plan_id: int | None) -> None:
    """The plan a guest gets for accepting the terms, with nothing to type; None ends that way in."""
    if db.execute(SET_CLICK_PLAN, {"network_id": network_id, "plan_id": plan_id}).first() is None:
        raise Invalid("plan", "expected a plan of this network that is not retired")


def terms(
    name: str,
    *,
    minutes: str | int | None = None,
    clock: str = "wall",
    megabytes: str | int | None = None,
    counts: str = "both",
    devices: str | int | None = 1,
    valid_days: str | int | None = None,
    idle_minutes: str | int | None = None,
    period: str | None = None,
    period_minutes: str | int | None = None,
    period_megabytes: str | int | None = None,
    cooldown_minutes: str | int | None = None,
) -> Terms:
    """A plan's terms from what people type; None and "" are no limit. A megabyte is 10^6 bytes. Raises Invalid.

    `minutes` run by the wall clock from the first activation, or with `clock` "online" only while somebody is;
    `valid_days` from the day a code is made; `period_…` are what each day, week or month of the network's time zone
    gives. `cooldown_minutes` is for click-through: how long after a grant began the next one is given.
    """
    each = fields.one_of("period", period, ("day", "week", "month")) if period else None
    period_seconds = fields.minutes("period_minutes", period_minutes)
    period_bytes = fields.megabytes("period_megabytes", period_megabytes)
    if each and period_seconds is None and period_bytes is None:
        raise Invalid("period", f"give minutes or megabytes for each {each}, or leave the period out")
    if not each and (period_seconds is not None or period_bytes is not None):
        raise Invalid("period", "expected day, week or month with an allowance for each")
    days = None if valid_days is None or valid_days == "" else fields.whole("valid_days", valid_days, 1, 3650)
    return Terms(
        name=fields.line("name", name, 60),
        seconds=fields.minutes("minutes", minutes),
        clock=fields.one_of("clock", clock, ("wall", "online")),
        bytes=fields.megabytes("megabytes", megabytes),
        counts=fields.one_of("counts", counts, ("both", "down", "up")),
        devices=None if devices is None or devices == "" else fields.whole("devices", devices, 1, 1000),
        valid_seconds=None if days is None else days * 86_400,
        idle_seconds=fields.minutes("idle_minutes", idle_minutes),
        period=each,
        period_seconds=period_seconds,
        period_bytes=period_bytes,
        cooldown_seconds=fields.minutes("cooldown_minutes", cooldown_minutes),
    )


def add_plan(db: Connection, network_id: int, terms: Terms, now: datetime) -> Plan:
    """A new plan on a network's list. Raises Invalid when the name is taken, by a retired plan too."""
    row = db.execute(ADD_PLAN, {"network_id": network_id, "now": now, **asdict(terms)}).first()
    if row is None:
        raise Invalid("name", "another plan of this network has this name")
    return Plan(*row)


def edit_plan(db: Connection, network_id: int, plan_id: int, terms: Terms) -> Plan:
    """Other terms for what will be sold from now on; what was sold keeps its own. Raises Invalid."""
    taken = {"network_id": network_id, "plan_id": plan_id, "name": terms.name}
    if db.execute(PLAN_NAME_TAKEN, taken).scalar_one():
        raise Invalid("name", "another plan of this network has this name")
    row = db.execute(EDIT_PLAN, {"network_id": network_id, "plan_id": plan_id, **asdict(terms)}).first()
    if row is None:
        raise Invalid("plan", "there is no such plan in this network")
    return Plan(*row)


def retire_plan(db: Connection, network_id: int, plan_id: int, now: datetime) -> None:
    """Take a plan off the list; what was sold of it stays good. A click-through that gave it ends."""
    db.execute(RETIRE_PLAN, {"network_id": network_id, "plan_id": plan_id, "now": now})


def plans(db: Connection, network_id: int, *, retired: bool = False) -> list[Plan]:
    """A network's plans, oldest first; with `retired` also those no longer sold."""
    return [Plan(*row) for row in db.execute(PLANS, {"network_id": network_id, "retired": retired})]


def plan(db: Connection, network_id: int, plan_id: int) -> Plan | None:
    """A plan of that network, retired or not."""
    row = db.execute(PLAN, {"network_id": network_id, "plan_id": plan_id}).first()
    return None if row is None else Plan(*row)


def plan_named(db: Connection, network_id: int, name: str) -> Plan | None:
    """The plan of that name, if it is still sold."""
    row = db.execute(PLAN_NAMED, {"network_id": network_id, "name": name}).first()
    return None if row is None else Plan(*row)
