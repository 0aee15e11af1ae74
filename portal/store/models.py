"""The schema: every table, constraint and index, declared once.

Promises: constraints carry the invariants, so that no process, tool or hand can store what the rules exclude; no index
covers a column that a poll changes, so that polls stay heap-only (HOT) updates. Never holds behaviour: the nouns do.
All times are `timestamptz`; bytes are counted in bytes, time in seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# The tables of which every poll writes a row. Vacuum comes early, since each change leaves a dead one; statistics come
# late, since the ledger's plans do not ask for them: gathering them took a tenth of PostgreSQL's time under full load.
HOT = {"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.05, "autovacuum_analyze_scale_factor": 2}


class Base(DeclarativeBase):
    """The one declarative base. Constraint names follow a pattern, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        }
    )
    type_annotation_map = {
        int: BigInteger,
        str: Text,
        bool: Boolean,
        float: Double,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
    }


def _id() -> Mapped[int]:
    return mapped_column(BigInteger, Identity(), primary_key=True)


def _one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _moment() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


class Installation(Base):
    """One row: facts about this installation. `restored_at` makes tokens without a row neutral for a day."""

    __tablename__ = "installation"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, server_default="1")
    created_at: Mapped[datetime] = _moment()
    restored_at: Mapped[datetime | None]


class Network(Base):
    """One look, one set of plans, one list of operators: a café, a school, a provider's town."""

    __tablename__ = "network"
    __table_args__ = (
        UniqueConstraint("slug"),
        CheckConstraint("slug ~ '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$'", name="slug"),
        CheckConstraint("colour ~ '^#[0-9a-f]{6}$'", name="colour"),
    )

    id: Mapped[int] = _id()
    slug: Mapped[str]
    name: Mapped[str]
    time_zone: Mapped[str] = mapped_column(server_default="UTC")
    language: Mapped[str] = mapped_column(server_default="en")
    colour: Mapped[str] = mapped_column(server_default="#24463f")
    logo: Mapped[bytes | None]
    support: Mapped[str] = mapped_column(server_default="")
    code_hint: Mapped[str] = mapped_column(server_default="")
    terms: Mapped[str] = mapped_column(server_default="")
    terms_version: Mapped[int] = mapped_column(Integer, server_default="1")
    privacy: Mapped[str] = mapped_column(server_default="")
    vouchers: Mapped[bool] = mapped_column(server_default=text("true"))
    accounts: Mapped[bool] = mapped_column(server_default=text("false"))
    click_plan_id: Mapped[int | None] = mapped_column(
        ForeignKey("plan.id", use_alter=True, name="network_click_plan_id_fkey", ondelete="SET NULL")
    )
    created_at: Mapped[datetime] = _moment()


class Gateway(Base):
    """A router that asks us about its guests, known by the `gw_id` it sends (compared without regard to case).

    `address` and `port` are where browsers are sent back to; `network_id` is missing while it waits in the inbox.
    `swapped` says that `outgoing` is the download, as apfree's nftables backend reports it.
    """

    __tablename__ = "gateway"
    __table_args__ = (
        _one_of("dialect", "classic", "apfree"),
        _one_of("state", "inbox", "adopted", "retired"),
        CheckConstraint("state <> 'adopted' OR network_id IS NOT NULL", name="adopted"),
        CheckConstraint("port BETWEEN 1 AND 65535", name="port"),
        CheckConstraint("interval_seconds BETWEEN 1 AND 3600", name="interval"),
        CheckConstraint("link_bytes_per_second > 0", name="link"),
        CheckConstraint("length(gw_id) BETWEEN 1 AND 64", name="gw_id"),
        Index("gateway_gw_id_key", func.lower(text("gw_id")), unique=True),
        Index(None, "network_id"),
        Index(None, "device_id", postgresql_where=text("device_id <> ''")),
        Index(None, "changed_at"),
    )

    id: Mapped[int] = _id()
    network_id: Mapped[int | None] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    gw_id: Mapped[str]
    device_id: Mapped[str] = mapped_column(server_default="")
    name: Mapped[str] = mapped_column(server_default="")
    dialect: Mapped[str] = mapped_column(server_default="classic")
    swapped: Mapped[bool] = mapped_column(server_default=text("false"))
    address: Mapped[str | None]
    port: Mapped[int] = mapped_column(Integer, server_default="2060")
    seen_address: Mapped[str | None]
    seen_port: Mapped[int | None] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(server_default="inbox")
    interval_seconds: Mapped[int] = mapped_column(Integer, server_default="60")
    link_bytes_per_second: Mapped[int] = mapped_column(server_default="125000000")
    created_at: Mapped[datetime] = _moment()
    adopted_at: Mapped[datetime | None]
    # Moves with every change of this row or its keys: what the processes' memory of gateways is refreshed by.
    changed_at: Mapped[datetime] = _moment()


