"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_HOT = {"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.05, "autovacuum_analyze_scale_factor": 2}


def upgrade() -> None:
    op.create_table(
        "ended_session",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=False),
        sa.Column("gateway_id", sa.BigInteger(), nullable=False),
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.Text(), nullable=True),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("minted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=False),
        sa.Column("used_seconds", sa.Double(), nullable=False),
        sa.Column("used_down", sa.BigInteger(), nullable=False),
        sa.Column("used_up", sa.BigInteger(), nullable=False),
        sa.Column("verdict_facts", postgresql.JSONB(), nullable=True),
        sa.Column("lines", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", "ended_at", name=op.f("ended_session_pkey")),
        postgresql_partition_by="RANGE (ended_at)",
    )
    op.create_index(op.f("ended_session_grant_id_idx"), "ended_session", ["grant_id"], unique=False)
    op.create_index(
        op.f("ended_session_network_id_ended_at_idx"), "ended_session", ["network_id", "ended_at"], unique=False
    )
    op.create_table(
        "installation",
        sa.Column("id", sa.SmallInteger(), server_default="1", autoincrement=False, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("restored_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("installation_one_row_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("installation_pkey")),
    )
    op.create_table(
        "job",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ran_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("job_pkey")),
    )
    op.create_table(
        "network",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("language", sa.Text(), server_default="en", nullable=False),
        sa.Column("colour", sa.Text(), server_default="#24463f", nullable=False),
        sa.Column("logo", sa.LargeBinary(), nullable=True),
        sa.Column("support", sa.Text(), server_default="", nullable=False),
        sa.Column("code_hint", sa.Text(), server_default="", nullable=False),
        sa.Column("terms", sa.Text(), server_default="", nullable=False),
        sa.Column("terms_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("privacy", sa.Text(), server_default="", nullable=False),
        sa.Column("vouchers", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("accounts", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("click_plan_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("colour ~ '^#[0-9a-f]{6}$'", name=op.f("network_colour_check")),
        sa.CheckConstraint("slug ~ '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$'", name=op.f("network_slug_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("network_pkey")),
        sa.UniqueConstraint("slug", name=op.f("network_slug_key")),
    )
    op.create_table(
        "operator",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("operator_pkey")),
    )
    op.create_index("operator_email_key", "operator", [sa.literal_column("lower(email)")], unique=True)
    op.create_table(
        "throttle",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Double(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("throttle_pkey")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "usage_hour",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("session_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=False),
        sa.Column("gateway_id", sa.BigInteger(), nullable=False),
        sa.Column("down", sa.BigInteger(), nullable=False),
        sa.Column("up", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "session_id", name=op.f("usage_hour_pkey")),
        postgresql_partition_by="RANGE (hour)",
    )
    op.create_index(op.f("usage_hour_network_id_hour_idx"), "usage_hour", ["network_id", "hour"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("operator_id", sa.BigInteger(), nullable=True),
        sa.Column("network_id", sa.BigInteger(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), server_default="", nullable=False),
        sa.Column("detail", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.ForeignKeyConstraint(
            ["network_id"], ["network.id"], name=op.f("audit_network_id_fkey"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["operator_id"], ["operator.id"], name=op.f("audit_operator_id_fkey"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_pkey")),
    )
    op.create_index(op.f("audit_at_idx"), "audit", ["at"], unique=False)
    op.create_index(op.f("audit_network_id_at_idx"), "audit", ["network_id", "at"], unique=False)
    op.create_table(
        "browser_session",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("operator_id", sa.BigInteger(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("address", sa.Text(), server_default="", nullable=False),
        sa.Column("agent", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["operator_id"], ["operator.id"], name=op.f("browser_session_operator_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("browser_session_pkey")),
        sa.UniqueConstraint("secret_hash", name=op.f("browser_session_secret_hash_key")),
    )
    op.create_index(op.f("browser_session_operator_id_idx"), "browser_session", ["operator_id"], unique=False)
    op.create_table(
        "gateway",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=True),
        sa.Column("gw_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), server_default="", nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("dialect", sa.Text(), server_default="classic", nullable=False),
        sa.Column("swapped", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("port", sa.Integer(), server_default="2060", nullable=False),
        sa.Column("seen_address", sa.Text(), nullable=True),
        sa.Column("seen_port", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), server_default="inbox", nullable=False),
        sa.Column("interval_seconds", sa.Integer(), server_default="60", nullable=False),
        sa.Column("link_bytes_per_second", sa.BigInteger(), server_default="125000000", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("adopted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("dialect IN ('classic', 'apfree')", name=op.f("gateway_dialect_check")),
        sa.CheckConstraint("state <> 'adopted' OR network_id IS NOT NULL", name=op.f("gateway_adopted_check")),
        sa.CheckConstraint("state IN ('inbox', 'adopted', 'retired')", name=op.f("gateway_state_check")),
        sa.CheckConstraint("interval_seconds BETWEEN 1 AND 3600", name=op.f("gateway_interval_check")),
        sa.CheckConstraint("length(gw_id) BETWEEN 1 AND 64", name=op.f("gateway_gw_id_check")),
        sa.CheckConstraint("link_bytes_per_second > 0", name=op.f("gateway_link_check")),
        sa.CheckConstraint("port BETWEEN 1 AND 65535", name=op.f("gateway_port_check")),
        sa.ForeignKeyConstraint(
            ["network_id"], ["network.id"], name=op.f("gateway_network_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("gateway_pkey")),
    )
    op.create_index(op.f("gateway_changed_at_idx"), "gateway", ["changed_at"], unique=False)
    op.create_index(
        op.f("gateway_device_id_idx"),
        "gateway",
        ["device_id"],
        unique=False,
        postgresql_where=sa.text("device_id <> ''"),
    )
    op.create_index("gateway_gw_id_key", "gateway", [sa.literal_column("lower(gw_id)")], unique=True)
    op.create_index(op.f("gateway_network_id_idx"), "gateway", ["network_id"], unique=False)
    op.create_table(
        "invitation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("operator_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("purpose IN ('setup', 'password')", name=op.f("invitation_purpose_check")),
        sa.ForeignKeyConstraint(
            ["operator_id"], ["operator.id"], name=op.f("invitation_operator_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("invitation_pkey")),
        sa.UniqueConstraint("token_hash", name=op.f("invitation_token_hash_key")),
    )
    op.create_table(
        "membership",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("operator_id", sa.BigInteger(), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.CheckConstraint("role IN ('owner', 'manager', 'desk')", name=op.f("membership_role_check")),
        sa.ForeignKeyConstraint(
            ["network_id"], ["network.id"], name=op.f("membership_network_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["operator_id"], ["operator.id"], name=op.f("membership_operator_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("membership_pkey")),
    )
    op.create_index(
        "membership_key", "membership", ["operator_id", "network_id"], unique=True, postgresql_nulls_not_distinct=True
    )
    op.create_index(op.f("membership_network_id_idx"), "membership", ["network_id"], unique=False)
    op.create_table(
        "plan",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seconds", sa.BigInteger(), nullable=True),
        sa.Column("clock", sa.Text(), server_default="wall", nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("counts", sa.Text(), server_default="both", nullable=False),
        sa.Column("devices", sa.Integer(), server_default="1", nullable=True),
        sa.Column("valid_seconds", sa.BigInteger(), nullable=True),
        sa.Column("idle_seconds", sa.BigInteger(), nullable=True),
        sa.Column("period", sa.Text(), nullable=True),
        sa.Column("period_seconds", sa.BigInteger(), nullable=True),
        sa.Column("period_bytes", sa.BigInteger(), nullable=True),
        sa.Column("cooldown_seconds", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("clock IN ('wall', 'online')", name=op.f("plan_clock_check")),
        sa.CheckConstraint("counts IN ('both', 'down', 'up')", name=op.f("plan_counts_check")),
        sa.CheckConstraint("period IS NULL OR period IN ('day', 'week', 'month')", name=op.f("plan_period_check")),
        sa.CheckConstraint(
            "(period IS NULL) = (period_seconds IS NULL AND period_bytes IS NULL)",
            name=op.f("plan_period_has_an_allowance_check"),
        ),
        sa.CheckConstraint(
            "seconds > 0 AND bytes > 0 AND devices > 0 AND idle_seconds > 0", name=op.f("plan_limits_check")
        ),
        sa.CheckConstraint(
            "valid_seconds > 0 AND period_seconds > 0 AND period_bytes > 0", name=op.f("plan_more_limits_check")
        ),
        sa.ForeignKeyConstraint(["network_id"], ["network.id"], name=op.f("plan_network_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("plan_pkey")),
        sa.UniqueConstraint("network_id", "name", name=op.f("plan_network_id_name_key")),
    )
    op.create_table(
        "station",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("blocked_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["network_id"], ["network.id"], name=op.f("station_network_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("station_pkey")),
        sa.UniqueConstraint("network_id", "mac", name=op.f("station_network_id_mac_key")),
    )
    op.create_table(
        "terms_acceptance",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=False),
        sa.Column("session_id", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["network_id"], ["network.id"], name=op.f("terms_acceptance_network_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("terms_acceptance_pkey")),
    )
    op.create_index(op.f("terms_acceptance_network_id_at_idx"), "terms_acceptance", ["network_id", "at"], unique=False)
    op.create_table(
        "gateway_key",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("gateway_id", sa.BigInteger(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("key_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["gateway_id"], ["gateway.id"], name=op.f("gateway_key_gateway_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("gateway_key_pkey")),
    )
    op.create_index(op.f("gateway_key_gateway_id_idx"), "gateway_key", ["gateway_id"], unique=False)
    op.create_table(
        "grant",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=False),
        sa.Column("plan_id", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seconds", sa.BigInteger(), nullable=True),
        sa.Column("clock", sa.Text(), server_default="wall", nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("counts", sa.Text(), server_default="both", nullable=False),
        sa.Column("devices", sa.Integer(), nullable=True),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("idle_seconds", sa.BigInteger(), nullable=True),
        sa.Column("period", sa.Text(), nullable=True),
        sa.Column("period_seconds", sa.BigInteger(), nullable=True),
        sa.Column("period_bytes", sa.BigInteger(), nullable=True),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("click_mac", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("used_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("used_down", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("used_up", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("over_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("over_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("clock IN ('wall', 'online')", name=op.f("grant_clock_check")),
        sa.CheckConstraint("counts IN ('both', 'down', 'up')", name=op.f("grant_counts_check")),
        sa.CheckConstraint("kind IN ('voucher', 'account', 'click')", name=op.f("grant_kind_check")),
        sa.CheckConstraint("(over_at IS NULL) = (over_reason IS NULL)", name=op.f("grant_over_check")),
        sa.CheckConstraint("used_down >= 0 AND used_up >= 0 AND used_seconds >= 0", name=op.f("grant_used_check")),
        sa.ForeignKeyConstraint(["network_id"], ["network.id"], name=op.f("grant_network_id_fkey"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["plan_id"], ["plan.id"], name=op.f("grant_plan_id_fkey"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("grant_pkey")),
        postgresql_with=_HOT,
    )
    op.create_index(
        "grant_click_key",
        "grant",
        ["network_id", "click_mac", "created_at"],
        unique=False,
        postgresql_where=sa.text("kind = 'click'"),
    )
    op.create_index(op.f("grant_network_id_created_at_idx"), "grant", ["network_id", "created_at"], unique=False)
    op.create_index(op.f("grant_plan_id_idx"), "grant", ["plan_id"], unique=False)
    op.create_table(
        "heartbeat",
        sa.Column("gateway_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("steady_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("restarted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("wifidog_uptime", sa.BigInteger(), nullable=True),
        sa.Column("sys_uptime", sa.BigInteger(), nullable=True),
        sa.Column("sys_memfree", sa.BigInteger(), nullable=True),
        sa.Column("sys_load", sa.Double(), nullable=True),
        sa.Column("software", sa.Text(), server_default="", nullable=False),
        sa.Column("source", sa.Text(), server_default="", nullable=False),
        sa.Column("source_changed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("key_missing_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("key_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["gateway_id"], ["gateway.id"], name=op.f("heartbeat_gateway_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("gateway_id", name=op.f("heartbeat_pkey")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "voucher_batch",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=False),
        sa.Column("plan_id", sa.BigInteger(), nullable=True),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("size > 0", name=op.f("voucher_batch_size_check")),
        sa.ForeignKeyConstraint(
            ["network_id"], ["network.id"], name=op.f("voucher_batch_network_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["plan_id"], ["plan.id"], name=op.f("voucher_batch_plan_id_fkey"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("voucher_batch_pkey")),
    )
    op.create_index(op.f("voucher_batch_network_id_idx"), "voucher_batch", ["network_id"], unique=False)
    op.create_table(
        "grant_period",
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("starts", sa.Date(), nullable=False),
        sa.Column("used_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("used_down", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("used_up", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["grant_id"], ["grant.id"], name=op.f("grant_period_grant_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("grant_id", "starts", name=op.f("grant_period_pkey")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "guest",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("blocked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["grant_id"], ["grant.id"], name=op.f("guest_grant_id_fkey"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(["network_id"], ["network.id"], name=op.f("guest_network_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("guest_pkey")),
        sa.UniqueConstraint("grant_id", name=op.f("guest_grant_id_key")),
    )
    op.create_index("guest_username_key", "guest", ["network_id", sa.literal_column("lower(username)")], unique=True)
    op.create_table(
        "session",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=False),
        sa.Column("gateway_id", sa.BigInteger(), nullable=False),
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.Text(), nullable=True),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="minted", nullable=False),
        sa.Column("device", sa.Text(), server_default="", nullable=False),
        sa.Column("language", sa.Text(), server_default="en", nullable=False),
        sa.Column("minted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("active_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("used_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("used_down", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("used_up", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rolled_down", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rolled_up", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("verdict_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verdict_facts", postgresql.JSONB(), nullable=True),
        sa.CheckConstraint("(state = 'ended') = (end_reason IS NOT NULL)", name=op.f("session_end_reason_check")),
        sa.CheckConstraint(
            "state <> 'active' OR (activated_at IS NOT NULL AND mac IS NOT NULL)", name=op.f("session_active_check")
        ),
        sa.CheckConstraint("state IN ('minted', 'active', 'ended')", name=op.f("session_state_check")),
        sa.CheckConstraint("used_down >= 0 AND used_up >= 0 AND used_seconds >= 0", name=op.f("session_used_check")),
        sa.ForeignKeyConstraint(
            ["gateway_id"], ["gateway.id"], name=op.f("session_gateway_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["grant_id"], ["grant.id"], name=op.f("session_grant_id_fkey"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["network_id"], ["network.id"], name=op.f("session_network_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("session_pkey")),
        sa.UniqueConstraint("token_hash", name=op.f("session_token_hash_key")),
        postgresql_with=_HOT,
    )
    op.create_index(
        "session_gateway_idx", "session", ["gateway_id"], unique=False, postgresql_where=sa.text("state = 'active'")
    )
    op.create_index("session_grant_idx", "session", ["grant_id", "state"], unique=False)
    op.create_index("session_minted_idx", "session", ["minted_at"], unique=False)
    op.create_index(
        "session_station_key",
        "session",
        ["network_id", "mac"],
        unique=True,
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "voucher",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("network_id", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("code_index", sa.LargeBinary(), nullable=False),
        sa.Column("code_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["voucher_batch.id"], name=op.f("voucher_batch_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["grant_id"], ["grant.id"], name=op.f("voucher_grant_id_fkey"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["network_id"], ["network.id"], name=op.f("voucher_network_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("voucher_pkey")),
        sa.UniqueConstraint("grant_id", name=op.f("voucher_grant_id_key")),
        sa.UniqueConstraint("network_id", "code_index", name=op.f("voucher_network_id_code_index_key")),
    )
    op.create_index(op.f("voucher_batch_id_idx"), "voucher", ["batch_id"], unique=False)
    op.create_table(
        "counter_line",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("session_id", sa.BigInteger(), nullable=False),
        sa.Column("gateway_id", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.Text(), nullable=False),
        sa.Column("ip", sa.Text(), nullable=False),
        sa.Column("current", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("closed", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("down", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("up", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("held_down", sa.BigInteger(), nullable=True),
        sa.Column("held_up", sa.BigInteger(), nullable=True),
        sa.Column("charged_down", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("charged_up", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("closed BETWEEN 0 AND 2", name=op.f("counter_line_closed_check")),
        sa.CheckConstraint(
            "down >= 0 AND up >= 0 AND charged_down >= 0 AND charged_up >= 0", name=op.f("counter_line_counts_check")
        ),
        sa.ForeignKeyConstraint(
            ["session_id"], ["session.id"], name=op.f("counter_line_session_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("counter_line_pkey")),
        postgresql_with=_HOT,
    )
    op.create_index(
        "counter_line_current_key",
        "counter_line",
        ["gateway_id", "mac", "ip"],
        unique=True,
        postgresql_where=sa.text("current"),
    )
    op.create_index(op.f("counter_line_session_id_idx"), "counter_line", ["session_id"], unique=False)
    # The two tables refer to each other.
    op.create_foreign_key(
        "network_click_plan_id_fkey", "network", "plan", ["click_plan_id"], ["id"], ondelete="SET NULL"
    )