class GatewayKey(Base):
    """What a gateway proves itself with (`k=` in its fragments). Two are valid during a rotation."""

    __tablename__ = "gateway_key"
    __table_args__ = (Index(None, "gateway_id"),)

    id: Mapped[int] = _id()
    gateway_id: Mapped[int] = mapped_column(ForeignKey("gateway.id", ondelete="CASCADE"))
    key_hash: Mapped[bytes]
    key_sealed: Mapped[bytes]
    created_at: Mapped[datetime] = _moment()
    expires_at: Mapped[datetime | None]


class Heartbeat(Base):
    """The last ping of a gateway, apart from its settings so that pings never rewrite those.

    `restarted_at`: when `wifidog_uptime` last fell. `steady_since`: since when pings have come without a gap.
    """

    __tablename__ = "heartbeat"
    __table_args__ = ({"postgresql_with": {"fillfactor": 70}},)

    gateway_id: Mapped[int] = mapped_column(ForeignKey("gateway.id", ondelete="CASCADE"), primary_key=True)
    at: Mapped[datetime]
    steady_since: Mapped[datetime]
    restarted_at: Mapped[datetime | None]
    wifidog_uptime: Mapped[int | None]
    sys_uptime: Mapped[int | None]
    sys_memfree: Mapped[int | None]
    sys_load: Mapped[float | None]
    software: Mapped[str] = mapped_column(server_default="")
    source: Mapped[str] = mapped_column(server_default="")
    source_changed_at: Mapped[datetime | None]
    key_missing_at: Mapped[datetime | None]
    key_seen_at: Mapped[datetime | None]


class Plan(Base):
    """What an operator offers. A null limit is no limit. Selling copies the terms into a grant."""

    __tablename__ = "plan"
    __table_args__ = (
        UniqueConstraint("network_id", "name"),
        _one_of("clock", "wall", "online"),
        _one_of("counts", "both", "down", "up"),
        CheckConstraint("period IS NULL OR period IN ('day', 'week', 'month')", name="period"),
        CheckConstraint("seconds > 0 AND bytes > 0 AND devices > 0 AND idle_seconds > 0", name="limits"),
        CheckConstraint("valid_seconds > 0 AND period_seconds > 0 AND period_bytes > 0", name="more_limits"),
        CheckConstraint(
            "(period IS NULL) = (period_seconds IS NULL AND period_bytes IS NULL)", name="period_has_an_allowance"
        ),
    )

    id: Mapped[int] = _id()
    network_id: Mapped[int] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    name: Mapped[str]
    seconds: Mapped[int | None]
    clock: Mapped[str] = mapped_column(server_default="wall")
    bytes: Mapped[int | None]
    counts: Mapped[str] = mapped_column(server_default="both")
    devices: Mapped[int | None] = mapped_column(Integer, server_default="1")
    valid_seconds: Mapped[int | None]
    idle_seconds: Mapped[int | None]
    period: Mapped[str | None]
    period_seconds: Mapped[int | None]
    period_bytes: Mapped[int | None]
    # For click-through: how long after a grant began the same station may have the next one.
    cooldown_seconds: Mapped[int | None]
    created_at: Mapped[datetime] = _moment()
    retired_at: Mapped[datetime | None]


class Grant(Base):
    """What a code, an account or a click gives: terms copied when it was made, and what has been used of them.

    Nothing is spent before the first activation sets `started_at`, once; `ends_at` follows from it.
    """

    __tablename__ = "grant"
    __table_args__ = (
        _one_of("kind", "voucher", "account", "click"),
        _one_of("clock", "wall", "online"),
        _one_of("counts", "both", "down", "up"),
        CheckConstraint("used_down >= 0 AND used_up >= 0 AND used_seconds >= 0", name="used"),
        CheckConstraint("(over_at IS NULL) = (over_reason IS NULL)", name="over"),
        Index(None, "network_id", "created_at"),
        Index(None, "plan_id"),
        Index("grant_click_key", "network_id", "click_mac", "created_at", postgresql_where=text("kind = 'click'")),
        {"postgresql_with": HOT},
    )

    id: Mapped[int] = _id()
    network_id: Mapped[int] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    plan_id: Mapped[int | None] = mapped_column(ForeignKey("plan.id", ondelete="SET NULL"))
    kind: Mapped[str]
    name: Mapped[str]
    seconds: Mapped[int | None]
    clock: Mapped[str] = mapped_column(server_default="wall")
    bytes: Mapped[int | None]
    counts: Mapped[str] = mapped_column(server_default="both")
    devices: Mapped[int | None] = mapped_column(Integer)
    valid_until: Mapped[datetime | None]
    idle_seconds: Mapped[int | None]
    period: Mapped[str | None]
    period_seconds: Mapped[int | None]
    period_bytes: Mapped[int | None]
    time_zone: Mapped[str]
    click_mac: Mapped[str | None]
    created_at: Mapped[datetime] = _moment()
    started_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    used_seconds: Mapped[float] = mapped_column(server_default="0")
    used_down: Mapped[int] = mapped_column(server_default="0")
    used_up: Mapped[int] = mapped_column(server_default="0")
    revoked_at: Mapped[datetime | None]
    # When and why it was first found used up; kept, so that a refusal can say it.
    over_at: Mapped[datetime | None]
    over_reason: Mapped[str | None]


class GrantPeriod(Base):
    """Use of a grant within one day, week or month of its network's time zone."""

    __tablename__ = "grant_period"
    __table_args__ = ({"postgresql_with": {"fillfactor": 70}},)

    grant_id: Mapped[int] = mapped_column(ForeignKey("grant.id", ondelete="CASCADE"), primary_key=True)
    starts: Mapped[Any] = mapped_column(Date, primary_key=True)
    used_seconds: Mapped[float] = mapped_column(server_default="0")
    used_down: Mapped[int] = mapped_column(server_default="0")
    used_up: Mapped[int] = mapped_column(server_default="0")


class VoucherBatch(Base):
    """Codes issued together."""

    __tablename__ = "voucher_batch"
    __table_args__ = (CheckConstraint("size > 0", name="size"), Index(None, "network_id"))

    id: Mapped[int] = _id()
    network_id: Mapped[int] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    plan_id: Mapped[int | None] = mapped_column(ForeignKey("plan.id", ondelete="SET NULL"))
    label: Mapped[str] = mapped_column(server_default="")
    size: Mapped[int] = mapped_column(Integer)
    created_by: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = _moment()
    revoked_at: Mapped[datetime | None]


class Voucher(Base):
    """One code. Found by a keyed hash of it, printed again from its ciphertext; never stored in clear."""

    __tablename__ = "voucher"
    __table_args__ = (
        UniqueConstraint("network_id", "code_index"),
        UniqueConstraint("grant_id"),
        Index(None, "batch_id"),
    )

    id: Mapped[int] = _id()
    network_id: Mapped[int] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    batch_id: Mapped[int] = mapped_column(ForeignKey("voucher_batch.id", ondelete="CASCADE"))
    grant_id: Mapped[int] = mapped_column(ForeignKey("grant.id", ondelete="CASCADE"))
    code_index: Mapped[bytes]
    code_sealed: Mapped[bytes]
    revoked_at: Mapped[datetime | None]


class Guest(Base):
    """A guest with an account of a network's: a name and a password."""

    __tablename__ = "guest"
    __table_args__ = (
        Index("guest_username_key", "network_id", func.lower(text("username")), unique=True),
        UniqueConstraint("grant_id"),
    )

    id: Mapped[int] = _id()
    network_id: Mapped[int] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    username: Mapped[str]
    name: Mapped[str] = mapped_column(server_default="")
    password_hash: Mapped[str]
    grant_id: Mapped[int] = mapped_column(ForeignKey("grant.id", ondelete="RESTRICT"))
    blocked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _moment()
    seen_at: Mapped[datetime | None]


class Station(Base):
    """A device seen in a network, by MAC. A block refuses it until then, whatever it presents."""

    __tablename__ = "station"
    __table_args__ = (UniqueConstraint("network_id", "mac"),)

    id: Mapped[int] = _id()
    network_id: Mapped[int] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    mac: Mapped[str]
    name: Mapped[str] = mapped_column(server_default="")
    first_seen_at: Mapped[datetime] = _moment()
    seen_at: Mapped[datetime] = _moment()
    blocked_until: Mapped[datetime | None]


class TermsAcceptance(Base):
    """Which version of the terms a guest accepted, when, with which session."""

    __tablename__ = "terms_acceptance"
    __table_args__ = (Index(None, "network_id", "at"),)

    id: Mapped[int] = _id()
    network_id: Mapped[int] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    session_id: Mapped[int]
    mac: Mapped[str | None]
    version: Mapped[int] = mapped_column(Integer)
    language: Mapped[str]
    at: Mapped[datetime] = _moment()


class PastTerms(Base):
    """The words of a version of the terms that has been replaced; those in force stand with the network."""

    __tablename__ = "past_terms"

    network_id: Mapped[int] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    terms: Mapped[str]
    replaced_at: Mapped[datetime] = _moment()


class Session(Base):
    """A guest's time online at one gateway, from the minting of its token to its end.

    minted: the token is made, nothing is spent · active: the gateway showed it · ended: `end_reason` says why.
    Hot: polls change `reported_at`, `active_at`, `ip` and the `used_` columns, and no index covers those.
    """

    __tablename__ = "session"
    __table_args__ = (
        UniqueConstraint("token_hash"),
        _one_of("state", "minted", "active", "ended"),
        CheckConstraint("used_down >= 0 AND used_up >= 0 AND used_seconds >= 0", name="used"),
        CheckConstraint("(state = 'ended') = (end_reason IS NOT NULL)", name="end_reason"),
        CheckConstraint("state <> 'active' OR (activated_at IS NOT NULL AND mac IS NOT NULL)", name="active"),
        # One live session a device and network: what makes "nobody is refused because of his own old session" hold.
        Index("session_station_key", "network_id", "mac", unique=True, postgresql_where=text("state = 'active'")),
        Index("session_grant_idx", "grant_id", "state"),
        Index("session_gateway_idx", "gateway_id", postgresql_where=text("state = 'active'")),
        Index("session_minted_idx", "minted_at"),
        {"postgresql_with": HOT},
    )

    id: Mapped[int] = _id()
    token_hash: Mapped[bytes]
    network_id: Mapped[int] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    gateway_id: Mapped[int] = mapped_column(ForeignKey("gateway.id", ondelete="CASCADE"))
    grant_id: Mapped[int] = mapped_column(ForeignKey("grant.id", ondelete="CASCADE"))
    mac: Mapped[str | None]
    ip: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default="minted")
    device: Mapped[str] = mapped_column(server_default="")
    language: Mapped[str] = mapped_column(server_default="en")
    minted_at: Mapped[datetime] = _moment()
    activated_at: Mapped[datetime | None]
    reported_at: Mapped[datetime | None]
    # When the guest last moved more than the gateway's own ping does: what the idle limit is measured from.
    active_at: Mapped[datetime | None]
    used_seconds: Mapped[float] = mapped_column(server_default="0")
    used_down: Mapped[int] = mapped_column(server_default="0")
    used_up: Mapped[int] = mapped_column(server_default="0")
    # How much of the above already stands in usage_hour.
    rolled_down: Mapped[int] = mapped_column(server_default="0")
    rolled_up: Mapped[int] = mapped_column(server_default="0")
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None]
    # The last verdict that was not a plain "stays", with the figures it rested on.
    verdict: Mapped[str | None]
    verdict_at: Mapped[datetime | None]
    verdict_facts: Mapped[Any | None] = mapped_column(JSONB)


class CounterLine(Base):
    """One session's stretch of a gateway's list entry (IP + MAC): where its running totals stand, what was charged.

    The gateway counts per list entry, not per token, so when a new session takes an entry over, its own stretch begins
    where the last one stood. `held_` is an unexplained decrease waiting for the next report to confirm it.
    closed: 0 open · 1 by a logout · 2 by our own denial. A session's use is the sum of what its lines charged.
    """

    __tablename__ = "counter_line"
    __table_args__ = (
        CheckConstraint("down >= 0 AND up >= 0 AND charged_down >= 0 AND charged_up >= 0", name="counts"),
        CheckConstraint("closed BETWEEN 0 AND 2", name="closed"),
        Index("counter_line_current_key", "gateway_id", "mac", "ip", unique=True, postgresql_where=text("current")),
        Index(None, "session_id"),
        {"postgresql_with": HOT},
    )

    id: Mapped[int] = _id()
    session_id: Mapped[int] = mapped_column(ForeignKey("session.id", ondelete="CASCADE"))
    gateway_id: Mapped[int]
    mac: Mapped[str]
    ip: Mapped[str]
    current: Mapped[bool] = mapped_column(server_default=text("true"))
    closed: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    down: Mapped[int] = mapped_column(server_default="0")
    up: Mapped[int] = mapped_column(server_default="0")
    held_down: Mapped[int | None]
    held_up: Mapped[int | None]
    charged_down: Mapped[int] = mapped_column(server_default="0")
    charged_up: Mapped[int] = mapped_column(server_default="0")
    at: Mapped[datetime] = _moment()


class EndedSession(Base):
    """Sessions over for more than a day, moved here by a job; partitioned by month of `ended_at`, dropped by age."""

    __tablename__ = "ended_session"
    __table_args__ = (
        Index(None, "network_id", "ended_at"),
        Index(None, "grant_id"),
        {"postgresql_partition_by": "RANGE (ended_at)", "info": {"monthly": True}},
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    ended_at: Mapped[datetime] = mapped_column(primary_key=True)
    network_id: Mapped[int]
    gateway_id: Mapped[int]
    grant_id: Mapped[int]
    mac: Mapped[str | None]
    ip: Mapped[str | None]
    device: Mapped[str]
    minted_at: Mapped[datetime]
    activated_at: Mapped[datetime | None]
    end_reason: Mapped[str]
    used_seconds: Mapped[float]
    used_down: Mapped[int]
    used_up: Mapped[int]
    verdict_facts: Mapped[Any | None] = mapped_column(JSONB)
    # Its counter lines, from which the totals can be recounted.
    lines: Mapped[Any] = mapped_column(JSONB)


class UsageHour(Base):
    """Bytes charged to a session within an hour; partitioned by month of `hour`."""

    __tablename__ = "usage_hour"
    __table_args__ = (
        Index(None, "network_id", "hour"),
        {"postgresql_partition_by": "RANGE (hour)", "info": {"monthly": True}},
    )

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    session_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    network_id: Mapped[int]
    gateway_id: Mapped[int]
    down: Mapped[int]
    up: Mapped[int]


class Operator(Base):
    """A person who runs networks. Without a password until the invitation is used."""

    __tablename__ = "operator"
    __table_args__ = (Index("operator_email_key", func.lower(text("email")), unique=True),)

    id: Mapped[int] = _id()
    email: Mapped[str]
    name: Mapped[str] = mapped_column(server_default="")
    password_hash: Mapped[str | None]
    created_at: Mapped[datetime] = _moment()
    disabled_at: Mapped[datetime | None]


class Membership(Base):
    """What an operator may do where. No network means every network, also those to come."""

    __tablename__ = "membership"
    __table_args__ = (
        _one_of("role", "owner", "manager", "desk"),
        Index("membership_key", "operator_id", "network_id", unique=True, postgresql_nulls_not_distinct=True),
        Index(None, "network_id"),
    )

    id: Mapped[int] = _id()
    operator_id: Mapped[int] = mapped_column(ForeignKey("operator.id", ondelete="CASCADE"))
    network_id: Mapped[int | None] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    role: Mapped[str]


class Invitation(Base):
    """A link that works once: the first operator's set-up link, an invitation, a new password."""

    __tablename__ = "invitation"
    __table_args__ = (_one_of("purpose", "setup", "password"), UniqueConstraint("token_hash"))

    id: Mapped[int] = _id()
    token_hash: Mapped[bytes]
    purpose: Mapped[str]
    operator_id: Mapped[int | None] = mapped_column(ForeignKey("operator.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = _moment()
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class BrowserSession(Base):
    """An operator's signed-in browser; the cookie holds a secret of which only the hash is kept."""

    __tablename__ = "browser_session"
    __table_args__ = (UniqueConstraint("secret_hash"), Index(None, "operator_id"))

    id: Mapped[int] = _id()
    operator_id: Mapped[int] = mapped_column(ForeignKey("operator.id", ondelete="CASCADE"))
    secret_hash: Mapped[bytes]
    created_at: Mapped[datetime] = _moment()
    seen_at: Mapped[datetime] = _moment()
    expires_at: Mapped[datetime]
    address: Mapped[str] = mapped_column(server_default="")
    agent: Mapped[str] = mapped_column(server_default="")


class Audit(Base):
    """Who changed what. Written in the transaction of the change itself: no record, no change."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "network_id", "at"), Index(None, "at"))

    id: Mapped[int] = _id()
    at: Mapped[datetime] = _moment()
    actor: Mapped[str]
    operator_id: Mapped[int | None] = mapped_column(ForeignKey("operator.id", ondelete="SET NULL"))
    network_id: Mapped[int | None] = mapped_column(ForeignKey("network.id", ondelete="SET NULL"))
    action: Mapped[str]
    subject: Mapped[str] = mapped_column(server_default="")
    detail: Mapped[Any] = mapped_column(JSONB, server_default=text("'{}'"))


class Throttle(Base):
    """Token buckets that must hold across processes and restarts: wrong codes, wrong passwords."""

    __tablename__ = "throttle"
    __table_args__ = ({"postgresql_with": {"fillfactor": 70}},)

    key: Mapped[str] = mapped_column(primary_key=True)
    tokens: Mapped[float]
    at: Mapped[datetime] = _moment()


class Job(Base):
    """A background task's lease, so that one process at a time runs it, and how its last run went."""

    __tablename__ = "job"

    name: Mapped[str] = mapped_column(primary_key=True)
    leased_until: Mapped[datetime | None]
    ran_at: Mapped[datetime | None]
    outcome: Mapped[str] = mapped_column(server_default="")
